"""What a command found out is saved and said, whatever its terminal cannot show, whoever stopped reading, wherever
there is no space.
"""

import ast
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from disks import only_read, small_disk

from actrep_nb.show import append_line, whole_folder, write_whole
from actrep_nb.synth import draw_clip
from actrep_nb.video import write_video

NAME = "深蹲−é"  # none of it is ASCII, and only the last letter is in cp1252
ALL = """
import json, sys
from actrep_nb.cli import main
codes = {argv[0]: main(argv) for argv in json.loads(sys.argv[1])}
print(codes, file=open("codes", "w"))
sys.exit(max(codes.values()))
"""


@pytest.fixture
def films(tmp_path):
    "A film, four names for it, a table of them, and a notebook, all with names that few terminals can show."
    d = draw_clip("squat", 3, seed=5)
    write_video(tmp_path / f"{NAME}.mp4", d.pixels, d.fps)
    for k in range(3):
        (tmp_path / f"{NAME}{k}.mp4").write_bytes((tmp_path / f"{NAME}.mp4").read_bytes() + bytes(k + 1))
    rows = [f"{NAME}{k}.mp4,squat,{3 + k},p{k}\n" for k in range(3)] + [
        f"{NAME}.mp4,squat,3,p9\n",
        "gone−.mp4,squat,3,p8\n",
        "x.mp4,squat,深,p7\n",
    ]
    (tmp_path / f"{NAME}.csv").write_text("file,action,count,source\n" + "".join(rows), encoding="utf-8")
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("n: int = 3  # wie viele−", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(f"from actrep_nb.show import glue\nglue('{NAME}', n)"),
        ]
    )
    nbformat.write(nb, tmp_path / f"{NAME}.ipynb")
    return tmp_path


def commands(films, *more):
    table = f"{NAME}.csv"
    return json.dumps(
        [
            ["audit", table, "--html", "page/audit.html", "--write", "kept.csv", *more],
            ["split", table, "--out", "parts", *more],
            ["plan", table, *more],
            ["run", f"{NAME}.ipynb", "--out", f"runs/{NAME}", *more],
            ["runs", "runs", "--csv", "runs.csv", *more],
            ["bench", "nothing", *more],
            ["count", f"{NAME}.mp4", "--model", "period", "--write", "csv", *more],
        ]
    )


def whole(films):
    "Whether all that the commands write is there."
    runs = json.loads((films / "runs" / NAME / "metrics.json").read_text(encoding="utf-8"))
    assert "</html>" in (films / "page" / "audit.html").read_text(encoding="utf-8") and runs == {NAME: 3}
    assert (films / "runs.csv").read_text(encoding="utf-8").count("\n") == 2 and (films / f"{NAME}.csv").stat().st_size
    assert [
        len((films / "parts" / f"{NAME}_{part}.csv").read_text(encoding="utf-8").splitlines())
        for part in ("train", "test")
    ] == [4, 2]
    assert not list(films.rglob("*.part"))
    assert eval((films / "codes").read_text()) == {
        "audit": 0,
        "split": 0,
        "plan": 0,
        "run": 0,
        "runs": 0,
        "bench": 2,
        "count": 0,
    }


def shell(films, line, argv, **env):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=films,
        timeout=120,
        capture_output=True,
        env=os.environ
        | {"PY": sys.executable, "ALL": ALL, "ARGV": argv, "PYTHONPATH": str(Path(__file__).parents[1])}
        | env,
    )


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_what_a_terminal_cannot_show_is_replaced(films, encoding):
    done = shell(films, '"$PY" -c "$ALL" "$ARGV"', commands(films), PYTHONIOENCODING=encoding)
    out = done.stdout.decode(encoding)
    assert done.returncode == 2 and b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert ("????" if encoding == "ascii" else "???é") + ".mp4: 3" in out and "4 kept, 2 rejected" in out, out
    whole(films)


@pytest.mark.slow
def test_json_is_the_same_in_every_encoding(films):
    done = shell(
        films,
        '"$PY" -c "$ALL" "$ARGV"',
        json.dumps([["count", f"{NAME}.mp4", "--model", "period", "--write", "csv", "--json"]]),
        PYTHONIOENCODING="ascii",
    )
    data = json.loads(done.stdout)
    assert done.returncode == 0 and (data["files"][0]["file"], data["files"][0]["count"]) == (f"{NAME}.mp4", 3)


