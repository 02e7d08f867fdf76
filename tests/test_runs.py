"""Runs: what papermill gets wrong must be a failure here, and a run folder must never claim a success that did not happen."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from actrep_nb.runs import (Manifest, ParameterError, RunFailed, Step, find_notebook, hash_path, load_run, notebook_hash, notebook_parameters, run,
                            run_steps, to_html, verify)

FILES = ("notebook.ipynb", "parameters.json", "manifest.json", "metrics.json", "report.html")


@pytest.fixture
def book(tmp_path):
    "Writes a notebook: a parameters cell, then the cells given."
    def write(*cells, parameters="n: int = 3  # how many", name="book.ipynb"):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title\n\nWith a formula: $x^2$.")])
        if parameters: nb.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        nb.cells += [nbformat.v4.new_code_cell(c) for c in cells]
        path = tmp_path / name
        nbformat.write(nb, path)
        return path
    return write


def statuses(out):
    return [c.metadata.papermill.status for c in nbformat.read(out / "notebook.ipynb", 4).cells if c.cell_type == "code"]


def errors(out):
    return [o for c in nbformat.read(out / "notebook.ipynb", 4).cells for o in c.get("outputs", []) if o.output_type == "error"]


def processes_of(out_pid):
    try:
        os.kill(out_pid, 0)
        return True
    except ProcessLookupError:
        return False


def test_a_run_leaves_five_files_and_true_records(book, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("a,b\n")
    path = book("from actrep_nb.show import glue\nglue('squares', [k * k for k in range(n)])\nglue('n', n)\nglue('out', out)",
                parameters='n: int = 3  # how many\nout: str = ""  # where\ncsv: str = ""  # a file\nseed: int = 5')
    result = run(path, tmp_path / "run", {"n": 4, "csv": str(data)}, quiet=True)
    assert all((tmp_path / "run" / f).exists() for f in FILES)
    assert result.metrics == {"squares": [0, 1, 4, 9], "n": 4, "out": str(tmp_path / "run")}
    m = Manifest.load(tmp_path / "run")
    assert (m.status, m.seed, m.parameters["n"], m.notebook_sha256) == ("done", 5, 4, notebook_hash(path))
    assert m.data == {"csv": {"path": str(data), **hash_path(data)}}
    assert m.packages["papermill"] and m.peak_memory_mb > 10 and m.ended >= m.started
    assert not list((tmp_path / "run").glob("*.part"))


def test_the_kernel_is_this_python_and_says_nothing_about_encryption(book, tmp_path):
    run(book("import sys\nprint(sys.executable)"), tmp_path / "run", quiet=True)
    text = (tmp_path / "run" / "notebook.ipynb").read_text()
    assert sys.executable in text and "encryption" not in text


@pytest.mark.parametrize("cell, timeout, name", [
    ("raise KeyError('gone')", None, "KeyError"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", None, "DeadKernelError"),
    ("import time\ntime.sleep(600)", 2, "CellTimeoutError"),
    ("import sys\nsys.exit(3)", None, "SystemExit"),
])
def test_every_way_to_fail_is_recorded_where_it_happened(book, tmp_path, cell, timeout, name):
    path = book("from actrep_nb.show import glue\nimport os\nglue('pid', os.getpid())", cell, "print('never')")
    start = time.monotonic()
    with pytest.raises(RunFailed) as e:
        run(path, tmp_path / "run", timeout=timeout, quiet=True)
    assert time.monotonic() - start < 30
    assert "book.ipynb failed in cell 4 (In [4])" in str(e.value) and name in str(e.value)
    result = load_run(tmp_path / "run")
    assert (result.manifest.status, result.manifest.error["name"], result.manifest.error["cell"]) == ("failed", name, 4)
    assert statuses(tmp_path / "run") == ["completed", "completed", "completed", "failed", "pending"]
    assert [o.ename for o in errors(tmp_path / "run")] == [name]
    assert name in (tmp_path / "run" / "report.html").read_text()
    assert not processes_of(result.metrics["pid"])


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_is_recorded_and_leaves_no_kernel(book, tmp_path, sent):
    path = book("import os, pathlib, time\npathlib.Path('kernel.pid').write_text(str(os.getpid()))\ntime.sleep(600)")
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs, these tests among them, may be deaf to it
    child = subprocess.Popen([sys.executable, "-c", f"{start}; from actrep_nb.runs import run; run({str(path)!r}, 'run', quiet=True)"], cwd=tmp_path,
                             stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    pid_file = tmp_path / "kernel.pid"
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline and child.poll() is None: time.sleep(0.1)
    assert pid_file.exists(), child.stderr.read()
    child.send_signal(sent)
    assert child.wait(30) != 0
    assert Manifest.load(tmp_path / "run").status == "interrupted"
    assert statuses(tmp_path / "run")[-1] == "failed"
    time.sleep(0.5)
    assert not processes_of(int(pid_file.read_text()))


def test_a_second_run_replaces_the_first(book, tmp_path):
    run(book("from actrep_nb.show import glue\nglue('a', 1)"), tmp_path / "run", quiet=True)
    with pytest.raises(RunFailed):
        run(book("1 / 0"), tmp_path / "run", quiet=True)
    assert load_run(tmp_path / "run").metrics == {} and load_run(tmp_path / "run").manifest.status == "failed"


def test_wrong_parameters_write_nothing(book, tmp_path):
    path = book("n", parameters="count: int = 3\nrate: float = 0.1\nname: str | None = None\nlayers: list[int] = [1, 2]")
    for given, message in [({"cuont": 1}, "did you mean 'count'"), ({"count": "3"}, "count must be int, not '3' (str)"), ({"count": True}, "must be int"),
                           ({"count": 2.0}, "must be int"), ({"rate": "0.1"}, "rate must be float"), ({"rate": float("nan")}, "must be float, not nan"), ({"rate": -1e999}, "must be float, not -inf"), ({"name": 3}, r"name must be str | None"),
                           ({"layers": [1, "2"]}, "layers must be list[int]")]:
        with pytest.raises(ParameterError, match=re.escape(message)):
            run(path, tmp_path / "run", given, quiet=True)
    assert not (tmp_path / "run").exists()


def test_parameters_cell_is_parsed_not_executed(book):
    declared = notebook_parameters(book(parameters='lr: float = 1e-5  # a=b, "quoted" # twice\nmix: dict[str, float] = {"a": 3}\n\n# a comment\nneg: int = -1'))
    assert declared["lr"].help == 'a=b, "quoted" # twice' and declared["mix"].default == {"a": 3} and declared["neg"].default == -1
    for bad in ("x = 3", "import os", "x: int = max(1, 2)", "x: Path = 'a'", "x: int"):
        with pytest.raises(ParameterError, match="parameters cell, line 1"):
            notebook_parameters(book(parameters=bad))
    assert notebook_parameters(book(parameters=None)) == {}


def test_progress_bars_do_not_fill_the_notebook(book, tmp_path):
    run(book("import sys\nfor k in range(2000): print(f'\\r{k}/2000', end='', file=sys.stderr, flush=True)"), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "notebook.ipynb").stat().st_size < 20_000


def test_what_a_run_warns_of_stays_on_the_terminal(book, tmp_path, capfd):
    "Among lines of progress that are overwritten; other warnings are the notebook's own."
    warn = "import warnings\nfrom actrep_nb.show import RunWarning\nwarnings.warn('blind: 0 nats', RunWarning)\nwarnings.warn('a library is old')\nprint('on it goes')"
    run(book(warn), tmp_path / "run")
    said = capfd.readouterr().err
    assert "book  warning: blind: 0 nats\n" in said and "a library is old" not in said
    assert "blind" not in (run(book(warn), tmp_path / "run", quiet=True), capfd.readouterr().err)[1]


def test_report_needs_no_network_and_hides_code_when_asked(book, tmp_path):
    path = book("import matplotlib.pyplot as plt\nsecret_name = 3\nplt.plot([1, 2]);\nprint('shown')\nimport sys; print('a notice', file=sys.stderr)")
    run(path, tmp_path / "run", quiet=True, no_input=True)
    html = (tmp_path / "run" / "report.html").read_text()
    assert "<title>A title</title>" in html and "shown" in html and "image/png" in html and "secret_name" not in html and "a notice" not in html
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?https?:|import\s.*["']https?:""", html)
    assert not re.findall(r"https?://[^\s\"']+\.m?js", html)
    assert "secret_name" in to_html(tmp_path / "run" / "notebook.ipynb", tmp_path / "with_code.html").read_text()


