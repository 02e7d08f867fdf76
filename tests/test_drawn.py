from dataclasses import asdict

import numpy as np
import pytest
import torch

from actrep_nb.answers import parse_answer
from actrep_nb.drawn import (
    FILM_SPEC,
    TIME_STEP,
    DrawnWindows,
    describe,
    make_film_checkpoint,
    mistaken,
    reason,
    rhythm_with,
    tempo_of,
    window_prompts,
)
from actrep_nb.evaluate import LocalCounter
from actrep_nb.loading import ClipExamples
from actrep_nb.models import Sample, choose_spec, encode, frames_for, load_model, on_its_clock, spec_of
from actrep_nb.tiny_base import PHASES
from actrep_nb.motion import FRAMES, RATE, SECONDS, cycles_seen, draw_motion
from actrep_nb.records import Clip
from actrep_nb.sft import sft_batch
from actrep_nb.spec import VideoSpec, parse_spec
from actrep_nb.synth import draw_clip
from actrep_nb.video import probe, write_video
from actrep_nb.windows import WindowCounter, as_it_watches


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(make_film_checkpoint(tmp_path_factory.mktemp("film") / "model"), device="cpu")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "A film of 25 pictures a second in which a spot goes out and back every 1.6 s, five times."
    t = np.arange(200) / 25
    y, x = np.mgrid[:48, :64]
    far = 16 * (1 - np.cos(2 * np.pi * t / 1.6)) / 2
    grey = np.stack([40 + 180 * np.exp(-((x - 20 - d) ** 2 + (y - 24) ** 2) / 60) for d in far]).astype(np.uint8)
    path = tmp_path_factory.mktemp("clips") / "spot.mp4"
    write_video(path, np.repeat(grey[..., None], 3, -1), fps=25)
    return path


def test_tempo_and_phases_are_those_of_the_cycles():
    cycles = [(-1.0, 2.0), (2.0, 5.0), (5.0, 8.0)]
    assert tempo_of(cycles) == 3.0 and tempo_of([]) == 0.0 and tempo_of([(15.0, 25.0)]) == 0.0
    words = describe(cycles).splitlines()
    assert words[:2] == ["<think>", "Tempo: 3.0s."] and len(words[2].split()) == 1 + FRAMES // 2
    phases = words[2].removeprefix("Phases: ").rstrip(".").split()
    assert phases[4:10] == ["begin", "out", "out", "back", "end", "end"] and set(phases[16:]) == {"idle"}


@pytest.mark.parametrize("seed", range(6))
def test_reasoning_is_in_the_house_grammar(seed):
    drawn = draw_motion([3, seed])
    said = parse_answer(reason(drawn.cycles))
    seen = cycles_seen(drawn.cycles)
    assert said.count == len(seen) and not said.problems and len(said.cycles) == len(seen)
    assert all(abs(a - b) <= TIME_STEP for one, other in zip(said.cycles, seen) for a, b in zip(one, other))


def test_words_are_single_tokens(loaded):
    _, processor = loaded
    for k in range(33):
        assert len(processor.tokenizer(f" {k * TIME_STEP:.1f}s").input_ids) == 1
    for phase in PHASES:
        assert len(processor.tokenizer(f" {phase}").input_ids) == 1


def test_prompts_of_windows_are_those_of_encode(loaded):
    model, processor = loaded
    windows = DrawnWindows(model, processor, 4, seed=5)
    some = [windows[k] for k in range(3)]
    for e, prompt in zip(some, window_prompts(model, processor, [e.frames.pixels for e in some], "How many?")):
        whole = encode(model, processor, Sample(e.clip, e.frames, "How many?"))
        assert (
            torch.equal(prompt.input_ids, whole.input_ids)
            and torch.equal(prompt.position_ids, whole.position_ids)
            and torch.allclose(prompt.pixels, whole.pixels, atol=1e-6)
        )


def test_windows_are_the_same_for_the_same_seed_and_others_for_another(loaded):
    first, again, other = (DrawnWindows(*loaded, 4, seed=seed)[2] for seed in (0, 0, 1))
    assert np.array_equal(first.frames.pixels, again.frames.pixels) and torch.equal(first.answer, again.answer)
    assert not np.array_equal(first.frames.pixels, other.frames.pixels)


def test_random_counts_are_even(loaded):
    windows = DrawnWindows(*loaded, 99, seed=3, say=None, counts=5)
    assert [windows[k].clip.count for k in range(12)] == [0, 1, 2, 3, 4, 5] * 2 and windows[0].answer is None
    assert len(cycles_seen(rhythm_with(np.random.default_rng(0), 9).cycles)) == 9


