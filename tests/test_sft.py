"Supervised fine-tuning, for every family: the loss falls, and means, resuming and adapters are what they should be."

import errno
import json
import os
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from actrep_nb.families import FAMILIES
from actrep_nb.models import Sample, add_lora, encode, freeze, load_model, parts, see, spec_of
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.records import Clip
from actrep_nb.rollout import SamplingParams
from actrep_nb.loading import ClipExamples, Example, make_example, read_all
from actrep_nb.sft import (
    LEAST_EFFECT,
    CountSFTTrainer,
    completion_logprobs,
    batch_effect,
    blanked,
    load_to_train,
    sft_batch,
    start_from,
    torn,
    train_sft,
    training_arguments,
    video_effect,
    why_blind,
)
from actrep_nb.show import NotFinite, RunWarning, read_log
from actrep_nb.video import Frames, write_video
from rounding import REORDERED, steps_apart

SMALL = dict(hidden=32, layers=2, vision_hidden=32, vision_layers=2)
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {name: make_tiny_checkpoint(folder / name, family=name, **SMALL) for name in FAMILIES}


def drawn(model, processor, n=4):
    "Clips of noise of different lengths, as prompts, each with an answer of another length."
    rng, out = np.random.default_rng(0), []
    height, width = spec_of(processor).frame_size
    for k in range(n):
        frames = Frames(
            rng.integers(0, 255, (6 + 2 * k, height, width, 3), dtype=np.uint8), np.arange(6 + 2 * k) / 4, 4.0
        )
        prompt = encode(model, processor, Sample(Clip(video="any.mp4", action="squat", count=k), frames, "How many?"))
        out.append(
            make_example(processor, prompt, "<think>\n" + "rep1: 0.5s-1.5s, " * k + f"</think>\n<answer>{k}</answer>")
        )
    return out


def fit(model, examples, out, steps=20, batch=4, **more):
    return [row["loss"] for row in train_sft(model, examples, training_arguments(out, steps, batch, 1e-2, **more))]


@every_family
def test_the_loss_falls_on_a_handful_of_clips(checkpoint, tmp_path, family):
    model, processor = load_model(checkpoint[family], device="cpu")
    losses = fit(model, drawn(model, processor), tmp_path)
    assert losses[-1] < losses[0] / 3 and np.isfinite(losses).all()


@every_family
def test_log_probabilities_are_the_librarys(checkpoint, family):
    model, processor = load_model(checkpoint[family], device="cpu")
    examples = drawn(model, processor)
    for some in (examples, [Example(p, e.answer) for p, e in zip(see(model, [e.prompt for e in examples]), examples)]):
        batch = sft_batch(model, some)
        logps, entropy, mask = completion_logprobs(model, batch)
        with torch.no_grad():
            out = model(**batch)
        assert mask.sum(1).tolist() == [len(e.answer) for e in examples]
        assert steps_apart(-logps[mask].mean(), out.loss) <= REORDERED
        full = torch.log_softmax(out.logits[:, :-1][batch["labels"][:, 1:] != -100], -1)
        assert steps_apart(entropy[mask], -(full.exp() * full).sum(-1)) <= REORDERED


@every_family
def test_labels_are_the_answer_and_nothing_else(checkpoint, family):
    model, processor = load_model(checkpoint[family], device="cpu")
    examples = drawn(model, processor)
    batch = sft_batch(model, examples)
    for row, e in enumerate(examples):
        labelled = batch["labels"][row] != -100
        assert (
            batch["labels"][row][labelled].tolist() == e.answer.tolist() == batch["input_ids"][row][labelled].tolist()
        )
        assert (
            int(labelled.nonzero()[0]) == len(e.prompt.input_ids) and e.answer[-1] == processor.tokenizer.eos_token_id
        )
        assert batch["attention_mask"][row].sum() == len(e.prompt.input_ids) + len(e.answer)


def test_accumulated_batches_weigh_every_token_alike(checkpoint, tmp_path):
    "Answers of very different lengths, in one batch of four or in four of one: the same losses, and the same weights up to rounding."
    runs = {}
    for name, batch, more in [("whole", 4, {}), ("parts", 4, {"accumulation": 4})]:
        model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
        losses = fit(model, drawn(model, processor), tmp_path / name, 3, batch, optim="sgd", **more)
        runs[name] = losses, torch.cat([p.detach().flatten() for p in model.parameters()])
    assert steps_apart(runs["whole"][0], runs["parts"][0]) <= REORDERED
    assert steps_apart(runs["whole"][1], runs["parts"][1]) <= REORDERED


