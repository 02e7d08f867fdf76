"A task's parts agree with each other, and with the clips it is for."

import math
from dataclasses import replace

import numpy as np
import pytest

from actrep_nb.answers import write_answer
from actrep_nb.cot import cot_from_cycles
from actrep_nb.formats import clips_from_rows, load_clips
from actrep_nb.records import Clip
from actrep_nb.rewards import COUNTED, REWARDS, mean_relative_accuracy
from actrep_nb.synth import make_questions
from actrep_nb.tasks import TASKS, task_of

CLIPS = [Clip(f"{k}.mp4", "squat", k, cycles=tuple((float(i), i + 1.0) for i in range(k))) for k in range(4)]
EVENTS = [
    Clip(f"e{k}.mp4", "squat", 1, cycles=((k + 1.0, k + 3.0),), extra={"task": "grounding", "problem": "squat"})
    for k in range(4)
]
OPTIONS = ["A. squat", "B. push_up", "C. sit_up", "D. pull_up"]
CHOICES = [
    Clip(
        f"c{k}.mp4",
        OPTIONS[k][3:],
        5,
        extra={"task": "choice", "problem": "Which?", "options": OPTIONS, "solution": "ABCD"[k]},
    )
    for k in range(4)
]
JUMPS = [
    Clip(
        f"j{k}.mp4",
        "",
        k,
        extra={
            "task": "dvd_counting",
            "problem": "How often does the ball jump?",
            "jumps": [[2.0 * i, "ball"] for i in range(k)],
        },
    )
    for k in range(4)
]
FOR = {"counting": CLIPS, "temporal_grounding": EVENTS, "multiple_choice": CHOICES, "dvd_counting": JUMPS}
SOLVED = {
    "numerical": ["3", "4.5", "1,200", "0"],
    "regression": ["10", "22.5", "400", "7"],
    "ocr": ["way out", "no entry", "stop", "open all day"],
    "free_form": ["A cup falls.", "The dog runs home.", "Nobody is there.", "It rains all night."],
}
FOR |= {
    kind: [
        Clip(
            f"{kind}{k}.mp4",
            "",
            0,
            extra={"task": kind, "problem": "What?", "solution": said, "process": f"<think>I see {k}.</think>"},
        )
        for k, said in enumerate(some)
    ]
    for kind, some in SOLVED.items()
}


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
    for name, task in TASKS.items():
        assert task.name == name and set(task.rewards) <= set(REWARDS)


def test_judging_the_wrong_clips_is_an_error():
    task = TASKS["counting"]
    predictions = [task.predict(clip, "") for clip in CLIPS]
    with pytest.raises(ValueError, match="3 predictions for 4"):
        task.judge(predictions[:3], CLIPS)
    with pytest.raises(ValueError, match="prediction 0 is about"):
        task.judge(predictions[::-1], CLIPS)


# ---- the parts of a task agree -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_text_to_learn_from_is_read_rewarded_and_judged_as_right(name):
    task, clips = TASKS[name], FOR[name]
    written = task.texts(clips, 0.5)
    assert [clip for clip, _ in written.kept] == clips and not written.rejected
    texts = [text for _, text in written.kept]
    best = {"counting": 2.5, "temporal_grounding": 1.0, "multiple_choice": 1.0}.get(
        name, 2.0
    )  # 1.5 + 1; ½ + ½; ½ + ½; 1 + 1
    assert task.reward(texts, clips)[0] == pytest.approx([best] * 4)
    predictions = [task.predict(clip, text) for clip, text in zip(clips, texts)]
    assert all(task.right(p, c) for p, c in zip(predictions, clips))
    judged = task.judge(predictions, clips)
    top = {"counting": "exact", "temporal_grounding": "miou", "dvd_counting": "exact"}.get(name, "accuracy")
    assert judged[top]["value"] == judged["parse_rate"]["value"] == 1


