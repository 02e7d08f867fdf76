"A task's four parts agree with each other."
import pytest

from actrep_nb.cot import cot_from_cycles
from actrep_nb.records import Clip
from actrep_nb.rewards import REWARDS
from actrep_nb.tasks import TASKS

CLIPS = [Clip(f"{k}.mp4", "squat", k, cycles=tuple((float(i), i + 1.0) for i in range(k))) for k in range(4)]


def test_counting_end_to_end():
    task = TASKS["counting"]
    texts = [cot_from_cycles(clip) for clip in CLIPS]
    totals, parts = task.reward(texts, CLIPS)
    assert totals == [2.5] * 4 and set(parts) == {"count_hybrid", "format"}
    predictions = [task.predict(clip, text) for clip, text in zip(CLIPS, texts)]
    judged = task.judge(predictions, CLIPS)
    assert judged["exact"]["value"] == judged["cycles"]["f1"] == 1
    assert [turn["role"] for turn in task.messages(CLIPS[0], texts[0])] == ["user", "assistant"]
    assert "squat" not in str(task.messages(CLIPS[1]))


def test_every_task_names_known_rewards():
    for name, task in TASKS.items(): assert task.name == name and set(task.rewards) <= set(REWARDS)


def test_judging_the_wrong_clips_is_an_error():
    task = TASKS["counting"]
    predictions = [task.predict(clip, "") for clip in CLIPS]
    with pytest.raises(ValueError, match="3 predictions for 4"): task.judge(predictions[:3], CLIPS)
    with pytest.raises(ValueError, match="prediction 0 is about"): task.judge(predictions[::-1], CLIPS)
