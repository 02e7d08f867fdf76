"""The command line: exit codes, one JSON object on the last line, bad files that do not stop good ones, a --help that
is quick."""

import csv
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextModel

from actrep_nb.cli import join_parameters, main
from actrep_nb.cli_runs import SIZES, demo_steps
from actrep_nb.models import load_model
from actrep_nb.families import FAMILIES
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.runs import ParameterError, find_notebook, notebook_parameters
from actrep_nb.synth import draw_clip, make_dataset
from actrep_nb.video import write_video

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty current folder without models of ours around it."
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACTREP_MODEL", raising=False)
    return tmp_path


@pytest.fixture
def clip(here):
    d = draw_clip("squat", 3, seed=5)
    write_video(here / "squats.mp4", d.pixels, d.fps)
    return here / "squats.mp4"


def last_json(capsys):
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines and not [line for line in lines[:-1] if line.strip()], f"words on stdout beside the JSON: {lines[:-1]}"
    return json.loads(lines[-1]), err


def test_help_is_quick_and_teaches():
    start = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-c", "import sys; from actrep_nb.cli import main; sys.exit(main(['--help']))"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds = time.perf_counter() - start
    assert shown.returncode == 0 and all(
        c in shown.stdout for c in ("demo", "count", "run", "evaluate", "doctor", "audit")
    )
    probe = (
        "import sys; from actrep_nb.cli import main; main(['--help']); print(','.join(m for m in "
        "('torch','transformers','matplotlib','pandas','numpy','papermill','av') if m in sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60
    ).stdout.splitlines()[-1]
    assert loaded == "", f"--help imports {loaded}"
    assert seconds < 5, "far beyond the second it should take, even on a busy machine"


@pytest.mark.parametrize("name", ["demo", "count", "run", "evaluate", "doctor", "audit"])
def test_every_command_has_examples_and_json(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"actrep {name}" in text.split("Examples:")[1] and "--json" in text


@pytest.mark.parametrize(
    "argv",
    [
        ["count"],
        ["nonsense"],
        ["count", "x.mp4", "--nonsense"],
        ["demo", "--size", "huge"],
        ["run", "no_such_book"],
        ["evaluate", "x.csv"],
        ["evaluate", __file__, "--limit", "many"],
    ],
)
def test_wrong_usage_is_exit_code_2(argv, here, capsys):
    assert main([*argv, "--json"]) == 2
    data, err = last_json(capsys)
    assert data["ok"] is False and data["error"] and err.strip()


def test_count_goes_on_after_bad_files(clip, here, capsys):
    (here / "broken.mp4").write_bytes(b"\0" * 100)
    (here / "folder").mkdir()
    (here / "other").mkdir()
    shutil.copy(here / "squats.mp4", here / "other" / "squats.mp4")
    code = main(
        [
            "count",
            "broken.mp4",
            "gone.mp4",
            "SQUATS.mp4",
            "folder",
            "squats.mp4",
            "other",
            "--model",
            "period",
            "--out",
            "pictures",
            "--json",
        ]
    )
    data, err = last_json(capsys)
    assert code == 1 and [f["file"] for f in data["failed"]] == ["gone.mp4", "SQUATS.mp4", "folder", "broken.mp4"]
    assert [f["file"] for f in data["files"]] == ["squats.mp4", "other/squats.mp4"] and data["files"][0]["count"] == 3
    assert (
        len(data["files"][0]["cycles"]) == 3 == sum(data["files"][0]["sets"]) and data["files"][0]["regularity"] > 0.2
    )
    pictures = {f["picture"] for f in data["files"]}
    assert len(pictures) == 2 and all((here / p).stat().st_size > 10_000 for p in pictures)
    assert "did you mean that" in err and "4 of 6 files" in err


def test_count_takes_what_counts_film_untrained_and_says_so(clip, here, capsys, monkeypatch):
    assert main(["count", "squats.mp4"]) == 0
    assert "[picture+pose" in (said := capsys.readouterr().out) or "[period" in said
    (here / "sft").mkdir()
    for model, words in (("sft", "holds no checkpoint"), ("nothing", "no model 'nothing'")):
        assert main(["count", "squats.mp4", "--model", model]) == 1
        assert words in capsys.readouterr().err
    for wrong in (
        ["--example", "5-3"],
        ["--write", "gif"],
        ["--video", "fps=9", "--model", "period"],
        ["--every", "day"],
        ["--model", "constant"],
    ):
        assert main(["count", "squats.mp4", *wrong]) == 2, wrong
    monkeypatch.setenv("ACTREP_MODEL", "nothing")
    assert main(["count", "squats.mp4"]) == 1


def test_a_runs_folder_is_a_checkpoint_and_says_what_it_was_trained_on(here):
    from actrep_nb.counters import find_checkpoint, trained_on

    (here / "mine" / "checkpoint").mkdir(parents=True)
    (here / "mine" / "checkpoint" / "config.json").write_text("{}")
    (here / "mine" / "manifest.json").write_text('{"parameters": {"data": "squats.jsonl"}}')
    assert (
        find_checkpoint("mine") == "mine/checkpoint"
        and trained_on("mine/checkpoint") == "squats.jsonl"
        and trained_on("Qwen/Qwen2.5-VL-3B-Instruct") == ""
    )


def test_what_count_writes_is_taken_over_when_it_goes_on(clip, here, capsys):
    shutil.copy(here / "squats.mp4", here / "again.mp4")
    told = [
        "count",
        "squats.mp4",
        "again.mp4",
        "--model",
        "period",
        "--model",
        "pose",
        "--write",
        "csv,srt,mp4,html",
        "--out",
        "out",
        "--every",
        "exercise",
        "--json",
    ]
    assert main(told) == 0
    data, _ = last_json(capsys)
    first, second = data["files"]
    assert set(first["others"]["pose"]) == {"count", "problems"} and (
        first["others"]["pose"]["count"] is not None or first["others"]["pose"]["problems"]
    )
    assert (
        set(first["written"]) == {"csv", "srt", "mp4", "png"}
        and (here / "out" / "counts.html").stat().st_size > 20_000
        and data["exercises"]
    )
    assert (
        len((here / "out" / "squats.csv").read_text().splitlines()) == 4
        and (here / "out" / "squats.srt").read_text().count("-->") == 3
    )
    with open(here / "out" / "counts.jsonl", "a") as file:
        file.write('{"stamp": "torn')
    os.utime(here / "again.mp4")
    assert main([*told, "--resume"]) == 0
    again, err = last_json(capsys)
    assert (
        "1 of 2 films were counted before" in err
        and again["files"][0] == first
        and again["files"][1]["cycles"] == second["cycles"]
    )


def test_a_stream_is_counted_as_it_comes(here, capsys):
    """A file played as a stream, from this machine and from none else: a square that rises eight times in twelve
    seconds."""
    pixels = np.full((300, 96, 96, 3), 225, np.uint8)
    for k, frame in enumerate(pixels):
        frame[(y := round(52 - 20 * (1 - np.cos(2 * np.pi * k / 37.5)))) : y + 24, 36:60] = (40, 70, 150)
    write_video(here / "rises.mp4", pixels, 25)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(here))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.func.log_message = lambda *args: None  # quiet
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert main(["count", "--camera", f"http://127.0.0.1:{server.server_port}/rises.mp4", "--json"]) == 0
        data, _ = last_json(capsys)
        assert abs(data["count"] - 8) <= 1 and len(data["cycles"]) == data["count"] and data["watched"] > 3
        assert main(["count", "--camera", f"http://127.0.0.1:{server.server_port}/gone.mp4", "--json"]) == 1
        assert "gives no film" in last_json(capsys)[0]["error"]
    finally:
        server.shutdown()
    assert (
        main(["count", "--camera", "http://example.com/film", "--json"]) == 1
        and "on this machine" in last_json(capsys)[0]["error"]
    )
    assert main(["count", "squats.mp4", "--camera", "0"]) == 2


