"""Every task but counting, trained from the tiny base and judged on held-out clips; what two bonuses do to counting.

    python benchmarks/tasks.py --out runs/tasks
    python benchmarks/tasks.py --out runs/tasks --demo runs/demo --only counting

The first command draws clips of each kind, fine-tunes, trains with GRPO and evaluates; the second needs the clips and
the SFT checkpoint of a finished
`actrep demo`. Runs that are done are not repeated. The figures of all that is there go to benchmarks/tasks.json,
which the chapter on tasks shows.
"""

import argparse
import json
from pathlib import Path

from actrep_nb.evaluate import compare, load_predictions
from actrep_nb.loading import ClipExamples, read_all
from actrep_nb.metrics import bootstrap_ci, paired_bootstrap
from actrep_nb.models import freeze, load_model
from actrep_nb.formats import load_clips
from actrep_nb.rollout import SamplingParams, sample_group
from actrep_nb.runs import load_run, run
from actrep_nb.show import read_log
from actrep_nb.tasks import TASKS

SETTINGS: dict[
    str, tuple[str, int, int, dict, dict, dict]
] = {  # task, clips for SFT and for RL, fine-tuning, RL training, evaluation
    "temporal_grounding": ("temporal_grounding", 1600, 1200, {"steps": 250}, {"steps": 160, "max_new_tokens": 80}, {}),
    "temporal_grounding_early": (
        "temporal_grounding",
        480,
        1600,
        {"steps": 120},
        {"steps": 200, "lr": 5e-4, "temperature": 0.6, "max_new_tokens": 72},
        {"max_new_tokens": 80},
    ),
    "multiple_choice": (
        "multiple_choice",
        1600,
        400,
        {"steps": 700, "lr": 1e-3},
        {"steps": 40, "max_new_tokens": 64},
        {"limit": 300, "max_new_tokens": 64},
    ),
    "multiple_choice_early": (
        "multiple_choice",
        1600,
        1600,
        {"steps": 440, "lr": 1e-3},
        {"steps": 240, "prompts": 16, "max_new_tokens": 64},
        {"max_new_tokens": 64},
    ),
    "dvd_counting": ("dvd_counting", 1600, 480, {"steps": 700}, {"steps": 60, "max_new_tokens": 96}, {}),
}
COUNTS = "count_hybrid=1,format=0.5,exact=0.5"  # the demo's
ARMS = {
    "plain": {"rewards": COUNTS},
    "temporal": {"rewards": f"{COUNTS},temporal=1", "shuffled_answers": 4},
    "length": {"rewards": f"{COUNTS},length=1", "length_from": 70, "length_to": 112},
}
here = Path(__file__).parent


def once(notebook: str, out: Path, parameters: dict) -> None:
    "Run an experiment unless this folder holds it, done."
    if (out / "manifest.json").exists() and load_run(out).manifest.status == "done":
        return
    print(out, f"{run(notebook, out, parameters).manifest.seconds:.0f} s", flush=True)


def train_and_judge(name: str, out: Path) -> None:
    "Draw, write texts, SFT, GRPO, evaluation."
    task, train, rl, sft, grpo, judged = SETTINGS[name]
    cache = {"cache": str(out / "frames"), "task": task}
    once("00_data", out / "data", {"task": task, "train": train, "rl": rl, "test": 400})
    once("02_cot", out / "cot", {"task": task, "clips": str(out / "data/train.jsonl"), "crops": 0})
    once("03_sft", out / "sft", {**cache, **sft, "data": str(out / "cot")})
    once(
        "05_grpo",
        out / "grpo",
        {**cache, **grpo, "model": str(out / "sft/checkpoint"), "clips": str(out / "data/rl.jsonl")},
    )
    once(
        "06_evaluate",
        out / "evaluate",
        {
            **cache,
            "max_new_tokens": 96,
            **judged,
            "clips": str(out / "data/test.jsonl"),
            "sft": str(out / "sft/checkpoint"),
            "grpo": str(out / "grpo/checkpoint"),
        },
    )


def judge_again(name: str, out: Path) -> None:
    "On 800 clips drawn for this alone: settings of RL training were chosen by looking at the held-out ones."
    task, *_, judged = SETTINGS[name]
    once("00_data", out / "fresh", {"task": task, "train": 8, "rl": 8, "test": 800, "seed": 1})
    once(
        "06_evaluate",
        out / "evaluate_fresh",
        {
            "cache": str(out / "frames"),
            "task": task,
            **judged,
            "clips": str(out / "fresh/test.jsonl"),
            "base": "",
            "sft": str(out / "sft/checkpoint"),
            "grpo": str(out / "grpo/checkpoint"),
        },
    )