class Killed(Exception):
    pass


class DiesAt(CountSFTTrainer):
    "Dies in the middle of its fourth step."

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise Killed
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize("family, adapters", [*((name, False) for name in FAMILIES), ("qwen2_5_vl", True)])
def test_a_run_that_died_ends_like_one_that_did_not(checkpoint, tmp_path, monkeypatch, family, adapters):
    "Same log, same weights, although it died after its checkpoint and lines had been logged since."
    from actrep_nb import sft

    def run(out, resume=False):
        model, processor = load_model(checkpoint[family], device="cpu")
        torch.manual_seed(0)
        model = add_lora(model, rank=2) if adapters else model
        log = train_sft(
            model,
            drawn(model, processor),
            training_arguments(out, 6, 2, 1e-2, save_strategy="steps", save_steps=2),
            resume=resume,
        )
        return [(row["step"], row["loss"], row["lr"]) for row in log], torch.cat(
            [p.detach().flatten() for p in model.parameters()]
        )

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(sft, "CountSFTTrainer", DiesAt)
        with pytest.raises(Killed):
            run(tmp_path / "cut")
    assert [row["step"] for row in read_log(tmp_path / "cut" / "log.jsonl")] == [1, 2, 3]
    again = run(tmp_path / "cut", resume=True)
    assert json.dumps(again[0]) == json.dumps(whole[0]) and torch.equal(again[1], whole[1])


def test_a_complete_run_takes_no_further_step(checkpoint, tmp_path):
    "In the middle of an epoch, where the Trainer would go on to its end."

    def run(resume=False):
        model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
        torch.manual_seed(0)
        log = train_sft(
            model,
            drawn(model, processor),
            training_arguments(tmp_path, 3, 2, 1e-2, save_strategy="steps", save_steps=1),
            resume=resume,
        )
        return [(row["step"], row["loss"]) for row in log], torch.cat(
            [p.detach().flatten() for p in model.parameters()]
        )

    whole, again = run(), run(resume=True)
    assert len(whole[0]) == 3 and again[0] == whole[0] and torch.equal(again[1], whole[1])


def test_what_is_to_be_trained_is_said_when_loading(checkpoint, tmp_path):
    names = lambda model: {n for n, p in model.named_parameters() if p.requires_grad}
    model, _ = load_to_train(checkpoint["qwen2_5_vl"], "vision, merger", precision="bfloat16", attention="eager")
    assert (
        names(model)
        and not any("visual" in n for n in names(model))
        and model.dtype == torch.bfloat16
        and model.config._attn_implementation == "eager"
    )
    model, processor = load_to_train(checkpoint["qwen2_5_vl"], lora_rank=2)
    assert names(model) and all("lora_" in n for n in names(model))
    train_sft(
        model, drawn(model, processor), training_arguments(tmp_path, 2, 2, 1e-2), checkpoint=tmp_path / "adapters"
    )
    processor.save_pretrained(tmp_path / "adapters")
    further, _ = load_to_train(tmp_path / "adapters")
    assert names(further) and all("lora_" in n for n in names(further))
    with pytest.raises(ValueError, match="leaves nothing to train"):
        load_to_train(checkpoint["qwen2_5_vl"], ",".join(parts(load_model(checkpoint["qwen2_5_vl"])[0])))


