"""`actrep verify`: an untouched run comes out again; whatever was changed since is named; what cannot be run again is
refused by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from actrep_nb.cli import main
from actrep_nb.runs import Manifest, load_run, rerun, run, shipped, verify
from actrep_nb.synth import make_dataset

ROOT = Path(__file__).parents[1]
CELLS = """import csv
from actrep_nb.show import glue
glue("labels", sum(int(row["count"]) for row in csv.DictReader(open(clips))))
glue("where", f"{out}/checkpoint")
glue("draw", (seed * 7919) % 13)
glue("seconds_per_step", __import__("time").time())
try: import pacemaker
except ImportError: pacemaker = None
glue("pace", pacemaker.PACE if pacemaker else 0)"""
PARAMETERS = (
    'clips: str = "clips.csv"  # table\nout: str = ""  # where\nseed: int = 0  # of the draw\ncheckpoint: str = '
    '""  # folder'
)


def write_book(path, *cells):
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *map(nbformat.v4.new_code_cell, cells),
        ]
    )
    nbformat.write(nb, path)
    return path


def package(folder, version):
    "A small package with its metadata, as pip leaves it."
    (folder / f"pacemaker-{version}.dist-info").mkdir(parents=True)
    (folder / f"pacemaker-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: pacemaker\nVersion: {version}\n"
    )
    (folder / "pacemaker.py").write_text(f"PACE = {version[0]}\n")
    return folder


def actrep(*argv, cwd, path=(), **env):
    line = "import sys; from actrep_nb.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", line, *map(str, argv)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])} | env,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    "A run of a table, a checkpoint and a package, its paths relative to the folder it was run in."
    here = tmp_path_factory.mktemp("first")
    write_book(here / "book.ipynb", CELLS)
    (here / "clips.csv").write_text("file,count\na.mp4,3\nb.mp4,4\nc.mp4,5\n")
    (here / "weights").mkdir()
    (here / "weights" / "config.json").write_text("{}")
    (here / "weights" / "model.safetensors").write_bytes(b"0" * 64)
    package(here / "one", "1.0")
    done = actrep(
        "run",
        "book.ipynb",
        "-p",
        "checkpoint",
        "weights",
        "--out",
        "run",
        cwd=here,
        path=[here / "one"],
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    return here


@pytest.fixture
def copy(first, tmp_path):
    "The same, moved, to be changed; the manifest says where it is now."
    shutil.copytree(first, tmp_path / "copy")
    change(tmp_path / "copy" / "run", folder=str(tmp_path / "copy"), origin=str(tmp_path / "copy" / "book.ipynb"))
    return tmp_path / "copy"


def change(out, **values):
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | values))


def test_an_untouched_run_comes_out_again_from_anywhere(first, tmp_path):
    done = actrep(
        "verify",
        first / "run",
        "--out",
        tmp_path / "again",
        "--json",
        cwd=tmp_path,
        path=[first / "one"],
        OMP_NUM_THREADS="1",
    )
    said = json.loads(done.stdout)
    assert (done.returncode, said["equal"], said["metrics"], said["differences"]) == (0, True, 4, []), done.stderr
    assert load_run(tmp_path / "again").metrics["where"] == f"{tmp_path / 'again'}/checkpoint" and [
        m["name"] for m in said["measured"]
    ] == ["seconds_per_step", "seconds", "peak_memory_mb"]
    assert load_run(tmp_path / "again").manifest.notebook == "book.ipynb"


def test_what_was_changed_since_is_named_line_by_line(copy):
    (copy / "clips.csv").write_text("file,count\na.mp4,3\nb.mp4,9\nc.mp4,5\n")
    (copy / "weights" / "model.safetensors").write_bytes(b"1" * 64)
    package(copy / "two", "2.0")
    done = actrep("verify", "run", cwd=copy, path=[copy / "two", copy / "one"], OMP_NUM_THREADS="2")
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and "run.verify: 2 of 4 metrics differ" in done.stderr, done.stderr
    for line in (
        "  labels: 12 | 17  (+5)",
        "  pace: 1 | 2  (+1)",
        "  clips: clips.csv, row 2: b.mp4,4 | b.mp4,9",
        "  pacemaker: 1.0 | 2.0",
        "  OMP_NUM_THREADS: 1 | 2",
    ):
        assert line in lines, done.stdout
    assert any(line.startswith("  checkpoint: model.safetensors: ") for line in lines) and not any(
        "config.json" in line for line in lines
    )
    heads = [line for line in lines if line.endswith(", a suspect:")]
    assert heads == ["what was read, a suspect:", "other packages, a suspect:", "threads, a suspect:"]


def test_another_seed_is_named(copy, capsys):
    run(
        copy / "book.ipynb",
        copy / "other",
        {"clips": str(copy / "clips.csv"), "checkpoint": str(copy / "weights"), "seed": 1},
        quiet=True,
    )
    assert main(["verify", str(copy / "run"), str(copy / "other"), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    named = {(d["where"], d["name"]): (d["a"], d["b"]) for d in said["differences"]}
    assert (
        named["metrics", "draw"] == (0, 2)
        and named["parameters", "seed"] == (0, 1)
        and ("metrics", "labels") not in named
    )
    assert main(["verify", str(copy / "run"), str(copy / "other"), "--tolerance", "0.5"]) == 1
    assert main(["verify", str(copy / "run"), str(copy / "other"), "--tolerance", "1"]) == 0
    assert verify(copy / "other", copy / "other").differences == []


@pytest.mark.parametrize(
    "spoil, error, text",
    [
        (
            lambda here: change(here / "run", status="failed", error={"cell": 3, "name": "KeyError", "message": "x"}),
            ValueError,
            r"run failed in cell 3 \(KeyError: x\): only a finished run",
        ),
        (lambda here: change(here / "run", status="interrupted"), ValueError, "interrupted"),
        (lambda here: change(here / "run", status="running"), ValueError, "was killed before it was done"),
        (lambda here: change(here / "run", nodes=2), ValueError, "ran on 2 nodes"),
        (lambda here: (here / "clips.csv").unlink(), FileNotFoundError, "gone, seen from .*: clips clips.csv$"),
        (lambda here: shutil.rmtree(here / "weights"), FileNotFoundError, "checkpoint weights"),
        (
            lambda here: [(here / "run" / "notebook.ipynb").unlink(), (here / "book.ipynb").unlink()],
            FileNotFoundError,
            "notebook.ipynb is gone, and .*book.ipynb is gone",
        ),
        (
            lambda here: [(here / "run" / "notebook.ipynb").unlink(), write_book(here / "book.ipynb", "pass")],
            FileNotFoundError,
            "book.ipynb was changed since",
        ),
        (
            lambda here: change(here / "run", folder=str(here / "nowhere")),
            FileNotFoundError,
            "was run in .*nowhere, which is gone",
        ),
        (
            lambda here: [(here / "again").mkdir(), (here / "again" / "mine").write_text("")],
            FileExistsError,
            "holds something else",
        ),
    ],
    ids=[
        "failed",
        "interrupted",
        "killed",
        "nodes",
        "table gone",
        "checkpoint gone",
        "notebook gone",
        "notebook changed",
        "folder gone",
        "folder taken",
    ],
)
def test_what_cannot_be_run_again_is_refused_by_name(copy, spoil, error, text):
    spoil(copy)
    with pytest.raises(error, match=text):
        rerun(copy / "run", copy / "again")
    assert not (copy / "again" / "manifest.json").exists()


def test_a_folder_of_runs_names_them_and_a_run_without_metrics_is_not_equal(copy, capsys):
    assert main(["verify", str(copy)]) == 1 and f"name one of the runs in it: {copy / 'run'}" in capsys.readouterr().err
    (copy / "run" / "metrics.json").write_text("{}")
    shutil.copytree(copy / "run", copy / "again")
    assert (
        main(["verify", str(copy / "run"), str(copy / "again")]) == 1
        and "nothing to compare" in capsys.readouterr().err
    )


def test_two_failed_runs_are_not_the_same(copy, capsys):
    for name in ("run", "other"):
        if name == "other":
            shutil.copytree(copy / "run", copy / name)
        change(copy / name, status="failed", error={"cell": 3, "name": "KeyError", "message": "x"})
    found = verify(copy / "run", copy / "other")
    assert not found.same_metrics and "nothing is settled" in repr(found)
    assert main(["verify", str(copy / "run"), str(copy / "other")]) == 1
    said = capsys.readouterr()
    assert (
        "none differ, but nothing is settled" in said.out
        and f"{copy / 'other'} failed: only finished runs can be the same" in said.err
    )


def test_data_differ_by_content_and_words_are_no_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "weights", "frames"):
        (tmp_path / name).mkdir()
    for name in ("model/a", "weights/w", "frames/f"):
        (tmp_path / name).write_text(name)
    parameters = (
        'engine: str = "model"  # who answers: the model itself, or "vllm"\ncheckpoint: str = ""  # '
        'folder\nothers: list[str] = []  # more, as "blind:weights"\nframes: str = ""  # read too'
    )
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})])
    nbformat.write(nb, tmp_path / "book.ipynb")
    given = {
        "checkpoint": "model",
        "others": ["period", "blind:weights", "mine=weights/w", "weights/w:count", "openai:gpt-5"],
        "frames": "frames",
    }
    result = run("book.ipynb", "run", given, quiet=True)
    assert {name: d["path"] for name, d in result.manifest.data.items()} == {
        "checkpoint": "model",
        "frames": "frames",
        "others[1]": "weights",
        "others[2]": "weights/w",
        "others[3]": "weights/w",
    }, "engine=model is a word"
    assert json.loads((tmp_path / "run/inputs.json").read_text())["others[1]"].keys() == {"w"}
    os.utime(tmp_path / "frames/f", ns=(1, 1))
    assert verify("run", run("book.ipynb", "again", given, quiet=True).out).differences == []
    (tmp_path / "weights/w").write_text("other")
    found = verify("run", run("book.ipynb", "other", given, quiet=True).out)
    assert {name for where, name, *_ in found.differences if where == "data"} == {
        "others[1]: w",
        "others[2]: w",
        "others[3]: w",
    }


def test_a_run_of_before_is_compared_as_far_as_it_tells(copy):
    manifest = json.loads((copy / "run" / "manifest.json").read_text())
    for name in ("origin", "folder", "ranks", "nodes", "environment"):
        del manifest[name]
    (copy / "run" / "manifest.json").write_text(json.dumps(manifest))
    assert Manifest.load(copy / "run").ranks is None
    found = verify(copy / "run", copy / "run")
    assert found.differences == [] and "an older run" in found.notes[-1]


@pytest.mark.slow
def test_a_kernel_says_what_torch_was_set_to(tmp_path):
    path = write_book(
        tmp_path / "book.ipynb",
        (
            "import "
            "torch\ntorch.set_num_threads(3)\ntorch.use_deterministic_algorithms(True)\ntorch.set_default_dtype(torch.float64)"
        ),
    )
    said = run(path, tmp_path / "run", {"clips": ""}, quiet=True).manifest.environment
    assert (said["torch threads"], said["deterministic algorithms"], said["default dtype"]) == (
        3,
        True,
        "torch.float64",
    ) and said["vector instructions"]


@pytest.mark.slow
def test_ranks_are_run_again_as_many(tmp_path):
    write_book(
        tmp_path / "book.ipynb", "import os\nfrom actrep_nb.show import glue\nglue('world', os.environ['WORLD_SIZE'])"
    )
    run(tmp_path / "book.ipynb", tmp_path / "run", {"clips": ""}, quiet=True, ranks=2)
    again = rerun(tmp_path / "run", tmp_path / "again", quiet=True)
    assert (again.manifest.ranks, again.metrics) == (2, {"world": "2"}) and verify(
        tmp_path / "run", tmp_path / "again"
    ).differences == []


@pytest.mark.slow
def test_an_evaluation_comes_out_again_and_a_corrected_label_changes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = make_dataset(tmp_path, 3, 0, name="test")
    base = str(shipped("data/tiny_base")[0])
    given = [
        "-p",
        "clips",
        "test.csv",
        "-p",
        "none",
        "",
        "-p",
        "train",
        "",
        "-p",
        "base",
        base,
        "-p",
        "sft",
        "",
        "-p",
        "grpo",
        "",
        "-p",
        "cache",
        "frames",
    ]
    done = actrep("run", "evaluate", *given, "--out", "judged", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    done = actrep("verify", "judged", "--json", cwd=tmp_path, OMP_NUM_THREADS="1")
    said = json.loads(done.stdout)
    assert done.returncode == 0 and said["metrics"] > 5 and said["differences"] == [], done.stderr
    row = table.read_text().splitlines()[1].split(",")
    table.write_text(table.read_text().replace(",".join(row[:3]), f"{row[0]},{row[1]},{int(row[2]) + 3}", 1))
    done = actrep("verify", "judged", cwd=tmp_path, OMP_NUM_THREADS="2")
    assert (
        done.returncode == 1 and "clips: test.csv, row 1: " in done.stdout and "  torch threads: 1 | 2" in done.stdout
    ), done.stdout
