"Drawn motion: the truth in the label is the truth in the pixels."

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

import actrep_nb.motion as motion
from actrep_nb.motion import (
    FRAMES,
    NOTHING,
    RATE,
    SECONDS,
    SIDE,
    TIMES,
    WAYS,
    Camera,
    MotionStyle,
    Rhythm,
    bend,
    contrast,
    cycles_seen,
    draw_motion,
    phases,
    write_rhythm,
)

plain = MotionStyle(clean=1.0, alternating=0.0, antiphase=0.0, reach=1.5)


def only(way: str, style: MotionStyle = plain) -> MotionStyle:
    return replace(style, ways=((way, 1.0),))


def even(n: int, first: float = 0.0, period: float = 4.0) -> Rhythm:
    "Repetitions of one length, one after the other."
    return Rhythm(tuple((first + k * period, first + (k + 1) * period) for k in range(n)), (1.0,) * n)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - b) ** 2).mean())


def main_course(pictures: np.ndarray) -> np.ndarray:
    """What the pictures do most, as a number for each: their first principal component, away from where they are in the
    first picture.
    """
    course = np.linalg.svd((pictures - pictures.mean(0)).reshape(len(pictures), -1), full_matrices=False)[0][:, 0]
    return course * np.sign(course[np.abs(course - course[0]).argmax()] - course[0])


def test_the_same_seed_gives_the_same_pixels_and_another_one_others():
    a, b = draw_motion([3, 1, 4]), draw_motion((3, 1, 4))
    assert a.cycles == b.cycles and a.kind == b.kind and (a.pictures == b.pictures).all()
    assert not (draw_motion(1).pictures == draw_motion(2).pictures).all()


def test_windows_are_whole():
    kinds = set()
    for seed in range(120):
        d = draw_motion(seed)
        assert (
            d.pictures.shape == (FRAMES, SIDE, SIDE)
            and d.pictures.dtype == np.float32
            and np.isfinite(d.pictures).all()
        )
        assert all(end > start and end > 0 and start < SECONDS for start, end in d.cycles)
        assert all(a[1] <= b[0] + 1e-9 for a, b in zip(d.cycles, d.cycles[1:])), "repetitions overlap"
        kinds.add("nothing" if d.kind in NOTHING else d.kind)
    assert kinds == {"many", "one", "nothing"}
    assert FRAMES / RATE == SECONDS


def test_every_kind_is_written_as_often_as_its_share():
    style = MotionStyle()
    kinds = [write_rhythm(np.random.default_rng(seed), style).kind for seed in range(4000)]
    expected = {
        **{kind: style.nothing * share for kind, share in NOTHING.items()},
        "one": style.single,
        "many": 1 - style.nothing - style.single,
    }
    for kind, share in expected.items():
        assert kinds.count(kind) / 4000 == pytest.approx(share, abs=4 * (share / 4000) ** 0.5), kind
    assert set(kinds) == set(expected)


@pytest.mark.parametrize("kind", NOTHING)
def test_every_kind_of_nothing_is_drawn_without_a_repetition(kind):
    for seed in range(4):
        d = draw_motion(seed, MotionStyle(), Rhythm((), (), kind=kind))
        assert d.kind == kind and d.cycles == () and np.isfinite(d.pictures).all()


@pytest.mark.parametrize(
    "way, least", [("shift", 0.8), ("limb", 0.8), ("figure", 0.8), ("scale", 0.8), ("turn", 0.7), ("light", 0.9)]
)
def test_what_goes_out_and_back_is_found_back_in_the_pictures(way, least):
    "The main course of the pictures follows the phase that was asked for, and comes back as often."
    rhythm = even(4, 0.0, 4.0)
    follows, returns = [], []
    for seed in range(12):
        course = main_course(draw_motion(seed, only(way), rhythm).pictures)
        follows.append(abs(np.corrcoef(course, 0.5 - 0.5 * np.cos(2 * np.pi * TIMES / 4))[0, 1]))
        smooth = gaussian_filter1d(course, 1.5)
        returns.append(
            len(
                find_peaks(np.concatenate([[smooth.min()], smooth, [smooth.min()]]), prominence=0.4 * np.ptp(smooth))[0]
            )
        )
    assert np.median(follows) > least, (way, np.round(follows, 2))
    assert np.median(returns) == 4 and np.mean(np.array(returns) == 4) > 0.6, (way, returns)


