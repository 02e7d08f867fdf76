"The GRPO chapter: what a reader need not wade through."

import json
import re
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, TrainerState

from actrep_nb.bench_grpo import _peak_bytes, bench_grpo, bench_trl
from actrep_nb.grpo import (
    IDLE_STEPS,
    RECIPES,
    Blocks,
    GRPOTrainer,
    IdleWarning,
    Recipe,
    _say_once,
    advantages,
    by_completion,
    by_budget,
    by_token,
    check_training,
    find_recipe,
    group_stats,
    kl_k3,
    overlong_penalty,
    policy_loss,
    score_groups,
    shared_prefix_logprobs,
    train_grpo,
    used,
    signs,
    why_idle,
    why_not_shared,
)
from actrep_nb.sft import token_logprobs
from actrep_nb.loading import ClipExamples, Example
from actrep_nb.models import Sample, add_lora, collate, encode, freeze, load_model, parts, see, spec_of, unwrapped
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.records import Clip
from actrep_nb.formats import save_clips
from actrep_nb.rewards import REWARDS
from actrep_nb.rollout import ModelEngine, Rollout, SamplingParams, placeholder_ids, sample_group
from actrep_nb.runs import run
from actrep_nb.sft import load_to_train, training_arguments
from actrep_nb.show import NotFinite, RunWarning, read_log
from actrep_nb.synth import make_dataset
from actrep_nb.tasks import TASKS
from actrep_nb.video import Frames, write_video
from rounding import REORDERED, STEP, steps_apart

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32)


@pytest.fixture
def loaded(tiny):
    return load_model(tiny, device="cpu")


def examples(pairs):
    "As the trainer takes them."
    return [Example(prompt, clip=clip) for clip, prompt in pairs]


def noise_pairs(model, processor, lengths=(12, 8)):
    "Prompts over videos of noise, of different lengths."
    pairs, size = [], spec_of(processor).frame_size
    for i, n in enumerate(lengths):
        frames = Frames(
            np.random.default_rng(i).integers(0, 255, (n, *size, 3)).astype(np.uint8), np.arange(n) / 4, 4.0
        )
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
    trainer = GRPOTrainer(
        *loaded,
        examples(pairs),
        training_arguments(tmp_path, 1, 2, 1e-3),
        {"listening": 1.0},
        group_size=4,
        shuffled_answers=3,
        params=SamplingParams(5),
    )
    trainer.train()
    told = seen_context[0]
    assert told["group_size"] == 4 and len(told["lengths"]) == len(told["completions"]) == 8
    assert [len(texts) for texts in told["shuffled"]] == [3, 3] and all(
        isinstance(t, str) for texts in told["shuffled"] for t in texts
    )
    assert [c.id for c in told["clips"][:4]] == [told["clips"][0].id] * 4 and len({c.id for c in told["clips"]}) == 2
    assert all(1 <= n <= 5 for n in told["lengths"])


def test_shuffled_frames_are_read_again(loaded, tmp_path, seen_context):
    films = [
        write_video(
            tmp_path / f"{k}.mp4", np.random.default_rng(k).integers(0, 255, (10 * k, 56, 56, 3), np.uint8), 7 + k
        )
        for k in (2, 3)
    ]
    clips = ClipExamples(*loaded, [Clip(str(film), "squat", 3) for film in films])
    options = dict(rewards={"listening": 1.0}, group_size=2, shuffled_answers=2, params=SamplingParams(6))
    for shuffle in ("frames", "slots"):
        GRPOTrainer(
            *loaded, clips, training_arguments(tmp_path / shuffle, 1, 2, 0.0), shuffle=shuffle, **options
        ).train()
    frames, slots = (told["shuffled"] for told in seen_context)
    assert [len(group) for group in frames] == [2, 2] and frames != slots
    with pytest.raises(ValueError, match="choose 'slots'"):
        GRPOTrainer(*loaded, clips, training_arguments(tmp_path, 1, 2, 0.0), shuffle="pixels", **options)
    with pytest.raises(ValueError, match="needs clips to read frames from"):
        GRPOTrainer(
            *loaded,
            examples(noise_pairs(*loaded)),
            training_arguments(tmp_path, 1, 2, 0.0),
            shuffle="frames",
            **options,
        )


def test_without_the_option_nothing_is_said_about_shuffled_frames(loaded, tmp_path, seen_context):
    GRPOTrainer(
        *loaded,
        examples(noise_pairs(*loaded)),
        training_arguments(tmp_path, 1, 2, 1e-3),
        {"listening": 1.0},
        group_size=2,
        params=SamplingParams(3),
    ).train()
    assert "shuffled" not in seen_context[0]


def said(text, n=3):
    return Rollout(torch.arange(n), torch.zeros(n), text)


def test_each_group_is_its_own_yardstick():
    clips = [Clip(video="a.mp4", action="", count=2), Clip(video="b.mp4", action="", count=5)]
    answer = "<think>\n</think>\n<answer>{}</answer>".format
    groups = [[said(answer(2)), said(answer(9))], [said(answer(5)), said(answer(5))]]
    judged = score_groups(groups, clips, {"exact": 2.0})
    assert [[r.advantage for r in g] for g in judged] == [[1.0, -1.0], [0.0, 0.0]]
    assert [[r.rewards["exact"] for r in g] for g in judged] == [[1, 0], [1, 1]]
    by_task = score_groups(groups, clips, replace(TASKS["counting"], rewards={"exact": 2.0}))
    assert [[r.reward for r in g] for g in by_task] == [[r.reward for r in g] for g in judged]
    stats = group_stats(judged, clips)
    assert stats["group/mixed"] == stats["group/all_right"] == stats["group/zero_std"] == 0.5


# ---- one flat stream ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def family(request, tmp_path_factory):
    return make_tiny_checkpoint(
        tmp_path_factory.mktemp(request.param) / "checkpoint",
        family=request.param,
        hidden=32,
        layers=3,
        vision_hidden=32,
    )


def answers(groups=2, lengths=(3, 11, 7, 1)):
    generator = torch.Generator().manual_seed(0)
    return [[torch.randint(300, 500, (n + g,), generator=generator) for n in lengths] for g in range(groups)]


def adapted(model):
    "LoRA with adapters that do something."
    model = add_lora(model, rank=2)
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05)
    return model


def probe(model, prompts, completions, shared, **options):
    "Log-probabilities, the loss and its gradient (in units of its largest entry), for answers that pull in all directions."
    model.zero_grad()
    logps, entropy, mask = shared_prefix_logprobs(model, prompts, completions, shared=shared, **options)
    pull = torch.linspace(-1, 1, len(logps))
    loss, _ = policy_loss(logps, logps.detach() - 0.05, pull, mask)
    loss.backward()
    gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    return logps.detach(), loss.detach(), gradient, entropy


