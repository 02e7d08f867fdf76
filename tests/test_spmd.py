"""One notebook on several ranks: in lock step while all is well, and ended within seconds, with the right culprit and
no process left, when anything fails."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from actrep_nb.runs import Manifest, RunFailed, run
from actrep_nb.spmd import Peers, Place, Trouble, Watch, find_place, free_port, root_cause

MEET = (
    "import os, time, pathlib, torch\nfrom torch import distributed as "
    "dist\ndist.init_process_group('gloo')\nrank = dist.get_rank()\n"
    "pathlib.Path(os.environ['PIDS'], str(os.getpid())).touch()"
)
WAIT = "dist.all_reduce(torch.ones(1))"


@pytest.fixture
def book(tmp_path, monkeypatch):
    "Writes a notebook whose first cell makes the ranks meet; their process numbers are kept."
    (tmp_path / "pids").mkdir()
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACTREP_RANKS"):
        monkeypatch.delenv(name, raising=False)

    def write(*cells, name="book.ipynb"):
        path = tmp_path / name
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (MEET, *cells)]), path)
        return path

    return write


def left(tmp_path) -> list[int]:
    "Kernels that are still there."
    pids = [int(p.name) for p in (tmp_path / "pids").iterdir()]
    assert pids, "the ranks did not even meet"

    def alive(pid):
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    until = time.monotonic() + 2
    while time.monotonic() < until and any(map(alive, pids)):
        time.sleep(0.1)
    return [p for p in pids if alive(p)]


def first_error(out: Path, name="notebook.ipynb"):
    return next(o for c in nbformat.read(out / name, 4).cells for o in c.get("outputs", []) if o.output_type == "error")


def test_ranks_meet_and_the_others_are_kept_beside(book, tmp_path):
    path = book(
        "from actrep_nb.show import glue\nmine = torch.tensor([10.0 ** rank]); "
        "dist.all_reduce(mine)\nglue('sum', mine.item())",
        "glue('env', {k: os.environ[k] for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE')})",
        "print(f'I am {rank}')",
    )
    result = run(path, tmp_path / "run", ranks=2, quiet=True)
    assert result.metrics == {
        "sum": 11.0,
        "env": {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    }
    assert sorted(p.name for p in (tmp_path / "run").glob("notebook*")) == ["notebook.ipynb", "notebook.rank1.ipynb"]
    assert nbformat.read(tmp_path / "run/notebook.rank1.ipynb", 4).cells[-1].outputs[0].text == "I am 1\n"
    assert nbformat.read(tmp_path / "run/notebook.ipynb", 4).cells[-1].outputs[0].text == "I am 0\n"
    assert not left(tmp_path)


FAILURES = {  # cell of which one rank fails: exception, words of the message, who is named
    "rank 1 raises while rank 0 waits": (
        f"if rank == 1: raise ValueError('stu6_44')\n{WAIT}",
        "ValueError",
        r"\[rank 1 of 2\] stu6_44",
    ),
    "rank 1 is killed": (
        f"if rank == 1: os.kill(os.getpid(), 9)\n{WAIT}",
        "DeadKernelError",
        r"\[rank 1 of 2\] the kernel died",
    ),
    "rank 0 is killed": (f"if rank == 0: os.kill(os.getpid(), 9)\n{WAIT}", "DeadKernelError", "the kernel died"),
    "a cell runs too long": (f"if rank == 0: {WAIT}\nelse: time.sleep(600)", "CellTimeoutError", "longer than 25 s"),
    "the disk is full": (
        f"if rank == 1: pathlib.Path('/dev/full').write_bytes(bytes(10**6))\n{WAIT}",
        "OSError",
        r"\[rank 1 of 2\].*No space left",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_any_failure_ends_all_ranks_soon(book, tmp_path, case):
    cell, name, words = FAILURES[case]
    path = book(
        f"open('began', 'w').write(str(time.time()))\n{cell}".replace("'began'", repr(str(tmp_path / "began"))),
        "print('never')",
    )
    with pytest.raises(RunFailed, match=words):
        run(path, tmp_path / "run", ranks=2, timeout=25 if "long" in case else None, quiet=True)
    seconds = time.time() - float((tmp_path / "began").read_text())
    assert seconds < 10 + (25 if "long" in case else 0), f"{seconds:.1f} s to end"
    error = first_error(tmp_path / "run")
    assert error.ename == name
    assert Manifest.load(tmp_path / "run").status == "failed" and not left(tmp_path)
    assert [
        c.metadata.papermill.status
        for c in nbformat.read(tmp_path / "run/notebook.ipynb", 4).cells
        if c.cell_type == "code"
    ] == ["completed", "failed", "pending"]


def test_a_full_disk_under_the_run_folder(book, tmp_path):
    "The notebook itself cannot be saved. What can be said is said, and nothing waits."
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no small disk may be mounted here")
    try:
        with pytest.raises(RunFailed, match="No space left.*\n*.*could not be kept"):
            run(book("print('x' * 2**21)", "print('never')"), disk / "run", ranks=2, quiet=True)
        manifest = Manifest.load(disk / "run")
        assert manifest.status == "failed" and manifest.error["name"] == "OSError" and not left(tmp_path)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_error_of_all_ranks_is_said_once(book, tmp_path):
    with pytest.raises(RunFailed, match="no such clip"):
        run(book("raise ValueError('no such clip')"), tmp_path / "run", ranks=2, quiet=True)
    errors = [
        o
        for c in nbformat.read(tmp_path / "run/notebook.ipynb", 4).cells
        for o in c.get("outputs", [])
        if o.output_type == "error"
    ]
    assert [e.evalue for e in errors] == ["no such clip"]


def test_of_progress_the_end_is_kept_and_of_rank_0_only(book, tmp_path):
    """Two bars of the house, one drawn with carriage returns, a cell that fails while it draws, and a line so long that
    nothing may look at it twice."""
    path = book(
        "from actrep_nb.show import progress\nfor bar in ('first', 'second'):\n    for _ in "
        "progress(range(60), desc=bar): time.sleep(0.02)",
        "print('x' * 2**20)",
        (
            "for i in range(20000): print(f'\\r{i} of 20000', end='', flush=not i % 100)\nraise ValueError('in "
            "the middle')"
        ),
    )
    script = f"from actrep_nb.runs import run; run({str(path)!r}, {str(tmp_path / 'run')!r}, ranks=2, quiet=True)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert "in the middle" in done.stderr, done.stderr[-800:]
    _, bars, line, drawn = [c for c in nbformat.read(tmp_path / "run/notebook.ipynb", 4).cells if c.cell_type == "code"]
    assert [o.data["text/plain"].split(" in ")[0] for o in bars.outputs] == ["first: 60/60", "second: 60/60"] and len(
        line.outputs[0].text
    ) == 2**20 + 1
    assert next(o.text for o in drawn.outputs if o.output_type == "stream") == "19999 of 20000"
    assert nbformat.read(tmp_path / "run/notebook.rank1.ipynb", 4).cells[1].outputs == [], "the other rank is silent"
    page = (tmp_path / "run/report.html").read_text()
    assert (
        page.count("first: 60/60") == page.count("second: 60/60") == 1
        and "\r" not in page
        and "1000 of 20000" not in page
    )
    assert len(page) < 2**20 + 400_000, "what a page weighs without any output, and the one line"


def test_papermill_finds_the_engine_and_fails_with_it(book, tmp_path):
    "As anyone would call it: `ACTREP_RANKS=2 papermill --engine spmd in.ipynb out.ipynb`."
    command = [sys.executable, "-m", "papermill", "--engine", "spmd", "--no-progress-bar"]
    env = os.environ | {"ACTREP_RANKS": "2"}
    good = subprocess.run(
        [*command, str(book("dist.get_world_size()")), str(tmp_path / "good.ipynb")],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "No engine named" in good.stderr:
        pytest.skip("this checkout's entry points are not installed")
    assert (
        good.returncode == 0
        and nbformat.read(tmp_path / "good.ipynb", 4).cells[-1].outputs[0].data["text/plain"] == "2"
    ), good.stderr[-800:]
    bad = subprocess.run(
        [*command, str(book("assert rank == 0, 'only the first'")), str(tmp_path / "bad.ipynb")],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert bad.returncode == 1 and "only the first" in bad.stderr and not left(tmp_path)


def test_ctrl_c_ends_all_ranks(book, tmp_path):
    path = book("pathlib.Path(os.environ['PIDS'] + '.ready' + str(rank)).touch()\ntime.sleep(600)")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from actrep_nb.runs import "
        f"run; run({str(path)!r}, 'run', ranks=2, quiet=True)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    until = time.monotonic() + 90
    while len(list(tmp_path.glob("pids.ready*"))) < 2 and time.monotonic() < until and child.poll() is None:
        time.sleep(0.1)
    assert child.poll() is None, child.stderr.read()
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.wait(30) != 0 and time.monotonic() - began < 10
    assert Manifest.load(tmp_path / "run").status == "interrupted" and not left(tmp_path)


def test_an_error_on_one_node_ends_the_other(book, tmp_path):
    """Two engines under torchrun as on two nodes, two ranks each. Node 0's ranks sleep, so that only the engines' own
    word can end them."""
    path = book(
        f"if rank == 3:\n    open({str(tmp_path / 'failed')!r}, 'w').write(str(time.time()))\n    raise "
        "ValueError('on the second node')\ntime.sleep(600)"
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{free_port()}",
        "--no-python",
    ]
    code = (
        f"import os, sys, time; from actrep_nb.runs import RunFailed, run\ntry: run({str(path)!r}, "
        f"{str(tmp_path / 'run')!r}, ranks=2, quiet=True)\nexcept RunFailed as e:\n "
        f"open({str(tmp_path / 'ended')!r} + os.environ['RANK'], 'w').write(str(time.time()))\n sys.exit(str(e))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    nodes = [
        subprocess.Popen([*torchrun, sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(
        (n.communicate(timeout=150)[1] for n in nodes), key=lambda text: "[another node]" not in text
    )  # which of them is node 0 is torchrun's choice
    failed, ended = (
        float((tmp_path / "failed").read_text()),
        [float((tmp_path / f"ended{k}").read_text()) for k in range(2)],
    )
    assert max(ended) - failed < 10 and time.time() - failed < 20, "the engines, and torchrun around them"
    assert [n.returncode for n in nodes] == [1, 1], said
    assert "node 1: rank 3: ValueError: on the second node" in said[0] and "[rank 3 of 4] on the second node" in said[1]
    assert len(list((tmp_path / "pids").iterdir())) == 4 and not left(tmp_path)


def test_a_lost_node_is_noticed():
    place = Place(1, node=0, nodes=2, port=free_port())
    here = Peers(place, patience=1.0)
    there = Peers(Place(1, node=1, nodes=2, port=place.port), patience=1.0)
    here.start()
    there.start()
    time.sleep(1.5)
    assert not here.trouble and not there.trouble
    there.over.set()  # its engine is killed: no beat, no farewell
    until = time.monotonic() + 8
    while not here.trouble and time.monotonic() < until:
        time.sleep(0.1)
    assert "node 1 is lost" in here.trouble
    here.close("node 0: gave up")


@pytest.mark.parametrize("module", ["spmd", "runs", "cli"])
def test_each_module_can_be_imported_first(module):
    "Papermill loads its engines while it is imported, this package's among them: no circle may come of it."
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                f"import actrep_nb.{module}; from papermill.engines import papermill_engines; "
                "papermill_engines.get_engine('spmd')"
            ),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    if "No engine named" in done.stderr:
        pytest.skip("this checkout's entry points are not installed")
    assert done.returncode == 0, done.stderr[-500:]


def test_places():
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "100"}
    assert find_place(4, torchrun) == Place(4, 1, 2, "a", 101) and find_place(4, torchrun).env(3)["RANK"] == "7"
    slurm = {
        "SLURM_PROCID": "2",
        "SLURM_NTASKS": "3",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_LOCALID": "0",
        "MASTER_ADDR": "b",
    }
    assert find_place(None, slurm | {"ACTREP_RANKS": "8"}) == Place(8, 2, 3, "b", 29501)
    assert Place().env(0) == {} and find_place(None, {}).world == 1
    assert find_place(2, {"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_LOCALID": "0"}).nodes == 1, (
        "a batch script that did not call srun"
    )
    for env, words in (
        (torchrun | {"LOCAL_RANK": "1"}, "two engines"),
        ({k: v for k, v in slurm.items() if k != "MASTER_ADDR"}, "MASTER_ADDR"),
    ):
        with pytest.raises(ValueError, match=words):
            find_place(2, env)
    for none in (0, -1):
        with pytest.raises(ValueError, match="it must be 1 or more"):
            find_place(none, {})
    with pytest.raises(ValueError, match="8 ranks and 1 GPU: CUDA_VISIBLE_DEVICES shows only 3"):
        find_place(8, {"CUDA_VISIBLE_DEVICES": "3"})
    assert [find_place(2, {"CUDA_VISIBLE_DEVICES": shown}).ranks for shown in ("", "-1", "4,5")] == [2, 2, 2]


def test_a_rank_starts_no_run_of_its_own(tmp_path, monkeypatch):
    """It knows RANK and WORLD_SIZE as an engine under torchrun does, and would wait for the engine of another node for
    ever."""
    for name, value in Place(2, port=29500).env(1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="this is rank 1 of 2.*terminal"):
        run("sft", tmp_path / "run", ranks=2)
    assert not (tmp_path / "run").exists()
    assert "ACTREP_RANK" not in Place().env(0), "a rank alone may start what it likes"


def test_the_root_cause_is_a_death_or_the_first_error():
    said, late, dead = (
        Trouble(0, "RuntimeError", "", at=1),
        Trouble(2, "ValueError", "", at=1.5),
        Trouble(1, "DeadKernelError", "", at=2, died=True),
    )
    assert root_cause([late, said]) is said and root_cause([said, late, dead]) is dead


# --- the same by hand: one Jupyter kernel in front of two


@pytest.fixture
def fan(tmp_path, monkeypatch):
    "A client of a freshly started kernel \"ActRep × 2\", installed as `actrep kernel install` does."
    from jupyter_client import KernelManager

    from actrep_nb.spmd import install_kernel

    spec = install_kernel(2, prefix=str(tmp_path / "prefix"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "prefix/share/jupyter"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    assert spec.name == "actrep-x2"
    km = KernelManager(kernel_name="actrep-x2")
    km.start_kernel(stderr=(tmp_path / "stderr").open("wb"))
    kc = km.client()
    kc.start_channels()
    kc.wait_for_ready(timeout=60)
    yield km, kc
    kc.stop_channels()
    km.shutdown_kernel(now=True)


def ask(kc, code, timeout=60, answers=()):
    "Run a cell and answer what it asks: what was shown, and the reply."
    shown, left = [], list(answers)
    reply = kc.execute_interactive(
        code,
        timeout=timeout,
        output_hook=lambda m: shown.append((m["header"]["msg_type"], m["content"])),
        stdin_hook=lambda m: left and kc.input(left.pop(0)),
    )
    assert not left, "it asked less often"
    said = "".join(c["text"] for kind, c in shown if kind == "stream") + "".join(
        c["data"]["text/plain"] for kind, c in shown if kind == "execute_result"
    )
    return said, [c for kind, c in shown if kind == "error"], reply["content"]


def test_a_kernel_in_front_of_two(fan):
    import threading

    km, kc = fan
    assert (
        ask(
            kc,
            (
                "import os, time, torch; from torch import distributed as dist; dist.init_process_group('gloo'); "
                "rank = dist.get_rank()\nprint(f'I am {rank}')"
            ),
        )[0]
        == "I am 0\n"
    )
    said, errors, _ = ask(kc, "mine = torch.tensor([10.0 ** rank]); dist.all_reduce(mine); mine.item()")
    assert said == "11.0" and not errors
    said, errors, reply = ask(kc, "if rank == 1: raise ValueError('stu6_44')\n'rank 0 goes on'")
    assert (
        reply["status"] == "error"
        and errors[0]["ename"] == "ValueError"
        and "rank 1 of 2 failed first" in errors[0]["traceback"][0]
        and said == "'rank 0 goes on'"
    )
    assert errors[0]["evalue"] == "[rank 1 of 2] stu6_44"
    _, errors, _ = ask(kc, "1 / 0")
    assert (
        len(errors) == 1
        and errors[0]["evalue"] == "[all ranks] division by zero"
        and errors[0]["traceback"][0] == "all ranks failed"
    )
    assert ask(kc, "rank")[0] == "0", "an error that leaves nobody waiting costs no variables"
    assert "all_reduce" in kc.complete("dist.all_red", 12, reply=True, timeout=20)["content"]["matches"][0]
    began = time.monotonic()
    threading.Timer(1.5, km.interrupt_kernel).start()
    _, errors, _ = ask(kc, "time.sleep(60)")
    assert errors[0]["ename"] == "KeyboardInterrupt" and time.monotonic() - began < 15
    assert ask(kc, "dist.all_reduce(mine); mine.item()")[0] == "22.0", "both ranks are there after an interrupt"
    pids = ask(kc, "got = [None] * 2; dist.all_gather_object(got, os.getpid()); got")[0]
    km.restart_kernel(now=False)
    kc.wait_for_ready(timeout=60)
    assert ask(kc, "import os; ('rank' in globals(), os.environ['WORLD_SIZE'])")[0] == "(False, '2')"
    assert not [
        p
        for p in map(int, re.findall(r"\d+", pids))
        if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE
    ]


def test_rank_0_may_ask_and_a_shutdown_waits_for_no_answer(fan, tmp_path):
    km, kc = fan
    assert (
        ask(
            kc,
            "import os, torch; rank = int(os.environ['RANK'])\nif rank == 0: print(input('name? '))",
            answers=["Ann"],
        )[0]
        == "Ann\n"
    )
    _, errors, _ = ask(kc, "input('all of you? ')")
    assert (
        errors[0]["ename"] == "StdinNotImplementedError"
        and "[rank 1 of 2]" in errors[0]["evalue"]
        and any("if rank == 0" in line for line in errors[0]["traceback"])
    )
    assert ask(kc, "def f(x):\n    if rank == 0: breakpoint()\n    return x\nf(41)", answers=["p x + 1", "c"])[
        0
    ].endswith("42\n41")
    ask(kc, "1 / 0")
    assert "42\n" in ask(kc, "if rank == 0:\n    %debug", answers=["p 6 * 7", "q"])[0]
    kc.execute("if rank == 0: input()")
    kc.get_stdin_msg(timeout=30)
    began = time.monotonic()
    kc.shutdown()
    while km.is_alive() and time.monotonic() - began < 30:
        time.sleep(0.1)
    assert not km.is_alive(), "it ends by itself"
    said = (tmp_path / "stderr").read_text()
    assert "AssertionError" not in said and "without encryption" not in said, said


def test_a_rank_stuck_in_a_collective_ends_the_kernels_not_the_session(fan):
    km, kc = fan
    ask(
        kc,
        "import torch; from torch import distributed as dist; dist.init_process_group('gloo'); rank = dist.get_rank()",
    )
    began = time.monotonic()
    _, errors, _ = ask(kc, "if rank == 1: raise ValueError('left alone')\ndist.all_reduce(torch.ones(1))")
    assert errors[0]["ename"] == "ValueError" and time.monotonic() - began < 10
    _, errors, _ = ask(kc, "rank")
    assert errors[0]["ename"] == "RanksEnded" and "restart" in errors[0]["evalue"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what processes share")
def test_memory_that_forked_processes_share_is_counted_once():
    code = (
        "import os, time\nheld = b'x' * 300_000_000\nchild = os.fork()\n"
        "if child: print('ready', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        children = []
        try:
            process.stdout.readline()
            watch = Watch("book", quiet=True)
            watch.pids = [process.pid]
            watch.sample()
            children = psutil.Process(process.pid).children()
            assert len(children) == 1 and 286 < watch.peak_mb < 500, "not twice 286 MB"
        finally:
            for one in (*children, process):
                one.kill()
