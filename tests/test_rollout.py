"The rollout chapter: what a reader need not wade through."
import numpy as np
import pytest
import torch

from actrep_nb.models import Sample, encode, load_model, make_tiny_checkpoint, see
from actrep_nb.records import Clip
from actrep_nb.rollout import ModelEngine, RolloutEngine, choose_tokens, kept_tail, sample_group, shuffle_slots
from actrep_nb.video import Frames


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32), device="cpu")


@pytest.fixture(scope="module")
def prompt(loaded):
    "Twelve frames of noise, so that no two slots look alike."
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


# ---- choosing -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("top_p,top_k", [(0.9, 0), (0.3, 0), (1.0, 3), (0.8, 4), (1e-6, 0)])
def test_cut_tails_are_those_of_transformers(top_p, top_k):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logps = torch.log_softmax(torch.randn(50, 20, generator=torch.Generator().manual_seed(0)) * 2, -1)
    ours = kept_tail(logps, top_p, top_k).isfinite()
    theirs = TopPLogitsWarper(top_p)(None, logps)
    theirs = theirs.isfinite() & (TopKLogitsWarper(top_k)(None, logps).isfinite() if top_k else torch.tensor(True))
    assert torch.equal(ours, theirs)


def test_only_kept_tokens_are_drawn_and_their_logps_are_the_whole_distributions():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).repeat(4000, 1)
    chosen, logps = choose_tokens(logits.clone(), 1.0, (), torch.rand(4000, generator=torch.Generator().manual_seed(0)), top_k=2)
    assert set(chosen.tolist()) == {0, 1} and (chosen == 0).float().mean().item() == pytest.approx(0.625, abs=0.03)
    assert torch.allclose(logps, logits[0][chosen], atol=1e-6)


def test_a_stop_text_ends_an_answer_however_it_is_cut_into_tokens(loaded, prompt):
    "An untrained model that can only say the pieces of </b> stops when it has said them in order."
    model, processor = loaded
    pieces = processor.tokenizer("x</b>", add_special_tokens=False).input_ids
    assert len(pieces) > 2, "the point is a text of several tokens"
    allowed = torch.tensor(pieces)
    hook = model.lm_head.register_forward_hook(lambda m, i, out: torch.full_like(out, -1e9).index_fill(-1, allowed, 0.0))
    group = sample_group(model, processor, [prompt], 6, 400, seeds=[0], stop_text="</b>")[0]
    hook.remove()
    ended = [r for r in group if not r.truncated]
    assert ended and all(r.text.endswith("</b>") and r.text.count("</b>") == 1 for r in ended)
    assert all("</b>" not in r.text and len(r.ids) == 400 for r in group if r.truncated)


def test_an_answer_depends_on_its_own_seed_only(loaded):
    "Not on what else is in the batch, on the size of the group, or on who has finished."
    model, processor = loaded
    prompts = [encode(model, processor, Sample(Clip(f"{i}.mp4", "squat", 2), Frames(np.full((n, 56, 56, 3), 40 * i, np.uint8), np.arange(n) / 4), "How many?")) for i, n in enumerate((4, 8, 6))]
    stop = model.generation_config.eos_token_id
    hook = model.lm_head.register_forward_hook(lambda m, i, out: out.index_add(-1, torch.tensor([stop[0] if isinstance(stop, list) else stop]), torch.full((*out.shape[:-1], 1), 4.0)))
    together = sample_group(model, processor, prompts, 4, 30, seeds=[7, 8, 7])
    alone = [sample_group(model, processor, [prompt], 4, 30, seeds=[seed])[0] for prompt, seed in zip(prompts, (7, 8, 7))]
    others = sample_group(model, processor, prompts[:1], 4, 30, seeds=[9])[0]
    hook.remove()
    assert [[r.ids.tolist() for r in group] for group in together] == [[r.ids.tolist() for r in group] for group in alone]
    assert len({len(r.ids) for r in together[0]}) > 1 and [r.text for r in others] != [r.text for r in together[0]]
    with pytest.raises(ValueError, match="zip"):
        sample_group(model, processor, prompts, 4, 30, seeds=[1])


def test_an_engine_gives_what_sample_group_gives(loaded, prompt):
    engine: RolloutEngine = ModelEngine(*loaded, {"max_new_tokens": 5, "temperature": 0.7})
    ours = engine.generate([prompt], 3, [3])[0]
    direct = sample_group(*loaded, [prompt], 3, 5, 0.7, [3])[0]
    assert [r.ids.tolist() for r in ours] == [r.ids.tolist() for r in direct]


def test_sampling_at_a_temperature_writes_down_what_training_computes(loaded, prompt):
    from actrep_nb.grpo import shared_prefix_logprobs

    group = sample_group(*loaded, [prompt], 3, 9, 0.6, [0], top_p=0.9)[0]
    logps = shared_prefix_logprobs(loaded[0], [prompt], [[r.ids for r in group]], temperature=0.6)[0]
    assert torch.allclose(logps, torch.stack([r.logps for r in group]), atol=1e-4)
