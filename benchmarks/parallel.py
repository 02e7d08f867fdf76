"""The same training in one process and on two ranks under each strategy: how far apart are its steps?

    python benchmarks/parallel.py --out runs/parallel

Runs the experiments 03_sft and 05_grpo by papermill, on the CPU with gloo, at the same global batch, and writes benchmarks/parallel.md. What is done
is not repeated.
"""
import argparse
from pathlib import Path

from actrep_nb.parallel import STRATEGIES
from actrep_nb.runs import load_run, run
from actrep_nb.show import read_log

ROOT = Path(__file__).parents[1]
MEASURED = {"sft": ("loss", "grad_norm"), "grpo": ("reward", "loss", "grad_norm")}
STEPS = {"sft": 6, "grpo": 4}
HEAD = """# One process and two ranks

`python benchmarks/parallel.py --out runs/parallel`: the experiments 03_sft ({sft} steps of 8 clips) and 05_grpo ({grpo} steps of 4 clips with 4 answers, from a checkpoint of 100 imitation steps) on drawn clips, by papermill,
on two CPU cores with gloo, float32, AdamW. Difference from one process, step by step, relative to the largest value of one process.
"""
TAIL = """
The tolerance in CI, with SGD: `pytest tests/test_parallel.py -k learn` holds losses, rewards and gradient norms on two ranks to 2e-4 of one process's, and the saved weights
to 1e-3, with DeepSpeed told to share out every weight however small (`stage3_param_persistence_threshold` 0); under ZeRO-3 a rank then holds at most 51 % of them.
"""


def once(notebook: str, out: Path, parameters: dict, ranks: int = 1) -> Path:
    "Run an experiment unless this folder holds it, done."
    if not ((out / "manifest.json").exists() and load_run(out).ok): print(f"{out}: {run(notebook, out, parameters, ranks=ranks).manifest.seconds:.0f} s", flush=True)
    return out


def apart(one: list[dict], two: list[dict], name: str) -> str:
    "Differences of a logged value, step by step, relative to its largest in the first log. ValueError when the logs are not of as many steps."
    largest = max(abs(row[name]) for row in one)
    return ", ".join(f"{abs(a[name] - b[name]) / largest:.0e}" for a, b in zip(one, two, strict=True))


def table(folder: Path, notebook: str) -> str:
    "One row for each strategy."
    one = read_log(folder / f"{notebook}-one/log.jsonl")
    lines = [f"\n## {notebook.upper()}\n", f"| two ranks under | {' | '.join(MEASURED[notebook])} |", "|---" * (1 + len(MEASURED[notebook])) + "|"]
    for strategy in STRATEGIES:
        two = read_log(folder / f"{notebook}-{strategy}/log.jsonl")
        lines.append(f"| {strategy} | " + " | ".join(apart(one, two, name) for name in MEASURED[notebook]) + " |")
    first = "; ".join(f"{name} {', '.join(f'{row[name]:.4g}' for row in one)}" for name in MEASURED[notebook])
    return "\n".join([*lines, "", f"One process, step by step: {first}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/parallel"), help="where the runs go")
    out = parser.parse_args().out.absolute()
    data = once("data", out / "data", {"train": 48, "practice": 16, "test": 4, "none": 2})
    cot = once("cot", out / "cot", {"clips": str(data / "train.csv"), "crops": 8})
    base = {"model": str(ROOT / "data/tiny_base"), "data": str(cot), "cache": ""}
    start = once("sft", out / "start", base | {"steps": 100})
    given = {"sft": base | {"steps": STEPS["sft"]},
             "grpo": {"model": str(start / "checkpoint"), "clips": str(data / "practice.jsonl"), "cache": "", "steps": STEPS["grpo"], "samples": 0, "prompts": 4, "group_size": 4, "max_new_tokens": 64}}
    for notebook, parameters in given.items():
        once(notebook, out / f"{notebook}-one", parameters)
        for strategy in STRATEGIES: once(notebook, out / f"{notebook}-{strategy}", parameters | {"strategy": strategy}, ranks=2)
    (Path(__file__).parent / "parallel.md").write_text(HEAD.format(**STEPS) + "".join(table(out, notebook) for notebook in given) + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
