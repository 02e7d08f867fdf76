"""Does memory grow with the data? Fine-tuning on few and on many clips of 720p.

Measured: peak memory of the training process, and seconds to the first optimiser step.

    python benchmarks/memory.py --out runs/memory            # 60 and 600 clips, results in benchmarks/memory.md

Each case is a process of its own with an empty cache and the same number of steps. A few films are drawn and appear
under many names, each decoded and seen for itself.
The model is tiny and has no video spec, so that it sees as a published checkpoint does: by motion, within 4,096 tokens.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

STEPS, BATCH = 6, 2


def draw(folder: Path, films: int = 4) -> list[Path]:
    "Films of 1280×720 at several rates: a noisy background and a ball that bounces once a second."
    import numpy as np

    from actrep_nb.video import write_video

    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:720, :1280]
    out = []
    for k, (rate, seconds) in enumerate([(25, 20), (29.97, 16), (23.976, 24), (50, 12)][:films]):
        path = folder / f"film{k}.mp4"
        if not path.exists():
            back = np.random.default_rng(k).integers(90, 160, (90, 160, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            pixels = np.empty((round(rate * seconds), 720, 1280, 3), np.uint8)
            for i, frame in enumerate(pixels):
                frame[:] = back
                y = 200 + 300 * (0.5 - 0.5 * np.cos(2 * np.pi * i / rate))
                frame[(rows - y) ** 2 + (columns - 640) ** 2 < 90**2] = (230, 60, 40)
            write_video(path, pixels, rate, crf=30)
        out.append(path)
    return out


def case(folder: Path, clips: int, workers: int) -> dict:
    "Train, in this process."
    began = time.perf_counter()
    import actrep_nb.sft as sft
    from actrep_nb.loading import ClipExamples
    from actrep_nb.models import freeze, load_model
    from actrep_nb.records import Clip
    from actrep_nb.video import FrameCache

    films = sorted((folder / "films").glob("*.mp4"))
    names = folder / f"names{clips}"
    names.mkdir(exist_ok=True)
    for k in range(clips):
        if not (names / f"{k}.mp4").exists():
            os.link(films[k % len(films)], names / f"{k}.mp4")
    model, processor = load_model(folder / "model", device="cpu")
    freeze(model, "vision", "merger")
    loaded = time.perf_counter()
    data = [Clip(video=str(names / f"{k}.mp4"), action="squat", count=20, id=str(k)) for k in range(clips)]
    examples = ClipExamples(
        model, processor, data, cache=FrameCache(folder / f"cache{clips}"), answers=["<answer>20</answer>"] * clips
    )
    first: list[float] = []

    class Timed(sft.JSONLLog):
        def on_step_end(self, *args, **kwargs):
            first.append(time.perf_counter())
            super().on_step_end(*args, **kwargs)

    sft.JSONLLog = Timed
    peak, stop = [0], threading.Event()
    threading.Thread(target=watch, args=(peak, stop), daemon=True).start()
    args = sft.training_arguments(
        folder / f"run{clips}",
        STEPS,
        BATCH,
        1e-4,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )
    log = sft.train_sft(model, examples, args)
    stop.set()
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return {
        "clips": clips,
        "loading_s": loaded - began,
        "first_step_s": first[0] - loaded,
        "all_steps_s": first[-1] - loaded,
        "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
        "peak_with_loaders_mb": peak[0] / 2**20,
        "steps": len(log),
    }


def watch(peak: list[int], stop: threading.Event) -> None:
    "Memory of this process and its loaders, shared pages counted once."
    import psutil

    me = psutil.Process()
    while not stop.wait(0.5):
        try:
            peak[0] = max(peak[0], sum(p.memory_full_info().pss for p in [me, *me.children(recursive=True)]))
        except psutil.Error:
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/memory"))
    parser.add_argument("--clips", type=int, nargs="+", default=[60, 600])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--one", type=int, help="run this case here")
    args = parser.parse_args()
    if args.one is not None:
        return print(json.dumps(case(args.out, args.one, args.workers)))
    from actrep_nb.tiny_base import make_tiny_checkpoint

    draw(args.out / "films")
    model = make_tiny_checkpoint(args.out / "model", hidden=64, layers=2)
    config = json.loads((model / "processor_config.json").read_text())
    config["video_processor"].pop("video_spec", None)
    (model / "processor_config.json").write_text(json.dumps(config))
    found = []
    for n in args.clips:
        out = subprocess.run(
            [sys.executable, __file__, "--out", str(args.out), "--workers", str(args.workers), "--one", str(n)],
            capture_output=True,
            text=True,
        )
        if out.returncode:
            sys.exit(out.stderr)
        found.append(json.loads(out.stdout.strip().splitlines()[-1]))
        print(found[-1], flush=True)
    head = (
        "| clips | peak of the training process, MB | with its loaders, MB | from loading to the first step, s "
        "|\n|---|---|---|---|\n"
    )
    rows = [
        f"| {r['clips']} | {r['peak_mb']:.0f} | {r['peak_with_loaders_mb']:.0f} | {r['first_step_s']:.1f} |"
        for r in found
    ]
    about = " ".join(__doc__.split()).replace(" python", "\n\n    python").replace(" Each case", "\n\nEach case")
    Path(__file__).with_suffix(".md").write_text(
        f"# Memory against the number of clips\n\n{about}\n\n{head}"
        + "\n".join(rows)
        + f"\n\n{STEPS} steps of {BATCH} clips each.\n"
    )


if __name__ == "__main__":
    main()
