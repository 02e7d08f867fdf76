"""The rules of the house: what holds for all chapters, experiments and files, whoever wrote them."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest

root = Path(__file__).parents[1]
sys.path.insert(0, str(root / "tools"))

chapters = sorted((root / "nbs").glob("[0-9][0-9]*_*.ipynb"))
experiments = sorted((root / "nbs/experiments").glob("*.ipynb"))
tutorials = sorted((root / "nbs/tutorials").glob("*.ipynb"))
names = {"ids": lambda p: p.stem}


@cache
def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code(path: Path) -> list[str]:
    "The code cells of a notebook, without lines that are not Python."
    sources = ["".join(c["source"]) for c in cells(path) if c["cell_type"] == "code"]
    return [re.sub(r"^[ \t]*[%!].*$", "", s, flags=re.M) for s in sources if not s.lstrip().startswith("%%")]


def module(path: Path) -> str:
    "The module a chapter exports."
    found = [m[1] for s in code(path) if (m := re.search(r"^#\|\s*default_exp:?\s+(\S+)", s, re.M))]
    assert len(found) == 1, f"{path.name}: one `#| default_exp`, not {len(found)}"
    return found[0]


def imported(sources: list[str]) -> set[str]:
    "Modules that these sources import, dotted, wherever the import stands."
    result: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                result |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = (
                    "actrep_nb." + (node.module or "") if node.level else node.module or ""
                )  # nbdev writes relative imports
                result |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return result


# ---- chapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", chapters, **names)
def test_no_chapter_imports_itself_or_a_later_one(path):
    order = {f"actrep_nb.{module(p)}": i for i, p in enumerate(chapters)}
    here = order[f"actrep_nb.{module(path)}"]
    later = {m for m in imported(code(path)) if order.get(m, -1) >= here}
    assert not later, f"{path.name} imports {sorted(later)}"


@pytest.mark.parametrize("path", chapters, **names)
def test_a_chapter_opens_with_title_and_promise_and_does_not_export_itself(path):
    first = "".join(cells(path)[0]["source"])
    assert cells(path)[0]["cell_type"] == "markdown" and re.match(r"# \S.*\n+> \S", first), (
        f"{path.name} opens with {first[:60]!r}"
    )
    assert not any("nbdev_export()" in s for s in code(path))


@pytest.mark.parametrize("path", chapters + experiments + tutorials, **names)
def test_no_refusal_is_tested_in_vain(path):
    "fastcore's expect_fail is a context manager: as a call of its own it runs nothing."
    for source in code(path):
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Call)
                and getattr(node.value.func, "id", "") == "expect_fail"
            ):
                pytest.fail(f"{path.name}: write `with expect_fail(...):` instead of `{ast.unparse(node)}`")


def table_rows(name: str) -> list[list[str]]:
    "The rows of all tables of a notebook, cell by cell."
    text = "\n".join("".join(c["source"]) for c in cells(root / f"nbs/{name}.ipynb"))
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_glossary_defines_each_word_once_and_says_where_it_comes_from():
    rows = [row for row in table_rows("glossary") if row[0] != "term"]
    terms = [row[0] for row in rows]
    assert terms == sorted(set(terms), key=str.lower) and all(len(row) == 4 for row in rows)
    assert [t for t, says, *_ in rows if not says.endswith((".", ".)"))] == []
    links = {m for row in rows for m in re.findall(r"\]\(([^)]+)\)", row[3])}
    assert links <= {p.name for p in chapters}
    standard = """completion answer rollout group reward advantage penalty policy reference ratio clipping KL M-RoPE
    count cycle OBO exact MAE RCS SFT CoT GRPO""".split()
    assert {*standard, "updates per rollout", "temporal patch"} - {*terms} == set()


def names_of(path: Path) -> set[str]:
    "What a chapter's exported cells define."
    found: set[str] = set()
    for node in (node for source in exported(path) for node in ast.parse(source).body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            found |= {target.id} if isinstance(target, ast.Name) else set()
    return found


def test_every_function_of_the_paper_to_code_map_is_where_it_says():
    links = [m for row in table_rows("papers") for cell in row for m in re.findall(r"\[`(\w+)`\]\(([^)]+)\)", cell)]
    there = {name: names_of(root / "nbs" / name) if (root / "nbs" / name).exists() else set() for _, name in links}
    assert len(links) > 50 and [f"{name} in {page}" for name, page in links if name not in there[page]] == []


def exported(path: Path) -> list[str]:
    "The cells of a chapter that become the module."
    return [s for s in code(path) if re.search(r"^#\|\s*exports?\b", s, re.M)]


def test_no_exported_cell_is_longer_than_a_screen():
    long = [
        f"{path.name}: {len(source.splitlines())} lines from {source.strip().splitlines()[1]!r}"
        for path in chapters
        for source in exported(path)
        if len(source.strip().splitlines()) > 60
    ]
    assert not long, "exported cells of more than 60 lines:\n" + "\n".join(long)


def test_no_module_is_a_book_of_its_own():
    lines = {
        p.name: len(p.read_text(encoding="utf-8").splitlines())
        for p in (root / "actrep_nb").glob("*.py")
        if p.name != "_modidx.py"
    }
    total = sum(lines.values())
    large = {name: f"{n} of {total} lines, {n / total:.1%}" for name, n in lines.items() if n > 0.08 * total}
    assert not large, f"modules of more than 8 % of the package: {large}"


retired = re.compile(r"(?:^|_)(?:practices?|practised?|pull|pulls|sisters?|charges?)(?:_|$)")
judges = {"evaluate", "metrics", "tasks", "cards", "failures"}  # where predictions are judged


def test_retired_words_are_in_no_exported_name():
    "Words that the field does not use (`practice` is RL training), and `judge` for anything but predictions."
    found = []
    for path in chapters:
        here = module(path)
        for source in exported(path):
            for node in ast.walk(ast.parse(source)):
                if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    continue
                words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name).lower()
                private = node.name.startswith("_")
                if retired.search(words) or (
                    not private and here not in judges and re.search(r"(?:^|_)judg(?:e|es|ed|ing)(?:_|$)", words)
                ):
                    found.append(f"{path.name}: {node.name}")
    assert not found, f"retired words in names: {found}"


def test_the_index_lists_every_chapter():
    text = (root / "nbs/index.ipynb").read_text(encoding="utf-8")
    assert [p.name for p in chapters if f"({p.name})" not in text] == []


# ---- experiments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", experiments, **names)
def test_an_experiment_has_one_parameters_cell_of_typed_literals(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{path.name}: {len(tagged)} cells tagged `parameters`"
    source = "".join(tagged[0]["source"])
    for line in filter(str.strip, source.splitlines()):
        if line.startswith("#"):
            continue
        assert re.fullmatch(r"\w+\s*: ?[^=]+ = .+?\s+# \S.*", line), (
            f"{path.name}: not `name: type = literal  # help`: {line!r}"
        )
        statement = ast.parse(line).body[0]
        assert isinstance(statement, ast.AnnAssign) and statement.value is not None
        ast.literal_eval(statement.value)


@pytest.mark.parametrize("path", experiments, **names)
def test_an_experiment_exports_nothing(path):
    assert not any(re.search(r"^#\|\s*(export|default_exp)", s, re.M) or "nbdev_export" in s for s in code(path))


# ---- files ---------------------------------------------------------------------------------------------------------


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [p for name in done.stdout.split("\0") if name and (p := root / name).is_file()]


def text_of(path: Path) -> str:
    "A file's text without embedded pictures; empty for binary files."
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
    return re.sub(r'"image/(png|jpeg|webp)": *"[^"]*"|data:[\w/+-]+;base64,[A-Za-z0-9+/=]+', "", text)


def test_no_machine_paths_or_package_hosts():
    machine = r"(?<![\w.~])/(?:work|root|opt|mnt|home/\w+|Users/\w+|tmp/\w+)/[\w.]"
    hosts = r"file://" + r"/\w|(?:index|find)-(?:url|links)|pythonhosted|/simple\b"
    found = [
        f"{p.relative_to(root)}: {m[0]!r}"
        for p in tracked()
        if p != Path(__file__).resolve()
        for m in re.finditer(f"{machine}|{hosts}", text_of(p))
    ]
    assert found == []


@pytest.mark.parametrize("path", chapters + experiments + tutorials, **names)
def test_a_notebook_stays_small(path):
    assert path.stat().st_size <= 600 * 1024, (
        f"{path.name} has {path.stat().st_size // 1024} KB; pictures at 100 dpi and short outputs keep it under 600"
    )


@pytest.mark.parametrize("path", chapters + experiments + tutorials, **names)
def test_every_figure_says_in_words_what_it_shows(path):
    for cell in cells(path):
        source = "".join(cell["source"])
        pictures = [o for o in cell.get("outputs", []) if any(k.startswith("image/") for k in o.get("data", {}))]
        if pictures and not re.search(r"^#\|\s*(?:hide\b(?!_)|fig-alt:\s*\S)", source, re.M):
            pytest.fail(f"{path.name}: no `#| fig-alt: …` above {source[:60]!r}")


# ---- the package ---------------------------------------------------------------------------------------------------

heavy = {
    "torch",
    "transformers",
    "matplotlib",
    "pandas",
    "scipy",
    "seaborn",
    "papermill",
    "av",
    "accelerate",
    "nbformat",
}


def loaded_after(statement: str) -> set[str]:
    "Top-level packages in memory after a statement in a fresh interpreter."
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print(*{{m.partition('.')[0] for m in sys.modules}})"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing():
    assert not loaded_after("import actrep_nb") & {*heavy, "numpy", "typer"}


def test_the_command_line_starts_without_heavy_imports():
    if not (root / "actrep_nb/cli.py").exists():
        pytest.skip("chapter 18 is not written yet")
    assert not loaded_after("import actrep_nb.cli") & heavy


@pytest.mark.parametrize("name", ["records", "answers", "rewards", "metrics", "cot", "tasks", "sampling"])
def test_chapters_of_pure_values_need_numpy_at_most(name):
    if not (root / f"actrep_nb/{name}.py").exists():
        pytest.skip(f"{name} is not written yet")
    assert not loaded_after(f"import actrep_nb.{name}") & heavy


def test_settings_name_every_package_that_the_chapters_import():
    import lock

    distributions = {r.name.lower().replace("-", "_") for r in lock.requirements("api", "slurm", "vllm", "pose")}
    provided = {
        "PIL": "pillow",
        "google": "google_genai",
        "IPython": "ipython",
        "qwen_vl_utils": "qwen_vl_utils",
        "yaml": "pyyaml",
        "zmq": "pyzmq",
    }
    optional = {
        "torchcodec",
        "trl",
        "datasets",
    }  # a reader by choice, named by `actrep doctor`; whom `actrep bench grpo --trl` measures against
    used = {
        m.partition(".")[0] for p in chapters for m in imported([(root / "actrep_nb" / f"{module(p)}.py").read_text()])
    }
    third_party = used - set(sys.stdlib_module_names) - {"actrep_nb", ""} - optional
    assert {m for m in third_party if provided.get(m, m).lower() not in distributions} == set()


def test_lock_covers_settings():
    import lock

    assert lock.check() == []


def test_lock_holds_exact_public_versions_only():
    import lock

    assert [
        line
        for line in lock.read_lock()
        if not re.fullmatch(r'[\w.-]+==[\d.]+(?:(?:rc|a|b|\.post)\d+)?(?: ; [\w ="\'.<>()]+)?', line)
    ] == []


def test_version_has_one_home():
    import actrep_nb

    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini")
    assert "version" not in config["DEFAULT"] and re.fullmatch(r"\d+\.\d+\.\d+", actrep_nb.__version__)


def test_a_wheel_carries_what_the_commands_need(tmp_path):
    "Built from what git knows, unpacked, and asked from an empty folder."
    pytest.importorskip("setuptools")
    for path in tracked():
        target = tmp_path / "source" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            ".",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-q",
            "-w",
            str(tmp_path),
        ],
        cwd=tmp_path / "source",
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 20e6
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
        held = {Path(name).relative_to("actrep_nb") for name in file.namelist() if name.startswith("actrep_nb/")}
    book = [
        p.relative_to(root)
        for p in tracked()
        if not p.name.startswith(".")
        and (p.is_relative_to(root / "data") or p.is_relative_to(root / "nbs/experiments"))
    ]
    assert len(book) > 15 and not [p for p in book if p not in held]
    (tmp_path / "empty").mkdir()
    ask = (
        "from actrep_nb import runs, counters; print(runs.find_notebook('sft'), "
        "counters.find_checkpoint('tiny_base'), counters.find_checkpoint('data/tiny_film'), sep='\\n')"
    )
    told = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert [Path(line).relative_to(tmp_path / "site/actrep_nb").as_posix() for line in told.stdout.splitlines()] == [
        "nbs/experiments/03_sft.ipynb",
        "data/tiny_base",
        "data/tiny_film",
    ], told.stderr


def test_every_locked_package_installs_on_the_oldest_python():
    "A lock that was made on 3.11.7 took packages that refuse 3.11.2, which is what Debian 12 has."
    from importlib.metadata import PackageNotFoundError, metadata

    from packaging.specifiers import SpecifierSet

    names, oldest, refused = re.findall(r"^([\w.-]+)==", (root / "requirements.lock").read_text(), re.M), "3.11.0", {}
    for name in names:
        try:
            asks = metadata(name).get("Requires-Python")
        except PackageNotFoundError:
            continue  # not for this system
        if asks and not SpecifierSet(asks).contains(oldest):
            refused[name] = asks
    assert len(names) > 100 and not refused, refused


def test_the_tests_that_hold_what_comes_of_faults_are_there():
    "Names in benchmarks/faults_held.md."
    named = set(re.findall(r"\btest_\w+", (root / "benchmarks/faults_held.md").read_text(encoding="utf-8")))
    files = {p.stem: p.read_text(encoding="utf-8") for p in (root / "tests").glob("test_*.py")}
    defined = {name for text in files.values() for name in re.findall(r"^\s*def (test_\w+)", text, re.M)}
    assert len(named) > 50 and named - defined - files.keys() == set()