@pytest.fixture(scope="module")
def kept(checkpoint, tmp_path_factory):
    "Three steps of two clips, with a checkpoint after each, and how to make them again."

    def go(out, start=checkpoint["qwen2_5_vl"], first=0, lr=1e-2, resume=True, steps=3, **more):
        model, processor = load_model(start, device="cpu")
        args = training_arguments(out, steps, 2, lr, save_strategy="steps", save_steps=1, **more)
        log = train_sft(
            model, drawn(model, processor)[first:], args, checkpoint=Path(out) / "checkpoint", resume=resume
        )
        return [(row["step"], row["loss"]) for row in log], torch.cat(
            [p.detach().flatten() for p in model.parameters()]
        )

    folder = tmp_path_factory.mktemp("kept") / "run"
    return folder, go(folder, resume=False), go


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(kept, tmp_path):
    "An optimiser's state that was cut short, and a schedule that is missing: the Trainer goes on without either."
    folder, whole, go = kept
    shutil.copytree(folder, tmp_path / "run")
    state = tmp_path / "run/checkpoint-3/optimizer.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    (tmp_path / "run/checkpoint-2/scheduler.pt").unlink()
    with pytest.raises(ValueError, match="checkpoint-2 is not whole: scheduler.pt is missing"):
        start_from(tmp_path / "run", str(tmp_path / "run/checkpoint-2"))
    with pytest.warns(RunWarning) as told:
        again = go(tmp_path / "run")
    said = " ".join(str(w.message) for w in told)
    assert (
        re.search(r"checkpoint-3 is not whole and is passed over: optimizer.pt has \d+ of \d+ bytes", said)
        and "checkpoint-2 is not whole and is passed over: scheduler.pt is missing" in said
    )
    assert again[0] == whole[0] and torch.equal(again[1], whole[1])
    assert [torn(tmp_path / f"run/checkpoint-{k}") for k in (1, 2, 3)] == [""] * 3, "what was torn is there anew"
    (tmp_path / "run/checkpoint-1/checkpoint.json").unlink()
    assert "checkpoint.json" in torn(tmp_path / "run/checkpoint-1")
    with pytest.raises(FileExistsError, match="up to checkpoint-3: go on from them with resume=True"):
        start_from(tmp_path / "run")
    assert start_from(tmp_path / "new") is start_from(tmp_path / "new", True) is None


def test_checkpoints_of_another_run_are_not_gone_on_from(kept, checkpoint, tmp_path, monkeypatch):
    folder, _, go = kept
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    other = make_tiny_checkpoint(tmp_path / "other", 1, **SMALL)
    for given, differs in (
        ({"lr": 2e-2}, "learning_rate: 0.01 there, 0.02 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"steps": 4}, "max_steps: 3 there, 4 now"),
        ({"start": other}, "model: "),
        ({"first": 1}, "data: "),
    ):
        with pytest.raises(FileExistsError, match="checkpoint-3 belongs to a run with other settings") as refused:
            go(folder, **given)
        assert differs in str(refused.value) and str(refused.value).count(" there, ") == 1
    monkeypatch.setattr("actrep_nb.sft.code_digest", lambda: "other")
    with pytest.raises(FileExistsError, match="code: .* there, other now.*named itself"):
        go(folder)
    with pytest.warns(RunWarning, match="other code"):
        go(folder, resume=str(folder / "checkpoint-3"))
    assert {p: p.read_bytes() for p in before if p.parent.name != "checkpoint" and p.name != "log.jsonl"} == {
        p: b for p, b in before.items() if p.parent.name != "checkpoint" and p.name != "log.jsonl"
    }


def test_a_disk_that_fills_up_in_a_checkpoint_leaves_the_one_before(kept, tmp_path, monkeypatch):
    _, whole, go = kept
    save = torch.save

    def full(what, path, *args, **kwargs):
        if "checkpoint-2" in str(path) and "optimizer" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return save(what, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="make room there.*checkpoint-2'"):
            go(tmp_path / "run", resume=False)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoint-1", "log.jsonl"]
    again = go(tmp_path / "run")
    assert again[0] == whole[0] and torch.equal(again[1], whole[1])


@every_family
@pytest.mark.parametrize("how", ["lora, recomputed", "recomputed", "mixed"])
def test_ways_to_train(checkpoint, tmp_path, family, how):
    "The loss falls each way; recomputing activations changes nothing; adapters leave the base alone."
    model, processor = load_model(checkpoint[family], device="cpu")
    examples = drawn(model, processor)
    base = {id(p): p.detach().clone() for p in model.parameters()}
    owned = list(model.parameters())
    trained = add_lora(model, rank=4) if "lora" in how else model
    more = dict(activation_checkpointing="recomputed" in how, precision="mixed" if how == "mixed" else "float32")
    losses = fit(trained, examples, tmp_path / "a", 6, **more)
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, base[id(p)]) for p in owned) == ("lora" in how)
    if how == "recomputed":
        other = load_model(checkpoint[family], device="cpu")[0]
        assert (
            steps_apart(fit(other, examples, tmp_path / "b", 6), losses) <= 4 * REORDERED
        )  # Adam makes more of a rounding where gradients are small


