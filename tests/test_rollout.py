"The rollout chapter: what a reader need not wade through."

import numpy as np
import pytest
import torch

from actrep_nb.loading import Example
from actrep_nb.models import Sample, add_lora, encode, freeze, load_model, see, spec_of
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.records import Clip
from actrep_nb.rollout import (
    ModelEngine,
    RolloutEngine,
    RoomyLayer,
    SamplingParams,
    VllmEngine,
    choose_tokens,
    find_engine,
    kept_tail,
    merged_weights,
    placeholder_ids,
    sample_group,
    shuffle_slots,
    vllm_prompt,
)
from actrep_nb.video import Frames
from rounding import REORDERED, STEP, steps_apart


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(
        make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32),
        device="cpu",
    )


@pytest.fixture(scope="module")
def prompt(loaded):
    "Twelve frames of noise, so that no two slots look alike."
    frames = Frames(np.random.default_rng(0).integers(0, 255, (12, 56, 56, 3)).astype(np.uint8), np.arange(12) / 4, 4.0)
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
    assert (
        torch.equal(mixed.features.unflatten(0, (6, -1)), seen.features.unflatten(0, (6, -1))[order])
        and mixed.pixels is None
    )


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
    chosen, logps = choose_tokens(
        logits.clone(), SamplingParams(top_k=2), (), torch.rand(4000, generator=torch.Generator().manual_seed(0))
    )
    assert set(chosen.tolist()) == {0, 1} and (chosen == 0).float().mean().item() == pytest.approx(0.625, abs=0.03)
    assert steps_apart(logps, logits[0][chosen]) <= 8  # a softmax of four numbers


def test_a_stop_text_ends_an_answer_however_it_is_cut_into_tokens(loaded, prompt):
    "An untrained model that can only say the pieces of </b> stops when it has said them in order."
    model, processor = loaded
    pieces = processor.tokenizer("x</b>", add_special_tokens=False).input_ids
    assert len(pieces) > 2, "the point is a text of several tokens"
    allowed = torch.tensor(pieces)
    hook = model.lm_head.register_forward_hook(
        lambda m, i, out: torch.full_like(out, -1e9).index_fill(-1, allowed, 0.0)
    )
    group = sample_group(model, processor, [prompt], 6, SamplingParams(400, stop_text="</b>"), seeds=[0])[0]
    hook.remove()
    ended = [r for r in group if not r.truncated]
    assert ended and all(r.text.endswith("</b>") and r.text.count("</b>") == 1 for r in ended)
    assert all("</b>" not in r.text and len(r.ids) == 400 for r in group if r.truncated)


def test_an_answer_depends_on_its_own_seed_only(loaded):
    "Not on what else is in the batch, on the size of the group, or on who has finished."
    model, processor = loaded
    prompts = [
        encode(
            model,
            processor,
            Sample(
                Clip(f"{i}.mp4", "squat", 2),
                Frames(np.full((n, 56, 56, 3), 40 * i, np.uint8), np.arange(n) / 4, 4.0),
                "How many?",
            ),
        )
        for i, n in enumerate((4, 8, 6))
    ]
    stop = model.generation_config.eos_token_id
    hook = model.lm_head.register_forward_hook(
        lambda m, i, out: out.index_add(
            -1, torch.tensor([stop[0] if isinstance(stop, list) else stop]), torch.full((*out.shape[:-1], 1), 4.0)
        )
    )
    together = sample_group(model, processor, prompts, 4, SamplingParams(30), seeds=[7, 8, 7])
    alone = [
        sample_group(model, processor, [prompt], 4, SamplingParams(30), seeds=[seed])[0]
        for prompt, seed in zip(prompts, (7, 8, 7))
    ]
    others = sample_group(model, processor, prompts[:1], 4, SamplingParams(30), seeds=[9])[0]
    hook.remove()
    assert [[r.ids.tolist() for r in group] for group in together] == [
        [r.ids.tolist() for r in group] for group in alone
    ]
    assert len({len(r.ids) for r in together[0]}) > 1 and [r.text for r in others] != [r.text for r in together[0]]
    with pytest.raises(ValueError, match="1 seeds for 3 prompts"):
        sample_group(model, processor, prompts, 4, SamplingParams(30), seeds=[1])