def test_odd_folder_names(book, tmp_path):
    out = tmp_path / "läufe {x} 1"
    assert run(book("n"), out, quiet=True).ok and Manifest.load(out).status == "done"


def test_steps_stop_at_the_first_failure(book, tmp_path):
    said = []
    steps = [Step("one", str(book("n", name="a.ipynb")), {"n": "{seed}"}), Step("two", str(book("1 / 0", name="b.ipynb")), {}),
             Step("three", str(book("n", name="c.ipynb")), {})]
    with pytest.raises(RunFailed, match="b.ipynb failed in cell 3"):
        run_steps(steps, tmp_path / "all", seed=7, tell=said.append)
    assert json.loads((tmp_path / "all" / "one" / "parameters.json").read_text()) == {"n": 7}
    assert not (tmp_path / "all" / "three").exists() and said[0].startswith("[1/3] one")


def test_verify_names_what_differs(book, tmp_path):
    path = book("from actrep_nb.show import glue\nglue('twice', 2 * n)")
    a, b, c = (run(path, tmp_path / k, {"n": n}, quiet=True).out for k, n in [("a", 1), ("b", 1), ("c", 2)])
    assert verify(a, b).differences == []
    assert [d[:2] for d in verify(a, c).differences] == [("metrics", "twice"), ("parameters", "n")]
    assert not verify(a, c).same_metrics and verify(a, c, rtol=0.5).same_metrics


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"): load_run(tmp_path / "nothing")


def test_hash_covers_names_and_contents(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    first = hash_path(tmp_path / "d")
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    second = hash_path(tmp_path / "d")
    (tmp_path / "d" / "b").write_text("2")
    third = hash_path(tmp_path / "d")
    assert len({first["sha256"], second["sha256"], third["sha256"]}) == 3 and first["by"] == "contents"
    assert hash_path(tmp_path / "d", limit=0)["by"] == "names, sizes and times"


def test_shipped_experiments_declare_readable_parameters():
    folder = Path(__file__).parents[1] / "nbs" / "experiments"
    books = sorted(folder.glob("[0-9]*.ipynb"))
    if not books: pytest.skip("no experiment notebooks yet")
    for path in books:
        declared = notebook_parameters(path)
        assert declared, f"{path.name} has no cell tagged parameters"
        assert all(p.help for p in declared.values()), f"{path.name}: each parameter needs help"
        assert find_notebook(path.stem.split("_", 1)[1]).name == path.name


def test_native_crashes_leave_their_last_words(book, tmp_path):
    with pytest.raises(RunFailed, match="Segmentation fault|Fatal Python error"):
        run(book("import faulthandler, sys\nfaulthandler.enable(file=sys.__stderr__)\nfaulthandler._sigsegv()"), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "notebook.rank0.log").stat().st_size > 0
    assert run(book("n"), tmp_path / "run", quiet=True).ok and not (tmp_path / "run" / "notebook.rank0.log").exists()
