"Frames and their times: the right ones, from every reader, and from files that are odd or damaged."

import itertools
import json
import multiprocessing
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import time
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import with_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actrep_nb.families import FAMILIES
from actrep_nb.video import (
    READERS,
    FrameCache,
    FramePlan,
    Frames,
    VideoInfo,
    bench_readers,
    fastest_period,
    nyquist_fps,
    plan_frames,
    probe,
    read_frames,
    smart_resize,
    video_cost,
    video_tokens,
    whole_video_cost,
    write_video,
)
from actrep_nb.film import VideoError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def numbered(n, height=64, width=96):
    "Frames that carry their own number: 8 bits as black and white blocks, readable after compression."
    out = np.zeros((n, height, width, 3), np.uint8)
    for i, frame in enumerate(out):
        for bit in range(8):
            frame[:, bit * width // 8 : (bit + 1) * width // 8] = 255 * (i >> bit & 1)
    return out


def number(frame):
    width = frame.shape[1]
    return sum(int(frame[:, (2 * bit + 1) * width // 16].mean() > 127) << bit for bit in range(8))


def write_vfr(path, pixels, times):
    "H.264 with a time stamp of its own for each frame, in milliseconds."
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for rgb, t in zip(pixels, times):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = round(1000 * t), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("v") / "clip.mp4", numbered(48), fps=8)


def test_probe_and_determinism(clip, tmp_path):
    info = probe(clip)
    assert (info.frames, info.width, info.height, info.rotation, info.codec) == (48, 96, 64, 0, "h264")
    assert info.fps == pytest.approx(8) and info.duration == pytest.approx(6)
    assert write_video(tmp_path / "again.mp4", numbered(48), fps=8).read_bytes() == clip.read_bytes()
    with pytest.raises(VideoError, match="even H and W"):
        write_video(tmp_path / "x.mp4", np.zeros((2, 5, 4, 3), np.uint8))


@pytest.mark.parametrize("fps", [1, 2, 3, 4, 5, 7.3, 8, 16])
def test_the_frame_taken_is_the_one_on_screen(clip, fps):
    plan = plan_frames(probe(clip), fps=fps, max_frames=128, size=(64, 96))
    frames = read_frames(clip, plan)
    assert len(frames) % 2 == 0 and len(frames) == len(plan.times) and not frames.problems
    shown = [min(int(t * 8 + 1e-6), 47) for t in plan.times]  # by arithmetic, not by the reader's own rule
    assert [number(f) for f in frames.pixels] == shown
    assert frames.times == pytest.approx([k / 8 for k in shown], abs=1e-4)


def test_variable_frame_rate(tmp_path):
    times = [0, 0.1, 0.15, 0.9, 1.0, 1.8, 1.85, 1.9]
    write_vfr(tmp_path / "vfr.mp4", numbered(8), times)
    plan = FramePlan((0.0, 0.12, 0.5, 0.95, 1.7, 1.8, 1.86, 1.89), None, 64, 96, 4.0)
    frames = read_frames(tmp_path / "vfr.mp4", plan)
    assert [number(f) for f in frames.pixels] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert frames.times == pytest.approx([0, 0.1, 0.15, 0.9, 1.0, 1.8, 1.85, 1.85], abs=2e-3)


def read_or_refuse(path, plan, reader, why):
    "The frames, or None where the reader refuses for this reason."
    try:
        return read_frames(path, plan, reader)
    except VideoError as e:
        if "does not load" in str(e) or "not installed" in str(e):
            pytest.skip(f"{reader}: {str(e)[:80]}")
        assert re.search(why, str(e)), e
        return None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "a, b, c, d",
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, -1, 0),
        (0, -1, 1, 0),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_display_matrices_are_undone(tmp_path, reader, a, b, c, d):
    "All eight ways to lay a picture down. A point (x, y) of the stored picture is shown at (ax + cy, bx + dy)."
    picture = np.zeros((64, 96, 3), np.uint8)
    light = {
        (-1, -1): 255,
        (1, -1): 170,
        (-1, 1): 85,
        (1, 1): 0,
    }  # corner, from the middle: x to the right, y downwards
    for (x, y), grey in light.items():
        picture[(y + 1) * 22 : (y + 1) * 22 + 20, (x + 1) * 38 : (x + 1) * 38 + 20] = grey
    path = with_matrix(
        write_video(tmp_path / "p.mp4", np.stack([picture] * 8)),
        [65536 * v for v in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30],
    )
    info = probe(path)
    assert (info.height, info.width) == ((64, 96) if a else (96, 64)) and info.mirrored == (a * d - b * c < 0)
    frames = read_or_refuse(path, plan_frames(info, size=(info.height, info.width)), reader, "mirrored")
    if frames is None:
        assert info.mirrored and reader != "pyav"
        return
    shown = frames.pixels[0].mean(2)
    for (x, y), grey in light.items():
        right, down = a * x + c * y > 0, b * x + d * y > 0
        assert abs(shown[-12 if down else 12, -12 if right else 12] - grey) < 12, (x, y)


def test_a_matrix_that_is_damaged_or_askew_turns_to_the_nearest_quarter(tmp_path):
    for k, (matrix, height) in enumerate(
        [
            ([0] * 9, 64),
            ([64000, 14000, 0, -14000, 64000, 0, 0, 0, 1 << 30], 64),
            ([14000, 64000, 0, -64000, 14000, 0, 0, 0, 1 << 30], 96),
        ]
    ):
        info = probe(with_matrix(write_video(tmp_path / f"{k}.mp4", numbered(8)), matrix))
        assert (info.height, info.mirrored) == (height, False)


# --- any film


ODD_NAMES = [
    "2026-11-27T12:30:00.mp4",
    "pipe:.mp4",
    "pipe:0",
    "concat:a.mp4|b.mp4",
    "file:x.mp4",
    "subfile,,start,0,end,9,,:x.mp4",
    "-x.mp4",
    "%03d.mp4",
    "a?b#c&d.mp4",
    "*.mp4",
    "x y\u0308.mp4",
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_a_file_whatever_it_looks_like(tmp_path, monkeypatch, reader, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", numbered(16)).rename(name)
    write_video("made" + name, numbered(8))
    info = probe(name)
    frames = read_or_refuse(name, plan_frames(info, fps=4, size=(64, 96)), reader, "nothing")
    assert (
        info.frames == 16
        and [number(f) for f in frames.pixels] == list(range(0, 16, 2))
        and probe("made" + name).frames == 8
    )


@pytest.mark.parametrize("reader", READERS)
def test_a_picture_is_not_a_pattern(tmp_path, reader):
    "A picture called %03d.png beside 001.png; a film of one frame: decord and torchcodec may refuse it, not read the other."
    for name, grey in (("%03d.png", 200), ("001.png", 50)):
        Image.new("RGB", (96, 64), (grey,) * 3).save(tmp_path / name)
    info = probe(tmp_path / "%03d.png")
    assert (info.frames, info.width, info.height) == (1, 96, 64)
    frames = read_or_refuse(tmp_path / "%03d.png", plan_frames(info, size=(64, 96)), reader, "many pictures")
    assert (frames is None) == (reader != "pyav") and (frames is None or abs(frames.pixels.mean() - 200) < 3)


def streams(path, *films):
    "A file of several video streams, each (codec, frames, default)."
    with av.open(str(path), "w") as out:
        made = []
        for codec, frames, default in films:
            stream = out.add_stream(codec, rate=30)
            stream.height, stream.width, stream.pix_fmt = (
                frames.shape[1],
                frames.shape[2],
                {"libx264": "yuv420p", "mjpeg": "yuvj420p", "png": "rgb24"}[codec],
            )
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            made.append(stream)
        for k in range(max(len(f) for _, f, _ in films)):
            for stream, (_, frames, _) in zip(made, films):
                if k >= len(frames):
                    continue
                frame = av.VideoFrame.from_ndarray(frames[k], format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = k, Fraction(1, 30)
                out.mux(stream.encode(frame))
        for stream in made:
            out.mux(stream.encode())
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "suffix, codec, thumbs",
    [(".mov", "mjpeg", 1), (".mov", "png", 1), (".mov", "mjpeg", 3), (".mkv", "mjpeg", 1), (".mkv", "mjpeg", 3)],
)
def test_the_film_is_the_stream_with_the_frames(tmp_path, reader, suffix, codec, thumbs):
    "A larger picture comes first, and is the default: one, or one for each chapter. Which is the film is told only where both move."
    path = streams(
        tmp_path / f"two{suffix}", (codec, numbered(thumbs, 128, 192), True), ("libx264", numbered(60), False)
    )
    info = probe(path)
    assert (info.frames, info.width, info.codec) == (60, 96, "h264")
    frames = read_or_refuse(path, plan_frames(info, fps=10, size=(64, 96)), reader, "several video streams")
    if frames is None:
        assert reader == "decord"
        return
    assert [number(f) for f in frames.pixels] == list(range(0, 60, 3)) and [
        ("2 films" in p and "stream 1, of 60 frames (stream 0 has 3)" in p) for p in frames.problems
    ] == [True] * (thumbs > 1)


@pytest.mark.parametrize("default", [0, 1, 2, None])
def test_of_several_films_the_default_or_else_the_largest(tmp_path, default):
    films = [
        ("libx264", numbered(n, h, w), k == default)
        for k, (n, h, w) in enumerate([(40, 64, 96), (44, 128, 192), (48, 96, 144)])
    ]
    info = probe(path := streams(tmp_path / "three.mkv", *films))
    assert info.frames == (44 if default is None else 40 + 4 * default)
    (problem,) = read_frames(path, plan_frames(info)).problems
    assert f"3 films; the one read is stream {1 if default is None else default}" in problem


def joined(path, *parts):
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    return path


HOURS = 7 * 3600.0
WRAP = 2**33 / 90000  # seconds after which the 33 bits of an MPEG clock start again


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("first, second", [(0, 0), (0, HOURS), (HOURS, 0), (2, 1), (WRAP - 99, 0), (WRAP - 2, HOURS)])
def test_a_clock_that_starts_again_goes_on(tmp_path, reader, first, second):
    "Two recordings of two seconds in one MPEG-TS: all frames in order, four seconds, as `ffmpeg` corrects it."
    path = joined(
        tmp_path / "j.ts",
        *(
            encode(tmp_path / f"{k}.ts", numbered(60) if k == 0 else 255 - numbered(60), offset=t)
            for k, t in enumerate((first, second))
        ),
    )
    info = probe(path)
    assert info.frames == 120 and info.duration == pytest.approx(4, abs=0.05)
    frames = read_or_refuse(path, plan_frames(info, fps=10, size=(64, 96)), reader, "by guess")
    if frames is None:
        assert reader != "pyav"
        return
    assert [number(f) for f in frames.pixels] == [
        *range(0, 60, 3),
        *range(255, 195, -3),
    ] and frames.times == pytest.approx(np.arange(40) / 10, abs=0.01)
    assert len(frames.problems) == 1 and reader == "pyav"


@pytest.mark.parametrize("reader", READERS)
def test_a_clock_that_wraps_or_pauses_is_left_alone(tmp_path, reader):
    "One recording across the end of the 33 bits, and one with a pause of five seconds, which `ffmpeg` keeps: no correction, no note."
    wraps = encode(tmp_path / "w.ts", numbered(60), offset=WRAP - 1)
    pause = encode(tmp_path / "p.ts", numbered(60), times=[*np.arange(30) / 30, *6 + np.arange(30) / 30])
    for path, seconds in ((wraps, 2), (pause, 7)):
        info = probe(path)
        assert info.duration == pytest.approx(seconds, abs=0.1)
        frames = read_or_refuse(path, plan_frames(info, fps=10, max_frames=100, size=(64, 96)), reader, "by guess")
        assert (frames is None) == (reader != "pyav")
        if frames is not None:
            assert (
                not frames.problems
                and number(frames.pixels[-1]) == 57
                and len(frames) in (10 * seconds, 10 * seconds + 2)
            )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(3, 4), Fraction(16, 11), Fraction(1, 50)])
def test_pixels_that_are_not_square(tmp_path, reader, aspect):
    "What is square on the screen is square in the frames; an aspect that no camera writes is not believed."
    believed = aspect if aspect > Fraction(1, 4) else Fraction(1)
    stored = np.zeros((96, 144, 3), np.uint8)
    side = 48
    stored[24 : 24 + side, 40 : 40 + round(side / believed)] = 255
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt, stream.sample_aspect_ratio = 96, 144, "yuv420p", aspect
        for k in range(8):
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.pixel_aspect) == (round(144 * believed), 96, pytest.approx(float(believed)))
    white = (
        read_or_refuse(tmp_path / "a.mp4", plan_frames(info, size=(info.height, info.width)), reader, "nothing")
        .pixels[0]
        .mean(2)
        > 127
    )
    assert abs(white.any(0).sum() - white.any(1).sum()) <= 2
    assert plan_frames(info, max_pixels=10**6).width / plan_frames(info, max_pixels=10**6).height == pytest.approx(
        info.width / info.height, rel=0.2
    )


def test_a_squeezed_film_that_lies_down(tmp_path):
    "Pixels are stretched as stored, then turned."
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt, stream.sample_aspect_ratio = 64, 96, "yuv420p", Fraction(4, 3)
        for rgb in numbered(8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(stream.encode())
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.rotation) == (64, 128, 270)


@pytest.mark.parametrize(
    "name", ["one.mp4", "slow.mp4", "still.mp4", "still.jpg", "still.png", "still.gif", "still.webp"]
)
def test_frames_that_repeat_have_lengths_and_times(tmp_path, name):
    "One frame, one frame a second, the same frame all along, a picture: no slot lasts no time."
    path = tmp_path / name
    if path.suffix == ".mp4":
        write_video(
            path, np.zeros((1 if name == "one.mp4" else 20, 64, 96, 3), np.uint8), fps=1 if name == "slow.mp4" else 8
        )
    else:
        Image.new("RGB", (96, 64)).save(path)
    info = probe(path)
    frames = read_frames(path, plan_frames(info, size=(56, 56)))
    assert info.duration > 0 and 0 < info.fps < 1000 and info.frames == (20 if name in ("slow.mp4", "still.mp4") else 1)
    assert len(frames) % 2 == 0 and 0 < 2 / frames.fps < 3 and np.isfinite(frames.times).all() and not frames.problems


def test_a_name_that_nearly_matches_is_offered(tmp_path):
    write_video(tmp_path / "IMG_0001.MOV.mp4", numbered(8)).rename(tmp_path / "IMG_0001.MOV")
    for look in (probe, FrameCache(tmp_path / "c").info):
        with pytest.raises(
            VideoError, match=r"img_0001.mov: there is no such file. There is .*IMG_0001.MOV: did you mean it\?"
        ):
            look(tmp_path / "img_0001.mov")


def test_gif_states_no_frame_count(tmp_path):
    pictures = [Image.fromarray(f) for f in numbered(20)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    info = probe(tmp_path / "a.gif")
    assert info.duration == pytest.approx(2.0, abs=0.11) and info.frames == 20
    assert [number(f) for f in read_frames(tmp_path / "a.gif", plan_frames(info, fps=5, size=(64, 96))).pixels] == list(
        range(0, 20, 2)
    )


def test_window_is_a_clip_of_its_own(clip):
    info = probe(clip)
    frames = read_frames(clip, plan_frames(info, fps=4, size=(64, 96), window=(2.0, 4.0)))
    assert [number(f) for f in frames.pixels] == list(range(16, 32, 2)) and frames.times == pytest.approx(
        np.arange(8) / 4
    )
    for window in ((6.5, 7.0), (3.0, 3.0), (-1.0, 2.0)):
        with pytest.raises(VideoError, match=r"clip.mp4 lasts 6.00 s"):
            plan_frames(info, window=window)
    with pytest.raises(VideoError, match=r"lasts 6.00 s, but its annotation speaks of a part from 5.00 s to 8.00 s"):
        plan_frames(info, window=(5.0, 8.0))
    late = read_frames(clip, plan_frames(info, fps=4, size=(64, 96), window=(5.0, 6.3)))
    assert len(late) == 4 and not late.problems and late.times[-1] == 0.75


def test_a_window_ends_where_it_ends(clip):
    "Nothing after it is shown: 5 moments fit, the sixth holds the fifth."
    plan = plan_frames(probe(clip), fps=4, size=(64, 96), window=(2.0, 3.25))
    assert plan.times == (0, 0.25, 0.5, 0.75, 1.0, 1.0)
    assert [number(f) for f in read_frames(clip, plan).pixels] == [16, 18, 20, 22, 24, 24]
    assert plan_frames(VideoInfo("x", 61, 30, 1830, 96, 64, "h264"), fps=0.1).times == (0, 10, 20, 30, 40, 50, 60, 60)


@pytest.mark.parametrize("n", [4, 5, 9, 23, 47])
def test_whole_clips_are_read_as_if_the_last_moment_were_after_the_end(tmp_path, n):
    "Older plans asked for a moment past the end, and had the last picture taken for it: the same bytes."
    path = write_video(tmp_path / "c.mp4", numbered(n), fps=8)
    for fps in (2, 3, 4, 8):
        plan = plan_frames(probe(path), fps=fps, size=(56, 56))
        past = FramePlan(tuple(i / plan.fps for i in range(len(plan.times))), None, 56, 56, plan.fps)
        a, b = read_frames(path, plan), read_frames(path, past)
        assert (a.pixels == b.pixels).all() and (a.times == b.times).all() and a.problems == b.problems


# --- plans


@given(st.floats(0.04, 600), st.floats(0.5, 30), st.integers(2, 200), st.integers(1, 8))
def test_plans_are_even_ascending_and_inside(duration, fps, most, least):
    info = VideoInfo("x", duration, 30, 99, 640, 360, "h264")
    if least > most // 2 * 2:
        return
    plan = plan_frames(info, fps=fps, max_frames=most, min_frames=least)
    n, held = len(plan.times), sorted(set(plan.times))
    assert n % 2 == 0 and 2 <= n <= most and len(held) >= n - 1 and list(plan.times) == sorted(plan.times)
    assert all(t < duration for t in plan.times)
    assert np.diff(held) == pytest.approx(1 / plan.fps)
    assert plan.fps == fps or n in (most, most - 1) or n <= least + 1


def test_tiny_model_plan():
    info = VideoInfo("x", 16.0, 8, 128, 112, 112, "h264")
    assert len(plan_frames(info, size=(56, 56)).times) == 64
    long = plan_frames(VideoInfo("x", 32.0, 8, 256, 112, 112, "h264"), size=(56, 56))
    assert len(long.times) == 64 and long.fps == 2 and long.times[-1] == 31.5


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from([28, 32]))
@settings(deadline=None)  # the first call imports the reference
def test_smart_resize_agrees_with_qwen(height, width, patch):
    qwen = pytest.importorskip("qwen_vl_utils.vision_process", exc_type=ImportError)
    if max(height, width) / min(height, width) > 200:
        return
    assert smart_resize(height, width, patch, 3136, 200704) == qwen.smart_resize(height, width, patch, 3136, 200704)


def test_tokens_of_a_plan():
    assert FramePlan(tuple(range(64)), None, 56, 56, 4.0).tokens() == 32 * 4
    assert FramePlan(tuple(range(60)), None, 256, 448, 2.0).tokens(32) == 30 * 8 * 14


# --- what processors cost

RULES = {name: family.frames for name, family in FAMILIES.items() if family.frames}


def real_processor(family, max_pixels=None):
    "The family's processor in transformers with the limits published on the hub, and no download."
    transformers = pytest.importorskip("transformers")
    from actrep_nb.tiny_base import tiny_tokenizer

    least, most = (4096, 25165824) if family.startswith("qwen3_vl") else (3136, 12845056)
    video_class = (
        transformers.Qwen3VLVideoProcessor if family.startswith("qwen3_vl") else transformers.Qwen2VLVideoProcessor
    )
    whole = {
        "qwen2_vl": "Qwen2VLProcessor",
        "qwen2_5_vl": "Qwen2_5_VLProcessor",
        "qwen3_vl": "Qwen3VLProcessor",
        "qwen3_vl_moe": "Qwen3VLProcessor",
    }[family]
    video = video_class(
        size={"shortest_edge": least, "longest_edge": max_pixels or most},
        do_sample_frames=True,
        cap_pixels_per_frame=False,
    )
    return getattr(transformers, whole)(
        transformers.Qwen2VLImageProcessor(), tiny_tokenizer(), video, chat_template="{{ messages }}"
    )


@pytest.mark.parametrize("family", RULES)
def test_video_tokens_is_what_the_processor_produces(family):
    "Whole processors on real tensors: the video tokens in the prompt are counted."
    import torch

    agreed = slipped = 0
    for limit in (None, 20_000, 60_000):
        processor = real_processor(family, limit)
        for seconds, fps, size, source_fps in itertools.product(
            (0.3, 1.0, 2.7, 8.0), (0.5, 2, 3.3, 8), ((48, 64), (90, 200), (20, 120)), (10, 29.97)
        ):
            total = round(seconds * source_fps)
            video = torch.zeros(1, 3, *size, dtype=torch.uint8).expand(total, -1, -1, -1)
            metadata = [dict(total_num_frames=total, fps=source_fps)]
            try:
                out = processor(
                    text=["<|video_pad|>"],
                    videos=[video],
                    videos_kwargs=dict(fps=fps, video_metadata=metadata),
                    return_tensors="pt",
                )
            except IndexError:
                slipped += 1
                continue  # their sampling went past the last frame
            assert video_tokens(seconds, fps, size, limit, RULES[family], source_fps) == int(
                (out["input_ids"] == processor.video_token_id).sum()
            )
            agreed += 1
    assert agreed + slipped == 288 and slipped <= (9 if not family.startswith("qwen3_vl") else 0)


@pytest.mark.parametrize("family", RULES)
def test_video_tokens_of_long_and_large_videos(family):
    "Their own functions for number of frames and of patches, where real tensors would not fit."
    from transformers.video_utils import VideoMetadata

    compared = 0
    for limit in (None, 100_352, 262_144, 3_670_016):
        video = real_processor(family, limit).video_processor
        for seconds, fps, size, source_fps in itertools.product(
            (0.5, 7, 30.4, 61, 400), (1, 2, 4.5, 8), ((1080, 1920), (1920, 1080), (360, 640), (33, 500)), (25, 30, 60)
        ):
            metadata = VideoMetadata(total_num_frames=round(seconds * source_fps), fps=source_fps)
            frames = len(video.sample_frames(metadata, fps=fps))
            if frames % 2 and not family.startswith("qwen3_vl"):
                continue  # the slip: an index past the end
            ours = video_cost(seconds, fps, size, limit, RULES[family], source_fps)
            assert (ours.frames, ours.tokens) == (frames, video.get_num_of_video_patches(frames, *size, {}) // 4)
            compared += 1
    assert compared > 900


def test_whole_video_cost_is_qwen_vl_utils(monkeypatch):
    qwen = pytest.importorskip("qwen_vl_utils.vision_process", exc_type=ImportError)
    import torch

    for seconds, fps, size, budget in itertools.product(
        (2, 9.7), (1, 2, 4), ((60, 100), (200, 120)), (30_000, 200_000, 3_670_016)
    ):
        total = round(seconds * 30)

        def reader(ele, total=total, size=size):
            n = qwen.smart_nframes(ele, total_frames=total, video_fps=30)
            return torch.zeros(n, 3, *size, dtype=torch.uint8), {}, 1.0

        monkeypatch.setattr(qwen, "get_video_reader_backend", lambda: "test")
        monkeypatch.setitem(qwen.VIDEO_READER_BACKENDS, "test", reader)
        video = qwen.fetch_video(
            {"video": "x", "fps": fps, "total_pixels": budget, "min_pixels": 16 * 32 * 32}, image_patch_size=16
        )
        ours = whole_video_cost(seconds, budget, size, fps)
        assert (ours.frames, ours.height, ours.width) == (video.shape[0], *video.shape[2:])


def test_actrep_r1_max_pixels():
    "What its documentation promises, 672×384 frames for 262144, against what the code does with full HD."

    def seen(seconds, budget):
        return whole_video_cost(seconds, budget, (1080, 1920))

    table = {
        (s, b): (c.height, c.width, c.tokens)
        for s in (10, 30, 60)
        for b in (3670016, 393216, 262144)
        if (c := seen(s, b))
    }
    assert table == {
        (10, 3670016): (448, 800, 3500),
        (10, 393216): (128, 256, 320),
        (10, 262144): (96, 192, 180),
        (30, 3670016): (256, 448, 3360),
        (30, 393216): (96, 160, 450),
        (30, 262144): (96, 160, 450),
        (60, 3670016): (160, 320, 3000),
        (60, 393216): (96, 160, 900),
        (60, 262144): (96, 160, 900),
    }


def test_budget_refuses_nonsense():
    for bad in ({"fps": 0}, {"duration": -1}):
        with pytest.raises(ValueError):
            video_tokens(**{"duration": 3, "fps": 2, "size": (90, 90)} | bad)
    with pytest.raises(VideoError, match="not enough"):
        video_tokens(0.03, 2, (90, 90))
    with pytest.raises(VideoError, match="long and thin"):
        video_tokens(3, 2, (10, 9000))


# --- traps


def test_trap_frames_without_metadata_lie_about_time():
    "Qwen2.5-VL takes frames without metadata for 24 fps whatever `fps` says; Qwen3-VL resamples sixteen frames to four."
    import torch

    video = torch.zeros(16, 3, 56, 56, dtype=torch.uint8)
    old = real_processor("qwen2_5_vl")
    out = old(
        text=["<|video_pad|>"], videos=[video], videos_kwargs=dict(fps=2.0, do_sample_frames=False), return_tensors="pt"
    )
    assert float(out["second_per_grid_ts"][0]) == pytest.approx(2 / 24, abs=1e-3)
    right = old(
        text=["<|video_pad|>"],
        videos=[video],
        videos_kwargs=dict(
            do_sample_frames=False, video_metadata=[dict(total_num_frames=16, fps=2.0, frames_indices=list(range(16)))]
        ),
        return_tensors="pt",
    )
    assert float(right["second_per_grid_ts"][0]) == pytest.approx(1.0)
    new = real_processor("qwen3_vl")(text=["<|video_pad|>"], videos=[video], return_tensors="pt")
    assert int(new["video_grid_thw"][0, 0]) == 2  # four frames in two slots


def test_trap_processors_do_not_cap_what_qwen_vl_utils_caps():
    ours, theirs = (
        video_cost(300, 2, (1080, 1920)),
        whole_video_cost(300, 128000 * 784 * 0.9, (1080, 1920), token=28, min_pixels=128 * 784),
    )
    assert ours.frames == theirs.frames and ours.tokens > 3 * theirs.tokens


def test_trap_qwen_vl_utils_ignores_its_environment_and_its_last_reader_is_gone(monkeypatch):
    qwen = pytest.importorskip("qwen_vl_utils.vision_process", exc_type=ImportError)
    import importlib

    monkeypatch.setenv("FPS_MAX_FRAMES", "8")
    monkeypatch.setenv("VIDEO_MAX_PIXELS", "50176")
    assert importlib.reload(qwen).FPS_MAX_FRAMES == 768 and not hasattr(qwen, "VIDEO_MAX_PIXELS")
    from torchvision import io

    assert not hasattr(io, "read_video")


@pytest.mark.skipif(not SHARED.exists(), reason="the real annotations are not at hand (set ACTREP_SHARED_DATA)")
def test_trap_the_rate_is_the_ceiling():
    "RepCount-A, test: the share of videos that repeat faster than the rate can show."
    import csv

    with open(SHARED / "annotations/repcount_a/test_with_fps.csv") as f:
        rows = list(csv.DictReader(f))
    period = [float(r["duration"]) / float(r["count"]) if float(r["count"]) else np.inf for r in rows]
    shares = [round(100 * float(np.mean([fps < nyquist_fps(p) for p in period])), 1) for fps in (2, 4, 8, 16)]
    assert shares == [37.5, 9.9, 0.7, 0.0]


def test_fastest_period():
    assert fastest_period([(0, 1), (1, 1), (1, 3)], quantile=0) == 1
    assert fastest_period(None, 10, 5.0) == 0.5 and fastest_period((), 0, 5.0) == float("inf")


# --- readers


@pytest.mark.parametrize("reader", [r for r in READERS if r != "pyav"])
def test_readers_agree(clip, tmp_path, reader):
    write_vfr(tmp_path / "vfr.mp4", numbered(30), np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, 30)))
    compared = 0
    for path in (clip, tmp_path / "vfr.mp4"):
        for fps, size in ((4, (56, 56)), (7.3, (64, 96))):
            plan = plan_frames(probe(path), fps=fps, size=size)
            ours = read_frames(path, plan)
            try:
                theirs = read_frames(path, plan, reader)
            except VideoError as e:
                pytest.skip(f"{reader} does not load here: {str(e)[:80]}")
            assert (ours.pixels == theirs.pixels).all() and ours.times == pytest.approx(theirs.times, abs=1e-3)
            compared += len(ours)
    assert compared > 50


