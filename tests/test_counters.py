"""Every counter by its name: what names say, the same model asked in several ways, functions of one's own, answers
that survive a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disks import small_disk

from actrep_nb.cli import main
from actrep_nb.counters import Asking, FunctionCounter, function_counter, make_counter, make_counters, parse_counter
from actrep_nb.evaluate import LocalCounter, evaluate, kept_predictions, load_predictions, vote
from actrep_nb.models import encode, load_model, make_sample
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.records import Clip, Prediction
from actrep_nb.formats import load_clips
from actrep_nb.rollout import FeatureStore, SamplingParams, generate_completions, sample_completions
from actrep_nb.synth import make_dataset

ROOT = Path(__file__).parents[1]
SMALL = dict(hidden=32, layers=1, vision_hidden=32, vision_layers=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "Six clips of several lengths and a checkpoint."
    folder = tmp_path_factory.mktemp("place")
    clips = load_clips(make_dataset(folder, 6, seed=3, workers=1, name="clips"), videos=folder / "videos")
    make_tiny_checkpoint(folder / "tiny", **SMALL)
    return folder, clips


@pytest.mark.parametrize(
    "text, name, kind, what",
    [
        ("period", "period", "untrained", "period"),
        ("mine=constant", "mine", "baseline", "constant"),
        ("openai:gpt-5", "gpt-5", "api", "openai:gpt-5"),
        ("big=gemini:gemini-3-pro", "big", "api", "gemini:gemini-3-pro"),
        ("blind:runs/a/sft/checkpoint", "sft, blind", "blind", "runs/a/sft/checkpoint"),
        ("mine.py:count", "count", "function", "mine.py:count"),
        ("a.b:f", "f", "function", "a.b:f"),
        ("base=a=b", "base", "checkpoint", "a=b"),
        ("Qwen/Qwen2-VL", "Qwen2-VL", "checkpoint", "Qwen/Qwen2-VL"),
        ("openai:http://x/y=z", "http://x/y=z", "api", "openai:http://x/y=z"),
        ("openai:qwen/qwen3-vl:free", "qwen/qwen3-vl:free", "api", "openai:qwen/qwen3-vl:free"),
    ],
)
def test_what_names_say(text, name, kind, what):
    found = parse_counter(text)
    assert (found.name, found.kind, found.what) == (name, kind, what)


def test_a_folder_is_a_checkpoint_whatever_its_name_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b", "x=y", "openai:z"):
        (tmp_path / name).mkdir()
    assert [parse_counter(t).kind for t in ("a:b", "x=y")] == ["checkpoint", "checkpoint"] and parse_counter(
        "openai:z"
    ).kind == "api"


def test_votes():
    def said(*counts):
        return [
            Prediction("a", c, text=f"text {k}", cycles=None if c is None else ((0.0, 1.0),) * c)
            for k, c in enumerate(counts)
        ]

    won = vote(said(3, 5, None, 5))
    assert (won.count, won.agreement, won.text, len(won.cycles), len(won.completions)) == (5, 0.5, "text 1", 5, 4)
    assert (vote(said(4, 2)).count, vote(said(4, 2)).agreement) == (4, 0.5), "of equals the first"
    nobody = vote(said(None, None))
    assert (
        nobody.count is None
        and nobody.agreement == 0
        and vote(said(7)) == said(7)[0]
        and vote(said(7)).agreement is None
    )
    assert vote([Prediction("a", None, choice=c) for c in "BAB"]).choice == "B"


def test_votes_do_not_depend_on_the_batch(place):
    folder, clips = place

    def go(clips, **how):
        return LocalCounter.from_pretrained(
            folder / "tiny", device="cpu", params=SamplingParams(6), samples=3, **how
        ).predict(clips, progress=False)

    whole, alone = go(clips, batch_size=32), [go([c], batch_size=1)[0] for c in clips]
    assert [p.completions for p in whole] == [p.completions for p in alone] and all(
        len(p.completions) == 3 for p in whole
    )
    assert [p.completions for p in go(clips, seed=1)] != [p.completions for p in whole] and len(
        {p.completions for p in whole}
    ) > 1


def test_a_counter_tells_what_decides_its_answers(place):
    def told(**given):
        params = SamplingParams(8, **given)
        return LocalCounter.from_pretrained(place[0] / "tiny", device="cpu", params=params).about

    usual = told()
    assert usual["max_new_tokens"] == 8 and told(temperature=0.5) == usual, "one answer is greedy"
    for given in ({"top_p": 0.9}, {"top_k": 1}, {"stop_text": "s"}):
        assert told(**given) == usual | given


def test_blind_looks_at_nothing(place):
    "The same answer whatever the video, other answers to other questions; a video that is gone changes nothing."
    folder, clips = place
    seeing = LocalCounter.from_pretrained(folder / "tiny", device="cpu", params=SamplingParams(8))
    blind = seeing.asked_as(hidden="video")
    said = blind.predict([*clips, Clip("gone.mp4", "squat", 3)], progress=False)
    assert (
        len({p.text for p in said}) == 1
        and not said[-1].problems[:-1]
        and len({p.text for p in seeing.predict(clips, progress=False)}) > 1
    )
    assert blind.about["sees"] == "nothing" and seeing.about["sees"] != "nothing"
    model, processor = seeing.model, seeing.processor
    sample = make_sample(processor, clips[0])
    from dataclasses import replace

    ids = encode(model, processor, replace(sample, frames=None)).input_ids
    assert model.config.video_token_id not in ids and set(ids.tolist()) < set(
        encode(model, processor, sample).input_ids.tolist()
    )


def test_black_pictures_tell_how_long_a_clip_is(place):
    "The same answer to clips of one length, whatever is in them; a file that is gone is said to be."
    folder, clips = place
    black = LocalCounter.from_pretrained(folder / "tiny", device="cpu", params=SamplingParams(8)).asked_as(
        hidden="pictures"
    )
    twins = [Clip(c.video, "", 0, window=(0.0, 1.0), id=c.id) for c in clips]
    said = black.predict([*twins, Clip("gone.mp4", "squat", 3)], progress=False)
    assert (
        len({p.text for p in said[:-1]}) == 1
        and said[-1].text is None
        and "gone.mp4" in said[-1].problems[0]
        and black.about["sees"].endswith("black")
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_blind_in_every_family(tmp_path, family):
    make_tiny_checkpoint(tmp_path / "m", family=family, **SMALL)
    said = (
        LocalCounter.from_pretrained(tmp_path / "m", device="cpu", params=SamplingParams(4))
        .asked_as(hidden="video")
        .predict([Clip("a.mp4", "", 1)] * 2, progress=False)
    )
    assert said[0].text == said[1].text and said[0].text is not None


def test_what_was_seen_is_not_seen_again(place, monkeypatch):
    "Same answers with a store and without; the tower is asked once for each clip; a full store keeps what it has."
    folder, clips = place
    model, processor = load_model(folder / "tiny", device="cpu")
    samples = [make_sample(processor, c) for c in clips]
    calls, tower = [], model.get_video_features
    monkeypatch.setattr(
        model, "get_video_features", lambda pixels, grids, **kw: (calls.extend(grids), tower(pixels, grids, **kw))[1]
    )
    plain = generate_completions(model, processor, samples, max_new_tokens=6, show_progress=False)
    once, store = len(calls), FeatureStore()
    calls.clear()
    assert [
        generate_completions(model, processor, samples, max_new_tokens=6, show_progress=False, store=store)
        for _ in range(3)
    ] == [plain] * 3 and len(calls) == once
    small = FeatureStore(store.held // 2)
    for _ in range(2):
        assert (
            generate_completions(model, processor, samples, max_new_tokens=6, show_progress=False, store=small) == plain
        )
    assert 0 < len(small.kept) < len(clips) and small.held <= small.most_bytes


def test_batches_of_like_length_answer_as_one_by_one(place):
    folder, clips = place
    model, processor = load_model(folder / "tiny", device="cpu")
    samples = [make_sample(processor, c) for c in clips]
    one = [generate_completions(model, processor, [s], max_new_tokens=12, show_progress=False)[0] for s in samples]
    for size, tokens in ((32, 65_536), (2, 65_536), (32, 300)):
        assert sample_completions(
            model,
            processor,
            samples,
            params=SamplingParams(12, temperature=0),
            batch_size=size,
            batch_tokens=tokens,
            show_progress=False,
        ) == [[t] for t in one]


def test_functions_see_no_annotation(tmp_path, place, monkeypatch):
    folder, clips = place
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("""from actrep_nb.records import Prediction
def peek(clip): return clip.count
def cycles(clip): return 3 if clip.cycles is None and not clip.extra.get("drawn") else 99
def half(clip): return 2.5
def fails(clip): raise RuntimeError("no camera")
def nothing(clip): return None
def whole(clip): return Prediction("other", 4, ((0.0, 1.0),) * 4, text="four")
class Counter:
    def predict(self, clips, progress=True): return [Prediction(c.id, 8) for c in clips]