def differences(a, b):
    "In steps of rounding, see `steps_apart`."
    return [steps_apart(x, y) for x, y in zip(a, b)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("seen", [False, True], ids=["vision-trained", "vision-frozen"])
def test_a_flat_stream_equals_repeated_rows(family, lora, checkpointing, seen):
    model, processor = load_model(family, device="cpu")
    prompts = [p for _, p in noise_pairs(model, processor)]
    if seen:
        freeze(model, "vision", "merger", *(["deepstack"] if "deepstack" in parts(model) else []))
        prompts = see(model, prompts)
    model = adapted(model) if lora else model
    if checkpointing:
        unwrapped(model).gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    stream, rows = (probe(model, prompts, answers(), shared) for shared in (True, False))
    assert max(differences(stream, rows)) <= REORDERED and stream[2].abs().max() > 1e-3
    if not (lora or seen):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parts(model)["vision"].parameters())


def test_bfloat16_differs_by_its_own_rounding(family):
    "The stream is no further from float32 than repeated rows are, both in bfloat16."
    exact, processor = load_model(family, device="cpu")
    prompts = [p for _, p in noise_pairs(exact, processor)]
    truth = probe(exact, prompts, answers(), True)[0]
    rough, _ = load_model(family, device="cpu", dtype=torch.bfloat16)
    stream, rows = (probe(rough, prompts, answers(), shared)[0] for shared in (True, False))
    error = [float((x - truth).abs().mean()) for x in (stream, rows)]
    assert error[0] < 1.5 * error[1] and error[1] < 0.1


def test_a_prompt_with_one_answer_and_groups_of_unequal_size(loaded):
    prompts, completions = [p for _, p in noise_pairs(*loaded)], answers()
    completions = [completions[0][:1], completions[1][:3]]
    assert max(differences(*(probe(loaded[0], prompts, completions, shared) for shared in (True, False)))) <= REORDERED


def test_answers_do_not_see_each_other(loaded):
    "Other sisters, other order: the log-probabilities of an answer stay."
    model, processor = loaded
    prompts, [group] = [noise_pairs(model, processor)[0][1]], answers(1)
    together = shared_prefix_logprobs(model, prompts, [group])[0]
    alone = shared_prefix_logprobs(model, prompts, [[group[1]]])[0]
    turned = shared_prefix_logprobs(model, prompts, [group[::-1]])[0]
    assert (
        steps_apart(together[1, :11], alone[0, :11]) <= REORDERED and steps_apart(together, turned.flip(0)) <= REORDERED
    )


def test_a_shared_cache_is_wrong_under_gradient_checkpointing_and_a_stream_is_not(loaded):
    "Trap: transformers drops the cache under checkpointing without a word; this is why prompts are not shared through one."
    model, processor = loaded
    prompt, [group] = noise_pairs(model, processor)[0][1], answers(1)
    truth = shared_prefix_logprobs(model, [prompt], [group], shared=False)[0][1, 1:11]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    batch = {k: v for k, v in collate(model, [prompt]).items() if k != "labels"}
    cache = model.model(**batch, use_cache=True).past_key_values
    position = (prompt.position_ids[:, -1:] + 1 + torch.arange(11))[:, None]
    states = model.model(
        input_ids=group[1][None], position_ids=position, past_key_values=cache, use_cache=True
    ).last_hidden_state
    by_cache = token_logprobs(model, states[0, :-1], group[1][1:], banned=placeholder_ids(model.config))[0]
    assert (by_cache - truth).abs().max() > 0.01
    assert steps_apart(shared_prefix_logprobs(model, [prompt], [group])[0][1, 1:11], truth) <= REORDERED


def test_the_vision_tower_runs_once_per_prompt(loaded):
    model, processor = loaded
    prompts, patches = [p for _, p in noise_pairs(model, processor)], []
    model.model.visual.register_forward_hook(
        lambda module, inputs, kwargs, out: patches.append(
            len(kwargs.get("hidden_states", inputs[0] if inputs else None))
        ),
        with_kwargs=True,
    )
    shared_prefix_logprobs(model, prompts, answers())
    assert patches == [sum(len(p.pixels) for p in prompts)]


def test_logits_in_chunks_are_the_same(loaded, monkeypatch):
    model, processor = loaded
    prompts = [p for _, p in noise_pairs(model, processor)]
    whole = probe(model, prompts, answers(), True)
    monkeypatch.setattr("actrep_nb.sft.CHUNK", 5 * model.config.text_config.vocab_size)
    assert max(differences(whole, probe(model, prompts, answers(), True))) <= REORDERED


@pytest.mark.parametrize("why", ["family", "window", "dropout", "eager"])
def test_what_cannot_be_shown_exact_is_repeated_and_said_once(tiny, tmp_path, why):
    if why == "family":
        tiny = make_tiny_checkpoint(tmp_path / "other", family="video_llama_3", hidden=32, layers=2, vision_hidden=32)
    model, processor = load_model(tiny, device="cpu")
    text = model.config.text_config
    if why == "window":
        text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    if why == "dropout":
        for layer in model.model.language_model.layers:
            layer.self_attn.attention_dropout = 0.1
        model.train()
    if why == "eager":
        text._attn_implementation = "eager"
    assert why_not_shared(model)
    if why in ("window", "dropout"):
        return
    prompts = [p for _, p in noise_pairs(model, processor)]
    _say_once.cache_clear()
    with pytest.warns(UserWarning, match="once per completion"):
        repeated = shared_prefix_logprobs(model, prompts, answers())[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(repeated, shared_prefix_logprobs(model, prompts, answers())[0])


def test_a_model_saved_after_grpo_is_an_ordinary_checkpoint(loaded, tmp_path):
    model, processor = loaded
    prompts = [p for _, p in noise_pairs(model, processor)]
    before = shared_prefix_logprobs(model, prompts, answers())[0]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert "branches" not in (tmp_path / "config.json").read_text()
    again, _ = load_model(tmp_path, device="cpu")
    assert torch.equal(shared_prefix_logprobs(again, prompts, answers(), shared=True)[0], before)


# ---- recipes --------------------------------------------------------------------------------------------------------

TRL_NAMES = {
    "grpo": dict(loss_type="grpo", beta=0.04, epsilon=0.2, use_bias_correction_kl=False),
    "dapo": dict(loss_type="dapo", epsilon=0.2, epsilon_high=0.28),
    "dr_grpo": dict(loss_type="dr_grpo", epsilon=0.2),
    "gspo": dict(loss_type="grpo", importance_sampling_level="sequence", epsilon=3e-4, epsilon_high=4e-4),
}


@pytest.fixture(scope="module")
def text_group(tmp_path_factory):
    "A tiny text model, one prompt, eight answers of unequal length, and advantages."
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder := tmp_path_factory.mktemp("text"))
    model = Qwen2ForCausalLM.from_pretrained(folder)  # TRL reads its reference model from the same place
    lengths = [3, 9, 5, 1, 12, 7, 12, 4]
    ids, mask = torch.randint(2, 50, (8, 12)), torch.arange(12) < torch.tensor(lengths)[:, None]
    prompt, pull = torch.randint(2, 50, (1, 6)).repeat(8, 1), torch.randn(8)
    return model, prompt, ids * mask, mask, pull


