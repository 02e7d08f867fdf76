"What a model sees: specs as text, plans within them, and a rate that is measured in the pictures."

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actrep_nb.spec import (
    Motion,
    VideoSpec,
    blocks,
    cautious,
    lag_differences,
    measured_period,
    parse_spec,
    plan_file,
    plan_table,
    plan_video,
    spec_changes,
    tempo,
)
from actrep_nb.video import QWEN3_RULE, FrameCache, VideoInfo, fastest_period, nyquist_fps, video_tokens, write_video
from actrep_nb.film import VideoError

CLIPS = Path(__file__).parents[2] / "shared/data/clips"
specs = st.builds(
    VideoSpec,
    st.one_of(st.just("motion"), st.floats(0.1, 60)),
    st.integers(1, 10**6),
    st.integers(2, 2000),
    st.integers(16 * 28 * 28, 10**7),
    st.one_of(st.none(), st.tuples(st.integers(1, 999), st.integers(1, 999))),
)


def info(seconds=30.0, fps=30.0, size=(720, 1280)):
    return VideoInfo("x", seconds, fps, max(1, round(seconds * fps)), size[1], size[0], "h264")


# ---- text ----------------------------------------------------------------------------------------------------------


@given(specs)
def test_a_spec_is_its_own_text(spec):
    again = parse_spec(str(spec))
    assert replace(again, fps=spec.fps) == spec and (
        again.fps == spec.fps or again.fps == pytest.approx(spec.fps, rel=1e-5)
    )


def test_changes_are_named():
    base = VideoSpec(fps=4.0, frame_size=(56, 84))
    changed = parse_spec("fps=motion, frame_size=any", base)
    assert (
        changed == VideoSpec()
        and spec_changes(base, changed) == "fps=motion instead of 4, frame_size=any instead of 84x56"
        and spec_changes(base, base) == ""
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("fsp=4", "did you mean fps"),
        ("fps=fast", "a number above 0, or motion"),
        ("fps=0", "fps=0"),
        ("fps=nan", "fps=nan"),
        ("max_tokens=4.5", "a whole number"),
        ("max_tokens=0", "must be above 0"),
        ("frame_size=56", "WIDTHxHEIGHT"),
        ("frame_size=0x56", "must be above 0"),
        ("max_frames=1", "2 or more"),
        ("max_pixels_per_frame=448", "shows nothing"),
        ("fps", "a number above 0"),
        ("max_tokens=motion", "a whole number"),
    ],
)
def test_a_text_that_is_no_spec_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_spec(text)


# ---- plans ---------------------------------------------------------------------------------------------------------


@given(
    st.floats(1, 300),
    st.floats(0.2, 10),
    st.integers(400, 30000),
    st.sampled_from([(28, 2), (32, 2), (28, 1)]),
    st.sampled_from([(720, 1280), (1920, 1080), (64, 64), (100, 1500)]),
)
def test_plans_stay_in_budget_and_above_nyquist(seconds, period, budget, family, size):
    token, slot = family
    plan = plan_video(VideoSpec(max_tokens=budget), info(seconds, 60.0, size), period, token, slot)
    assert plan.tokens(token, slot) <= budget and len(plan.times) % 2 == 0 and plan.height >= token <= plan.width
    needed = seconds * 1.25 * nyquist_fps(period, slot) + 4
    if needed < 768 and budget > 64 * needed:
        assert plan.fps > nyquist_fps(period, slot)


@given(specs, st.floats(0.05, 200), st.floats(0.3, 120))
def test_every_limit_holds(spec, seconds, rate):
    try:
        plan = plan_video(spec, info(seconds, rate), 1.0)
    except ValueError:
        return
    assert plan.tokens() <= spec.max_tokens and len(plan.times) <= spec.max_frames
    if spec.frame_size:
        assert (plan.height, plan.width) == spec.frame_size
    else:
        assert plan.height * plan.width <= max(spec.max_pixels_per_frame, 28 * 28 * math.ceil(1280 / 720))


def test_rate_is_bought_before_size():
    slow, fast = plan_video(VideoSpec(), info(), 4.0), plan_video(VideoSpec(), info(), 0.5)
    assert slow.fps < fast.fps and slow.height > fast.height
    starved = plan_video(VideoSpec(max_tokens=512), info(), 0.3)
    assert starved.fps < nyquist_fps(0.3) and starved.tokens() <= 512
    assert (
        plan_video(VideoSpec(), info(), math.inf).fps == 2.0 and plan_video(VideoSpec(), info(fps=5.0), 0.5).fps == 5.0
    ), "no more than the film shows"
    with pytest.raises(ValueError, match="max_tokens=8"):
        plan_video(VideoSpec(max_tokens=8), info())
    with pytest.raises(ValueError, match="whole tokens of 28"):
        plan_video(VideoSpec(frame_size=(56, 60)), info())


# ---- measured motion -----------------------------------------------------------------------------------------------


def test_differences_are_brute_force():
    x = np.random.default_rng(0).normal(size=(23, 7, 10))
    ours = lag_differences(blocks(x, 10, smooth=1e-3))
    for lag in (1, 2, 7, 15, 22):
        d = ((x[lag:, :6, :9] - x[:-lag, :6, :9]) ** 2).mean(0).reshape(2, 3, 3, 3).sum((1, 3)).ravel()
        assert ours[lag] == pytest.approx(d, rel=1e-5)