@pytest.mark.parametrize(
    "line, more",
    [
        pytest.param('"$PY" -c "$ALL" "$ARGV" 2>&1 | true', [], id="nobody reads"),
        pytest.param(
            '"$PY" -c "$ALL" "$ARGV" 2>&1 | head -1', ["--json"], marks=pytest.mark.slow, id="one line is read"
        ),
        pytest.param('"$PY" -c "$ALL" "$ARGV" >&- 2>&-', [], marks=pytest.mark.slow, id="closed"),
    ],
)
def test_a_reader_that_is_gone_loses_nothing(films, line, more):
    done = shell(films, line, commands(films, *more))
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, (
        done.stderr.decode(errors="replace")
    )
    whole(films)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_stdout_is_told(films):
    done = shell(
        films, '"$PY" -c "$ALL" "$ARGV" > /dev/full', json.dumps([["audit", f"{NAME}.csv", "--html", "audit.html"]])
    )
    assert done.returncode == 1 and b"No space left on device" in done.stderr and b"Traceback" not in done.stderr
    assert "</html>" in (films / "audit.html").read_text(encoding="utf-8")


def test_a_file_is_whole_or_what_it_was(tmp_path):
    target = tmp_path / "result.json"
    script = f"""
import os, signal
from actrep_nb.show import write_whole
def killed(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_whole({str(target)!r}, "all of it")
write_whole({str(target)!r}, killed)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert target.read_text() == "all of it"
    with pytest.raises(ZeroDivisionError):
        write_whole(target, lambda file: file.write(b"half") / 0)
    assert target.read_text() == "all of it"


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path):
    "Errors of libraries that know neither file nor reason, too: torch's, safetensors', numpy's and FFmpeg's."
    import numpy as np
    import torch
    from safetensors.torch import save_file

    weights = {"w": torch.zeros(1_000_000)}
    with small_disk(tmp_path / "disk", "2m") as disk:
        write_whole(disk / "old.json", "all of it")
        (folder := disk / "checkpoint").mkdir()
        (folder / "weights").write_text("old")
        tries = {
            disk / "old.json": lambda: write_whole(disk / "old.json", b"x" * 10**7),
            disk / "poses.npz": lambda: write_whole(disk / "poses.npz", lambda file: np.savez(file, x=np.zeros(10**6))),
            disk / "film.mp4": lambda: write_video(
                disk / "film.mp4", np.random.default_rng(0).integers(0, 255, (100, 128, 128, 3), np.uint8), 8, crf=0
            ),
        }

        def folder_of(save):
            with whole_folder(folder) as part:
                save(weights, part / "weights")

        for n, save in enumerate((save_file, torch.save)):
            tries[(folder, n)] = lambda save=save: folder_of(save)
        for target, write in tries.items():
            target = target if isinstance(target, Path) else target[0]
            with pytest.raises(OSError, match="make room there, or name another place") as told:
                write()
            assert told.value.errno in (errno.ENOSPC, errno.EFBIG) and told.value.filename == str(target)
        assert (
            (disk / "old.json").read_text() == "all of it"
            and (folder / "weights").read_text() == "old"
            and sorted(p.name for p in disk.iterdir()) == ["checkpoint", "old.json"]
        )
        with pytest.raises(OSError, match="rows.jsonl"):
            for k in range(10**4):
                append_line(disk / "rows.jsonl", {"k": k, "text": "x" * 1000})
        (disk / "old.json").unlink()
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_is_only_read_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    write_whole(tmp_path / "out/results.json", "old")
    with only_read(tmp_path / "out") as arranged:
        if not arranged:
            pytest.skip("nothing keeps this user from writing here")
        for write in (
            lambda: write_whole(tmp_path / "out/results.json", "new"),
            lambda: append_line(tmp_path / "out/results.json", {}),
            lambda: write_whole(tmp_path / "out/deep/results.json", "new"),
        ):
            with pytest.raises(OSError, match="name a place that can be written to.*results.json"):
                write()
    assert (tmp_path / "out/results.json").read_text() == "old"


def test_a_killed_writer_of_a_folder_leaves_the_old_one_and_the_next_clears_up(tmp_path):
    target = tmp_path / "checkpoint"
    script = f"""
