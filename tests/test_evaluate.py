"""Evaluation: every clip accounted for, numbers that agree with an independent computation, servers that fail."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from actrep_nb.evaluate import Evaluation, LocalCounter, compare, evaluate, judge, load_predictions
from actrep_nb.records import Clip, ClipSet, Prediction, Rejected
from actrep_nb.synth import draw_clip
from actrep_nb.video import write_video


def predictions(counts, trues):
    return [Prediction(str(i), p, true=t) for i, (p, t) in enumerate(zip(counts, trues))]


def clips_of(trues):
    return [Clip(f"{i}.mp4", "squat", t) for i, t in enumerate(trues)]


class Fixed:
    def __init__(self, counts):
        self.counts = counts

    def predict(self, clips, progress=True):
        return [Prediction(c.id, n) for c, n in zip(clips, self.counts)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    "Three clips: two that open, a broken one between them."
    folder = tmp_path_factory.mktemp("videos")
    out = []
    for k, (action, n) in enumerate([("squat", 2), ("pull_up", 1), ("push_up", 3)]):
        d = draw_clip(action, n, seed=k, max_seconds=8)
        write_video(folder / f"{action}.mp4", d.pixels, d.fps)
        out.append(Clip(str(folder / f"{action}.mp4"), action, n, d.cycles))
    (folder / "pull_up.mp4").write_bytes(b"\0" * 1000)
    return out


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    from actrep_nb.models import load_model
    from actrep_nb.rollout import SamplingParams
    from actrep_nb.tiny_base import make_tiny_checkpoint

    path = make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return LocalCounter(*load_model(path, device="cpu"), params=SamplingParams(4), batch_size=2)


def test_results_match_an_independent_computation():
    rng = np.random.default_rng(0)
    trues = rng.integers(0, 30, 80).tolist()
    counts = [None if rng.random() < 0.2 else int(max(0, t + rng.integers(-3, 4))) for t in trues]
    e = evaluate({"base": Fixed([5] * 80), "sft": Fixed(counts)}, clips_of(trues), progress=False)
    obo = sum(p is not None and abs(p - t) <= 1 for p, t in zip(counts, trues)) / 80
    mae = sum(abs((p or 0) - t) / (t + 0.1) for p, t in zip(counts, trues)) / 80
    base = sum(abs(5 - t) / (t + 0.1) for t in trues) / 80
    r = e.results()
    assert r["models"]["sft"]["obo"]["value"] == pytest.approx(obo) and r["models"]["sft"]["mae"][
        "value"
    ] == pytest.approx(mae)
    assert r["paired"]["sft-base"]["mae"]["value"] == pytest.approx(mae - base)
    assert set(r["models"]["sft"]["obo"]) == {"value", "lo", "hi"} and (r["n"], r["seed"]) == (80, 0)
    assert (
        r["parsed_only"]["sft"]["n"] == sum(c is not None for c in counts)
        and r["parsed_only"]["sft"]["parse_rate"] == 1.0
    )
    assert r["without_count"]["sft"] == [str(i) for i, c in enumerate(counts) if c is None]
    assert sum(s["n"] for s in r["strata"]["count"]["sft"].values()) == 80
    for m in r["models"]["sft"].values():
        assert m["lo"] <= m["value"] <= m["hi"]


def test_paired_interval_excludes_zero_only_when_it_should():
    rng = np.random.default_rng(1)
    trues = rng.integers(2, 20, 120).tolist()
    noise = lambda k: predictions([t + int(round(rng.normal(0, k))) for t in trues], trues)
    better = compare(noise(0.5), noise(3))["abs_mae"]
    assert better["hi"] < 0
    draws = [compare(noise(3), noise(3), n=300)["abs_mae"] for _ in range(60)]
    assert (
        sum(not d["lo"] <= 0 <= d["hi"] for d in draws) <= 8
    )  # 3 expected at 95 %; more than 8 has a chance below 1 %


def test_differences_have_a_direction():
    trues = list(range(20))
    a, b = predictions([t + 1 for t in trues], trues), predictions([t + 3 for t in trues], trues)
    assert compare(b, a)["abs_mae"]["value"] == 2.0 and compare(a, b)["abs_mae"]["value"] == -2.0


def test_compare_pairs_by_clip_not_by_position():
    trues = list(range(1, 30))
    a = predictions([t + 1 for t in trues], trues)
    assert compare(a, a[::-1])["abs_mae"] == {"value": 0.0, "lo": 0.0, "hi": 0.0}
    with pytest.raises(ValueError, match="different clips"):
        compare(a, a[:-1])
    with pytest.raises(ValueError, match="true count"):
        compare([replace(p, true=None) for p in a], a)


def test_predictions_out_of_step_are_refused():
    clips = clips_of([1, 2])
    with pytest.raises(ValueError, match="counter 'x' made 1 predictions for 2 clips"):
        judge({"x": [Prediction("0", 1)]}, clips)
    with pytest.raises(ValueError, match="prediction 0 is about '1'"):
        judge({"x": [Prediction("1", 1), Prediction("0", 1)]}, clips)
    with pytest.raises(ValueError, match="no clips"):
        evaluate({"x": Fixed([])}, [])


def test_what_is_saved_is_what_was_judged(tmp_path):
    clips = ClipSet(clips_of([3, 0]), [Rejected("a.csv", 7, "count", "count is nan", {})])
    said = [
        Prediction(
            "0",
            2,
            ((0.5, 1.0), (1.0, 2.0)),
            ("a problem",),
            "<answer>2</answer> ümlaut\u2028line\x85end",
            action="squat",
            seconds=0.5,
        ),
        Prediction("1", None, None),
    ]
    e = judge({"m": said}, clips)
    e.save(tmp_path)
    assert load_predictions(tmp_path) == e.predictions
    r = json.loads((tmp_path / "results.json").read_text())
    assert r == e.results() and r["rejected"] == ["a.csv, row 7, count: count is nan"]
    assert "1 rows rejected" in e.accounts() and "m 1" in e.accounts()
    rows = [
        json.loads(line)
        for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").strip("\n").split("\n")
    ]
    assert [r["video"] for r in rows] == ["0.mp4", "1.mp4"] and rows[0]["true"] == 3


def test_results_hold_no_nan(tmp_path):
    e = judge({"m": [Prediction("0", None)]}, clips_of([0]))
    text = e.save(tmp_path).read_text()
    assert isinstance(e, Evaluation) and "NaN" not in text and "Infinity" not in text
    assert not any(math.isnan(m["value"]) for m in json.loads(text)["models"]["m"].values() if m["value"] is not None)


def test_local_counter_keeps_order_and_names_the_broken_clip(local, videos):
    gone = Clip("no/such/file.mp4", "squat", 1)
    said = local.predict([videos[1], videos[0], gone, videos[2]], progress=False)
    assert [p.id for p in said] == ["pull_up", "squat", "file", "push_up"]
    assert [p.text is None for p in said] == [True, False, True, False]
    assert "pull_up.mp4" in said[0].problems[0] and "no/such/file.mp4" in said[2].problems[0]
    assert [p.true for p in said] == [1, 2, 1, 3]
    assert local.predict([videos[1]], progress=False)[0].count is None, "a batch of broken clips only"
    alone = local.predict([videos[2]], progress=False)[0]
    assert alone.text == said[3].text, "an answer does not depend on the other clips of its batch"
