"Counters that understand nothing: exact on movements with a known period, and never a crash."

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from actrep_nb.baselines import (
    COUNTERS,
    IRREGULAR,
    PIECE,
    WHOLE,
    ClassMedianCounter,
    ConstantCounter,
    PeriodCounter,
    camera_shifts,
    evened,
    fitted_counters,
    grey_pictures,
    long_repetition,
    looked_again,
    movement,
    principal,
    repetition,
    sets_of,
    sign_at_rest,
    smoothed,
    steadied,
    swings,
    to_and_fro,
)
from actrep_nb.records import Clip, Prediction
from actrep_nb.spec import blocks, tempo
from actrep_nb.video import write_video
from actrep_nb.film import VideoError


def moving_square(repetitions, seconds, fps=10, size=64, lead=0.0, side=28):
    "A square that goes down and up; still for `lead` seconds at either end."
    out = np.full((round(seconds * fps), size, size, 3), 230, np.uint8)
    for i, frame in enumerate(out):
        u = min(max((i / fps - lead) / (seconds - 2 * lead), 0), 1)
        y = round(size * (0.2 + 0.08 * (1 - np.cos(2 * np.pi * repetitions * u))))
        frame[y : y + side, 20:48] = (30, 60, 160)
    return out


def counted(path, *args, **settings):
    (p,) = PeriodCounter(**settings).predict([Clip(str(path), "", *args)], progress=False)
    return p


# ---- films of a known count ----------------------------------------------------------------------------------------

# What moves is wide and moves little: the direction that repeats lies half-way up at rest, and the signal is taken
# upside down.
UPSIDE_DOWN = pytest.param(
    5,
    10,
    1.0,
    marks=pytest.mark.xfail(
        strict=True, reason="known: which end is rest is not clear, and one repetition too many is counted"
    ),
)


@pytest.mark.parametrize(
    "repetitions, seconds, lead", [(2, 6, 0.5), (5, 10, 0.5), (9, 12, 0.5), (12, 16, 2.0), UPSIDE_DOWN]
)
def test_period_counter_counts_what_is_known(tmp_path, repetitions, seconds, lead):
    path = write_video(tmp_path / "square.mp4", moving_square(repetitions, seconds, lead=lead), fps=10)
    period = (seconds - 2 * lead) / repetitions
    truth = [(lead + k * period, lead + (k + 1) * period) for k in range(repetitions)]
    (p,) = PeriodCounter().predict([Clip(str(path), "square", repetitions, truth)], progress=False)
    assert (
        (p.count, p.true, p.problems) == (repetitions, repetitions, ())
        and len(p.cycles) == repetitions
        and p.regularity > 0.5
    )
    for (a, b), (c, d) in zip(p.cycles, truth):
        assert 0 <= a < b <= seconds and min(b, d) - max(a, c) > 0.3 * period


@pytest.mark.parametrize("rate", [1.0, 2.0, 3.0])
def test_fast_repetitions_are_counted(tmp_path, rate):
    p = counted(write_video(tmp_path / "fast.mp4", moving_square(round(8 * rate), 8, fps=30), fps=30), round(8 * rate))
    assert p.count == p.true and p.problems == () and p.regularity > 0.5


