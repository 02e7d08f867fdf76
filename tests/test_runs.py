"""Runs: what papermill gets wrong must be a failure here, and a run folder must never claim a success that did not
happen."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from transformers import SchedulerType

from actrep_nb.rewards import parse_weights
from actrep_nb.runs import (
    FolderBusy,
    Manifest,
    ParameterError,
    RunFailed,
    claimed,
    files_of,
    find_notebook,
    hash_path,
    load_run,
    notebook_hash,
    notebook_parameters,
    read_recipe,
    read_value,
    run,
    to_html,
    verify,
)
from actrep_nb.spec import parse_spec

FILES = ("notebook.ipynb", "parameters.json", "manifest.json", "metrics.json", "inputs.json", "report.html")


@pytest.fixture
def book(tmp_path):
    "Writes a notebook: a parameters cell, then the cells given."

    def write(*cells, parameters="n: int = 3  # how many", name="book.ipynb"):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title\n\nWith a formula: $x^2$.")])
        if parameters:
            nb.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        nb.cells += [nbformat.v4.new_code_cell(c) for c in cells]
        path = tmp_path / name
        nbformat.write(nb, path)
        return path

    return write


def statuses(out):
    return [
        c.metadata.papermill.status for c in nbformat.read(out / "notebook.ipynb", 4).cells if c.cell_type == "code"
    ]


def errors(out):
    return [
        o
        for c in nbformat.read(out / "notebook.ipynb", 4).cells
        for o in c.get("outputs", [])
        if o.output_type == "error"
    ]


def processes_of(out_pid):
    try:
        os.kill(out_pid, 0)
        return True
    except ProcessLookupError:
        return False


def test_a_run_leaves_six_files_and_true_records(book, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("a,b\n")
    path = book(
        "from actrep_nb.show import glue\nglue('squares', [k * k for k in range(n)])\nglue('n', n)\nglue('out', out)",
        parameters='n: int = 3  # how many\nout: str = ""  # where\ncsv: str = ""  # a file\nseed: int = 5',
    )
    result = run(path, tmp_path / "run", {"n": 4, "csv": str(data)}, quiet=True)
    assert all((tmp_path / "run" / f).exists() for f in FILES)
    assert result.metrics == {"squares": [0, 1, 4, 9], "n": 4, "out": str(tmp_path / "run")}
    m = Manifest.load(tmp_path / "run")
    assert (m.status, m.seed, m.parameters["n"], m.notebook_sha256) == ("done", 5, 4, notebook_hash(path))
    assert m.data == {"csv": {"path": str(data), **hash_path(data)}}
    assert json.loads((tmp_path / "run" / "inputs.json").read_text()) == {"csv": {"data.csv": {"text": "a,b\n"}}}
    assert (m.folder, m.origin, m.ranks) == (os.getcwd(), str(path), 1)
    assert m.packages["papermill"] and m.peak_memory_mb > 10 and m.ended >= m.started
    assert not list((tmp_path / "run").glob("*.part"))


def test_the_kernel_is_this_python_and_says_nothing_about_encryption(book, tmp_path):
    run(book("import sys\nprint(sys.executable)"), tmp_path / "run", quiet=True)
    text = (tmp_path / "run" / "notebook.ipynb").read_text()
    assert sys.executable in text and "encryption" not in text


@pytest.mark.parametrize(
    "cell, timeout, name",
    [
        ("raise KeyError('gone')", None, "KeyError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", None, "DeadKernelError"),
        ("import time\ntime.sleep(600)", 2, "CellTimeoutError"),
        ("import sys\nsys.exit(3)", None, "SystemExit"),
    ],
)
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


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_is_recorded_and_leaves_no_kernel(book, tmp_path, sent):
    path = book("import os, pathlib, time\npathlib.Path('kernel.pid').write_text(str(os.getpid()))\ntime.sleep(600)")
    # a shell's background jobs, these tests among them, may be deaf to it
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{start}; from actrep_nb.runs import run; run({str(path)!r}, 'run', quiet=True)"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    pid_file = tmp_path / "kernel.pid"
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.1)
    assert pid_file.exists(), child.stderr.read()
    child.send_signal(sent)
    assert child.wait(30) != 0
    assert Manifest.load(tmp_path / "run").status == "interrupted"
    assert statuses(tmp_path / "run")[-1] == "failed"
    time.sleep(0.5)
    assert not processes_of(int(pid_file.read_text()))


def test_the_same_command_goes_on_and_another_is_refused_or_said(book, tmp_path, monkeypatch):
    "A trainer in small: it keeps a checkpoint at each step, dies in the third, and goes on from the second."
    parameters = 'lr: float = 0.1  # rate\ndie: str = ""  # file\nout: str = ""  # where\nresume: bool = False  # go on'
    path = book(
        """import os, pathlib