def test_a_stop_text_may_be_of_any_script(loaded, prompt):
    model, processor = loaded
    for stop in ("✓", "完了"):
        pieces = processor.tokenizer(stop, add_special_tokens=False).input_ids
        hook = model.lm_head.register_forward_hook(
            lambda m, i, out, said=iter(pieces * 6): torch.full_like(out, -1e9).index_fill(
                -1, torch.tensor([next(said)]), 0.0
            )
        )
        group = sample_group(model, processor, [prompt], 1, SamplingParams(40, stop_text=stop))[0]
        hook.remove()
        assert (
            len(pieces) > len(stop)
            and group[0].text == stop
            and len(group[0].ids) == len(pieces)
            and not group[0].truncated
        )


def test_an_engine_gives_what_sample_group_gives(loaded, prompt):
    engine: RolloutEngine = ModelEngine(*loaded, SamplingParams(5, 0.7))
    ours = engine.generate([prompt], 3, [3])[0]
    direct = sample_group(*loaded, [prompt], 3, SamplingParams(5, 0.7), [3])[0]
    assert [r.ids.tolist() for r in ours] == [r.ids.tolist() for r in direct]


def test_sampling_at_a_temperature_writes_down_what_training_computes(loaded, prompt):
    from actrep_nb.grpo import shared_prefix_logprobs

    group = sample_group(*loaded, [prompt], 3, SamplingParams(9, 0.6, top_p=0.9), [0])[0]
    logps = shared_prefix_logprobs(loaded[0], [prompt], [[r.ids for r in group]], temperature=0.6)[0]
    assert steps_apart(logps, torch.stack([r.logps for r in group])) <= REORDERED


@pytest.mark.parametrize(
    "given",
    [
        {"group_size": 0},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
    ],
)
def test_numbers_with_which_nothing_can_be_drawn_are_refused(loaded, prompt, given):
    name, value = next(iter(given.items()))
    with pytest.raises(ValueError, match=f"{name}={value} must be"):
        sample_group(*loaded, [prompt], **given) if name == "group_size" else SamplingParams(**given)


def test_the_ends_of_what_can_be_drawn_are_allowed(loaded, prompt):
    for given in ({"temperature": 0}, {"top_p": 1e-9}, {"top_k": 1}):
        assert [len(r.ids) for r in sample_group(*loaded, [prompt], 1, SamplingParams(1, **given))[0]] == [1]


def test_every_prompt_has_its_seed_and_no_prompts_are_no_groups(loaded, prompt):
    assert sample_group(*loaded, []) == sample_group(*loaded, [], seeds=[]) == []
    for seeds in ([], [1, 2]):
        with pytest.raises(ValueError, match=f"{len(seeds)} seeds for 1 prompts"):
            sample_group(*loaded, [prompt], seeds=seeds)


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_room_for_tokens_changes_nothing_but_copies():
    "Beside transformers' own layer, through a prefill, repeated rows, more tokens than there is room for, and rows that leave."
    from transformers.cache_utils import DynamicLayer

    generator, kept = torch.Generator().manual_seed(0), torch.tensor([0, 2, 5])
    new = lambda rows, n: [torch.randn(rows, 2, n, 4, generator=generator) for _ in range(2)]  # noqa: E731
    ours, theirs, buffers = RoomyLayer(room=4), DynamicLayer(), []
    for layer_new, then in (
        [(new(2, 7), lambda layer: layer.batch_repeat_interleave(3))]
        + [(new(6, 1), None)] * 6
        + [(new(6, 1), lambda layer: layer.batch_select_indices(kept))]
        + [(new(3, 1), None)] * 3
    ):
        a, b = ours.update(*layer_new), theirs.update(*layer_new)
        assert all(torch.equal(x, y) for x, y in zip(a, b)) and ours.get_seq_length() == theirs.get_seq_length()
        buffers.append(a[0])  # kept, or its memory might be used again
        for layer in (ours, theirs) if then else ():
            then(layer)
    assert len({buffer.data_ptr() for buffer in buffers}) == 4, (
        "one copy at the start, one for the repeated rows, one when the room is full, one for those that stayed"
    )


