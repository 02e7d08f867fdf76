"""What two ranks do when something fails: how soon they end, what they say and where, and whether a process is left.

    python benchmarks/failures.py

Every row is a real `actrep run --ranks 2` on this machine, with gloo and without a GPU; the table goes to
benchmarks/failures.md. A disk is full for
real where a small one may be mounted (as root), and is /dev/full otherwise. `--only WORDS` tries the rows that hold
these words and writes nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.spmd import free_port

LIMIT = 20  # seconds that a cell may take in the row about time
MEET = """import os, pathlib, signal, time, torch
from torch import distributed as dist
dist.init_process_group('gloo')
rank, folder = dist.get_rank(), pathlib.Path(os.environ['FOLDER'])
def now(later=0): (folder / 'failed').write_text(str(time.time() + later))
def ready(): (folder / f'ready{rank}').touch()"""
WAIT = "dist.all_reduce(torch.ones(1))"
TRAIN = """import numpy as np
from actrep_nb import sft
from actrep_nb.models import Sample, encode, load_model
from actrep_nb.records import Clip
from actrep_nb.video import Frames
model, processor = load_model(os.environ['CHECKPOINT'], device='cpu')
frames = Frames(np.zeros((8, 56, 56, 3), np.uint8), np.arange(8) / 4, 4.0)
prompt = encode(model, processor, Sample(Clip('a.mp4', 'squat', 2), frames, 'How many?'))
args = sft.training_arguments(folder / 'training', 20, 4, 1e-3, strategy=STRATEGY)
steps = iter(range(10**6))
def hurt(*_):
    if rank == 1 and next(steps) == 3: now(); HURT
