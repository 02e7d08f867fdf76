"""What a busy machine does to training and to drawing, and what the environment of a process does about it.

    python benchmarks/busy.py            # about two minutes; results in benchmarks/busy.md

Each setting is a process of its own: a small model takes training steps, and windows of motion are drawn; then the
same beside two loops that do nothing but keep two cores busy. The settings wait for each
other, so that only one is at work at a time, and take turns, so that a minute in which the machine does something
else falls on all of them. Ratios are to "as it comes" while nothing else runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from actrep_nb.process import PATIENT, stoppable  # noqa: E402

KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
    "MALLOC_TOP_PAD_": str(2**26),
}  # bytes
SETTINGS = {
    "as it comes": {},
    "waiting passively": {"OMP_WAIT_POLICY": "PASSIVE"},
    "and one thread for NumPy (what is set)": PATIENT,
    "one thread for all": {"OMP_NUM_THREADS": "1"},
    "memory kept": KEPT_MEMORY,
    "passively, memory kept": PATIENT | KEPT_MEMORY,
}
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in {*PATIENT, *KEPT_MEMORY, "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
}


def worker(seconds: float) -> None:
    "Measure when told, for so long each: milliseconds of a training step, windows drawn in a second."
    import torch

    from actrep_nb.drawn import DrawnWindows
    from actrep_nb.models import load_model
    from actrep_nb.sft import completion_logprobs, sft_batch

    model, processor = load_model(ROOT / "data/tiny_film", device="cpu")
    windows = DrawnWindows(model, processor, 10_000, 0)
    batch = sft_batch(model, windows.encoded(model, [windows[k] for k in range(8)]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step():
        logps, _, mask = completion_logprobs(model, batch)
        (-logps[mask].mean()).backward()
        optimiser.step()
        optimiser.zero_grad()

    def measured(call) -> list[float]:
        took, until = [], time.perf_counter() + seconds
        while time.perf_counter() < until or len(took) < 2:
            began = time.perf_counter()
            call(len(took))
            took.append(time.perf_counter() - began)
        return took

    step()
    threads = torch.get_num_threads()
    print("ready", flush=True)
    for _ in sys.stdin:
        steps = measured(lambda k: step())
        torch.set_num_threads(1)  # as in the processes that draw ahead
        drawn = measured(lambda k: windows[k])
        torch.set_num_threads(threads)
        print(json.dumps({"step": 1000 * statistics.median(steps), "drawn": len(drawn) / sum(drawn)}), flush=True)


def measure(seconds: float, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    "Setting → idle or busy → what was measured, medians over rounds."
    workers = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", str(seconds)],
            env=CLEAN | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name, env in SETTINGS.items()
    }
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {"idle": [], "busy": []} for name in SETTINGS}
    try:
        for process in workers.values():
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a worker could not begin")
        for _ in range(rounds):
            for load in ("idle", "busy"):
                loops = [
                    subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (load == "busy"))
                ]
                try:
                    for name, process in workers.items():
                        process.stdin.write("measure\n")
                        process.stdin.flush()
                        found[name][load].append(json.loads(process.stdout.readline()))
                finally:
                    for loop in loops:
                        loop.kill()
                        loop.wait()
    finally:
        for process in workers.values():
            process.kill()
            process.wait()
    return {
        name: {load: {k: statistics.median(row[k] for row in rows) for k in rows[0]} for load, rows in loads.items()}
        for name, loads in found.items()
    }


def table(found: dict, load: float) -> str:
    "What was found, as Markdown."
    first = found["as it comes"]["idle"]
    rows = [
        f"| {name} | {loads['idle']['step']:.0f} ({loads['idle']['step'] / first['step']:.2f}) | "
        f"{loads['busy']['step']:.0f} ({loads['busy']['step'] / first['step']:.2f}) "
        f"| {loads['idle']['drawn']:.1f} ({loads['idle']['drawn'] / first['drawn']:.2f}) | "
        f"{loads['busy']['drawn']:.1f} ({loads['busy']['drawn'] / first['drawn']:.2f}) |"
        for name, loads in found.items()
    ]
    about = " ".join(__doc__.split("\n\n")[2].split())
    return "\n".join(
        [
            "# Beside other programs",
            "",
            __doc__.splitlines()[0],
            "",
            "    python benchmarks/busy.py",
            "",
            about,
            "",
            "| setting | step, ms | step beside two loops | windows drawn a second | beside two loops |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"{os.cpu_count()} cores; the system's load when it began: {load:.1f} (idle means 0). In brackets: "
            "ratios to the first row's first figure; steps below 1 are faster, windows above 1.",
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
    else:
        load = os.getloadavg()[0]
        with stoppable():
            text = table(measure(args.seconds, args.rounds), load)
        print(text)
        (ROOT / "benchmarks/busy.md").write_text(text, encoding="utf-8")
