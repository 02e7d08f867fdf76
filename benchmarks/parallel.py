"""The same training in one process and on two ranks under each strategy: how far apart are its steps?

    python benchmarks/parallel.py --out runs/parallel

Runs the experiments 03_sft and 05_grpo by papermill, on the CPU with gloo, at the same global batch, and writes
benchmarks/parallel.md. What is done
is not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch

from actrep_nb.models import load_model
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.parallel import STRATEGIES, from_all, strategy_arguments, this_rank
from actrep_nb.runs import load_run, run
from actrep_nb.sft import load_to_train, training_arguments
from actrep_nb.show import read_log

ROOT = Path(__file__).parents[1]
MEASURED = {"sft": ("loss", "grad_norm"), "grpo": ("reward", "loss", "grad_norm")}
STEPS = {"sft": 6, "grpo": 4}
HEAD = """# One process and two ranks

`python benchmarks/parallel.py --out runs/parallel`: the experiments 03_sft ({sft} steps of 8 clips) and 05_grpo
({grpo} steps of 4 clips with 4 answers, from a checkpoint of 100 imitation steps) on drawn clips, by papermill,
on two CPU cores with gloo, float32, AdamW. Difference from one process, step by step, relative to the largest value
of one process.
"""
TAIL = """
The tolerance in CI, with SGD: `pytest tests/test_parallel.py -k learn` holds losses, rewards and gradient norms on
two ranks to 2e-4 of one process's, and the saved weights
to 1e-3, with DeepSpeed told to share out every weight however small (`stage3_param_persistence_threshold` 0); under
ZeRO-3 and FSDP2 a rank then holds at most 51 % of them, from loading on.
"""


LOADING = """
## Loading

A checkpoint of {millions:.0f} million bfloat16 numbers, loaded on two ranks to be trained in float32: {whole:.0f} MB
when whole. The most that a rank had in memory beyond what it had before; files that are mapped into memory, as
checkpoints are, count in the second column and not in the first.

| strategy | rank | anonymous memory (RssAnon) | all (VmRSS) |
|---|---|---|---|
"""


def resident(name: str) -> float:
    "MB of this process, as the kernel counts."
    return (
        next(
            int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith(name + ":")
        )
        / 1024
    )


def load_here(strategy: str, base: str, out: str) -> None:
    "Load on this rank as for training, and write the peaks of all ranks."
    zero = {"stage3_param_persistence_threshold": 0} if strategy.startswith("zero3") else {}
    args = training_arguments(
        out + ".run", 1, 2, 1e-6, precision="float32", **strategy_arguments(strategy, "float32", **zero)
    )
    from_all(None)
    start = {name: resident(name) for name in ("RssAnon", "VmRSS")}
    peak, loaded = dict(start), threading.Event()

    def watch():
        while not loaded.wait(0.005):
            for name in peak:
                peak[name] = max(peak[name], resident(name))

    watcher = threading.Thread(target=watch)
    watcher.start()
    model, _ = load_to_train(base, "", precision="float32", args=args)
    loaded.set(), watcher.join()
    count = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    peaks = from_all({name: peak[name] - start[name] for name in peak})
    if this_rank() == 0:
        Path(out).write_text(json.dumps({"weights": count, "whole": count * 4 / 2**20, "peaks": peaks}))


def loaded(base: str, strategy: str) -> dict[str, Any]:
    """The same on two ranks of their own.

    What is freed is returned to the system at once, so that memory in use is what is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/result.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            __file__,
            "--load",
            strategy,
            base,
            out,
        ]
        env = os.environ | {
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TRIM_THRESHOLD_": "65536",
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if not Path(out).exists():
            raise RuntimeError(f"{strategy}: {done.stderr[-3000:]}")
        return json.loads(Path(out).read_text())


def large_base(folder: str) -> str:
    "A checkpoint of 300 million bfloat16 numbers."
    model, processor = load_model(
        make_tiny_checkpoint(folder, hidden=1024, layers=24, vision_hidden=64), device="cpu", dtype=torch.bfloat16
    )
    model.save_pretrained(folder), processor.save_pretrained(folder)
    return folder


def loading() -> str:
    "The table of peaks."
    with tempfile.TemporaryDirectory() as folder:
        base = large_base(folder)
        found = {strategy: loaded(base, strategy) for strategy in ("ddp", "zero3", "fsdp2")}
    rows = [
        f"| {name} | {rank} | {p['RssAnon']:.0f} MB, {p['RssAnon'] / f['whole']:.0%} | {p['VmRSS']:.0f} MB |"
        for name, f in found.items()
        for rank, p in enumerate(f["peaks"])
    ]
    return LOADING.format(millions=found["ddp"]["weights"] / 1e6, whole=found["ddp"]["whole"]) + "\n".join(rows) + "\n"


def once(notebook: str, out: Path, parameters: dict, ranks: int = 1) -> Path:
    "Run an experiment unless this folder holds it, done."
    if not ((out / "manifest.json").exists() and load_run(out).ok):
        print(f"{out}: {run(notebook, out, parameters, ranks=ranks).manifest.seconds:.0f} s", flush=True)
    return out


def apart(one: list[dict], two: list[dict], name: str) -> str:
    """Differences of a logged value, step by step, relative to its largest in the first log.

    ValueError when the logs are not of as many steps.
    """
    largest = max(abs(row[name]) for row in one)
    return ", ".join(f"{abs(a[name] - b[name]) / largest:.0e}" for a, b in zip(one, two, strict=True))


def table(folder: Path, notebook: str) -> str:
    "One row for each strategy."
    one = read_log(folder / f"{notebook}-one/log.jsonl")
    lines = [
        f"\n## {notebook.upper()}\n",
        f"| two ranks under | {' | '.join(MEASURED[notebook])} |",
        "|---" * (1 + len(MEASURED[notebook])) + "|",
    ]
    for strategy in STRATEGIES:
        two = read_log(folder / f"{notebook}-{strategy}/log.jsonl")
        lines.append(f"| {strategy} | " + " | ".join(apart(one, two, name) for name in MEASURED[notebook]) + " |")
    first = "; ".join(f"{name} {', '.join(f'{row[name]:.4g}' for row in one)}" for name in MEASURED[notebook])
    return "\n".join([*lines, "", f"One process, step by step: {first}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/parallel"), help="where the runs go")
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        return load_here(*asked.load)
    out = asked.out.absolute()
    data = once("data", out / "data", {"train": 48, "rl": 16, "test": 4, "none": 2})
    cot = once("cot", out / "cot", {"clips": str(data / "train.csv"), "crops": 8})
    base = {"model": str(ROOT / "data/tiny_base"), "data": str(cot), "cache": ""}
    start = once("sft", out / "start", base | {"steps": 100})
    given = {
        "sft": base | {"steps": STEPS["sft"]},
        "grpo": {
            "model": str(start / "checkpoint"),
            "clips": str(data / "rl.jsonl"),
            "cache": "",
            "steps": STEPS["grpo"],
            "samples": 0,
            "prompts": 4,
            "group_size": 4,
            "max_new_tokens": 64,
        },
    }
    for notebook, parameters in given.items():
        once(notebook, out / f"{notebook}-one", parameters)
        for strategy in STRATEGIES:
            once(notebook, out / f"{notebook}-{strategy}", parameters | {"strategy": strategy}, ranks=2)
    (Path(__file__).parent / "parallel.md").write_text(
        HEAD.format(**STEPS) + "".join(table(out, notebook) for notebook in given) + loading() + TAIL, encoding="utf-8"
    )


if __name__ == "__main__":
    main()
