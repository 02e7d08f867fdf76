"""How long the demo takes, and what it ends with, at several seeds and on a busy machine.

    python benchmarks/demo.py                          # seeds 0, 1 and 2; results in benchmarks/demo.md
    python benchmarks/demo.py --seeds 0 --busy 2       # one more row, beside two loops that keep two cores busy
    python benchmarks/demo.py --seeds 0 --actrep OTHER/.venv/bin/actrep --name before

Each row is a demo from nothing. Rows are kept in benchmarks/demo.json, and the page is written from all of them.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from functools import partial
from pathlib import Path

from actrep_nb.process import end_with_parent

HERE = Path(__file__).resolve().parent
STAGES = ("sft", "grpo", "period")
METRICS = ("obo", "exact", "mae")
TEXT = """# The demo

How long `make demo` takes once it is set up, and what it ends with.

    python benchmarks/demo.py

Seconds from the command to the table; of the steps, those that the run folders tell. `film` runs beside the others.

{times}

On 500 held-out clips: off by at most one (OBO), exact, mean error divided by the true count (MAE). Film: OBO on 256
drawn windows.

{results}
"""


def table(rows: list[dict[str, str]]) -> str:
    "Rows as Markdown."
    heads = list(dict.fromkeys(name for row in rows for name in row))
    lines = [heads, ["---"] * len(heads), *([row.get(name, "") for name in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def start(*command: str) -> subprocess.Popen:
    "A process that ends with this one."
    return subprocess.Popen(command, preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM))


def measure(actrep: str, seed: int, size: str, out: Path) -> dict:
    "One demo from nothing: seconds, and what it ends with."
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    if code := start(actrep, "demo", "--seed", str(seed), "--size", size, "--out", str(out)).wait():
        raise SystemExit(f"the demo ended with {code}: see {out}")
    took = time.monotonic() - began
    steps = {p.parent.name: json.loads(p.read_text())["seconds"] for p in sorted(out.glob("*/manifest.json"))}
    judged = json.loads((out / "evaluate/results.json").read_text())["models"]
    film = json.loads((out / "film/results.json").read_text())["drawn"]
    return {
        "seconds": round(took),
        "steps": {name: round(seconds) for name, seconds in steps.items()},
        "results": {name: {m: judged[name][m]["value"] for m in METRICS} for name in STAGES},
        "film": {stage: row["obo"] for stage, row in film.items()},
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    ask.add_argument("--busy", type=int, default=0, help="loops that keep a core busy each, beside it")
    ask.add_argument("--size", default="full")
    ask.add_argument("--actrep", default=str(Path(sys.executable).with_name("actrep")), help="the command to measure")
    ask.add_argument("--name", default="now", help="what the row is called")
    ask.add_argument("--out", type=Path, default=HERE.parent / "runs/bench_demo", help="folder of the demos")
    given = ask.parse_args()
    kept = HERE / "demo.json"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    for seed in given.seeds:
        loops = [start(sys.executable, "-c", "while True: pass") for _ in range(given.busy)]
        load = os.getloadavg()[0]
        try:
            row = measure(given.actrep, seed, given.size, given.out / f"{given.name}-{seed}-{given.busy}")
        finally:
            for loop in loops:
                loop.kill()
        key = {"name": given.name, "size": given.size, "seed": seed, "busy": given.busy}
        rows = [r for r in rows if {k: r[k] for k in key} != key]
        rows.append(key | {"day": str(date.today()), "cores": os.cpu_count(), "load": round(load, 1)} | row)
        kept.write_text(json.dumps(rows, indent=1) + "\n")
    label = [
        {
            "demo": f"{r['name']}, {r['size']}",
            "seed": str(r["seed"]),
            "beside": f"{r['busy']} busy loops" if r["busy"] else "nothing",
        }
        for r in rows
    ]
    times = [
        at | {"all": f"**{r['seconds']}**"} | {name: str(s) for name, s in r["steps"].items()}
        for at, r in zip(label, rows)
    ]
    results = [
        at
        | {name: " / ".join(f"{r['results'][name][m]:.3f}" for m in METRICS) for name in STAGES}
        | {f"film, {stage}": f"{obo:.3f}" for stage, obo in r["film"].items()}
        for at, r in zip(label, rows)
    ]
    (HERE / "demo.md").write_text(TEXT.format(times=table(times), results=table(results)))


if __name__ == "__main__":
    main()