def text_logps(model, prompt, ids):
    logits = model(torch.cat([prompt, ids], 1)).logits[:, prompt.shape[1] - 1 : -1]
    return torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0]


@pytest.mark.parametrize("name", TRL_NAMES)
def test_losses_are_trls(name, text_group, tmp_path):
    "TRL's own `_compute_loss` on the same model and answers, as if sampled by a model a little different from this one."
    trl = pytest.importorskip("trl", reason="TRL is not installed: no second opinion on the loss")
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model, prompt, ids, mask, pull = text_group
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(50)}, "w2")),
        pad_token="w0",
        eos_token="w1",
    )
    args = trl.GRPOConfig(
        output_dir=str(tmp_path),
        num_generations=8,
        per_device_train_batch_size=8,
        max_completion_length=12,
        use_cpu=True,
        bf16=False,
        report_to="none",
        **TRL_NAMES[name],
    )
    trainer = trl.GRPOTrainer(
        model,
        lambda completions, **_: [0.0] * len(completions),
        args,
        Dataset.from_dict({"prompt": ["w3"] * 8}),
        processing_class=words,
    )
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        now = text_logps(model, prompt, ids)
        apart = 0.005 if name == "gspo" else 0.3  # each token by chance, and each answer as a whole
        old, reference = (
            now + apart * (torch.randn(now.shape, generator=generator) + torch.randn(8, 1, generator=generator))
            for _ in range(2)
        )
    theirs = trainer._compute_loss(
        trainer.model.train(),
        dict(
            prompt_ids=prompt,
            prompt_mask=torch.ones_like(prompt),
            completion_ids=ids,
            completion_mask=mask.long(),
            advantages=pull,
            old_per_token_logps=old,
            ref_per_token_logps=reference,
            num_items_in_batch=mask.sum(),
        ),
    )
    theirs_gradient = torch.cat([g.flatten() for g in torch.autograd.grad(theirs, list(model.parameters()))])
    recipe = RECIPES[name]
    ours, parts = policy_loss(
        text_logps(model, prompt, ids),
        old,
        pull,
        mask,
        recipe.weigh(mask, 12),
        recipe,
        reference if recipe.beta else None,
    )
    ours_gradient = torch.cat([g.flatten() for g in torch.autograd.grad(ours, list(model.parameters()))])
    assert (
        steps_apart(ours, theirs, float(pull.abs().max())) <= REORDERED
        and steps_apart(ours_gradient, theirs_gradient) <= REORDERED
    )
    assert parts["clip_fraction/low"] > 0 and parts["clip_fraction/high"] > 0, (
        "without clipping the comparison would miss the point"
    )


def test_advantages_are_trls():
    "TRL divides by the sample deviation plus 1e-4, and centres only when asked not to scale."
    pytest.importorskip("trl")
    rewards = torch.tensor([2.0, 0.5, 1.0, 1.0])
    theirs = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    assert (
        steps_apart(advantages(rewards.tolist(), scale=True), theirs) <= 8
    )  # a mean, a deviation and a division of four numbers; without the 1e-4 it is 1,000


def test_weights_of_the_recipes_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    assert by_completion(mask, 9)[:, 0].tolist() == [1 / 8, 1 / 4] and by_token(mask, 9)[1].tolist() == pytest.approx(
        [1 / 6, 1 / 6, 0, 0]
    )
    assert by_budget(mask, 9)[1].tolist() == pytest.approx([1 / 18, 1 / 18, 0, 0])


def test_distance_is_never_negative_and_right_on_average():
    logits = torch.randn(2, 30, dtype=torch.double)
    p, q = torch.log_softmax(logits, -1)
    assert (kl_k3(p, q) >= 0).all() and kl_k3(p, p).abs().max() == 0
    assert (p.exp() * kl_k3(p, q)).sum().item() == pytest.approx((p.exp() * (p - q)).sum().item())


def test_the_charge_for_length_rises_from_the_last_stretch_to_the_end():
    assert [overlong_penalty(n, 100, 0.2) for n in (1, 80, 90, 100)] == pytest.approx([0, 0, -0.5, -1])
    assert overlong_penalty(100, 100, 0.0) == 0


# ---- the trainer ----------------------------------------------------------------------------------------------------


@pytest.fixture
def letters():
    "A reward that an untrained model earns by chance: the share of answers' letters that are vowels."
    REWARDS["vowels"] = lambda completions, clips, **_: [sum(x in "aeiou" for x in t.lower()) / 10 for t in completions]
    yield {"vowels": 1.0}
    del REWARDS["vowels"]


def run_grpo(start, out, rewards, steps=3, lora=False, arguments=None, **options):
    model, processor = load_model(start, device="cpu")
    pairs = noise_pairs(model, processor, (8, 12, 8, 6))
    args = training_arguments(out, steps, 2, 1e-3, **(arguments or {}))
    options = dict(group_size=4, params=SamplingParams(8), keep_samples=1) | options
    return train_grpo(adapted(model) if lora else model, processor, examples(pairs), args, rewards, **options)


def untimed(log):
    return [{k: v for k, v in row.items() if "second" not in k} for row in log]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_logs(name, tiny, tmp_path, letters):
    recipe = replace(RECIPES[name], mask_truncated=False)
    log = run_grpo(tiny, tmp_path, letters, recipe=recipe)
    wanted = {
        "reward",
        "reward/vowels",
        "reward_std",
        "completion_length",
        "truncated",
        "entropy",
        "ratio_max",
        "clip_fraction/low",
        "clip_fraction/high",
        "kl/sampler",
        "kl/reference",
        "grad_norm",
        "group/mixed",
        "group/zero_std",
        "seconds/rollout",
        "seconds/score",
        "seconds/update",
        "tokens_per_second/rollout",
        "tokens_per_second/update",
    }
    assert len(log) == 3 and wanted <= set(log[0]) and all(row["grad_norm"] > 0 for row in log)
    assert (log[-1]["kl/reference"] > 0) == (recipe.beta > 0) and log[0][
        "kl/reference"
    ] <= 8 * STEP  # off by the rounding of exp(0) = 1; later ones are above 0.1
    assert ("reward/overlong" in log[0]) == (recipe.overlong > 0)