@every_family
def test_adapters_are_saved_alone_and_found_again(checkpoint, tmp_path, family):
    model, processor = load_model(checkpoint[family], device="cpu")
    examples = drawn(model, processor)
    lora = add_lora(model, rank=4)
    fit(lora, examples, tmp_path / "run", 5)
    lora.save_pretrained(tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "adapter").iterdir()}
    again, its_processor = load_model(tmp_path / "adapter", device="cpu")
    assert type(its_processor) is type(processor) and not (tmp_path / "adapter" / "config.json").exists()
    batch = sft_batch(lora, examples)
    with torch.no_grad():
        assert torch.equal(completion_logprobs(lora.eval(), batch)[0], completion_logprobs(again.eval(), batch)[0])


@every_family
def test_clips_are_seen_once_only_if_nothing_of_the_tower_is_trained(checkpoint, tmp_path, family):
    model, processor = load_model(checkpoint[family], device="cpu")
    write_video(tmp_path / "a.mp4", np.zeros((8, 64, 64, 3), np.uint8), 4)
    clips = [Clip(video=str(tmp_path / "a.mp4"), action="squat", count=1)]
    vision = ["vision", *FAMILIES[family].mergers]
    for frozen, once in [([], False), (["vision"], False), (vision, True)]:
        freeze(model, *frozen)
        (prompt,) = (e.prompt for e in read_all(ClipExamples(model, processor, clips), model)[0])
        assert (prompt.features is not None) == once and (prompt.pixels is None) == once
    lora = add_lora(model)
    (prompt,) = (e.prompt for e in read_all(ClipExamples(lora, processor, clips), lora)[0])
    assert prompt.features is not None, "adapters on the language model leave the tower alone"


@every_family
def test_from_imitation_to_rl(checkpoint, tmp_path, family):
    "A family's entry is enough for everything that follows: fine-tuning, rollout and GRPO, with features and with patches."
    from actrep_nb.grpo import shared_prefix_logprobs, train_grpo
    from actrep_nb.rollout import sample_group

    model, processor = load_model(checkpoint[family], device="cpu")
    examples = drawn(model, processor, 2)
    fit(model, examples, tmp_path / "sft", 3)
    for prompts in ([e.prompt for e in examples], see(model, [e.prompt for e in examples])):
        groups = sample_group(model, processor, prompts, 3, SamplingParams(8), seeds=range(len(prompts)))
        logps, _, mask = shared_prefix_logprobs(model, prompts, [[r.ids for r in group] for group in groups])
        for row, rollout in enumerate(r for group in groups for r in group):
            assert steps_apart(logps[row][mask[row]], rollout.logps) <= REORDERED, "what was sampled is what is trained"
    clips = [Example(p, clip=Clip(video="any.mp4", action="squat", count=k)) for k, p in enumerate(prompts)]
    log = train_grpo(
        model,
        processor,
        clips,
        training_arguments(tmp_path / "grpo", 2, 2, 1e-3),
        {"format": 1.0},
        group_size=3,
        params=SamplingParams(8),
    )
    assert len(log) == 2 and np.isfinite([row["loss"] for row in log]).all()


def test_a_model_that_is_frozen_whole_is_refused(checkpoint, tmp_path):
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    freeze(model, *parts(model))
    with pytest.raises(ValueError, match="every part of the model is frozen"):
        train_sft(model, drawn(model, processor), training_arguments(tmp_path, 1, 2, 1e-2))


