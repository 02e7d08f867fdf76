"""Half of the RL clips, chosen by variance or blindly: GRPO on each from one checkpoint, compared on held-out clips.

    python benchmarks/selection.py --demo runs/demo --out runs/selection

takes the clips and the SFT checkpoint of a finished `actrep demo`. Arms: `variance` (04_select), `random` (the same
number of clips, drawn blindly), and
`matched` (drawn blindly too, but as many of each count as `variance` has: what is left of the difference is not a
matter of counts). Runs that are done are not repeated.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from actrep_nb.evaluate import LocalCounter, evaluate
from actrep_nb.formats import load_clips, save_clips
from actrep_nb.rollout import SamplingParams
from actrep_nb.runs import load_run, run
from actrep_nb.sampling import random_selection
from actrep_nb.video import FrameCache

ARMS = ("variance", "random", "matched")


def once(notebook: str, out: Path, parameters: dict) -> None:
    "Run an experiment unless this folder holds it, done."
    if (out / "manifest.json").exists() and load_run(out).manifest.status == "done":
        return
    print(out.name, f"{run(notebook, out, parameters).manifest.seconds:.0f} s", flush=True)


def matched(select: Path, rl: Path, videos: Path, seed: int) -> None:
    "Clips drawn blindly within each count, as many of it as the selection by variance holds."
    wanted = Counter(clip.count for clip in load_clips(select / "variance/selected.jsonl"))
    clips = load_clips(rl, videos=videos)
    fates = [
        f
        for count, n in wanted.items()
        for f in random_selection({c.id: [] for c in clips if c.count == count}, n, seed)
    ]
    chosen = {f.id for f in fates if f.kept}
    save_clips(
        clips.filter(lambda clip: clip.id in chosen), select / "matched/selected.jsonl", videos=select / "matched"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--demo", type=Path, default=Path("runs/demo"), help="a finished demo: data/ and sft/checkpoint are used"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/selection"), help="folder of all runs")
    parser.add_argument("--steps", type=int, default=100, help="GRPO steps of each arm")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of GRPO; the selection is made once, with seed 0"
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="which halves")
    args = parser.parse_args()
    videos, rl, sft, frames = (
        args.demo / "data/videos",
        args.demo / "data/rl.jsonl",
        args.demo / "sft/checkpoint",
        args.out / "frames",
    )

    asked = {
        "model": str(sft),
        "clips": str(rl),
        "cache": str(frames),
        "answers": str(args.out / "answers.jsonl"),
    }
    for rule in ("variance", "random"):
        once("04_select", args.out / "select" / rule, {**asked, "rule": rule})
    matched(args.out / "select", rl, videos, seed=0)

    checkpoints = {"sft": sft}
    for seed in args.seeds:
        for arm in args.arms:
            folder = args.out / f"grpo_{arm}_{seed}"
            once(
                "05_grpo",
                folder,
                {
                    "model": str(sft),
                    "clips": str(args.out / "select" / arm / "selected.jsonl"),
                    "cache": str(frames),
                    "steps": args.steps,
                    "samples": 0,
                    "rewards": "count_hybrid=1,format=0.5,exact=0.5",
                    "seed": seed,
                },
            )
            checkpoints[f"{arm}_{seed}"] = folder / "checkpoint"

    test = load_clips(args.demo / "data/test.csv", videos=videos)
    counters = {
        name: LocalCounter.from_pretrained(path, params=SamplingParams(144), cache=FrameCache(frames))
        for name, path in checkpoints.items()
    }
    evaluation = evaluate(counters, test)
    evaluation.save(args.out / "evaluate")
    print(
        evaluation,
        evaluation.differences().to_string(),
        json.dumps({"clips": len(test), "steps": args.steps}),
        sep="\n",
    )


if __name__ == "__main__":
    main()
