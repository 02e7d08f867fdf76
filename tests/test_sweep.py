"Sweeps survive what happens to them: nothing is lost, nothing done twice."

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import nbformat
import psutil
import pytest

from actrep_nb.runs import (
    FolderBusy,
    ParameterError,
    RunFailed,
    batch_text,
    claimed,
    find_notebook,
    find_runs,
    load_run,
    notebook_parameters,
    run,
    runs_table,
    start_manifest,
)
from actrep_nb.sweeps import Step, run_steps, setting_name, settings, sweep


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Counts to twenty, a step every twentieth of a second, and remembers in its folder how far it came and how often
    it reached the end."""
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    source = """import json, os, pathlib, time
log = os.environ["LOG"]
state = pathlib.Path(out) / "state.json"
step = json.loads(state.read_text()) if resume and state.exists() else 0
with open(pathlib.Path(log), "a") as f: f.write(f"{x} from {step}\\n")
while step < 20:
    step += 1; time.sleep(pause); state.write_text(json.dumps(step))
with open(pathlib.Path(log), "a") as f: f.write(f"{x} end\\n")
from actrep_nb.show import glue
glue("square", x * x)
assert x != 13, "thirteen"
"""
    parameters = (
        'x: int = 1  # a number\nout: str = ""  # run folder\nresume: bool = False  # go on\npause: float = 0.01 '
        ' # seconds of a step'
    )
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(source),
        ]
    )
    nbformat.write(nb, tmp_path / "count.ipynb")
    return tmp_path / "count.ipynb"


def test_settings_and_their_names():
    assert settings({"a": [1, 2], "b": ["x"]}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}] and settings(
        rows=[{"a": 3}]
    ) == [{"a": 3}]
    for bad, words in (
        ({}, "needs a grid"),
        ({"grid": {"a": "xy"}}, "list of values"),
        ({"grid": {"a": 1}}, "list of values"),
        ({"rows": [{"a": 1}, {"a": 1}]}, "twice"),
    ):
        with pytest.raises(ValueError, match=words):
            settings(**bad)
    names = [setting_name({"path": p}) for p in ("a/b", "a:b", "a_b", "x" * 300)]
    assert (
        len(set(names)) == 4
        and all(len(n) < 90 and "/" not in n for n in names)
        and setting_name({"lr": 1e-4, "seed": 0}) == "lr=0.0001,seed=0"
    )


def test_a_failed_run_stops_no_other_and_is_tried_again(notebook, tmp_path):
    told = []
    done = sweep(notebook, tmp_path / "s", {"x": [2, 13, 3]}, parallel=2, tell=told.append)
    assert {n: (r.ok, r.metrics.get("square")) for n, r in done.items()} == {
        "x=2": (True, 4),
        "x=13": (False, 169),
        "x=3": (True, 9),
    }
    assert any("AssertionError: thirteen" in line for line in told)
    told.clear()
    sweep(notebook, tmp_path / "s", {"x": [2, 13, 3]}, parallel=2, tell=told.append)
    assert [line for line in told if "skipped" in line] == [
        "x=2: done before, skipped",
        "x=3: done before, skipped",
    ] and any(line.startswith("x=13: begun before") for line in told)
    table = runs_table(find_runs(tmp_path / "s")).set_index("x")
    assert list(table.loc[2, ["status", "square"]]) == ["done", 4] and table.loc[13, "status"] == "failed"


def test_changed_parameters_or_notebook_are_another_run(notebook, tmp_path):
    def go(fresh=False, **more):
        return sweep(notebook, tmp_path / "s", {"x": [2]}, parameters=more, tell=told.append, fresh=fresh)

    told = []
    go()
    go()
    assert told.count("x=2: done before, skipped") == 1
    with pytest.raises(ParameterError, match=r"x=2 holds a finished run with other settings \(pause 0.01, now 0.02\)"):
        go(pause=0.02)
    go(fresh=True, pause=0.02)
    assert told.count("x=2: done before, skipped") == 1
    nb = nbformat.read(notebook, 4)
    nb.cells[-1].source += "\n# changed"
    nbformat.write(nb, notebook)
    go(pause=0.02)
    assert told.count("x=2: done before, skipped") == 1 and (tmp_path / "log").read_text().count("end") == 3
    with pytest.raises(ParameterError, match="did you mean 'pause'"):
        sweep(notebook, tmp_path / "t", {"x": [1]}, parameters={"pauze": 1.0})
    assert not (tmp_path / "t").exists()


def test_eight_runs_killed_twice_are_eight_runs(notebook, tmp_path):
    """kill -9 of the sweep and all it started, and then of the sweep alone: nothing is lost, nothing ends twice, what
    was half goes on."""
    code = f"""from actrep_nb.sweeps import sweep
