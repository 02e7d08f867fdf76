"""Families of video models: positions in time, what the prompt says, features, parts, adapters.

What a reader need not wade through.
"""

import itertools
import json
import math
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from actrep_nb import models as chapter
from actrep_nb.families import FAMILIES, VIDEO, family_of
from actrep_nb.models import (
    Sample,
    add_lora,
    choose_spec,
    collate,
    device_of,
    encode,
    frames_for,
    freeze,
    load_model,
    mrope_positions,
    parts,
    plan_for,
    see,
    spec_of,
    trainable,
)
from actrep_nb.tiny_base import SPECIAL_TOKENS, make_tiny_checkpoint, tiny_config
from actrep_nb.records import Clip
from actrep_nb.spec import VideoSpec
from actrep_nb.video import FrameCache, Frames, VideoInfo, plan_frames, probe, write_video
from rounding import REORDERED, steps_apart

SMALL = dict(hidden=32, layers=2, vision_hidden=32, vision_layers=2)
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
every_family = pytest.mark.parametrize("family", FAMILIES)
every_qwen = pytest.mark.parametrize("family", QWEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return {name: make_tiny_checkpoint(folder / name, family=name, **SMALL) for name in FAMILIES}


@pytest.fixture
def loaded(checkpoint, family):
    return load_model(checkpoint[family], device="cpu")


def drawn(processor, frames=8, fps=4.0, seed=0):
    "Frames of noise, as large as the checkpoint wants them, and a question."
    height, width = spec_of(processor).frame_size
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    return Sample(
        Clip(video="any.mp4", action="squat", count=2), Frames(pixels, np.arange(frames) / fps, fps), "How many?"
    )


def forward(model, batch, **more):
    with torch.no_grad():
        return model(**{k: v for k, v in batch.items() if k != "labels"}, **more)


# ---- positions: the papers' rules by brute force, and the library's own function -----------------------------------


def by_hand(ids, grid, seconds, config, rule):
    "Token after token, as the papers tell it: three counters, a block of video restarts two of them in every row."
    video, merge = config.video_token_id, 2
    rows, columns = int(grid[1]) // merge, int(grid[2]) // merge
    step = {
        "qwen2_vl": 1.0,
        "qwen2_5_vl": seconds * getattr(config.vision_config, "tokens_per_second", 0),
        "qwen3_vl": 0.0,
    }[config.model_type]
    out, following, inside = [], 0, None
    for token in ids.tolist():
        if token != video:
            inside = None
            out.append((following,) * 3)
            following += 1
            continue
        if inside is None:
            inside, start = 0, following
        slot, place = divmod(inside, rows * columns)
        out.append((start + int(slot * step + 1e-6), start + place // columns, start + place % columns))
        inside += 1
        following = max(max(p) for p in out) + 1 if rule == "reference" else start + max(rows, columns)
    return np.array(out).T.tolist()


def prompts_of_all_shapes(config):
    "Token ids, grid and seconds per slot; Qwen3-VL has a block for each slot."
    v = config.video_token_id
    for slots, rows, columns, seconds in itertools.product((1, 3, 7), (1, 2), (2, 5), (0.25, 0.5, 1.0, 2.0)):
        area = rows * columns
        block = (
            [[20, 21, *[v] * area, 22] for _ in range(slots)]
            if config.model_type == "qwen3_vl"
            else [[v] * area * slots]
        )
        yield (
            torch.tensor([10, 11, 12, *itertools.chain(*block), 13, 14]),
            torch.tensor([slots, 2 * rows, 2 * columns]),
            seconds,
        )


@every_qwen
@pytest.mark.parametrize("rule", ["reference", "transformers"])
def test_positions_are_the_papers(loaded, rule):
    config = loaded[0].config
    for ids, grid, seconds in prompts_of_all_shapes(config):
        assert mrope_positions(ids, grid, seconds, config, rule).tolist() == by_hand(ids, grid, seconds, config, rule)


@every_qwen
def test_positions_are_the_librarys(loaded):
    "The rule called transformers is what the installed transformers computes."
    model, _ = loaded
    for ids, grid, seconds in prompts_of_all_shapes(model.config):
        kind = 2 * (ids == model.config.video_token_id).int()
        library, _ = model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=kind[None],
            video_grid_thw=grid[None].clone(),
            second_per_grid_ts=torch.tensor([seconds]),
        )
        assert mrope_positions(ids, grid, seconds, model.config, "transformers").tolist() == library[:, 0].tolist()


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_both_rules_agree_where_every_slot_is_a_picture(loaded):
    for ids, grid, seconds in prompts_of_all_shapes(loaded[0].config):
        assert torch.equal(
            *(mrope_positions(ids, grid, seconds, loaded[0].config, rule) for rule in ("reference", "transformers"))
        )


@every_qwen
def test_a_prompt_with_other_video_tokens_than_its_video_is_refused(loaded):
    with pytest.raises(ValueError, match="video tokens"):
        mrope_positions(
            torch.tensor([1, loaded[0].config.video_token_id]), torch.tensor([3, 4, 4]), 0.5, loaded[0].config
        )
    with pytest.raises(ValueError, match="rule='newest'"):
        mrope_positions(torch.tensor([1]), torch.tensor([3, 4, 4]), 0.5, loaded[0].config, rule="newest")


def test_slots_of_a_quarter_second_do_not_collapse(checkpoint):
    "Trap 5: transformers up to 5.17 cut the seconds per slot to a whole number, and every time above 2 fps was 0."
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    model.config.vision_config.tokens_per_second = 4
    prompt = encode(model, processor, drawn(processor, 16, fps=8.0))
    times = prompt.position_ids[0, prompt.input_ids == model.config.video_token_id]
    assert times.unique().tolist() == [int(times[0]) + k for k in range(8)]


# ---- what the model is told about time -----------------------------------------------------------------------------


@every_family
def test_frames_are_taken_as_they_are(loaded, family):
    "Trap 1: with metadata nothing is sampled again; Qwen3-VL's processor makes 4 of 16 frames without."
    model, processor = loaded
    assert encode(model, processor, drawn(processor, 16)).grid_thw[0] == 16 // FAMILIES[family].slot


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_the_trap_is_there_without_metadata(loaded):
    _, processor = loaded
    processor.video_processor.do_sample_frames = True  # as published
    pixels = torch.zeros(16, 3, 64, 64, dtype=torch.uint8)
    assert (
        processor(text=["<|video_pad|>"], videos=[pixels], do_resize=False, return_tensors="pt")["video_grid_thw"][0, 0]
        == 2
    )


@pytest.mark.parametrize("fps", [2.0, 4.0, 7.5])
def test_seconds_reach_the_model(checkpoint, fps):
    "Trap 1, what each family is told about frames at 2, 4 and 7.5 per second; the middle of two frames for Qwen3-VL."
    slots, told = np.arange(8) * 2 / fps, {}
    for name in FAMILIES:
        model, processor = load_model(checkpoint[name], device="cpu")
        prompt = encode(model, processor, drawn(processor, 16, fps))
        at = prompt.position_ids[0, prompt.input_ids == model.config.video_token_id]
        told[name] = (at - at[0]).unique().tolist(), processor.tokenizer.decode(prompt.input_ids)
    assert told["qwen2_vl"][0] == list(range(8))
    assert told["qwen2_5_vl"][0] == sorted({int(2 * s + 1e-6) for s in slots})
    assert [f"<{s + 0.5 / fps:.1f} seconds>" in told["qwen3_vl"][1] for s in slots] == [True] * 8
    assert [f"Time {k / fps:.1f}s:" in told["video_llama_3"][1] for k in range(16)] == [True] * 16


@pytest.mark.parametrize("family", ["qwen3_vl", "video_llama_3"])
def test_uneven_frames_keep_their_own_times(loaded):
    "Times are the frames', not multiples of a rate."
    model, processor = loaded
    sample = drawn(processor, 8)
    times = np.array([0.0, 0.3, 0.5, 0.8, 1.0, 1.3, 4.0, 4.4])
    text = processor.tokenizer.decode(
        encode(model, processor, replace(sample, frames=Frames(sample.frames.pixels, times, 4.0))).input_ids
    )
    wanted = (
        ["<0.1 seconds>", "<0.7 seconds>", "<1.1 seconds>", "<4.2 seconds>"]
        if "<" in text.split("user\n")[1][:1]
        else [f"Time {t:.1f}s:" for t in times]
    )
    assert all(words in text for words in wanted), text


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_a_video_has_no_second_pair_of_marks(loaded):
    """As in transformers 4.57, with which Qwen3-VL was published: a time, then a picture between its marks; nothing
    around them all.
    """
    model, processor = loaded
    text = processor.tokenizer.decode(encode(model, processor, drawn(processor, 8)).input_ids)
    assert VIDEO in processor.chat_template and text.count("<|vision_start|>") == text.count("<|vision_end|>") == 4
    assert text.split("user\n")[1].startswith("<0.1 seconds><|vision_start|><|video_pad|>")


# ---- one batch, with patches or features ---------------------------------------------------------------------------


@every_family
def test_seen_first_or_inside_the_forward_pass(loaded, family):
    "Also with clips of different lengths; for Qwen3-VL the features of the depths matter."
    model, processor = loaded
    prompts = [encode(model, processor, drawn(processor, n, seed=n)) for n in (8, 12)]
    seen = see(model, prompts)
    direct, cached = (forward(model, collate(model, some)).logits for some in (prompts, seen))
    assert steps_apart(direct, cached) <= REORDERED
    assert all(p.features is not None and p.pixels is None for p in seen)
    if "deepstack" in FAMILIES[family].mergers:
        assert seen[0].deepstack.shape == (2, *seen[0].features.shape)
        shallow = [replace(p, deepstack=torch.zeros_like(p.deepstack)) for p in seen]
        assert (forward(model, collate(model, shallow)).logits - direct).abs().max() > 1e-3
        swapped = [replace(p, deepstack=p.deepstack.flip(0)) for p in seen]
        assert (forward(model, collate(model, swapped)).logits - direct).abs().max() > 1e-3


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_that_is_not_padding(loaded, side):
    model, processor = loaded
    prompts = [encode(model, processor, drawn(processor, n, seed=n)) for n in (8, 14)]
    answers = [torch.tensor([20, 21, 22]), torch.tensor([23])]
    batch = collate(model, prompts, answers, side)
    together = forward(model, batch).logits
    for row, (prompt, answer) in enumerate(zip(prompts, answers)):
        alone = forward(model, collate(model, [prompt], [answer], side)).logits[0]
        assert steps_apart(together[row][batch["attention_mask"][row].bool()], alone) <= REORDERED


@every_family
def test_decoding_step_by_step_is_the_full_forward(loaded, family):
    """Trap 3: positions go on from the last one of the prompt.

    The library's `rope_deltas` would lead elsewhere (Qwen2-VL, Qwen2.5-VL).
    """
    model, processor = loaded
    processor.video_processor.position_rule = "transformers"
    prompt = encode(model, processor, drawn(processor, 64))
    answer = torch.randint(10, 500, (6,), generator=torch.Generator().manual_seed(0))
    full = forward(model, collate(model, [prompt], [answer])).logits[0, -7:-1]

    def step_by_step(first):
        out = forward(model, collate(model, [prompt]), use_cache=True)
        logits = [out.logits[0, -1]]
        for k, token in enumerate(answer[:-1]):
            at = torch.full((3, 1, 1), first + k)
            with torch.no_grad():
                out = model(
                    input_ids=token[None, None], position_ids=at, past_key_values=out.past_key_values, use_cache=True
                )
            logits.append(out.logits[0, -1])
        return torch.stack(logits)

    assert steps_apart(step_by_step(int(prompt.position_ids[0, -1]) + 1), full) <= REORDERED
    by_delta = int(prompt.position_ids.max()) + 1
    assert (by_delta != int(prompt.position_ids[0, -1]) + 1) == (family in ("qwen2_vl", "qwen2_5_vl"))
    if family in ("qwen2_vl", "qwen2_5_vl"):
        assert (step_by_step(by_delta) - full).abs().max() > 1e-3


@every_qwen
def test_our_positions_do_not_hang_on_token_types(loaded, family):
    """Trap 4: without `mm_token_type_ids` Qwen2.5-VL silently counts tokens, the others refuse; we always pass
    positions, and the logits are those with them.
    """
    model, processor = loaded
    processor.video_processor.position_rule = "transformers"
    batch = collate(model, [encode(model, processor, drawn(processor))])
    ours = forward(model, batch).logits
    assert "mm_token_type_ids" not in batch
    types = 2 * (batch["input_ids"] == model.config.video_token_id).int()
    without = {k: v for k, v in batch.items() if k not in ("position_ids", "labels")}
    seconds = {"second_per_grid_ts": torch.tensor([0.5])} if family == "qwen2_5_vl" else {}
    assert steps_apart(forward(model, without, mm_token_type_ids=types, **seconds).logits, ours) <= REORDERED
    model.model.rope_deltas = None
    if family != "qwen2_5_vl":
        with pytest.raises(ValueError, match="mm_token_type_ids"):
            forward(model, without)
    else:
        assert (forward(model, without, **seconds).logits - ours).abs().max() > 1e-3, (
            "the trap is gone: say so in the chapter"
        )


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@every_family
def test_a_checkpoint_survives_a_round_trip(loaded, tmp_path, family):
    model, processor = loaded
    sample = drawn(processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_model(tmp_path, device="cpu")
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    a, b = (
        forward(m, collate(m, [encode(m, p, sample)])).logits for m, p in ((model, processor), (again, processor_again))
    )
    assert torch.equal(a, b) and family_of(again) is FAMILIES[family]
    assert type(again).__name__ == f"{FAMILIES[family].prefix}ForConditionalGeneration"


def test_the_default_family_is_still_the_one_that_ships():
    ids = {t: k for k, t in enumerate(SPECIAL_TOKENS)}
    assert (
        tiny_config(100, ids).to_dict() == tiny_config(100, ids, family="qwen2_5_vl").to_dict()
        and tiny_config(100, ids).model_type == "qwen2_5_vl"
    )


def test_what_cannot_be_loaded_is_named(folder, checkpoint, monkeypatch):
    transformers.LlamaConfig().save_pretrained(folder / "llama")
    with pytest.raises(ValueError, match="no family 'llama'.*qwen3_vl"):
        load_model(folder / "llama")
    with pytest.raises(ValueError, match="no family 'qwen9'"):
        make_tiny_checkpoint(folder / "x", family="qwen9")
    monkeypatch.setattr(chapter, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(ImportError, match="flash-attn"):
        load_model(checkpoint["qwen3_vl"], attention="flash_attention_2")
    monkeypatch.setattr(chapter, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="bitsandbytes"):
        load_model(checkpoint["qwen3_vl"], four_bit=True)


def without(*names):
    "A change of a folder: some files removed."
    return lambda folder: [(folder / name).unlink() for name in names]


def rewritten(name, change):
    "A change of a folder: a file with another text, or with its settings changed."

    def rewrite(folder):
        text = change if isinstance(change, str) else json.dumps(change(json.loads((folder / name).read_text())))
        (folder / name).write_text(text)

    return rewrite


def among(part, **new):
    "A change of some settings in a part of config.json; in the whole where it is empty."
    return lambda config: config | ({part: config[part] | new} if part else new)


def lacks(part):
    return lambda config: {name: value for name, value in config.items() if name != part}


@pytest.mark.parametrize(
    "change, said",
    [
        ("", "the file is empty"),
        ("{'a': 1}", "it is no JSON .Expecting property name"),
        ("[1, 2]", "it holds no object of JSON"),
        ("null", "it holds no object of JSON"),
        ("{}", "it holds no settings"),
        (lacks("model_type"), "it does not say of which family the model is .model_type."),
        (among("", model_type=3), "it does not say of which family the model is .model_type."),
        (lacks("text_config"), "it has no text_config"),
        (lacks("vision_config"), "it has no vision_config"),
        (among("", text_config="x"), "Field 'text_config' with value 'x' doesn't match"),
        (among("text_config", hidden_size="big"), "Field 'hidden_size' expected int, got str"),
        (among("text_config", num_hidden_layers=3), "`num_hidden_layers` .3. must be equal to the number of"),
        (among("", dtype="float99"), "AttributeError: module 'torch' has no attribute 'float99'"),
        (among("text_config", hidden_act="siluu"), "no model can be built by it .KeyError: 'siluu'."),
        (among("text_config", hidden_size=0), "no model can be built by it"),
        (among("text_config", pad_token_id=99_999), "no model can be built by it"),
    ],
)
def test_a_configuration_that_is_wrong_is_named_in_one_line(checkpoint, tmp_path, change, said):
    folder = shutil.copytree(checkpoint["qwen2_5_vl"], tmp_path / "m")
    rewritten("config.json", change)(folder)
    with pytest.raises(ValueError, match=f"m/config.json: {said}.*; restore it, or fetch the checkpoint again$") as e:
        load_model(folder, device="cpu")
    assert str(e.value).startswith(str(folder)) and "\n" not in str(e.value)


def test_an_unknown_family_is_told_with_its_file(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint["qwen2_5_vl"], tmp_path / "m")
    rewritten("config.json", among("", model_type="qwen9_vl"))(folder)
    with pytest.raises(ValueError, match="m/config.json: no family 'qwen9_vl', did you mean"):
        load_model(folder, device="cpu")


def test_a_fault_that_is_not_the_configurations_is_not_laid_at_its_door(checkpoint, monkeypatch):
    "As a full GPU."
    full = RuntimeError("out of memory")
    monkeypatch.setattr(
        chapter.AutoModelForImageTextToText, "from_pretrained", lambda *a, **k: (_ for _ in ()).throw(full)
    )
    with pytest.raises(RuntimeError, match="^out of memory$"):
        load_model(checkpoint["qwen2_5_vl"], device="cpu")


@pytest.mark.parametrize(
    "change, said",
    [
        (without("tokenizer.json"), r"m holds no tokenizer \(tokenizer.json, or vocab.json with merges.txt\): copy it"),
        (without("tokenizer_config.json"), r"m holds no settings of its tokenizer \(tokenizer_config.json\): copy it"),
        (without("chat_template.jinja"), r"m holds no chat template \(chat_template.jinja, .*\): copy it"),
        (rewritten("processor_config.json", "{}"), r"m holds no settings for pictures \(preprocessor_config.json, or"),
        (rewritten("tokenizer.json", ""), "m/tokenizer.json: the file is empty; restore it"),
        (
            rewritten("tokenizer.json", '{"a": 1}'),
            r"m: its processor cannot be read \(KeyError: 'added_tokens'\): restore",
        ),
        (rewritten("tokenizer_config.json", "{}"), "m/tokenizer_config.json: it holds no settings; restore it"),
        (rewritten("processor_config.json", "[]"), "m/processor_config.json: it holds no object of JSON; restore it"),
        (rewritten("generation_config.json", "{"), "m/generation_config.json: it is no JSON .*; restore it"),
        (rewritten("chat_template.jinja", "{% if %}"), "m/chat_template.jinja: .*TemplateSyntaxError.*; restore it"),
        (rewritten("chat_template.jinja", "Hello"), r"m/chat_template.jinja: .*it writes no <\|video_pad\|> where"),
        (
            rewritten("config.json", among("", video_token_id=5)),
            r"m/config.json: video_token_id is 5, but in the processor's files <\|video_pad\|> is token 7: .*restore",
        ),
        (
            rewritten("config.json", among("vision_config", temporal_patch_size=1)),
            "m/config.json: vision_config.temporal_patch_size is 1, but in the processor's files temporal_patch_size is 2",
        ),
    ],
)
def test_a_part_that_is_missing_or_wrong_is_named_before_weights_are_read(
    checkpoint, tmp_path, monkeypatch, change, said
):
    change(shutil.copytree(checkpoint["qwen2_5_vl"], tmp_path / "m"))
    monkeypatch.setattr(chapter, "whole_model", lambda *a, **k: pytest.fail("weights were read"))
    with pytest.raises((ValueError, FileNotFoundError), match=said) as e:
        load_model(tmp_path / "m", device="cpu")
    assert "\n" not in str(e.value)


@every_family
def test_half_precision_and_attention_by_name(checkpoint, family):
    "bf16 runs on a CPU and stays near float32; eager and sdpa attention agree."
    path = checkpoint[family]
    plain, processor = load_model(path, device="cpu", attention="eager")
    prompt = encode(plain, processor, drawn(processor))
    expected = forward(plain, collate(plain, [prompt])).logits
    sdpa = load_model(path, device="cpu", attention="sdpa")[0]
    assert sdpa.config._attn_implementation == "sdpa" != plain.config._attn_implementation
    assert steps_apart(forward(sdpa, collate(sdpa, [prompt])).logits, expected) <= REORDERED
    half = load_model(path, device="cpu", dtype=torch.bfloat16)[0]
    for some in ([prompt], see(half, [prompt])):
        got = forward(half, collate(half, some)).logits
        assert got.dtype == torch.bfloat16 and 0 < (got.float() - expected).abs().max() < 0.25 * expected.abs().max()


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
@every_family
def test_four_bits_and_adapters(tmp_path, family):
    model, processor = load_model(
        make_tiny_checkpoint(tmp_path, family=family, hidden=64, layers=2), device="cpu", four_bit=True
    )  # in blocks of 64
    kinds = {name: type(m).__name__ for name, m in model.named_modules()}
    assert kinds["model.language_model.layers.0.self_attn.q_proj"] == "Linear4bit" and kinds["lm_head"] == "Linear"
    assert not any(kind == "Linear4bit" for name, kind in kinds.items() if "language_model" not in name)
    lora = add_lora(model, rank=2)
    batch = collate(lora, [encode(model, processor, drawn(processor))], [torch.tensor([20, 21])])
    lora(**batch).loss.backward()
    assert all(
        ("lora" in n) == (p.grad is not None)
        for n, p in lora.named_parameters()
        if p.requires_grad or p.grad is not None
    )


# ---- frames of a checkpoint ----------------------------------------------------------------------------------------


@every_family
def test_a_published_checkpoint_sees_by_the_defaults(checkpoint, tmp_path, family):
    "Planned tokens are the tokens of its prompt, and a spec chosen for it travels with it."
    model, processor = load_model(checkpoint[family], device="cpu")
    del processor.video_processor.video_spec
    write_video(tmp_path / "wide.mp4", np.random.default_rng(0).integers(0, 255, (50, 120, 240, 3), np.uint8), 25)
    clip = Clip(video=str(tmp_path / "wide.mp4"), action="squat", count=1)
    assert "does not say" in choose_spec(processor, "fps=5 max_tokens=64 max_frames=8") and spec_of(
        processor
    ) == VideoSpec(fps=5.0, max_tokens=64, max_frames=8)
    plan, side, slot = plan_for(processor, clip), 2 * FAMILIES[family].patch, FAMILIES[family].slot
    prompt = encode(model, processor, Sample(clip, frames_for(processor, clip), "How many?"))
    assert int((prompt.input_ids == model.config.video_token_id).sum()) == plan.tokens(side, slot) <= 64 and len(
        plan.times
    ) in (4, 8)
    assert torch.isfinite(forward(model, collate(model, [prompt])).logits).all()
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")[1]
    assert (
        spec_of(again) == spec_of(processor)
        and choose_spec(again) == ""
        and choose_spec(again, "fps=4") == "it sees fps=4 instead of 5: not what it was trained on"
    )


@every_family
def test_a_tower_looks_at_a_long_video_in_pieces(loaded, family):
    "Attention never leaves a slot: pieces are the whole, whatever their size, and clips of one pass do not mix."
    model, processor = loaded
    prompts = [encode(model, processor, drawn(processor, frames=n, seed=n)) for n in (8, 22, 4)]
    whole = see(model, prompts)
    for most in (1, 9, 40):
        for a, b in zip(whole, see(model, prompts, most)):
            for x, y in ((a.features, b.features), (a.deepstack, b.deepstack)):
                assert (x is None) == (y is None) and (
                    x is None or (x.shape == y.shape and torch.allclose(x, y, atol=1e-5 * float(x.abs().max())))
                )


# ---- slots of films ------------------------------------------------------------------------------------------------


def film(path, rate, frames, size=(64, 64)):
    return write_video(path, np.random.default_rng(0).integers(0, 255, (frames, *size, 3), np.uint8), rate)


def times_of_slots(model, processor, path, fps):
    "Seconds of a slot as its positions tell them, and the position of the last one."
    processor.video_processor.position_rule = "reference"
    choose_spec(processor, f"fps={fps} max_frames=768")
    clip = Clip(video=str(path), action="squat", count=1)
    prompt = encode(model, processor, Sample(clip, frames_for(processor, clip), "How many?"))
    time = prompt.position_ids[0][prompt.input_ids == model.config.video_token_id].unique()
    return len(time), int(time[-1] - time[0])


@pytest.mark.parametrize(
    "rate, fps",
    [(24, 2), (25, 2), (30, 4), (29.97, 4), (23.976, 4), (50, 4), (5, 2), (6, 4), (1, 2), (15, 4), (14, 4), (3, 4)],
)
def test_a_slot_lasts_two_frames_at_the_planned_rate(checkpoint, tmp_path, rate, fps):
    "About 20 s of film: slot k begins at 2 k / fps seconds, two positions a second, whatever the film's own rate."
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    slots, last = times_of_slots(model, processor, film(tmp_path / "f.mp4", rate, round(20 * rate)), fps)
    expected = math.ceil(math.ceil(round(20 * rate) / rate * fps - 1e-3) / 2)
    assert (slots, last) == (expected, int((expected - 1) * 4 / fps))


def test_slots_of_odd_films(checkpoint, tmp_path):
    "One frame, one frame a second, a still picture, a time of gaps: no slot is nothing long."
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    for name, rate, frames in (("one", 30, 1), ("two", 30, 2), ("camera", 1, 20), ("slow", 0.5, 10)):
        clip = Clip(video=str(film(tmp_path / f"{name}.mp4", rate, frames)), action="squat", count=1)
        shown = frames_for(processor, clip)
        prompt = encode(model, processor, Sample(clip, shown, "How many?"))
        assert shown.fps > 0 and torch.isfinite(forward(model, collate(model, [prompt])).logits).all()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "still.png")
    assert frames_for(processor, Clip(video=str(tmp_path / "still.png"), action="squat", count=0)).fps > 0


def test_slots_are_those_of_qwen_vl_utils():
    """At 200 random rates, in films that last a whole number of slots: where the last slot is cut short, it spreads its
    frames and we do not.
    """
    from qwen_vl_utils.vision_process import smart_nframes

    random, seen = np.random.default_rng(0), set()
    for _ in range(220):
        fps, slots = float(random.choice([0.5, 1, 2, 4, 5, 8, 10])), int(random.integers(2, 60))
        duration = 2 * slots / fps
        total = int(random.integers(2 * slots, 60 * duration + 2 * slots))
        rate = total / duration
        theirs = 2 / (
            smart_nframes({"fps": fps, "max_frames": 768}, total, rate * (1 - 1e-12)) / total * rate
        )  # or a whole number of slots may round to one less
        plan = plan_frames(VideoInfo("x", duration, rate, total, 64, 64, "h264"), fps, 768, size=(28, 28))
        assert 2 / plan.fps == pytest.approx(theirs, rel=1e-9)
        seen.add(round(rate, 6))
    assert len(seen) >= 200


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_cached_frames_do_not_touch_the_video_again(loaded, tmp_path, monkeypatch):
    from actrep_nb import video

    _, processor = loaded
    write_video(tmp_path / "a.mp4", np.zeros((8, 56, 56, 3), np.uint8), 4)
    clip, cache = Clip(video=str(tmp_path / "a.mp4"), action="squat", count=1), FrameCache(tmp_path / "cache")
    first = frames_for(processor, clip, cache)
    monkeypatch.setattr(video, "_open", lambda path: pytest.fail("the file was opened"))
    assert np.array_equal(frames_for(processor, clip, FrameCache(cache.folder)).pixels, first.pixels)


# ---- what is trained -----------------------------------------------------------------------------------------------


@every_family
def test_parts_are_everything_once(loaded, family):
    model, _ = loaded
    owners = [p for part in parts(model).values() for p in {id(p): p for p in part.parameters()}.values()]
    assert len(owners) == len({id(p) for p in owners}) == len(list(model.parameters()))
    assert set(parts(model)) == {"vision", "language", *FAMILIES[family].mergers}


@every_family
def test_frozen_parts_get_no_gradient_and_the_others_do(loaded, family):
    model, processor = loaded
    batch = collate(model, [encode(model, processor, drawn(processor))], [torch.tensor([20, 21])])
    for frozen in parts(model):
        freeze(model, frozen).zero_grad()
        model(**batch).loss.backward()
        meant = FAMILIES[family].mergers if frozen == "merger" else {frozen}  # all that leads from the tower
        for name, part in parts(model).items():
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters()) == (
                name not in meant
            ), (frozen, name)
    with pytest.raises(ValueError, match="no part called vison"):
        freeze(model, "vison")


@every_family
def test_adapters_train_alone_and_can_be_switched_off(loaded, family):
    model, processor = loaded
    batch = collate(model, [encode(model, processor, drawn(processor))], [torch.tensor([20, 21])])
    before, base = forward(model, batch).logits, {n: p.clone() for n, p in model.named_parameters()}
    lora = add_lora(model, rank=2, where=("language", "vision"))
    names = [n for n, p in lora.named_parameters() if p.requires_grad]
    assert names and all("lora_" in n for n in names) and not any("lm_head" in n for n in names)
    tower = FAMILIES[family].tower
    assert (
        any("language_model" in n for n in names)
        and any(tower in n for n in names)
        and not any("merger" in n or "projector" in n for n in names)
    )
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        lora(**batch).loss.backward()
        optimizer.step()
    with lora.disable_adapter():
        assert torch.equal(forward(lora, batch).logits, before)
    adapted = forward(lora, batch).logits
    assert (adapted - before).abs().max() > 1e-3
    kept = {
        n.removeprefix("base_model.model.").replace(".base_layer", ""): p
        for n, p in lora.named_parameters()
        if "lora_" not in n
    }
    assert set(kept) == set(base) and all(torch.equal(kept[n], p) for n, p in base.items())
    assert steps_apart(forward(lora.merge_and_unload(), batch).logits, adapted) <= REORDERED
    with pytest.raises(ValueError, match="no part called speech"):
        add_lora(model, where=("speech",))


@every_family
def test_recomputed_activations_give_the_same_gradients(loaded, family):
    model, processor = loaded
    batch = collate(model, [encode(model, processor, drawn(processor))], [torch.tensor([20, 21, 22])])

    def gradients():
        model.zero_grad()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.train()
    plain, expected = gradients()
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    again, got = gradients()
    assert steps_apart(again, plain) <= REORDERED and set(got) == set(expected)
    largest = max(float(g.abs().max()) for g in expected.values())
    assert max(steps_apart(got[n], expected[n], largest) for n in got) <= REORDERED


def test_a_checkpoint_without_its_processor_says_so(checkpoint, tmp_path):
    "What the Trainer writes in the middle of a run; with the processor beside it, it is a checkpoint."
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="without its processor"):
        load_model(tmp_path, device="cpu")
    processor.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu")[1].tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@every_family
def test_a_model_laid_out_by_accelerate_answers_as_before(checkpoint, tmp_path, family):
    "Part of the weights on disk, part in memory: accelerate's hooks bring them when they are needed."
    from actrep_nb.rollout import SamplingParams, sample_group

    whole, processor = load_model(checkpoint[family], device="cpu")
    size = sum(p.numel() * 4 for p in whole.parameters())
    spread, _ = load_model(
        checkpoint[family],
        device="auto",
        dtype=torch.float32,
        max_memory={"cpu": size // 2},
        offload_folder=str(tmp_path),
    )
    assert any(p.is_meta for p in spread.parameters()) and device_of(spread).type == "cpu"
    prompt = encode(whole, processor, drawn(processor))
    asked = [see(whole, [prompt])[0], see(spread, [prompt])[0]]
    assert steps_apart(asked[0].features, asked[1].features) <= REORDERED
    one, other = (
        [[r.ids.tolist() for r in sample_group(model, processor, [prompt], 2, SamplingParams(8), seeds=[0])[0]]]
        for model in (whole, spread)
    )
    assert one == other


def test_adapters_with_a_processor_of_their_own_are_read_with_it(checkpoint, tmp_path):
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    add_lora(model, rank=2).save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu")[1].video_processor.fps == processor.video_processor.fps
    processor.video_processor.fps = 7.0
    processor.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu")[1].video_processor.fps == 7.0


def test_a_torn_file_of_adapters_is_named(checkpoint, tmp_path):
    add_lora(load_model(checkpoint["qwen2_5_vl"], device="cpu")[0], rank=2).save_pretrained(tmp_path / "lora")
    (tmp_path / "lora/adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="lora/adapter_config.json: it is no JSON .*; restore it"):
        load_model(tmp_path / "lora", device="cpu")


def test_a_fault_of_the_base_is_told_as_it_is(checkpoint, tmp_path):
    "Not as a base that could not be fetched."
    base = shutil.copytree(checkpoint["qwen2_5_vl"], tmp_path / "base")
    add_lora(load_model(base, device="cpu")[0], rank=2).save_pretrained(tmp_path / "lora")
    (base / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="base holds no tokenizer") as e:
        load_model(tmp_path / "lora", device="cpu")
    assert "fetched" not in str(e.value)


def test_a_processor_of_adapters_lacks_nothing_either(checkpoint, tmp_path):
    model, processor = load_model(checkpoint["qwen2_5_vl"], device="cpu")
    add_lora(model, rank=2).save_pretrained(tmp_path / "lora")
    processor.save_pretrained(tmp_path / "lora")
    (tmp_path / "lora/tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="lora holds no tokenizer"):
        load_model(tmp_path / "lora", device="cpu")
