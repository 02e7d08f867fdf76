"""Cards: what they say was written down somewhere, their code runs, and nobody's page is overwritten."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import DatasetCard, ModelCard

from actrep_nb.cards import MARK, lineage, model_card, write_card
from actrep_nb.cli import main
from actrep_nb.formats import load_clips
from actrep_nb.records import Prediction
from actrep_nb.evaluate import judge
from actrep_nb.runs import Manifest, code_state, hash_path, load_run, run, shipped
from actrep_nb.synth import draw_clip, make_dataset
from actrep_nb.video import write_video


def manifest(notebook, parameters, data):
    return Manifest(
        notebook,
        "0" * 64,
        parameters,
        3,
        data,
        code_state(),
        "3.11",
        "Linux",
        2,
        ["H200, 141 GB"],
        {"torch": "2.15.0"},
        "2026-11-28T09:00:00+00:00",
        "2026-11-28T09:01:00+00:00",
        61.5,
        "done",
    )


@pytest.fixture
def trained(tmp_path):
    "Two runs of training, one on the other's checkpoint, and an evaluation of the second by hand."
    for name, base in (("sft", "Qwen/Qwen2.5-VL-3B-Instruct"), ("grpo", str(tmp_path / "sft" / "checkpoint"))):
        shutil.copytree(shipped("data/tiny_base")[0], tmp_path / name / "checkpoint")
        manifest(f"{name}.ipynb", {"model": base, "seed": 3, "lr": 1e-5, "out": str(tmp_path / name)}, {}).save(
            tmp_path / name / "manifest.json"
        )
    (tmp_path / "grpo" / "checkpoint" / "weights.txt").write_text("other than sft's")
    clips = load_clips(make_dataset(tmp_path / "data", 6, 0, name="test"))
    said = {
        "sft": [Prediction(c.id, c.count) for c in clips],
        "grpo": [Prediction(c.id, None if k == 0 else c.count + (k > 3)) for k, c in enumerate(clips)],
    }
    evaluation = tmp_path / "evaluate"
    judge(said, clips, 0).save(evaluation)
    (evaluation / "none.json").write_text(
        json.dumps({"grpo": {"answered 0": 3, "false alarms": 4, "no readable count": 1}})
    )
    checkpoints = {
        n: {"path": str(tmp_path / n / "checkpoint"), **hash_path(tmp_path / n / "checkpoint")} for n in said
    }
    manifest("06_evaluate.ipynb", {"clips": str(tmp_path / "data" / "test.csv")}, checkpoints).save(
        evaluation / "manifest.json"
    )
    return tmp_path


def test_a_card_says_what_the_manifest_and_the_evaluation_say(trained, capsys):
    assert main(["card", str(trained / "grpo"), "--evaluation", str(trained / "evaluate"), "--license", "mit"]) == 0
    path = trained / "grpo" / "checkpoint" / "README.md"
    card, results = ModelCard.load(path), json.loads((trained / "evaluate" / "results.json").read_text())
    assert (card.data.base_model, card.data.license, card.data.library_name) == (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "mit",
        "transformers",
    )
    found = {e.metric_type: e for e in card.data.eval_results}
    for metric in ("obo", "exact", "mae", "parse_rate"):
        v = results["models"]["grpo"][metric]
        assert (
            found[metric].metric_value == round(v["value"], 4)
            and f"{v['lo']:.3f} to {v['hi']:.3f}" in found[metric].metric_name
        )
    assert (
        "for 1 of 6 clips" in card.text
        and "Of 8 clips without a single repetition it counted something in 4" in card.text
    )
    assert "H200, 141 GB" in card.text and "1e-05" in card.text and "62 s" in card.text and "torch 2.15.0" in card.text
    assert lineage(load_run(trained / "grpo")) == [str(trained / "sft" / "checkpoint"), "Qwen/Qwen2.5-VL-3B-Instruct"]
    before = hash_path(trained / "grpo" / "checkpoint")
    path.unlink()
    assert hash_path(trained / "grpo" / "checkpoint") == before, "a card must not make another checkpoint of it"


def test_what_is_not_known_is_not_claimed(trained, capsys):
    card = model_card(trained / "sft")
    assert (
        ModelCard(card).data.eval_results is None
        and "nothing is claimed" in card
        and ModelCard(card).data.license == "unknown"
    )
    for spoil, text in (
        (lambda: (trained / "grpo" / "checkpoint" / "weights.txt").write_text("trained on"), "changed since"),
        (lambda: (trained / "evaluate" / "manifest.json").unlink(), "say which with --name"),
    ):
        spoil()
        with pytest.raises(ValueError, match=text):
            model_card(trained / "grpo", trained / "evaluate")
    assert "was said when this page was written" in model_card(trained / "grpo", trained / "evaluate", "grpo")
    assert main(["card", str(trained / "grpo"), "--name", "grpo"]) == 2
    m = load_run(trained / "sft").manifest
    replace(m, status="failed").save(trained / "sft" / "manifest.json")
    with pytest.raises(ValueError, match="for a finished run"):
        model_card(trained / "sft")


def test_a_page_by_hand_stays(trained, capsys):
    path = trained / "sft" / "checkpoint" / "README.md"
    path.write_text("# Mine")
    assert (
        main(["card", str(trained / "sft")]) == 1
        and path.read_text() == "# Mine"
        and "somebody else" in capsys.readouterr().err
    )
    assert (
        main(["card", str(trained / "sft"), "--out", str(trained / "card.md")]) == 0
        and MARK in (trained / "card.md").read_text()
    )
    path.write_text(
        (Path(huggingface_hub.__file__).parent / "templates" / "modelcard_template.md").read_text()
    )  # as peft leaves it beside adapters
    assert write_card(model_card(trained / "sft"), path).read_text().count(MARK) == 1


@pytest.mark.slow
def test_the_code_on_a_card_runs(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    d = draw_clip("squat", 3, seed=5)
    write_video(trained / "clip.mp4", d.pixels, d.fps)
    code = re.search(r"```python\n(.+?)```", model_card("sft"), re.S)[1]
    assert len(code.strip().splitlines()) == 2
    exec(code, {})
    said = capsys.readouterr()
    assert "clip.mp4: the model gave no count" in said.err, "the base that is shipped was never taught to count"


@pytest.mark.slow
def test_a_dataset_that_was_drawn_has_a_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("data", tmp_path / "drawn", {"train": 8, "rl": 4, "test": 6, "none": 2}, quiet=True)
    assert main(["card", "drawn"]) == 0
    card = DatasetCard.load(tmp_path / "drawn" / "README.md")
    assert (
        card.data.size_categories == ["n<1K"]
        and "20 annotated clips" in card.text
        and "### train.csv\n\n8 clips" in card.text
        and "| train | 8 |" in card.text
    )
    run("cot", tmp_path / "cot", {"clips": "drawn/train.csv", "crops": 3}, quiet=True)
    assert main(["card", "cot"]) == 0
    text = (tmp_path / "cot" / "README.md").read_text()
    assert (
        "11 annotated clips" in text
        and "### cot.jsonl\n\n11 texts of reasoning" in text
        and "| rejected_rows | 0 |" in text
    )
