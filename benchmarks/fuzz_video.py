"""Damaged and odd videos: each gives frames, or one error that names the file, in ten seconds and without a crash.

`python benchmarks/fuzz_video.py --cases 600 --seed 0` prints a JSON object. Every case runs in a worker process, so
that a crash of a
decoder or a hang is seen and counted, not suffered. tests/test_video.py runs a few dozen of the same cases.
"""

import argparse
import json
import multiprocessing as mp
import random
import struct
import tempfile
import time
import wave
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from actrep_nb.video import plan_frames, probe, read_frames, write_video
from actrep_nb.film import VideoError

LIMIT = 10.0  # seconds that one file may take


def sources(folder: Path) -> dict[str, bytes]:
    "Whole files to damage: H.264 of two sizes, a GIF, sound."
    rng = np.random.default_rng(0)
    drift = np.clip(128 + rng.normal(0, 12, (40, 64, 96, 3)).cumsum(0), 0, 255).astype(np.uint8)
    write_video(folder / "a.mp4", drift, fps=8)
    write_video(folder / "b.mp4", drift[:, :32, :32].repeat(6, 1).repeat(6, 2), fps=30)
    Image.fromarray(drift[0]).save(
        folder / "c.gif", save_all=True, append_images=[Image.fromarray(f) for f in drift[1:12]], duration=100
    )
    with wave.open(str(folder / "d.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(8000)
        w.writeframes(bytes(8000))
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def _cut(data, rng):
    return data[: rng.randrange(len(data))]


def _flip(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice([1, 5, 50, 500])):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _head(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice([1, 4, 20])):
        out[rng.randrange(min(len(out), 900))] = rng.randrange(256)
    return bytes(out)


def _huge(data, rng):
    "A size or a count in the header becomes enormous."
    out, at = bytearray(data), rng.randrange(0, max(1, min(len(data), 1200) - 8))
    boxes = [
        i - 4
        for name in (b"moov", b"mdat", b"tkhd", b"stsz", b"stco", b"stts", b"avc1", b"ftyp", b"stsd", b"mdhd")
        if (i := data.find(name)) >= 4
    ]
    if boxes and rng.random() < 0.7:
        at = rng.choice(boxes) + rng.choice([0, 8, 12, 16, 20, 32])
    out[at : at + 4] = struct.pack(">I", rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 0x10000000, 0]))
    return bytes(out)


def _hole(data, rng):
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:a] + rng.choice([b"", bytes(b - a)]) + data[b:]


def _double(data, rng):
    return data[: rng.randrange(len(data))] + data


def _empty(data, rng):
    return rng.choice([b"", b"\0", bytes(5000)])


def _noise(data, rng):
    return rng.randbytes(rng.randrange(1, 20000))


def _whole(data, rng):
    return data  # only the name is wrong


DAMAGES = {f.__name__[1:]: f for f in (_cut, _flip, _head, _huge, _hole, _double, _empty, _noise, _whole)}
ENDINGS = (".mp4", ".mp4", ".mp4", ".gif", ".avi", ".mkv", ".webm", ".txt", "")


def case(seed: int, files: dict[str, bytes]) -> tuple[str, str, bytes]:
    "(name of the damage, name of the file, its bytes) of one case."
    rng = random.Random(seed)
    kind = list(DAMAGES)[seed % len(DAMAGES)]
    source = rng.choice([n for n in files for _ in range(1 if n.endswith("wav") else 4)])
    ending = Path(source).suffix if kind != "whole" and rng.random() < 0.7 else rng.choice(ENDINGS)
    return kind, f"case{seed}{ending}", DAMAGES[kind](files[source], rng)


def look(path: Path) -> str:
    """What comes of a file: 'read', 'read with a note', 'refused'; AssertionError when neither frames nor error are in
    order.
    """
    try:
        frames = read_frames(path, plan_frames(probe(path), size=(28, 28), max_frames=32))
    except VideoError as e:
        assert path.name in str(e), f"the message does not name the file: {e}"
        return "refused"
    assert len(frames) == len(frames.pixels) and len(frames) % 2 == 0 and len(frames) > 0
    assert np.isfinite(frames.times).all() and (np.diff(frames.times) >= 0).all()
    return "read with a note" if frames.problems else "read"


def _worker(pipe) -> None:
    while (path := pipe.recv()) is not None:
        try:
            pipe.send(look(Path(path)))
        except BaseException as e:
            pipe.send(f"ERROR {type(e).__name__}: {e}"[:300])


def fuzz(cases: int, seed: int) -> dict:
    "Run the cases; what went wrong is listed by case."
    context, outcomes, wrong, slowest = mp.get_context("spawn"), Counter(), [], 0.0
    kinds: Counter = Counter()
    worker = None
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name) / "whole").mkdir()
        files = sources(folder)
        for number in range(seed, seed + cases):
            if worker is None or not worker.is_alive():
                ours, theirs = context.Pipe()
                worker = context.Process(target=_worker, args=(theirs,), daemon=True)
                worker.start()
                ours.send(str(folder / "a.mp4"))
                ours.recv()  # started: imports are not part of the time
            kind, file, data = case(number, files)
            path = Path(name) / file
            path.write_bytes(data)
            start = time.monotonic()
            ours.send(str(path))
            outcome = "HANG"
            while time.monotonic() - start < LIMIT:
                if ours.poll(0.05):
                    try:
                        outcome = ours.recv()
                    except EOFError:
                        outcome = "CRASH"
                    break
                if not worker.is_alive():
                    outcome = f"CRASH {worker.exitcode}"
                    break
            if outcome.startswith(("HANG", "CRASH")):
                worker.kill()
                worker.join()
            slowest = max(slowest, time.monotonic() - start)
            outcomes[outcome.split()[0] if outcome[:4].isupper() else outcome] += 1
            kinds[kind] += 1
            if outcome[:4].isupper():
                wrong.append({"case": number, "damage": kind, "outcome": outcome})
            path.unlink()
        if worker and worker.is_alive():
            ours.send(None)
            worker.join()
    return {
        "cases": cases,
        "seed": seed,
        "outcomes": dict(outcomes),
        "damages": dict(kinds),
        "slowest_s": round(slowest, 2),
        "wrong": wrong,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(fuzz(given.cases, given.seed), indent=1))
