"The learning chapters (models, sft, rollout, grpo): what a reader need not wade through."

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actrep_nb.cot import cot_from_cycles
from actrep_nb.grpo import RECIPES, GRPOTrainer, advantages, policy_loss, shared_prefix_logprobs, train_grpo
from actrep_nb.models import (
    Sample,
    add_lora,
    encode,
    frames_ahead,
    frames_for,
    load_model,
    make_sample,
    mrope_positions,
    see,
)
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.records import Clip
from actrep_nb.rollout import SamplingParams, choose_tokens, placeholder_ids, sample_group, sample_tokens
from actrep_nb.loading import ClipExamples, read_all
from actrep_nb.sft import train_sft, training_arguments
from actrep_nb.synth import ACTIONS, draw_clip, make_dataset
from actrep_nb.video import Frames, write_video
from rounding import REORDERED, steps_apart

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    out = []
    for action, count in [("squat", 2), ("pull_up", 5), ("sit_up", 0)]:
        drawn = draw_clip(action, count, seed=count)
        write_video(folder / f"{action}.mp4", drawn.pixels, drawn.fps)
        out.append(Clip(video=str(folder / f"{action}.mp4"), action=action, count=count, cycles=drawn.cycles))
    return out


@pytest.fixture
def loaded(tiny):
    return load_model(tiny, device="cpu")


# ---- time ----------------------------------------------------------------------------------------------------------


def test_positions_follow_the_frames_times_not_an_assumed_rate(loaded):
    "Trap 1: without metadata Qwen2.5-VL assumes 24 frames per second."
    model, processor = loaded
    pixels = np.zeros((16, 56, 56, 3), np.uint8)
    ids = {}
    for fps in (2.0, 4.0):
        frames = Frames(pixels, np.arange(16) / fps, fps)
        prompt = encode(model, processor, Sample(Clip(video="any.mp4", action="", count=0), frames, "?"))
        is_video = prompt.input_ids == model.config.video_token_id
        ids[fps] = prompt.position_ids[0, is_video] - prompt.position_ids[0, is_video][0]
        assert int(is_video.sum()) == 8 * 4, "a processor that resamples would change the number of slots"
    assert ids[2.0].tolist() == [2 * k for k in range(8) for _ in range(4)]
    assert ids[4.0].tolist() == [k for k in range(8) for _ in range(4)]


def test_reference_rule_continues_after_the_largest_position(loaded):
    "Trap 2, by hand: 2 text tokens, 3 slots of 2x2 one second apart (two positions), 2 text tokens."
    config = loaded[0].config
    v = config.video_token_id
    ids, grid = torch.tensor([1, 1] + [v] * 12 + [1, 1]), torch.tensor([3, 4, 4])
    got = mrope_positions(ids, grid, 1.0, config)
    assert got[0].tolist() == [0, 1] + [2] * 4 + [4] * 4 + [6] * 4 + [7, 8]
    assert got[1].tolist() == [0, 1] + [2, 2, 3, 3] * 3 + [7, 8]
    assert got[2].tolist() == [0, 1] + [2, 3, 2, 3] * 3 + [7, 8]
    assert mrope_positions(ids, grid, 1.0, config, rule="transformers")[:, -2:].tolist() == [[4, 5]] * 3


def test_half_second_slots_do_not_collapse(loaded):
    "Trap 5: an integer cast of the seconds per slot made all times equal above 2 fps."
    config = loaded[0].config
    ids = torch.tensor([1] + [config.video_token_id] * 16 + [1])
    assert len(set(mrope_positions(ids, torch.tensor([4, 4, 4]), 0.5, config)[0, 1:-1].tolist())) == 4


def test_wrong_number_of_video_tokens_is_an_error(loaded):
    config = loaded[0].config
    with pytest.raises(ValueError, match="video tokens"):
        mrope_positions(torch.tensor([1, config.video_token_id]), torch.tensor([3, 4, 4]), 0.5, config)


def test_a_window_is_read_from_its_start(loaded, clips):
    _, processor = loaded
    whole = frames_for(processor, clips[1])
    part = frames_for(processor, replace(clips[1], window=(2.0, 5.0)))
    assert part.times[0] == pytest.approx(0, abs=0.13) and part.times[-1] < 3.0
    first = int(np.argmin(abs(whole.times - 2.0)))
    assert np.abs(whole.pixels[first].astype(int) - part.pixels[0].astype(int)).mean() < 3


# ---- drawn clips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_and_count_can_be_drawn(action):
    for count in (0, 1, 12):
        drawn = draw_clip(action, count, seed=3, fps=4)
        assert drawn.count == count and len(drawn.pixels) / drawn.fps <= 16.01
        assert all(a < b for a, b in drawn.cycles) and all(
            x[1] <= y[0] + 1e-6 for x, y in zip(drawn.cycles, drawn.cycles[1:])
        )


