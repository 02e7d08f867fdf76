"""How models raised on drawn motion count film, beside the counters that need no training.

    python benchmarks/film.py CLIPS --model base/0=runs/film/base/checkpoint \\
        --model sft/0=runs/film/sft/checkpoint --model sft/1=runs/film-1/sft/checkpoint

CLIPS is a folder of films with a manifest.csv. Models of one stage, from several seeds, are named STAGE/SEED, and
their mean is printed. Parts: clips; variants (14 of each clip); negatives
(drawn windows and films in which nothing repeats); drawn (1,000 fresh windows, answered in words); long (a set of
each of some clips, with rests between, and joined with cuts).
Every part is written to OUT/film.json when it is done; --only repeats some and keeps the others.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from counter import Film, drawn_negatives, films, measured, real_negatives, resized, variants

from actrep_nb.baselines import LagCounter, PeriodCounter, grey_pictures, steadied
from actrep_nb.drawn import DrawnWindows
from actrep_nb.evaluate import compare
from actrep_nb.likeness import lag_count, square
from actrep_nb.metrics import bootstrap_ci, count_metrics
from actrep_nb.models import Sample
from actrep_nb.motion import NOTHING, RATE, MotionStyle, Rhythm, draw_motion
from actrep_nb.formats import load_clips
from actrep_nb.records import Prediction
from actrep_nb.rollout import generate_completions
from actrep_nb.show import plain
from actrep_nb.tasks import TASKS
from actrep_nb.video import write_video
from actrep_nb.windows import WHOLE, WindowCounter

PARTS = ("clips", "variants", "negatives", "drawn", "long")
METRICS = ("obo", "exact", "mae")


def stage(name: str) -> str:
    return name.partition("/")[0]


def scored(counts: Iterable[int | None], trues: Iterable[int]) -> dict[str, float]:
    found = count_metrics(list(counts), list(trues))
    return {m: round(float(found[m]), 4) for m in METRICS}


def over_seeds(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    "Mean and worst of each stage."
    stages = {stage(name) for name in scores if "/" in name}
    some = {s: [row for name, row in scores.items() if stage(name) == s] for s in sorted(stages)}
    return {
        s: {
            f"{m} {word}": round(float(f([row[m] for row in rows])), 4)
            for m in METRICS
            for word, f in (("mean", np.mean), ("worst", max if m == "mae" else min))
        }
        for s, rows in some.items()
    }


def paired(found: dict[str, list[Prediction]]) -> dict[str, dict[str, list[float]]]:
    "Differences of interest, on the same clips; of several seeds together."
    names = list(found)
    pairs = [
        (a, b)
        for a, b in itertools.permutations(names, 2)
        if "/" in a
        and (
            b in ("lag", "period")
            or ("/" in b and a.partition("/")[2] == b.partition("/")[2] and names.index(a) > names.index(b))
        )
    ]
    return {
        f"{a} - {b}": {
            m: [round(float(x), 3) for x in v.values()] for m, v in compare(found[a], found[b]).items() if m in METRICS
        }
        for a, b in pairs
    }


def run_clips(args: argparse.Namespace) -> dict:
    clips = load_clips(args.folder / "manifest.csv", videos=args.folder)
    began, found = (
        time.perf_counter(),
        {
            name: counter.predict(clips, progress=False)
            for name, counter in {"period": PeriodCounter(), "lag": LagCounter(), **args.models}.items()
        },
    )
    trues = [c.count for c in clips]
    scores = {name: scored([p.count for p in some], trues) for name, some in found.items()}
    intervals = {}
    for name, some in found.items():
        off = np.abs([(0 if p.count is None else p.count) - t for p, t in zip(some, trues)])
        intervals[name] = {
            m: [round(float(x), 3) for x in bootstrap_ci(values)]
            for m, values in (("obo", off <= 1), ("exact", off == 0), ("mae", off / np.maximum(trues, 1)))
        }
    rows = {
        clip.id: {"true": clip.count}
        | {
            name: [some[k].count, round(some[k].regularity or math.nan, 3), list(some[k].problems)]
            for name, some in found.items()
        }
        for k, clip in enumerate(clips)
    }
    return {
        "scores": scores,
        "intervals": intervals,
        "seeds": over_seeds(scores),
        "paired": paired(found),
        "clips": rows,
        "seconds": round(time.perf_counter() - began, 1),
    }


def looked_at(film: Film, still: bool = True) -> np.ndarray:
    "As `WindowCounter.watch` looks at a scene."
    grey = film.grey.astype(np.float32)
    return np.stack(
        [square(p) for p in (steadied(grey, film.fps)[0] if still and len(grey) <= WHOLE * film.fps else grey)]
    )


def of_films(args: argparse.Namespace, some: list[tuple[str, Film]]) -> dict:
    "Counts of films by kind, for every counter."
    counters: dict[str, Callable[[Film, np.ndarray], int]] = {
        "period": lambda film, _: len(measured(film).cycles),
        "lag": lambda film, _: lag_count(looked_at(film, still=False), film.fps),
    }
    counters |= {
        name: lambda film, grey, model=model: len(model.listen(grey, film.fps).cycles)
        for name, model in args.models.items()
    }
    rows = []
    for kind, film in some:
        grey = looked_at(film)
        rows.append([kind, film.name, film.count, {name: count(film, grey) for name, count in counters.items()}])
    kinds = {
        kind: {
            name: scored([r[3][name] for r in rows if r[0] == kind], [r[2] for r in rows if r[0] == kind])
            for name in counters
        }
        for kind in dict.fromkeys(r[0] for r in rows)
    }
    scores = {name: scored([r[3][name] for r in rows], [r[2] for r in rows]) for name in counters}
    return {"films": len(rows), "scores": scores, "seeds": over_seeds(scores), "kinds": kinds, "rows": rows}


def run_variants(args: argparse.Namespace) -> dict:
    return of_films(args, [pair for film in args.films for pair in variants(film)])


def run_long(args: argparse.Namespace) -> dict:
    "Three clips one after the other, with cuts; and with 20 s of stillness between them."
    some, rng = [], np.random.default_rng(0)
    for k in range(0, len(args.films) - 2, 3):
        three = [resized(film, fps=15.0) for film in args.films[k : k + 3]]
        rests = [
            np.clip(f.grey[-1] + rng.normal(0, 1, (300, *f.grey.shape[1:])), 0, 255).astype(np.uint8) for f in three
        ]
        with_rests = [x for f, rest in zip(three, rests) for x in (f.grey, rest)]
        some += [
            ("rests", Film(f"{k}", np.concatenate(with_rests), 15.0, sum(f.count for f in three))),
            ("cuts", Film(f"{k}", np.concatenate([f.grey for f in three]), 15.0, sum(f.count for f in three))),
        ]
    report, clips = of_films(args, [s for s in some if s[0] == "rests"]), []
    for _, film in (s for s in some if s[0] == "cuts"):  # as files: cuts are seen where pictures are read
        path = args.out / "long" / f"{film.name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_video(path, np.repeat(film.grey[..., None], 3, -1), film.fps)
        clips.append((path, film.count))
    from actrep_nb.records import Clip

    cut = [Clip(str(path), "", count) for path, count in clips]
    found = {
        name: counter.predict(cut, progress=False)
        for name, counter in {"period": PeriodCounter(), "lag": LagCounter(), **args.models}.items()
    }
    report["cuts"] = {
        name: {"counted": [p.count for p in some]} | scored([p.count for p in some], [c.count for c in cut])
        for name, some in found.items()
    } | {"true": [c.count for c in cut]}
    report["rests"] = {name: [r[3][name] for r in report["rows"]] for name in found} | {
        "true": [r[2] for r in report["rows"]]
    }
    return report


def run_negatives(args: argparse.Namespace) -> dict:
    "Share of films of each kind in which something is counted."
    shares: dict[str, dict[str, float]] = {}
    drawn = [
        (kind, draw_motion([7, seed], MotionStyle(), Rhythm((), (), kind=kind)).pictures)
        for kind in NOTHING
        for seed in range(args.each)
    ]
    listed = [*drawn_negatives(args.out / "negatives", args.each), *real_negatives(args.folder)]
    read = [
        (kind, np.stack([square(p) for _, p in grey_pictures(clip.video, window=clip.window)]), clip)
        for kind, clip in listed
    ]
    from actrep_nb.video import probe

    for name, model in {"period": None, **args.models}.items():
        counted: dict[str, list[bool]] = {}
        if model:
            for kind, pictures in drawn:
                counted.setdefault(f"window: {kind}", []).append(bool(model.listen(pictures, RATE).cycles))
        for kind, grey, clip in read:
            said = (
                bool(model.listen(grey, min(30.0, probe(clip.video).fps)).cycles)
                if model and len(grey) > 5
                else bool(PeriodCounter().predict([clip], progress=False)[0].count)
                if not model
                else False
            )
            counted.setdefault(f"film: {kind}", []).append(said)
        shares[name] = {kind: round(float(np.mean(some)), 3) for kind, some in counted.items()}
        shares[name] |= {
            f"all {what}": round(
                float(np.mean([x for kind, some in counted.items() if kind.startswith(what) for x in some])), 3
            )
            for what in ("window", "film")
            if any(k.startswith(what) for k in counted)
        }
        shares[name]["all windows but wander"] = round(
            float(
                np.mean(
                    [
                        x
                        for kind, some in counted.items()
                        if kind.startswith("window") and "wander" not in kind
                        for x in some
                    ]
                    or [math.nan]
                )
            ),
            3,
        )
    return {"shares": shares}


def run_drawn(args: argparse.Namespace) -> dict:
    "Fresh drawn windows, answered in words, greedily."
    task, found, changes = TASKS["counting"], {}, {}
    for name, counter in args.models.items():
        examples = DrawnWindows(counter.model, counter.processor, args.windows, seed=2_000_000, say=None)
        judged = [examples[k] for k in range(args.windows)]
        said = generate_completions(
            counter.model,
            counter.processor,
            [Sample(e.clip, e.frames, examples.question) for e in judged],
            max_new_tokens=192,
        )
        found[name] = [task.predict(e.clip, text) for e, text in zip(judged, said)]
        tempos = [
            (text.partition("Tempo: ")[2].partition("s.")[0], text.partition("Phases: ")[2].partition(".")[0].split())
            for text in said
        ]
        number = [float(t) if t.replace(".", "", 1).isdigit() else math.nan for t, _ in tempos]
        true = [float(np.median([b - a for a, b in e.clip.cycles])) if e.clip.cycles else 0.0 for e in judged]
        ratio = np.array([n / t for n, t in zip(number, true) if t and n])
        changes[name] = {
            "tempo right": (np.abs(np.log(ratio)) < 0.2).mean(),
            "twice": (np.abs(np.log(ratio / 2)) < 0.2).mean(),
            "half": (np.abs(np.log(ratio * 2)) < 0.2).mean(),
            "says 0.0s": np.mean([n == 0 for n in number]),
            "idle slots": np.mean([p.count("idle") / max(1, len(p)) for _, p in tempos]),
            "readable": np.mean([p.count is not None for p in found[name]]),
            "bias": np.mean([(p.count or 0) - p.true for p in found[name]]),
        }
        changes[name] = {k: round(float(v), 3) for k, v in changes[name].items()}
    scores = {name: scored([p.count for p in some], [p.true for p in some]) for name, some in found.items()}
    return {"scores": scores, "seeds": over_seeds(scores), "paired": paired(found), "what it says": changes}


RUN = {"clips": run_clips, "variants": run_variants, "negatives": run_negatives, "drawn": run_drawn, "long": run_long}


def told(part: str, result: dict[str, Any]) -> str:
    "What to print of a part."
    lines = [f"== {part}"]
    for key in ("scores", "intervals", "seeds", "paired", "kinds", "shares", "what it says", "rests", "cuts"):
        for name, row in result.get(key, {}).items():
            lines.append(f"{key:10} {name:24} {row}")
    for name, row in result.get("clips", {}).items():
        lines.append(
            f"  {name:28} true {row['true']:3} "
            + " ".join(f"{k} {v[0]} ({v[1]})" for k, v in row.items() if k != "true")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with manifest.csv and the clips it names")
    parser.add_argument("--model", action="append", default=[], help="NAME=CHECKPOINT, repeatable; NAME is STAGE/SEED")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--each", type=int, default=15, help="films of each kind in which nothing repeats")
    parser.add_argument("--windows", type=int, default=1000, help="drawn windows")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/film-bench"), help="folder for film.json and what is made on the way"
    )
    args = parser.parse_args()
    args.models = {
        name: WindowCounter.from_pretrained(path, device="cpu")
        for name, _, path in (text.partition("=") for text in args.model)
    }
    args.out.mkdir(parents=True, exist_ok=True)
    args.films = films(args.folder, args.out)
    kept = args.out / "film.json"
    report = json.loads(kept.read_text()) if kept.exists() else {}
    for part in args.only:
        report[part] = plain(RUN[part](args))
        kept.write_text(json.dumps(report, indent=1) + "\n")
        print(told(part, report[part]), flush=True)


if __name__ == "__main__":
    main()