@pytest.mark.parametrize("fps", [12.5, 15.0, 23.976])
@pytest.mark.parametrize("period", [0.4, 0.9, 1.7, 3.1])
def test_the_period_is_found_and_not_its_double(period, fps):
    "A blob that swings in noise, with drift and a slow pan."
    t = np.arange(round(12 * fps)) / fps
    rows, columns = np.mgrid[:36, :48]
    pictures = np.stack(
        [
            80 * np.exp(-((rows - 18 - 9 * np.cos(2 * np.pi * s / period)) ** 2 + (columns - 24 - s) ** 2) / 30)
            for s in t
        ]
    )
    pictures += np.random.default_rng(0).normal(0, 2, pictures.shape) + 3 * t[:, None, None]
    found, regularity, _ = tempo(blocks(pictures, fps), fps)
    assert found == pytest.approx(period, abs=max(1 / fps, 0.03 * period)) and 0.1 < regularity <= 1


@pytest.mark.parametrize("period", [0.28, 0.3, 0.34])
def test_fast_films_are_seen_fast_enough(tmp_path, period):
    """A tenth of a second is three pictures, and half a period falls between two: the period is found all the same, not
    its double.
    """
    pixels = np.full((240, 64, 64, 3), 235, np.uint8)
    for k, frame in enumerate(pixels):
        frame[(y := round(20 + 16 * math.cos(2 * math.pi * k / 30 / period))) : y + 16, 24:40] = (40, 90, 180)
    assert plan_file(VideoSpec(), write_video(tmp_path / "a.mp4", pixels, 30)).fps > nyquist_fps(period)


def test_pictures_that_do_not_repeat():
    still = np.full((60, 36, 48), 90.0) + np.random.default_rng(0).normal(0, 0.1, (60, 36, 48))
    assert tempo(blocks(still, 15.0), 15.0)[:2] == (math.inf, 0.0) == tempo(blocks(still[:3], 15.0), 15.0)[:2]
    assert (
        cautious(math.inf, 0.0) == 1.0
        and cautious(3.0, 0.5) == 3.0
        and cautious(3.0, 0.1) == 1.0
        and cautious(0.6, 0.1) == 0.3
    )
    noise = np.random.default_rng(0).normal(90, 20, (90, 36, 48))
    assert tempo(blocks(noise, 15.0), 15.0)[1] < 0.25, "noise is not regular"


def test_the_labels_are_not_asked_and_a_cache_remembers(tmp_path, monkeypatch):
    from actrep_nb import spec, video

    pixels = np.full((80, 64, 64, 3), 235, np.uint8)
    for k, frame in enumerate(pixels):
        frame[(y := round(20 + 16 * math.cos(2 * math.pi * k / 10))) : y + 16, 24:40] = (40, 90, 180)
    path, cache = write_video(tmp_path / "a.mp4", pixels, 20), FrameCache(tmp_path / "cache")
    first = measured_period(path, cache=cache)
    assert first == pytest.approx(0.5, abs=0.07) and plan_file(VideoSpec(), path, cache=cache).fps == pytest.approx(
        5 / first
    )
    monkeypatch.setattr(video, "_open", lambda path: pytest.fail("the file was opened"))
    monkeypatch.setattr(spec, "read_frames", lambda *a: pytest.fail("the file was read"))
    assert measured_period(path, cache=FrameCache(cache.folder)) == first
    with pytest.raises(VideoError, match="gone.mp4"):
        plan_file(VideoSpec(), tmp_path / "gone.mp4", cache=cache)


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.exists(), reason="the real clips are not here")
def test_real_clips_are_seen_fast_enough():
    "23 of 24 in development; the one that is missed (snow) is irregular and of 2.4 repetitions a second."
    enough = []
    for row in csv.DictReader(open(CLIPS / "manifest.csv")):
        cycles = [tuple(map(float, c.split("-"))) for c in row["cycles_s"].split(";") if c]
        plan = plan_file(VideoSpec(), CLIPS / row["file"])
        assert plan.tokens() <= 4096
        enough.append(plan.fps >= nyquist_fps(float(np.mean([b - a for a, b in cycles]))))
    assert sum(enough) >= 22 and len(enough) == 24


# ---- a dataset -----------------------------------------------------------------------------------------------------


def test_plan_table():
    motions = [Motion(30.0, 30 / n, 27 / n) for n in (3, 20, 50)]
    table = plan_table(motions, rates=(2, 8), hub=QWEN3_RULE, token=32, kv_bytes=1000)
    assert [r["rate"] for r in table] == ["2 fps", "8 fps", "hub", "motion *"]
    assert [r["too_fast_on_average"] for r in table] == [pytest.approx(2 / 3), 0, pytest.approx(2 / 3), 0]
    assert (
        table[2]["tokens"]["max"] == video_tokens(30, 2, (720, 1280), rule=QWEN3_RULE)
        and table[2]["kv_mb"]["max"] == table[2]["tokens"]["max"] / 1000
    )
    assert all(r["tokens"]["max"] <= 4096 for r in table if r["rate"] != "hub")
    with pytest.raises(ValueError, match="no clip"):
        plan_table([])
    assert fastest_period(None, 10, 5.0) == 0.5


def test_plan_table_of_a_checkpoint_with_one_frame_size():
    """Frames of 56×56 are four tokens for two frames, whatever the video's size; the budget and the limit bound their
    number.
    """
    table = plan_table(
        [Motion(30.0, 1.0, 0.5, (1080, 1920))],
        VideoSpec(max_tokens=80, max_frames=64, frame_size=(56, 56)),
        rates=(1, 4),
    )
    assert [(r["frames"]["max"], r["tokens"]["max"], r["size"]) for r in table] == [
        (30, 60, [56, 56]),
        (40, 80, [56, 56]),
        (40, 80, [56, 56]),
    ]
