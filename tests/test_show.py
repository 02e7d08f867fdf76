"""Chapter 00: what a page cannot show well.

Progress in a real kernel, rank by rank; glue through execution and cleaning.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient

from actrep_nb import show
from actrep_nb.show import (
    GLUE,
    Registry,
    append_line,
    evenly,
    filmstrip,
    lookup,
    plain,
    progress,
    progress_text,
    read_glue,
    read_json,
    read_lines,
    read_log,
)


@given(st.integers(0, 300), st.integers(0, 40))
def test_evenly_keeps_order_and_ends(n, k):
    chosen = evenly(n, k)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(n, k)
    if chosen:
        assert chosen[0] == 0 and (k == 1 or chosen[-1] == n - 1)


@given(st.integers(0, 10**6), st.floats(0, 10**6))
def test_progress_text_never_fails(done, elapsed):
    assert str(done) in progress_text(done, None, elapsed) and progress_text(done, done, elapsed)


def test_progress_passes_everything_on_and_does_not_swallow_errors(capsys):
    assert list(progress(x for x in "abc")) == ["a", "b", "c"]
    with pytest.raises(ZeroDivisionError):
        for i in progress(range(3), desc="dividing"):
            1 / (1 - i)
    assert "dividing: 2/3" in capsys.readouterr().err


def test_progress_is_silent_on_other_ranks():
    code = "from actrep_nb.show import progress; print(sum(progress(range(5))))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "RANK": "3"}, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("10", "")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    "A notebook that was run in a real kernel."
    folder = tmp_path_factory.mktemp("run")
    cells = [
        "from actrep_nb.show import glue, progress\nimport numpy as np\nimport time",
        "for i in progress(range(40), desc='working'): time.sleep(0.03)",
        "glue('mae', np.float64(0.25))\nglue('obo', {'value': 0.9, 'lo': float('nan'), 'hi': float('inf')})",
        "glue('mae', 0.5)",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(nb, timeout=120, kernel_name="python3").execute()
    path = folder / "run.ipynb"
    nbformat.write(nb, path)
    return path


def test_progress_is_one_output_in_a_notebook(executed):
    outputs = json.loads(executed.read_text())["cells"][1]["outputs"]
    assert [o["output_type"] for o in outputs] == ["display_data"]
    assert "working: 40/40" in "".join(outputs[0]["data"]["text/plain"])


def test_glue_is_read_back_in_order_and_the_last_value_counts(executed):
    assert read_glue(executed) == {"mae": 0.5, "obo": {"value": 0.9, "lo": "nan", "hi": "inf"}}
    assert "NaN" not in executed.read_text()


def test_glue_survives_nbdev_clean(executed, tmp_path):
    from nbdev.clean import clean_nb

    nb = json.loads(executed.read_text())
    clean_nb(nb)
    copy = tmp_path / "clean.ipynb"
    copy.write_text(json.dumps(nb))
    assert GLUE in copy.read_text() and read_glue(copy) == read_glue(executed)


def test_glue_outside_a_notebook_prints(capsys):
    from actrep_nb.show import glue

    glue("n", np.int64(3))
    assert capsys.readouterr().out == "n = 3\n"


def test_plain_refuses_what_json_cannot_hold():
    with pytest.raises(TypeError, match="a set cannot be glued"):
        plain({"names": {"a"}})


@pytest.mark.parametrize("text", ["", "[]", '{"cells": 3}', '{"cells": [{"outputs": 5}]}'])
def test_read_glue_names_a_bad_file(tmp_path, text):
    path = tmp_path / "bad.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match="bad.ipynb"):
        read_glue(path)


def test_filmstrip_frames_what_happens_when():
    frames = np.zeros((8, 20, 30, 3), np.uint8)
    figure = filmstrip(frames, np.arange(8) / 2, cycles=[(0.0, 1.0), (1.0, 2.0)], max_frames=8)
    visible = [ax.spines["left"].get_visible() for ax in figure.axes[:-1]]
    assert visible == [True] * 4 + [False] * 4  # 0, 0.5 | 1, 1.5 | then nothing
    colours = [ax.spines["left"].get_edgecolor() for ax in figure.axes[:4]]
    assert colours[0] == colours[1] != colours[2] == colours[3]


@pytest.mark.parametrize(
    "shape, times, message",
    [((8, 20, 30), 8, r"\[T, H, W, 3\]"), ((8, 20, 30, 3), 7, "as many times"), ((0, 2, 2, 3), 0, "at least 1")],
)
def test_filmstrip_refuses(shape, times, message):
    with pytest.raises(ValueError, match=message):
        filmstrip(np.zeros(shape, np.uint8), np.arange(times))


def test_a_log_is_read_to_its_last_whole_line(tmp_path):
    (path := tmp_path / "log.jsonl").write_text('{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert read_log(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(ValueError, match="log.jsonl, line 1: not a JSON object"):
        read_log(path)
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / "none.jsonl")


def test_no_number_in_a_log_is_none(tmp_path):
    (path := tmp_path / "log.jsonl").write_text(
        '{"step": 1, "entropy": NaN, "loss": -Infinity}\n{"step": 2, "entropy": null, "loss": 1.5}\n'
    )
    assert read_log(path) == [{"step": 1, "entropy": None, "loss": None}, {"step": 2, "entropy": None, "loss": 1.5}]


@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=8), st.none()), max_size=3),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_lines_that_were_cut_anywhere(tmp_path_factory, rows, data):
    "What was written whole is read whole or not at all; what is appended to goes on after its last whole line."
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    for row in rows:
        append_line(path, row)
    assert read_lines(path) == read_lines(path, going_on=True) == rows
    raw = path.read_bytes()
    end = data.draw(st.integers(0, len(raw) - 1))
    path.write_bytes(raw[:end])
    torn = raw[:end].rpartition(b"\n")[2]
    kept = rows[: raw[:end].count(b"\n")]
    if torn and torn + b"\n" not in raw.splitlines(keepends=True):
        with pytest.raises(
            ValueError, match=f"rows.jsonl, line {len(kept) + 1}: cut off inside the row: write it again"
        ):
            read_lines(path, cure="write it again")
    assert read_lines(path, going_on=True) == kept
    append_line(path, {"last": 1})
    assert read_lines(path) == [*kept, {"last": 1}]


def test_a_dropped_row_is_told_and_damage_is_not_dropped(tmp_path, capsys):
    (path := tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert (
        read_log(path) == [{"step": 1}]
        and "log.jsonl, line 2: a run that was killed left half a row; it is dropped" in capsys.readouterr().err
    )
    path.write_text('{"step": 1}\n[2]\n{"step": 3}\n')
    for read in (read_lines, read_log):
        with pytest.raises(ValueError, match="log.jsonl, line 2: not a JSON object"):
            read(path)
    (tmp_path / "results.json").write_text('{"obo": 0.')
    with pytest.raises(ValueError, match="results.json: cut off or damaged.*judge again"):
        read_json(tmp_path / "results.json", "judge again")


# --- names that are not there


@pytest.mark.parametrize(
    "module, registry, wrong, right",
    [
        ("formats", "FORMATS", "repcont", "repcount"),
        ("formats", "WRITERS", "charades-txt", "charades_txt"),
        ("rewards", "REWARDS", "fromat", "format"),
        ("metrics", "PROTOCOLS", "PoseRack", "PoseRAC"),
        ("tasks", "TASKS", "countin", "counting"),
        ("models", "FAMILIES", "qwen25_vl", "qwen2_5_vl"),
        ("rollout", "ENGINES", "vlm", "vllm"),
        ("grpo", "RECIPES", "dappo", "dapo"),
        ("baselines", "COUNTERS", "constnat", "constant"),
    ],
)
def test_a_registry_refuses_a_mistyped_name_with_the_nearest(module, registry, wrong, right):
    table = getattr(import_module(f"actrep_nb.{module}"), registry)
    with pytest.raises(ValueError, match=f"no .* {wrong!r}, did you mean {right!r}. There are ") as refused:
        table[wrong]
    assert isinstance(refused.value, KeyError) and table.get(wrong) is None and wrong not in table


def test_a_registry_is_open_and_travels():
    shapes = Registry("shape")
    shapes["line"] = 2
    shapes |= {"square": 4}
    for again in (pickle.loads(pickle.dumps(shapes)), copy.deepcopy(shapes)):
        assert again == {"line": 2, "square": 4} and isinstance(again, Registry) and again.what == "shape"
    with pytest.raises(OSError, match="no tool 'x'; there are none"):
        lookup({}, "x", "tool", OSError)


def test_names_are_matched_in_one_place():
    "By `nearest`; formats guess what columns hold, which is another question."
    found = {p.name for p in Path(show.__file__).parent.glob("*.py") if "get_close_matches" in p.read_text("utf-8")}
    assert found == {"show.py", "formats.py"}


def test_what_does_not_belong_into_a_registry_is_refused_when_it_is_put_there():
    from actrep_nb.formats import FORMATS
    from actrep_nb.rewards import REWARDS

    before = dict(FORMATS), dict(REWARDS)
    with pytest.raises(TypeError, match="format 'mine': a Format is wanted, not function"):
        FORMATS["mine"] = lambda row: row
    with pytest.raises(TypeError, match="reward 'three': a function is wanted, not int"):
        REWARDS["three"] = 3
    with pytest.raises(TypeError, match="reward 'three'"):
        REWARDS.update(three=3)
    with pytest.raises(TypeError, match="reward 'three'"):
        REWARDS |= {"three": 3}
    assert (dict(FORMATS), dict(REWARDS)) == before


def test_what_others_may_read_in_a_folder_they_may_read_all_of(tmp_path):
    with show.whole_folder(tmp_path / "checkpoint") as part:
        (part / "weights").write_text("1")
        (part / "weights").chmod(0o600)
        (part / "run.sh").write_text("2")
        (part / "run.sh").chmod(0o700)
    mode = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "checkpoint").iterdir()}
    readable = (tmp_path / "checkpoint").stat().st_mode & 0o666
    assert mode == {"weights": 0o600 | readable, "run.sh": 0o700 | readable}


# ---- folders that are gone afterwards ---------------------------------------------------------------------------


def test_a_temporary_folder_lasts_as_long_as_the_process_that_made_it(tmp_path):
    code = """
import os, sys
from actrep_nb.show import temporary_folder
a, b = temporary_folder(), temporary_folder()
(a / "video.mp4").write_bytes(b"film")
if not (child := os.fork()):
    sys.exit()  # runs what is to be done at the end, as the other will
os.waitpid(child, 0)
print(a.is_dir() and (a / "video.mp4").exists() and b.is_dir() and a != b)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("True\n", "", [])


def test_a_kernel_that_is_shut_down_takes_its_folders_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    cells = [
        "from actrep_nb.show import temporary_folder\nfolder = temporary_folder()\n(folder / 'a').write_text('a')",
        "assert folder.parent == __import__('pathlib').Path(__import__('os').environ['TMPDIR']), folder",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(nb, kernel_name="python3").execute()
    assert list(tmp_path.glob("actrep-*")) == []