def encode(path, frames, codec="libx264", pix_fmt="yuv420p", times=None, offset=0.0, gop=12):
    "Frames at 30 per second or at `times`, seconds."
    times = np.arange(len(frames)) / 30 if times is None else times
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30, options={"g": str(gop)})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pix_fmt
        if codec != "mjpeg":
            stream.codec_context.time_base = Fraction(1, 15000)
        base = stream.codec_context.time_base if codec != "mjpeg" else Fraction(1, 30)
        for rgb, t in zip(frames, times):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round((t + offset) / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


ODD = {
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "uneven.mp4": {"times": np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, 30))},
    "gap.mp4": {"times": [*np.arange(6) / 10, *3 + np.arange(24) / 10]},
    "late.mkv": {"offset": 2.5},
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("reader", [r for r in READERS if r != "pyav"])
def test_readers_agree_on_odd_containers(tmp_path, reader, name):
    path = encode(tmp_path / name, numbered(30), **ODD[name])
    plan = plan_frames(probe(path), fps=4, size=(64, 96))
    try:
        theirs = read_frames(path, plan, reader)
    except VideoError as e:
        pytest.skip(f"{reader} does not load here: {str(e)[:80]}") if "load" in str(e) or "installed" in str(
            e
        ) else pytest.fail(str(e))
    ours = read_frames(path, plan)
    assert [number(f) for f in ours.pixels] == [number(f) for f in theirs.pixels] and ours.times == pytest.approx(
        theirs.times, abs=1e-3
    )