@pytest.mark.parametrize(
    "fault, said",
    [
        ("loss", r"step 2: the loss is nan \(clips: (example \d, ){3}example \d; first seen in the loss"),
        ("weight", r"step 2: the loss is nan .*first seen in the weight model\.visual\.blocks\.1"),
        (
            "layer",
            r"step 2: the loss is nan .*first seen in the output of layer model\.language_model\.layers\.1\.mlp\.down_proj",
        ),
        ("gradient", r"step 2: the norm of the gradient is (nan|inf) .*first seen in the gradient at"),
        ("last step", r"after step 2: weights hold NaN or infinity: model\."),
    ],
)
def test_a_number_that_is_none_stops_the_run(checkpoint, tmp_path, monkeypatch, fault, said):
    "Nothing is saved of it; the checkpoint before it is whole, and the log is JSON. The Trainer would go on to the end, with NaN in every weight."
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    compute, layer = CountSFTTrainer.compute_loss, model.model.language_model.layers[1].mlp.down_proj

    def spoiled(self, *args, **kwargs):
        if self.state.global_step == 1 and model.training:
            if fault == "weight":
                with torch.no_grad():
                    model.model.visual.blocks[1].mlp.down_proj.weight[0, 0] = torch.inf
            if fault == "layer":
                layer.register_forward_hook(lambda module, given, out: out / 0)
            if fault == "gradient":
                layer.register_forward_hook(lambda module, given, out: out + (out * 0).abs().sqrt())
            if fault == "last step":
                self.optimizer.param_groups[0]["lr"] = 1e39
        return compute(self, *args, **kwargs) + (torch.nan if fault == "loss" and self.state.global_step == 1 else 0)

    monkeypatch.setattr(CountSFTTrainer, "compute_loss", spoiled)
    args = training_arguments(tmp_path, 2, 4, 1e-3, save_strategy="steps", save_steps=1)
    with pytest.raises(NotFinite, match=said) as stopped:
        train_sft(model, drawn(model, processor), args, checkpoint=tmp_path / "checkpoint")
    assert f"the last whole checkpoint is {tmp_path / 'checkpoint-1'}" in str(
        stopped.value
    ) and "Lower the learning rate, now 0.001" in str(stopped.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1", "log.jsonl"] and not torn(
        tmp_path / "checkpoint-1"
    )
    assert all(w.isfinite().all() for w in load_file(tmp_path / "checkpoint-1/model.safetensors").values())

    def no_number(text):
        raise ValueError(f"{text} is not JSON")

    rows = [
        json.loads(line, parse_constant=no_number)
        for line in [
            *(tmp_path / "log.jsonl").read_text().splitlines(),
            (tmp_path / "checkpoint-1" / "trainer_state.json").read_text(),
        ]
    ]
    assert rows[0]["step"] == 1 and rows[0]["loss"] > 0


