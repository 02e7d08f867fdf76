"""Checkpoints as people have them: adapters whose base is named from somewhere, checkpoints in the middle of training,
a whole folder of them.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actrep_nb.cli import main
from actrep_nb.counters import find_checkpoint
from actrep_nb.evaluate import LoadedWhenAsked, LocalCounter, best_of, checkpoints_in
from actrep_nb.loading import ClipExamples
from actrep_nb.models import adapter_base, choose_prompt, load_model, prompt_of
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.records import Clip
from actrep_nb.formats import load_clips
from actrep_nb.sft import load_to_train, train_sft, training_arguments
from actrep_nb.show import NotFinite
from actrep_nb.synth import make_dataset
from test_hub_like import run_cells

SMALL = dict(hidden=32, layers=1, vision_hidden=32, vision_layers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return load_clips(make_dataset(folder, 4, seed=0, workers=1, name="clips"), videos=folder / "videos"), folder


def train(model, clips, out, lora_rank=0, save_steps=2, steps=4):
    "A few steps of imitation, as 03_sft does."
    keep = {"save_strategy": "steps", "save_steps": save_steps} if save_steps else {}
    args = training_arguments(out, steps, 2, 1e-2, **keep)
    model, processor = load_to_train(model, lora_rank=lora_rank, args=args)
    train_sft(
        model,
        ClipExamples(model, processor, clips, answers=[f"<answer>{c.count}</answer>" for c in clips]),
        args,
        checkpoint=Path(out) / "checkpoint",
    )
    return Path(out)


@pytest.fixture(scope="module")
def place(data, tmp_path_factory):
    "A folder in which a base was named relatively: base/, and adapters trained on it in lora/."
    folder, before = tmp_path_factory.mktemp("place"), Path.cwd()
    make_tiny_checkpoint(folder / "base", **SMALL)
    os.chdir(folder)
    try:
        train("base", data[0], "lora", lora_rank=4)
    finally:
        os.chdir(before)
    return folder


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# ---- adapters ------------------------------------------------------------------------------------------------------


def test_adapters_find_their_base_from_another_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        json.loads((place / "lora/checkpoint/adapter_config.json").read_text())["base_model_name_or_path"]
        == "../../base"
    )
    assert adapter_base(place / "lora/checkpoint") == str(place / "base")
    model, _ = load_model(place / "lora", device="cpu")
    assert any("lora_B" in name and p.any() for name, p in model.named_parameters()), (
        "the run's folder means its adapters, and they were trained"
    )


def test_adapters_and_base_can_be_moved_together(place, tmp_path, monkeypatch):
    shutil.copytree(place, tmp_path / "moved")
    assert adapter_base(tmp_path / "moved/lora/checkpoint-2") == str(tmp_path / "moved/base")


@pytest.mark.parametrize("named, cwd", [("base", "."), ("base", "elsewhere"), ("./base", "elsewhere")])
def test_a_base_named_from_the_current_folder_or_above(place, tmp_path, monkeypatch, named, cwd):
    "As older runs and other programs write it."
    shutil.copytree(place, tmp_path / "old")
    path = tmp_path / "old/lora/checkpoint/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": named}))
    (tmp_path / "old/elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "old" / cwd)
    assert adapter_base(path.parent) == str(tmp_path / "old/base")


@pytest.mark.parametrize("named", ["models/gone/base", "runs/base", "./gone", "", "/no/such/place"])
def test_a_base_that_is_gone_is_named_at_once(place, tmp_path, capsys, monkeypatch, named):
    "No hub is asked for what cannot be a name there."
    monkeypatch.setattr("actrep_nb.models.AutoConfig.from_pretrained", lambda *a, **k: pytest.fail("the hub was asked"))
    shutil.copytree(place / "lora/checkpoint", tmp_path / "alone")
    path = tmp_path / "alone/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": named}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert main(["count", "a.mp4", "--model", "alone", "--json"]) == 1
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert repr(named) in error and "base_model_name_or_path" in error and str(path.parent) in error


def test_a_hub_that_does_not_answer_is_asked_once(place, tmp_path, monkeypatch):
    "Not five times with growing pauses, as its library would."
    asked = []

    class Nowhere:
        def head(self, url, **kwargs):
            asked.append(url)
            raise OSError("no network")

    monkeypatch.setattr("actrep_nb.models.get_session", Nowhere)
    shutil.copytree(place / "lora/checkpoint", tmp_path / "alone")
    path = tmp_path / "alone/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "Nobody/Has-This-3B"}))
    with pytest.raises(FileNotFoundError, match="Nobody/Has-This-3B.*could not be fetched"):
        load_model(tmp_path / "alone", device="cpu")
    assert len(asked) == 1 and "Nobody/Has-This-3B" in asked[0]


def test_adapters_are_counted_judged_planned_and_merged_from_another_folder(place, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips, folder = data
    assert (
        main(
            [
                "evaluate",
                str(folder / "clips.csv"),
                "--videos",
                str(folder / "videos"),
                "--model",
                f"it={place / 'lora/checkpoint'}",
                "--max-new-tokens",
                "4",
                "--json",
            ]
        )
        == 0
    )
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["models"]) == {"it"}
    assert (
        main(
            ["count", clips[0].video, "--model", str(place / "lora"), "--max-new-tokens", "4", "--write", "", "--json"]
        )
        == 1
    )
    assert "gave no count" in json.loads(capsys.readouterr().out.splitlines()[-1])["failed"][0]["reason"], (
        "it was asked, and four tokens are no answer"
    )
    assert (
        main(
            [
                "plan",
                str(folder / "clips.csv"),
                "--videos",
                str(folder / "videos"),
                "--model",
                str(place / "lora/checkpoint"),
            ]
        )
        == 0
    )
    assert main(["merge", str(place / "lora"), "--out", "merged", "--json"]) == 0
    assert not (tmp_path / "merged/adapter_config.json").exists()
    merged, adapted = (
        load_model("merged", device="cpu")[0],
        load_model(place / "lora", device="cpu")[0].merge_and_unload(),
    )
    assert (
        all(torch.equal(a, b) for a, b in zip(merged.parameters(), adapted.parameters()))
        and merged.dtype == torch.float32
    )
    base = weights(load_model(place / "base", device="cpu")[0])
    assert any(not torch.equal(base[name], p) for name, p in merged.named_parameters())
    assert (
        main(["merge", str(place / "base"), "--out", "again"]) == 1
        and main(["merge", str(place / "lora"), "--out", "merged"]) == 2
    )


def test_training_goes_on_from_adapters(place, data, tmp_path, monkeypatch):
    "And what it writes names the same base, from its own folder."
    monkeypatch.chdir(tmp_path)
    train(str(place / "lora"), data[0], "more", save_steps=0, steps=1)
    assert adapter_base("more/checkpoint") == str(place / "base")


# ---- checkpoints on the way ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    "A run that kept five checkpoints of whole weights."
    folder = tmp_path_factory.mktemp("whole")
    return train(make_tiny_checkpoint(folder / "base", **SMALL), data[0], folder / "run", save_steps=1, steps=5)


def test_a_checkpoint_on_the_way_carries_its_processor(place, whole):
    for folder in (place / "lora/checkpoint-2", whole / "checkpoint-1"):
        _, processor = load_model(folder, device="cpu")
        assert processor.video_processor.video_spec == load_model(whole / "checkpoint", device="cpu")[
            1
        ].video_processor.video_spec and prompt_of(processor)


def test_all_checkpoints_of_a_folder_are_judged_in_one_command(whole, data, tmp_path, capsys):
    clips, folder = data
    assert list(checkpoints_in(whole)) == [1, 2, 3, 4, 5] and checkpoints_in(whole / "checkpoint") == {}
    assert (
        main(
            [
                "evaluate",
                str(folder / "clips.csv"),
                "--videos",
                str(folder / "videos"),
                "--model",
                f"it={whole}",
                "--baseline",
                "period",
                "--max-new-tokens",
                "4",
                "--out",
                str(tmp_path),
                "--json",
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    said = json.loads(told.out.splitlines()[-1])
    assert set(said["models"]) == {"period", *(f"it@{k}" for k in range(1, 6))} and said["steps"] == {
        "it": {f"it@{k}": k for k in range(1, 6)}
    }
    starred = [line.split()[0] for line in told.err.splitlines() if line.split()[1:2] == ["*"]]
    alike = (
        len(
            {said["models"][f"it@{k}"]["obo"]["value"] for k in range(1, 6)}
            | {said["models"][f"it@{k}"]["mae"]["value"] for k in range(1, 6)}
        )
        == 2
    )
    assert (
        starred == list(said["best"].values())
        and bool(starred) != alike
        and ("none is the best" in told.err) == alike
        and (tmp_path / "it.checkpoints.png").stat().st_size > 5000
    )
    assert {json.loads(line)["model"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()} == set(
        said["models"]
    )


def test_the_experiment_judges_all_of_them_too(whole, data, tmp_path):
    clips, folder = data
    said = run_cells(
        "06_evaluate",
        clips=str(folder / "clips.csv"),
        none="",
        train="",
        base="",
        sft=str(whole),
        grpo="",
        counters=[f"all={whole}"],
        out=str(tmp_path),
        cache="",
        max_new_tokens=4,
        limit=2,
    )
    assert set(said["evaluation"].models) == {"sft", "period", *(f"all@{k}" for k in range(1, 6))} and set(
        said["best"].values()
    ) <= set(said["runs"]["all"])
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        run_cells(
            "06_evaluate",
            clips=str(folder / "clips.csv"),
            none="",
            train="",
            base="",
            sft="",
            grpo="",
            counters=[str(folder)],
            out=str(tmp_path),
            cache="",
        )


def test_the_best_is_most_often_within_one_then_nearest_and_none_where_all_are_alike():
    def row(obo, mae):
        return {"obo": {"value": obo}, "mae": {"value": mae}}

    models = {"a": row(0.5, 0.1), "b": row(0.7, 0.3), "c": row(0.7, 0.2), "d": row(0.7, 0.2)}
    assert [best_of(models, names) for names in ("abcd", "abd", "dc", "a")] == ["c", "d", "", "a"]
    assert best_of({"a": {"accuracy": {"value": 0.1}}, "b": {"accuracy": {"value": 0.2}}}, "ab") == "b"


def test_one_checkpoint_is_in_memory_at_a_time(data):
    alive, most = [], []

    class Loud:
        def __init__(self):
            alive.append(self)
            most.append(len(alive))

        def predict(self, clips, progress=True):
            alive.remove(self)
            return []

    for counter in [LoadedWhenAsked(Loud) for _ in range(3)]:
        counter.predict(data[0])
    assert most == [1, 1, 1]


def test_an_unfinished_run_says_what_it_holds(whole, tmp_path):
    shutil.copytree(whole / "checkpoint-1", tmp_path / "run/checkpoint-1")
    with pytest.raises(FileNotFoundError, match="holds 1 checkpoints of an unfinished run"):
        find_checkpoint(str(tmp_path / "run"))
    assert find_checkpoint(str(tmp_path / "run/checkpoint-1"))


def test_a_local_counter_is_asked_as_it_was_trained(whole, tmp_path):
    model, processor = load_model(whole / "checkpoint", device="cpu")
    choose_prompt(processor, "count-no-think")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert "Without a word" in LocalCounter.from_pretrained(tmp_path, device="cpu").task.ask(Clip("a.mp4", "squat", 1))
    other = LocalCounter.from_pretrained(tmp_path, device="cpu", prompt="own")
    assert (
        "Reason in <think>" in other.task.ask(Clip("a.mp4", "squat", 1))
        and "was trained with count-no-think" in other.note
    )


# ---- whole, or not at all ------------------------------------------------------------------------------------------

DAMAGE = {
    "missing weights: [^:]*layers.0": lambda kept, name: {n: w for n, w in kept.items() if n != name},
    "weights that the model has no place for: value_head": lambda kept, name: kept | {"value_head": torch.ones(2)},
    "weights of another shape: [^:]*layers.0": lambda kept, name: kept | {name: torch.ones(3, 3)},
    "weights that hold NaN or infinity: [^:]*layers.0": lambda kept, name: (
        kept | {name: torch.full_like(kept[name], torch.nan)}
    ),
}


@pytest.mark.parametrize("which", ["whole", "adapters"])
def test_a_checkpoint_that_is_not_whole_is_refused(place, whole, tmp_path, which):
    "transformers fills up with random numbers what is missing, and leaves out what is too much."
    source, file = (
        (whole / "checkpoint", "model.safetensors")
        if which == "whole"
        else (place / "lora/checkpoint", "adapter_model.safetensors")
    )
    shutil.copytree(place, tmp_path / "place")
    folder = tmp_path / "place/lora/damaged"
    shutil.copytree(source, folder)
    kept = load_file(source / file)
    name = sorted(n for n in kept if "layers.0" in n and "lora_B" in n or "layers.0.mlp.down" in n)[0]
    load_model(folder, device="cpu")
    for said, damage in DAMAGE.items():
        if which == "adapters" and "another shape" in said:
            continue  # peft refuses it itself
        save_file(damage(kept, name), folder / file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"damaged: {said}") as refused:
            load_model(folder, device="cpu")
        assert isinstance(refused.value, NotFinite) == ("NaN" in said)
    (folder / file).write_bytes((source / file).read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"damaged: {file} cannot be read.*not written to its end"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "part, where", [("token embedding", "embed"), ("language model", ".layers."), ("vision", "vis")]
)
def test_a_part_that_is_all_zeros_is_refused(whole, tmp_path, part, where):
    "A confident count of nothing would be all that it says."
    folder = shutil.copytree(whole / "checkpoint", tmp_path / "blank")
    kept = load_file(folder / "model.safetensors")
    zeros = {name for name in kept if where in name and ("visual" in name) == (part == "vision")}
    assert zeros and not zeros >= kept.keys()
    save_file(
        {name: w * 0 if name in zeros else w for name, w in kept.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match=f"blank: all weights are zero in its {part}[a-z ]*[.] .*fetch or save"):
        load_model(folder, device="cpu")
    few = sorted(name for name in zeros if kept[name].ndim > 1)[:1]  # a row is enough to be taken
    spared = {name: w * 0 if name in zeros else w for name, w in kept.items()}
    spared[few[0]][-1] = kept[few[0]][-1]
    save_file(spared, folder / "model.safetensors", metadata={"format": "pt"})
    load_model(folder, device="cpu")


# ---- mixtures of experts -------------------------------------------------------------------------------------------


def test_experts_are_read_as_the_hub_has_them(tmp_path, capsys):
    "Published weights have an expert's matrices the other way round than transformers 5 holds and writes them."
    ours = make_tiny_checkpoint(tmp_path / "ours", family="qwen3_vl_moe", **SMALL)
    shutil.copytree(ours, tmp_path / "hub")
    turned = {
        name: w.transpose(1, 2).contiguous() if ".experts." in name else w
        for name, w in load_file(ours / "model.safetensors").items()
    }
    assert any(".experts." in name for name in turned)
    save_file(turned, tmp_path / "hub/model.safetensors", metadata={"format": "pt"})
    a, b = (weights(load_model(path, device="cpu")[0]) for path in (ours, tmp_path / "hub"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert main(["plan", "--model", str(ours), "--gpus", "8", "--strategy", "zero3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["memory"]["parameters"] == sum(
        w.numel() for w in a.values()
    )