number = 7
""")

    def first(name):
        return function_counter(f"own.py:{name}").predict(clips[:1], progress=False)[0]

    assert (first("peek").count, first("cycles").count, first("nothing").count, first("Counter").count) == (
        0,
        3,
        None,
        8,
    )
    assert (
        "2.5" in first("half").problems[0] and first("half").count is None and "no camera" in first("fails").problems[0]
    )
    assert first("whole").id == clips[0].id and first("whole").true == clips[0].count and first("whole").text == "four"
    assert isinstance(function_counter("own:peek"), FunctionCounter), "a module in the current folder"
    for text, words in (
        ("own.py:gone", "no attribute 'gone'"),
        ("gone.py:f", "no file gone.py"),
        ("nowhere:f", "No module named"),
        ("own.py:number", "neither a function"),
    ):
        with pytest.raises(ValueError, match=words):
            function_counter(text)


def test_one_model_in_several_ways(place, monkeypatch):
    folder, clips = place
    how = Asking(prompts=("count", "count-no-think"), max_new_tokens=4, like=clips, device="cpu")
    counters, runs = make_counters([f"m={folder / 'tiny'}", f"b=blind:{folder / 'tiny'}", "constant"], how)
    assert list(counters) == ["m, count", "m, count-no-think", "b, count", "b, count-no-think", "constant"] and not runs
    assert (
        counters["m, count"].model is counters["m, count-no-think"].model
        and counters["m, count"].about["prompt"] != counters["m, count-no-think"].about["prompt"]
    )
    e = evaluate(counters, clips, progress=False)
    about = e.results()["about"]
    assert (
        about["m, count-no-think"]["prompt"] == "count-no-think"
        and about["b, count"]["sees"] == "nothing"
        and about["constant"]["counter"] == "ConstantCounter"
        and str(folder) in about["m, count"]["checkpoint"]
    )
    for bad, words in ((dict(prompts=("cuont",)), "no prompt 'cuont'"), (dict(video="fsp=3"), "video")):
        with pytest.raises(ValueError, match=words):
            make_counter("gone/there", Asking(**bad))


def test_all_checkpoints_of_a_folder_are_asked_in_every_way(place, tmp_path):
    folder, clips = place
    for step in (1, 2):
        make_tiny_checkpoint(tmp_path / f"run/checkpoint-{step}", seed=step, **SMALL)
    counters, runs = make_counters(
        [f"it={tmp_path / 'run'}"], Asking(prompts=("count", "count-no-think"), max_new_tokens=2, device="cpu")
    )
    assert runs == {f"it, {way}": {f"it, {way}@1": 1, f"it, {way}@2": 2} for way in ("count", "count-no-think")}
    assert [counter.load().about["prompt"] for counter in counters.values()] == [
        "count",
        "count",
        "count-no-think",
        "count-no-think",
    ]


def test_a_model_that_watches_windows_is_asked_once(capsys):
    told = []
    counters, _ = make_counters(
        [f"film={ROOT / 'data/tiny_film'}"], Asking(prompts=("count", "count-no-think"), device="cpu", warn=told.append)
    )
    assert list(counters) == ["film"] and "asked once" in told[-1]


def test_killed_in_the_middle_it_goes_on_where_it_was(place, tmp_path):
    "kill -9 after some answers: the same command asks for the others only, and all are in its predictions."
    folder, clips = place
    (tmp_path / "slow.py").write_text(
        """import json, os, time