sweep({str(notebook)!r}, {str(tmp_path / 's')!r}, {{'x': list(range(20, 28))}},
    parameters={{'pause': 0.1}}, parallel=4)"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def done():
        return (
            {r.out.name: r.manifest.ended for r in find_runs(tmp_path / "s") if r.ok}
            if (tmp_path / "s").exists()
            else {}
        )

    def half():
        return any(1 <= int(state.read_text() or 0) <= 15 for state in (tmp_path / "s").glob("*/state.json"))

    finished = {}
    for least, kill in ((2, lambda p: os.killpg(p.pid, signal.SIGKILL)), (4, lambda p: p.kill())):
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=env, start_new_session=True, stdout=subprocess.DEVNULL
        )
        for there in (
            lambda least=least: len(done()) >= least,
            half,
        ):  # one after the other: runs side by side may all end at once
            while not there() and child.poll() is None:
                time.sleep(0.05)
        assert child.poll() is None, "it was over before it could be killed"
        kill(child)
        child.wait()
        finished |= done()
    last = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600)
    assert last.returncode == 0, last.stderr
    runs = find_runs(tmp_path / "s")
    assert len(runs) == 8 and all(r.ok and r.metrics["square"] == r.manifest.parameters["x"] ** 2 for r in runs)
    assert 4 <= len(finished) < 8 and {name: done()[name] for name in finished} == finished, (
        "what was done was not done again"
    )
    assert any(not line.endswith(("end", "from 0")) for line in (tmp_path / "log").read_text().splitlines()), (
        "something went on from where it was"
    )


def test_a_run_that_was_killed_is_not_running(notebook, tmp_path):
    run(notebook, tmp_path / "r", quiet=True)
    manifest = json.loads((tmp_path / "r/manifest.json").read_text())
    (tmp_path / "r/manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    (tmp_path / "r/process").write_text(f"{os.getpid()} {os.uname().nodename} 12.5")  # another process had this number
    assert runs_table([load_run(tmp_path / "r")])["status"].item() == "killed"
    (tmp_path / "bad").mkdir()
    Path(tmp_path / "bad/manifest.json").write_text("{")
    with pytest.warns(UserWarning, match="bad/manifest.json"):
        assert len(find_runs(tmp_path)) == 1


def test_the_commands(notebook, tmp_path, monkeypatch, capsys):
    from actrep_nb.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.csv").write_text("x,pause\n2,0.001\n13,\n")

    def go(*words):
        return main([*words, "--json"]), json.loads(capsys.readouterr().out.splitlines()[-1])

    code, data = go("sweep", "count.ipynb", "--table", "settings.csv", "--out", "s")
    assert (
        code == 1
        and {n: r["status"] for n, r in data["runs"].items()} == {"x=2,pause=0.001": "done", "x=13": "failed"}
        and data["failed"][0]["file"] == "x=13"
    )
    (tmp_path / "s/x=13/log.jsonl").write_text(
        "".join(json.dumps({"step": k, "loss": 1 / k}) + "\n" for k in range(1, 9))
    )
    code, data = go("runs", "s", "--csv", "t.csv", "--plot", "c.png")
    assert (
        code == 0
        and [r["status"] for r in data["runs"]] == ["done", "failed"]
        and (tmp_path / "c.png").stat().st_size > 5000
        and "square" in (tmp_path / "t.csv").read_text()
    )
    for words, says in (
        (["sweep", "count.ipynb", "--out", "s"], "nothing to sweep"),
        (["sweep", "count.ipynb", "--grid", "x", "--out", "s"], "NAME=VALUE"),
        (["sweep", "count.ipynb", "--grid", "y=1", "--out", "s"], "no parameter 'y'"),
        (["sweep", "count.ipynb", "--grid", "x=1,two", "--out", "s"], "x must be int"),
    ):
        assert main(words) and says in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["runs", "empty"]) == 1 and "no runs" in capsys.readouterr().err