@pytest.mark.parametrize("way", [way for way, _ in WAYS])
@pytest.mark.parametrize("period", [2.0, 3.0, 5.0])
def test_pictures_repeat_at_the_period_that_is_labelled(way, period):
    "One period later the pictures are alike, half a period later they are not, whatever moves."
    ratio = []
    for seed in range(9):
        p = draw_motion(seed, only(way), even(int(SECONDS / period) + 1, 0.0, period)).pictures
        whole, half = int(RATE * period), int(RATE * period / 2)
        ratio.append(apart(p[whole:], p[:-whole]) / apart(p[half:], p[:-half]))
    assert np.median(ratio) < 0.5 and np.quantile(ratio, 0.8) < 1.05, np.round(
        ratio, 2
    )  # bodies sway a little, and some lights hardly change


def test_limbs_that_take_turns_count_each_movement():
    """Between movements everything is at rest; neighbouring movements are of different limbs, every second one is the
    same.
    """
    at, ratio, rest = [int(RATE * (4 * k + 2)) for k in range(4)], [], []
    for seed in range(12):
        p = draw_motion(seed, only("limb", replace(plain, alternating=1.0)), even(4)).pictures
        ratio.append(
            (apart(p[at[0]], p[at[2]]) + apart(p[at[1]], p[at[3]]))
            / (apart(p[at[0]], p[at[1]]) + apart(p[at[1]], p[at[2]]))
        )
        rest.append(2 * apart(p[16], p[32]) / (apart(p[16], p[at[1]]) + apart(p[32], p[at[2]])))
    assert np.median(ratio) < 0.2 and np.mean(np.array(ratio) < 0.5) > 0.7, np.round(ratio, 2)
    assert np.median(rest) < 0.2, np.round(rest, 2)


@pytest.mark.parametrize("way", ["limb", "figure", "round"])
def test_a_pair_half_a_turn_apart_counts_full_turns(way):
    """Pictures come back after a turn, not after half of one, and the second of the pair is out where the first is at
    rest.
    """
    ratio = []
    for seed in range(11):
        p = draw_motion(seed, only(way, replace(plain, antiphase=1.0)), even(4)).pictures
        ratio.append((apart(p[16], p[32]) + apart(p[24], p[40])) / (apart(p[16], p[24]) + apart(p[32], p[40])))
    assert np.median(ratio) < 0.15 and max(ratio) < 0.6, np.round(ratio, 2)
    out, _ = zip(
        *(
            motion._antiphase(np.random.default_rng(0), motion.move(np.random.default_rng(0), even(4)), n)
            for n in (0, 1)
        )
    )
    assert out[0] + out[1] == pytest.approx(np.ones(FRAMES))


def test_only_limbs_take_turns_and_only_where_they_repeat():
    style = replace(plain, alternating=1.0)
    pair = lambda way, rhythm: motion.pair_up(np.random.default_rng(0), style, way, rhythm)  # noqa: E731
    assert pair("limb", even(3)) is motion._alternating and pair("shift", even(3)) is motion._together
    assert pair("limb", Rhythm(((2.0, 9.0),), (1.0,), kind="one")) is motion._together


def test_a_movement_that_is_labelled_can_be_seen(monkeypatch):
    """Windows drawn again with everything held still: what is different is the movement.

    It is hardly ever below the noise.
    """
    move, rows = motion.move, []

    def held(rng, rhythm, restless=0.0):
        m = move(rng, rhythm, restless)
        return replace(m, out=0 * m.out, turn=0 * m.turn, phase=0 * m.phase, reach=0 * m.reach)

    for seed in range(150):
        rhythm = write_rhythm(np.random.default_rng(seed), MotionStyle(nothing=0.0))
        monkeypatch.setattr(motion, "move", move)
        moving, noise = motion._draw(np.random.default_rng([9, seed]), MotionStyle(), rhythm)
        monkeypatch.setattr(motion, "move", held)
        still, same = motion._draw(np.random.default_rng([9, seed]), MotionStyle(), rhythm)
        assert noise == same
        rows.append((contrast(moving) > 0.6 + 0.15 * noise, contrast(moving - still) > 0.6 + 0.15 * noise))
    kept, seen = np.array(rows).T
    assert (kept & ~seen).sum() <= 3 and kept.mean() > 0.9