from actrep_nb.records import Prediction
class Slow:
    about = {"checkpoint": "none", "setting": os.environ.get("SETTING", "")}
    def stream(self, clips, progress=True):
        for c in clips:
            open(os.environ["LOG"], "a").write(c.id + "\\n")
            yield Prediction(c.id, len(c.id), ((0.0, 1.5),), ("a\\u2028b",), "text", interval=(0.0, 2.0))
            time.sleep(float(os.environ.get("PAUSE", 0)))
    def predict(self, clips, progress=True): return list(self.stream(clips))
""",
        encoding="utf-8",
    )
    argv = [
        sys.executable,
        "-m",
        "actrep_nb.cli",
        "evaluate",
        str(folder / "clips.csv"),
        "--videos",
        str(folder / "videos"),
        "--model",
        "slow.py:Slow",
        "--out",
        "judged",
    ]
    env = os.environ | {"LOG": str(tmp_path / "log"), "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        argv, cwd=tmp_path, env=env | {"PAUSE": "30"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120

    def written():
        return sum(len(p.read_bytes().splitlines()) for p in (tmp_path / "judged").glob("unfinished/*.jsonl"))

    while not written() and time.monotonic() < until and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    asked = (tmp_path / "log").read_text().split()
    (kept,) = (tmp_path / "judged" / "unfinished").glob("*.jsonl")
    with open(kept, "a") as file:
        file.write('{"clip": "torn')
    subprocess.run(argv, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert len(asked) == 1 and sorted((tmp_path / "log").read_text().split()) == sorted(c.id for c in clips), (
        "each clip was asked about once in all"
    )
    assert not kept.exists() and [(p.id, p.count) for p in load_predictions(tmp_path / "judged")["Slow"]] == [
        (c.id, len(c.id)) for c in clips
    ]
    path = tmp_path / "judged/predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"predictions.jsonl, line {len(clips)}: cut off inside the row: judge again"):
        load_predictions(tmp_path / "judged")
    path.write_text('{"model": "Slow"}\n')
    with pytest.raises(ValueError, match="predictions.jsonl, row 1: not a prediction"):
        load_predictions(tmp_path / "judged")


def test_a_full_disk_under_an_evaluation_loses_no_answer(place, tmp_path):
    "It stops at the first answer that cannot be kept, names the file, and goes on from there when there is room."
    _, clips = place

    class Talks:
        asked: list[str] = []

        def stream(self, clips, progress=True):
            for c in clips:
                self.asked.append(c.id)
                yield Prediction(c.id, 2, text="x" * 30_000)

    with small_disk(tmp_path / "disk", "128k", least=100_000) as disk:
        with pytest.raises(OSError, match=r"make room there.*unfinished/\w+.jsonl"):
            evaluate({"talks": Talks()}, clips, progress=False, folder=disk)
        before = len(Talks.asked)
        shutil.copytree(disk / "unfinished", tmp_path / "roomy/unfinished")
    assert 1 < before < len(clips) and len(
        evaluate({"talks": Talks()}, clips, progress=False, folder=tmp_path / "roomy").predictions["talks"]
    ) == len(clips)
    assert len(Talks.asked) == len(clips) + 1, "only the one that could not be kept is asked about again"


def test_kept_answers_are_not_asked_for_again(place, tmp_path):
    folder, clips = place

    class Counts:
        asked: list[str] = []
        about = {"checkpoint": str(folder / "tiny")}

        def stream(self, clips, progress=True):
            for c in clips:
                if len(self.asked) == 4:
                    self.asked.append("-")
                    raise MemoryError("full")
                self.asked.append(c.id)
                yield Prediction(
                    c.id,
                    len(self.asked),
                    ((0.0, 1.5),),
                    ("a\u2028b",),
                    "text",
                    interval=(0.0, 2.0),
                    completions=("a", "b"),
                )

    with pytest.raises(MemoryError):
        kept_predictions(Counts(), clips, tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    with open(path, "a") as file:
        file.write('{"clip": "torn')
    said = kept_predictions(Counts(), clips, tmp_path)
    assert (
        [n for n in Counts.asked if n != "-"] == [c.id for c in clips]
        and [p.id for p in said] == [c.id for c in clips]
        and [p.true for p in said] == [c.count for c in clips]
    )
    assert (
        kept_predictions(Counts(), clips, tmp_path) == said
        and len(Counts.asked) == 7
        and said[0].completions == ("a", "b")
        and said[0].cycles == ((0.0, 1.5),)
    )
    Counts.about = Counts.about | {"prompt": "other"}
    kept_predictions(Counts(), clips[:1], tmp_path)
    assert len(Counts.asked) == 8 and len(list(tmp_path.glob("*.jsonl"))) == 2


@pytest.mark.parametrize("broken", ["pipe", "cp1252", "ascii"])
def test_results_are_there_whatever_stdout_does(place, tmp_path, broken):
    folder, clips = place
    (tmp_path / "动作.csv").write_text((folder / "clips.csv").read_text())
    line = (
        f"{sys.executable} -m actrep_nb.cli evaluate 动作.csv --videos {folder / 'videos'} --baseline "
        "constant,class_median --fit 动作.csv --out judged"
    ) + (" | true" if broken == "pipe" else "")
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | ({} if broken == "pipe" else {"PYTHONIOENCODING": broken}),
        capture_output=True,
    )
    assert (
        json.loads((tmp_path / "judged" / "results.json").read_text())["n"] == 6
        and len(load_predictions(tmp_path / "judged")["constant"]) == 6
    ), done.stderr
    assert done.returncode == 0 and not list((tmp_path / "judged").glob(".*")), done.stderr


def test_protocols_are_printed(place, capsys, tmp_path):
    folder, _ = place
    argv = [
        "evaluate",
        str(folder / "clips.csv"),
        "--videos",
        str(folder / "videos"),
        "--baseline",
        "constant",
        "--fit",
        str(folder / "clips.csv"),
    ]
    assert main([*argv, "--protocol", "TransRAC", "--protocol", "RepNet"]) == 0
    shown = capsys.readouterr().out
    assert "As TransRAC would print it" in shown and "As RepNet would print it" in shown and "As ours" not in shown
    assert main([*argv, "--protocol", "TransRac"]) == 2 and "TransRAC" in capsys.readouterr().err


def test_names_with_hyphens_can_be_told_apart(place):
    "`gpt-5` minus `period`, not `gpt − 5 − period`."
    folder, clips = place
    e = evaluate(
        {"gpt-5-mini": FunctionCounter(lambda clip: 3), "a-b": FunctionCounter(lambda clip: 4)}, clips, progress=False
    )
    assert list(e.differences().index) == ["a-b − gpt-5-mini"] and "a-b-gpt-5-mini" in e.results()["paired"]


def test_what_was_not_asked_is_told_beside_the_name(place):
    folder, clips = place
    said = [
        Prediction(c.id, None, problems=("not-asked: the limit",)) if k else Prediction(c.id, c.count)
        for k, c in enumerate(clips)
    ]
    from actrep_nb.evaluate import judge

    e = judge({"m": said, "n": [Prediction(c.id, c.count) for c in clips]}, clips, source="clips.csv")
    assert (
        list(e.table().index) == ["m (5 not asked)", "n"]
        and len(e.not_asked("m")) == 5
        and e.results()["clips"] == "clips.csv"
    )


def test_accepted_counts_are_kept_with_the_predictions(place, tmp_path, capsys):
    "Whoever reads the file can judge again; `why` says nothing of labels that did not change."
    folder, clips = place
    rows = [{"name": c.action, "video_path": Path(c.video).name, "count": [c.count, c.count + 2]} for c in clips]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "two.py").write_text("def two(clip): return 3")
    os.chdir(tmp_path)
    try:
        assert (
            main(["evaluate", "p.json", "--videos", str(folder / "videos"), "--model", "two.py:two", "--out", "j"]) == 0
        )
        kept = [json.loads(line) for line in (tmp_path / "j/predictions.jsonl").read_text().splitlines()]
        assert all(r["accepted"] == [c.count, c.count + 2] and r["true"] in r["accepted"] for r, c in zip(kept, clips))
        assert (
            main(["why", "j", "p.json", "--videos", str(folder / "videos")]) == 0
            and "another count" not in capsys.readouterr().err
        )
    finally:
        os.chdir(ROOT)
