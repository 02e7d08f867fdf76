"Frames and their times: the right ones, from every reader, and from files that are odd or damaged."
import json
import os
import random
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actrep_nb.video import READERS, FrameCache, FramePlan, VideoError, VideoInfo, plan_frames, probe, read_frames, smart_resize, token_budget, write_video

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def numbered(n, height=64, width=96):
    "Frames that carry their own number: 8 bits as black and white blocks, readable after compression."
    out = np.zeros((n, height, width, 3), np.uint8)
    for i, frame in enumerate(out):
        for bit in range(8): frame[:, bit * width // 8 : (bit + 1) * width // 8] = 255 * (i >> bit & 1)
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
    with pytest.raises(VideoError, match="even H and W"): write_video(tmp_path / "x.mp4", np.zeros((2, 5, 4, 3), np.uint8))


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


def test_rotation_is_undone(tmp_path):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:20, :20] = 255  # upper left of the stored picture
    data = bytearray(write_video(tmp_path / "p.mp4", np.stack([picture] * 8)).read_bytes())
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # a quarter turn clockwise, as phones write
    (tmp_path / "p.mp4").write_bytes(data)
    info = probe(tmp_path / "p.mp4")
    assert (info.height, info.width) == (96, 64)
    upright = read_frames(tmp_path / "p.mp4", plan_frames(info, size=(96, 64))).pixels[0]
    assert upright[:15, -15:].mean() > 200 > 50 > upright[:15, :15].mean()


def test_gif_states_no_frame_count(tmp_path):
    pictures = [Image.fromarray(f) for f in numbered(20)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    info = probe(tmp_path / "a.gif")
    assert info.duration == pytest.approx(2.0, abs=0.11) and info.frames == 20
    assert [number(f) for f in read_frames(tmp_path / "a.gif", plan_frames(info, fps=5, size=(64, 96))).pixels] == list(range(0, 20, 2))


def test_window_is_a_clip_of_its_own(clip):
    info = probe(clip)
    frames = read_frames(clip, plan_frames(info, fps=4, size=(64, 96), window=(2.0, 4.0)))
    assert [number(f) for f in frames.pixels] == list(range(16, 32, 2)) and frames.times == pytest.approx(np.arange(8) / 4)
    for window in ((6.5, 7.0), (3.0, 3.0), (-1.0, 2.0)):
        with pytest.raises(VideoError, match=r"clip.mp4 lasts 6.00 s"): plan_frames(info, window=window)
    late = read_frames(clip, plan_frames(info, fps=4, size=(64, 96), window=(5.0, 8.0)))
    assert len(late) == 4 and "ends at 6.00 s" in late.problems[0]


# --- plans


@given(st.floats(0.04, 600), st.floats(0.5, 30), st.integers(2, 200), st.integers(1, 8))
def test_plans_are_even_ascending_and_inside(duration, fps, most, least):
    info = VideoInfo("x", duration, 30, 99, 640, 360, "h264")
    if least > most: return
    plan = plan_frames(info, fps=fps, max_frames=most, min_frames=least)
    n = len(plan.times)
    assert n % 2 == 0 and 2 <= n <= most and list(plan.times) == sorted(set(plan.times))
    assert all(t < duration + 1e-3 for t in plan.times[:-1])
    assert np.diff(plan.times) == pytest.approx(1 / plan.fps)
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
    if max(height, width) / min(height, width) > 200: return
    assert smart_resize(height, width, patch, 3136, 200704) == qwen.smart_resize(height, width, patch, 3136, 200704)


def test_token_budget():
    assert token_budget(FramePlan(tuple(range(64)), None, 56, 56, 4.0)) == 32 * 4
    assert token_budget(FramePlan(tuple(range(60)), None, 256, 448, 2.0), patch=32) == 30 * 8 * 14


# --- readers


@pytest.mark.parametrize("reader", [r for r in READERS if r != "pyav"])
def test_readers_agree(clip, tmp_path, reader):
    write_vfr(tmp_path / "vfr.mp4", numbered(30), np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, 30)))
    compared = 0
    for path in (clip, tmp_path / "vfr.mp4"):
        for fps, size in ((4, (56, 56)), (7.3, (64, 96))):
            plan = plan_frames(probe(path), fps=fps, size=size)
            ours = read_frames(path, plan)
            try: theirs = read_frames(path, plan, reader)
            except VideoError as e: pytest.skip(f"{reader} does not load here: {str(e)[:80]}")
            assert (ours.pixels == theirs.pixels).all() and ours.times == pytest.approx(theirs.times, abs=1e-3)
            compared += len(ours)
    assert compared > 50


def test_unknown_reader(clip):
    with pytest.raises(VideoError, match="pyav, decord, torchcodec"): read_frames(clip, plan_frames(probe(clip)), "opencv")