def test_slurm_array_jobs_through_the_local_executor(notebook, tmp_path):
    submitit = pytest.importorskip("submitit", reason="the package submitit is optional")
    executor = submitit.AutoExecutor(folder=str(tmp_path / "jobs"), cluster="local")
    executor.update_parameters(timeout_min=5)
    jobs = sweep(notebook, tmp_path / "s", {"x": [4, 5]}, executor=executor)
    assert [job.result().metrics["square"] for job in jobs.values()] == [16, 25]
    assert sweep(notebook, tmp_path / "s", {"x": [4, 5]}, executor=executor) == {}, "nothing is left to submit"


def in_background(code):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_an_earlier_run_left_is_no_result_of_this_one(notebook, tmp_path, monkeypatch):
    "The process of the second sweep dies before it can write a word: the folder's old result may not pass for its own."
    sweep(notebook, tmp_path / "s", {"x": [2, 13]}, tell=lambda line: None)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/sitecustomize.py").write_text("import os\nprint('no disk', flush=True)\nos._exit(3)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "broken"), *sys.path])
    told = []
    done = sweep(notebook, tmp_path / "s", {"x": [2, 3]}, parameters={"pause": 0.02}, tell=told.append, fresh=True)
    assert not any(r.ok for r in done.values()) and done["x=2"].metrics == {}
    assert (
        all("exit code 3" in line and "no disk" in line and "process.log" in line for line in told if "failed" in line)
        and len(told) == 5
        and told[0] == "x=2: starts over, as asked"
    )
    assert "process.log" in done["x=3"].manifest.error["message"]
    again = sweep(notebook, tmp_path / "s", {"x": [13]}, tell=told.append)["x=13"]
    assert again.manifest.error["name"] == "Killed" and "exit code 3" in told[-1], "its AssertionError was another time"


def test_a_second_sweep_of_a_folder_is_refused_and_its_processes_end_with_the_first(notebook, tmp_path):
    """The first is killed: the run it started, that run's kernel and what the kernel forked end too, and the folder is
    free."""
    nb = nbformat.read(notebook, 4)
    nb.cells[1].source = (
        "import os, pathlib, time\nfrom multiprocessing import "
        "get_context\nget_context('fork').Process(target=time.sleep, args=(600,)).start()\n(pathlib.Path(out) / "
        "'ready').touch()\ntime.sleep(600)"
    )
    nbformat.write(nb, notebook)
    code = f"from actrep_nb.sweeps import sweep\nsweep({str(notebook)!r}, {str(tmp_path / 's')!r}, {{'x': [2]}})"
    first = in_background(code)
    while not (tmp_path / "s/x=2/ready").exists() and first.poll() is None:
        time.sleep(0.1)
    family = psutil.Process(first.pid).children(recursive=True)
    with pytest.raises(FolderBusy, match=f"s: process {first.pid} on .*wait for it, stop it, or name another folder"):
        sweep(notebook, tmp_path / "s", {"x": [2]})
    first.kill()
    first.wait()
    assert len(family) >= 3 and psutil.wait_procs(family, 60)[1] == [], [
        (p, p.status()) for p in family if p.is_running()
    ]
    with claimed(tmp_path / "s"):
        pass


def test_a_folder_in_use_is_refused_until_its_process_is_gone(notebook, tmp_path):
    out = tmp_path / "r"
    first = run(notebook, out, {"x": 5}, quiet=True)
    holder = in_background(
        f"from actrep_nb.runs import claimed\nimport time\nwith claimed({str(out)!r}):\n    print('mine', "
        "flush=True); time.sleep(60)"
    )
    assert holder.stdout.readline() == "mine\n"
    with pytest.raises(FolderBusy, match=f"r: process {holder.pid} on "):
        run(notebook, out, {"x": 6}, quiet=True)
    assert load_run(out).metrics == first.metrics
    holder.kill()
    holder.wait()
    with claimed(out):
        pass
    assert not (out / "process").exists()


def test_settings_that_contradict_themselves_are_refused(notebook, tmp_path):
    "Before a folder is made."
    for more, words in (
        ({"parameters": {"x": 5}}, "x is in the grid and also set for all"),
        ({"parameters": {"out": "here"}}, "out cannot be set"),
        ({"rows": [{"out": "here"}]}, "out cannot be set"),
        ({"rows": [{"x": 2, "resume": False}]}, "twice: .* are the same run"),
    ):
        with pytest.raises(ParameterError, match=words):
            sweep(notebook, tmp_path / "s", {"x": [2]}, **more)
    assert not (tmp_path / "s").exists()