def test_what_cannot_be_seen_is_drawn_again_and_refused_in_the_end(monkeypatch):
    weak = iter([0.0, 0.0, 9.0])
    monkeypatch.setattr(motion, "contrast", lambda pictures: next(weak))
    draw_motion(0, plain, even(3))
    assert next(weak, None) is None
    monkeypatch.setattr(motion, "contrast", lambda pictures: 0.0)
    with pytest.raises(ValueError, match="reach"):
        draw_motion(0, plain, even(3))
    assert draw_motion(0, plain, Rhythm((), (), kind="still")).cycles == ()  # stillness is meant to be unseen


def test_drawing_looks_only_at_pixels_that_see_a_thing(monkeypatch):
    "The same pixels as if it had looked at all of them."
    drawn = [draw_motion(seed).pictures for seed in range(40)]
    monkeypatch.setattr(Camera, "pixels", lambda self, centre, radius: (slice(None), slice(None)))
    for seed, pictures in enumerate(drawn):
        assert (draw_motion(seed).pictures == pictures).all(), seed


def test_a_given_rhythm_is_drawn():
    rhythm = even(3, 1.0, 3.5)
    d = draw_motion(0, MotionStyle(), rhythm)
    assert d.cycles == rhythm.cycles and d.kind == "many"


def test_phases_are_those_of_the_repetition_that_goes_on():
    cycles = [(1.0, 3.0), (3.0, 3.5), (6.0, 20.0)]
    times = np.arange(0, 16, 0.03)
    phase, index = phases(cycles, times)
    for t, p, k in zip(times, phase, index):
        inside = [i for i, (a, b) in enumerate(cycles) if a <= t < b]
        assert (inside or [-1]) == [k] and p == pytest.approx(
            (t - cycles[k][0]) / (cycles[k][1] - cycles[k][0]) if inside else -1
        )


def test_a_bent_phase_rests_holds_and_hurries():
    p = np.linspace(0, 1, 1001)
    shape = Rhythm((), (), rest=0.2, hold=0.3)
    b = bend(p, shape)
    assert (np.diff(b) >= 0).all() and b[0] == 0 and b[-1] == 1
    assert np.mean(np.isin(b, (0, 1))) == pytest.approx(0.2, abs=0.01) and np.mean(
        np.abs(b - 0.5) < 1e-9
    ) == pytest.approx(0.3, abs=0.01)
    assert bend(np.array([-1.0]), shape) == 0
    assert (
        np.interp(0.5, bend(p, Rhythm((), (), 2.0)), p) > 0.6 and np.interp(0.5, bend(p, Rhythm((), (), 0.5)), p) < 0.4
    )


def test_windows_end_to_end_count_every_repetition_once():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ends = np.cumsum(rng.uniform(0.5, 9, 40))
        cycles = list(zip(ends, ends[1:]))
        seconds = rng.uniform(10, 20)
        counted = sum(
            len(cycles_seen([(a - w * seconds, b - w * seconds) for a, b in cycles], seconds)) for w in range(40)
        )
        assert counted == len(cycles)
    assert cycles_seen([(-1.0, 3.0), (14.0, 18.0), (15.0, 18.0), (-3.0, 1.0), (-5.0, -1.0)]) == [
        (0.0, 3.0),
        (14.0, 16.0),
    ]


def test_idle_time_is_as_rare_as_in_film():
    slots = np.arange(0, SECONDS, 0.5) + 0.25
    written = [write_rhythm(np.random.default_rng([4, seed]), MotionStyle()).cycles for seed in range(3000)]
    idle = np.array([(phases(cycles, slots)[0] < 0).mean() for cycles in written])
    assert (
        0.1 < idle[[bool(cycles) for cycles in written]].mean() < 0.18 and 0.25 < idle.mean() < 0.31
    )  # in windows that repeat; in all
