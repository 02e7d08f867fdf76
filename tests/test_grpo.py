"The GRPO chapter: what a reader need not wade through."
from dataclasses import replace

import numpy as np
import pytest
import torch

from actrep_nb.grpo import GRPOTrainer, group_stats, judge
from actrep_nb.models import Sample, encode, load_model, make_tiny_checkpoint
from actrep_nb.records import Clip
from actrep_nb.rewards import REWARDS
from actrep_nb.rollout import Rollout
from actrep_nb.sft import training_arguments
from actrep_nb.tasks import TASKS
from actrep_nb.video import Frames


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32)


@pytest.fixture
def loaded(tiny):
    return load_model(tiny, device="cpu")


def noise_pairs(model, processor, lengths=(12, 8)):
    "Prompts over videos of noise, of different lengths."
    pairs = []
    for i, n in enumerate(lengths):
        frames = Frames(np.random.default_rng(i).integers(0, 255, (n, 56, 56, 3)).astype(np.uint8), np.arange(n) / 4)
        clip = Clip(video=f"{i}.mp4", action="squat", count=2 + i)
        pairs.append((clip, encode(model, processor, Sample(clip, frames, "How many?"))))
    return pairs


@pytest.fixture
def seen_context():
    "A reward that keeps what it was told."
    told = []

    def listening(completions, clips, **context):
        told.append({"completions": completions, "clips": clips} | context)
        return [float(i % 2) for i in range(len(completions))]

    REWARDS["listening"] = listening
    yield told
    del REWARDS["listening"]


# ---- judging --------------------------------------------------------------------------------------------------------

def test_rewards_are_told_lengths_group_size_and_answers_to_shuffled_frames(loaded, tmp_path, seen_context):
    pairs = noise_pairs(*loaded)
    trainer = GRPOTrainer(*loaded, pairs, training_arguments(tmp_path, 1, 2, 1e-3), {"listening": 1.0}, group_size=4, shuffled_answers=3, max_new_tokens=5)
    trainer.train()
    told = seen_context[0]
    assert told["group_size"] == 4 and len(told["lengths"]) == len(told["completions"]) == 8
    assert [len(texts) for texts in told["shuffled"]] == [3, 3] and all(isinstance(t, str) for texts in told["shuffled"] for t in texts)
    assert [c.id for c in told["clips"][:4]] == [told["clips"][0].id] * 4 and len({c.id for c in told["clips"]}) == 2
    assert all(1 <= n <= 5 for n in told["lengths"])


def test_without_the_option_nothing_is_said_about_shuffled_frames(loaded, tmp_path, seen_context):
    GRPOTrainer(*loaded, noise_pairs(*loaded), training_arguments(tmp_path, 1, 2, 1e-3), {"listening": 1.0}, group_size=2, max_new_tokens=3).train()
    assert "shuffled" not in seen_context[0]


def said(text, n=3):
    return Rollout(torch.arange(n), torch.zeros(n), text)


def test_each_group_is_its_own_yardstick():
    clips = [Clip(video="a.mp4", action="", count=2), Clip(video="b.mp4", action="", count=5)]
    answer = "<think>\n</think>\n<answer>{}</answer>".format
    groups = [[said(answer(2)), said(answer(9))], [said(answer(5)), said(answer(5))]]
    judged = judge(groups, clips, {"exact": 2.0})
    assert [[r.advantage for r in g] for g in judged] == [[1.0, -1.0], [0.0, 0.0]]
    assert [[r.rewards["exact"] for r in g] for g in judged] == [[1, 0], [1, 1]]
    by_task = judge(groups, clips, replace(TASKS["counting"], rewards={"exact": 2.0}))
    assert [[r.reward for r in g] for g in by_task] == [[r.reward for r in g] for g in judged]
    stats = group_stats(judged, clips)
    assert stats["group/mixed"] == stats["group/all_right"] == stats["group/zero_std"] == 0.5