@pytest.mark.parametrize("name", TASKS)
def test_an_answer_to_another_clip_and_none_at_all_are_worth_less(name):
    task, clips = TASKS[name], FOR[name]
    texts = [text for _, text in task.texts(clips, 0.5).kept]
    right, swapped, silent = (sum(task.reward(some, clips)[0]) for some in (texts, texts[1:] + texts[:1], [""] * 4))
    assert silent < swapped < right
    predictions = [task.predict(clip, "") for clip in clips]
    assert (
        not any(task.right(p, c) for p, c in zip(predictions, clips))
        and task.judge(predictions, clips)["parse_rate"]["value"] == 0
    )


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_what_the_metrics_are_means_of(name):
    task, clips = TASKS[name], FOR[name]
    texts = [text for _, text in task.texts(clips, 0.5).kept]
    predictions = [task.predict(clip, text) for clip, text in zip(clips, [texts[0], texts[0], "", texts[3]])]
    judged, scores = task.judge(predictions, clips), task.scores(predictions, clips)
    shared = set(judged) & set(scores)
    assert {"parse_rate"} < shared
    for metric in shared:
        assert judged[metric]["value"] == pytest.approx(np.mean(scores[metric])), metric


def test_overlap_by_hand():
    "Said 2–5, true 1–3: one second of four."
    clip = EVENTS[0]
    said = TASKS["temporal_grounding"].predict(
        clip, '<think>x</think><answer>{"start_time": "2.0", "end_time": "5.0"}</answer>'
    )
    assert said.interval == (2.0, 5.0) and said.count is None
    assert TASKS["temporal_grounding"].judge([said], [clip])["miou"]["value"] == pytest.approx(0.25)
    assert not TASKS["temporal_grounding"].right(said, clip)


def test_options_are_read_with_the_clip_at_hand():
    task = TASKS["multiple_choice"]
    for said in ("B", "push_up", "B. push_up"):
        assert task.predict(CHOICES[1], f"<think>x</think><answer>{said}</answer>").choice == "B"
    assert task.predict(CHOICES[1], "<think>x</think><answer>E</answer>").choice is None


@pytest.mark.parametrize(
    "name, clip, reason",
    [
        ("temporal_grounding", replace(EVENTS[0], cycles=None), "0 events"),
        ("multiple_choice", replace(CHOICES[0], action=""), "no action"),
        ("multiple_choice", replace(CHOICES[0], extra=CHOICES[0].extra | {"solution": "E"}), "not-an-option: 'E'"),
        (
            "dvd_counting",
            replace(JUMPS[0], extra={k: v for k, v in JUMPS[0].extra.items() if k != "jumps"}),
            "not annotated what happens when",
        ),
    ],
)
def test_a_clip_that_no_text_can_be_written_for_is_rejected_with_its_reason(name, clip, reason):
    written = TASKS[name].texts([clip], 0.5)
    assert not written.kept and reason in written.rejected[0][1][0] and clip.id in written.rejected[0][1][0]


# ---- clips of another task -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("other", TASKS)
def test_a_clip_that_asks_something_else_is_refused_by_name_with_the_cure(name, other):
    task, clip = TASKS[name], FOR[other][1]
    if name == other:
        task.check(FOR[other])
        return
    ways = [
        lambda: task.ask(clip),
        lambda: task.messages(clip),
        lambda: task.texts([clip], 0.5),
        lambda: task.reward([""], [clip]),
        lambda: task.judge([task.predict(clip, "")], [clip]),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=rf"clip '{clip.id}'.*use the task '{other}'"):
            way()