# ---- other engines --------------------------------------------------------------------------------------------------


def with_adapters(model):
    "LoRA with adapters that do something."
    model, generator = add_lora(model, rank=2), torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.05
    return model


@pytest.fixture
def fresh(tmp_path):
    return load_model(
        make_tiny_checkpoint(tmp_path / "checkpoint", hidden=32, layers=2, vision_hidden=32), device="cpu"
    )


def test_adapters_are_added_in_and_the_model_stays_as_it_is(fresh):
    plain = {n: w.clone() for n, w in merged_weights(fresh[0])}
    adapted = with_adapters(fresh[0])
    before = {n: p.clone() for n, p in adapted.named_parameters()}
    merged = dict(merged_weights(adapted))
    assert all(torch.equal(p, before[n]) for n, p in adapted.named_parameters())
    truth = dict(adapted.merge_and_unload().named_parameters(remove_duplicate=False))
    assert list(merged) == list(plain) == list(truth) and all(steps_apart(merged[n], truth[n]) <= 8 for n in truth)
    assert sum(not torch.equal(merged[n], plain[n]) for n in plain) == 2 * 7, (
        "queries, keys, values, outputs and three of the MLP in each of two layers"
    )


def test_an_engine_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no engine 'vlm', did you mean 'vllm'"):
        find_engine("vlm")
    assert find_engine("model") is ModelEngine


def test_without_vllm_its_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr("actrep_nb.rollout.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install vllm"):
        find_engine("vllm")


def test_a_video_in_several_blocks_is_refused(tmp_path):
    model, processor = load_model(
        make_tiny_checkpoint(tmp_path, family="qwen3_vl", hidden=32, layers=2, vision_hidden=32), device="cpu"
    )
    frames = Frames(
        torch.zeros(8, *spec_of(processor).frame_size, 3, dtype=torch.uint8).numpy(), torch.arange(8).numpy() / 4, 4.0
    )
    with pytest.raises(ValueError, match="qwen3_vl writes one for each slot"):
        vllm_prompt(model.config, encode(model, processor, Sample(Clip("any.mp4", "squat", 2), frames, "?")), "a")


@pytest.fixture(scope="module")
def served():
    "The shipped base, trained and served; two prompts with slots of different length; and how the engine samples."
    pytest.importorskip("vllm", reason="vLLM is not installed: its engine is not tried")
    from pathlib import Path

    import numpy as np

    from actrep_nb.synth import draw_clip

    model, processor = load_model(Path(__file__).parents[1] / "data/tiny_base", device="cpu")
    drawn = [
        (draw_clip(a, n, seed=n, size=56, fps=fps, max_seconds=8), fps)
        for a, n, fps in (("squat", 2, 4), ("pull_up", 5, 3))
    ]
    samples = [
        Sample(Clip("any.mp4", d.action, d.count), Frames(d.pixels, np.arange(len(d.pixels)) / fps, fps), "How many?")
        for d, fps in drawn
    ]
    params = SamplingParams(40)
    engine = VllmEngine(model, processor, params, enforce_eager=True, max_model_len=512)
    return model, processor, [encode(model, processor, s) for s in samples], params, engine