def test_different_settings_have_different_names():
    several = [
        {"a": "1,b=2"},
        {"a": "1", "b": 2},
        {"a": 1, "b": 2},
        {"a": None},
        {"a": "None"},
        {"a": True},
        {"a": "True"},
        {"a": [1, "2"]},
        {"a": ["1", 2]},
        {"a": "x,y"},
        {"a": "x y"},
    ]
    assert len({setting_name(s) for s in several}) == len(several)


def test_videos_beside_the_annotations_are_data(tmp_path):
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell('clips: str = ""\nvideos: str = ""', metadata={"tags": ["parameters"]})]
    )
    nbformat.write(nb, tmp_path / "n.ipynb")
    (tmp_path / "d/videos").mkdir(parents=True)
    (tmp_path / "d/clips.csv").write_text("file,count\na.mp4,1\n")
    video = tmp_path / "d/videos/a.mp4"
    video.write_bytes(b"one")

    def data(videos=""):
        return start_manifest(
            tmp_path / "n.ipynb", {"clips": str(tmp_path / "d/clips.csv"), "videos": videos}, tmp_path / "o"
        ).data

    before = data()
    os.utime(video, ns=(1, 1))
    assert data() == before and before["videos beside clips"]["by"] == "contents", (
        "when it was written is no difference"
    )
    video.write_bytes(b"two")
    os.utime(video, ns=(1, 1))
    assert (
        data()["videos beside clips"]["sha256"] != before["videos beside clips"]["sha256"]
        and data()["clips"] == before["clips"]
    )
    assert set(data(str(tmp_path / "d/videos"))) == {"clips", "videos"}


def test_a_batch_that_does_not_divide_is_refused_before_the_run(tmp_path):
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("batch: int = 8\naccumulation: int = 1", metadata={"tags": ["parameters"]})]
    )
    nbformat.write(nb, tmp_path / "n.ipynb")
    with pytest.raises(ParameterError, match="n.ipynb: batch=8 does not divide into 3 ranks"):
        run(tmp_path / "n.ipynb", tmp_path / "o", ranks=3)
    with pytest.raises(ParameterError, match="batch=8 does not divide"):
        sweep(tmp_path / "n.ipynb", tmp_path / "o", {"accumulation": [1, 3]})
    assert not (tmp_path / "o").exists()
    assert (
        batch_text({"prompts": 8, "accumulation": 2}, 2, "") == "batch of 8 = 2 ranks × 2 examples × 2 passes"
        and batch_text({"batch": 8}, 3, "") == ""
    )


def test_defaults_are_of_their_type_and_notebooks_are_notebooks(tmp_path):
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell('lr: float = "small"', metadata={"tags": ["parameters"]})]
        ),
        tmp_path / "sleep.ipynb",
    )
    with pytest.raises(ParameterError, match="line 1: lr is declared as float, but its default is 'small'"):
        notebook_parameters(tmp_path / "sleep.ipynb")
    (tmp_path / "mk.py").touch()
    for name, words in (("slep.ipynb", "did you mean 'sleep.ipynb'"), ("mk.py", "mk.py is no .ipynb")):
        with pytest.raises(FileNotFoundError, match=words):
            find_notebook(tmp_path / name)


def test_mistakes_in_a_command_are_named_and_end_with_2(notebook, tmp_path, monkeypatch, capsys):
    from actrep_nb.cli import main

    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("many.csv", "x,pause\n2,0.1\n3,0.2,7\n"),
        ("few.csv", "x,pause\n2\n"),
        ("bad.csv", "x,pause\n2,0.1\ntwo,slow\n"),
        ("none.csv", "x\n"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "s").mkdir()
    table = ["sweep", "count.ipynb", "--out", "o", "--table"]
    grid = ["sweep", "count.ipynb", "--out", "o", "--grid", "x=0"]
    for words, *says in (
        (table + ["many.csv"], "many.csv, row 2: 3 cells under 2 names"),
        (table + ["few.csv"], "few.csv, row 1: 1 cells under 2"),
        (table + ["bad.csv"], "bad.csv, row 2: x must be int", "pause must be float"),
        (table + ["none.csv"], "no settings"),
        (table + ["gone.csv"], "no such file"),
        (grid + ["--grid", "x=1"], "--grid x is given twice"),
        (grid + ["-p", "x", "5"], "x is in the grid"),
        (grid + ["-p", "out", "here"], "out cannot be set"),
        (
            ["run", "count.ipynb", "-p", "x", "two", "-p", "pauze", "1"],
            "count.ipynb: x must be int",
            "did you mean 'pause'",
        ),
        (["run", "cout.ipynb"], "did you mean 'count.ipynb'"),
        (["runs", "gone"], "not a folder"),
        (["runs", "s", "--csv", "no/t.csv"], "there is no folder no"),
        (["runs", "s", "--plot", "c.docx"], "must end in .png"),
    ):
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert all(text in said for text in says), (says, said)
    assert not (tmp_path / "o").exists()