@pytest.mark.parametrize("lora", [False, True], ids=["frozen-copy", "adapters-off"])
def test_the_reference_is_the_model_before_training(lora, loaded, tiny, tmp_path, letters):
    model, processor = loaded
    pairs = noise_pairs(model, processor)
    prompts, completions = [p for _, p in pairs], answers()
    before = shared_prefix_logprobs(model, prompts, completions)[0].detach()
    trained = add_lora(model, rank=2) if lora else model
    trainer = GRPOTrainer(
        trained,
        processor,
        examples(pairs),
        training_arguments(tmp_path, 3, 2, 1e-2, warmup=0),
        letters,
        recipe="grpo",
        group_size=4,
        params=SamplingParams(8),
    )
    trainer.train()
    after = shared_prefix_logprobs(trained, prompts, completions)[0]
    assert (
        steps_apart(trainer.reference_logprobs(trained, prompts, completions), before) <= REORDERED
        and (after - before).abs().max() > 0.01
    )


def test_several_updates_use_the_same_answers_and_move_the_ratio(tiny, tmp_path, letters):
    recipe = replace(RECIPES["ours"], mask_truncated=False)
    log = run_grpo(tiny, tmp_path, letters, steps=6, updates=3, recipe=recipe)
    rewards, moved = [row["reward"] for row in log], [row["kl/sampler"] for row in log]
    assert rewards[0] == rewards[1] == rewards[2] != rewards[3] == rewards[4] == rewards[5]
    assert (
        max(moved[0], moved[3]) <= 8 * STEP and min(moved[2], moved[4]) > 0.01 and log[2]["ratio_max"] > 1.001
    )  # kl_k3 is off by the rounding of exp(0) = 1


def test_batches_come_back_for_each_update_and_every_clip_has_its_turn():
    blocks = Blocks(10, 4, 3, seed=0)
    order = list(blocks)
    assert len(blocks) == len(order) == 24 and order[:4] == order[4:8] == order[8:12] and len(set(order)) == 8
    blocks.set_epoch(1)
    assert list(blocks) != order
    with pytest.raises(ValueError, match="fewer than the 4"):
        Blocks(3, 4, 1, 0)


def test_groups_that_teach_nothing_are_replaced(loaded, tmp_path):
    "Only clip 1 ever gives answers that differ in reward; asked about clip 0, the trainer turns to it."
    REWARDS["only_one"] = lambda completions, clips, **_: [
        float(i % 2) if c.id == "1" else 0.0 for i, c in enumerate(clips)
    ]
    try:
        trainer = GRPOTrainer(
            *loaded,
            examples(noise_pairs(*loaded)),
            training_arguments(tmp_path, 1, 2, 1e-3),
            {"only_one": 1.0},
            recipe=replace(RECIPES["dapo"], overlong=0.0, resample=20),
            group_size=2,
            params=SamplingParams(3),
        )
        first, second = trainer.train_dataset
        batch = trainer.roll_out([first, first])
        assert [c.id for c in batch.clips] == ["1", "1"] and all(p is second.prompt for p in batch.prompts)
        assert all(any(r.advantage for r in group) for group in batch.groups)
    finally:
        del REWARDS["only_one"]


def test_accumulated_micro_batches_are_averaged_in_the_log(tiny, tmp_path, letters):
    log = run_grpo(tiny, tmp_path, letters, steps=2, arguments=dict(accumulation=2))
    assert len(log) == 2 and log[0]["grad_norm"] >= 0 and log[0]["seconds/update"] > 0


class UnequalAnswers(ModelEngine):
    "Answers of an untrained model only end with their budget; here it depends on the prompt."

    def generate(self, prompts, group_size, seeds=None):
        return [
            sample_group(
                self.model, self.processor, [p], group_size, SamplingParams(2 + int(p.grid_thw[0])), seeds=[seed]
            )[0]
            for p, seed in zip(prompts, seeds)
        ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_cut_into_passes_has_the_gradient_of_a_whole_one(name, tiny, tmp_path, letters):
    "Passes with answers of 5 to 8 tokens: averaging their means would weigh the tokens of short ones more."

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))

    gradients, recipe = [], replace(RECIPES[name], mask_truncated=False, resample=0)
    for accumulation in (1, 2, 4):
        model, processor = load_model(tiny, device="cpu")
        args = training_arguments(tmp_path, 1, 4, 1e-3, accumulation=accumulation, max_grad_norm=0.0)
        trainer = GRPOTrainer(
            model,
            processor,
            examples(noise_pairs(model, processor, (8, 12, 8, 6))),
            args,
            letters,
            recipe=recipe,
            group_size=4,
            engine=UnequalAnswers(model, processor),
            callbacks=[Keep()],
        )
        trainer.train()
    whole, *cut = gradients
    assert whole.abs().max() > 1e-3 and all(steps_apart(whole, g) <= REORDERED for g in cut)


def test_an_unknown_recipe_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="no recipe 'dappo', did you mean 'dapo'"):
        find_recipe("dappo")
    assert all(find_recipe(name) is recipe for name, recipe in RECIPES.items())