def sampled(name: str, out: Path) -> None:
    """The overlap of one answer to each held-out clip, sampled at temperature 1, before and after RL training: what RL
    training works on.
    """
    if (out / "sampled.json").exists():
        return
    task, clips = TASKS[SETTINGS[name][0]], load_clips(out / "data/test.jsonl", videos=out / "data/videos")
    scores = {}
    for stage in ("sft", "grpo"):
        model, processor = load_model(out / stage / "checkpoint")
        ready, _ = read_all(
            ClipExamples(freeze(model.eval(), "vision", "merger"), processor, clips, SETTINGS[name][0]), model
        )
        batches = [range(len(ready))[i : i + 40] for i in range(0, len(ready), 40)]
        said = [
            group[0].text
            for some in batches
            for group in sample_group(
                model, processor, [ready[i].prompt for i in some], 1, SamplingParams(80, 1.0), seeds=some
            )
        ]
        scores[stage] = task.scores(
            [task.predict(e.clip, text) for e, text in zip(ready, said)], [e.clip for e in ready]
        )["miou"]
    values = {stage: bootstrap_ci(array) for stage, array in scores.items()} | {
        "grpo-sft": tuple(paired_bootstrap(scores["grpo"], scores["sft"]).values())
    }
    (out / "sampled.json").write_text(json.dumps({k: dict(zip(("value", "lo", "hi"), v)) for k, v in values.items()}))


def bonuses(demo: Path, out: Path) -> None:
    "GRPO on counting from the demo's SFT checkpoint with and without each bonus, and evaluate all of them."
    cache = {"cache": str(out / "frames")}
    start = {
        "model": str(demo / "sft/checkpoint"),
        "clips": str(demo / "data/rl.jsonl"),
        "videos": str(demo / "data/videos"),
        "samples": 480,
        "steps": 60,
    }
    for name, arm in ARMS.items():
        once("05_grpo", out / name, {**cache, **start, **arm})
        once(
            "06_evaluate",
            out / f"evaluate_{name}",
            {
                **cache,
                "clips": str(demo / "data/test.csv"),
                "none": "",
                "train": "",
                "base": "",
                "sft": str(demo / "sft/checkpoint"),
                "grpo": str(out / name / "checkpoint"),
                "limit": 300,
                "max_new_tokens": 112,
            },
        )


def figures(out: Path) -> dict:
    "Metrics and RL training logs of what has been run, small enough to be kept."

    def log(folder):
        return [
            {
                k: round(v, 4)
                for k, v in row.items()
                if k in ("step", "reward", "completion_length", "reward_std") or k.startswith(("reward/", "group/"))
            }
            for row in read_log(folder / "log.jsonl")
        ]

    def judged(folder):
        return {
            k: v for k, v in json.loads((folder / "results.json").read_text()).items() if k in ("n", "models", "paired")
        }

    tasks = {
        name: {**judged(out / name / "evaluate"), "log": log(out / name / "grpo")}
        for name in SETTINGS
        if (out / name / "evaluate/results.json").exists()
    }
    arms = {
        name: {**judged(out / "counting" / f"evaluate_{name}"), "log": log(out / "counting" / name)}
        for name in ARMS
        if (out / "counting" / f"evaluate_{name}/results.json").exists()
    }
    for name in tasks:
        if (out / name / "evaluate_fresh/results.json").exists():
            tasks[name]["fresh"] = judged(out / name / "evaluate_fresh")
        if (out / name / "sampled.json").exists():
            tasks[name]["sampled"] = json.loads((out / name / "sampled.json").read_text())
    said = {name: load_predictions(out / "counting" / f"evaluate_{name}")["grpo"] for name in arms}
    for name in arms:
        arms[name]["against_plain"] = compare(said[name], said["plain"])
    return tasks | ({"counting": arms} if arms else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tasks"), help="folder of all runs")
    parser.add_argument("--demo", type=Path, default=None, help="a finished demo, for the bonuses")
    parser.add_argument(
        "--only", nargs="+", default=list(SETTINGS), choices=[*SETTINGS, "counting"], help="which tasks"
    )
    args = parser.parse_args()
    for name in args.only:
        if name != "counting":
            train_and_judge(name, args.out / name)
            if name == "temporal_grounding":
                sampled(name, args.out / name)
            if name.endswith("_early"):
                judge_again(name, args.out / name)
        elif args.demo:
            bonuses(args.demo, args.out / name)
        else:
            parser.error("counting needs --demo")
    (here / "tasks.json").write_text(json.dumps(figures(args.out), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
