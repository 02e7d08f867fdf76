"""lmms-eval: a task that stands alone, logs as it writes them, scores that are equal.

The real one runs where LMMS_EVAL names a Python that has it.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from actrep_nb.cli import main
from actrep_nb.evaluate import judge, load_predictions
from actrep_nb.lmms import (
    SCORED,
    find_log,
    load_samples,
    load_scores,
    save_samples,
    side_by_side,
    task_utils,
    write_task,
)
from actrep_nb.metrics import under_protocol
from actrep_nb.formats import load_clips, save_clips
from actrep_nb.records import Clip, Prediction
from actrep_nb.synth import make_dataset
from actrep_nb.tasks import TASKS

ROOT = Path(__file__).parents[1]
LMMS_EVAL = os.environ.get("LMMS_EVAL", "")
REAL = [
    "doc_id",
    "target",
    "filtered_resps",
    "token_counts",
    "doc_hash",
    "exact",
    "obo",
    "mae",
    "abs_mae",
    "input",
]  # keys of a line, as lmms-eval 0.7.3 wrote them


@pytest.fixture
def clips(tmp_path):
    "Files that are there, of which nothing is read; one accepts several counts."
    (tmp_path / "videos").mkdir()
    for k in range(6):
        (tmp_path / "videos" / f"c {k}.mp4").write_bytes(b"-")
    return [
        Clip(str(tmp_path / "videos" / f"c {k}.mp4"), "squat", k, extra={"accepted": [k, k + 3]} if k == 2 else {})
        for k in range(6)
    ]


def answers(clips, seed):
    rng = random.Random(seed)
    forms = [
        "<think>a</think><answer>{}</answer>",
        "<answer>{} reps</answer>",
        "{}",
        "",
        "<think>{}",
        "<answer>{}",
        "<think>a <answer>1</answer></think><answer>{}</answer>",
        "so</think><answer>{}</answer>",
        "<answer>{}</answer><answer>9</answer>",
    ]
    return [rng.choice(forms).format(max(0, c.count + rng.randint(-2, 3))) for c in clips]


def test_a_task_folder_is_what_lmms_eval_reads(clips, tmp_path):
    file = write_task(clips, tmp_path / "tasks", "mine", max_new_tokens=77)

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.load(file.read_text(), Loader)
    assert (
        file.name == "mine.yaml"
        and task["task"] == "mine"
        and task["generation_kwargs"] == {"max_new_tokens": 77, "temperature": 0, "do_sample": False}
        and task["reasoning_tags"] == "none"
    )
    assert [m["metric"] for m in task["metric_list"]] == list(SCORED) and {
        m["aggregation"] for m in task["metric_list"]
    } == {"utils.mean_score"}
    functions = {
        task[k].removeprefix("utils.") for k in ("doc_to_visual", "doc_to_text", "doc_to_target", "process_results")
    }
    docs = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    probe = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import utils; doc = json.loads(sys.argv[2]); "
        "print(json.dumps([utils.doc_to_visual(doc), utils.doc_to_text(doc, {'post_prompt': '!'}), "
        "utils.doc_to_target(doc), 'actrep_nb' in sys.modules]))"
    )
    said = json.loads(
        subprocess.run(
            [sys.executable, "-I", "-c", probe, str(file.parent), json.dumps(docs[2])],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert (
        said == [[clips[2].video], TASKS["counting"].ask(clips[2]) + "!", "2", False]
        and len(docs) == 6
        and docs[2]["accepted"] == [2, 5]
    )
    assert functions <= {
        line.split("(")[0].removeprefix("def ")
        for line in (file.parent / "utils.py").read_text().splitlines()
        if line.startswith("def ")
    }


@pytest.mark.parametrize("seed", range(40))
def test_the_task_scores_as_we_do(clips, seed):
    theirs: dict = {}
    exec(task_utils(), theirs)
    texts, task = answers(clips, seed), TASKS["counting"]
    docs = [{"id": c.id, "count": c.count, "accepted": c.extra.get("accepted", [c.count])} for c in clips]
    scored = [theirs["process_results"](doc, [text]) for doc, text in zip(docs, texts)]
    judged = judge({"us": [task.predict(c, t) for c, t in zip(clips, texts)]}, clips).models["us"]
    assert {m: theirs["mean_score"]([s[m] for s in scored]) for m in SCORED} == pytest.approx(
        {m: judged[m]["value"] for m in SCORED}, abs=1e-12
    )


def test_logs_are_written_and_read_back(clips, tmp_path):
    texts = answers(clips, 1)
    said = [TASKS["counting"].predict(c, t) for c, t in zip(clips, texts)]
    log = save_samples(said, clips, tmp_path / "logs", "runs/mine/sft", stamp="20261128_120000")
    assert log.parent.name == "mine__sft" and log.name == "20261128_120000_samples_actrep_count.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(list(row) == REAL for row in rows) and [row["target"] for row in rows] == [str(c.count) for c in clips]
    assert load_samples(tmp_path / "logs", clips) == said and load_samples(log, clips[::-1]) == said[::-1]
    assert all(
        row["lmms-eval"] == pytest.approx(row["ours"], abs=1e-12) for row in side_by_side(log, clips).values()
    ) and set(load_scores(log)) == set(SCORED)
    results = json.loads(log.with_name("20261128_120000_results.json").read_text())
    results["results"]["actrep_count"]["exact,none"] += 0.25
    log.with_name("20261128_120000_results.json").write_text(json.dumps(results))
    both = side_by_side(log, clips)["exact"]
    assert both["lmms-eval"] == both["ours"] + 0.25
    log.with_name("20261128_120000_results.json").unlink()
    with pytest.raises(FileNotFoundError, match="beside its samples"):
        load_scores(log)


def test_what_the_real_one_wrote(tmp_path):
    "Its form with the reasoning cut out (resps beside), with lists, with another task's flat scores, cut short."
    text = "<think>Reps: rep1: 1.0s-2.5s.</think><answer>4</answer>"
    rows = [
        {
            "doc_id": 1,
            "target": "4",
            "resps": text,
            "filtered_resps": "<answer>4</answer>",
            "token_counts": [{"output_tokens": 9}],
            "doc_hash": "74",
            "mae_norm": 0.0,
            "obo": 1.0,
            "input": "How",
        },
        {
            "doc_id": 0,
            "target": "7",
            "resps": [["<answer>6</answer>"]],
            "filtered_resps": ["<answer>6</answer>"],
            "doc_hash": "74",
            "mae_norm": 0.1,
            "obo": 1.0,
            "input": "How",
        },
    ]
    clips = [Clip("a.mp4", "", 7), Clip("b.mp4", "", 4), Clip("c.mp4", "", 1)]
    (tmp_path / "m").mkdir()
    for stamp, some in (("20260101_000000", rows[:1]), ("20260102_000000", rows)):
        (tmp_path / "m" / f"{stamp}_samples_repcount.jsonl").write_text("\n".join(json.dumps(r) for r in some) + "\n")
    said = load_samples(tmp_path, clips)
    assert (
        find_log(tmp_path).name.startswith("20260102")
        and [p.count for p in said] == [6, 4, None]
        and said[1].cycles == ((1.0, 2.5),)
        and said[2].problems == ("unanswered: not in the log",)
    )
    with pytest.raises(ValueError, match="line 1: the target is '4', that of clip 'a' is 7"):
        load_samples(tmp_path, [clips[1], clips[0]])
    (tmp_path / "twice.jsonl").write_text(
        "\n".join(json.dumps(r) for r in (rows[0], rows[0] | {"resps": "<answer>5</answer>"}))
    )
    with pytest.raises(ValueError, match="line 2: a second answer about clip 'b'"):
        load_samples(tmp_path / "twice.jsonl", clips)


def test_the_three_commands(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_clips(clips, "clips.csv", videos="videos")
    assert main(["lmms-eval", "write", "clips.csv", "--out", "tasks", "--limit", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 5 and (tmp_path / "tasks/actrep_count/utils.py").exists()
    said = [Prediction(c.id, c.count + k % 2) for k, c in enumerate(clips)]
    judge({"period": said}, clips).save("judged")
    assert (
        main(["lmms-eval", "export", "judged", "clips.csv", "--out", "logs"]) == 0
        and "6 answers" in capsys.readouterr().out
    )
    assert main(["lmms-eval", "read", "logs", "clips.csv", "--out", "again", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["scores"]["exact"] == {"lmms-eval": 0.5, "ours": 0.5} and [
        p.count for p in load_predictions("again")["period"]
    ] == [p.count for p in said]
    results = next(Path("logs/period").glob("*_results.json"))
    results.write_text(results.read_text().replace('"exact,none": 0.5', '"exact,none": 0.6'))
    assert (
        main(["lmms-eval", "read", "logs", "clips.csv"]) == 1
        and "exact: lmms-eval says 0.6, we say 0.5" in capsys.readouterr().err
    )
    assert main(["lmms-eval", "read", "nowhere", "clips.csv"]) == 1 and main(["lmms-eval", "write", "clips.csv"]) == 2
    for name in ("write", "read", "export"):
        capsys.readouterr()
        assert (
            main(["lmms-eval", name, "--help"]) == 0
            and f"actrep lmms-eval {name}" in (text := capsys.readouterr().out).split("Examples:")[1]
            and "--json" in text
        )


@pytest.mark.slow
@pytest.mark.skipif(not LMMS_EVAL, reason="LMMS_EVAL names no python with lmms-eval 0.7.3 (benchmarks/lmms.md)")
def test_the_real_lmms_eval_scores_the_same(tmp_path):
    """Its fixed-answer model and its Qwen2.5-VL class, on the tiny checkpoint or the one that LMMS_CHECKPOINT names,
    over 40 drawn clips.
    """
    clips = load_clips(make_dataset(tmp_path, 40, seed=16, name="lmms"), videos=tmp_path / "videos").kept
    write_task(clips, tmp_path / "tasks", max_new_tokens=256)
    model = os.environ.get("LMMS_CHECKPOINT", str(ROOT / "data/tiny_base"))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
        "FORCE_QWENVL_VIDEO_READER": "decord",
    }
    for name, settings in (
        ("dummy", "response=<answer>3</answer>"),
        (
            "qwen2_5_vl",
            f"pretrained={model},device=cpu,device_map=cpu,fps=4,min_pixels=3136,max_pixels=3136,max_num_frames=64",
        ),
    ):
        subprocess.run(
            [
                LMMS_EVAL,
                "-m",
                "lmms_eval",
                "--model",
                name,
                "--model_args",
                settings,
                "--tasks",
                "actrep_count",
                "--include_path",
                str(tmp_path / "tasks"),
                "--batch_size",
                "1",
                "--log_samples",
                "--output_path",
                str(tmp_path / name),
            ],
            env=env,
            check=True,
            timeout=900,
            cwd=tmp_path,
        )
        said, both = load_samples(tmp_path / name, clips), side_by_side(tmp_path / name, clips)
        assert not any("unanswered" in problem for p in said for problem in p.problems) and set(both) == set(SCORED)
        judged = judge({"theirs": said}, clips).models["theirs"]
        for metric, row in both.items():
            assert row["lmms-eval"] == pytest.approx(judged[metric]["value"], abs=1e-12), metric
        assert name != "dummy" or both["exact"]["ours"] == sum(c.count == 3 for c in clips) / 40 > 0


THEIRS = """
import json, sys
from lmms_eval.tasks.pushupbench import utils as u
out = []
for docs, texts in json.load(sys.stdin):
    scored = [u.pushupbench_process_results({"count": counts, "video_path": "x"}, [text])
              for counts, text in zip(docs, texts)]
    out.append({"exact": u.pushupbench_aggregate_exact_match([s["exact_match"] for s in scored]),
                "mae": u.pushupbench_aggregate_mae([s["mae"] for s in scored]),
                "obo": u.pushupbench_aggregate_obo([s["obo"] for s in scored]),
                "r2": u.pushupbench_aggregate_r_squared([s["r_squared"] for s in scored])})