def test_the_experiment_takes_a_recipe_and_several_updates(tmp_path, letters):
    "05_grpo as it stands, from the shipped base; at a high temperature its answers end at different lengths, which dapo charges for."
    clips = make_dataset(tmp_path / "data", 6, size=56, fps=4, max_seconds=8)
    given = dict(
        model=str(ROOT / "data/tiny_base"),
        clips=str(clips),
        out=str(tmp_path / "out"),
        cache="",
        samples=0,
        steps=4,
        prompts=2,
        group_size=4,
        max_new_tokens=24,
        temperature=2.5,
        lr=1e-2,
    )
    with pytest.raises(Exception, match="did you mean 'dapo'"):
        run("05_grpo", tmp_path / "refused", given | {"recipe": "dappo"}, quiet=True)
    assert not (tmp_path / "out").exists(), "refused before any work"
    chosen = {
        "recipe": "dapo",
        "updates": 2,
        "steps": 1,
        "epochs": 1.2,
        "max_new_tokens": 0,
        "schedule": "constant",
        "warmup": 0.0,
        "rewards": "actrep_r1/count_hybrid=1,actrep_r1/count_format=1,video_r1/temporal=1",
        "shuffled_answers": 2,
        "shuffle": "frames",
    }
    done = run("05_grpo", tmp_path / "run", given | chosen, quiet=True)
    assert done.metrics["steps"] == 4 and done.metrics["max_new_tokens"] > 24, (
        "of 6 clips, 2 at a time; as long as the longest text about them"
    )
    log = read_log(tmp_path / "out" / "log.jsonl")
    assert (
        [row["step"] for row in log] == [1, 2, 3, 4]
        and log[0]["reward"] == log[1]["reward"]
        and "reward/overlong" in log[0]
    )
    assert {row["lr"] for row in log} == {1e-2} and {
        "reward/actrep_r1/count_hybrid",
        "reward/actrep_r1/count_format",
        "reward/video_r1/temporal",
    } <= set(log[0])
    assert all(log[k]["clip_fraction/low"] == log[k]["clip_fraction/high"] == 0 for k in (0, 2)), (
        "the first update is on policy"
    )
    assert any(log[k]["clip_fraction/low"] + log[k]["clip_fraction/high"] > 0 for k in (1, 3))


def first_cells(name, until=None, **given):
    "What the parameters cell of an experiment and the one after it define, in this process; or all cells up to the one that holds a text."
    cells = [
        "".join(c["source"])
        for c in json.loads((ROOT / f"nbs/experiments/{name}.ipynb").read_text())["cells"]
        if c["cell_type"] == "code"
    ]
    last = 1 if until is None else next(k for k, cell in enumerate(cells) if until in cell)
    defined = {}
    exec(cells[0], defined)
    assert set(given) <= set(defined)
    defined |= given
    for cell in cells[1 : last + 1]:
        exec(cell, defined)
    return defined