@pytest.mark.parametrize(
    "name, clip, reason",
    [
        ("temporal_grounding", replace(EVENTS[0], cycles=None), "0 events"),
        ("temporal_grounding", replace(EVENTS[0], cycles=((0.0, 1.0), (2.0, 3.0))), "2 events"),
        ("multiple_choice", replace(CHOICES[0], extra=CHOICES[0].extra | {"solution": "E"}), "not-an-option"),
    ],
)
def test_a_clip_without_its_truth_is_refused_where_it_will_be_judged_only(name, clip, reason):
    TASKS[name].check([clip])
    with pytest.raises(ValueError, match=rf"clip '{clip.id}'.*{reason}"):
        TASKS[name].check([clip], judged=True)


def test_a_question_no_task_is_for_says_so():
    with pytest.raises(ValueError, match="asks for poem.*no task in TASKS is for it, or leave such clips out"):
        TASKS["counting"].check([Clip("x.mp4", "", 0, extra={"task": "poem"})])


def test_preparing_and_judging_refuse_before_anything_is_read():
    from actrep_nb.baselines import fitted_counters
    from actrep_nb.evaluate import evaluate, judge
    from actrep_nb.loading import ClipExamples

    with pytest.raises(ValueError, match="use the task 'temporal_grounding'"):
        fitted_counters(EVENTS)
    with pytest.raises(ValueError, match="use the task 'temporal_grounding'"):
        ClipExamples(None, None, EVENTS)
    with pytest.raises(ValueError, match="use the task 'multiple_choice'"):
        evaluate({}, CHOICES)
    with pytest.raises(ValueError, match="use the task 'counting'"):
        judge({"x": [TASKS["dvd_counting"].predict(CLIPS[0], "")]}, CLIPS[:1], task="dvd_counting")


# ---- with a real model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["temporal_grounding", "multiple_choice", "dvd_counting", "regression"])
def test_sft_grpo_and_evaluation_with_the_tiny_model(name, tmp_path):
    from actrep_nb.evaluate import LocalCounter, evaluate, load_predictions
    from actrep_nb.grpo import train_grpo
    from actrep_nb.models import freeze, load_model
    from actrep_nb.tiny_base import make_tiny_checkpoint
    from actrep_nb.loading import ClipExamples
    from actrep_nb.rollout import SamplingParams
    from actrep_nb.sft import train_sft, training_arguments

    task = TASKS[name]
    clips = load_clips(
        make_questions(tmp_path, "dvd_counting" if name == "regression" else task.asks, 4, workers=1),
        videos=tmp_path / "videos",
    )
    if name == "regression":
        clips = clips.of(
            replace(
                c,
                count=0,
                extra={"task": name, "problem": "How many?", "solution": str(c.count), "process": "I count them."},
            )
            for c in clips
        )
    model, processor = load_model(make_tiny_checkpoint(tmp_path / "tiny"), device="cpu")
    freeze(model, "vision", "merger")
    texts = [text for _, text in task.texts(clips, 0.5).kept]
    examples = ClipExamples(model, processor, clips, task=name, answers=texts)
    losses = train_sft(model, examples, training_arguments(tmp_path / "sft", 12, 4, 2e-3, adam_beta2=0.98))
    assert losses[-1]["loss"] < losses[0]["loss"]
    log = train_grpo(
        model,
        processor,
        ClipExamples(model, processor, clips, task=name),
        training_arguments(tmp_path / "grpo", 1, 2, 1e-4),
        task=task,
        group_size=2,
        params=SamplingParams(8),
    )
    assert {f"reward/{part}" for part in task.rewards} <= set(log[0]) and not examples.unread
    counter = LocalCounter(model, processor, task=name, params=SamplingParams(8))
    evaluation = evaluate({"one": counter, "two": counter}, clips, progress=False, task=name)
    assert all(low["value"] == low["lo"] == low["hi"] == 0 for low in evaluation.paired["two-one"].values())
    evaluation.save(tmp_path / "run")
    assert load_predictions(tmp_path / "run") == evaluation.predictions
    assert evaluation.results()["task"] == name and set(evaluation.table().columns) <= {
        "mIoU",
        "R@0.5",
        "accuracy",
        "MRA",
        "OBO",
        "exact",
        "MAE",
        "R²",
        "modal",
        "readable",
    }


