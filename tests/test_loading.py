"Clips read when a batch needs them: nothing is lost, nothing is done twice, and memory does not grow with the data."

import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import only_read, small_disk
from torch.utils.data import DataLoader

from actrep_nb.evaluate import LocalCounter
from actrep_nb.grpo import train_grpo
from actrep_nb.loading import ClipExamples, FeatureCache, read_all, tower_digest
from actrep_nb.families import FAMILIES
from actrep_nb.models import choose_spec, encode, freeze, load_model, make_sample, see
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.records import Clip
from actrep_nb.formats import save_clips
from actrep_nb.rollout import SamplingParams
from actrep_nb.runs import run
from actrep_nb.sft import train_sft, training_arguments
from actrep_nb.show import RunWarning, read_log
from actrep_nb.video import FrameCache, write_video
from actrep_nb.film import VideoError

SMALL = dict(hidden=32, layers=2, vision_hidden=32, vision_layers=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", **SMALL)


@pytest.fixture
def loaded(tiny):
    model, processor = load_model(tiny, device="cpu")
    return freeze(model, "vision", "merger"), processor


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "Films of several rates and lengths."
    folder, out = tmp_path_factory.mktemp("films"), []
    for k, (rate, frames) in enumerate([(8, 24), (25, 60), (23.976, 40), (50, 130), (15, 33)]):
        path = write_video(
            folder / f"film {k}.mp4", np.random.default_rng(k).integers(0, 255, (frames, 56, 56, 3), np.uint8), rate
        )
        out.append(Clip(video=str(path), action="squat", count=k, id=f"film {k}"))
    return out


def prompts(dataset, model):
    return [e.prompt for e in read_all(dataset, model)[0]]


def same(a, b):
    return all(
        (x is None and y is None) or torch.equal(x, y)
        for p, q in zip(a, b, strict=True)
        for x, y in zip(vars(p).values(), vars(q).values(), strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_features_from_disk_are_those_of_the_tower(tmp_path, clips, family, monkeypatch):
    model, processor = load_model(make_tiny_checkpoint(tmp_path / "model", family=family, **SMALL), device="cpu")
    choose_spec(processor, f"frame_size={2 * 2 * FAMILIES[family].patch}x{2 * FAMILIES[family].patch}")
    freeze(model, "vision", *FAMILIES[family].mergers)
    fresh = prompts(ClipExamples(model, processor, clips), model)
    cache = FrameCache(tmp_path / "frames")
    first = prompts(ClipExamples(model, processor, clips, cache=cache), model)
    monkeypatch.setattr(model, "get_video_features", lambda *a, **k: pytest.fail("the tower looked again"))
    again = ClipExamples(model, processor, clips, cache=FrameCache(tmp_path / "frames"))
    assert (
        same(fresh, first)
        and same(first, prompts(again, model))
        and all(again[i].frames is None for i in range(len(again)))
    )


def test_nothing_stale_is_used(tmp_path, tiny, loaded, clips):
    "Another tower, another file, another spec, another question: each has features of its own."
    model, processor = loaded
    cache = FrameCache(tmp_path / "frames")
    copy = write_video(tmp_path / "a.mp4", np.zeros((16, 56, 56, 3), np.uint8), 8)
    clip = Clip(video=str(copy), action="squat", count=1)

    def key():
        return ClipExamples(model, processor, [clip], cache=cache)[0].key

    keys = [key(), key()]
    assert keys[0] == keys[1]
    write_video(copy, np.full((24, 56, 56, 3), 99, np.uint8), 8)
    keys.append(key())
    choose_spec(processor, "fps=2")
    keys.append(key())
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "visual.blocks.1" in n).view(-1)[7] += 1e-3
    keys.append(key())
    processor.video_processor.position_rule = "reference"
    keys.append(key())
    processor.chat_template = processor.chat_template.replace("<|im_start|>", "<|im_start|> ")
    keys.append(key())
    processor.video_processor.image_mean = [0.5, 0.5, 0.5]
    keys.append(key())
    assert len(set(keys)) == 7
    model.half()
    assert key() not in keys
    freeze(model, "vision")
    assert key() == "", "a merger that is trained changes at every step"


def test_damage_and_a_full_cache_cost_speed_and_nothing_else(tmp_path, loaded, clips):
    model, processor = loaded
    cache = FrameCache(tmp_path / "frames")
    dataset = ClipExamples(model, processor, clips, cache=cache)
    first = prompts(dataset, model)
    files = sorted((tmp_path / "frames" / "features").glob("*.safetensors"))
    assert len(files) == len(clips)
    loaded_before = [dataset[i] for i in range(len(clips))]
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].unlink()
    assert same(first, [e.prompt for e in dataset.encoded(model, loaded_before)])
    capped = FeatureCache(tmp_path / "capped", max_bytes=3 * first[1].features.nbytes)
    for k, prompt in enumerate(first * 3):
        capped.put(str(k), prompt)
    assert (
        sum(p.stat().st_size for p in capped.folder.iterdir()) < 3 * capped.max_bytes
        and "14" in capped
        and "0" not in capped
    )
    (tmp_path / "file").touch()
    nowhere = FeatureCache(tmp_path / "file" / "features")
    with pytest.warns(RunWarning, match="nothing more is kept there"):
        nowhere.put("a", first[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nowhere.put("b", first[0])
    assert nowhere.get("a") is None and "a" not in nowhere


def about_disks(told):
    return [str(w.message) for w in told if "is kept there" in str(w.message)]


def test_a_cache_on_a_small_disk_changes_nothing(tmp_path, tiny, clips):
    """Three megabytes hold some frames and no features: training and evaluation are those without a cache, and one
    warning says where and what to do.
    """

    def learned_and_said(name, cache):
        model, processor = load_model(tiny, device="cpu")
        examples = ClipExamples(
            freeze(model, "vision", "merger"),
            processor,
            clips,
            cache=cache,
            answers=[f"<answer>{c.count}</answer>" for c in clips],
        )
        log = [
            (row["loss"], row["grad_norm"])
            for row in train_sft(model, examples, training_arguments(tmp_path / name, 3, 2, 1e-3))
        ]
        said = LocalCounter(model, processor, params=SamplingParams(6), cache=cache).predict(clips, progress=False)
        return (
            log,
            [(p.id, p.count, p.text, p.problems) for p in said],
            examples.unread,
            [w.clone() for w in model.parameters()],
        )

    without = learned_and_said("none", None)
    with small_disk(tmp_path / "frames", "256k", least=50_000) as disk, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        full = learned_and_said("full", FrameCache(disk))
        assert not list(disk.glob("**/*.part")) and (told := about_disks(told))
    assert full[:3] == without[:3] and not full[2] and all(map(torch.equal, full[3], without[3]))
    assert (
        len(told) == 1
        and str(disk) in told[0]
        and ("No space left" in told[0] or "too large" in told[0])
        and "make room or name another folder" in told[0]
    )


def test_a_disk_that_is_only_read_serves(tmp_path, loaded, clips):
    "What is there is used, what is not is made; a folder that cannot even be begun is no reason to stop."
    model, processor = loaded
    folder = tmp_path / "frames"
    whole = prompts(ClipExamples(model, processor, clips, cache=FrameCache(folder, max_bytes=10**9)), model)
    for path in [*sorted(folder.glob("*.npy"))[:1], *sorted((folder / "features").iterdir())[:2]]:
        path.unlink()
    with only_read(folder) as arranged, warnings.catch_warnings(record=True) as told:
        if not arranged:
            pytest.skip("nothing keeps this user from writing here")
        warnings.simplefilter("always")
        for place in (folder, folder / "not there"):
            dataset = ClipExamples(model, processor, clips, cache=FrameCache(place, max_bytes=10**9))
            assert same(whole, prompts(dataset, model)) and not dataset.unread
        assert [dataset[k].frames is None for k in range(len(clips))].count(True) == 0 and len(about_disks(told)) == 2
        again = ClipExamples(model, processor, clips, cache=FrameCache(folder, max_bytes=10**9))
        assert [again[k].frames is None for k in range(len(clips))].count(True) == len(clips) - 2


def test_a_flipped_bit_in_the_features_is_seen(tmp_path, loaded, clips):
    model, processor = loaded
    cache = FrameCache(tmp_path / "frames")
    first = prompts(ClipExamples(model, processor, clips, cache=cache), model)
    file = sorted(cache.folder.glob("features/*"))[0]
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 64
    file.write_bytes(raw)
    assert FeatureCache(file.parent).get(file.stem) is None and same(
        first, prompts(ClipExamples(model, processor, clips, cache=FrameCache(cache.folder)), model)
    )


def test_frames_that_were_dropped_on_their_way_are_read_again(tmp_path, loaded, clips):
    "Another process makes room between the worker that names a file and the one that maps it."
    model, processor = loaded
    cache = FrameCache(tmp_path / "frames")
    dataset = ClipExamples(model, processor, clips, cache=cache)
    sent = [pickle.dumps(dataset[k]) for k in range(len(clips))]
    for path in cache.folder.glob("*.npy"):
        path.unlink()
    arrived = [pickle.loads(one) for one in sent]
    assert all(e.frames is None for e in arrived) and same(
        prompts(ClipExamples(model, processor, clips), model), [e.prompt for e in dataset.encoded(model, arrived)]
    )


def test_every_merger_is_meant(tmp_path):
    """Qwen3-VL's deepstack mergers lead from the tower too: with the default of the experiments nothing of the tower's
    way is trained, and its features are kept.
    """
    from actrep_nb.sft import load_to_train

    model, _ = load_to_train(make_tiny_checkpoint(tmp_path / "m", family="qwen3_vl", **SMALL))
    assert {name for name, p in model.named_parameters() if p.requires_grad and "visual" in name} == set()


def test_loaders_processes_send_names_and_change_nothing(tmp_path, loaded, clips):
    model, processor = loaded
    kept = ClipExamples(model, processor, clips, cache=FrameCache(tmp_path / "frames"))
    alone = prompts(ClipExamples(model, processor, clips), model)
    for _ in range(2):  # frames, then features
        batches = list(DataLoader(kept, batch_size=2, num_workers=2, collate_fn=list))
        assert [e.clip.id for batch in batches for e in batch] == [c.id for c in clips]
        assert same(alone, [e.prompt for batch in batches for e in kept.encoded(model, batch)])
    assert len(pickle.dumps(kept[0])) < 5000
    weights = sum(p.nbytes for p in model.parameters())
    assert len(pickle.dumps(kept)) < weights + len(pickle.dumps(processor)), (
        "a process that is started anew gets no copy of the model"
    )


# ---- clips that cannot be read -------------------------------------------------------------------------------------


def broken(folder, n):
    out = []
    for k in range(n):
        (folder / f"broken{k}.mp4").write_bytes(b"nothing" * (k + 1))
        out.append(Clip(video=str(folder / f"broken{k}.mp4"), action="squat", count=1, id=f"broken{k}"))
    return out


def test_a_broken_clip_is_named_replaced_and_counted(tmp_path, loaded, clips, capsys):
    model, processor = loaded
    dataset = ClipExamples(
        model,
        processor,
        [*clips, *broken(tmp_path, 2)],
        answers=[f"<answer>{c.count}</answer>" for c in [*clips, *broken(tmp_path, 2)]],
    )
    args = dict(steps=4, batch_size=7, lr=1e-3)
    log = train_sft(model, dataset, training_arguments(tmp_path / "sft", **args))
    assert (
        len(log) == 4 and set(dataset.unread) == {"broken0", "broken1"} and "broken0.mp4" in dataset.unread["broken0"]
    )
    assert capsys.readouterr().out.count("not read, another takes its place") == 2, "each is told once"
    taken = dataset.readable([dataset[5], dataset[6], dataset[0]])
    assert [e.clip.id for e in taken] == [
        e.clip.id for e in dataset.readable([dataset[5], dataset[6], dataset[0]])
    ] and not any(e.problem for e in taken)
    for e in taken:
        assert processor.tokenizer.decode(e.answer[:-1]) == f"<answer>{e.clip.count}</answer>", (
            "the answer belongs to the clip that is shown"
        )
    dataset = ClipExamples(model, processor, [*clips, *broken(tmp_path, 2)])
    log = train_grpo(
        model,
        processor,
        dataset,
        training_arguments(tmp_path / "grpo", steps=2, batch_size=7, lr=1e-3),
        {"format": 1.0},
        group_size=2,
        params=SamplingParams(4),
    )
    assert len(log) == 2 and set(dataset.unread) == {"broken0", "broken1"}


def test_too_many_broken_clips_stop_a_run(tmp_path, loaded, clips):
    model, processor = loaded
    bad = broken(tmp_path, 5)
    dataset = ClipExamples(model, processor, [*clips, *bad])
    with pytest.raises(
        VideoError,
        match=r"5 of the [5-9] videos tried so far cannot be read, and more than 20% are too many \(most_unread\): "
        r"(broken\d: .*broken\d.mp4.*; ){3}and 2 clips more\. Mend",
    ):
        dataset.readable([dataset[5 + k] for k in range(5)])
    patient = ClipExamples(model, processor, [*clips, *bad], most_unread=1.0)
    assert len(patient.readable([patient[5 + k] for k in range(5)])) == 5 and len(patient.unread) == 5
    with pytest.raises(ValueError, match="most_unread=20 must be a share"):
        ClipExamples(model, processor, clips, most_unread=20)
    alone = ClipExamples(model, processor, bad[:1])
    with pytest.raises(VideoError, match="1 of the 1"):
        alone.readable([alone[0]])
    few = ClipExamples(model, processor, [*clips, *bad[:2]])
    assert len(few.readable([few[k] for k in range(7)])) == 7 and len(few.unread) == 2, "the first four are forgiven"


def test_answers_belong_to_clips(loaded, clips):
    with pytest.raises(ValueError, match="1 answers for 5 clips"):
        ClipExamples(*loaded, clips, answers=["one"])


# ---- training ------------------------------------------------------------------------------------------------------


def test_training_is_the_same_whoever_reads(tmp_path, tiny, clips):
    "No cache, a cache, a warm cache and loader processes: one log."
    logs = []
    for k, (cache, workers) in enumerate([(None, 0), (tmp_path / "frames", 0), (tmp_path / "frames", 2)]):
        model, processor = load_model(tiny, device="cpu")
        freeze(model, "vision", "merger")
        dataset = ClipExamples(
            model,
            processor,
            clips,
            cache=FrameCache(cache) if cache else None,
            answers=["<answer>1</answer>"] * len(clips),
        )
        args = training_arguments(
            tmp_path / str(k), 4, 2, 1e-2, dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0
        )
        logs.append([(row["loss"], row["grad_norm"]) for row in train_sft(model, dataset, args)])
        assert read_log(tmp_path / str(k) / "log.jsonl")
    assert logs[0] == logs[1] == logs[2]


def test_frames_are_shuffled_before_they_are_joined_into_slots(tmp_path, loaded, clips):
    model, processor = loaded
    freeze(model, "vision", "merger")
    dataset = ClipExamples(model, processor, clips[:2], cache=FrameCache(tmp_path))
    examples = dataset.encoded(model, [dataset[0], dataset[1]])
    mixed = dataset.shuffled(model, examples, [7, 8])
    for example, prompt, seed in zip(examples, mixed, [7, 8]):
        sample = make_sample(processor, example.clip)
        order = np.random.default_rng(seed).permutation(len(sample.frames))
        assert any(a // 2 != b // 2 for a, b in zip(order[::2], order[1::2]))  # frames of one slot go apart
        by_hand = see(
            model,
            [
                encode(
                    model, processor, replace(sample, frames=replace(sample.frames, pixels=sample.frames.pixels[order]))
                )
            ],
        )[0]
        assert torch.equal(prompt.features, by_hand.features) and torch.equal(
            prompt.position_ids, example.prompt.position_ids
        )
        assert not torch.equal(prompt.features, example.prompt.features)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_ranks_that_share_out_a_tower_see_in_step(tmp_path, clips, strategy, monkeypatch):
    """One clip was seen before, so a rank has less to look at than the other, and then nothing; the losses are one
    process's, which keeps nothing.
    """
    if strategy == "zero3":
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    clips = clips[:4]  # whole batches, or ranks would fill up an epoch in their own way
    save_clips(clips, tmp_path / "data" / "train.jsonl")
    (tmp_path / "data" / "cot.jsonl").write_text(
        "".join(json.dumps({"video_id": c.id, "cot": f"<answer>{c.count}</answer>"}) + "\n" for c in clips)
    )
    base = Path(__file__).parents[1] / "data/tiny_base"

    def losses(name, ranks, cache, **given):
        run(
            "03_sft",
            tmp_path / name,
            {
                "model": str(base),
                "data": str(tmp_path / "data"),
                "out": str(tmp_path / name),
                "cache": cache,
                "steps": 5,
                "batch": 2,
                "workers": 0,
            }
            | given,
            ranks=ranks,
            quiet=True,
        )
        return [row["loss"] for row in read_log(tmp_path / name / "log.jsonl")]

    model, processor = load_model(base, device="cpu")
    read_all(
        ClipExamples(freeze(model, "vision", "merger"), processor, clips[:1], cache=FrameCache(tmp_path / "frames")),
        model,
    )
    before = set((tmp_path / "frames/features").iterdir())
    assert losses("two", 2, str(tmp_path / "frames"), strategy=strategy) == pytest.approx(
        losses("one", None, ""), abs=2e-4
    )
    after = set((tmp_path / "frames/features").iterdir())
    assert len(before) == 1 and len(after) == len(clips) and before < after, "shared out or not, a tower has one digest"


def test_a_digest_knows_every_weight_of_the_tower_and_no_other(loaded):
    model, _ = loaded
    before = tower_digest(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
        assert tower_digest(model) == before
        for name in ("visual.merger", "visual.patch_embed", "visual.blocks.0"):
            p = next(p for n, p in model.named_parameters() if name in n)
            p.view(-1)[-1] += 1
            assert tower_digest(model) != before
            p.view(-1)[-1] -= 1
