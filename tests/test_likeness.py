"How alike moments are, against brute force, and the lag control against films of a known period."

import math

import numpy as np
import pytest

from actrep_nb.likeness import (
    BEFORE,
    FLOOR,
    GRID,
    LAGS,
    LIKENESS_SIDE,
    REGION_NAMES,
    REGIONS,
    SPANS,
    by_lag,
    lag_count,
    lag_period,
    likeness,
    self_similarity,
    views,
)
from actrep_nb.motion import NOTHING, MotionStyle, Rhythm, draw_motion


def wave(seconds: float, period: float, fps: float, side: int = 12, height: float = 40.0) -> np.ndarray:
    "A soft bar that goes up and down."
    at = 0.5 * side + 0.3 * side * np.cos(2 * np.pi * np.arange(round(seconds * fps)) / fps / period)
    return 100 + height * np.exp(-((np.arange(side)[:, None] - at[:, None, None]) ** 2) / 4) + np.zeros((1, side, side))


def chance(T: int, side: int = 12, seed: int = 0, height: float = 30.0) -> np.ndarray:
    return 100 + height * np.random.default_rng(seed).normal(size=(T, side, side))


def test_views_are_what_they_are_called():
    ramp = np.arange(80.0)[:, None, None] * 2 + np.random.default_rng(0).uniform(0, 100, (1, 6, 6))
    free, velocity, as_it_is = views(ramp)
    assert np.abs(free[20:-20]).max() == pytest.approx(1.0, abs=0.01)  # 32 pictures have no middle one
    assert velocity == pytest.approx(np.full((80, 6, 6), 2.0), abs=1e-3) and as_it_is.mean(0) == pytest.approx(
        np.zeros((6, 6)), abs=1e-3
    )
    assert as_it_is[-1] - as_it_is[0] == pytest.approx(np.full((6, 6), 158.0), abs=1e-2)


def test_likeness_is_the_cosine_of_what_each_region_shows():
    "By brute force: cut the region out, flatten, divide by lengths that are floored."
    pictures = chance(9, 12) + wave(9, 4, 1)
    alike, moves = self_similarity(pictures)
    assert alike.shape == (3, 9, 9, 9) and moves.shape == (3, 9)
    for v, view in enumerate(views(pictures).astype(float)):
        for r, ((top, bottom), (left, right)) in enumerate(SPANS):
            cut = view[:, 2 * top : 2 * bottom, 2 * left : 2 * right].reshape(9, -1)
            lengths = [math.sqrt((x * x).sum()) for x in cut]
            least = max(0.1 * np.median(lengths), FLOOR * math.sqrt(cut.shape[1]))
            for s in range(9):
                for t in range(9):
                    expected = (cut[s] * cut[t]).sum() / max(lengths[s], least) / max(lengths[t], least)
                    assert alike[v, r, s, t] == pytest.approx(expected, abs=2e-5)
            if r == 0:
                assert moves[v] == pytest.approx(np.array(lengths) / math.sqrt(cut.shape[1]), rel=1e-4)


def test_likeness_is_symmetric_and_one_where_something_moves():
    for seed in range(8):
        alike, moves = self_similarity(draw_motion(seed).pictures)
        assert np.isfinite(alike).all() and np.abs(alike).max() <= 1 + 1e-4
        assert alike == pytest.approx(alike.transpose(0, 1, 3, 2), abs=1e-5)
        own = np.diagonal(alike[:, 0], axis1=1, axis2=2)
        above = moves > np.maximum(FLOOR, 0.1 * np.median(moves, 1, keepdims=True)) * 1.001
        assert above.any() and own[above] == pytest.approx(np.ones(above.sum()), abs=1e-4) and (own[~above] <= 1).all()


def test_stillness_is_alike_to_nothing():
    alike, _ = self_similarity(100 + np.random.default_rng(0).normal(0, 0.05, (64, 24, 24)))
    assert np.abs(alike).max() < 0.05
    blank = likeness(np.full((64, 24, 24), 77.0))
    assert set(np.unique(blank[:, :-1])) == {0, 135} and set(np.unique(blank[:, -1])) == {0, 20}


def test_brightness_and_contrast_do_not_matter():
    pictures = chance(30) + wave(30, 6, 1)
    alike, moves = self_similarity(pictures)
    other, more = self_similarity(2.5 * pictures - 60)
    assert other == pytest.approx(alike, abs=1e-3) and more == pytest.approx(2.5 * moves, rel=1e-3)


def test_a_film_that_begins_later_has_the_same_likeness():
    "Velocity knows its neighbours only: the map of a later piece is a piece of the map."
    pictures = chance(40)
    whole, piece = self_similarity(pictures)[0][1], self_similarity(pictures[7:33])[0][1]
    assert piece[:, 1:-1, 1:-1] == pytest.approx(whole[:, 8:32, 8:32], abs=1e-4)