@pytest.mark.parametrize(
    "given, message",
    [
        ({"updates": 0}, "updates=0 must be at least 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"prompts": 0}, "prompts=0 must be at least 1"),
        ({"accumulation": 0}, "accumulation=0 must be at least 1"),
        ({"group_size": 0}, "group_size=0 must be at least 2"),
        ({"group_size": 1}, "compared with the others"),
        ({"updates": 2, "save_steps": 3}, "save_steps=3 must be a multiple of updates=2"),
        ({"save_steps": -1}, "save_steps=-1"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"rewards": "format"}, "write name=weight, e.g. format=0.5"),
        ({"rewards": "fromat=1"}, "did you mean 'format'"),
    ],
)
def test_the_experiment_refuses_before_any_work(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        first_cells("05_grpo", model=str(tmp_path / "not looked at"), out=str(tmp_path / "out"), **given)


def test_selection_refuses_before_any_work(tmp_path):
    for given, message in (({"rewards": "format"}, "e.g. format=0.5"), ({"group_size": 0}, "group_size=0")):
        with pytest.raises(ValueError, match=message):
            first_cells("04_select", clips=str(tmp_path / "no.jsonl"), out=str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["03_sft", "05_grpo"])
def test_the_experiments_read_lists_with_spaces_and_refuse_a_model_that_is_frozen_whole(tiny, tmp_path, name):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mp4", np.zeros((9, 56, 56, 3), np.uint8), 9)
    save_clips([Clip(str(tmp_path / "videos/a.mp4"), "squat", 0, ())], tmp_path / "train.jsonl")
    (tmp_path / "cot.jsonl").write_text(json.dumps({"video_id": "a", "cot": "<answer>0</answer>"}) + "\n")
    given = dict(model=str(tiny), out=str(tmp_path / "out")) | (
        {"data": str(tmp_path)} if name == "03_sft" else {"clips": str(tmp_path / "train.jsonl"), "samples": 0}
    )
    defined = first_cells(name, "load_to_train(", **given, freeze_parts=" vision, merger,")
    assert not any(p.requires_grad for part in ("vision", "merger") for p in parts(defined["model"])[part].parameters())
    with pytest.raises(ValueError, match="leaves nothing to train"):
        first_cells(name, "load_to_train(", **given, freeze_parts="vision,merger,language")


def test_grpo_that_can_teach_is_allowed():
    check_training(2, updates=3, save_steps=6, steps=1)
    check_training(8)


def test_log_probabilities_of_no_answers_are_refused(loaded):
    (_, first), (_, second) = noise_pairs(*loaded)
    answer = torch.tensor([300, 301])
    for prompts, answers, message in (
        ([], [], "at least one"),
        ([first], [], "1 prompts and 0 groups"),
        ([first, second], [[answer], []], "prompt 1 has no completions"),
        ([first], [[answer, answer[:0]]], "prompt 0 has a completion without tokens"),
    ):
        for shared in (True, False):
            with pytest.raises(ValueError, match=message):
                shared_prefix_logprobs(loaded[0], prompts, answers, shared)


def test_a_model_that_is_frozen_whole_cannot_train(loaded, tmp_path):
    freeze(loaded[0], *parts(loaded[0]))
    with pytest.raises(ValueError, match="every part of the model is frozen"):
        train_grpo(*loaded, examples(noise_pairs(*loaded)), training_arguments(tmp_path, 1, 2, 1e-3), {"format": 1.0})


RUN = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
import test_grpo as t
from transformers import TrainerCallback, TrainerState

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5: os.kill(os.getpid(), signal.SIGKILL)

t.REWARDS["vowels"] = lambda completions, clips, **_: [sum(x in "aeiou" for x in c.lower()) / 10 for c in completions]
train = t.GRPOTrainer.train
def killed(self, *args, **kwargs):
    self.add_callback(Killer())
    return train(self, *args, **kwargs)
t.GRPOTrainer.train = killed
t.run_grpo({tiny!r}, {out!r}, {{"vowels": 1.0}}, **t.LONG)
"""
LONG = dict(
    steps=8,
    updates=2,
    recipe=replace(RECIPES["dapo"], beta=0.1),
    shuffled_answers=2,
    arguments=dict(save_strategy="steps", save_steps=2),
)


def test_recomputed_activations_change_nothing(tiny, tmp_path, letters):
    "A layer that recomputes keeps no cache: sampling has to leave that mode, or it answers without having read the question."
    options = dict(params=SamplingParams(12), recipe=replace(RECIPES["ours"], mask_truncated=False))
    plain = run_grpo(tiny, tmp_path / "plain", letters, **options)
    recomputed = run_grpo(
        tiny, tmp_path / "recomputed", letters, **options, arguments=dict(activation_checkpointing=True)
    )
    for one, other in zip(plain, recomputed):
        assert (
            one["reward"] == other["reward"]
            and one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
            and one["grad_norm"] > 0
        )


def test_dropout_is_off_in_rollouts(tiny, tmp_path, letters):
    model, processor = load_model(tiny, device="cpu")
    model = get_peft_model(
        model, LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    assert why_not_shared(unwrapped(model.train())) == "it drops something at random"
    log = train_grpo(
        model,
        processor,
        examples(noise_pairs(model, processor)),
        training_arguments(tmp_path, 2, 2, 1e-4),
        letters,
        group_size=4,
        params=SamplingParams(8),
    )
    assert (
        all(row["ratio_max"] == pytest.approx(1, abs=1e-4) for row in log) and why_not_shared(unwrapped(model)) is None
    )


def test_modules_are_left_in_the_mode_they_were_in(tiny):
    model, processor = load_model(tiny, device="cpu")
    model.train()
    model.model.visual.eval()
    before = [m.training for m in model.modules()]
    sample_group(model, processor, [prompt for _, prompt in noise_pairs(model, processor)], 2, SamplingParams(4))
    assert [m.training for m in model.modules()] == before and len(set(before)) == 2


def test_equal_rewards_give_no_advantage_at_all():
    for scale in (False, True):
        for reward in (0.1, 0.7, 1 / 3, 1e6 + 0.1):
            for size in range(1, 12):
                assert advantages([reward] * size, scale) == [0.0] * size


def test_grpo_needs_answers_that_differ(tiny, tmp_path, letters):
    with pytest.raises(ValueError, match="above 0"):
        run_grpo(tiny, tmp_path, letters, params=SamplingParams(temperature=0))
    for temperature in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            check_training(2, temperature=temperature)


def test_samples_are_kept_however_many_updates(tiny, tmp_path, letters):
    run_grpo(tiny, tmp_path, letters, steps=9, updates=3, keep_samples=4)
    assert [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == [0, 6]


def test_adapters_go_on_where_they_were(tiny, tmp_path, letters):
    options = dict(lora=True, recipe=replace(RECIPES["grpo"]), arguments=dict(save_strategy="steps", save_steps=2))
    whole = run_grpo(tiny, tmp_path / "whole", letters, steps=4, **options)
    shutil.rmtree(tmp_path / "whole" / "checkpoint-4")
    assert json.dumps(
        untimed(run_grpo(tiny, tmp_path / "whole", letters, steps=4, resume=True, **options))
    ) == json.dumps(untimed(whole))


def test_a_killed_run_goes_on_to_the_same_end(tiny, tmp_path, letters):
    "SIGKILL after step 5, checkpoints every two; then every metric of every step is that of a run nobody disturbed."
    whole = run_grpo(tiny, tmp_path / "whole", letters, **LONG)
    program = RUN.format(tests=str(Path(__file__).parent), tiny=str(tiny), out=str(tmp_path / "killed"))
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == -signal.SIGKILL
    assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 4
    resumed = run_grpo(tiny, tmp_path / "killed", letters, resume=True, **LONG)
    assert json.dumps(untimed(resumed)) == json.dumps(untimed(whole)) and len(whole) == 8
    assert (tmp_path / "killed" / "samples.jsonl").read_text() == (tmp_path / "whole" / "samples.jsonl").read_text()


def test_a_checkpoint_in_the_middle_of_used_answers_is_refused(loaded, tmp_path):
    with pytest.raises(ValueError, match="multiple of updates"):
        GRPOTrainer(
            *loaded,
            examples(noise_pairs(*loaded)),
            training_arguments(tmp_path, 4, 2, 1e-3, save_strategy="steps", save_steps=3),
            {"format": 1.0},
            updates=2,
        )


# ---- what it saves --------------------------------------------------------------------------------------------------


def test_the_bench_measures_both_ways_and_finds_them_equal():
    found = bench_grpo(prompt_tokens=160, answer_tokens=8, repeats=1, hidden=32, layers=2, vision_hidden=32)
    assert set(found["phases"]) == {"prefill", "log-probabilities", "update"}
    assert all(
        found["largest_difference"][what] <= REORDERED * STEP * size
        for what, size in {"log-probabilities": 8, "loss": 1, "gradient": 1}.items()
    )
    assert all(phase["times_less_memory"] > 3 and phase["times_as_fast"] > 0 for phase in found["phases"].values())


def test_peak_memory_is_counted():
    "By hand: a product of two 1000x1000 float32 matrices and its sum."
    a = torch.randn(1000, 1000)
    assert _peak_bytes(lambda: (a @ a) + 1, torch.nn.Linear(1, 1)) == pytest.approx(8e6, rel=0.6)


def test_bench_grpo_takes_no_videos():
    from actrep_nb.cli import main

    assert main(["bench", "grpo", "--limit", "3"]) == 2


def test_a_group_costs_one_reading_of_its_video(loaded):
    "What makes it fast, counted and not timed: patches through the vision tower, tokens through the language model."
    model, processor = loaded
    ((_, prompt),) = noise_pairs(model, processor, (12,))
    answers, passed = [[torch.full((5,), 300) for _ in range(8)]], {}
    model.model.visual.register_forward_pre_hook(
        lambda m, args, kw: passed.__setitem__(
            "patches", passed["patches"] + len(args[0] if args else kw["hidden_states"])
        ),
        with_kwargs=True,
    )
    model.model.language_model.register_forward_pre_hook(
        lambda m, args, kw: passed.__setitem__("tokens", passed["tokens"] + kw["inputs_embeds"].shape[:2].numel()),
        with_kwargs=True,
    )
    for shared, times in ((True, 1), (False, 8)):
        passed.update(patches=0, tokens=0)
        shared_prefix_logprobs(model, [prompt], answers, shared)
        assert passed == {"patches": times * len(prompt.pixels), "tokens": times * len(prompt.input_ids) + 8 * 5}


def test_the_bench_meets_trl_on_a_text_prompt():
    pytest.importorskip("trl", reason="TRL is not installed: nothing to compare with")
    found = bench_trl(prompt_tokens=160, answer_tokens=8, repeats=1, hidden=32, layers=2, vision_hidden=32)
    assert (
        found["prompt"] == 160
        and all(1 <= n <= 8 for n in found["answers"])
        and set(found["phases"]) == {"rollout", "update"}
    )
    assert all(phase["times_less_memory"] > 2 and phase["times_as_fast"] > 0 for phase in found["phases"].values())


def test_without_trl_the_bench_says_what_to_install(monkeypatch, capsys):
    from actrep_nb.cli import main

    monkeypatch.setattr("actrep_nb.bench_grpo.find_spec", lambda name: None)
    assert main(["bench", "grpo", "--trl"]) == 1
    assert "pip install trl" in capsys.readouterr().err
    assert main(["bench", "video", "--trl"]) == 2


@pytest.mark.parametrize("reference", [False, True])
def test_mixed_precision_rounds_each_matrix_once_per_rollout_and_loses_no_gradient(
    tiny, tmp_path, monkeypatch, reference
):
    "Autocast keeps what it rounded, for the whole rollout. With the reference, nothing is apart before the first step."
    from torch.utils._python_dispatch import TorchDispatchMode

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, call, types, args=(), kwargs=None):
            if (
                call is torch.ops.aten._to_copy.default
                and kwargs.get("dtype") is torch.bfloat16
                and args[0].shape == (32, 96)
            ):
                casts.append(engine.at)
            return call(*args, **kwargs or {})

    class Told(ModelEngine):
        at = "update"

        def generate(self, *args):
            self.at = "rollout"
            made = super().generate(*args)
            self.at = "update"
            return made

    norms, casts = {}, []
    monkeypatch.setitem(REWARDS, "letters", lambda completions, clips, **_: [len(text) / 10 for text in completions])
    for precision in ("float32", "mixed"):
        args = training_arguments(tmp_path / precision, 1, 2, 1e-4, precision=precision)
        model, processor = load_to_train(tiny, "vision,merger", precision=precision, args=args)
        engine = Told(model, processor, SamplingParams(8))
        with Casts():
            log = train_grpo(
                model,
                processor,
                examples(noise_pairs(model, processor)),
                args,
                {"letters": 1.0},
                group_size=4,
                params=SamplingParams(8),
                engine=engine,
                recipe=Recipe(by_token, beta=0.1 * reference),
            )
        norms[precision] = log[0]["grad_norm"]
        assert abs(log[0]["ratio_max"] - 1) < 0.05 and log[0]["kl/reference"] < (
            1e-6 if precision == "float32" else 1e-4
        )
    assert casts.count("rollout") == 2, "one for each layer, however many tokens"
    assert norms["mixed"] == pytest.approx(norms["float32"], rel=0.3) and norms["mixed"] > 0.01


# ---- numbers that are none ------------------------------------------------------------------------------------------


def test_a_reward_that_is_no_number_is_named(tiny, tmp_path):
    REWARDS["broken"] = lambda completions, clips, **_: [
        float("nan") if k == 5 else 1.0 for k in range(len(completions))
    ]
    try:
        with pytest.raises(NotFinite, match=r"step 1: reward 'broken' gave nan for completion 5 \(clip '\d'\)"):
            run_grpo(tiny, tmp_path, {"broken": 1.0})
    finally:
        del REWARDS["broken"]


@pytest.mark.parametrize(
    "fault, said",
    [
        ("weights", r"after step 3: weights hold NaN or infinity: model\."),
        (
            "sampling",
            r"step 3: log-probabilities of sampled tokens are not finite: completion 0 of \d, completion 1 of \d",
        ),
        (
            "loss",
            r"step 3: the loss is nan \(clips: completion 0 of \d.*first seen in the output of layer model\.language_model\.layers\.1\.mlp\.down_proj",
        ),
    ],
)
def test_a_number_that_is_none_in_the_last_step_stops_the_run(tiny, tmp_path, letters, monkeypatch, fault, said):
    "The worst moment: no later step would show it, and the run would end done, with a checkpoint full of NaN."
    roll_out = GRPOTrainer.roll_out

    def spoiled(self, batch):
        layer, last = unwrapped(self.model).model.language_model.layers[1].mlp.down_proj, self.state.global_step == 2
        if last and fault == "weights":
            self.optimizer.param_groups[0]["lr"] = 1e39
        if last and fault == "sampling":
            with torch.no_grad():
                layer.weight.fill_(torch.nan)
        made = roll_out(self, batch)
        if last and fault == "loss":
            layer.register_forward_hook(lambda module, given, out: out / 0)
        return made

    monkeypatch.setattr(GRPOTrainer, "roll_out", spoiled)
    options = dict(
        checkpoint=tmp_path / "checkpoint",
        recipe=replace(RECIPES["ours"], mask_truncated=False),
        arguments=dict(save_strategy="steps", save_steps=1),
    )
    with pytest.raises(NotFinite, match=said) as stopped:
        run_grpo(tiny, tmp_path, letters, **options)
    assert f"{tmp_path / 'checkpoint-2'}" in str(stopped.value) or fault == "sampling"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2", "log.jsonl", "samples.jsonl"]
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match="group_size: 4 there, 2 now"):
        run_grpo(tiny, tmp_path, letters, resume=True, **options, group_size=2)
    assert len(run_grpo(tiny, tmp_path, letters, resume=True, **options)) == 3 and (tmp_path / "checkpoint").exists(), (
        "and goes on once the cause is gone"
    )


# ---- runs that cannot learn -----------------------------------------------------------------------------------------


def strict(path):
    "The lines of a file, as a reader takes them that knows no NaN."

    def no_number(text):
        raise ValueError(f"{text} is not JSON")

    return [json.loads(line, parse_constant=no_number) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_run_whose_answers_are_all_cut_off_says_so(tmp_path, capfd):
    "Case 15: nothing on the terminal or in the notebook said so, and the log held NaN."
    clips = make_dataset(tmp_path / "data", 6, size=56, fps=4, max_seconds=8)
    given = dict(
        model=str(ROOT / "data/tiny_base"),
        clips=str(clips),
        out=str(tmp_path / "out"),
        cache="",
        samples=8,
        steps=2,
        prompts=2,
        group_size=4,
        max_new_tokens=4,
    )
    done = run("05_grpo", tmp_path / "run", given)
    said = r"(all|9\d% of the) completions were cut off at max_new_tokens=4: nothing was learned.* \(2 of 2 steps, up to step 2\)"
    for text in (capfd.readouterr().err, done.notebook.read_text(), done.report.read_text()):
        assert re.search(said, text)
    log = strict(tmp_path / "out" / "log.jsonl")
    assert [row["entropy"] for row in log] == [None, None] and all(
        row["truncated"] > 0.8 and row["used"] == 0 for row in log
    )
    assert strict(tmp_path / "out" / "samples.jsonl")


@pytest.mark.parametrize("steps, warned", [(2, ["2 of 2"]), (7, ["5 of 5", "7 of 7"])])
def test_it_warns_after_five_steps_and_at_the_end(loaded, tmp_path, letters, steps, warned):
    "Of four tokens, none ends the answer."
    for again in range(2):  # the second run of a process warns too
        with pytest.warns(RunWarning, match="max_new_tokens=4") as record:
            trainer = GRPOTrainer(
                *loaded,
                examples(noise_pairs(*loaded)),
                training_arguments(tmp_path / str(again), steps, 2, 1e-3),
                letters,
                group_size=2,
                params=SamplingParams(4),
            )
            trainer.train()
        assert [
            re.search(r"\((\d+ of \d+) steps", str(w.message))[1] for w in record if w.category is RunWarning
        ] == warned
        assert [row.get("warning/cut off") for row in trainer.state.log_history if "used" in row] == [None] * min(
            4, steps
        ) + [1.0] * (steps - 4)


USUAL = {
    "truncated": 0.0,
    "used": 1.0,
    "group/zero_std": 0.0,
    "group/all_right": 0.0,
    "completion_length": 40.0,
    "entropy": 0.3,
    "reward": 1.2,
}
SHOWN = {
    "cut off": {"truncated": 1.0},
    "all right": {"used": 0.0, "group/zero_std": 1.0, "group/all_right": 1.0, "entropy": None},
    "all the same": {"used": 0.0, "group/zero_std": 1.0, "entropy": None},
    "too short": {"completion_length": 9.0},
    "too certain": {"entropy": 0.009},
}


def told_of(rows, monkeypatch, first=0):
    "What a callback warns of when it is shown these rows, each named by the sign that it shows."
    callback, state, told = (
        IdleWarning(lambda sign, row, length: f"{sign} {length:g}"),
        TrainerState(global_step=first, is_world_process_zero=True),
        [],
    )
    monkeypatch.setattr(warnings, "warn", lambda message, kind, **_: told.append(message))
    callback.on_train_begin(None, state, None)
    for name in rows:
        state.global_step += 1
        row = USUAL | SHOWN.get(name, {})
        callback.on_log(
            None, state, None, row | {f"warning/{sign}": 1.0 for sign in callback.note(row, state.global_step)}
        )
        callback.on_log(None, state, None, {"train_loss": 1.0})
    callback.on_train_end(None, state, None)
    return told


def test_the_rule_of_five_steps(monkeypatch):
    usual, same, short, end = [""], ["all the same"], ["too short"], "at the end of training: "
    assert IDLE_STEPS == 5 and told_of(same * 4 + usual + same * 4 + usual, monkeypatch) == []
    assert told_of(usual + same * 5 + usual, monkeypatch) == [
        "all the same 40 (5 of 6 steps, up to step 6)",
        end + "all the same 40 (5 of 7 steps, up to step 7)",
    ]
    assert told_of(same * 6 + usual + same * 7, monkeypatch) == [
        "all the same 40 (5 of 5 steps, up to step 5)",
        end + "all the same 40 (13 of 14 steps, up to step 14)",
    ], "once, and at the end"
    assert (
        told_of(same, monkeypatch) == [end + "all the same 40 (1 of 1 steps, up to step 1)"]
        and told_of(usual + same, monkeypatch) == []
    )
    assert told_of(same * 2, monkeypatch, first=40) == [end + "all the same 40 (2 of 2 steps, up to step 42)"], (
        "steps that nobody logged do not count"
    )
    assert [text.split(" 40 ")[0] for text in told_of(usual * 5 + short * 5 + ["too certain"] * 5, monkeypatch)] == [
        "too short",
        "too certain",
        end + "too certain",
        end + "too short",
    ]


@pytest.mark.parametrize("sign", SHOWN)
def test_what_a_row_shows_and_what_to_do_about_it(sign):
    row = USUAL | SHOWN[sign]
    assert signs(USUAL, 40.0) == set() and signs(row, 40.0) == {sign}
    said = why_idle(sign, row, SamplingParams(4, 0.5), 8, 40.0)
    assert {
        "cut off": "all completions were cut off at max_new_tokens=4: none came to its end. Raise max_new_tokens",
        "all right": "reward stands at its maximum (1.2): nothing was left to learn. Choose harder clips",
        "all the same": "earned the same (1.2): nothing was learned with group_size=8, temperature=0.5",
        "too short": "shrunk to 9 tokens, from 40",
        "too certain": "entropy is gone (0.009 nats per token)",
    }[sign] in said


def test_signs_at_their_edges():
    def shown(length=40.0, **given):
        return signs(USUAL | given, length)

    assert "75% of the completions were cut off at max_new_tokens=4: nothing was learned" in why_idle(
        "cut off", USUAL | {"truncated": 0.75, "used": 0.0}, SamplingParams(4, 0.5), 8
    )
    assert (
        shown(truncated=0.75, used=0.0) == {"cut off"}
        and shown(truncated=0.4, used=0.0) == {"all the same"}
        and shown(truncated=0.9, used=0.1) == set()
    )
    assert shown(completion_length=10.0) == set() == shown(length=4.0, completion_length=3.0) and shown(
        length=4.0, completion_length=2.9
    ) == {"too short"}
    assert shown(entropy=0.01) == set() == shown(entropy=None)
    assert shown(truncated=1.0, completion_length=2.0) == {"cut off"}, "with a budget of two tokens nothing has shrunk"


def test_answers_that_are_used():
    one, cut, flat = (
        replace(said("x"), advantage=a, truncated=t) for a, t in ((1.0, False), (1.0, True), (0.0, False))
    )
    assert (
        used([[one, cut], [flat, flat]], RECIPES["ours"]) == 0.25
        and used([[one, cut], [flat, flat]], RECIPES["dapo"]) == 0.5
    )


def test_groups_without_variance_are_told_of(loaded, tmp_path):
    REWARDS["same"] = lambda completions, clips, **_: [1.0] * len(completions)
    try:
        with pytest.warns(RunWarning, match=r"earned the same \(1\): nothing was learned with group_size=2"):
            GRPOTrainer(
                *loaded,
                examples(noise_pairs(*loaded)),
                training_arguments(tmp_path, 1, 2, 1e-3),
                {"same": 1.0},
                group_size=2,
                params=SamplingParams(300, temperature=5.0, stop_text="e"),
            ).train()
    finally:
        del REWARDS["same"]


def test_a_run_that_learns_is_silent(tiny, tmp_path, letters):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        log = run_grpo(
            tiny,
            tmp_path,
            letters,
            steps=6,
            recipe=replace(RECIPES["ours"], mask_truncated=False),
            params=SamplingParams(64, temperature=5.0),
        )
    assert all(row["used"] > 0 for row in log)