def test_damaged_files_of_one_run_do_not_hide_the_others(tmp_path, monkeypatch, capsys):
    from actrep_nb.cli import main

    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "n.ipynb")
    for k, name in enumerate(["whole", "torn", "broken", "metrics"]):
        (tmp_path / "s" / name).mkdir(parents=True)
        manifest = start_manifest(tmp_path / "n.ipynb", {"k": k}, tmp_path / "s" / name)
        manifest.save(tmp_path / "s" / name / "manifest.json")
        (tmp_path / "s" / name / "log.jsonl").write_text(
            "".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 9))
        )
    with open(tmp_path / "s/torn/log.jsonl", "a") as f:
        f.write('{"step": 9, "lo')
    with open(tmp_path / "s/broken/log.jsonl", "a") as f:
        f.write('{"step"\n{"step": 9}\n')
    (tmp_path / "s/metrics/metrics.json").write_text('{"loss": ')
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "s", "--plot", "c.png", "--json"]) == 1
    said = capsys.readouterr()
    data = json.loads(said.out.splitlines()[-1])
    assert (
        len(data["runs"]) == 4 and [f["file"] for f in data["failed"]] == ["s/broken"] and (tmp_path / "c.png").exists()
    )
    assert "s/broken/log.jsonl, line 9" in said.err and "s/metrics/metrics.json cannot be read" in said.err


def test_following_into_a_pipe_repeats_nothing(tmp_path, monkeypatch, capsys):
    from actrep_nb.cli import main

    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "n.ipynb")
    out, rounds = tmp_path / "s/r", []
    out.mkdir(parents=True)
    begun = datetime.now(timezone.utc) - timedelta(seconds=9000)
    manifest = replace(start_manifest(tmp_path / "n.ipynb", {}, out), started=begun.isoformat())
    manifest.save(out / "manifest.json")

    def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) == 2:
            (out / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
        if len(rounds) == 4:
            replace(manifest, status="done", seconds=9.0).save(out / "manifest.json")

    monkeypatch.setattr(time, "sleep", sleep)
    with claimed(out):
        assert main(["runs", str(tmp_path / "s"), "--follow"]) == 0
    said = capsys.readouterr().out
    assert (
        said.count("seconds") == 3
        and said.count("loss 2.5") == 1
        and len(rounds) == 4
        and re.search(r"running +90\d\d", said)
    )


def test_the_warning_about_widgets_is_not_shown_as_progress(tmp_path):
    cell = "from tqdm.auto import tqdm"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), tmp_path / "n.ipynb")
    assert "IProgress not found" not in run(tmp_path / "n.ipynb", tmp_path / "o", quiet=True).notebook.read_text()


