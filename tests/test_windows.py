import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from actrep_nb import windows
from actrep_nb.drawn import OPENING
from actrep_nb.evaluate import LocalCounter
from actrep_nb.likeness import square
from actrep_nb.motion import FRAMES
from actrep_nb.records import Clip
from actrep_nb.video import write_video
from actrep_nb.windows import (
    COMPLETE,
    EMPTY,
    GRID,
    MOMENT,
    WindowCounter,
    advance,
    as_it_watches,
    cycles_of,
    joined_advance,
    likely_path,
    say_phases,
    say_tempo,
    stretches,
    tempo_evidence,
    tempo_path,
    windows_of,
)

TINY = Path(__file__).parents[1] / "data" / "tiny_film"


@pytest.fixture(scope="module")
def counter():
    return WindowCounter.from_pretrained(TINY, device="cpu")


def spot(seconds: float, period: float, fps: float, first: float = 0.0, last: float = math.inf) -> np.ndarray:
    "A spot that goes out and back, still before `first` and after `last` [T, 48, 64, 3]."
    t = np.arange(round(seconds * fps)) / fps
    moving = np.clip(t, first, last) - first
    y, x = np.mgrid[:48, :64]
    texture = 60 + 25 * np.sin(x / 4) * np.cos(y / 5)
    far = 18 * (1 - np.cos(2 * np.pi * moving / period)) / 2
    grey = np.stack([texture + 120 * np.exp(-((x - 18 - d) ** 2 + (y - 24) ** 2) / 50) for d in far])
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, -1)


@pytest.mark.parametrize(
    "fps, seconds, length, overlap", [(30, 10, 4, 2), (25, 7.3, 2.6, 3), (15, 3, 3, 2), (12, 1.4, 1.4, 2)]
)
def test_windows_reach_from_the_start_to_the_end(fps, seconds, length, overlap):
    pictures = np.random.default_rng(0).random((round(fps * seconds), 12, 12)).astype(np.float32) * 200
    starts, made = windows_of(pictures, fps, length, overlap)
    assert starts[0] == 0 and len(starts) == len(made) and all(m.shape == (FRAMES, 28, 28, 3) for m in made)
    assert starts[-1] + length == pytest.approx(max(len(pictures) / fps, length))
    assert len(starts) < 2 or np.diff(starts).max() <= length / overlap + 1e-9


def test_pictures_between_are_mixed_and_never_stand_still():
    ramp = np.arange(20, dtype=np.float32)[:, None, None] * np.random.default_rng(0).random((1, 12, 12), np.float32)
    seen = []
    made = windows.likeness
    try:
        windows.likeness = lambda pictures: seen.append(pictures) or made(pictures)
        windows_of(ramp, 10, 2.0)
    finally:
        windows.likeness = made
    steps = np.diff(seen[0][:, 5, 5])
    assert (steps[2:-2] > 0).all() and steps[2:-2].std() < 0.01 * steps[2:-2].mean()


def test_square_is_the_mean_over_cells():
    picture = np.random.default_rng(0).random((72, 108)).astype(np.float32)
    assert np.allclose(square(picture), picture.reshape(36, 2, 36, 3).mean((1, 3)), atol=1e-6)
    assert square(np.ones((77, 130), np.float32)).shape == (36, 36)


def looks_at(periods: list[float], seconds: float) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """What a model would say that is right: `periods` at each quarter of a second, 0 where nothing repeats; a window
    with several says the one that fills most of it, not surely."""
    at = (np.arange(round(seconds / MOMENT)) + 0.5) * MOMENT
    looks = []
    for length in (seconds, seconds / 2, seconds / 4, seconds / 8, seconds / 12):
        starts, said = np.linspace(0, seconds - length, max(1, round(2 * seconds / length) - 1)), []
        for start in starts:
            seen = [p for p, t in zip(periods, at) if start <= t < start + length]
            most = max(set(seen), key=seen.count)
            p = np.full(33, 0.002)
            p[min(32, round(most / (length / 32)))] = 1.0 if seen.count(most) == len(seen) else 0.3
            said.append(p / p.sum())
        looks.append((length, starts, np.array(said)))
    return looks