print(json.dumps(out))
"""


@pytest.mark.slow
@pytest.mark.skipif(not LMMS_EVAL, reason="LMMS_EVAL names no python with lmms-eval 0.7.3 (benchmarks/lmms.md)")
def test_pushupbenchs_own_code_says_the_same(tmp_path):
    rng = random.Random(3)
    forms = [
        "{}",
        "\\boxed{{{}}} of 9",
        "{}.5",
        "<think>3</think> {}",
        "</think>",
        "-{}",
        "1,{}00",
        "a{}b",
        "Twenty",
        "none",
        "",
        "rep 1 … {}",
        "<answer>{} reps</answer>",
        "²",
        "٣",
        "{}e3",
    ]
    cases = []
    for _ in range(120):
        docs = [[rng.randint(0, 80), *rng.sample(range(90), rng.randint(0, 2))] for _ in range(rng.choice([1, 2, 30]))]
        cases.append((docs, [rng.choice(forms).format(max(0, d[0] + rng.choice([-1, 0, 0, 1, 2, 70]))) for d in docs]))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    said = subprocess.run(
        [LMMS_EVAL, "-c", THEIRS],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=env,
        check=True,
        timeout=300,
    ).stdout
    for (docs, texts), theirs in zip(cases, json.loads(said.splitlines()[-1]), strict=True):
        clips = [Clip(f"{i}.mp4", "", d[0], extra={"accepted": d}) for i, d in enumerate(docs)]
        ours = under_protocol([Prediction(c.id, None, text=t) for c, t in zip(clips, texts)], clips, "PushupBench")
        assert {
            "exact": 100 * ours["exact"],
            "mae": ours["mae"],
            "obo": 100 * ours["obo"],
            "r2": ours["r2"],
        } == pytest.approx(theirs, abs=1e-9), texts