def test_datasets_are_the_same_for_the_same_seed(tmp_path):
    a, b = (make_dataset(tmp_path / name, 4, seed=3, workers=1) for name in "ab")
    assert a.read_text() == b.read_text()
    for video in sorted((tmp_path / "a" / "videos").iterdir()):
        assert video.read_bytes() == (tmp_path / "b" / "videos" / video.name).read_bytes()
    assert make_dataset(tmp_path / "c", 4, seed=4, workers=1).read_text() != a.read_text()


# ---- supervised fine-tuning ----------------------------------------------------------------------------------------


def test_broken_clips_are_returned_with_reasons(loaded, clips, tmp_path):
    (tmp_path / "torn.mp4").write_bytes(Path(clips[0].video).read_bytes()[:300])
    (tmp_path / "text.mp4").write_text("not a video")
    bad = [Clip(video=str(tmp_path / name), action="squat", count=1) for name in ("torn.mp4", "text.mp4", "gone.mp4")]
    ready, failed = read_all(ClipExamples(*loaded, [bad[0], clips[0], *bad[1:], clips[1]]), loaded[0])
    assert [e.clip.id for e in ready] == ["squat", "pull_up"]
    assert [e.clip.id for e in failed] == ["torn", "text", "gone"]
    assert all(Path(e.clip.video).name in e.problem for e in failed)


def test_frames_are_read_ahead_but_not_all_at_once(loaded, clips):
    _, processor = loaded
    missing, taken = Clip(video="missing.mp4", action="squat", count=1, id="missing"), []
    given = [clips[0], missing, *clips[1:], *clips]
    read = frames_ahead(processor, (taken.append(c) or c for c in given), most=2)
    first, frames = next(read)
    assert first is clips[0] and len(frames.times) == len(frames.pixels) and len(taken) == 2
    rest = list(read)
    assert [c.id for c, _ in rest] == [c.id for c in given[1:]]
    assert "missing.mp4" in str(rest[0][1]) and isinstance(rest[0][1], Exception)


def test_loss_reaches_every_trained_part_and_no_frozen_one(loaded, clips, tmp_path):
    from actrep_nb.models import freeze

    model, processor = loaded
    freeze(model, "vision")
    before = {n: p.clone() for n, p in model.named_parameters()}
    examples = ClipExamples(model, processor, clips, answers=[cot_from_cycles(c, step=0.5) for c in clips])
    train_sft(model, examples, training_arguments(tmp_path, 2, 3, 1e-3))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any("merger" in n for n in moved) and any("language_model" in n for n in moved)
    assert not any("visual" in n and "merger" not in n for n in moved)


# ---- rollout -------------------------------------------------------------------------------------------------------


def test_placeholders_are_never_sampled(loaded):
    banned = placeholder_ids(loaded[0].config)
    logits = torch.zeros(64, loaded[0].config.text_config.vocab_size)
    logits[:, banned] = 50.0
    for temperature in (0, 1.0):
        chosen, logps = choose_tokens(
            logits.clone(),
            SamplingParams(temperature=temperature),
            banned,
            torch.rand(64, generator=torch.Generator().manual_seed(0)),
        )
        assert not set(chosen.tolist()) & set(banned) and torch.isfinite(logps).all()


def test_rows_that_leave_the_batch_do_not_disturb_the_others(loaded, clips):
    "Greedy answers alone and in a batch are the same, whatever finishes when."
    model, processor = loaded
    prompts = [encode(model, processor, make_sample(processor, c)) for c in clips]
    with torch.no_grad():  # make the end of the turn likely, so that rows end at different times
        model.lm_head.weight[model.generation_config.eos_token_id[0]] *= 3
    together = sample_tokens(model, prompts, 2, SamplingParams(24, temperature=0))
    for prompt, group in zip(prompts, together):
        alone = sample_tokens(model, [prompt], 1, SamplingParams(24, temperature=0))[0][0]
        for ids, logps in group:
            assert ids.tolist() == alone[0].tolist()
            assert steps_apart(logps, alone[1]) <= REORDERED


def test_sampled_frequencies_are_the_models(loaded):
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).repeat(20_000, 1)
    chosen, _ = choose_tokens(
        logits, SamplingParams(), (), torch.rand(20_000, generator=torch.Generator().manual_seed(1))
    )
    assert np.bincount(chosen) / 20_000 == pytest.approx([0.5, 0.3, 0.2], abs=0.015)


# ---- GRPO ----------------------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    assert advantages([3, 1, 1, 1]) == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert advantages([3, 1, 1, 1], scale=True) == pytest.approx(
        [1.5, -0.5, -0.5, -0.5], abs=1e-3
    )  # sample deviation 1
    assert advantages([2, 2]) == [0, 0] and np.isfinite(advantages([2, 2], scale=True)).all()