def agree(engine, model, processor, prompts, **options):
    "Greedy answers and their log-probabilities, vLLM's against ours; returns the largest difference."
    engine.update(model)
    was, engine.sampling = engine.sampling, engine.sampling | {"temperature": 0.0}
    theirs, ours = (
        engine.generate(prompts, 1, [0] * len(prompts)),
        sample_group(model, processor, prompts, 1, SamplingParams(40, temperature=0, **options)),
    )
    engine.sampling = was
    assert [[r.ids.tolist() for r in g] for g in theirs] == [[r.ids.tolist() for r in g] for g in ours]
    assert [[(r.text, r.truncated) for r in g] for g in theirs] == [[(r.text, r.truncated) for r in g] for g in ours]
    return max(float((a.logps - b.logps).abs().max()) for g, h in zip(theirs, ours) for a, b in zip(g, h))


def test_vllm_answers_as_the_model_does_and_follows_it(served):
    "With pixels and with features; then after the weights have moved, and with adapters."
    model, processor, prompts, _, engine = served
    apart = [agree(engine, model, processor, prompts), agree(engine, model, processor, see(model, prompts))]
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    before = sample_group(model, processor, prompts, 1, SamplingParams(40, temperature=0))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data += 0.03 * p.abs().mean() * torch.randn(p.shape, generator=generator)
    apart.append(agree(engine, model, processor, prompts))
    assert not all(
        torch.equal(a[0].ids, b[0].ids)
        for a, b in zip(before, sample_group(model, processor, prompts, 1, SamplingParams(40, temperature=0)))
    )
    for n, p in model.named_parameters():
        p.data = kept[n]
    print("largest differences of log-probabilities:", apart)
    assert max(apart) <= 1e-4


def test_vllm_draws_the_same_with_the_same_seeds_and_never_a_placeholder(served):
    from actrep_nb.grpo import shared_prefix_logprobs

    model, processor, prompts, _, engine = served
    engine.update(model)
    a, b, c = (engine.generate(prompts, 4, seeds) for seeds in ([1, 2], [1, 2], [3, 4]))
    said = lambda groups: [[r.ids.tolist() for r in g] for g in groups]  # noqa: E731
    assert said(a) == said(b) != said(c) and len({str(r) for r in said(a)[0]}) > 1
    assert not set(placeholder_ids(model.config)) & {t for g in said(a) + said(c) for r in g for t in r}
    logps, _, mask = shared_prefix_logprobs(model, prompts, [[r.ids for r in g] for g in a])
    apart = (logps[mask] - torch.cat([r.logps for g in a for r in g])).abs().max().item()
    print("largest difference of sampled log-probabilities from training's:", apart)
    assert apart <= 1e-4


def test_vllm_stops_at_a_text(served):
    model, processor, prompts, _, engine = served
    was, engine.sampling = engine.sampling, engine.sampling | {"stop": ["Moments"]}
    assert agree(engine, model, processor, prompts, stop_text="Moments") <= 1e-4
    engine.sampling = was


def test_grpo_trains_with_vllm_and_adapters(served, tmp_path):
    "Two steps; the answers are scored again, so the first update's ratios are 1."
    from actrep_nb.grpo import train_grpo
    from actrep_nb.rewards import REWARDS
    from actrep_nb.sft import training_arguments

    model, processor, prompts, params, engine = served
    freeze(model, "vision", "merger")
    adapted = with_adapters(model)
    REWARDS["letters"] = lambda completions, clips, **_: [t.count("e") / 10 for t in completions]
    examples = [Example(p, clip=Clip(f"{i}.mp4", "squat", 2)) for i, p in enumerate(prompts)]
    log = train_grpo(
        adapted,
        processor,
        examples,
        training_arguments(tmp_path, 2, 2, 1e-2, warmup=0),
        {"letters": 1.0},
        engine=engine,
        group_size=4,
        recipe="dr_grpo",
        params=params,
    )
    assert all(
        row["grad_norm"] > 0 and row["ratio_max"] == pytest.approx(1, abs=1e-4) and row["kl/sampler"] <= 8 * STEP
        for row in log
    )
    assert agree(engine, adapted, processor, prompts) > 0
    del REWARDS["letters"]
