"""How a model raised on drawn motion counts film, beside the counters that need no training.

    python benchmarks/film.py FOLDER_WITH_MANIFEST --model sft=runs/film/sft/checkpoint --model grpo=runs/film/grpo/checkpoint

Prints a table, a line for each clip, paired differences, and how often something is counted in drawn windows in which nothing repeats. Writes `film.json` where --out says.
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np

from actrep_nb.baselines import LagCounter, PeriodCounter
from actrep_nb.evaluate import compare
from actrep_nb.metrics import bootstrap_ci, count_metrics
from actrep_nb.motion import NOTHING, RATE, MotionStyle, Rhythm, draw_motion
from actrep_nb.records import load_clips
from actrep_nb.show import plain
from actrep_nb.windows import WindowCounter, cycles_of

METRICS = ("obo", "exact", "mae")


def false_alarms(counter, each: int) -> dict[str, float]:
    "Share of windows of each kind of nothing in which the model counts something and does not say that nothing repeats."
    shares = {}
    for kind in NOTHING:
        counted = 0
        for seed in range(each):
            drawn = draw_motion([7, seed], MotionStyle(), Rhythm((), (), kind=kind))
            heard = counter.listen(drawn.pictures, RATE)
            counted += bool(cycles_of(heard.added, heard.slot, heard.begun))
        shares[kind] = counted / each
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with manifest.csv and the clips it names")
    parser.add_argument("--model", action="append", default=[], help="NAME=CHECKPOINT, repeatable")
    parser.add_argument("--negatives", type=int, default=20, help="drawn windows of each kind in which nothing repeats")
    parser.add_argument("--out", type=Path, help="folder for film.json")
    given = parser.parse_args()
    clips = load_clips(given.clips / "manifest.csv", videos=given.clips)
    models = {name: WindowCounter.from_pretrained(path) for name, _, path in (text.partition("=") for text in given.model)}
    found = {name: counter.predict(clips, progress=False) for name, counter in {"period": PeriodCounter(), "lag": LagCounter(), **models}.items()}
    trues = [c.count for c in clips]
    report: dict = {"metrics": {}, "clips": {}, "against_lag": {}, "false_alarms": {}}
    for name, some in found.items():
        counts = [p.count for p in some]
        metrics = count_metrics(counts, trues)
        off = np.abs([(0 if n is None else n) - t for n, t in zip(counts, trues)])
        intervals = {m: bootstrap_ci(values) for m, values in (("obo", off <= 1), ("exact", off == 0), ("mae", off / np.maximum(trues, 1)))}
        report["metrics"][name] = {m: metrics[m] for m in METRICS}
        print(f"{name:10}", " ".join(f"{m} {metrics[m]:.3f} [{intervals[m][1]:.2f}, {intervals[m][2]:.2f}]" for m in METRICS), f"{sum(p.seconds or 0 for p in some) / len(some):.1f} s a clip")
    for clip, *row in zip(clips, *found.values()):
        report["clips"][clip.id] = {"true": clip.count} | {name: p.count for name, p in zip(found, row)}
        print(f"  {clip.id:28} true {clip.count:3} ", " ".join(f"{name} {p.count if p.count is not None else '-'} ({p.regularity if p.regularity is not None else math.nan:.2f})" for name, p in zip(found, row)))
    for name in models:
        report["against_lag"][name] = {m: v for m, v in compare(found[name], found["lag"]).items() if m in METRICS}
        report["false_alarms"][name] = false_alarms(models[name], given.negatives)
        print(name, "minus lag", {m: [round(x, 3) for x in v.values()] for m, v in report["against_lag"][name].items()}, "\n  counted although nothing repeats:", report["false_alarms"][name], "mean", round(float(np.mean(list(report["false_alarms"][name].values()))), 3))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "film.json").write_text(json.dumps(plain(report), indent=1) + "\n")


if __name__ == "__main__":
    main()