@pytest.mark.parametrize("T", [3, 20, 64, 100])
def test_by_lag_is_indexing(T):
    maps = np.random.default_rng(T).normal(size=(2, T, T)).astype(np.float32)
    shifted = by_lag(maps)
    assert shifted.shape == (2, T, LAGS)
    for t in range(T):
        for k in range(LAGS):
            other = t + k - BEFORE
            if 0 <= other < T:
                assert (shifted[:, t, k] == maps[:, t, other]).all()
            else:
                assert np.isnan(shifted[:, t, k]).all()


def test_each_pixel_is_the_likeness_that_its_place_says():
    pictures = draw_motion(2).pictures
    alike, moves = self_similarity(pictures)
    picture = likeness(pictures)
    assert picture.shape == (64, LIKENESS_SIDE, LIKENESS_SIDE, 3) and picture.dtype == np.uint8
    rng = np.random.default_rng(0)
    for _ in range(3000):
        t, v, r, k = rng.integers(64), rng.integers(3), rng.integers(9), rng.integers(LAGS)
        other = t + k - BEFORE
        expected = 135 + 120 * alike[v, r, t, other] if 0 <= other < 64 else 0
        assert abs(picture[t, 3 * r + k // 28, k % 28, v] - expected) <= 1
        column = rng.integers(28)
        other = t + column - 14
        expected = min(255, 20 + 60 * math.log1p(moves[v, other])) if 0 <= other < 64 else 0
        assert abs(picture[t, 27, column, v] - expected) <= 1


def test_black_is_outside_and_only_there():
    for pictures in (draw_motion(5).pictures, chance(64, 24)):
        picture = likeness(pictures)
        for t in (0, 13, 30, 63):
            other = np.arange(LAGS) + t - BEFORE
            outside = ((other < 0) | (other >= 64)).reshape(3, 28)
            assert ((picture[t, :27] == 0).all(-1).reshape(9, 3, 28) == outside).all()
            assert ((picture[t, :27] == 0).any(-1).reshape(9, 3, 28) == outside).all()


@pytest.mark.parametrize("kind", NOTHING)
def test_every_kind_of_nothing_has_a_likeness(kind):
    picture = likeness(draw_motion(1, MotionStyle(), Rhythm((), (), kind=kind)).pictures)
    assert len(np.unique(picture)) > 2


def test_short_films_and_other_sizes():
    assert likeness(chance(2, 6)).shape == (2, 28, 28, 3)
    assert likeness(chance(90, 36)).shape == (90, 28, 28, 3)
    with pytest.raises(ValueError, match="25×25"):
        likeness(chance(9, 25))


def test_slow_change_is_taken_away_and_repetition_is_not():
    t = np.arange(400.0)
    slow, quick = (
        100 + 30 * np.sin(2 * np.pi * t / period)[:, None, None] + np.zeros((1, 6, 6)) for period in (400, 10)
    )
    assert np.ptp(views(slow)[0][20:-20]) < 3 and np.ptp(views(quick)[0][20:-20]) > 50


def test_a_region_is_where_its_name_says():
    pictures = np.full((20, 24, 24), 90.0)
    pictures[:, 2:6, 18:22] += np.random.default_rng(0).normal(0, 30, (20, 4, 4))  # the upper right corner
    own = np.diagonal(self_similarity(pictures)[0][1], axis1=1, axis2=2).mean(1)
    assert [name for name, value in zip(REGION_NAMES, own) if value > 0.5] == [
        "whole",
        "upper right",
        "upper half",
        "right half",
    ]


def test_regions_are_their_spans():
    assert REGIONS.shape == (9, GRID**2) and REGIONS.sum(1).tolist() == [36, 16, 16, 16, 16, 18, 18, 18, 18]
    assert (
        REGIONS[1:5].sum(0).min() >= 1 and (REGIONS[5] + REGIONS[6] == 1).all() and (REGIONS[7] + REGIONS[8] == 1).all()
    )


@pytest.mark.parametrize("fps", [4.0, 15.0, 30.0])
@pytest.mark.parametrize("period", [1.5, 2.5, 4.0])
def test_the_lag_is_the_period(fps, period):
    film = wave(20.0, period, fps) + np.random.default_rng(0).normal(0, 0.3, (round(20 * fps), 12, 12))
    assert lag_period(film, fps) == pytest.approx(period, rel=0.04, abs=0.5 / fps)
    assert lag_count(film, fps) == pytest.approx(20 / period, abs=1)


def test_the_lag_of_a_long_film_is_found_in_fewer_pictures():
    assert lag_period(wave(60.0, 3.0, 30.0), 30.0) == pytest.approx(3.0, rel=0.05)


def test_nothing_that_repeats_has_no_period():
    for nothing in (np.full((64, 12, 12), 90.0), chance(64, 24), chance(300, 24, 1), wave(20, 1e9, 4.0), chance(3, 24)):
        assert lag_period(nothing, 4.0) == math.inf and lag_count(nothing, 4.0) == 0