def test_a_film_of_repeated_frames(tmp_path):
    "A film of 12 frames a second, shown at 30: frames repeat, and the movement is not theirs."
    drawn = moving_square(14, 10, fps=12)
    p = counted(write_video(tmp_path / "stutter.mp4", drawn[(np.arange(300) * 12 // 30)], fps=30), 14)
    assert p.count == 14 and p.cycles[0][1] - p.cycles[0][0] == pytest.approx(10 / 14, abs=0.2)


@pytest.mark.parametrize("fps", [6.0, 12.5, 23.976, 50.0])
def test_variable_rates(tmp_path, fps):
    p = counted(write_video(tmp_path / "rate.mp4", moving_square(6, 9, fps=fps, lead=0.5), fps=fps), 6)
    assert p.count == 6 and np.allclose([a for a, _ in p.cycles[1:]], 0.5 + 8 / 6 * np.arange(1, 6), atol=0.35)


def test_a_film_that_is_turned(tmp_path):
    "A quarter turn that the file asks for: pictures are wide, and the count is the same."
    import av

    path, turned = (
        write_video(tmp_path / "square.mp4", moving_square(5, 8, size=64)[:, :, :48], fps=10),
        tmp_path / "turned.mp4",
    )
    with av.open(str(path)) as source, av.open(str(turned), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is None:
                continue
            packet.stream = stream
            out.mux(packet)
    data = bytearray(turned.read_bytes())
    at = data.rfind(b"tkhd") + 4 + 40  # the track's display matrix, version 0
    data[at : at + 36] = b"".join(
        int(v).to_bytes(4, "big", signed=True) for v in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    )
    turned.write_bytes(data)
    (_, upright), (_, lying) = next(iter(grey_pictures(path))), next(iter(grey_pictures(turned)))
    assert upright.shape == lying.shape[::-1] and np.abs(np.rot90(upright, -1) - lying).mean() < 4
    assert counted(turned, 5).count == 5


def test_period_counter_on_a_window(tmp_path):
    path = write_video(tmp_path / "square.mp4", moving_square(10, 20), fps=10)
    (p,) = PeriodCounter().predict([Clip(str(path), "", 4, window=(4.0, 12.0))], progress=False)
    assert p.count == 4 and max(b for _, b in p.cycles) <= 8
    assert [t for t, _ in grey_pictures(path, window=(4.0, 5.0))] == pytest.approx(np.arange(10) / 10)


# ---- a camera that moves -------------------------------------------------------------------------------------------


def filmed(dy, dx, repetitions=6, fps=15):
    "A square that goes down and up before a wall, as a camera sees it that is shifted by `dy` and `dx` pixels [T]."
    rng, T = np.random.default_rng(1), len(dy)
    wall = gaussian_filter(rng.normal(120, 200, (112, 136)), 1)
    out = np.empty((T, 72, 96), np.float32)
    for t in range(T):
        scene, y = wall.copy(), round(44 + 9 * np.cos(2 * np.pi * repetitions * t / T))
        scene[y : y + 14, 60:74] = 250
        out[t] = scene[20 + dy[t] : 92 + dy[t], 20 + dx[t] : 116 + dx[t]]
    return out


MOVES = {
    "pan": (np.zeros(150, int), np.linspace(-18, 18, 150).astype(int)),
    "shake": tuple(np.random.default_rng(0).integers(-5, 6, (2, 150))),
}


@pytest.mark.parametrize("how", MOVES)
def test_a_moving_camera_is_steadied_and_counted(tmp_path, how):
    dy, dx = MOVES[how]
    pictures = filmed(dy, dx)
    still, moves = steadied(pictures, 15)
    assert moves and still.shape[0] == 150 and np.median(still.std(axis=0)) < 0.5 * np.median(pictures.std(axis=0))
    found = camera_shifts(pictures, 15)
    assert np.percentile(np.abs(found + np.stack([dy - dy[0], dx - dx[0]], 1)).max(1), 80) <= 1
    p = counted(
        write_video(
            tmp_path / "moved.mp4", np.repeat(np.clip(pictures, 0, 255)[..., None], 3, -1).astype(np.uint8), fps=15
        ),
        6,
    )
    assert p.count == 6 and "the camera moves" in p.problems


def test_a_still_camera_is_left_alone():
    pictures = filmed(np.zeros(150, int), np.zeros(150, int))
    still, moves = steadied(pictures, 15)
    assert not moves and still is pictures


def test_a_jump_is_no_movement_of_the_camera():
    still = filmed(np.zeros(10, int), np.zeros(10, int), repetitions=0)
    for by, seen in ((17, 17), (19, 0)):
        assert (camera_shifts(np.concatenate([still, np.roll(still, by, 1)]), 100)[-1] == (seen, 0)).all()


# ---- one movement, or half of it -----------------------------------------------------------------------------------


def two_sides(unlike, seconds=12.0, period=2.0, fps=15):
    """A ball that bounces once on the left and once on the right, `unlike` pixels apart: in the picture, nearly the
    same movement twice.
    """
    rows, columns = np.mgrid[:36, :48]
    out = []
    for t in np.arange(round(seconds * fps)) / fps:
        y, x = (
            24 - 12 * abs(np.sin(np.pi * t / period * 2)) ** 2,
            24 + unlike * (1 if t % period < period / 2 else -1) / 2,
        )
        out.append(150 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 30))
    return np.stack(out).astype(np.float32)


def test_about_settles_halves():
    "Its halves look nearly alike: without a word the half is taken for the whole, with one it is not."
    x = blocks(two_sides(1.0), 15)
    found = {about: repetition(x, 15, about=about) for about in (None, 1.0, 2.0, 1.8)}
    assert [len(found[about].cycles) for about in (None, 1.0, 2.0, 1.8)] == [12, 12, 6, 6]
    assert found[2.0].period == pytest.approx(2, abs=0.1)
    assert tempo(x, 15, about=2.0)[0] == pytest.approx(2, abs=0.1) and repetition(
        blocks(two_sides(9.0), 15), 15
    ).period == pytest.approx(2, abs=0.1)


def test_near_prefers_the_shorter():
    x = blocks(two_sides(7.0), 15)
    assert [round(tempo(x, 15, near=near)[0], 1) for near in (0.4, 1.0)] == [1.0, 2.0]


# ---- long films ----------------------------------------------------------------------------------------------------


def sets_film(sets, rest, fps=10):
    "Sets of (repetitions, seconds each) with rest in between, in small grey pictures."
    height = [np.full(round(rest * fps), 0.0)]
    for n, each in sets:
        height += [
            0.5 - 0.5 * np.cos(2 * np.pi * np.arange(round(n * each * fps)) / each / fps),
            np.full(round(rest * fps), 0.0),
        ]
    rows = np.arange(48)
    out = np.full((sum(map(len, height)), 48, 48, 3), 225, np.uint8)
    for frame, h in zip(out, np.concatenate(height)):
        frame[(rows >= 8 + round(16 * h)) & (rows < 24 + round(16 * h)), 14:34] = 40
    return out


def test_a_long_film_in_sets(tmp_path):
    "Three minutes in pieces: the total within 5 %, the sets where they are, and nothing in the rests."
    sets, rest = [(20, 1.5), (15, 2.2), (40, 0.9)], 25.0
    film = sets_film(sets, rest)
    assert len(film) / 10 > 2 * WHOLE > PIECE
    p = counted(write_video(tmp_path / "sets.mp4", film, fps=10), 75)
    assert abs(p.count - 75) <= 0.05 * 75 and p.regularity > 0.5 and "nothing repeats in" in p.problems[-1]
    found, begin = sets_of(p.cycles), rest
    assert len(found) == 3
    for cycles, (n, each) in zip(found, sets):
        assert (
            abs(len(cycles) - n) <= 1
            and cycles[0][0] == pytest.approx(begin, abs=each)
            and cycles[-1][1] == pytest.approx(begin + n * each, abs=each)
        )
        begin += n * each + rest


def test_pieces_are_joined_where_they_count():
    "Without rests, no repetition is lost or counted twice where pieces meet; what a piece is called does not matter."
    pictures = sets_film([(60, 1.3)], 0.0)[..., 0].astype(np.float32)
    timed = [(i / 10, p) for i, p in enumerate(pictures)]
    for piece in (15.0, 20.0, 1000.0):
        found = long_repetition(timed, 10, piece)
        assert (
            abs(len(found.cycles) - 60) <= 1
            and len(found.signal) == len(found.times) == len(pictures)
            and (np.diff(found.times) > 0).all()
        )
        assert all(0.6 < b - a < 2 for a, b in found.cycles) and all(
            b <= d + 0.3 for (_, b), (d, _) in zip(found.cycles, found.cycles[1:])
        )


def test_scenes_are_counted_one_by_one():
    "Five scenes of nine seconds with cuts in between, each at its own rate: in one piece nothing would repeat."
    scenes = [
        (255 - grey if k % 2 else grey)[:90]
        for k, each in enumerate((0.9, 1.5, 0.75, 1.8, 1.0))
        for grey in [sets_film([(9 / each, each)], 0.0)[..., 0].astype(np.float32)]
    ]
    truth = [10, 6, 12, 5, 9]
    found = long_repetition([(i / 10, p) for i, p in enumerate(np.concatenate(scenes))], 10, 20.0)
    each = [sum(9 * k <= (a + b) / 2 < 9 * k + 9 for a, b in found.cycles) for k in range(5)]
    assert all(abs(n - m) <= 1 for n, m in zip(each, truth)) and len(found.signal) == 450


def test_memory_holds_one_piece():
    pictures = sets_film([(100, 1.5)], 0.0)[..., 0]
    alive, most = weakref.WeakSet(), 0

    class Picture(np.ndarray):
        pass

    def read() -> Iterator:
        nonlocal most
        for i, p in enumerate(pictures):
            alive.add(picture := p.astype(np.float32).view(Picture))
            most = max(most, len(alive))
            yield i / 10, picture
            del picture

    Picture.__hash__ = object.__hash__
    found = long_repetition(read(), 10, 20.0)
    assert abs(len(found.cycles) - 100) <= 5 and most <= 201 < len(pictures) / 7


def test_sets():
    cycles = [(1.0, 2.0), (2.0, 3.0), (3.5, 4.4), (9.0, 10.0), (10.1, 11.0)]
    assert (
        sets_of(reversed(cycles)) == [tuple(cycles[:3]), tuple(cycles[3:])]
        and sets_of(cycles, rest=5.0) == [tuple(cycles)]
        and sets_of([]) == []
    )
    assert len(sets_of([(0.0, 4.0), (9.0, 13.0)])) == 1 and len(sets_of([(0.0, 4.0), (13.0, 17.0)])) == 2, (
        "slow repetitions may be further apart"
    )


# ---- looking again -------------------------------------------------------------------------------------------------


@pytest.fixture
def fading(tmp_path):
    "Grey that goes up and down once a second, by 40 levels for five seconds, by 16 for two and by none for one."
    levels = np.repeat([40.0] * 5 + [16.0] * 2 + [0.0], 20)
    grey = np.round(120 - levels * np.cos(2 * np.pi * np.arange(160) / 20)).astype(np.uint8)
    return write_video(tmp_path / "fading.mp4", np.broadcast_to(grey[:, None, None, None], (160, 48, 64, 3)), fps=20)


def test_movement_is_that_of_each_stretch(fading):
    """The variance of a sine of amplitude a is a²/2.

    Stretches may overlap, stand in any order, and lie outside the film.
    """
    stretches = [(7.1, 8.0), (0.0, 1.0), (5.0, 6.0), (0.0, 4.0), (1.0, 3.0), (7.97, 7.99), (50.0, 60.0)]
    found = movement(Clip(str(fading), "", 0), stretches)
    assert found[:5] == pytest.approx([0, 800, 128, 800, 800], rel=0.05, abs=4) and np.isnan(found[5:]).all()
    assert movement(Clip(str(fading), "", 0, window=(5.0, 7.0)), [(0.0, 1.0)]) == pytest.approx([128], rel=0.05)


def test_repetitions_in_which_little_moves_are_left_out(fading):
    clip, seconds = Clip(str(fading), "", 0), tuple((float(k), k + 1.0) for k in range(8))
    again = looked_again(clip, Prediction("x", 8, seconds, problems=("odd",)))
    assert (
        again.count == 5
        and again.cycles == seconds[:5]
        and again.problems == ("odd", "looked again: 3 of 8 left out, little moves there")
    )
    assert looked_again(clip, Prediction("x", 8, seconds), least=0.1).count == 7
    for untouched in (
        Prediction("x", 4, seconds[:4]),
        Prediction("x", 1, seconds[-1:]),
        Prediction("x", 7, seconds),
        Prediction("x", 5),
        Prediction("x", None),
    ):
        assert looked_again(clip, untouched) == untouched
    with pytest.raises(VideoError, match="no such file"):
        looked_again(Clip("gone.mp4", "", 0), Prediction("x", 8, seconds))


def test_looking_again_keeps_what_has_begun_and_not_more(fading, monkeypatch):
    most, seen = 0, list[weakref.ref]()

    class Picture(np.ndarray):
        pass

    def read(*args):
        nonlocal most
        for k in range(400):
            picture = np.zeros((6, 6)).view(Picture)
            seen.append(weakref.ref(picture))
            most = max(most, sum(r() is not None for r in seen))
            yield k / 20, picture
            del picture

    monkeypatch.setattr("actrep_nb.baselines.grey_pictures", read)
    assert movement(Clip(str(fading), "", 0), [(float(k), k + 1.5) for k in range(18)]) == [0.0] * 18
    assert most <= 32 and len(seen) < 400, "a stretch lasts 30 pictures, and none is read after the last"


# ---- what there is to doubt ----------------------------------------------------------------------------------------


def test_nothing_moves(tmp_path):
    p = counted(write_video(tmp_path / "still.mp4", np.full((40, 64, 64, 3), 90, np.uint8), fps=10), 0)
    assert (p.count, p.cycles, p.regularity, p.problems) == (0, (), 0.0, ("nothing moves",))


def test_what_does_not_repeat_is_not_regular():
    rows, columns = np.mgrid[:36, :48]
    walk = np.stack([150 * np.exp(-((rows - 18) ** 2 + (columns - x) ** 2) / 30) for x in np.linspace(-5, 40, 90)])
    found = repetition(blocks(walk, 15), 15)
    assert found.regularity < IRREGULAR and "not regular" in found.problems[0] and len(found.cycles) <= 1


def test_faster_than_the_film_shows():
    "Five repetitions a second at 15 pictures a second: each is three pictures."
    found = repetition(
        blocks(filmed(np.zeros(150, int), np.zeros(150, int), repetitions=50)[:, ::2, ::2], 15, smooth=1e-3), 15
    )
    assert found.problems == ("perhaps faster than the film shows",) and found.period < 4 / 15


def test_one_answer_for_each_clip_in_order_whatever_the_files_are(tmp_path):
    good = write_video(tmp_path / "good.mp4", moving_square(4, 8), fps=10)
    one = write_video(tmp_path / "one.mp4", moving_square(1, 0.1), fps=10)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    clips = [Clip(str(tmp_path / n), "", 4) for n in ("gone.mp4", "good.mp4", "text.mp4", "one.mp4", "empty.mp4")]
    answers = PeriodCounter().predict(clips, progress=False)
    assert [p.id for p in answers] == ["gone", "good", "text", "one", "empty"]
    assert [p.count for p in answers] == [None, 4, None, 0, None] and good and one
    assert all(p.problems and c.id in p.problems[0] for p, c in zip(answers, clips) if p.count is None)


def test_a_film_that_breaks_off_says_so(tmp_path):
    "What can be read is counted; the reader's words are handed on."
    path = write_video(tmp_path / "cut.mp4", moving_square(20, 40), fps=10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    p = counted(path, 20)
    assert 5 <= p.count < 20 and any("the video ends at" in problem for problem in p.problems)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7])
def test_films_of_a_few_frames(tmp_path, frames):
    p = counted(write_video(tmp_path / "short.mp4", moving_square(1, frames / 10), fps=10), 0)
    assert p.count in (0, 1) and p.problems


# ---- parts ---------------------------------------------------------------------------------------------------------


def test_principal_components_are_those_of_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    for shape in ((30, 8), (8, 30)):
        x = rng.normal(size=shape) * np.linspace(1, 3, shape[1])
        u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
        ours, theirs = principal(x, 3)[:, ::-1], u[:, :3] * s[:3]
        assert np.allclose(np.abs(ours), np.abs(theirs)) and principal(x, 100).shape == (shape[0], 8)


def test_the_direction_that_repeats_is_found_beneath_a_stronger_one():
    "A drift is many times stronger than the wave."
    t = np.arange(300)
    wave, drift = np.sin(2 * np.pi * t / 20), np.cumsum(np.random.default_rng(0).normal(size=300))
    x = np.stack([wave + drift, drift, 0.1 * np.random.default_rng(1).normal(size=300)], 1)[:, None]
    assert (
        abs(np.corrcoef(to_and_fro(x, np.ones(1), 20), wave)[0, 1])
        > 0.95
        > abs(np.corrcoef(principal(x[:, 0], 1)[:, 0], wave)[0, 1])
    )


def test_a_signal_is_made_even_and_its_rest_stays_small():
    t = np.arange(600)
    wave = np.where(t < 400, (1 + t / 100) * np.sin(2 * np.pi * t / 25), 0) + t / 40
    out = evened(wave, 100)
    sizes = [np.ptp(out[a : a + 25]) for a in (60, 200, 330)]
    assert max(sizes) < 1.3 * min(sizes) and np.ptp(out[460:540]) < 0.3 * min(sizes)
    assert np.allclose(smoothed(np.arange(40.0) ** 2, 9), np.arange(40.0) ** 2) and smoothed(
        np.array([1.0, 2.0]), 9
    ).tolist() == [1, 2]
    assert np.std(smoothed(np.random.default_rng(0).normal(size=400), 15)) < 0.6


def test_a_signal_begins_low():
    t = np.arange(100)
    wave = 1 - np.cos(2 * np.pi * t / 20)
    assert sign_at_rest(wave, 3) == 1 and sign_at_rest(-wave, 3) == -1
    assert sign_at_rest(-wave, 3, before=wave[:40]) == -1 and sign_at_rest(wave, 3, before=wave[:40]) == 1


def test_swings_are_from_rest_to_rest():
    t = np.arange(0, 10, 0.1)
    wave = -np.cos(2 * np.pi * t / 2) + 0.05 * np.random.default_rng(0).normal(size=100)
    found = swings(wave, 1.0, 8)
    assert len(found) == 5 and all(
        abs(b - 10 - 20 * k) <= 2 and abs(a - 20 * k) <= 3 and abs(min(c, 99) - min(20 * k + 20, 99)) <= 3
        for k, (a, b, c) in enumerate(found)
    )
    assert swings(np.zeros(30), 0.5) == [] and all(a < b < c for a, b, c in swings(np.array([0.0, 1, 0]), 0.5))


# ---- counters that look at nothing ---------------------------------------------------------------------------------


def clips(counts, action="squat"):
    return [Clip(f"{action}{k}.mp4", action, n) for k, n in enumerate(counts)]


def test_constant_is_the_best_there_is():
    train = clips([1, 2, 2, 7, 9, 30])
    k = ConstantCounter().fit(train).k
    errors = [sum(abs(c.count - j) for c in train) for j in range(31)]
    assert errors[k] == min(errors) and [p.count for p in ConstantCounter(5).predict(train)] == [5] * 6
    with pytest.raises(ValueError, match="fit"):
        ConstantCounter().predict(train)
    with pytest.raises(ValueError, match="no clips"):
        ConstantCounter().fit([])


def test_class_median_falls_back_to_all():
    counter = ClassMedianCounter().fit(clips([4, 5, 6]) + clips([20, 30, 40], "jump_jack"))
    asked = [Clip("x.mp4", a, 1) for a in ("squat", "jump_jack", "juggling")]
    assert [p.count for p in counter.predict(asked)] == [5, 30, 6] and [p.true for p in counter.predict(asked)] == [
        1,
        1,
        1,
    ]
    with pytest.raises(ValueError, match="fit"):
        ClassMedianCounter().predict(asked)


def test_registry():
    fitted = fitted_counters(clips([3, 4, 5]))
    assert (
        list(fitted) == ["constant", "class_median", "period"]
        and set(fitted) <= set(COUNTERS)
        and fitted["constant"].k == 4
    )
    with pytest.raises(ValueError, match="no counter 'perod', did you mean 'period'"):
        fitted_counters(clips([1]), ["perod"])


def test_the_lag_control_counts_what_fits(tmp_path):
    t = np.arange(150) / 25
    y, x = np.mgrid[:48, :64]
    grey = np.stack(
        [50 + 150 * np.exp(-((x - 32 - 14 * np.sin(2 * np.pi * s / 1.5)) ** 2 + (y - 24) ** 2) / 60) for s in t]
    ).astype(np.uint8)
    write_video(tmp_path / "spot.mp4", np.repeat(grey[..., None], 3, -1), fps=25)
    clips = [
        Clip(str(tmp_path / "spot.mp4"), "spot", 4),
        Clip(str(tmp_path / "spot.mp4"), "spot", 2, window=(0.0, 3.0)),
        Clip(str(tmp_path / "none.mp4"), "spot", 1),
    ]
    found = COUNTERS["lag"]().predict(clips, progress=False)
    assert [p.count for p in found] == [4, 2, None] and found[2].problems


@pytest.mark.parametrize("about", [1.9, 2.0, 5.0])
def test_a_named_period_may_be_longer_than_the_film(about):
    found = repetition(np.random.default_rng(0).normal(100, 20, (20, 2, 3)), 10, about=about)
    assert np.isfinite(found.signal).all() and len(found.cycles) <= 1
    assert "not regular: the pictures do not repeat themselves" in found.problems