def test_phases_are_learned_where_mistakes_are_read_and_the_rest_where_none_are(loaded):
    model, processor = loaded
    windows = DrawnWindows(model, processor, 40, seed=4)
    some = windows.encoded(model, [windows[k] for k in range(12)])
    assert 0 < sum(e.history is None for e in some) < 12
    batch = sft_batch(model, some)
    for ids, labels, e in zip(batch["input_ids"], batch["labels"], some):
        told = torch.isin(e.answer, windows.phase_ids)
        last = int(told.nonzero().max())
        assert torch.equal(labels[labels != -100], e.answer[e.learned]) and len(told) == len(e.learned)
        if e.history is None:
            assert torch.equal(e.learned, ~told)
        else:
            assert (
                e.learned[: last + 1].all()
                and not e.learned[last + 1 :].any()
                and not told[e.history != e.answer].logical_not().any()
            )
            start = (
                len(ids) - int((ids != model.config.text_config.pad_token_id).flip(0).long().argmax()) - len(e.answer)
            )
            assert torch.equal(ids[start : start + len(e.answer)], e.history)
    answer = some[0].answer
    shares = [
        (mistaken(answer, windows.phase_ids, np.random.default_rng(k)) != answer)[torch.isin(answer, windows.phase_ids)]
        .float()
        .mean()
        .item()
        for k in range(60)
    ]
    assert min(shares) < 0.2 and max(shares) > 0.6


def test_tokens_that_are_not_learned_do_not_count_in_the_mean(loaded, tmp_path):
    from dataclasses import replace

    from actrep_nb.sft import train_sft, training_arguments

    model, processor = loaded
    windows = DrawnWindows(model, processor, 4, seed=4, say=describe, mistakes=1.0)
    seen = windows.encoded(model, [windows[k] for k in range(4)])
    losses = []
    for few in (1, 2):
        some = [replace(e, learned=torch.arange(len(e.answer)) % few == 0) for e in seen]
        labels = [answer for e in some for answer in e.answer[e.learned]]
        with torch.no_grad():
            from actrep_nb.sft import completion_logprobs

            logps, _, mask = completion_logprobs(model, sft_batch(model, some))
        assert int(mask.sum()) == len(labels)
        [row] = train_sft(model, some, training_arguments(tmp_path / str(few), 1, 4, 0.0))
        losses.append((row["loss"], float(-logps[mask].mean())))
    assert all(logged == pytest.approx(ours, rel=1e-4) for logged, ours in losses) and losses[0][0] != pytest.approx(
        losses[1][0], rel=1e-3
    )


def test_a_checkpoint_says_that_it_watches_likeness(loaded, film):
    model, processor = loaded
    assert spec_of(processor) == FILM_SPEC == parse_spec(str(FILM_SPEC)) and "pictures=likeness" in str(FILM_SPEC)
    frames = frames_for(processor, Clip(str(film), "spot", 5))
    assert frames.pixels.shape == (64, 28, 28, 3) and frames.fps == RATE and frames.times[-1] == 63 / RATE
    assert frames.scale == pytest.approx(probe(film).duration / SECONDS, rel=0.02)  # eight seconds, played as sixteen
    short = frames_for(processor, Clip(str(film), "spot", 1, window=(0.0, 1.6)))
    assert len(short) == 40 and short.scale == pytest.approx(RATE / 25)  # no picture is shown twice


def test_what_it_is_told_and_what_it_says_are_on_its_clock(loaded, film):
    model, processor = loaded
    clip = Clip(str(film), "spot", 2, cycles=((0.0, 1.6), (1.6, 3.2)))
    example = ClipExamples(model, processor, [clip])[0]
    assert np.allclose(example.clip.cycles, np.array(clip.cycles) / example.frames.scale)
    assert on_its_clock(clip, 1.0) is clip
    with pytest.raises(ValueError, match="clock of its own"):
        ClipExamples(model, processor, [clip], answers=["<answer>2</answer>"])


def test_specs_that_no_likeness_can_keep():
    with pytest.raises(ValueError, match="one of frames, likeness"):
        VideoSpec(pictures="films")
    with pytest.raises(ValueError, match="give frame_size"):
        VideoSpec(pictures="likeness")
    with pytest.raises(ValueError, match="28x28"):
        VideoSpec(fps=4.0, frame_size=(56, 56), pictures="likeness")


def test_whoever_loads_it_by_name_watches_in_windows(loaded, tmp_path):
    model, processor = loaded
    assert isinstance(as_it_watches(LocalCounter(model, processor)), WindowCounter)
    from actrep_nb.tiny_base import make_tiny_checkpoint

    tiny = LocalCounter.from_pretrained(make_tiny_checkpoint(tmp_path / "tiny"), device="cpu")
    assert as_it_watches(tiny) is tiny
    tiny.processor.video_processor.video_spec = asdict(FILM_SPEC)
    with pytest.raises(ValueError, match="not taught by drawings"):
        as_it_watches(LocalCounter(tiny.model, tiny.processor))