def test_matroska_and_raw_streams_are_measured(tmp_path):
    info = probe(encode(tmp_path / "late.mkv", numbered(60), offset=2.5))
    assert (info.duration, info.fps, info.frames) == pytest.approx((2.0, 30.0, 60))
    raw = probe(encode(tmp_path / "raw.h264", numbered(60)))
    assert raw.frames == 60 and raw.duration == pytest.approx(60 / raw.fps) and 20 < raw.fps < 31


def test_a_matroska_file_whose_sound_is_longer(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream, sound = out.add_stream("libx264", rate=30), out.add_stream("pcm_s16le", rate=8000)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i, rgb in enumerate(numbered(30)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        for k in range(4):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 8000, 8000 * k
            out.mux(sound.encode(silence))
        out.mux(sound.encode())
    assert probe(tmp_path / "a.mkv").duration == pytest.approx(1.0)


def cut_by_edit_list(source, path, start):
    "The packets from the start on, with an edit list that hides what is shown before `start` seconds: `ffmpeg -ss -c copy`."
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        shift = round(start / given.streams.video[0].time_base)
        for packet in given.demux(video=0):
            if packet.dts is None:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            out.mux(packet)
    return path


def test_a_video_cut_by_an_edit_list(tmp_path):
    path = cut_by_edit_list(encode(tmp_path / "whole.mp4", numbered(90), gop=250), tmp_path / "cut.mp4", 2.0)
    info = probe(path)
    assert (info.duration, info.frames) == (pytest.approx(1.0, abs=0.01), 30)
    frames = read_frames(path, plan_frames(info, fps=5, size=(64, 96)))
    assert [number(f) for f in frames.pixels] == [60, 66, 72, 78, 84, 84] and not frames.problems
    with pytest.raises(VideoError, match="edit list|not installed|does not load"):
        read_frames(path, plan_frames(info), "decord")


@pytest.mark.parametrize(
    "call",
    [
        lambda info: plan_frames(info, fps=float("inf")),
        lambda info: plan_frames(info, min_frames=5, max_frames=5),
        lambda info: plan_frames(info, size=(0, 0)),
        lambda info: plan_frames(info, size=(57, 57)).tokens(),
        lambda info: video_cost(float("inf"), 2, (64, 96)),
        lambda info: video_cost(3, 2, (0, 100)),
        lambda info: video_cost(3, 2, (64, 96), -5),
    ],
)
def test_impossible_plans_are_refused(call):
    with pytest.raises(ValueError, match=r"=|whole tokens"):
        call(VideoInfo("x", 4.0, 30, 120, 640, 360, "h264"))


def test_a_cache_needs_room_and_a_folder(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(ValueError, match="max_bytes=0"):
        FrameCache(tmp_path / "c", max_bytes=0)
    with pytest.raises(NotADirectoryError, match="is a file"):
        FrameCache(tmp_path / "f")


def test_unknown_reader(clip):
    with pytest.raises(VideoError, match="pyav, decord, torchcodec"):
        read_frames(clip, plan_frames(probe(clip)), "opencv")


@pytest.mark.skipif(not SHARED.exists(), reason="the real clips are not at hand (set ACTREP_SHARED_DATA)")
@pytest.mark.parametrize("reader", [r for r in READERS if r != "pyav"])
def test_readers_agree_on_real_clips(reader):
    "The same pixels at the same times, in the first two seconds of every clip. decord does not read GIFs, and says so."
    refused, compared = [], 0
    for path in sorted((SHARED / "clips").glob("*.[mg][pi][4f]")):
        plan = plan_frames(probe(path), fps=2, max_frames=4, size=(56, 56), window=(0.0, 2.0))
        ours = read_frames(path, plan)
        try:
            theirs = read_frames(path, plan, reader)
        except VideoError as e:
            if "does not load" in str(e) or "not installed" in str(e):
                pytest.skip(str(e))
            refused.append(path.suffix)
            continue
        assert (ours.pixels == theirs.pixels).all() and ours.times == pytest.approx(theirs.times, abs=1e-3), path.name
        compared += 1
    assert compared >= 23 and set(refused) <= {".gif"}


@pytest.mark.skipif(not SHARED.exists(), reason="the real clips are not at hand (set ACTREP_SHARED_DATA)")
def test_every_real_clip_is_read():
    for path in sorted((SHARED / "clips").glob("*.[mg][pi][4f]")):
        info = probe(path)
        frames = read_frames(
            path, plan_frames(info, fps=1, max_frames=8, size=(28, 28), window=(0.0, min(2.0, info.duration)))
        )
        assert len(frames) % 2 == 0 and not frames.problems and np.isfinite(frames.times).all(), path


# --- damage


def test_messages_for_what_is_no_video(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("dear diary\n" * 500)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(8000)
        w.writeframes(bytes(16000))
    (tmp_path / "sound.wav").rename(tmp_path / "audio.mp4")
    for name, words in (
        ("absent.mp4", "no such file"),
        ("empty.mp4", "empty"),
        ("text.mp4", "text.mp4"),
        ("audio.mp4", "holds no video, only audio"),
    ):
        with pytest.raises(VideoError, match=name) as e:
            probe(tmp_path / name)
        assert words in str(e.value)
    with pytest.raises(VideoError, match="not a file"):
        probe(tmp_path)


def test_a_scrap_of_a_video_is_refused(clip, tmp_path):
    "Less than a quarter of the frames is too little to count by."
    plan, cut, scraps = plan_frames(probe(clip), fps=4, size=(64, 96)), tmp_path / "scrap.mp4", 0
    data = clip.read_bytes()
    for share in (20, 30, 40, 45, 50):
        cut.write_bytes(data[: len(data) * share // 100])
        try:
            assert 4 * len(read_frames(cut, plan)) >= len(plan.times)
        except VideoError as e:
            scraps += "too few to judge by" in str(e)
    assert scraps


def test_a_truncated_video_is_read_as_far_as_it_goes(clip, tmp_path):
    data, plan = clip.read_bytes(), plan_frames(probe(clip), fps=4, size=(64, 96))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 6 // 10])
    frames = read_frames(cut, plan)
    assert 0 < len(frames) < len(plan.times) and len(frames) % 2 == 0 and any("ends at" in p for p in frames.problems)
    whole = read_frames(clip, plan)
    assert (frames.pixels[:-2] == whole.pixels[: len(frames) - 2]).all()


def test_damage_gives_frames_with_a_note_or_one_clear_error(clip, tmp_path):
    data, plan, rng = clip.read_bytes(), plan_frames(probe(clip), fps=4, size=(28, 28)), random.Random(0)
    noted = 0
    for case in range(80):
        bad = bytearray(data)
        if case % 2:
            bad = bad[: rng.randrange(1, len(bad))]
        else:
            for _ in range(rng.choice([1, 10, 200])):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
        path = tmp_path / f"bad{case}.mp4"
        path.write_bytes(bad)
        try:
            frames = read_frames(path, plan)
        except VideoError as e:
            assert path.name in str(e)
        else:
            assert len(frames) % 2 == 0 and len(frames) == len(frames.pixels) and (np.diff(frames.times) >= 0).all()
            assert len(frames) == len(plan.times) or frames.problems
            noted += bool(frames.problems)
        try:
            read_frames(path, plan_frames(probe(path), size=(28, 28)))
        except VideoError as e:
            assert path.name in str(e)
    assert noted > 5


def test_sixty_frames_a_second(tmp_path):
    video = write_video(tmp_path / "fast.mp4", numbered(120), fps=60)
    info = probe(video)
    assert info.fps == pytest.approx(60) and info.duration == pytest.approx(2)
    assert [number(f) for f in read_frames(video, plan_frames(info, fps=20, size=(64, 96))).pixels] == list(
        range(0, 120, 3)
    )


def test_a_rate_in_the_header_that_cannot_be(tmp_path):
    "Time stamps far apart in a stream that claims 1000 frames a second: the packets are believed."
    write_vfr(tmp_path / "v.mp4", numbered(12), np.arange(12) / 4)
    info = probe(tmp_path / "v.mp4")
    assert info.duration == pytest.approx(3, abs=0.3) and info.fps == pytest.approx(4, abs=0.5)


def test_a_video_stream_without_frames(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        out.start_encoding()
    with pytest.raises(VideoError, match="none.mp4"):
        probe(tmp_path / "none.mp4")


def test_fuzz_a_small_sample(tmp_path):
    "Some of the cases of benchmarks/fuzz_video.py, one of each kind of damage at least."
    import fuzz_video

    (tmp_path / "whole").mkdir()
    files = fuzz_video.sources(tmp_path / "whole")
    seen = {}
    for seed in range(1000, 1036):
        kind, name, data = fuzz_video.case(seed, files)
        (tmp_path / name).write_bytes(data)
        start = time.monotonic()
        seen[kind] = fuzz_video.look(tmp_path / name)
        assert time.monotonic() - start < fuzz_video.LIMIT
    assert set(seen) == set(fuzz_video.DAMAGES)


# --- cache


def test_cache_returns_the_same_frames_without_reading_the_video(clip, tmp_path, monkeypatch):
    plan, cache = plan_frames(probe(clip), size=(56, 56)), FrameCache(tmp_path / "c")
    direct, first = read_frames(clip, plan), cache.get(clip, plan)
    monkeypatch.setitem(READERS, "pyav", lambda *a: pytest.fail("decoded again"))
    second = FrameCache(tmp_path / "c").get(clip, plan)
    assert (
        isinstance(second.pixels, np.memmap)
        and (second.pixels == direct.pixels).all()
        and (first.times == direct.times).all()
        and (second.times == direct.times).all()
    )


def test_cache_is_remade_when_source_plan_or_entry_changes(clip, tmp_path):
    video = tmp_path / "v.mp4"
    video.write_bytes(clip.read_bytes())
    plan, cache = plan_frames(probe(video), size=(56, 56)), FrameCache(tmp_path / "c")
    good = np.array(cache.get(video, plan).pixels)
    npy, note = next(cache.folder.glob("*.npy")), next(cache.folder.glob("*.json"))
    flipped = bytearray(npy.read_bytes())
    flipped[-5] ^= 255
    damages = {
        npy: [b"", npy.read_bytes()[:-1], b"\x93NUMPY garbage", bytes(flipped)],
        note: [b"", b"{}", b"[]", b"\xff\xfe", json.dumps({"times": [0]}).encode()],
    }
    for path, contents in damages.items():
        for content in contents:
            path.write_bytes(content)
            assert (FrameCache(cache.folder).get(video, plan).pixels == good).all()
    assert cache.key(video, plan) != cache.key(video, plan_frames(probe(video), size=(28, 28)))
    assert not list(cache.folder.glob("*.part"))
    with pytest.raises(VideoError, match="no such file"):
        cache.get(tmp_path / "gone.mp4", plan)


def test_problems_survive_the_cache(clip, tmp_path):
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    plan, cache = plan_frames(probe(clip), size=(56, 56)), FrameCache(tmp_path / "c")
    assert cache.get(tmp_path / "cut.mp4", plan).problems == cache.get(tmp_path / "cut.mp4", plan).problems != ()


def test_a_touched_source_keeps_its_frames_and_a_changed_one_does_not(clip, tmp_path, monkeypatch):
    video, cache = tmp_path / "v.mp4", FrameCache(tmp_path / "c")
    video.write_bytes(clip.read_bytes())
    plan = plan_frames(probe(video), size=(56, 56))
    cache.get(video, plan)
    os.utime(video, (1, 1))
    with monkeypatch.context() as m:
        m.setitem(READERS, "pyav", lambda *a: pytest.fail("decoded again"))
        for _ in range(2):
            cache.get(video, plan)  # by its hash, then by its new date
    assert json.loads(next(cache.folder.glob("*.json")).read_text())["source"]["mtime_ns"] == 10**9
    write_video(video, 255 - numbered(48), fps=8)
    assert (cache.get(video, plan).pixels == read_frames(video, plan).pixels).all()
    assert len(list(cache.folder.iterdir())) == 2  # the old entry is gone


def test_the_cap_drops_what_was_used_longest_ago(clip, tmp_path):
    info, cache = probe(clip), FrameCache(tmp_path / "c", max_bytes=int(3.4 * 24 * 28 * 28 * 3))
    plans = [plan_frames(info, fps=4, size=(28, 28), window=(0.0, 6.0 - k / 1000)) for k in range(5)]

    def notes():
        return {p.stem for p in cache.folder.glob("*.json")}

    for k, plan in enumerate(plans[:3]):
        cache.get(clip, plan)
        os.utime(cache.folder / f"{cache.key(clip, plan)}.json", (1000 + k, 1000 + k))
    held = cache.get(clip, plans[0])  # used just now
    cache.get(clip, plans[3])
    assert notes() == {cache.key(clip, plans[k]) for k in (0, 2, 3)}
    assert {p.name.split(".")[0] for p in cache.folder.glob("*.npy")} == notes()
    cache.max_bytes, cache._room = 1, 0  # even the entry just made is too large: it stays, the others go
    cache.get(clip, plans[4])
    assert notes() == {cache.key(clip, plans[4])}
    assert held.pixels[0, 0, 0, 0] in (0, 255) or held.pixels.any()  # dropped, yet still readable here


def test_a_cap_is_kept_without_looking_through_the_folder_each_time(clip, tmp_path, monkeypatch):
    "Once the cache is full, each look makes room for several entries."
    import actrep_nb.video as module

    one, looks = 6 * 28 * 28 * 3, []
    tidy = module._tidy
    monkeypatch.setattr(module, "_tidy", lambda *a: looks.append(tidy(*a)))
    info, cache = probe(clip), FrameCache(tmp_path / "c", max_bytes=100 * (one + 128))
    for k in range(220):
        cache.get(clip, plan_frames(info, fps=1, size=(28, 28), window=(0.0, 6.0 - k / 1000)))
        if k % 20 == 0:
            assert sum(p.stat().st_size for p in cache.folder.glob("*.npy")) <= cache.max_bytes
    assert len(list(cache.folder.glob("*.npy"))) >= 90 and len(looks) < 120


def _hammer(folder, video, plans, seed):
    cache, order = FrameCache(folder), random.Random(seed)
    for _ in range(6):
        plan = order.choice(plans)
        frames = cache.get(video, plan)
        assert len(frames) == len(plan.times) and (frames.pixels == read_frames(video, plan).pixels).all()


def _crash(folder, video, plan):
    def stop(*a):
        os._exit(9)

    import actrep_nb.video as module

    real, calls = os.replace, []

    def replace(a, b):
        calls.append(b)
        if len(calls) == 2:
            stop()  # the pixels are there, the note is not
        real(a, b)

    module.os.replace = replace
    FrameCache(folder).get(video, plan)


def test_concurrent_writers_and_a_crash(clip, tmp_path):
    info, context = probe(clip), multiprocessing.get_context("spawn")
    plans = [plan_frames(info, fps=f, size=(28, 28)) for f in (2, 4)]
    crash = context.Process(target=_crash, args=(tmp_path / "c", clip, plans[0]))
    crash.start()
    crash.join(60)
    left = list((tmp_path / "c").iterdir())
    assert crash.exitcode == 9 and not any(p.suffix == ".json" for p in left) and any(p.suffix == ".npy" for p in left)
    workers = [context.Process(target=_hammer, args=(tmp_path / "c", clip, plans, k)) for k in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(120)
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert sorted(p.suffix for p in (tmp_path / "c").iterdir() if p.suffix != ".part") == [
        ".json",
        ".json",
        ".npy",
        ".npy",
    ]
    for part in (tmp_path / "c").glob(".*.part"):
        os.utime(part, (1, 1))
    FrameCache(tmp_path / "c").get(clip, plan_frames(info, fps=8, size=(28, 28)))
    assert not list((tmp_path / "c").glob(".*.part"))  # what the crash left is tidied away


class _Clips:
    def __init__(self, folder, video, plans):
        self.cache, self.video, self.plans = FrameCache(folder), video, plans

    def __len__(self):
        return len(self.plans)

    def __getitem__(self, i):
        import torch

        frames = self.cache.get(self.video, self.plans[i])
        with open("/proc/self/maps") as f:
            maps = [line.split() for line in f if line.rstrip().endswith(".npy")]
        at = torch.from_numpy(np.asarray(frames.pixels)).data_ptr()
        inside = any(int(a, 16) <= at < int(b, 16) for a, b in (m[0].split("-") for m in maps))
        return frames, inside


def _same(batch):
    return batch[0]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
@pytest.mark.filterwarnings("ignore")
def test_data_loader_workers_read_without_a_copy(clip, tmp_path):
    from torch.utils.data import DataLoader

    plans = [plan_frames(probe(clip), fps=f, size=(28, 28)) for f in (1, 2, 4)]
    for plan in plans:
        FrameCache(tmp_path / "c").get(clip, plan)
    for (frames, inside), plan in zip(
        DataLoader(_Clips(tmp_path / "c", clip, plans), batch_size=1, num_workers=1, collate_fn=_same), plans
    ):
        assert inside, "the worker's tensor is not the file's pages"
        assert isinstance(frames.pixels, np.memmap) and (frames.pixels == read_frames(clip, plan).pixels).all()


def test_frames_pickle_by_reference_only_when_they_are_a_whole_file(clip, tmp_path):
    cached = FrameCache(tmp_path / "c").get(clip, plan_frames(probe(clip), fps=4, size=(56, 56)))
    assert len(pickle.dumps(cached)) < 2000 < cached.pixels.nbytes
    for part in (cached.pixels[2:6], cached.pixels[::-1], np.array(cached.pixels)):
        again = pickle.loads(pickle.dumps(Frames(part, cached.times[: len(part)], 4.0, ("a note",))))
        assert (again.pixels == part).all() and again.problems == ("a note",)


def test_the_bench_takes_every_road_and_the_cache_is_the_shortest(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 80, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    video = write_video(tmp_path / "large.mp4", noise, fps=30)
    roads = bench_readers([video], FrameCache(tmp_path / "c"), repeats=3)["roads"]
    assert roads["cache"]["times_as_fast"] > 3 and roads["pyav"]["times_as_fast"] == 1  # how much: actrep bench video


def test_a_cache_remembers_what_a_look_at_the_file_told(tmp_path, monkeypatch):
    "As long as the file is the same; a damaged or an old note is written again."
    from actrep_nb import video as chapter

    write_video(tmp_path / "a.mp4", np.zeros((8, 32, 32, 3), np.uint8), 4)
    looks = []
    monkeypatch.setattr(chapter, "probe", lambda path: looks.append(path) or probe(path))
    cache = FrameCache(tmp_path / "cache")
    first = cache.info(tmp_path / "a.mp4")
    assert (
        first
        == probe(tmp_path / "a.mp4")
        == cache.info(tmp_path / "a.mp4")
        == FrameCache(cache.folder).info(tmp_path / "a.mp4")
        and len(looks) == 1
    )
    note = next(cache.folder.glob("*.info"))
    note.write_text(note.read_text()[:-20])
    assert cache.info(tmp_path / "a.mp4") == first and len(looks) == 2
    write_video(tmp_path / "a.mp4", np.zeros((12, 64, 32, 3), np.uint8), 4)
    assert cache.info(tmp_path / "a.mp4").height == 64 and len(looks) == 3
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(VideoError, match="no such file"):
        cache.info(tmp_path / "a.mp4")


# ---- forks ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_does_not_wait_for_the_threads_of_an_open_decoder(tmp_path):
    path = write_video(
        tmp_path / "large.mp4", np.random.default_rng(0).integers(0, 255, (12, 352, 352, 3), "uint8"), 12
    )
    code = f"""
import gc, os, signal
from actrep_nb.film import _open
from actrep_nb.video import _decode

gc.disable()
container, stream = _open({str(path)!r})
frames = _decode(container, stream, [])
next(frames)
assert stream.codec_context.thread_count != 1
held = [container, stream, frames]
held.append(held)  # only a collection frees it
del container, stream, frames, held
if not (child := os.fork()):
    signal.alarm(20)
    gc.collect()
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n", "")
