"What a count leaves behind: tables, marked films, pictures and pages, read again by other means and compared."

import csv
import html.parser
import json
import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from films import with_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actrep_nb.records import Prediction
from actrep_nb.reps import (
    REPETITION_FILES,
    Counted,
    Repetition,
    count_at,
    count_page,
    exercise_table,
    plot_counted,
    repetitions,
    save_repetitions,
    tempo,
    told_apart,
    write_marked,
)
from actrep_nb.synth import draw_clip
from actrep_nb.video import probe, write_video
from actrep_nb.film import VideoError

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
THREE = Prediction("x", 3, ((0.5, 1.0), (1.0, 1.6), (2.0, 2.5)), regularity=0.7)


def wave(cycles, fps=20.0, length=4.0, upside_down=False):
    "A signal with a cosine hill in each cycle, flat between, whose turning points are known."
    times = np.arange(int(length * fps)) / fps
    values = np.zeros(len(times))
    for a, b in cycles:
        inside = (times >= a) & (times <= b)
        values[inside] = 5 - 5 * np.cos(2 * np.pi * (times[inside] - a) / (b - a))
    return SimpleNamespace(times=times, signal=-values if upside_down else values)


# ---- films ---------------------------------------------------------------------------------------------------------


def write_film(
    path, times, size=(120, 160), sound=None, pix_fmt="yuv420p", aspect=None, rate=44100, seconds=None, begin=0.0
):
    """A still grey film with a time stamp of its own for each frame, in milliseconds; `sound` is a codec that carries a
    sine of 440 Hz.
    """
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "1", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        tone = out.add_stream(sound, rate=rate) if sound else None
        if tone:
            tone.layout = "mono"
        grey = np.full((*size, 3), 128, np.uint8)
        grey[: size[0] // 2, size[1] // 2 :] = 200  # upper right is light: shows which way is up
        for t in times:
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = round(1000 * (t + begin)), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if tone:
            n = int(rate * (seconds or times[-1]))
            samples = (12000 * np.sin(2 * np.pi * 440 * np.arange(n) / rate)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, round(rate * begin), Fraction(1, rate)
            out.mux(tone.encode(frame))
            out.mux(tone.encode(None))
    return path


def watch(path):
    "Times, ends and pictures of a film, by PyAV alone."
    with av.open(str(path)) as film:
        frames = list(film.decode(video=0))
        return (
            [f.time for f in frames],
            [float((f.pts + f.duration) * f.time_base) for f in frames],
            [f.to_ndarray(format="rgb24") for f in frames],
        )


def listen(path):
    "The packets of a film's sound as bytes, and their times in seconds."
    with av.open(str(path)) as film:
        packets = [p for p in film.demux(audio=0) if p.size]
        return (
            [bytes(p) for p in packets],
            [float(p.pts * p.time_base) for p in packets],
            film.streams.audio[0].codec_context.name,
        )


STEADY = [k / 25 for k in range(75)]
UNEVEN = [0.0, 0.1, 0.15, 0.5, 0.501, 0.98, 1.0, 1.3, 1.6, 1.61, 2.4, 2.5, 2.52, 2.9]


def corner(picture):
    return picture[: picture.shape[0] // 3, : picture.shape[1] // 3].astype(int)


def changes(times, pictures):
    "When the corner where the counter stands looks different from the frame before."
    return [t for t, a, b in zip(times[1:], pictures, pictures[1:]) if np.abs(corner(b) - corner(a)).mean() > 1.5]


@pytest.mark.parametrize(
    "times", [STEADY, [k / 60 for k in range(180)], [k / 8 for k in range(24)], UNEVEN], ids=["25", "60", "8", "uneven"]
)
def test_the_count_rises_with_the_first_frame_after_each_end(tmp_path, times):
    film = write_film(tmp_path / "film.mp4", times)
    marked = write_marked(film, THREE, tmp_path / "marked.mp4", progress=False)
    (seen, ends, pictures), (times, until, _) = watch(marked.path), watch(film)
    assert seen == pytest.approx(times, abs=1e-6) and marked.frames == len(times)
    assert ends == pytest.approx(until, abs=1e-4) and marked.seconds == pytest.approx(ends[-1], abs=1e-4)
    assert changes(seen, pictures) == pytest.approx(
        [min(t for t in times if t >= end - 1e-9) for _, end in THREE.cycles]
    )


def test_what_is_not_marked_stays_as_it_was(tmp_path):
    film = write_film(tmp_path / "film.mp4", STEADY)
    before, after = watch(film)[2], watch(write_marked(film, THREE, tmp_path / "m.mp4", crf=1, progress=False).path)[2]
    assert len(before) == len(after)
    for a, b in zip(before[::10], after[::10]):
        assert np.abs(a[50:110].astype(int) - b[50:110]).max() <= 4


@pytest.mark.parametrize("matrix, range_", [(1, 1), (2, 1), (6, 1), (1, 2)])
def test_colours_stay(tmp_path, matrix, range_):
    "Whatever recipe and range a film is tagged with: red stays the same red for one who reads the tags."
    with av.open(str(tmp_path / "film.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 96, 96, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = matrix, range_, 1, 1
        picture = np.zeros((96, 96, 3), np.uint8)
        picture[:, 48:], picture[60:, :] = (220, 40, 40), (40, 200, 60)
        for _ in range(3):
            out.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                        format="yuv420p", dst_colorspace=matrix if matrix == 1 else 5, dst_color_range=range_
                    )
                )
            )
        out.mux(stream.encode())
    marked = write_marked(tmp_path / "film.mp4", THREE, tmp_path / "m.mp4", crf=1, progress=False).path
    with av.open(str(tmp_path / "film.mp4")) as a, av.open(str(marked)) as b:
        assert a.streams.video[0].codec_context.colorspace == matrix and (
            b.streams.video[0].codec_context.colorspace == 1
        ) == (matrix == 1)
        one, two = (next(f.decode(video=0)).to_ndarray(format="rgb24").astype(int) for f in (a, b))
    assert one[50, 80] == pytest.approx([220, 40, 40], abs=6)
    for y, x in ((50, 80), (80, 30)):
        assert one[y, x] == pytest.approx(two[y, x], abs=6)


def test_odd_sizes_get_one_line_more(tmp_path):
    film = write_film(tmp_path / "film.mkv", STEADY[:10], size=(121, 163), pix_fmt="yuv444p")
    pictures = watch(write_marked(film, THREE, tmp_path / "m.mp4", progress=False).path)[2]
    assert pictures[0].shape == (122, 164, 3)
    still = [Image.fromarray(np.full((51, 33, 3), v, np.uint8)) for v in (40, 80, 120, 160)]
    still[0].save(tmp_path / "a.gif", save_all=True, append_images=still[1:], duration=[100, 300, 100, 500])
    times, _, pictures = watch(write_marked(tmp_path / "a.gif", THREE, tmp_path / "g.mp4", progress=False).path)
    assert times == pytest.approx([0, 0.1, 0.4, 0.5]) and pictures[0].shape == (52, 34, 3)


def test_a_rotated_film_is_written_upright(tmp_path):
    film = with_matrix(
        write_film(tmp_path / "film.mp4", STEADY[:10]), (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    )  # a quarter turn clockwise
    marked = write_marked(film, Prediction("x", 0, ()), tmp_path / "m.mp4", progress=False).path
    assert (probe(marked).height, probe(marked).width, probe(marked).rotation) == (160, 120, 0)
    picture = watch(marked)[2][0]
    assert picture[100:140, 80:110].mean() == pytest.approx(200, abs=6)  # upper right has become lower right
    assert picture[60:75, 80:110].mean() == pytest.approx(128, abs=6) and picture[
        100:140, 10:50
    ].mean() == pytest.approx(128, abs=6)


def test_a_mirrored_film_is_written_as_it_is_shown(tmp_path):
    film = with_matrix(
        write_film(tmp_path / "film.mp4", STEADY[:10]), (-65536, 0, 0, 0, 65536, 0, 160 << 16, 0, 1 << 30)
    )
    picture = watch(write_marked(film, Prediction("x", 0, ()), tmp_path / "m.mp4", progress=False).path)[2][0]
    assert picture[35:55, 10:70].mean() == pytest.approx(200, abs=6) and picture[35:55, 90:150].mean() == pytest.approx(
        128, abs=6
    )


def test_narrow_pixels_are_widened(tmp_path):
    film = write_film(tmp_path / "film.mp4", STEADY[:10], aspect=Fraction(3, 2))
    with av.open(str(write_marked(film, THREE, tmp_path / "m.mp4", progress=False).path)) as marked:
        stream = marked.streams.video[0]
        assert (stream.width, stream.height, stream.sample_aspect_ratio or 1) == (240, 120, 1)


# ---- sound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix, codec", [(".mp4", "aac"), (".mkv", "aac"), (".mkv", "libopus"), (".mp4", "libmp3lame"), (".mkv", "flac")]
)
def test_sound_is_copied_packet_for_packet(tmp_path, suffix, codec):
    film = write_film(tmp_path / f"film{suffix}", STEADY, sound=codec, rate=48000)
    marked = write_marked(film, THREE, tmp_path / "marked.mp4", progress=False)
    (before, then, _), (after, now, name) = listen(film), listen(marked.path)
    assert marked.sound == "copied" and not marked.problems and name.startswith(codec.removeprefix("lib")[:3])
    assert len(before) > 20 and after == before
    assert now == pytest.approx(then, abs=1.1e-3)  # Matroska's clock has milliseconds


@pytest.mark.parametrize(
    "suffix, codec, rate", [(".mov", "pcm_s16le", 44100), (".mkv", "mp2", 44100), (".mkv", "pcm_s16le", 11000)]
)
def test_sound_that_mp4_cannot_hold_becomes_aac(tmp_path, suffix, codec, rate):
    film = write_film(tmp_path / f"film{suffix}", STEADY, sound=codec, rate=rate)
    marked = write_marked(film, THREE, tmp_path / "marked.mp4", progress=False)
    assert marked.sound == "as AAC" and not marked.problems
    with av.open(str(marked.path)) as out:
        frames = list(out.decode(audio=0))
        samples = np.concatenate([f.to_ndarray()[0] for f in frames])
        rate, name = frames[0].rate, out.streams.audio[0].codec_context.name
    assert name == "aac" and len(samples) / rate == pytest.approx(STEADY[-1], abs=0.1)
    middle = samples[rate : 2 * rate]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == pytest.approx(440, abs=2)


def test_a_transport_stream_and_its_clock(tmp_path):
    "Its clock starts anywhere; AAC is wrapped otherwise there, so packets lose their headers."
    film = write_film(tmp_path / "film.ts", STEADY, sound="aac", begin=100.0)
    marked = write_marked(film, THREE, tmp_path / "m.mp4", progress=False)
    times, _, pictures = watch(marked.path)
    assert times == pytest.approx(STEADY, abs=1e-4) and len(changes(times, pictures)) == 3
    (before, then, _), (after, now, _) = listen(film), listen(marked.path)
    with av.open(str(film)) as f:
        first = float(next(p for p in f.demux(video=0) if p.size).pts * f.streams.video[0].time_base)
    assert marked.sound == "copied" and len(after) == len(before) and all(a in b for a, b in zip(after, before))
    assert now == pytest.approx([t - first for t in then], abs=2e-3)


def test_a_silent_film_stays_silent(tmp_path):
    marked = write_marked(write_film(tmp_path / "film.mp4", STEADY), THREE, tmp_path / "m.mp4", progress=False)
    with av.open(str(marked.path)) as out:
        assert marked.sound == "none" and not out.streams.audio


def test_a_window_is_cut_out_with_its_sound(tmp_path):
    film = write_film(tmp_path / "film.mp4", [k / 25 for k in range(250)], sound="aac")
    marked = write_marked(film, THREE, tmp_path / "m.mp4", window=(4.0, 7.0), progress=False)
    times, ends, pictures = watch(marked.path)
    assert marked.frames == 75 and times[0] == 0 and ends[-1] == pytest.approx(3.0, abs=2e-3)
    assert changes(times, pictures) == pytest.approx([1.0, 1.6, 2.52])  # 2.5 lies between two frames
    (before, then, _), (after, now, _) = listen(film), listen(marked.path)
    assert after == [b for b, t in zip(before, then) if 4.0 <= t < 7.0]
    assert now == pytest.approx([t - 4.0 for t in then if 4.0 <= t < 7.0], abs=1e-4)


def test_several_sounds_are_told(tmp_path):
    with (
        av.open(str(write_film(tmp_path / "one.mp4", STEADY, sound="aac"))) as film,
        av.open(str(tmp_path / "two.mp4"), "w") as out,
    ):
        streams = {s.index: out.add_stream_from_template(s) for s in film.streams}
        second = out.add_stream_from_template(film.streams.audio[0])
        for packet in film.demux():
            if not packet.size:
                continue
            again = packet.stream.type == "audio" and av.Packet(bytes(packet))
            if again:
                again.pts, again.dts, again.time_base, again.stream = packet.pts, packet.dts, packet.time_base, second
            packet.stream = streams[packet.stream_index]
            out.mux(packet)
            if again:
                out.mux(again)
    marked = write_marked(tmp_path / "two.mp4", THREE, tmp_path / "m.mp4", progress=False)
    assert marked.problems == ("1 sound stream left out",) and listen(marked.path)[0] == listen(tmp_path / "one.mp4")[0]


# ---- marks ---------------------------------------------------------------------------------------------------------


def test_the_counter_of_counts_without_times_stands_still(tmp_path):
    film = write_film(tmp_path / "film.mp4", STEADY)
    for k, p in enumerate((Prediction("x", 8), Prediction("x", None), Prediction("x", 0, ()))):
        times, _, pictures = watch(write_marked(film, p, tmp_path / f"{k}.mp4", progress=False).path)
        assert changes(times, pictures) == [] and np.abs(corner(pictures[0]) - 128).max() > 60


def test_signal_box_and_skeleton_are_drawn_where_they_are(tmp_path):
    film = write_film(tmp_path / "film.mp4", STEADY)
    box = lambda t: (0.5, 0.5, 0.75, 0.75) if t >= 1 else None
    body = lambda t: np.array([[0.9, 0.4, 1], [0.9, 0.6, 1], [0.3, 0.6, 0.2]])
    pictures = watch(
        write_marked(
            film, THREE, tmp_path / "m.mp4", wave(THREE.cycles), box, body, [(0, 1), (1, 2)], crf=1, progress=False
        ).path
    )[2]
    plain = watch(film)[2]
    changed = [np.abs(a.astype(int) - b).sum(axis=-1) > 60 for a, b in zip(pictures, plain)]
    assert (
        changed[50][60:90, 78:82].mean() > 0.4 and not changed[10][60:80, 78:82].any()
    )  # the box's left side, from one second on
    assert (
        changed[10][48:72, 142:146].mean() > 0.3 and not changed[10][70:75, 44:52].any()
    )  # a bone; a point that is not seen
    assert changed[10][-18:].mean() > 0.8  # signal and phase bar


def test_a_film_that_breaks_off_leaves_nothing(tmp_path):
    film = write_film(tmp_path / "film.mp4", STEADY)

    def box(second):
        if second > 1:
            raise RuntimeError("no more boxes")

    with pytest.raises(RuntimeError, match="no more boxes"):
        write_marked(film, THREE, tmp_path / "m.mp4", box=box, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    with pytest.raises(VideoError, match="no part from 50"):
        write_marked(film, THREE, tmp_path / "m.mp4", window=(50, 60), progress=False)
    with pytest.raises(VideoError, match="no such file"):
        write_marked(tmp_path / "no.mp4", THREE, tmp_path / "m.mp4", progress=False)
    with pytest.raises(ValueError, match="is the film itself"):
        write_marked(film, THREE, film, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


def test_memory_does_not_grow_with_the_film(tmp_path):
    "In a process of its own: first ten seconds, then sixty, which would be 280 MB of pictures as decoded."
    for seconds in (10, 60):
        write_film(tmp_path / f"{seconds}.mp4", [k / 10 for k in range(10 * seconds)], size=(480, 640), sound="aac")
    code = """
import resource, sys
from actrep_nb.records import Prediction
from actrep_nb.reps import write_marked
for name in sys.argv[1:]:
    write_marked(name, Prediction("x", 1, ((1.0, 2.0),)), name + ".marked.mp4", progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "10.mp4", tmp_path / "60.mp4"],
        capture_output=True,
        text=True,
        check=True,
    )
    short, long = map(int, done.stdout.split())
    assert long - short < 30


# ---- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upside_down", [False, True])
def test_turning_points_of_a_known_wave(upside_down):
    cycles = ((0.5, 1.5), (1.5, 2.1), (2.5, 3.5))
    rows = repetitions(Prediction("x", 3, cycles), wave(cycles, 40, upside_down=upside_down))
    assert [r.turn for r in rows] == pytest.approx([1.0, 1.8, 3.0], abs=0.03)
    assert [(r.rise, r.fall) for r in rows] == [pytest.approx((d / 2, d / 2), abs=0.03) for d in (1.0, 0.6, 1.0)]
    assert [r.rest_before for r in rows] == [None, 0.0, pytest.approx(0.4)]
    assert [r.range for r in rows] == pytest.approx([10] * 3, abs=0.1) and min(r.likeness for r in rows) > 0.99


def test_likeness_tells_the_odd_one_out():
    cycles = tuple((k * 1.0, k + 1.0) for k in range(4))
    signal = wave(cycles, 40)
    signal.signal[80:120] = np.random.default_rng(0).normal(5, 3, 40)
    alike = [r.likeness for r in repetitions(Prediction("x", 4, cycles), signal)]
    assert (
        alike[2] < 0.65 and min(alike[0], alike[1], alike[3]) > 0.85
    )  # noise, stretched, still has its peak where the others have theirs
    pair, noise = (
        ((0.0, 1.0), (1.0, 2.0)),
        SimpleNamespace(times=np.arange(80) / 40, signal=np.random.default_rng(1).normal(0, 1, 80)),
    )
    assert max(r.likeness for r in repetitions(Prediction("x", 2, pair), noise)) < 0.5  # each like nothing but itself


def test_a_slower_repetition_is_no_other_one():
    cycles = ((0.0, 1.0), (1.0, 3.0), (3.0, 3.8))
    signal = wave(cycles, 40)
    signal.signal = np.interp(
        np.where(signal.times < 0.8, signal.times / 1.6, signal.times), signal.times, signal.signal
    )  # the first rises slowly
    signal.signal[32:40] = np.interp(signal.times[32:40], [0.8, 1.0], [10, 0])
    assert min(r.likeness for r in repetitions(Prediction("x", 3, cycles), signal)) > 0.9


def test_nothing_that_moves_is_alike():
    cycles = tuple((k * 1.0, k + 1.0) for k in range(4))
    signal = wave((), 40)
    flat = SimpleNamespace(times=signal.times, signal=np.zeros(len(signal.times)))
    assert [r.likeness for r in repetitions(Prediction("x", 4, cycles), flat)] == [None] * 4


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), max_size=12), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_any_cycles_make_a_table(spans, samples):
    cycles = tuple((a, a + d) for a, d in spans)
    signal = SimpleNamespace(times=np.linspace(0, 100, samples), signal=np.sin(np.arange(samples)))
    rows = repetitions(Prediction("x", len(cycles), cycles), signal)
    assert [r.number for r in rows] == list(range(1, len(cycles) + 1)) and [r.start for r in rows] == sorted(
        a for a, _ in cycles
    )
    assert all(r.likeness is None or 0 <= r.likeness <= 1 for r in rows) and all(
        (r.rest_before or 0) >= 0 for r in rows
    )
    for write in REPETITION_FILES.values():
        write(rows)
    json.loads(REPETITION_FILES[".json"](rows))
    assert count_at(1000, Prediction("x", len(cycles), cycles))[0] == str(len(cycles))
    tempo(rows)


def parse_subtitles(text, mark):
    "Cues as (start, end, text), by the rules of the format and not by ours."
    cues = []
    for block in re.split(r"\n\n+", text.strip()):
        lines = block.split("\n")
        if lines[0] == "WEBVTT":
            continue
        found = re.fullmatch(
            rf"(\d\d):(\d\d):(\d\d){re.escape(mark)}(\d\d\d) --> (\d\d):(\d\d):(\d\d){re.escape(mark)}(\d\d\d)",
            lines[1],
        )
        h, m, s, ms, h2, m2, s2, ms2 = map(int, found.groups())
        assert lines[0] == str(len(cues) + 1)
        cues.append((3600 * h + 60 * m + s + ms / 1000, 3600 * h2 + 60 * m2 + s2 + ms2 / 1000, " ".join(lines[2:])))
    return cues


@pytest.mark.parametrize("suffix, mark", [(".srt", ","), (".vtt", ".")])
def test_subtitles_are_read_back(tmp_path, suffix, mark):
    rows = repetitions(Prediction("x", 3, ((0.0, 1.2346), (59.9996, 61.0), (3700.25, 3700.25))))
    cues = parse_subtitles(save_repetitions(rows, tmp_path / f"a{suffix}").read_text(), mark)
    assert [round(t, 3) for c in cues for t in c[:2]] == [0, 1.235, 60.0, 61.0, 3700.25, 3700.251]
    assert [c[2].split()[0] for c in cues] == ["1", "2", "3"]
    moved = parse_subtitles(save_repetitions(rows, tmp_path / f"b{suffix}", begin=10).read_text(), mark)
    assert [round(c[0], 3) for c in moved] == [10, 70, 3710.25]
    with av.open(str(tmp_path / f"a{suffix}")) as file:  # FFmpeg reads it too
        assert len([p for p in file.demux() if p.size]) == 3


def test_csv_and_json_say_the_same(tmp_path):
    rows = repetitions(THREE, wave(THREE.cycles))
    table = list(csv.DictReader(save_repetitions(rows, tmp_path / "a.CSV").read_text().splitlines()))
    records = json.loads(save_repetitions(rows, tmp_path / "a.json", begin=0).read_text())
    assert [{k: None if v == "" else float(v) for k, v in r.items()} for r in table] == records and len(records) == 3
    assert records[0]["rest_before"] is None and records[1]["rest_before"] == 0 and records[2]["start"] == 2.0
    assert save_repetitions([], tmp_path / "none.csv").read_text().count("\n") == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_each_repetition_says_which_set_it_belongs_to(tmp_path):
    "Three sets in whatever order a counter lists them; a pause shorter than the rest ends none."
    cycles = ((30.0, 31.0), (0.0, 1.0), (1.0, 2.0), (3.5, 4.5), (12.0, 13.0), (13.2, 14.0))
    rows = repetitions(Prediction("x", 6, cycles))
    assert [(r.start, r.set) for r in rows] == [(0.0, 1), (1.0, 1), (3.5, 1), (12.0, 2), (13.2, 2), (30.0, 3)]
    assert [
        r["set"] for r in csv.DictReader(save_repetitions(rows, tmp_path / "a.csv", begin=100).read_text().splitlines())
    ] == ["1", "1", "1", "2", "2", "3"]
    assert [r["set"] for r in json.loads(save_repetitions(rows, tmp_path / "a.json").read_text())] == [1, 1, 1, 2, 2, 3]
    results = [
        Counted("a.mp4", Prediction("a", 6, cycles), rows),
        Counted("b.mp4", THREE, repetitions(THREE)),
        Counted("c.mp4", Prediction("c", 4)),
    ]
    assert [(r["films"], r["sets"], r["repetitions"]) for r in exercise_table(results)] == [(3, 4, 13)]
    shown = [
        row for row in Reader(count_page(results[:1], tmp_path / "p.html").read_text("utf-8")).rows if len(row) == 11
    ]
    assert shown[0][-1] == "set" and [row[-1] for row in shown[1:]] == ["1", "1", "1", "2", "2", "3"]


def test_slowing():
    lasting = [1, 1, 1.2, 1.1, 1.5, 1.5]
    ends = np.cumsum(lasting)
    rows = [Repetition(k + 1, e - d, e, d) for k, (d, e) in enumerate(zip(lasting, ends))]
    assert (
        tempo(rows).slowing == pytest.approx(0.5)
        and tempo(rows).per_minute == pytest.approx(60 * 6 / 7.3)
        and tempo(rows).seconds == pytest.approx(1.15)
    )


# ---- the picture ---------------------------------------------------------------------------------------------------


def drawn(fig, folder):
    fig.savefig(folder / "x.png")
    return Image.open(folder / "x.png").size


def pictures_of(fig):
    return [ax for ax in fig.axes if ax.images]


def test_the_picture_shows_each_repetition_at_its_turning_point(tmp_path):
    clip = draw_clip("jumping_jack", 5, seed=1, fps=12)
    film = write_video(tmp_path / "film.mp4", clip.pixels, fps=12)
    middle = SimpleNamespace(
        times=np.arange(len(clip.pixels)) / 12, signal=wave(clip.cycles, 12, len(clip.pixels) / 12).signal
    )
    prediction = Prediction("x", 5, clip.cycles, problems=("camera moves",), regularity=0.3)
    fig = plot_counted(film, prediction, middle, counter="motion")
    shown = pictures_of(fig)
    rows = repetitions(prediction, middle)
    assert [ax.get_title() for ax in shown] == [f"{r.number}: {r.turn:.1f} s" for r in rows]
    for ax, row in zip(shown, rows):
        small = np.asarray(
            Image.fromarray(np.asarray(ax.images[0].get_array())).resize((112, 112)).convert("L")
        ).astype(int)
        turned, start = (
            np.asarray(Image.fromarray(clip.pixels[round(t * 12)]).convert("L")).astype(int)
            for t in (row.turn, row.start)
        )
        assert np.abs(small - turned).mean() < 0.5 * np.abs(small - start).mean()
    assert (
        "film.mp4: 5 repetitions, counted by motion; fairly regular (0.30)" in fig.get_suptitle()
        and "camera moves" in fig.get_suptitle()
    )
    drawn(fig, tmp_path)


def test_pictures_of_counts_that_say_little(tmp_path):
    film = write_film(tmp_path / "film.mp4", STEADY)
    for p, said in (
        (Prediction("x", 7), "no times given"),
        (Prediction("x", None, problems=("empty",)), "no times given"),
        (Prediction("x", 0, ()), "no repetitions"),
    ):
        fig = plot_counted(film, p, counter="a model")
        assert len(pictures_of(fig)) == 8 and said in [t.get_text() for ax in fig.axes for t in ax.texts]
        drawn(fig, tmp_path)
    many = Prediction("x", 90, tuple((k / 30, k / 30 + 1 / 30) for k in range(90)))
    fig = plot_counted(film, many, wave(()))
    assert len(pictures_of(fig)) == 16 and "16 of 90 are shown" in fig.get_suptitle()
    drawn(fig, tmp_path)


@pytest.mark.parametrize(
    "sets, each, seconds", [(1, 12, 40.0), (12, 10, 2.2), (3, 60, 1.5), (1, 420, 1.4), (5, 1, 0.5)]
)
def test_numbers_of_bars_do_not_touch(tmp_path, sets, each, seconds):
    "As drawn: no number's box meets another's, and there is one at least."
    film = write_film(tmp_path / "film.mp4", [float(k) for k in range(600)])
    cycles = tuple(
        (s * 600 / sets + k * seconds, s * 600 / sets + (k + 1) * seconds) for s in range(sets) for k in range(each)
    )
    fig = plot_counted(film, Prediction("x", len(cycles), cycles))
    fig.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in fig.axes[-1].texts), key=lambda b: b.x0)
    assert (
        boxes
        and all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:]))
        and (len(boxes) == len(cycles)) == (len(cycles) < 13)
    )


def test_repetitions_after_the_end_are_shown_as_not_there(tmp_path):
    film = write_film(tmp_path / "film.mp4", STEADY)
    fig = plot_counted(film, Prediction("x", 3, ((0.5, 1.0), (2.0, 2.5), (100.0, 101.0))))
    assert [t.get_text() for ax in pictures_of(fig) for t in ax.texts] == ["not in\nthe film"]
    assert plot_counted(film, Prediction("x", 1, ((100.0, 101.0),))).axes


def test_a_window_shows_its_own_frames(tmp_path):
    pixels = np.stack([np.full((96, 96, 3), v, np.uint8) for v in range(40, 240, 2)])
    film = write_video(tmp_path / "film.mp4", pixels, fps=10)
    fig = plot_counted(film, Prediction("x", 1, ((1.0, 2.0),)), window=(5.0, 9.0))
    assert np.asarray(pictures_of(fig)[0].images[0].get_array()).mean() == pytest.approx(40 + 2 * 65, abs=4)


HOSTILE = ["$x_{$", "a\nb", "<script>alert(1)</script>", "\"'&", "😀 日本", "\u202ereversed", "\ud800", "%n", "x" * 300]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_makes_a_title(tmp_path, name):
    film = write_film(tmp_path / "film.mp4", STEADY[:10])
    fig = plot_counted(film, Prediction("x", 1, ((0.0, 0.3),), problems=(name,)), name=name, counter=name)
    if name != "\ud800":
        assert drawn(fig, tmp_path)[0] > 500


# ---- the page ------------------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    "Tags with their attributes, and the text of each table's cells."

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None


def test_hostile_names_and_words_are_text(tmp_path):
    results = [
        Counted(
            name,
            Prediction("x", 1, ((0.0, 1.0),), problems=(name, "<img src=x onerror=alert(1)>"), action=name, text=name),
            repetitions(THREE),
            counter=name,
        )
        for name in HOSTILE
    ]
    page = Reader(
        count_page(results, tmp_path / "p.html", title="</title><script>alert(2)</script>").read_text("utf-8")
    )
    assert [a for t, a in page.tags if t == "script"] == [{}] and not [t for t, _ in page.tags if t == "img"]
    assert not [
        a for _, a in page.tags if any(k.startswith("on") or (v or "").startswith("javascript") for k, v in a.items())
    ]
    films = [row for row in page.rows if len(row) == 9][1:]
    assert len(films) == len(HOSTILE) and any(
        "alert(1)</script>" not in r[0] and "<script>alert(1)<" in r[8] for r in films
    )
    assert {r[0] for r in films} >= {"a b", "😀 日本", "\"'&", "?", "$x_{$"}


def test_the_page_allows_only_its_own_script(tmp_path):
    import base64
    import hashlib

    text = count_page([], tmp_path / "p.html").read_text("utf-8")
    script = re.search(r"<script>(.*)</script>", text, re.S)[1]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert (
        f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
        and policy.startswith("default-src 'none'")
    )
    assert not re.search(r"https?://|src=\"(?!data:)", text)


def test_the_page_says_what_was_counted(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "p.png")
    results = [
        Counted(
            "a/squats.mp4",
            Prediction("a", 3, THREE.cycles, action="squat", regularity=0.7),
            repetitions(THREE),
            tmp_path / "p.png",
            "motion",
        ),
        Counted("more.mp4", Prediction("b", 5, action="squat", problems=("no times",)), counter="a model"),
        Counted("bad.mp4", Prediction("c", None, problems=("empty",))),
    ]
    text = count_page(results, tmp_path / "p.html").read_text("utf-8")
    page = Reader(text)
    films = [row for row in page.rows if len(row) == 9]
    assert films[1][:7] == ["squats.mp4", "3", "regular (0.70)", "squat", "90", "0.50", "+0 %"]
    assert films[2][:4] == ["more.mp4", "5", "", "squat"] and films[3][1] == "" and films[3][8] == "empty"
    head, *rest = [row for row in page.rows if len(row) == 8]
    assert head == ["exercise", "films", "sets", "repetitions", "no count", "a minute", "seconds each", "regularity"]
    assert rest == [["squat", "2", "1", "8", "0", "90", "0.50", "0.70"], ["not named", "1", "0", "0", "1", "", "", ""]]
    [image] = [a for t, a in page.tags if t == "img"]
    import base64

    assert base64.b64decode(image["src"].split(",")[1]) == (tmp_path / "p.png").read_bytes()
    assert "3 films, 8 repetitions, 1 without a count" in text


def test_films_of_one_name_are_told_apart(tmp_path):
    paths = ["in/a/x.mp4", "in/b/x.mp4", "x.mp4", "other/b/x.mp4", "y.mp4", "/in/a/x.mp4", "y.mp4"]
    assert told_apart(paths) == ["in/a/x.mp4", "in/b/x.mp4", "x.mp4", "other/b/x.mp4", "y.mp4", "/in/a/x.mp4", "y.mp4"]
    assert told_apart(["in/a/x.mp4", "in/b/x.mp4", "in/b/z.mp4"]) == ["a/x.mp4", "b/x.mp4", "z.mp4"]
    page = Reader(
        count_page([Counted(p, Prediction("x", k)) for k, p in enumerate(paths[:3])], tmp_path / "p.html").read_text(
            "utf-8"
        )
    )
    assert [row[0] for row in page.rows if len(row) == 9][1:] == ["a/x.mp4", "b/x.mp4", "x.mp4"]


def test_exercises_are_ordered_by_repetitions():
    table = exercise_table(
        [
            Counted("a", Prediction("a", 2, action="push_up")),
            Counted("b", Prediction("b", 9, action="squat")),
            Counted("c", Prediction("c", 8, action="push_up")),
        ]
    )
    assert [(r["exercise"], r["repetitions"]) for r in table] == [("push up", 10), ("squat", 9)] and math.isclose(
        sum(r["films"] for r in table), 3
    )


# ---- real films ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "clips").exists(), reason="the shared real clips are not here")
@pytest.mark.parametrize("name", ["muthu_pushup.mp4", "materight_example2.gif"])
def test_real_films(tmp_path, name):
    film = SHARED / "clips" / name
    prediction = Prediction("x", 2, ((2.1, 3.95), (3.95, 5.8)))
    marked = write_marked(film, prediction, tmp_path / "m.mp4", progress=False)
    then, now = watch(film)[0], watch(marked.path)[0]
    assert now == pytest.approx([t - then[0] for t in then], abs=1e-3)
    with av.open(str(film)) as f:
        sound = bool(f.streams.audio)
    assert (marked.sound == "copied") == sound and (not sound or listen(film)[0] == listen(marked.path)[0])
    drawn(plot_counted(film, prediction, counter="by eye"), tmp_path)
