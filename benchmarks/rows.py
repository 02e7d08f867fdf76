"""Do time and memory grow with the rows, and no faster?

Loading, audit, its page, leakage, sampling and splitting at 10⁴, 10⁵ and 10⁶ rows; the rest, and windows of one
video, at 10³ to 10⁵.

    python benchmarks/rows.py --before OLD_CHECKOUT        # results in benchmarks/rows.md

Each figure is of a process of its own: CPU seconds (user and system, so that other programs count little) of the step
alone, and the peak memory of the whole process.
A step that passes its limit of CPU seconds or memory is stopped, and so are the larger ones of its kind.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = 10_000, 100_000, 1_000_000
FEWER = 1_000, 10_000, 100_000
CASES: dict[str, tuple[str, tuple[int, ...], Callable]] = {}  # name → what it is, its sizes, and what prepares the step


def case(what: str, sizes: tuple[int, ...] = ROWS):
    "Register what makes a step: called with a folder and a number of rows, it returns the function to be measured."

    def register(prepare):
        CASES[prepare.__name__] = what, sizes, prepare

    return register


def table(folder: Path, rows: int, window: bool = False) -> Path:
    "A table as people keep it: a recording of ten clips, three repetitions of each; with `window`, all of one video."
    path = folder / "rows.csv"
    with open(path, "w") as file:
        file.write("file,action,count,cycles_s,split,source,window_s\n")
        for k in range(rows):
            name, span = ("day.mp4", f"{k * 5}-{k * 5 + 4}") if window else (f"clip{k:07}.mp4", "")
            file.write(
                f"{name},Push "
                f"Ups,3,0.5-1.5;1.5-2.5;2.5-3.5,{('train', 'train', 'valid', 'test')[k // 10 % 4]}"
                f",{'' if window else f'person{k // 10}'},{span}\n"
            )
    return path


def clips(rows: int, splits: int = 3):
    "The same in memory, one clip after the other: counts 1 to 20."
    from actrep_nb.records import Clip, ClipSet

    cycles = [tuple((t + 0.5, t + 1.5) for t in range(n)) for n in range(21)]
    return ClipSet(
        Clip(f"clip{k:07}.mp4", "push_up", 1 + k % 20, cycles[1 + k % 20], f"s{k // 10 % splits}", f"person{k // 10}")
        for k in range(rows)
    )


@case("load a table (CSV)")
def load(folder, rows):
    from actrep_nb.formats import load_clips

    path = table(folder, rows)
    return lambda: load_clips(path)


@case("load a table of RepCount-A's 302 frame columns", FEWER)
def wide(folder, rows):
    from actrep_nb.formats import load_clips

    path = folder / "rows.csv"
    with open(path, "w") as file:
        file.write(",".join(["type", "name", "count", *(f"L{k}" for k in range(1, 303)), "fps"]) + "\n")
        for k in range(rows):
            count = 1 + k % 20
            file.write(
                f"pushups,clip{k:07}.mp4,{count},"
                + ",".join(str(15 + 15 * (i // 2 + i % 2)) if i < 2 * count else "" for i in range(302))
                + ",30\n"
            )
    return lambda: load_clips(path)


@case("load the first table as JSON lines", FEWER)
def jsonl(folder, rows):
    from actrep_nb.formats import load_clips

    path = folder / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "video": c.video,
                    "action": c.action,
                    "count": c.count,
                    "cycles": c.cycles,
                    "split": c.split,
                    "source": c.source,
                }
            )
            + "\n"
            for c in clips(rows)
        )
    )
    return lambda: load_clips(path)


@case("audit of what was loaded")
def audited(folder, rows):
    from actrep_nb.audit import audit
    from actrep_nb.formats import load_clips

    loaded = load_clips(table(folder, rows))
    return lambda: audit(loaded)


@case("page of the audit, one count being a million", FEWER)
def page(folder, rows):
    from actrep_nb.audit import audit, audit_page
    from actrep_nb.records import Clip, ClipSet

    some = ClipSet([*clips(rows).kept, Clip("typo.mp4", "push_up", 1_000_000, split="s0")])
    found = audit(some)
    return lambda: audit_page(some, found)


@case("leakage between three splits")
def leaks(folder, rows):
    from actrep_nb.records import leakage

    some = clips(rows)
    return lambda: leakage(some)


@case("leakage where every ten rows name a split of their own", FEWER)
def leaks_of_many(folder, rows):
    from actrep_nb.records import leakage

    some = clips(rows, rows)
    return lambda: leakage(some)


@case("random count sampling, as many clips as there are")
def sampling(folder, rows):
    from actrep_nb.sampling import random_count_sampling

    some = clips(rows, 1)
    return lambda: random_count_sampling(some, rows)


@case("dealing to train, valid and test", FEWER)
def dealing(folder, rows):
    from actrep_nb.records import split_clips

    some = clips(rows)
    return lambda: split_clips(some, {"test": 0.2, "valid": 0.1})


@case("load windows of one video", FEWER)
def windows(folder, rows):
    from actrep_nb.formats import load_clips

    path = table(folder, rows, window=True)
    return lambda: load_clips(path)


@case("audit of windows of one video", FEWER)
def windows_audited(folder, rows):
    from actrep_nb.audit import audit
    from actrep_nb.records import Clip, ClipSet

    some = ClipSet(
        Clip("day.mp4", "push_up", 1, split="train", id=str(k), window=(k * 5, k * 5 + 4)) for k in range(rows)
    )
    return lambda: audit(some)


@case("crops of one clip", FEWER)
def crops(folder, rows):
    from actrep_nb.records import Clip
    from actrep_nb.sampling import random_count_sampling

    one = Clip("day.mp4", "push_up", 20, tuple((t + 0.5, t + 1.5) for t in range(20)))
    return lambda: random_count_sampling([one], rows)


def measure(name: str, rows: int) -> None:
    "Print what one step takes, in this process."
    with tempfile.TemporaryDirectory() as folder:
        step = CASES[name][2](Path(folder), rows)

        def used():
            return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

        began = used()
        step()
        print(json.dumps({"seconds": used() - began, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def asked(name: str, rows: int, code: Path, seconds: int, gb: float) -> dict:
    "The same in a process of its own, with the package of another folder; empty where it was stopped."

    def limited():
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (int(gb * 2**30), int(gb * 2**30)))

    done = subprocess.run(
        [sys.executable, __file__, "--case", name, "--rows", str(rows)],
        env=os.environ | {"PYTHONPATH": str(code)},
        preexec_fn=limited,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0 or "MemoryError" in done.stderr:
        return {}
    raise RuntimeError(f"{name}, {rows} rows: {done.stderr[-800:]}")


def series(code: Path, names: list[str], seconds: int, gb: float) -> dict[str, dict[int, dict]]:
    "Every case at every size, up to the first that is stopped."
    out: dict[str, dict[int, dict]] = {}
    for name in names:
        out[name] = {}
        for rows in CASES[name][1]:
            out[name][rows] = asked(name, rows, code, seconds, gb)
            print(name, rows, out[name][rows] or "stopped", file=sys.stderr, flush=True)
            if not out[name][rows]:
                break
    return out


def shown(before: dict, after: dict, seconds: int, gb: float) -> str:
    "Both series as a table."

    def cell(one, key):
        return (
            "—"
            if one is None
            else f"{one[key]:.3g}"
            if one and key == "seconds"
            else f"{one[key]:.0f}"
            if one
            else "stopped"
        )

    lines = [
        "# Rows against time and memory",
        "",
        *(__doc__ or "").strip().split("\n"),
        "",
        f"Limits: {seconds} CPU seconds of the whole process, {gb:g} GB of address space. \"stopped\": it passed one "
        "of them; —: not tried after that.",
        "",
        "| step | rows | before, s | after, s | before, MB | after, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, sizes in after.items():
        for rows, one in sizes.items():
            was = before.get(name, {}).get(rows)
            lines.append(
                f"| {CASES[name][0]} | {rows:,} | {cell(was, 'seconds')} | {cell(one, 'seconds')} | "
                f"{cell(was, 'mb')} | {cell(one, 'mb')} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--only", nargs="*", default=[], help=f"some of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=int, default=150, help="limit of CPU seconds for each process")
    parser.add_argument("--gb", type=float, default=6, help="limit of memory for each process")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument(
        "--kept", type=Path, help="a JSON file that keeps the figures of --before, and gives them again"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        measure(args.case, args.rows)
    else:
        names = args.only or list(CASES)
        if args.kept and args.kept.exists():
            before = {
                n: {int(r): one for r, one in sizes.items()} for n, sizes in json.loads(args.kept.read_text()).items()
            }
        else:
            before = series(args.before, names, args.seconds, args.gb) if args.before else {}
        if args.kept:
            args.kept.write_text(json.dumps(before))
        args.out.write_text(shown(before, series(ROOT, names, args.seconds, args.gb), args.seconds, args.gb))