def test_a_moment_that_overlaps_by_exactly_half_is_found():
    clip = Clip("e.mp4", "", 1, cycles=((0.1, 0.7),), extra={"task": "grounding", "problem": "squat"})
    task, missed = TASKS["temporal_grounding"], []
    for k in range(1, 30):
        clip = replace(clip, cycles=((k / 10, (k + 6) / 10),))
        said = task.predict(clip, write_answer((k / 10, (k + 3) / 10), "x"))
        if not task.right(said, clip) or not task.scores([said], [clip])["r@0.5"][0]:
            missed.append(k)
    assert not missed


@pytest.mark.parametrize("solution", ["b", "(B)", "push_up", "B. push_up"])
def test_reward_judge_and_text_read_a_solution_alike(solution):
    task, clip = TASKS["multiple_choice"], replace(CHOICES[1], extra={**CHOICES[1].extra, "solution": solution})
    text = task.write(clip, 0.1)
    said = task.predict(clip, text)
    assert said.choice == "B" and task.right(said, clip)
    assert task.reward([text], [clip])[0] == [1.0] and task.judge([said], [clip])["accuracy"]["value"] == 1


@pytest.mark.parametrize("name", ["temporal_grounding", "multiple_choice", "dvd_counting"])
def test_a_clip_without_its_question_is_named(name):
    clip = FOR[name][1]
    with pytest.raises(ValueError, match=f"clip '{clip.id}'.*lacks.*problem"):
        TASKS[name].ask(replace(clip, extra={k: v for k, v in clip.extra.items() if k != "problem"}))


def test_reward_and_judge_refuse_two_events():
    task, clip = TASKS["temporal_grounding"], replace(EVENTS[0], cycles=((1.0, 2.0), (3.0, 4.0)))
    for use in (
        lambda: task.reward(["x"], [clip]),
        lambda: task.judge([task.predict(clip, "x")], [clip]),
        lambda: task.ask(clip) and task.write(clip, 0.1),
    ):
        with pytest.raises(ValueError, match="2 events"):
            use()


def test_a_task_of_ones_own_counts_when_it_says_so():
    task = replace(
        TASKS["dvd_counting"],
        name="laps",
        asks="laps",
        prompt=lambda clip: "How many laps?",
        write=lambda clip, step: write_answer(clip.count, "Laps."),
    )
    clips = [Clip(f"s{k}.mp4", "swim", k, extra={"task": "laps"}) for k in range(1, 4)]
    texts = [text for _, text in task.texts(clips).kept]
    with pytest.raises(ValueError, match="add 'laps' to rewards.COUNTED"):
        task.reward(texts, clips)
    COUNTED.add("laps")
    try:
        assert task.reward(texts, clips)[0] == [2.0] * 3 and REWARDS["accuracy"](texts, clips) == [1.0] * 3
        assert task.judge([task.predict(c, t) for c, t in zip(clips, texts)], clips)["exact"]["value"] == 1
    finally:
        COUNTED.remove("laps")


# ---- several accepted counts, and Video-R1's questions -------------------------------------------------------------


def test_the_nearest_accepted_count_is_what_an_answer_is_compared_with():
    clip, task = Clip("a.mp4", "squat", 6, extra={"accepted": [6, 8]}), TASKS["counting"]
    said = [task.predict(clip, f"<think>a</think><answer>{n}</answer>") for n in (6, 7, 8, 9, 11)] + [
        task.predict(clip, "eight")
    ]
    scores = task.scores(said, [clip] * 6)
    assert (
        scores["exact"].tolist() == [1, 0, 1, 0, 0, 0]
        and scores["obo"].tolist() == [1, 1, 1, 1, 0, 0]
        and scores["abs_mae"].tolist() == [0, 1, 0, 1, 3, 6]
    )
    assert [task.right(p, clip) for p in said] == [True, False, True, False, False, False]
    assert (
        task.reward([p.text for p in said], [clip] * 6)[1]["count_hybrid"][:3]
        == task.reward([said[0].text, said[1].text, said[0].text], [Clip("a.mp4", "squat", 6)] * 3)[1]["count_hybrid"]
    )
    judged = task.judge(said, [clip] * 6)
    assert judged["exact"]["value"] == pytest.approx(2 / 6) and judged["modal_share"]["value"] == 0.2