import os, signal
from actrep_nb.show import whole_folder
with whole_folder({str(target)!r}) as part: (part / "weights").write_text("all of it")
with whole_folder({str(target)!r}) as part:
    (part / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert (target / "weights").read_text() == "all of it" and len(list(tmp_path.glob(".*.part"))) == 1
    with whole_folder(target) as part:
        (part / "weights").write_text("new")
        with whole_folder(target) as other:
            (other / "weights").write_text("twice at once")
        assert part.exists(), "it is held by a process that lives"
    assert (target / "weights").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    target.rename(tmp_path / ".checkpoint.0123456789abcdef.old")  # killed between the two renames
    with pytest.raises(ZeroDivisionError), whole_folder(target) as part:
        (part / "weights").write_text(str(1 / 0))
    assert (target / "weights").read_text() == "new"


MAKES = {
    "write_text",
    "write_bytes",
    "to_csv",
    "to_parquet",
    "to_json",
    "to_excel",
    "savefig",
    "save_pretrained",
    "savez",
    "savez_compressed",
    "tofile",
    "save_file",
    "copy2",
    "copyfile",
    "copytree",
    "copy_file",
    "symlink_to",
}
BY_MODULE = {
    ("os", "replace"),
    ("os", "rename"),
    ("np", "save"),
    ("torch", "save"),
    ("json", "dump"),
    ("yaml", "dump"),
    ("pickle", "dump"),
    ("shutil", "move"),
    ("shutil", "copy"),
}
ELSEWHERE = {  # what does not go through `show`, and why
    "00_show": {
        "os.replace(",
        "os.rename(",
        'open(part, "wb")',
        'open(path, "a+b")',
    },  # it is what the others go through
    "15a_spmd": {
        'open(client.log_path, "wb")',
        'Path(folder, "kernel.json").write_text(',
    },  # what a kernel says while it runs; what Jupyter copies
    "15c_api": {'open(self.folder / ".lock", "a+b")'},
    "16_runs": {'open(path, "a+"', 'open(file.with_name("process.log"), "wb")'},  # locks; what a process says
    "18_cli": {"open(os.devnull", "os.replace(fresh, path)"},
}  # a part of a split, written whole beside it


def writes(call: ast.Call) -> bool:
    "Whether a call makes or changes a file."
    f, module = call.func, getattr(getattr(call.func, "value", None), "id", "")
    name = getattr(f, "attr", None) or getattr(f, "id", "")
    if name != "open":
        return name in MAKES and bool(call.args) or (module, name) in BY_MODULE
    modes = [
        a.value
        for a in [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
        if isinstance(a, ast.Constant) and isinstance(a.value, str)
    ]
    return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


def unwhole(source: str, chapter: str) -> list[str]:
    """What a cell writes by itself: neither into the neighbour that `show` gave it, nor into memory or an open file,
    nor known.
    """
    tree = ast.parse(
        "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    )
    calls = [
        ast.get_source_segment(source, node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and writes(node)
    ]
    return [
        call
        for call in calls
        if not re.search(r"\(\s*(part|str\(part\)|file|picture)\b", call)
        and not any(known in call for known in ELSEWHERE.get(chapter, ()))
    ]


def test_no_chapter_and_no_experiment_opens_a_result_to_write_by_itself():
    root, found, known = Path(__file__).parents[1] / "nbs", [], "\n"
    for path in [*sorted(root.glob("[0-9]*.ipynb")), *sorted((root / "experiments").glob("*.ipynb"))]:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code" or not (
                cell.source.startswith("#| export") or path.parent.name == "experiments"
            ):
                continue
            known += f"{path.stem}: {cell.source}\n"
            found += [f"{path.name}: {call}" for call in unwhole(cell.source, path.stem)]
    assert found == []
    assert [what for chapter, some in ELSEWHERE.items() for what in some if what not in known] == [], (
        "no longer there: take it out of the list"
    )


@pytest.mark.parametrize(
    "source",
    [
        "Path(out, 'a').write_text('x')",
        "open('x', 'w')",
        "open('x', mode='ab')",
        "path.open('a')",
        "np.save(path, x)",
        "os.replace(a, b)",
        "figure.savefig(path)",
        "table.to_csv(path)",
        "model.save_pretrained(out)",
        "av.open(p, 'w')",
    ],
)
def test_what_writes_by_itself_is_found(source):
    assert unwhole(source, "99_new") == [source] and unwhole(
        f"table.to_csv(index=False), open('clips.csv'), path.open('rb')\n{source}", "99_new"
    ) == [source]