WHERE
sft.train_sft(model, [sft.make_example(processor, prompt, 'rep1: 0.0s-1.5s')] * 8, args)"""
BACKWARD = "next(p for n, p in model.named_parameters() if 'layers.0' in n).register_hook(hurt)"
FORWARD = "model.model.language_model.layers[0].register_forward_pre_hook(hurt)"
KILL, RAISE = "os.kill(os.getpid(), 9)", "raise ValueError('stu6_44')"


def training(strategy: str, where: str, hurt: str) -> str:
    "A cell that trains, and hurts rank 1 in its fourth step."
    return TRAIN.replace("STRATEGY", repr(strategy)).replace("WHERE", where).replace("HURT", hurt)


@dataclass(frozen=True)
class Case:
    "One way to fail."

    cell: str  # the cell that fails
    act: Callable[[subprocess.Popen], None] | None = (
        None  # done to the run from outside, as soon as its ranks are ready
    )
    nodes: int = 1
    flags: tuple[str, ...] = ()
    small: bool = False  # the run folder lies on a disk with room for its beginning only


def sent(number: int) -> Callable[[subprocess.Popen], None]:
    "A signal to the run, and for Ctrl-C to all of its process group, as a terminal does it."
    return lambda p: os.killpg(p.pid, number) if number == signal.SIGINT else p.send_signal(number)


CASES = {
    "rank 1 raises while rank 0 waits in a collective": Case(f"if rank == 1: now(); {RAISE}\n{WAIT}"),
    "rank 0 raises while rank 1 waits in a collective": Case(f"if rank == 0: now(); {RAISE}\n{WAIT}"),
    "rank 1: kill -9": Case(f"if rank == 1: now(); {KILL}\n{WAIT}"),
    "rank 0: kill -9": Case(f"if rank == 0: now(); {KILL}\n{WAIT}"),
    "a cell runs longer than its limit": Case(
        f"now({LIMIT})\nif rank == 0: {WAIT}\nelse: time.sleep(600)", flags=("--timeout", str(LIMIT))
    ),
    "rank 1 raises in a DDP backward pass": Case(training("ddp", BACKWARD, RAISE)),
    "rank 1: kill -9 in a DDP backward pass": Case(training("ddp", BACKWARD, KILL)),
    "rank 1 raises in a ZeRO-3 forward pass": Case(training("zero3", FORWARD, RAISE)),
    "rank 1: kill -9 in a ZeRO-3 backward pass": Case(training("zero3", BACKWARD, KILL)),
    "an error on the second of two nodes": Case("if rank == 3: now(); " + RAISE + "\ntime.sleep(600)", nodes=2),
    "a rank of the second of two nodes: kill -9": Case("if rank == 2: now(); " + KILL + "\ntime.sleep(600)", nodes=2),
    "Ctrl-C": Case("ready(); time.sleep(600)", sent(signal.SIGINT)),
    "SIGTERM, as from a scheduler": Case("ready(); time.sleep(600)", sent(signal.SIGTERM)),
    "the run itself: kill -9": Case("ready(); time.sleep(600)", sent(signal.SIGKILL)),
    "the disk is full when rank 1 saves": Case(
        f"if rank == 1:\n    now(); (pathlib.Path(os.environ['DISK']) / 'checkpoint').write_bytes(bytes(2**21))\n{WAIT}"
    ),
    "the disk with the run folder is full": Case("now(); print('x' * 2**21)", small=True),
}


class Disk:
    "A disk of one MiB, or /dev/full's folder where none may be mounted."

    def __init__(self, folder: Path):
        self.at = folder / "disk"
        self.at.mkdir()
        self.mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.at], capture_output=True
        ).returncode
        if not self.mounted:
            (self.at / "checkpoint").symlink_to("/dev/full")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", self.at], capture_output=True) if self.mounted else None


def left(mark: str) -> list[psutil.Process]:
    "Processes that carry the mark in their environment."

    def ours(p: psutil.Process) -> bool:
        try:
            return (
                p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE and p.environ().get("FAILURE_CASE") == mark
            )
        except psutil.Error:
            return False

    return [p for p in psutil.process_iter() if ours(p)]


def started(case: Case, folder: Path, out: Path, env: dict[str, str], node: int, port: int) -> subprocess.Popen:
    "The engine of one node."
    place = (
        {
            "RANK": str(node),
            "WORLD_SIZE": str(case.nodes),
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if case.nodes > 1
        else {}
    )
    command = [
        str(Path(sys.executable).with_name("actrep")),
        "run",
        str(folder / "case.ipynb"),
        "--out",
        str(out),
        "--ranks",
        "2",
        *case.flags,
    ]
    with open(folder / f"stderr{node}", "wb") as log:
        return subprocess.Popen(command, env=env | place, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)


def first_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[0][:100]


def in_notebook(path: Path) -> str:
    "The first error output of a kept notebook."
    try:
        cells = nbformat.read(path, 4).cells
    except (OSError, ValueError) as e:
        return f"not kept ({type(e).__name__})"
    errors = [o for c in cells for o in c.get("outputs", []) if o.output_type == "error"]
    return f"{errors[0].ename}: {first_line(errors[0].evalue)}" if errors else "no error"


def in_manifest(path: Path) -> str:
    "Status and error of a manifest."
    try:
        m = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        return f"not kept ({type(e).__name__})"
    return m["status"] + (f", {m['error']['name']}" if m["error"] else "")


def attempt(case: Case, folder: Path, checkpoint: Path) -> list[dict]:
    "Let it fail: a row for each node."
    mark, port = uuid.uuid4().hex, free_port()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (MEET, case.cell, "print('never')")]),
        folder / "case.ipynb",
    )
    with Disk(folder) as disk:
        out = (disk.at if case.small else folder) / "run"
        env = os.environ | {
            "FAILURE_CASE": mark,
            "FOLDER": str(folder),
            "CHECKPOINT": str(checkpoint),
            "DISK": str(disk.at),
            "DS_ACCELERATOR": "cpu",
        }
        runs = [started(case, folder, out, env, node, port) for node in range(case.nodes)]
        if case.act:
            while len(list(folder.glob("ready*"))) < 2 and runs[0].poll() is None:
                time.sleep(0.05)
            (folder / "failed").write_text(str(time.time()))
            case.act(runs[0])
        ended: dict[int, float] = {}
        while len(ended) < len(runs):
            ended |= {k: time.time() for k, p in enumerate(runs) if k not in ended and p.poll() is not None}
            time.sleep(0.02)
        here, until = left(mark), time.time() + 10
        while left(mark) and time.time() < until:
            time.sleep(0.05)
        gone, stayed = time.time(), left(mark)
        for p in stayed:
            p.kill()
        failed = float((folder / "failed").read_text())

        def row(k: int, p: subprocess.Popen) -> dict:
            said = [line for line in (folder / f"stderr{k}").read_text(errors="replace").splitlines() if line.strip()]
            where = out / f"node{k}" if k else out
            return {
                "seconds": (gone if here else ended[k]) - failed,
                "exit": p.returncode,
                "notebook": in_notebook(where / "notebook.ipynb"),
                "manifest": in_manifest(where / "manifest.json"),
                "stderr": first_line("\n".join(line for line in said if "Error" in line or "nterrupted" in line)),
                "left": len(stayed),
            }

        return [row(k, p) for k, p in enumerate(runs)]


HEAD = """# What happens when something fails

`python benchmarks/failures.py`: two ranks on one machine (two nodes of two ranks where it says so), gloo, no GPU.
Seconds are counted from the failure (for a time limit, from the limit) until the command has
ended and none of its processes is there. *Notebook* is the first error in rank 0's kept notebook; *stderr* is the
first line of the command's own words that names an error; *left* counts processes ten seconds after the end.

| what fails | seconds | exit code | notebook | manifest | stderr | left |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="try the rows that hold these words, and write no file")
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the background job of a shell ignores it, and so would the runs
    only, lines = parser.parse_args().only, []
    with tempfile.TemporaryDirectory() as base:
        checkpoint = make_tiny_checkpoint(Path(base) / "checkpoint", hidden=32, layers=2, vision_hidden=32)
        for k, (name, case) in enumerate((name, case) for name, case in CASES.items() if only in name):
            (folder := Path(base) / str(k)).mkdir()
            for node, row in enumerate(attempt(case, folder, checkpoint)):
                shown = [str(row[c]).replace("|", "\\|") for c in ("notebook", "manifest", "stderr")]
                lines.append(
                    f"| {name}{f': node {node}' if case.nodes > 1 else ''} | {row['seconds']:.1f} | {row['exit']} | "
                    f"{' | '.join(shown)} | {row['left']} |"
                )
                print(lines[-1], flush=True)
    if not only:
        (Path(__file__).parent / "failures.md").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