def unlike_halves() -> np.ndarray:
    """A square that goes from the left edge to the right and back every two seconds, a little higher on the way back,
    for twelve."""
    t = np.arange(300) / 25
    pixels = np.full((300, 96, 96, 3), 225, np.uint8)
    for frame, s in zip(pixels, t):
        x, y = int(40 - 36 * np.cos(2 * np.pi * s / 2)), 34 + int(3 * np.sin(2 * np.pi * s / 2) > 0)
        frame[y : y + 28, x : x + 16] = (40, 70, 150)
    return pixels


def test_an_example_says_what_one_repetition_is(here, tmp_path, capsys):
    path = write_video(tmp_path / "sides.mp4", unlike_halves(), 25)
    counts = {}
    for example in ("1.0-3.0", "1.0-2.0"):
        assert main(["count", str(path), "--model", "period", "--example", example, "--write", "", "--json"]) == 0
        counts[example] = last_json(capsys)[0]["files"][0]["count"]
    assert abs(counts["1.0-3.0"] - 6) <= 1, counts
    assert not (here / "counts.jsonl").exists(), "where nothing is to be written, nothing is"


def test_an_example_may_be_in_another_film(clip, here, capsys):
    "Elsewhere is shown how long one lasts."
    write_video(here / "sides.mp4", unlike_halves(), 25)
    shutil.copy(clip, here / "at 10:30.mp4")
    told = ["count", "sides.mp4", "--model", "period", "--write", "", "--json", "--example"]
    for example in ("squats.mp4:1-3", "at 10:30.mp4:1.0 to 3.0"):
        assert main([*told, example]) == 0
        assert last_json(capsys)[0]["files"][0]["count"] == 6
    (here / "folder").mkdir()
    (here / "broken.mp4").write_bytes(b"\0" * 100)
    wrong = {
        "SQUATS.mp4:1-3": "did you mean that",
        "gone.mp4:1-3": "no such file",
        "folder:1-3": "is a folder",
        "squats.mp4:1-300": "squats.mp4 lasts",
        "1-300": "sides.mp4 lasts",
        "12.0-12.4": "sides.mp4 lasts",
        "squats.mp4:3-1": "other.mp4:3.2-4.5",
        "squats.mp4": "other.mp4:3.2-4.5",
        "1:02-1:04": "other.mp4:3.2-4.5",
        "squats.mp4:1.2.3-4": "other.mp4:3.2-4.5",
    }
    for example, words in wrong.items():
        assert main([*told, example]) == 2, example
        assert words in last_json(capsys)[0]["error"], example
    assert main([*told, "broken.mp4:1-3"]) == 1 and "broken.mp4" in last_json(capsys)[0]["error"]
    assert (
        main(["count", "--camera", "0", "--example", "gone.mp4:1-3", "--json"]) == 2
        and "no such file" in last_json(capsys)[0]["error"]
    )