steps = sorted(int(p.name[11:]) for p in pathlib.Path(out).glob("checkpoint-*")) if resume else []
began = max(steps, default=0)
for step in range(began + 1, 5):
    if step == 3 and os.path.exists(os.environ["DIE"]): raise OSError("died")
    pathlib.Path(out, f"checkpoint-{step}").mkdir()
pathlib.Path(out, "weights").write_text("whole")""",
        "from actrep_nb.show import glue\nglue('began', began)",
        parameters=parameters,
    )
    out, told, die = tmp_path / "run", [], tmp_path / "die"

    def go(**more):
        return run(path, out, more.pop("given", {}), quiet=True, tell=told.append, **more)

    monkeypatch.setenv("DIE", str(die))
    die.touch()
    with pytest.raises(RunFailed, match="died"):
        go()
    for more in ({"lr": 0.2}, {"lr": 0.2, "resume": True}):
        with pytest.raises(
            ParameterError,
            match=r"up to checkpoint-2 \(lr 0.1, now 0.2\): name another folder with --out, or start over with --fresh",
        ):
            go(given=more)
    assert (out / "checkpoint-2").exists() and load_run(out).manifest.status == "failed", "a refusal changes nothing"
    die.unlink()
    assert (
        go().metrics["began"] == 2
        and told[-1] == "begun before, goes on from the last whole checkpoint, checkpoint-2 or one before it"
    )
    ended = load_run(out).manifest.ended
    assert go().manifest.ended == ended and told[-1] == "done before, skipped"
    for spoil, what in (
        (lambda p: p.unlink(), "weights is missing"),
        (lambda p: p.write_text("ha"), "weights has 2 of 5 bytes"),
    ):
        spoil(out / "weights")
        assert (
            go().manifest.ended
            and told[-1]
            == f"done before, but {what}, goes on from the last whole checkpoint, checkpoint-4 or one before it"
        )
        assert (out / "weights").read_text() == "whole"
    (out / "weights").write_text("whale")
    with pytest.raises(ParameterError, match=r"run/weights was changed after the run had written it: restore it"):
        go()
    assert (out / "weights").read_text() == "whale", "it is somebody's, until --fresh says otherwise"
    assert go(fresh=True).metrics["began"] == 0 and told[-1] == "starts over, as asked"
    with pytest.raises(
        ParameterError, match=r"holds a finished run with other settings \(lr 0.1, now 0.2\): name another"
    ):
        go(given={"lr": 0.2})
    assert (out / "weights").read_text() == "whole", "a refusal changes nothing"
    assert (
        go(given={"lr": 0.2}, overwrite=True).metrics["began"] == 0
        and told[-1] == "starts over, for what was here had other settings: lr 0.1, now 0.2"
    )
    (out / "manifest.json").unlink()
    with pytest.raises(ParameterError, match="no manifest says with what settings"):
        go()


def test_a_folder_of_other_files_is_not_written_into(book, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").write_text("my own")
    for fresh in (False, True):
        with pytest.raises(ParameterError, match=r"mine is no run's folder: it holds train.jsonl, which a run could"):
            run(book("n"), tmp_path / "mine", quiet=True, fresh=fresh)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["train.jsonl"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").touch()
    assert run(book("n"), tmp_path / "empty", quiet=True).ok


def test_a_lost_report_is_written_again(book, tmp_path):
    first = run(book("6 * 7"), tmp_path / "run", quiet=True)
    (tmp_path / "run" / "report.html").unlink()
    again = run(book("6 * 7"), tmp_path / "run", quiet=True)
    assert again.manifest.ended == first.manifest.ended and "42" in (tmp_path / "run" / "report.html").read_text()


def test_a_model_that_comes_with_the_book_is_no_run(recwarn):
    from actrep_nb.runs import find_runs

    root = Path(__file__).parents[1]
    assert find_runs(root / "data") == [] and not [w for w in recwarn if "manifest" in str(w.message)]
    with pytest.raises(FileNotFoundError, match="tiny_film holds no run, but a model"):
        load_run(root / "data/tiny_film")


def test_verify_says_what_is_lost(book, tmp_path):
    path = book(
        "from pathlib import Path\nfrom actrep_nb.show import glue\nPath(out, 'weights').write_text('whole')\nglue('a', n)",
        parameters="n: int = 3\nout: str = ''",
    )
    for name in "ab":
        run(path, tmp_path / name, quiet=True)
    (tmp_path / "b" / "weights").unlink()
    found = verify(tmp_path / "a", tmp_path / "b")
    assert found.same_metrics and [n for n in found.notes if "b: weights is missing" in n and "what is left" in n]


def test_a_second_run_replaces_the_first(book, tmp_path):
    run(book("from actrep_nb.show import glue\nglue('a', 1)"), tmp_path / "run", quiet=True)
    with pytest.raises(RunFailed):
        run(book("1 / 0"), tmp_path / "run", quiet=True)
    assert load_run(tmp_path / "run").metrics == {} and load_run(tmp_path / "run").manifest.status == "failed"


def test_wrong_parameters_write_nothing(book, tmp_path):
    path = book(
        "n", parameters="count: int = 3\nrate: float = 0.1\nname: str | None = None\nlayers: list[int] = [1, 2]"
    )
    for given, message in [
        ({"cuont": 1}, "did you mean 'count'"),
        ({"count": "3"}, "count must be int, not '3' (str)"),
        ({"count": True}, "must be int"),
        ({"count": 10**20}, "count=100000000000000000000 is too large"),
        ({"count": 2.0}, "must be int"),
        ({"rate": "0.1"}, "rate must be float"),
        ({"rate": float("nan")}, "must be float, not nan"),
        ({"rate": -1e999}, "must be float, not -inf"),
        ({"name": 3}, r"name must be str | None"),
        ({"layers": [1, "2"]}, "layers must be list[int]"),
    ]:
        with pytest.raises(ParameterError, match=re.escape(message)):
            run(path, tmp_path / "run", given, quiet=True)
    assert not (tmp_path / "run").exists()


def test_parameters_cell_is_parsed_not_executed(book):
    declared = notebook_parameters(
        book(
            parameters=(
                'lr: float = 1e-5  # a=b, "quoted" # twice\nmix: dict[str, float] = {"a": 3}\n\n# a '
                'comment\nneg: int = -1'
            )
        )
    )
    assert (
        declared["lr"].help == 'a=b, "quoted" # twice'
        and declared["mix"].default == {"a": 3}
        and declared["neg"].default == -1
    )
    for bad in ("x = 3", "import os", "x: int = max(1, 2)", "x: Path = 'a'", "x: int"):
        with pytest.raises(ParameterError, match="parameters cell, line 1"):
            notebook_parameters(book(parameters=bad))
    assert notebook_parameters(book(parameters=None)) == {}


def test_a_parameters_cell_may_hold_magics_and_what_it_may_not_is_named(book):
    declared = notebook_parameters(
        book(parameters="# settings\n%matplotlib inline\nx: int = 1  # one\n!ls\nz: 'int' = 3")
    )
    assert (
        {name: p.default for name, p in declared.items()} == {"x": 1, "z": 3}
        and declared["x"].help == "one"
        and declared["z"].type is int
    )
    for bad, words in [
        ("x: int = 2 * 3", "line 1: x: expected a literal, not 2 * 3"),
        ("y: int = 1\nx: int = = 2", "line 2: invalid syntax"),
        ("x: 'no such' = 3", "parameters cell, line 1"),
    ]:
        with pytest.raises(ParameterError, match=re.escape(words)):
            notebook_parameters(book(parameters=bad))


BY_WAY_OF_A_TYPE = (
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "
    "'_wrap_close'][0].__init__.__globals__['system']('touch canary')"
)


@pytest.mark.parametrize(
    "kind",
    [
        BY_WAY_OF_A_TYPE,
        repr(BY_WAY_OF_A_TYPE),
        f"list[{BY_WAY_OF_A_TYPE}]",
        f"int | {BY_WAY_OF_A_TYPE}",
        "'9**9**9'",
        "int.real",
        "type('x', (), {})",
        "max(1, 2)",
        "int if 1 else 2",
        "2",
        "...",
        "[" * 150 + "]" * 150,
        "list[" * 400 + "int" + "]" * 400,
        "int" + " | int" * 20_000,
        "(" * 100_000,
        "'int\0'",
    ],
)
def test_a_strangers_parameters_cell_runs_nothing(book, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="parameters cell, line 1: "):
        notebook_parameters(book(parameters=f"x: {kind} = 3  # harmless"))
    assert not (tmp_path / "canary").exists()


def test_a_type_is_read_as_python_means_it(book):
    kinds = [
        "int | None",
        "'str | None'",
        "list[str | None] | None",
        "dict[str, list[float]]",
        "tuple[int, ...]",
        "Any",
        "None | float",
        "list['int']",
    ]
    names = {"Any": Any}
    for kind, p in zip(
        kinds,
        notebook_parameters(
            book(
                parameters="\n".join(
                    f"x{k}: {kind} = {[None, None, None, {}, (), 1, None, []][k]}" for k, kind in enumerate(kinds)
                )
            )
        ).values(),
    ):
        assert str(p.type).replace("'", "") == str(eval(kind.strip("'"), names)).replace("'", "")


def test_values_may_be_written_as_json(book):
    declared = notebook_parameters(
        book(parameters="opts: dict = {}\nn: int = 1\nlayers: list[bool] = []\nname: str = ''")
    )
    assert (
        read_value('{"a": true, "b": null}', declared["opts"])
        == {"a": True, "b": None}
        == read_value("{'a': True, 'b': None}", declared["opts"])
    )
    assert (
        read_value("[true, false]", declared["layers"]) == [True, False]
        and read_value("true", declared["name"]) == "true"
    )
    for text in ("true", "{}", "1.5"):
        with pytest.raises(ParameterError, match="n must be int"):
            read_value(text, declared["n"])


def test_progress_bars_do_not_fill_the_notebook(book, tmp_path):
    run(
        book("import sys\nfor k in range(2000): print(f'\\r{k}/2000', end='', file=sys.stderr, flush=True)"),
        tmp_path / "run",
        quiet=True,
    )
    assert (tmp_path / "run" / "notebook.ipynb").stat().st_size < 20_000


def test_nothing_is_lost_of_a_cell_that_writes_faster_than_it_is_read(book, tmp_path):
    "ZeroMQ drops what it holds more than 1,000 of, the message that the cell has ended included."
    run(book("for k in range(4000): print(f'line {k}', flush=True)"), tmp_path / "run", quiet=True)
    (written,) = nbformat.read(tmp_path / "run/notebook.ipynb", 4).cells[-1].outputs
    assert written.text.splitlines() == [f"line {k}" for k in range(4000)]


def test_what_a_run_warns_of_stays_on_the_terminal(book, tmp_path, capfd):
    "Among lines of progress that are overwritten; other warnings are the notebook's own."
    warn = (
        "import warnings\nfrom actrep_nb.show import RunWarning\nwarnings.warn('blind: 0 nats', "
        "RunWarning)\nwarnings.warn('a library is old')\nprint('on it goes')"
    )
    run(book(warn), tmp_path / "run")
    said = capfd.readouterr().err
    assert "book  warning: blind: 0 nats\n" in said and "a library is old" not in said
    assert "blind" not in (run(book(warn), tmp_path / "run", quiet=True), capfd.readouterr().err)[1]


def test_report_needs_no_network_and_hides_code_when_asked(book, tmp_path):
    path = book(
        "import matplotlib.pyplot as plt\nsecret_name = 3\nplt.plot([1, 2]);\nprint('shown')\nimport sys; "
        "print('a notice', file=sys.stderr)"
    )
    run(path, tmp_path / "run", quiet=True, no_input=True)
    html = (tmp_path / "run" / "report.html").read_text()
    assert (
        "<title>A title</title>" in html
        and "shown" in html
        and "image/png" in html
        and "secret_name" not in html
        and "a notice" not in html
    )
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?https?:|import\s.*["']https?:""", html
    )
    assert not re.findall(r"https?://[^\s\"']+\.m?js", html)
    assert "secret_name" in to_html(tmp_path / "run" / "notebook.ipynb", tmp_path / "with_code.html").read_text()