def test_nan_and_infinity_are_told_apart_from_a_metric_that_is_missing(tmp_path, capsys):
    from actrep_nb.cli import main

    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "n.ipynb")
    for name, metrics in {"a": {"loss": "nan"}, "b": {"loss": "-inf"}, "c": {"loss": 0.5}, "d": {}}.items():
        (tmp_path / "s" / name).mkdir(parents=True)
        start_manifest(tmp_path / "n.ipynb", {}, tmp_path / "s" / name).save(tmp_path / "s" / name / "manifest.json")
        (tmp_path / "s" / name / "metrics.json").write_text(json.dumps(metrics))
    assert main(["runs", str(tmp_path / "s"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert {r["run"]: r["loss"] for r in rows} == {"a": "nan", "b": "-inf", "c": 0.5, "d": None}


def _book(folder, name, source):
    "A notebook of a parameter n and one cell."
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("n: int = 3  # how many", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(source),
        ]
    )
    nbformat.write(nb, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def test_steps_stop_at_the_first_failure(tmp_path):
    said = []
    steps = [
        Step("one", str(_book(tmp_path, "a", "n")), {"n": "{seed}"}),
        Step("two", str(_book(tmp_path, "b", "1 / 0")), {}),
        Step("three", str(_book(tmp_path, "c", "n")), {}),
    ]
    with pytest.raises(RunFailed, match="b.ipynb failed in cell"):
        run_steps(steps, tmp_path / "all", seed=7, tell=said.append)
    assert json.loads((tmp_path / "all" / "one" / "parameters.json").read_text()) == {"n": 7}
    assert not (tmp_path / "all" / "three").exists() and said[0].startswith("[1/3] one")


def test_steps_that_are_done_are_skipped_and_a_folder_has_one_owner(tmp_path):
    steps = [
        Step("one", str(_book(tmp_path, "a", "n")), {}, "first"),
        Step("two", str(_book(tmp_path, "b", "n")), {}, "second"),
    ]
    said = []
    run_steps(steps[:1], tmp_path / "all", tell=said.append)
    run_steps(steps, tmp_path / "all", tell=said.append)
    assert [line for line in said if line.startswith("[")] == [
        "[1/1] one: first",
        "[1/2] one: done before, skipped",
        "[2/2] two: second",
    ]
    with claimed(tmp_path / "all"), pytest.raises(FolderBusy, match=f"all: process {os.getpid()} on "):
        run_steps(steps, tmp_path / "all", tell=said.append)


def test_a_step_beside_the_others_ends_with_a_step_that_fails_and_goes_on_later(notebook, tmp_path, monkeypatch):
    "Both have half of the cores; nothing of the one beside is done twice."
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    wait = "import os, time\nwhile not os.path.exists(os.environ['LOG']):\n    time.sleep(0.1)\n"
    bad = _book(tmp_path, "bad", wait + "1 / 0")
    beside = Step("beside", str(notebook), {"x": 5, "pause": 0.4}, "counts", beside=True)
    said = []
    with pytest.raises(RunFailed, match="bad.ipynb failed in cell"):
        run_steps([Step("bad", str(bad), {}), beside], tmp_path / "all", tell=said.append)
    assert said[0] == "[2/2] beside: counts, beside the others"
    assert load_run(tmp_path / "all/beside").manifest.status in ("interrupted", "running")
    nbformat.write(nbformat.read(_book(tmp_path, "good", "n"), 4), bad)
    done = run_steps([Step("bad", str(bad), {}), beside], tmp_path / "all", tell=said.append)
    assert list(done) == ["bad", "beside"] and done["beside"].metrics["square"] == 25
    share = str(max(1, os.cpu_count() // 2))
    assert [r.manifest.environment["OMP_NUM_THREADS"] for r in done.values()] == [share, share]
    assert "OMP_NUM_THREADS" not in os.environ
    assert Path(os.environ["LOG"]).read_text().count("end") == 1


def test_a_step_beside_the_others_that_fails_stops_them(tmp_path):
    steps = [Step("beside", str(_book(tmp_path, "bad", "1 / 0")), {}, beside=True)]
    steps += [Step(name, str(_book(tmp_path, "good", "n")), {}) for name in ("one", "two")]
    older = psutil.Process().children()

    def tell(line):
        "Step one begins when the one beside it has ended, however long that takes on this machine."
        if " one:" in line:
            (beside,) = (child for child in psutil.Process().children() if child not in older)
            while beside.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.1)

    with pytest.raises(RunFailed, match="bad.ipynb failed in cell"):
        run_steps(steps, tmp_path / "all", tell=tell)
    assert (tmp_path / "all/one/manifest.json").exists() and not (tmp_path / "all/two/manifest.json").exists()


def test_a_step_beside_the_others_ends_with_the_program_that_is_killed(notebook, tmp_path):
    code = (
        "from actrep_nb.sweeps import Step, run_steps\n"
        f"step = Step('a', {str(notebook)!r}, {{'pause': 30.0}}, beside=True)\n"
        f"run_steps([step, Step('b', {str(notebook)!r}, {{'x': 2, 'pause': 30.0}})], {str(tmp_path / 's')!r})"
    )
    for runs in (2, 4):  # begun again at once, it waits for what the first left behind
        first = in_background(code)
        while not ((log := Path(os.environ["LOG"])).exists() and log.read_text().count(" from ") == runs):
            assert first.poll() is None
            time.sleep(0.1)
        family = psutil.Process(first.pid).children(recursive=True)
        first.kill()
        first.wait()
        assert len(family) >= 3
    assert psutil.wait_procs(family, 60)[1] == []
