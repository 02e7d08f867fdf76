"A file outside of the package adds to its lists, and every process knows what it added."

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from actrep_nb.runs import load_run

root = Path(__file__).parents[1]

PLUGIN = '''
from dataclasses import replace

from actrep_nb.baselines import COUNTERS
from actrep_nb.records import Prediction
from actrep_nb.families import FAMILIES
from actrep_nb.formats import FORMATS, Format, Row
from actrep_nb.rewards import REWARDS


def brevity(completions, clips, **context):
    return [1 / (1 + len(text)) for text in completions]


class Seven:
    def predict(self, clips, progress=True):
        return [Prediction(clip.id, 7, None, ()) for clip in clips]


REWARDS["brevity"] = brevity
COUNTERS["seven"] = Seven
FORMATS["gym"] = Format(
    "gym",
    "columns movie, move and n",
    lambda row: {"movie", "move", "n"} <= set(row),
    lambda row: Row(row["movie"], row["move"], row["n"]),
)
FAMILIES["my_vl"] = replace(
    FAMILIES["qwen2_5_vl"],
    frames=replace(FAMILIES["qwen2_5_vl"].frames, token=56),
    published={"me/my-4B": {"text_config": {}}},
)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with a plugin, a table in its format, and a notebook that asks for its reward."
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN)
    Path("gym.csv").write_text("movie,move,n\na.mp4,squat,3\nb.mp4,squat,x\n")
    Path("clips.csv").write_text("file,action,count,duration\na.mp4,squat,3,10\n")
    cells = [
        nbformat.v4.new_code_cell("n: int = 1  # a number", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import os\n"
            "from actrep_nb.rewards import REWARDS\n"
            "from actrep_nb.show import glue\n"
            "value = REWARDS['brevity'](['abc'], [None])[0]\n"
            "glue('value', value)\n"
            "print(os.environ.get('RANK', '0'), value)"
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), "asks.ipynb")
    return tmp_path


def actrep(*args, code=0, **env):
    "A command in a fresh process; what it said on both streams."
    done = subprocess.run(
        [sys.executable, "-m", "actrep_nb.cli", *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(root)} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_format_of_a_plugin_is_audited(here):
    assert "2 rows, 1 kept, 1 rejected" in (said := actrep("audit", "gym.csv", "--plugin", "mine.py"))
    assert said.startswith("plugin mine: ")
    assert "2 rows" not in actrep("audit", "gym.csv", code=1)
    told = json.loads(actrep("audit", "gym.csv", "--json", ACTREP_PLUGINS="mine.py").partition("\n")[0])
    assert told["kept"] == 1 and told["plugins"][0]["name"] == "mine"


def test_a_module_is_a_plugin_too_and_a_package_counts_whole(here):
    Path("house").mkdir()
    Path("house/__init__.py").write_text("from . import rewards")
    Path("house/rewards.py").write_text(PLUGIN)
    assert "1 kept" in actrep("audit", "gym.csv", "--plugin", "house")
    from actrep_nb.plugins import find_plugin

    before = find_plugin("house").sha256
    Path("house/rewards.py").write_text(PLUGIN + "\n")
    assert find_plugin("house").sha256 != before
    sys.path.remove(str(here))


def test_a_family_of_a_plugin_is_planned(here):
    assert "planned for my_vl" in actrep("plan", "clips.csv", "--model", "my_vl", "--plugin", "mine.py")
    assert "my_vl" in actrep("plan", "clips.csv", "--model", "my_vl", code=2)
    assert "planned for my_vl" in actrep("plan", "clips.csv", "--model", "me/my-4B", "--plugin", "mine.py")


def test_a_counter_of_a_plugin_is_judged_and_counts(here):
    from actrep_nb.synth import draw_clip
    from actrep_nb.video import write_video

    drawn = draw_clip("squat", 1, max_seconds=3)
    write_video(here / "a.mp4", drawn.pixels, drawn.fps)
    assert "seven" in actrep("evaluate", "clips.csv", "--baseline", "seven", "--plugin", "mine.py")
    assert "seven" in actrep("evaluate", "clips.csv", "--model", "seven", "--plugin", "mine.py")
    assert "a.mp4: 7" in actrep("count", "a.mp4", "--model", "seven", "--write", "json", "--plugin", "mine.py")


def test_a_reward_of_a_plugin_is_known_to_both_ranks(here):
    actrep("run", "asks.ipynb", "--plugin", "mine.py", "--ranks", 2, "--out", "run")
    run = load_run("run")
    assert run.metrics == {"value": 0.25} and run.manifest.plugins["mine"]["path"] == str(here / "mine.py")
    second = nbformat.read("run/notebook.rank1.ipynb", 4)
    assert "1 0.25" in str(second.cells)


@pytest.mark.slow
def test_another_version_of_a_plugin_is_another_run(here):
    actrep("run", "asks.ipynb", "--plugin", "mine.py", "--out", "run")
    assert "done before" in actrep("run", "asks.ipynb", "--plugin", "mine.py", "--out", "run")
    assert "all equal" in actrep("verify", "run")  # with the plugin that the manifest names
    Path("mine.py").write_text(PLUGIN.replace("1 / (1 + len", "1 / (2 + len"))
    assert "the plugin mine" in actrep("run", "asks.ipynb", "--plugin", "mine.py", "--out", "run")
    assert "plugins" in actrep("verify", "run", "run.verify", code=1)
    (here / "run/checkpoint-1").mkdir()
    manifest = json.loads(Path("run/manifest.json").read_text())
    Path("run/manifest.json").write_text(json.dumps(manifest | {"status": "failed"}))
    Path("mine.py").write_text(PLUGIN)
    assert "the plugin mine" in actrep("run", "asks.ipynb", "--plugin", "mine.py", "--out", "run", code=2)


def test_a_sweep_hands_plugins_to_its_processes(here):
    said = actrep("sweep", "asks.ipynb", "--grid", "n=1,2", "--parallel", 2, "--plugin", "mine.py", "--out", "lr")
    assert "2 of 2 runs are done" in said
    assert load_run("lr/n=2").manifest.plugins["mine"]["sha256"]


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("x = 1\ny = 1 / 0\n", 2, "ZeroDivisionError"),
        ("def f(:\n", 1, "SyntaxError"),
        ("import nowhere\n", 1, "nowhere"),
    ],
)
def test_an_error_names_file_and_line(here, text, line, words):
    Path("wrong.py").write_text(text)
    said = actrep("run", "asks.ipynb", "--plugin", "wrong.py", "--out", "run", code=1)
    assert f"{here / 'wrong.py'}, line {line}: " in said and words in said and "Traceback" not in said
    assert not Path("run").exists()


def test_a_plugin_that_is_gone_is_told(here):
    assert "gone.py: there is no such file" in actrep("audit", "gym.csv", "--plugin", "gone.py", code=1)


def test_an_error_in_a_kernel_alone_is_told(here):
    "What fails only there: here a module that the first process has and a kernel does not."
    Path("wrong.py").write_text("import sys\nassert 'ipykernel' not in sys.modules, 'not in a kernel'\n")
    said = actrep("run", "asks.ipynb", "--plugin", "wrong.py", "--out", "run", code=1)
    assert "wrong.py, line 2: AssertionError: not in a kernel" in said


def test_installed_packages_name_theirs_by_an_entry_point(here):
    package = here / "site/gym_tools-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: gym-tools\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[actrep_nb.plugins]\ngym = gym_tools\n")
    (here / "site/gym_tools.py").write_text(PLUGIN)
    path = os.pathsep.join([str(here / "site"), str(root)])
    assert "plugin gym_tools" in actrep("audit", "gym.csv", PYTHONPATH=path)
    actrep("run", "asks.ipynb", "--out", "run", PYTHONPATH=path)
    assert load_run("run").manifest.plugins["gym_tools"]["called"] == "gym_tools"


@pytest.mark.slow
def test_grpo_trains_on_a_reward_of_a_plugin(here):
    from actrep_nb.synth import make_dataset

    make_dataset(here, 4, seed=0, name="drawn")
    (table,) = here.glob("drawn.*")
    small = "prompts 2 group_size 4 steps 1 samples 4 max_new_tokens 8 workers 0".split()
    pairs = [word for name, value in zip(small[::2], small[1::2]) for word in ("-p", name, value)]
    given = [
        "-p",
        "model",
        root / "data/tiny_base",
        "-p",
        "clips",
        table,
        "-p",
        "cache",
        "",
        "-p",
        "rewards",
        "brevity=1",
    ]
    actrep("run", "grpo", "--plugin", "mine.py", "--out", "run", *pairs, *given)
    assert 0 < load_run("run").metrics["reward"] < 1


def test_a_file_that_is_no_python_is_refused(here):
    Path("wrong.csv").write_text("clip,reps\n")
    said = actrep("audit", "gym.csv", "--plugin", "wrong.csv", code=1)
    assert "wrong.csv: a plugin is a Python file, whose name ends in .py" in said