def test_odd_folder_names(book, tmp_path):
    out = tmp_path / "läufe {x} 1"
    assert run(book("n"), out, quiet=True).ok and Manifest.load(out).status == "done"


def test_verify_names_what_differs(book, tmp_path):
    path = book("from actrep_nb.show import glue\nglue('twice', 2 * n)")
    a, b, c = (run(path, tmp_path / k, {"n": n}, quiet=True).out for k, n in [("a", 1), ("b", 1), ("c", 2)])
    assert verify(a, b).differences == []
    assert [d[:2] for d in verify(a, c).differences] == [("metrics", "twice"), ("parameters", "n")]
    assert not verify(a, c).same_metrics and verify(a, c, rtol=0.5).same_metrics


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load_run(tmp_path / "nothing")


def test_hash_covers_names_and_contents(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    first = hash_path(tmp_path / "d")
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    second = hash_path(tmp_path / "d")
    (tmp_path / "d" / "b").write_text("2")
    third = hash_path(tmp_path / "d")
    assert len({first["sha256"], second["sha256"], third["sha256"]}) == 3 and first["by"] == "contents"
    assert hash_path(tmp_path / "d", limit=0)["by"] == "sizes and samples of contents"
    large = tmp_path / "d" / "film"
    large.write_bytes(bytes(3 * 2**20))
    before = hash_path(tmp_path / "d", limit=0)
    os.utime(large, ns=(5, 5))
    assert hash_path(tmp_path / "d", limit=0) == before, "when it was written is no difference"
    with open(large, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert hash_path(tmp_path / "d", limit=0)["sha256"] != before["sha256"]


def test_what_a_run_says_about_itself_and_what_it_writes_is_no_input(book, tmp_path):
    run(book("n"), tmp_path / "data" / "first", quiet=True)
    (tmp_path / "data" / "first" / "result.csv").write_text("a")
    before = hash_path(tmp_path / "data")
    Manifest.load(tmp_path / "data" / "first").save(tmp_path / "data" / "first" / "manifest.json")
    (tmp_path / "data" / "first" / "report.html").write_text("another day")
    assert hash_path(tmp_path / "data") == before and [p.name for p in files_of(tmp_path / "data")] == [
        "metrics.json",
        "result.csv",
    ]
    path = book("open(out + '/x', 'w').write('x')", parameters='data: str = ""  # folder\nout: str = ""  # where')
    told = []
    for _ in range(2):
        run(path, tmp_path / "data" / "out", {"data": str(tmp_path / "data")}, quiet=True, tell=told.append)
    assert told == ["", "done before, skipped"]


def test_shipped_experiments_declare_readable_parameters():
    folder = Path(__file__).parents[1] / "nbs" / "experiments"
    books = sorted(folder.glob("[0-9]*.ipynb"))
    if not books:
        pytest.skip("no experiment notebooks yet")
    for path in books:
        declared = notebook_parameters(path)
        assert declared, f"{path.name} has no cell tagged parameters"
        assert all(p.help for p in declared.values()), f"{path.name}: each parameter needs help"
        assert find_notebook(path.stem.split("_", 1)[1]).name == path.name


RECIPES = sorted((Path(__file__).parents[1] / "nbs/experiments/recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_name_what_experiments_have(path):
    sections = set(yaml.safe_load(path.read_text())) - {"all"}
    assert (
        sections <= {p.stem.split("_", 1)[1] for p in path.parents[1].glob("*.ipynb")}
        and len(path.read_text().splitlines()[0]) > 40
    ), "its first line says what it is for"
    for name in sections:
        book = find_notebook(name)
        values, declared = read_recipe(path.stem, book), notebook_parameters(book)
        if path.stem == "tiny":
            assert values == {k: declared[k].default for k in values}, "the experiments' own defaults"
        for text, read in (("rewards", parse_weights), ("video", parse_spec)):
            if values.get(text):
                read(values[text])
        assert "schedule" not in values or SchedulerType(values["schedule"])


def test_a_recipe_is_read_for_one_experiment(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "seed: 1\nall: {seed: 5, temperature: 0.7, lr: 1e-4}\n03_sft: {lr: 1e-5, epochs: 2}\ngrpo:\n"
    )
    sft, grpo, cot = (read_recipe(tmp_path / "mine.yaml", find_notebook(name)) for name in ("sft", "grpo", "cot"))
    assert (
        sft == {"seed": 5, "lr": 1e-5, "epochs": 2}
        and grpo == {"seed": 5, "lr": 1e-4, "temperature": 0.7}
        and cot == {"seed": 5}
    )
    for text, message in {
        "sft: {epoch: 2}": "mine.yaml.*did you mean 'epochs'",
        "all: {temprature: 1}": "mine.yaml, all: no parameter 'temprature'; did you mean 'temperature'",
        "sfd: {lr: 1}": "no section 'sfd'; did you mean 'sft'",
        "grpo: {kl_bet: 3}": "grpo: no parameter 'kl_bet'",
        "sft: {lr: fast, batch: 1.5}": "lr must be float.*batch must be int",
        "- a": "not a list",
        "a: [": "mine.yaml cannot be read as YAML",
        "sft: {lr: 1e-4}\nall: {seed: 1}\nsft: {epochs: 2}": "sft is given twice, again in line 3",
        "sft:\n  lr: 1e-4\n  lr: 1e-5": "lr is given twice, again in line 3",
        "sft: {steps: 010}": "010 in line 1 is no number",
        "sft: {lr: 1e-4}\n03_sft: {epochs: 2}": "sft and 03_sft name the same section",
        "sft: 3": "no parameter 'sft'",
    }.items():
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ParameterError, match=message):
            read_recipe(tmp_path / "mine.yaml", find_notebook("sft"))
    with pytest.raises(FileNotFoundError, match="did you mean 'repcount_3b'"):
        read_recipe("repcount3b", find_notebook("sft"))


def test_native_crashes_leave_their_last_words(book, tmp_path):
    with pytest.raises(RunFailed, match="Segmentation fault|Fatal Python error"):
        run(
            book("import faulthandler, sys\nfaulthandler.enable(file=sys.__stderr__)\nfaulthandler._sigsegv()"),
            tmp_path / "run",
            quiet=True,
        )
    assert (tmp_path / "run" / "notebook.rank0.log").stat().st_size > 0
    assert run(book("n"), tmp_path / "run", quiet=True).ok and not (tmp_path / "run" / "notebook.rank0.log").exists()


@pytest.fixture
def drawn(tmp_path):
    "Six clips in a folder `set`, with reasoning for three of them in `set/cot`."
    from actrep_nb.synth import make_dataset

    path = make_dataset(tmp_path / "set", 6, seed=1, name="clips", workers=1)
    done = run("cot", tmp_path / "set/cot", {"clips": str(path), "crops": 4, "limit": 3}, quiet=True)
    assert (done.metrics["clips"], done.metrics["crops"]) == (3, 4)
    return tmp_path / "set"


@pytest.mark.slow
def test_experiments_take_a_folder_that_was_moved_and_a_model_that_is_shipped(drawn, tmp_path, monkeypatch):
    from actrep_nb.formats import find_videos, load_clips

    drawn.rename(tmp_path / "moved")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    rows = tmp_path / "moved/cot/train.jsonl"
    assert str(tmp_path) not in rows.read_text() and len(load_clips(rows, videos=find_videos(rows))) == 7
    done = run(
        "sft",
        "sft",
        {"model": "tiny_base", "data": "../moved/cot", "steps": 1, "batch": 2, "limit": 2, "cache": "", "workers": 0},
        quiet=True,
    )
    assert (done.metrics["examples"], done.metrics["unreadable"]) == (2, 0) and done.manifest.data["model"]["files"] > 3


@pytest.mark.slow
def test_experiments_refuse_before_a_model_is_loaded(drawn, tmp_path):
    sft = {"model": "tiny_base", "data": str(drawn / "cot"), "cache": ""}

    def refused(**given):
        with pytest.raises(RunFailed) as e:
            run("sft", tmp_path / "run", sft | given, quiet=True)
        return str(e.value)

    assert "no strategy 'zero4'; STRATEGIES has ddp" in refused(
        strategy="zero4"
    ) and "no model 'no/model/here'" in refused(model="no/model/here")
    for film in (drawn / "videos").iterdir():
        film.write_bytes(b"no film")
    for given, words in [
        ({"data": str(tmp_path / "gone")}, "gone: there is no such annotation file"),
        ({}, "videos that were tried, of 3, can be read; the first: "),
    ]:
        said = refused(**given)
        assert words in said and "Traceback" not in said and len(said.splitlines()) <= 4