@pytest.mark.skipif(not SHARED.exists(), reason="the real clips are not at hand (set ACTREP_SHARED_DATA)")
def test_every_real_clip_is_read():
    for path in sorted((SHARED / "clips").glob("*.[mg][pi][4f]")):
        info = probe(path)
        frames = read_frames(path, plan_frames(info, fps=1, max_frames=8, size=(28, 28), window=(0.0, min(2.0, info.duration))))
        assert len(frames) % 2 == 0 and not frames.problems and np.isfinite(frames.times).all(), path


# --- damage


def test_messages_for_what_is_no_video(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("dear diary\n" * 500)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as w:
        w.setnchannels(1); w.setsampwidth(2); w.setframerate(8000); w.writeframes(bytes(16000))
    (tmp_path / "sound.wav").rename(tmp_path / "audio.mp4")
    for name, words in (("absent.mp4", "no such file"), ("empty.mp4", "empty"), ("text.mp4", "text.mp4"), ("audio.mp4", "holds no video, only audio")):
        with pytest.raises(VideoError, match=name) as e: probe(tmp_path / name)
        assert words in str(e.value)
    with pytest.raises(VideoError, match="not a file"): probe(tmp_path)


def test_a_scrap_of_a_video_is_refused(clip, tmp_path):
    "Less than a quarter of the frames is too little to count by."
    plan, cut, scraps = plan_frames(probe(clip), fps=4, size=(64, 96)), tmp_path / "scrap.mp4", 0
    data = clip.read_bytes()
    for share in (20, 30, 40, 45, 50):
        cut.write_bytes(data[: len(data) * share // 100])
        try: assert 4 * len(read_frames(cut, plan)) >= len(plan.times)
        except VideoError as e: scraps += "too few to judge by" in str(e)
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
        if case % 2: bad = bad[: rng.randrange(1, len(bad))]
        else:
            for _ in range(rng.choice([1, 10, 200])): bad[rng.randrange(len(bad))] = rng.randrange(256)
        path = tmp_path / f"bad{case}.mp4"
        path.write_bytes(bad)
        try: frames = read_frames(path, plan)
        except VideoError as e: assert path.name in str(e)
        else:
            assert len(frames) % 2 == 0 and len(frames) == len(frames.pixels) and (np.diff(frames.times) >= 0).all()
            assert len(frames) == len(plan.times) or frames.problems
            noted += bool(frames.problems)
        try: read_frames(path, plan_frames(probe(path), size=(28, 28)))
        except VideoError as e: assert path.name in str(e)
    assert noted > 5


# --- cache


def test_cache_returns_the_same_frames_without_reading_the_video(clip, tmp_path, monkeypatch):
    plan, cache = plan_frames(probe(clip), size=(56, 56)), FrameCache(tmp_path / "c")
    direct, first = read_frames(clip, plan), cache.get(clip, plan)
    monkeypatch.setitem(READERS, "pyav", lambda *a: pytest.fail("decoded again"))
    second = FrameCache(tmp_path / "c").get(clip, plan)
    assert isinstance(second.pixels, np.memmap) and (second.pixels == direct.pixels).all() and (first.times == direct.times).all() and (second.times == direct.times).all()


def test_cache_is_remade_when_source_plan_or_entry_changes(clip, tmp_path):
    video = tmp_path / "v.mp4"
    video.write_bytes(clip.read_bytes())
    plan, cache = plan_frames(probe(video), size=(56, 56)), FrameCache(tmp_path / "c")
    good = np.array(cache.get(video, plan).pixels)
    npy, note = next(cache.folder.glob("*.npy")), next(cache.folder.glob("*.json"))
    flipped = bytearray(npy.read_bytes())
    flipped[-5] ^= 255
    damages = {npy: [b"", npy.read_bytes()[:-1], b"\x93NUMPY garbage", bytes(flipped)], note: [b"", b"{}", b"[]", b"\xff\xfe", json.dumps({"times": [0]}).encode()]}
    for path, contents in damages.items():
        for content in contents:
            path.write_bytes(content)
            assert (FrameCache(cache.folder).get(video, plan).pixels == good).all()
    assert cache.key(video, plan) != cache.key(video, plan_frames(probe(video), size=(28, 28)))
    before = cache.key(video, plan)
    os.utime(video, (1, 1))
    assert cache.key(video, plan) != before
    assert not list(cache.folder.glob("*.part"))
    with pytest.raises(VideoError, match="no such file"): cache.get(tmp_path / "gone.mp4", plan)


def test_problems_survive_the_cache(clip, tmp_path):
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    plan, cache = plan_frames(probe(clip), size=(56, 56)), FrameCache(tmp_path / "c")
    assert cache.get(tmp_path / "cut.mp4", plan).problems == cache.get(tmp_path / "cut.mp4", plan).problems != ()