@pytest.mark.parametrize("true", [0.7, 1.3, 2.0])
def test_speeds_agree_on_seconds_not_on_words(true):
    [found] = stretches(*tempo_evidence(looks_at([true] * 48, 12.0), 12.0))
    assert (
        found.period == pytest.approx(true, rel=0.12) and (found.start, found.end) == (0, 12) and found.evidence > 0.5
    )


def test_a_film_is_cut_where_its_tempo_changes_and_where_nothing_repeats():
    found = stretches(*tempo_evidence(looks_at([0.8] * 80 + [0] * 60 + [1.9] * 100, 60.0), 60.0))
    assert [s.period for s in found] == pytest.approx([0.8, 1.9], rel=0.15)
    assert abs(found[0].end - 20) < 3 and abs(found[1].start - 35) < 3 and found[0].start == 0 and found[1].end == 60
    assert stretches(*tempo_evidence(looks_at([0] * 80, 20.0), 20.0)) == []


def test_a_tempo_drifts_without_being_cut():
    grid = np.geomspace(0.2, 20, GRID)
    evidence = np.full((120, GRID), -3.9)
    for m in range(120):
        evidence[m, 60 + m // 12] = 2.5
    [found] = stretches(grid, evidence)
    assert (found.start, found.end) == (0, 30) and np.unique(tempo_path(evidence)).tolist() == list(range(60, 70))


def test_the_likeliest_path_is_the_best_of_all():
    rng, T = np.random.default_rng(0), 6
    for _ in range(20):
        p = rng.dirichlet(np.ones(5), T)

        def score(path, p=p):
            step = (
                {(a, a): 0.0 for a in range(5)}
                | dict.fromkeys([(0, 1), (1, 2), (2, 3), (3, 4), (4, 1), (4, 0)], 0.0)
                | dict.fromkeys([(1, 3), (2, 4), (3, 1), (4, 2), (0, 2), (3, 0)], windows.SLIP[0])
            )
            return sum(np.log(p[k, s] + 1e-4) for k, s in enumerate(path)) + sum(
                step.get(pair, windows.SLIP[1]) for pair in zip(path, path[1:])
            )

        best = max(np.ndindex(*(5,) * T), key=score)
        assert score(likely_path(p)) == pytest.approx(score(best))


@pytest.mark.parametrize(
    "path, parts",
    [([0, 0, 0], 0), ([1, 2, 3, 4], 1), ([3, 4, 1, 2, 3, 4, 1, 1], 1.75), ([1, 1, 2, 2, 3, 4, 0, 1, 2], 1.5)],
)
def test_a_path_adds_up(path, parts):
    assert advance(np.array(path)).sum() == pytest.approx(parts)


def test_a_path_tells_out_from_back():
    added = advance(np.array([1, 2, 2, 2, 2, 2, 3, 4]))
    assert added.tolist() == pytest.approx([0.25, *[0.05] * 5, 0.25, 0.25])  # slow out, quick back
    assert advance(np.array([1, 3, 3, 0, 2, 4, 1])).tolist() == pytest.approx(
        [0.25, 0.25, 0.25, 0, 0.25, 0.5, 0.25]
    )  # passed over, cut off, begun again


def test_windows_that_overlap_say_what_one_would():
    truth = np.array([0] * 6 + [1, 1, 2, 3, 4, 4] * 9 + [0] * 4)  # 64 slots of half a second
    said = np.full((64, 5), 0.02)
    said[np.arange(64), truth] = 0.92
    starts = np.array([0.0, 8.0, 16.0])
    added, begun = joined_advance(starts, np.stack([said[:32], said[16:48], said[32:]]), 16.0, 32.0)
    assert begun == 0 and added.sum() == pytest.approx(9, abs=0.3)
    cycles = cycles_of(added, 0.5)
    assert len(cycles) == 9 and np.allclose([a for a, _ in cycles], 3 + 3 * np.arange(9), atol=0.6)


@pytest.mark.parametrize(
    "total, begun, count",
    [
        (3.0, 0.0, 3),
        (3.7, 0.0, 3),
        (3.0 + COMPLETE, 0.0, 4),
        (2.5, 0.5, 3),
        (2.25, 0.75, 2),
        (0.0, 0.0, 0),
        (0.5, 0.0, 0),
    ],
)
def test_repetitions_at_the_edges(total, begun, count):
    cycles = cycles_of(np.full(20, total / 20), 0.5, begun)
    assert len(cycles) == count and all(0 <= a < b <= 10 + 1e-6 for a, b in cycles)


def test_a_rest_between_belongs_to_no_repetition():
    added = np.array([0.25] * 8 + [0.0] * 10 + [0.25] * 8)
    cycles = cycles_of(added, 0.5)
    assert len(cycles) == 4 and cycles[1][1] <= 4.1 and cycles[2][0] >= 8.9


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
class TestTiny:
    def test_transformers_say_the_same(self, counter):
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(TINY)
        prompts = counter.prompts(windows_of(np.stack([square(p.mean(-1)) for p in spot(16, 2.5, 10)]), 10, 16.0)[1])
        from actrep_nb.models import collate
        from actrep_nb.rollout import SamplingParams, sample_group

        ours = sample_group(counter.model, counter.processor, prompts, 1, SamplingParams(150, temperature=0))[0][0]
        batch = {k: v for k, v in collate(model, prompts, side="left").items() if k != "labels"}
        theirs = model.generate(**batch, max_new_tokens=150, do_sample=False)[0, batch["input_ids"].shape[1] :]
        assert (
            counter.processor.tokenizer.decode(theirs, skip_special_tokens=True) == ours.text
            and ours.text.startswith("<think>\nTempo: ")
            and "Phases: " in ours.text
        )

    def test_tempo_and_phases_are_the_models_own_probabilities(self, counter):
        prompts = counter.prompts(windows_of(np.stack([square(p.mean(-1)) for p in spot(16, 3.0, 10)]), 10, 16.0)[1])
        tempo = say_tempo(counter.model, counter.processor, prompts)
        assert (
            tempo.shape == (1, 33)
            and tempo.sum() == pytest.approx(1, abs=1e-5)
            and abs(tempo[0].argmax() * 0.5 - 3.0) <= 0.5
        )
        phases = say_phases(counter.model, counter.processor, prompts, 3.0)
        opening = counter.processor.tokenizer(f"{OPENING} 3.0s.\nPhases:").input_ids
        from actrep_nb.models import collate
        from actrep_nb.tiny_base import PHASES

        words = [counter.processor.tokenizer(f" {name}").input_ids[0] for name in PHASES]
        said = torch.tensor([*opening, *(words[k] for k in phases[0].argmax(-1))])
        batch = collate(counter.model, prompts, [said], side="left")
        with torch.no_grad():
            logits = counter.model(**{k: v for k, v in batch.items() if k != "labels"}).logits[0, -len(said) - 1 : -1]
        assert np.allclose(
            logits[len(opening) :, words].softmax(-1), phases[0], atol=1e-3
        )  # read in one pass, without a cache

    @pytest.mark.parametrize(
        "seconds, period, fps, first, last, true",
        [(9.6, 1.6, 25, 0.8, 8.8, 5), (12, 2.0, 15, 1.0, 11.0, 5), (6, 0.75, 30, 0.0, 6.0, 8)],
    )
    def test_it_counts_a_film(self, counter, tmp_path, seconds, period, fps, first, last, true):
        write_video(tmp_path / "spot.mp4", spot(seconds, period, fps, first, last), fps=fps)
        watched = counter.watch(Clip(str(tmp_path / "spot.mp4"), "spot", true))
        assert abs(watched.prediction.count - true) <= 1 and len(watched.prediction.cycles) == watched.prediction.count
        assert (
            watched.swings is not None
            and len(watched.swings.times) == len(watched.swings.signal)
            and 0 <= watched.prediction.regularity <= 1
        )

    def test_a_long_film_is_watched_in_pieces(self, counter, tmp_path, monkeypatch):
        monkeypatch.setattr(windows, "WHOLE", 12.0)
        monkeypatch.setattr(windows, "PIECE", 10.0)
        write_video(tmp_path / "long.mp4", spot(30, 2.0, 15), fps=15)
        prediction = counter.count(Clip(str(tmp_path / "long.mp4"), "spot", 15))
        assert abs(prediction.count - 15) <= 2 and prediction.cycles[-1][1] > 26

    def test_a_file_that_is_no_film_is_accounted_for(self, counter, tmp_path):
        (tmp_path / "no.mp4").write_text("not a film")
        [prediction] = counter.predict([Clip(str(tmp_path / "no.mp4"), "spot", 3)], progress=False)
        assert prediction.count is None and prediction.problems and prediction.true == 3


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_stillness_is_not_called_regular(counter):
    still = counter.listen(np.full((160, 36, 36), 90, np.float32), 10)
    assert not still.cycles and still.doubts == (EMPTY,) and (still.phase == -1).all()


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_a_long_set_is_read_as_finely_as_a_short_one(counter):
    one = np.stack([square(p.mean(-1)) for p in spot(24, 1.5, 10)])
    heard = counter.listen(np.concatenate([one] * 10), 10)  # four minutes, 160 repetitions
    assert abs(len(heard.cycles) - 160) <= 5


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_times_do_not_drift_over_pieces(counter, monkeypatch):
    monkeypatch.setattr(windows, "WHOLE", 12.0)
    monkeypatch.setattr(windows, "PIECE", 9.9)
    one = np.stack([square(p.mean(-1)) for p in spot(8, 1.0, 10)])
    still = np.repeat(one[-1:], 1090, 0)
    heard = counter.listen(np.concatenate([still, one, still[:30]]), 10)
    assert 6 <= len(heard.cycles) <= 10 and all(108 <= a < b <= 118.5 for a, b in heard.cycles)
    _, evidence = counter.tempos(still, 10)
    assert len(evidence) == round(109 / MOMENT)


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_what_was_not_taught_by_drawings_is_refused():
    with pytest.raises(ValueError, match="not taught by drawings"):
        WindowCounter.from_pretrained(TINY.parent / "tiny_base", device="cpu")


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_another_tokenizer_is_told_apart_from_another_teaching(tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "m")
    shutil.copy(TINY.parent / "tiny_base/tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(ValueError, match="m: its processor says that it watches likeness, but .*tokenizer.json is an"):
        as_it_watches(LocalCounter.from_pretrained(folder, device="cpu"))


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_a_camera_that_shakes_is_put_on_a_stand(counter, tmp_path):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :128]
    wall = 90 + 50 * gaussian_filter(rng.normal(0, 1, (96, 128)), 1.5) / 0.2
    moved = gaussian_filter1d(rng.normal(0, 9, (180, 2)), 2, axis=0).round().astype(int).clip(-8, 8)
    far = 24 * (1 - np.cos(2 * np.pi * np.arange(180) / 15 / 2.0)) / 2
    film = [wall + 140 * np.exp(-((columns - 48 - d) ** 2 + (rows - 48) ** 2) / 150) for d in far]
    shaken = np.stack([np.roll(p, tuple(s), (0, 1))[12:-12, 12:-12] for p, s in zip(film, moved)])
    write_video(tmp_path / "shaken.mp4", np.repeat(shaken.clip(0, 255).astype(np.uint8)[..., None], 3, -1), fps=15)
    prediction = counter.count(Clip(str(tmp_path / "shaken.mp4"), "spot", 6))
    assert abs(prediction.count - 6) <= 1 and windows.MOVES in prediction.problems


def test_small_pictures_are_doubled():
    picture = np.random.default_rng(0).random((20, 31)).astype(np.float32)
    assert (
        square(picture).shape == (36, 36)
        and np.isfinite(square(picture)).all()
        and square(picture).mean() == pytest.approx(picture.mean(), abs=0.02)
    )


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_scenes_too_short_to_count_in_are_said(counter, tmp_path):
    flash = np.random.default_rng(0).choice([20, 230], (3, 48, 64, 1)).repeat(3, -1).astype(np.uint8)
    write_video(
        tmp_path / "flash.mp4",
        np.concatenate([spot(8, 1.6, 15), flash[:1].repeat(3, 0), 255 - spot(8, 1.6, 15)]),
        fps=15,
    )
    prediction = counter.count(Clip(str(tmp_path / "flash.mp4"), "spot", 10))
    assert abs(prediction.count - 10) <= 1 and any("too short to count in" in p for p in prediction.problems)


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_scenes_of_a_film_are_counted_one_by_one(counter, tmp_path):
    one, other = spot(10, 2.0, 15), spot(8, 1.0, 15)
    alone = []
    for name, pictures in (("one", one), ("other", 255 - other), ("both", np.concatenate([one, 255 - other]))):
        write_video(tmp_path / f"{name}.mp4", pictures, fps=15)
        alone.append(counter.watch(Clip(str(tmp_path / f"{name}.mp4"), "spot", 0)))
    first, second, both = alone
    assert (
        abs(first.prediction.count - 5) <= 1
        and abs(second.prediction.count - 8) <= 1
        and both.prediction.count == first.prediction.count + second.prediction.count
    )
    assert (
        both.prediction.cycles[-1][1] > 17
        and len(both.swings.times) == len(both.swings.signal)
        and (np.diff(both.swings.times) > 0).all()
    )


@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_a_rest_between_sets_is_left_out(counter):
    one = np.stack([square(p.mean(-1)) for p in spot(16, 2.0, 10)])
    still = one[-1] + np.random.default_rng(0).normal(0, 0.3, (200, 36, 36)).astype(np.float32)
    heard = counter.listen(np.concatenate([one, still, one]), 10)
    assert abs(len(heard.cycles) - 16) <= 2 and not any(a < 35 and b > 18 for a, b in heard.cycles)


@pytest.mark.slow
@pytest.mark.skipif(not TINY.exists(), reason="data/tiny_film is not here")
def test_the_experiment_goes_on_from_a_base_and_counts_films_that_are_given(tmp_path):
    from actrep_nb.runs import run

    (films := tmp_path / "films").mkdir()
    write_video(films / "spot.mp4", spot(9.6, 1.6, 25), fps=25)
    write_video(films / "slow spot.mp4", spot(12, 3.0, 15), fps=15)
    (films / "broken.mp4").write_text("no film")
    small = {
        "base": str(TINY),
        "sft_steps": 2,
        "batch": 4,
        "grpo_steps": 1,
        "prompts": 2,
        "group_size": 2,
        "held_out": 4,
        "workers": 0,
        "videos": str(films),
    }
    run(Path(__file__).parents[1] / "nbs" / "experiments" / "08_film.ipynb", tmp_path / "film", small)
    results = json.loads((tmp_path / "film" / "results.json").read_text())
    assert set(results["films"]) == {"base", "sft", "grpo", "period"} and set(results["drawn"]) == {"sft", "grpo"}
    for counts in results["films"].values():
        assert set(counts) == {"spot.mp4", "slow spot.mp4", "broken.mp4"} and counts["broken.mp4"] is None
    assert (
        abs(results["films"]["base"]["spot.mp4"] - 6) <= 1 and abs(results["films"]["base"]["slow spot.mp4"] - 4) <= 1
    )