def test_a_learning_rate_of_a_thousand_ends_at_once(checkpoint, tmp_path):
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    with pytest.raises(
        NotFinite, match=r"step \d: .*there is no earlier checkpoint. Lower the learning rate, now 1e\+30"
    ):
        train_sft(
            model, drawn(model, processor), training_arguments(tmp_path, 9, 4, 1e30), checkpoint=tmp_path / "checkpoint"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


# ---- does it look? ----------------------------------------------------------------------------------------------------


@pytest.fixture
def blinding(monkeypatch):
    "Makes every model blind: the tower runs, and what it saw is dropped, on all ways into the language model."

    def go():
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel
        from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextModel

        monkeypatch.setattr(
            torch.Tensor,
            "masked_scatter",
            lambda self, mask, source: self if source.ndim > 1 else torch.masked_scatter(self, mask, source),
        )
        for text_model in (Qwen3VLTextModel, Qwen3VLMoeTextModel):
            monkeypatch.setattr(text_model, "_deepstack_process", lambda self, hidden, mask, seen: hidden)

    return go


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_looks_and_one_that_does_not(checkpoint, blinding, family, dtype):
    model, processor = load_model(checkpoint[family], device="cpu", dtype=dtype)
    example = drawn(model, processor)[2]
    asked = {"pixels": example.prompt, "features": see(model, [example.prompt])[0]}
    assert all(video_effect(model, prompt, example.answer) > 3 * LEAST_EFFECT for prompt in asked.values())
    blinding()
    assert [video_effect(model, prompt, example.answer) for prompt in asked.values()] == [0.0, 0.0]


def test_the_effect_by_hand(checkpoint):
    "Against two forward passes of the library, with a grey video and with features that are alike."
    model, processor = load_model(checkpoint["qwen3_vl"], device="cpu")
    prompt, answer = (example := drawn(model, processor)[1]).prompt, example.answer
    seen = see(model, [prompt])[0]
    alike = replace(
        seen,
        features=seen.features.mean(0).repeat(len(seen.features), 1),
        deepstack=seen.deepstack.mean(1, keepdim=True).repeat(1, len(seen.features), 1),
    )
    pairs = [
        (prompt, replace(prompt, pixels=torch.full(prompt.pixels.shape, float(prompt.pixels.mean())))),
        (seen, alike),
    ]
    for whole, blank in pairs:
        with torch.no_grad():
            logps = [
                torch.log_softmax(
                    model(**sft_batch(model, [Example(p, answer)])).logits[0, -len(answer) - 1 : -1], -1
                ).gather(-1, answer[:, None])
                for p in (whole, blank)
            ]
        assert video_effect(model, whole, answer) == pytest.approx((logps[0] - logps[1]).abs().mean().item(), rel=1e-3)


def test_what_a_blind_model_is_fed(checkpoint, blinding):
    "No video in the batch, frames that are all alike, weights that are no numbers: each is told of."
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    example = drawn(model, processor)[0]
    batch = sft_batch(model, [Example(see(model, [example.prompt])[0], example.answer)])
    without = {k: v for k, v in batch.items() if k != "mm_encoder_outputs"}
    assert (
        batch_effect(model, batch) > 3 * LEAST_EFFECT
        and blanked(without) is without
        and batch_effect(model, without) == 0.0
    )
    black = replace(example.prompt, pixels=torch.full_like(example.prompt.pixels, -1.79))
    assert video_effect(model, black, example.answer) < LEAST_EFFECT
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    effect = video_effect(model, example.prompt, example.answer)
    assert np.isnan(effect) and "nan nats" in why_blind(effect) and "0 nats" in why_blind(0.0) and why_blind(0.1) == ""


def test_dropout_is_no_effect_and_comes_back(checkpoint, blinding):
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    example = drawn(model, processor)[0]
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.model.visual.eval()
    before, drawn_before = {name: m.training for name, m in model.named_modules()}, torch.get_rng_state()
    blinding()
    assert video_effect(model, example.prompt, example.answer) == 0.0
    assert {name: m.training for name, m in model.named_modules()} == before and torch.equal(
        torch.get_rng_state(), drawn_before
    )


@pytest.mark.parametrize("way", ["sft", "grpo"])
@pytest.mark.parametrize("blind", [False, True], ids=["looking", "blind"])
def test_the_first_step_says_whether_the_model_looks(checkpoint, blinding, tmp_path, way, blind):
    from actrep_nb.grpo import train_grpo

    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    examples = drawn(model, processor)
    if blind:
        blinding()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        args = training_arguments(tmp_path, 3, 4, 1e-3, accumulation=2)
        if way == "sft":
            log = train_sft(model, examples, args)
        else:
            log = train_grpo(
                model,
                processor,
                [Example(e.prompt, clip=Clip(f"{k}.mp4", "squat", k)) for k, e in enumerate(examples)],
                args,
                {"format": 1.0},
                group_size=2,
                params=SamplingParams(8),
                keep_samples=0,
            )
    said = [str(w.message) for w in told if w.category is RunWarning and "does not look" in str(w.message)]
    assert len(said) == blind and all("0 nats per token" in text and "video tokens" in text for text in said)
    assert (log[0]["video_effect"] == 0.0) if blind else (log[0]["video_effect"] > LEAST_EFFECT)
    assert not any("video_effect" in row for row in log[1:])


def test_a_clip_without_repetitions_is_not_looked_at(checkpoint, tmp_path, monkeypatch):
    "Of such a clip a model says the same when it is blank: the demo's model was called blind."
    from actrep_nb import grpo

    asked, (model, processor) = [], load_model(checkpoint["qwen2_5_vl"], device="cpu")
    monkeypatch.setattr(grpo, "look_once", lambda trainer, model, batch: asked.append(batch()))
    examples = drawn(model, processor)[:4]
    clips = [Clip(f"{k}.mp4", "squat", 3 * (k == 2)) for k in range(4)]
    grpo.train_grpo(
        model,
        processor,
        [Example(e.prompt, clip=c) for e, c in zip(examples, clips)],
        training_arguments(tmp_path, 1, 4, 1e-3),
        {"format": 1.0},
        group_size=2,
        params=SamplingParams(4),
        keep_samples=0,
    )
    looked = [[torch.equal(batch["pixel_values_videos"], e.prompt.pixels) for e in examples] for batch in asked]
    assert looked == [[False, False, True, False]]


def test_a_resumed_run_looks_again_and_leaves_the_log_as_it_is(kept, blinding, tmp_path):
    folder, _, go = kept
    shutil.copytree(folder, tmp_path / "run")
    before = (tmp_path / "run/log.jsonl").read_text()
    for k in (2, 3):
        shutil.rmtree(tmp_path / f"run/checkpoint-{k}")
    blinding()
    with pytest.warns(RunWarning, match="does not look"):
        go(tmp_path / "run")
    log = read_log(tmp_path / "run/log.jsonl")
    assert (
        json.loads(before.splitlines()[0]) == log[0]
        and len(log) == 3
        and log[0]["video_effect"] > LEAST_EFFECT
        and not any("video_effect" in row for row in log[1:])
    )