def test_policy_loss_against_a_loop():
    torch.manual_seed(0)
    logps, old, pull = torch.randn(5, 7) - 2, torch.randn(5, 7) - 2, torch.randn(5)
    mask = torch.rand(5, 7) < 0.7
    expected, n = 0.0, 0
    for i in range(5):
        for t in range(7):
            if mask[i, t]:
                ratio = float(torch.exp(logps[i, t] - old[i, t]))
                expected -= min(ratio * float(pull[i]), min(max(ratio, 0.8), 1.28) * float(pull[i]))
                n += 1
    assert steps_apart(policy_loss(logps, old, pull, mask)[0], expected / n) <= REORDERED


@pytest.mark.parametrize("lora", [False, True])
def test_shared_prompt_equals_repeated_rows(loaded, clips, lora):
    model, processor = loaded
    prompts = see(model, [encode(model, processor, make_sample(processor, c)) for c in clips])
    groups = sample_group(model, processor, prompts, 3, SamplingParams(14), seeds=range(len(prompts)))
    completions = [[r.ids[: 4 + 3 * i] for i, r in enumerate(group)] for group in groups]
    if lora:
        model = add_lora(model, rank=2)
        torch.manual_seed(0)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.05)

    def both(shared):
        model.zero_grad()
        logps, _, mask = shared_prefix_logprobs(model, prompts, completions, shared=shared)
        (logps * torch.linspace(-1, 1, len(logps))[:, None]).sum().backward()
        return logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    (a, grad_a), (b, grad_b) = both(True), both(False)
    assert a.abs().max() > 0.1 and steps_apart(a, b) <= REORDERED
    assert steps_apart(grad_a, grad_b) <= REORDERED


def grpo_run(tiny, clips, out, seed):
    model, processor = load_model(tiny, device="cpu")
    args = training_arguments(out, 3, 2, 1e-3, seed=seed)
    return train_grpo(
        model,
        processor,
        ClipExamples(model, processor, clips),
        args,
        {"count_hybrid": 1.0, "format": 0.5},
        group_size=4,
        params=SamplingParams(10),
        keep_samples=1,
    )


def test_the_same_seed_gives_the_same_run(tiny, clips, tmp_path):
    timed = lambda row: {k: v for k, v in row.items() if "seconds/" not in k and "second/" not in k}  # noqa: E731
    a, b, c = (grpo_run(tiny, clips, tmp_path / name, seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)])
    assert json.dumps([timed(r) for r in a]) == json.dumps([timed(r) for r in b]) != json.dumps([timed(r) for r in c])
    samples = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 and len(samples[0]["samples"]) == 4 and "true" in samples[0]


def test_truncated_answers_do_not_pull(tiny, clips, tmp_path):
    "Every answer of an untrained model is cut off; with mask_truncated the update is nothing."
    model, processor = load_model(tiny, device="cpu")
    ready, _ = read_all(ClipExamples(model, processor, clips[:1]), model)
    prompts = [e.prompt for e in ready]
    group = sample_group(model, processor, prompts, 4, SamplingParams(6), seeds=[0])[0]
    judged = [[replace(r, truncated=True, advantage=float(i) - 1.5) for i, r in enumerate(group)]]
    for masked in (True, False):
        trainer = GRPOTrainer(
            model,
            processor,
            ready,
            training_arguments(tmp_path, 1, 1, 1e-3),
            {"format": 1.0},
            recipe=replace(RECIPES["ours"], mask_truncated=masked),
        )
        loss, _ = trainer.group_loss(model, prompts, judged)
        model.zero_grad()
        loss.backward()
        size = sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
        assert (size == 0) == masked


# ---- what ships ----------------------------------------------------------------------------------------------------


def test_the_shipped_base_is_a_small_real_checkpoint():
    base = ROOT / "data" / "tiny_base"
    assert sum(p.stat().st_size for p in base.iterdir()) <= 8e6
    model, processor = load_model(base, device="cpu")
    assert (
        type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
        and type(processor).__name__ == "Qwen2_5_VLProcessor"
    )


def test_the_shipped_base_names_actions(tmp_path):
    from actrep_nb.tiny_base import DESCRIBE
    from actrep_nb.formats import load_clips
    from actrep_nb.rollout import generate_completions

    clips = load_clips(make_dataset(tmp_path, 20, seed=99, counts="uniform", workers=1), videos=tmp_path / "videos")
    model, processor = load_model(ROOT / "data" / "tiny_base", device="cpu")
    said = generate_completions(
        model, processor, [Sample(c, frames_for(processor, c), DESCRIBE) for c in clips], max_new_tokens=6
    )
    assert sum(text.startswith(f"Action: {c.action}.") for text, c in zip(said, clips)) >= 17


def test_the_base_can_be_made_again(tmp_path):
    "A short run of the notebook that makes the shipped base."
    from actrep_nb.runs import run

    small = dict(clips=12, held_out=4, first_steps=2, first_batch=4, steps=2, batch=4)
    result = run(ROOT / "nbs" / "experiments" / "01_tiny_base.ipynb", tmp_path, small)
    assert result.manifest.status == "done" and {"action_accuracy", "phase_accuracy", "loss"} <= set(result.metrics)
    load_model(tmp_path / "checkpoint", device="cpu")