def test_look_again_leaves_out_what_hardly_moves(here, capsys):
    """A lamp that goes on and off six times, and twice a third as bright: swings are made even before they are counted,
    and looking again tells them apart."""
    bright = np.repeat([100.0] * 6 + [35.0] * 2, 30)
    pixels = np.full((240, 96, 96, 3), 40, np.uint8)
    for k, frame in enumerate(pixels):
        frame[30:66, 30:66] = round(40 + bright[k] * (1 - np.cos(2 * np.pi * k / 30)) / 2)
    write_video(here / "tired.mp4", pixels, 25)
    told, counts = ["count", "tired.mp4", "--model", "period", "--write", "csv", "--json"], []
    for more in ([], ["--look-again", "--resume"], ["--look-again", "--resume"]):
        assert main([*told, *more]) == 0
        [film] = last_json(capsys)[0]["files"]
        counts.append((film["count"], len(film["cycles"]), sum("looked again: 2 of 8" in p for p in film["problems"])))
    assert counts == [(8, 8, 0), (6, 6, 1), (6, 6, 1)], "and what was counted without it is not taken over"
    assert main(["count", "--camera", "0", "--look-again"]) == 2


def test_count_with_a_checkpoint(clip, here, capsys):
    "An untrained model gives no count: that is a failure that shows its answer, not a zero."
    from actrep_nb.tiny_base import make_tiny_checkpoint

    make_tiny_checkpoint(here / "tiny")
    assert main(["count", "squats.mp4", "--model", "tiny", "--max-new-tokens", "8", "--json"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "the model gave no count" in json.loads(out[-1])["failed"][0]["reason"]


def test_evaluate_accounts_for_every_row(here, capsys):
    path = make_dataset(here / "data", 6, seed=0, name="test", workers=1)
    rows = list(csv.reader(path.open()))
    rows[2][2] = "nan"
    rows.append(["squat", "gone.mp4", "1"] + [""] * (len(rows[0]) - 3))
    with path.open("w", newline="") as f:
        csv.writer(f).writerows(rows)
    code = main(
        [
            "evaluate",
            str(path),
            "--videos",
            "data/videos",
            "--baseline",
            "period,class_median",
            "--fit",
            str(path),
            "--out",
            "judged",
            "--json",
        ]
    )
    data, err = last_json(capsys)
    assert (
        code == 0
        and data["n"] == 5
        and len(data["rejected"]) == 2
        and set(data["models"]) == {"period", "class_median"}
    )
    assert "row 3" in err and "gone.mp4" in err
    assert json.loads((here / "judged" / "results.json").read_text())["models"] == data["models"]
    assert len((here / "judged" / "predictions.jsonl").read_text().splitlines()) == 10


def test_evaluate_names_the_file_it_cannot_use(here, capsys):
    (here / "words.csv").write_text("a,b\n1,2\n")
    for argv, words in [
        (["gone.csv"], "gone.csv"),
        (["words.csv"], "words.csv"),
        (["words.csv", "--videos", "gone"], "gone"),
    ]:
        assert main(["evaluate", *argv, "--baseline", "period"]) == 1
        assert words in capsys.readouterr().err
    assert main(["evaluate", "words.csv", "--baseline", "perod"]) in (1, 2)


def test_audit_lists_findings(here, capsys):
    (here / "a.csv").write_text("file,action,count,cycles_s\na.mp4,squat,3,0.0-1.0\nb.mp4,squat,-2,\n")
    assert main(["audit", "a.csv", "--json"]) == 0
    data, err = last_json(capsys)
    assert (data["rows"], data["kept"], data["rejected"]) == (2, 1, 1) and len(data["findings"]) >= 2


def test_what_is_read_is_not_written_over(here, clip, capsys):
    "Nor is a film, nor what no command of ours has written."
    (here / "a.jsonl").write_text('{"video": "squats.mp4", "action": "squat", "count": 3, "cycles": [[0, 1]]}\n')
    (here / "train.jsonl").write_bytes((here / "a.jsonl").read_bytes())
    (here / "judged").mkdir()
    (here / "judged" / "results.json").write_text('{"mine": 1}')
    (here / "cots").mkdir()
    (here / "cots" / "train.jsonl").write_text("mine")
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    for argv, words in (
        (["audit", "a.jsonl", "--html", "squats.mp4"], "--html squats.mp4: the name must end in .html"),
        (["audit", "a.jsonl", "--write", "./a.jsonl"], "--write a.jsonl is what is read"),
        (["cot", "train.jsonl", "--out", "."], "--out train.jsonl is what is read"),
        (["cot", "a.jsonl", "--out", "cots"], "train.jsonl is there, and no cot wrote it"),
        (["run", "cot", "-p", "clips=train.jsonl", "--out", "."], ". is no run's folder: it holds"),
        (["evaluate", "a.jsonl", "--baseline", "period", "--out", "judged"], "results.json is there, and no eval"),
    ):
        assert main(argv) == 2, argv
        assert words in capsys.readouterr().err
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before


def test_a_clip_in_several_rows_is_told(here, clip, capsys):
    (here / "a.csv").write_text("file,action,count\nsquats.mp4,squat,3\n./squats.mp4,squat,4\nsquats.mp4,squat,3\n")
    assert main(["evaluate", "a.csv", "--baseline", "period"]) == 0
    assert "2 of 3 rows show a clip that is there already, as squats.mp4" in capsys.readouterr().err
    assert main(["audit", "a.csv"]) == 0
    out = capsys.readouterr().out
    assert out.count("the same clip as squats") == 2 and "counted 4 here and 3 there" in out
    assert "3 rows, 3 kept, 0 rejected, 2 errors;" in out


def test_an_example_takes_two_pictures(here, clip, capsys):
    assert main(["count", "squats.mp4", "--example", "0.0001-0.0002"]) == 2
    assert "a repetition takes two pictures at least" in capsys.readouterr().err
    assert main(["count", "squats.mp4", "--max-new-tokens", "0"]) == 2


def test_a_line_break_in_a_name_makes_no_second_line(here, clip, capsys):
    "Nor can a name write a line that looks like the command's own."
    name = "set\nerror: 1.mp4"
    clip.rename(here / name)
    (here / "a.csv").write_text(f'file,action,count\n"{name}",squat,-2\n')
    assert main(["audit", "a.csv"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: 1")]
    (here / "cut\noff.mp4").write_bytes((here / name).read_bytes()[:2000])
    assert main(["count", name, "cut\noff.mp4"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("set error: 1.mp4: 3  [") and "actrep count: cut off.mp4" in err
    assert not [line for line in f"{out}\n{err}".splitlines() if line.startswith(("error", "off"))]


@pytest.fixture
def mine(here, clip):
    "Eight clips of four people, in a table with columns of its owner's, in a folder of its own."
    (here / "mine/videos").mkdir(parents=True)
    for k in range(8):
        (here / f"mine/videos/{k}.mp4").write_bytes(clip.read_bytes() + bytes(k))
    (here / "mine/my.csv").write_text(
        "clip,exercise,reps,who,times\n"
        + "".join(f"{k}.mp4,Squats,{3 + k},p{k // 2},{'0.5-1.5;1.5-2.5;2.5-3.5' if k < 2 else ''}\n" for k in range(8))
    )
    return "file=clip,action=exercise,count=reps,source=who"


def test_a_table_of_ones_own_becomes_one_of_ours_once(mine, here, capsys, monkeypatch):
    assert (
        main(["audit", "mine/my.csv"]) == 1
        and (
            "no column 'file' or 'action' or 'count'; did you mean --map "
            "file=clip,action=exercise,count=reps,cycles_s=times"
        )
        in capsys.readouterr().err
    )
    assert main(["audit", "mine/my.csv", "--map", mine, "--json"]) == 0
    data, err = last_json(capsys)
    assert (
        (data["kept"], data["cycles"], data["videos"]) == (8, 0, "mine/videos")
        and "0 clips have cycles" in err
        and {"cycles_unread"} <= {f["rule"] for f in data["findings"]}
    )
    assert main(["audit", "mine/my.csv", "--map", mine + ",cycles_s=times", "--write", "mine/clips.csv", "--json"]) == 0
    assert (last_json(capsys)[0]["cycles"], (here / "mine/clips.csv").read_text().splitlines()[1][:22]) == (
        2,
        "videos/0.mp4,squat,3,0",
    )
    shutil.move(here / "mine", here / "moved")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert main(["split", "../moved/clips.csv", "--test", ".25", "--json"]) == 0
    parts = last_json(capsys)[0]
    assert parts["shared"] == 0 and [parts["parts"][p]["clips"] for p in ("train", "test")] == [6, 2]
    assert (
        main(
            [
                "evaluate",
                "../moved/clips_test.csv",
                "--baseline",
                "period,constant",
                "--fit",
                "../moved/clips_train.csv",
                "--json",
            ]
        )
        == 0
    )
    assert last_json(capsys)[0]["n"] == 2
    for argv, words in [
        (["audit", "../moved/my.csv", "--map", "reps"], "write ours=yours"),
        (["audit", "../moved/my.csv", "--map", mine, "--write", "x.txt"], ".csv or .jsonl"),
        (["audit", "../moved/clips.csv", "--write", "../moved/clips.csv"], "name another file"),
    ]:
        assert main(argv) == 2 and words in capsys.readouterr().err


def test_a_split_is_not_replaced_by_another(mine, here, capsys):
    first = ["split", "mine/my.csv", "--map", mine, "--test", ".25"]
    assert main(first) == main(first) == 0
    before = {p.name: p.read_text() for p in (here / "mine").glob("*.csv")}
    assert set(before) == {"my.csv", "my_train.csv", "my_test.csv"}
    assert (
        main([*first, "--seed", "1"]) == 2
        and "holds other clips" in capsys.readouterr().err
        and {p.name: p.read_text() for p in (here / "mine").iterdir() if p.is_file()} == before
    )
    assert main([*first, "--seed", "1", "--valid", ".25", "--out", "again"]) == 0
    again = {p.name: p.read_text() for p in (here / "again").iterdir()}
    assert set(again) == {"my_train.csv", "my_valid.csv", "my_test.csv"} and "../mine/videos/" in again["my_test.csv"]
    assert (
        main(["split", "mine/my.csv", "--map", "file=clip,count=reps,source=exercise"]) == 1
        and "cannot fill" in capsys.readouterr().err
    )


def test_unreadable_clips_are_refused_before_any_work(here, capsys):
    (here / "m.csv").write_text("file,action,count\n" + "".join(f"{k}.mp4,squat,1\n" for k in range(500)))
    assert main(["evaluate", "m.csv", "--baseline", "period"]) == 1
    assert (
        len(err := capsys.readouterr().err.splitlines()) == 1
        and "none of the 4 videos that were tried, of 500, can be read" in err[0]
    )
    assert (
        main(["evaluate", "m.csv", "--videos", ".", "--baseline", "period"]) == 1
        and len(capsys.readouterr().err.splitlines()) == 1
    )
    assert main(["evaluate", "m.csv", "--baseline", "constant", "--fit", "m.csv"]) == 0  # which needs none


@pytest.fixture
def book(here):
    cells = [
        nbformat.v4.new_code_cell("n: int = 3  # how many\nname: str = ''  # of it", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from actrep_nb.show import glue\nprint('words')\nglue('twice', 2 * n)\nglue('name', "
            "name)\nassert n >= 0, 'too few'"
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), here / "twice.ipynb")


def test_run_wants_one_rank_at_least(here, capsys):
    assert main(["run", "sft", "--ranks", "0"]) == 2 and "--ranks" in capsys.readouterr().err


def test_run_reads_values_by_the_notebooks_types(book, here, capsys):
    assert main(["run", "twice.ipynb", "-p", "n", "21", "-p", "name", "12", "--out", "out", "--json"]) == 0
    data, _ = last_json(capsys)
    assert (
        data["metrics"] == {"twice": 42, "name": "12"} and data["status"] == "done" and (here / data["report"]).exists()
    )
    assert main(["run", "twice.ipynb", "-p", "n=-1", "--out", "failed", "--json"]) == 1
    data, err = last_json(capsys)
    assert (
        "twice.ipynb failed in cell 3" in data["error"]
        and "too few" in err
        and "Traceback" not in err.split("AssertionError")[0].split("Traceback (most")[0]
    )
    for wrong in (["-p", "m", "1"], ["-p", "n", "1.5"], ["-p", "n"]):
        assert main(["run", "twice.ipynb", *wrong]) == 2
    assert main(["run", "twice.ipynb", "--show", "--json"]) == 0
    assert last_json(capsys)[0]["parameters"]["n"] == {"type": "int", "default": 3, "help": "how many"}


def test_files_of_parameters_are_for_run_and_sweep(book, here, capsys):
    Path("a.yaml").write_text("n: 5\nname: from a\n")
    Path("b.yaml").write_text("twice: {n: 7}\n")
    assert (
        main(["run", "twice.ipynb", "-f", "a.yaml", "--params", "b.yaml", "-p", "name", "12", "--out", "out", "--json"])
        == 0
    )
    assert last_json(capsys)[0]["metrics"] == {"twice": 14, "name": "12"}
    assert (
        main(["run", "twice.ipynb", "-f", "a.yaml", "--show"]) == 0
        and "n: int = 5  # how many" in capsys.readouterr().out
    )
    assert main(["sweep", "twice.ipynb", "-f", "a.yaml", "--grid", "n=1,2", "--out", "grid", "--json"]) == 0
    assert {name: row["metrics"] for name, row in last_json(capsys)[0]["runs"].items()} == {
        f"n={n}": {"twice": 2 * n, "name": "from a"} for n in (1, 2)
    }
    assert (
        main(["run", "twice.ipynb", "-f", "c.yaml"]) == 2
        and "no file of parameters 'c.yaml'" in capsys.readouterr().err
    )


def test_parameters_are_joined_only_after_p():
    assert join_parameters(["run", "x", "-p", "a", "-1", "--out", "d", "y"]) == [
        "run",
        "x",
        "-p",
        "a=-1",
        "--out",
        "d",
        "y",
    ]
    assert join_parameters(["-p", "a=b", "c", "--parameter", "d", "e f", "-p"]) == [
        "-p",
        "a=b",
        "c",
        "--parameter",
        "d=e f",
        "-p",
    ]


def test_doctor_uses_what_it_reports(here, capsys):
    code = main(["doctor", "--json"])
    data, err = last_json(capsys)
    checks = {c["name"]: c for c in data["checks"]}
    assert checks["reader pyav"]["ok"] and "decoded" in checks["reader pyav"]["found"] and checks["torch"]["ok"]
    assert code == (0 if data["ready"] else 1)
    assert all(c["cure"] for c in checks.values() if c["needed"] and not c["ok"])


@pytest.mark.parametrize("family", FAMILIES)
def test_doctor_looks_at_a_model(here, capsys, monkeypatch, family):
    path = make_tiny_checkpoint(here / "model", family=family, hidden=32, layers=2, vision_hidden=32, vision_layers=2)
    capsys.readouterr()  # what the libraries say while it is made
    assert main(["doctor", "--model", str(path), "--json"]) == 0
    data, err = last_json(capsys)
    assert (
        data["ready"]
        and data["family"] == family
        and data["dtype"] == "float32"
        and data["video_effect"] > 1e-3
        and "it looks" in err
    )
    assert (
        data["parameters"] == sum(p.numel() for p in load_model(path, device="cpu")[0].parameters())
        and 0 < data["video_tokens"] < data["prompt_tokens"]
    )
    monkeypatch.setattr(
        torch.Tensor,
        "masked_scatter",
        lambda self, mask, source: self if source.ndim > 1 else torch.masked_scatter(self, mask, source),
    )
    for text_model in (Qwen3VLTextModel, Qwen3VLMoeTextModel):
        monkeypatch.setattr(text_model, "_deepstack_process", lambda self, hidden, mask, seen: hidden)
    assert main(["doctor", "--model", str(path), "--json"]) == 1
    data, err = last_json(capsys)
    assert (
        not data["ready"]
        and data["video_effect"] == 0.0
        and "does not look at the video" in data["failed"][0]["reason"]
        and "it does not look" in err
    )


def test_demo_steps_set_parameters_that_exist():
    for size in SIZES:
        for step in demo_steps(size, "data/tiny_base", "data/tiny_film"):
            try:
                declared = notebook_parameters(find_notebook(step.notebook))
            except FileNotFoundError:
                pytest.skip(f"{step.notebook} is not written yet")
            assert set(step.parameters) <= set(declared), (
                f"{step.notebook} has no {set(step.parameters) - set(declared)}"
            )


def test_the_demo_says_what_was_counted_on_film(capsys):
    from actrep_nb.cli import Output
    from actrep_nb.cli_runs import _say_film

    drawn = {"sft": {"obo": 0.5}, "grpo": {"obo": 0.625}}
    _say_film({"drawn": drawn, "films": {}, "unread": {}, "on_film": {}}, Output("demo", False))
    assert "sft 0.50, grpo 0.62" in (said := capsys.readouterr().out) and "film/grpo" in said
    films = {"base": {"a.mp4": 3, "long name.mp4": None}, "period": {"a.mp4": 12, "long name.mp4": 0}}
    _say_film(
        {
            "drawn": drawn,
            "films": films,
            "unread": {"long name.mp4": "no film"},
            "on_film": {"base": {"obo": 0.5, "exact": 0.0, "mae": 0.25}},
        },
        Output("demo", False),
    )
    out, err = capsys.readouterr()
    head, first, second, last = out.splitlines()[2:]
    assert "long name.mp4: no film" in err
    assert (
        head.split() == ["film", "base", "period"]
        and first.split() == ["a.mp4", "3", "12"]
        and second.split() == ["long", "name.mp4", "-", "0"]
        and "base: within one 0.500" in last
    )
    assert head.index("base") + 4 == first.index("3") + 1 == second.index("-") + 1


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "clips" / "manifest.csv").exists(), reason="real clips are not here: set ACTREP_SHARED_DATA"
)
def test_real_clips_are_all_accounted_for(here, capsys):
    code = main(
        [
            "evaluate",
            str(SHARED / "clips" / "manifest.csv"),
            "--videos",
            str(SHARED / "clips"),
            "--baseline",
            "period",
            "--json",
        ]
    )
    data, _ = last_json(capsys)
    assert code == 0 and data["n"] + len(data["rejected"]) == 24


PLANNED = "file,action,count,cycles_s\na.mp4,squat,2,0.0-1.0;1.0-3.0\nb.mp4,squat,1,0.0-20.0\nc.mp4,squat,4,\n"


def test_plan_counts_the_clips_that_repeat_too_fast(here, capsys):
    """Two repetitions in three seconds need more than 2.67 frames a second, one in twenty 0.2; the third clip's length
    is not known, and said so."""
    (here / "clips.csv").write_text(PLANNED)
    assert main(["plan", "clips.csv", "--fps", "1,4", "--json"]) == 0
    data, err = last_json(capsys)
    assert (
        data["family"] == "qwen2_5_vl"
        and (data["clips"], data["rows"]) == (2, 3)
        and "c: no video, no duration, no cycles" in err
    )
    assert [(r["rate"], r["too_fast_on_average"]) for r in data["table"]] == [
        ("1 fps", 0.5),
        ("4 fps", 0.0),
        ("hub", 0.5),
        ("motion *", 0.0),
    ]
    assert data["table"][0]["frames"] == {"median": 12.0, "max": 20.0}
    assert main(["plan", "clips.csv", "--model", "qwen3_vl", "--json"]) == 0
    assert last_json(capsys)[0]["table"][0]["size"] != data["table"][0]["size"], "its squares are of another size"


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_what_is_planned_is_what_is_encoded(here, capsys, family):
    "Every clip, under several specs: films of odd rates, sizes and lengths, windows, a still picture."
    from PIL import Image

    from actrep_nb.models import Sample, choose_spec, encode, frames_for, load_model
    from actrep_nb.tiny_base import make_tiny_checkpoint
    from actrep_nb.formats import load_clips
    from actrep_nb.video import write_video

    make_tiny_checkpoint("m", family=family, hidden=32, layers=1, vision_hidden=32, vision_layers=1)
    config = json.loads(Path("m/processor_config.json").read_text())
    del config["video_processor"]["video_spec"]
    Path("m/processor_config.json").write_text(json.dumps(config))
    random, rows = np.random.default_rng(0), ["file,action,count,start,end"]
    for k in range(11):
        size = 2 * random.integers(16, 130, 2)
        write_video(
            f"film {k}.mp4",
            random.integers(0, 255, (int(random.integers(1, 90)), *size, 3), np.uint8),
            float(random.choice([1, 5, 8, 15, 23.976, 25, 29.97, 50, 60])),
        )
        rows.append(f"film {k}.mp4,squat,3,,")
    Image.new("RGB", (640, 360)).save("still.png")
    Path("clips.csv").write_text("\n".join([*rows, "still.png,squat,0,,"]) + "\n")
    model, compared = None, 0
    for video in (
        "",
        "fps=2",
        "fps=4 max_tokens=300",
        "max_tokens=900 max_frames=40",
        "fps=8 frame_size=128x64" if family == "qwen3_vl" else "fps=8 frame_size=112x56",
        "max_pixels_per_frame=30000 fps=3",
    ):
        capsys.readouterr()
        assert main(["plan", "clips.csv", "--videos", ".", "--model", "m", "--video", video, "--json"]) == 0
        data, _ = last_json(capsys)
        planned = {p["clip"]: p["tokens"] for p in data["plans"]}
        model, processor = load_model("m", device="cpu")
        choose_spec(processor, video)
        for clip in load_clips("clips.csv", videos="."):
            prompt = encode(model, processor, Sample(clip, frames_for(processor, clip), "How many?"))
            assert (
                int((prompt.input_ids == model.config.video_token_id).sum())
                == planned[clip.id]
                <= (4096 if "tokens" not in video else 900)
            ), (clip.id, video)
            compared += 1
    assert compared == 72


def test_plan_and_bench_refuse_what_cannot_be_and_take_a_rate(here, capsys):
    (here / "frames.csv").write_text("type,name,count,L1,L2\nsquat,a.mp4,1,30,90\nsquat,b.mp4,x,30,90\n")
    for odd in (
        ["--size", "0x0"],
        ["--size", "720"],
        ["--video", "max_tokens=0"],
        ["--video", "max_pixels=4"],
        ["--fps", "0"],
    ):
        assert main(["plan", "frames.csv", *odd]) == 2 and odd[1] in capsys.readouterr().err
    assert main(["plan", "frames.csv"]) == 1 and "--source-fps" in capsys.readouterr().err
    assert main(["plan", "frames.csv", "--source-fps", "30", "--json"]) == 0
    data, err = last_json(capsys)
    assert (data["clips"], data["rows"]) == (1, 2) and "left out: frames.csv, row 3, count" in err
    assert main(["bench", "video", "--videos", "nope"]) == 2 and "no such folder" in capsys.readouterr().err


def test_plan_says_what_training_keeps_without_a_file_or_a_checkpoint(here, capsys):
    "2 bytes for a weight, 14 more for one that is trained, on eight GPUs."
    name = "Qwen/Qwen2.5-VL-3B-Instruct"
    assert main(["plan", "--model", name, "--gpus", "8", "--strategy", "zero3", "--frozen", "", "--json"]) == 0
    memory = last_json(capsys)[0]["memory"]
    assert memory["parameters"] == memory["trained"] == 3_754_622_976 and list(memory["mib"]) == ["zero3"]
    assert sum(memory["mib"]["zero3"].values()) == pytest.approx(16 * 3_754_622_976 / 8 / 2**20)
    (here / "clips.csv").write_text(PLANNED)
    assert main(["plan", "clips.csv", "--model", name, "--strategy", "ddp", "--json"]) == 0
    data = last_json(capsys)[0]
    assert (
        list(data["memory"]["mib"]) == ["ddp"]
        and data["memory"]["gpus"] == 1
        and data["kv_bytes"] == 2 * 2 * 36 * 2 * 128
    )
    for wrong, words in (
        ([], "FILE"),
        (["--strategy", "zero9", "--model", name], "zero3_offload"),
        (["--gpus", "2"], name),
    ):
        assert main(["plan", *wrong]) == 2 and words in capsys.readouterr().err


def test_plan_takes_the_size_and_depth_of_a_checkpoint(here, capsys):
    (here / "clips.csv").write_text(PLANNED)
    base = str(ROOT / "data" / "tiny_base")
    assert main(["plan", "clips.csv", "--model", base, "--fps", "4", "--json"]) == 0
    data, _ = last_json(capsys)
    row, config = data["table"][0], json.loads((ROOT / "data/tiny_base/config.json").read_text())["text_config"]
    assert (
        row["size"] == [56, 56]
        and data["video"].endswith("frame_size=56x56")
        and row["frames"]["max"] == 64
        and row["tokens"]["max"] == 128
    )
    assert (
        row["kv_mb"]["max"]
        == 128
        * 4
        * config["num_hidden_layers"]
        * config["num_key_value_heads"]
        * config["hidden_size"]
        / config["num_attention_heads"]
        / 1e6
    )
    assert main(["plan", "clips.csv", "--model", base, "--gpus", "2", "--json"]) == 0
    kept, rollout = (last := last_json(capsys)[0]["memory"])["mib"], last["rollout_mib"]
    assert (
        kept["zero3"]["weights"] == kept["zero2"]["weights"] / 2 > 1
        and kept["zero2"]["weights"] < kept["ddp"]["weights"] < 2 * kept["zero2"]["weights"]
        and kept["zero3_offload"]["cpu"] > 1
    )
    assert (
        rollout["fsdp2"]["whole"]
        == rollout["zero3"]["whole"]
        == kept["zero2"]["weights"]
        > rollout["fsdp2"]["layers"]
        > 0
        == rollout["zero2"]["whole"]
    )
    assert main(["plan", "clips.csv", "--gpus", "2"]) == 2 and "config.json" in capsys.readouterr().err
    for wrong, words in ((["--video", "frame_size=56"], "WIDTHxHEIGHT"), (["--fps", "fast"], "--fps takes numbers")):
        assert main(["plan", "clips.csv", "--model", base, *wrong]) == 2 and words in capsys.readouterr().err
    assert main(["plan", "clips.csv", "--model", "gpt"]) == 2 and "qwen3_vl" in capsys.readouterr().err
    (here / "none.csv").write_text("file,action,count\nc.mp4,squat,4\n")
    assert main(["plan", "none.csv"]) == 1 and "--videos" in capsys.readouterr().err


def test_what_an_experiment_would_refuse_is_refused_before_it_starts(here, capsys):
    from actrep_nb.cli_runs import _refuse_early

    declared = {name: notebook_parameters(find_notebook(name)) for name in ("data", "grpo", "evaluate", "report")}
    (here / "log").mkdir()
    _refuse_early({"train": 8, "none": 2}, declared["data"], "00_data.ipynb")  # numbers are no paths
    _refuse_early({"steps": 0, "epochs": 1.0}, declared["grpo"], "05_grpo.ipynb")
    _refuse_early(
        {"sft": "log", "grpo": "log"}, declared["report"], "07_report.ipynb"
    )  # a folder with a log, where no checkpoint need be
    for given, words in [
        ({"task": "countin"}, "did you mean 'counting'"),
        ({"lr": -1.0}, "lr -1: it must be above 0"),
        ({"steps": 0}, "steps 0"),
        ({"clips": "gone.csv"}, "gone.csv"),
    ]:
        with pytest.raises(ParameterError, match=words):
            _refuse_early(given, declared["grpo"], "05_grpo.ipynb")
    for name in ("base", "sft", "grpo"):
        with pytest.raises(ParameterError, match=f"{name}: no model"):
            _refuse_early({name: "./nope"}, declared["evaluate"], "06_evaluate.ipynb")


def test_adapters_are_not_merged_into_a_folder_that_holds_something(here, capsys):
    for folder in ("run/checkpoint-1", "adapters"):
        (here / folder).mkdir(parents=True)
    (here / "adapters/adapter_config.json").write_text("{}")
    assert main(["merge", "adapters", "--out", "run"]) == 2 and "something in it" in capsys.readouterr().err


def test_a_command_that_fails_leaves_no_empty_folder_behind(here, capsys):
    for line in (
        ["evaluate", "gone.csv", "--baseline", "period", "--out", "a/judged"],
        ["run", "grpo", "-p", "clips", "gone.csv", "--out", "b"],
        ["count", "gone.mp4", "--model", "period", "--out", "c"],
        ["cot", "gone.csv", "--out", "d"],
    ):
        assert main(line) in (1, 2), line
    assert [name for name in "abcd" if (here / name).exists()] == []
    (here / "e").mkdir()
    assert main(["evaluate", "gone.csv", "--baseline", "period", "--out", "e"]) == 1
    assert (here / "e").is_dir()  # it was there before


@pytest.mark.parametrize(
    "given, said",
    [
        ("rewards=formt=1", r"no reward 'formt', did you mean 'format'\?"),
        ("rewards=format", "'format' has no weight"),
        ("recipe=dap", r"no recipe 'dap', did you mean 'dapo'\?"),
        ("engine=modl", r"no engine 'modl', did you mean 'model'\?"),
    ],
)
def test_names_of_grpo_are_looked_up_before_a_notebook_runs(tmp_path, capsys, given, said):
    assert main(["run", "grpo", "-p", given, "--out", str(tmp_path / "run")]) == 2
    assert re.search(said, capsys.readouterr().err) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "line, said",
    [
        ("count squats.mp4 --model perod", "no model 'perod'; did you mean 'period'? Give a folder"),
        ("count squats.mp4 --model ./runs/stf", "no model './runs/stf'; did you mean 'runs/sft'? Give"),
        ("count squats.mp4 --model opena:gpt-5", "No module named 'opena'; did you mean 'openai:gpt-5'? Name"),
        ("count squats.mp4 --write png,cvs", "--write: no kind of file 'cvs', did you mean 'csv'? There are png"),
        ("plan --gpus 8 --model Qwen/Qwen2.5-VL-3B-Instrct", "did you mean 'Qwen/Qwen2.5-VL-3B-Instruct'? Name"),
        ("plan clips.csv --model qwen2_5vl", "no model 'qwen2_5vl'; did you mean 'qwen2_5_vl'? Name a family"),
        ("demo --size smal", "no size 'smal', did you mean 'small'? There are full"),
        ("bench vidoe", "no benchmark 'vidoe', did you mean 'video'? There are video"),
        ("audit clips.csv --map fil=file,acton=action", "gives fil, acton, which is no column of ours"),
        ("audit clips.csv --map fil=file,acton=action", "; did you mean file and action?"),
        ("cot clips.csv --out cots --teacher opena:gpt-5", "opena:gpt-5 writes no texts; did you mean 'openai:gpt-5'?"),
        (
            "cot clips.csv --out cots --teacher ./runs/stf",
            "no teacher './runs/stf'; did you mean 'runs/sft'? A teacher",
        ),
    ],
)
def test_a_name_that_is_not_there_brings_the_nearest(here, clip, capsys, line, said):
    (here / "runs/sft").mkdir(parents=True)
    (here / "clips.csv").write_text("file,action,count,cycles_s\nsquats.mp4,squat,1,[[0,1]]\n")
    assert main(line.split()) in (1, 2) and said in (told := capsys.readouterr().err), told


def test_a_published_checkpoint_has_a_nearest_name_too():
    from actrep_nb.counters import near_counter

    assert near_counter("Qwen/Qwen3-VL-8B-Instuct") == "; did you mean 'Qwen/Qwen3-VL-8B-Instruct'?"
    assert near_counter("zzz") == ""