VIDEO_R1 = [
    {
        "problem": "How many?",
        "problem_type": "numerical",
        "options": [],
        "solution": "<answer>12</answer>",
        "path": "n.mp4",
    },
    {
        "problem": "How large?",
        "problem_type": "regression",
        "options": [],
        "solution": "<answer>2.5</answer>",
        "path": "r.mp4",
    },
    {
        "problem": "What is written?",
        "problem_type": "OCR",
        "options": [],
        "solution": "<answer>way out</answer>",
        "path": "o.mp4",
    },
    {
        "problem": "What happens?",
        "problem_type": "free-form",
        "options": [],
        "solution": "<answer>A cup falls.</answer>",
        "path": "f.mp4",
    },
    {
        "problem": "Which?",
        "problem_type": "multiple choice",
        "options": ["A. one", "B. two"],
        "solution": "<answer>B</answer>",
        "path": "c.mp4",
    },
    {"video": "m.mp4", "question": "What falls?", "candidates": ["a cup", "a book"], "answer": "a book"},
]


@pytest.mark.parametrize("row", VIDEO_R1)
def test_every_question_finds_its_task(row):
    clips = clips_from_rows([row]).kept
    task, right = TASKS[task_of(clips)], str(clips[0].extra["solution"])
    said = [task.predict(clips[0], f"<think>Look.</think><answer>{text}</answer>") for text in (right, "zebra")] + [
        task.predict(clips[0], right)
    ]
    values = {name: row["value"] for name, row in task.judge(said, clips * 3).items()}
    assert values["accuracy"] == pytest.approx(1 / 3) and [task.right(p, clips[0]) for p in said] == [
        True,
        False,
        False,
    ]
    assert (
        row.get("problem", row.get("question")) in task.ask(clips[0])
        and task.reward([p.text for p in said], clips * 3)[0][0] > task.reward([p.text for p in said], clips * 3)[0][1]
    )
    with pytest.raises(ValueError, match="asks for"):
        TASKS["counting"].check(clips)


@pytest.mark.parametrize("seed", range(3))
def test_mean_relative_accuracy_against_vsi_benchs_code(seed):
    rng = np.random.default_rng(seed)
    for _ in range(700):
        true, said = (
            round(float(rng.uniform(0.1, 50)), int(rng.integers(0, 3))),
            round(float(rng.uniform(0, 60)), int(rng.integers(0, 3))),
        )
        error = abs(said - true) / true if true else math.inf
        if not true or min(abs(error - k / 20) for k in range(1, 11)) < 1e-9:
            continue  # at a threshold its floats decide
        tolerated = 1 - np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))
        assert mean_relative_accuracy(f"{said}", f"{true}") == pytest.approx(float(np.mean(error <= tolerated)))


def test_reasoning_that_came_with_a_row_is_learned_from():
    rows = [r | {"process": f"<think>I look at {r['path']}.</think>"} for r in VIDEO_R1[:4]]
    for row in rows:
        clips = clips_from_rows([row, VIDEO_R1[rows.index(row)] | {"path": "bare.mp4"}]).kept
        task = TASKS[task_of(clips)]
        texts = task.texts(clips)
        assert [text for _, text in texts.kept] == [
            write_answer(str(clips[0].extra["solution"]), f"I look at {row['path']}.")
        ] and "no reasoning came with it" in texts.rejected[0][1][0]
