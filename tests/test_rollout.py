"The rollout chapter: what a reader need not wade through."
import pytest
import torch

from actrep_nb.models import Sample, encode, load_model, make_tiny_checkpoint, see
from actrep_nb.records import Clip
from actrep_nb.rollout import shuffle_slots
from actrep_nb.video import Frames


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32), device="cpu")


@pytest.fixture(scope="module")
def prompt(loaded):
    "Twelve frames of noise, so that no two slots look alike."
    import numpy as np

    frames = Frames(np.random.default_rng(0).integers(0, 255, (12, 56, 56, 3)).astype(np.uint8), np.arange(12) / 4)
    return encode(*loaded, Sample(Clip(video="any.mp4", action="squat", count=2), frames, "How many?"))


def test_shuffling_moves_whole_slots_and_nothing_else(loaded, prompt):
    slots = lambda x: x.unflatten(0, (6, -1))  # noqa: E731
    mixed = shuffle_slots(prompt, torch.Generator().manual_seed(1))
    order = [next(i for i in range(6) if torch.equal(slots(prompt.pixels)[i], s)) for s in slots(mixed.pixels)]
    assert sorted(order) == list(range(6)) and order != list(range(6))
    assert torch.equal(mixed.position_ids, prompt.position_ids) and torch.equal(mixed.input_ids, prompt.input_ids)
    assert torch.equal(shuffle_slots(prompt, torch.Generator().manual_seed(1)).pixels, mixed.pixels)


def test_features_are_shuffled_like_the_pixels_they_come_from(loaded, prompt):
    seen = see(loaded[0], [prompt])[0]
    mixed = shuffle_slots(seen, torch.Generator().manual_seed(1))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mixed.features.unflatten(0, (6, -1)), seen.features.unflatten(0, (6, -1))[order]) and mixed.pixels is None
