"Metrics against a second computation in plain Python, and intervals against simulation."
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actrep_nb.metrics import METRICS, bootstrap_ci, clip_metrics, count_bin, count_metrics, cycle_metrics, metrics_table, paired_bootstrap, stratify, tiou
from actrep_nb.records import Clip, Prediction

KEYS = {"n", "parse_rate", "mae", "mae_pos", "abs_mae", "median_ae", "rmse", "obo", "exact", "bias"}


def by_hand(preds, trues):
    "The definitions, one clip after the other."
    if not trues: return None
    said = [0 if p is None else p for p in preds]
    absolute = [abs(s - t) for s, t in zip(said, trues)]
    positive = [a / (t + 0.1) for a, t in zip(absolute, trues) if t >= 1]
    return {"n": len(trues), "parse_rate": sum(p is not None for p in preds) / len(preds), "mae": statistics.fmean(a / (t + 0.1) for a, t in zip(absolute, trues)),
            "mae_pos": statistics.fmean(positive) if positive else math.nan, "abs_mae": statistics.fmean(absolute), "median_ae": statistics.median(absolute), "rmse": math.sqrt(statistics.fmean(a * a for a in absolute)),
            "obo": sum(p is not None and -1 <= p - t <= 1 for p, t in zip(preds, trues)) / len(trues), "exact": sum(p is not None and p == t for p, t in zip(preds, trues)) / len(trues), "bias": statistics.fmean(s - t for s, t in zip(said, trues))}


def test_against_a_second_computation():
    rng = np.random.default_rng(0)
    for case in range(1500):
        n = int(rng.integers(1, 30))
        trues = rng.integers(0, [3, 12, 140][case % 3], n).tolist()
        preds = [None if rng.random() < [0, .2, .9][case % 3] else max(0, int(t + rng.normal(0, 2))) for t in trues]
        result = count_metrics(preds, trues)
        kept = [(p, t) for p, t in zip(preds, trues) if p is not None]
        assert set(result) == KEYS | {"parsed_only"} and set(result["parsed_only"]) == KEYS
        assert {k: result[k] for k in KEYS} == pytest.approx(by_hand(preds, trues), nan_ok=True)
        if kept: assert result["parsed_only"] == pytest.approx(by_hand(*map(list, zip(*kept))), nan_ok=True)


def test_silence_is_a_miss_even_at_zero_and_one():
    result = count_metrics([None, None], [0, 1])
    assert (result["obo"], result["exact"], result["parse_rate"]) == (0, 0, 0)
    assert result["mae"] == pytest.approx((0 + 1 / 1.1) / 2) and result["bias"] == -0.5
    assert result["parsed_only"]["n"] == 0 and math.isnan(result["parsed_only"]["obo"])


def test_zero_counts_and_epsilon():
    result = count_metrics([10, 3], [0, 3])
    assert result["mae"] == pytest.approx(50) and result["mae_pos"] == 0


def test_nothing_to_judge():
    result = count_metrics([], [])
    assert result["n"] == 0 and math.isnan(result["mae"]) and all(math.isnan(x) for x in bootstrap_ci([]))
    assert math.isnan(metrics_table([], [])["obo"]["value"])


@pytest.mark.parametrize("preds, trues, message", [([1], [], "1 predictions for 0"), ([1], [-1], "true count 0"), ([1], [float("nan")], "true count 0"), ([1], [None], "true count 0"),
                                                   ([1, float("inf")], [1, 1], "prediction 1"), (["3"], [3], "prediction 0"), ([True], [1], "prediction 0")])
def test_bad_input(preds, trues, message):
    with pytest.raises(ValueError, match=message): count_metrics(preds, trues)


def test_accepts_numpy():
    assert count_metrics(np.array([3, 4]), np.array([3, 3]))["exact"] == 0.5
    assert set(clip_metrics([1], [1])) == set(METRICS)


def test_interval_covers_at_the_nominal_rate():
    rng, inside = np.random.default_rng(3), 0
    for _ in range(400):
        _, low, high = bootstrap_ci(rng.exponential(1.0, 80), n=500, seed=int(rng.integers(1e9)))
        inside += low <= 1.0 <= high
    assert 0.89 <= inside / 400 <= 0.98, "95 % nominal; the percentile interval of a skewed mean falls a little short"


def test_paired_interval_covers_at_the_nominal_rate_and_is_narrower():
    rng, inside, narrower = np.random.default_rng(4), 0, 0
    for _ in range(300):
        hard = rng.exponential(1.0, 80)
        a, b = hard + rng.normal(0.1, 0.2, 80), hard + rng.normal(0, 0.2, 80)
        paired = paired_bootstrap(a, b, n=400, seed=int(rng.integers(1e9)))
        inside += paired["lo"] <= 0.1 <= paired["hi"]
        narrower += paired["hi"] - paired["lo"] < bootstrap_ci(a, n=400)[2] - bootstrap_ci(a, n=400)[1]
    assert 0.90 <= inside / 300 <= 0.985 and narrower == 300


def test_bootstrap_against_a_loop_and_the_closed_form():
    values = np.random.default_rng(5).normal(2, 3, 400)
    mean, low, high = bootstrap_ci(values, n=4000)
    half = 1.96 * values.std() / 20
    assert mean == values.mean() and low == pytest.approx(mean - half, abs=0.05) and high == pytest.approx(mean + half, abs=0.05)
    assert bootstrap_ci(values, seed=1) == bootstrap_ci(values, seed=1) != bootstrap_ci(values, seed=2)
    assert bootstrap_ci([2.0]) == (2.0, 2.0, 2.0)
    median, low, high = bootstrap_ci(values, stat=np.median)
    assert low < median == np.median(values) < high


@pytest.mark.parametrize("call, message", [(lambda: bootstrap_ci([1.0, float("nan")]), "1 of 2 values are NaN"), (lambda: bootstrap_ci([[1.0]]), "one number per clip"), (lambda: bootstrap_ci([1.0], level=95), "level"), (lambda: paired_bootstrap([1], [1, 2]), "same clips")])
def test_bootstrap_refuses(call, message):
    with pytest.raises(ValueError, match=message): call()


def test_table_agrees_with_count_metrics():
    rng = np.random.default_rng(6)
    trues = rng.integers(0, 20, 60).tolist()
    preds = [None if rng.random() < .1 else max(0, int(t + rng.integers(-2, 3))) for t in trues]
    table, plain = metrics_table(preds, trues), count_metrics(preds, trues)
    assert {name: row["value"] for name, row in table.items()} == pytest.approx({name: plain[name] for name in KEYS - {"n"}})
    assert all(row["lo"] <= row["value"] <= row["hi"] for row in table.values())


@given(st.integers(0, 500))
def test_every_count_has_one_bin(count):
    name = count_bin(count)
    low, _, high = name.rstrip("+").partition("–")
    assert int(low) <= count and (name.endswith("+") or count <= int(high or low))


def test_strata_partition_the_clips():
    clips = [Clip(f"{i}.mp4", action, count, split=None if i % 2 else "test") for i, (action, count) in enumerate([("squat", 3), ("squat", 30), ("push_up", 0), ("", 141)])]
    preds = [Prediction(c.id, c.count) for c in clips]
    assert {k: m["n"] for k, m in stratify(clips, preds).items()} == {"0": 1, "1–5": 1, "21–40": 1, "41+": 1}
    assert {k: m["n"] for k, m in stratify(clips, preds, "action").items()} == {"": 1, "push_up": 1, "squat": 2}
    assert {k: m["n"] for k, m in stratify(clips, [None] * 4, "split").items()} == {"test": 2, None: 2}
    assert list(stratify(clips, preds, lambda clip: clip.count > 10)) == [False, True]
    with pytest.raises(ValueError, match="no field"): stratify(clips, preds, "actoin")
    with pytest.raises(ValueError, match="1 predictions for 4"): stratify(clips, preds[:1])


def test_cycles_by_hand():
    true = ((1.0, 2.0), (2.0, 3.0), (4.0, 5.0))
    result = cycle_metrics([((1.0, 2.0), (2.4, 3.4), (4.0, 5.2)), None, ((0.0, 1.0),)], [true, true, None])
    assert (result["n"], result["left_out"]) == (2, 1)
    assert result["precision"] == pytest.approx(2 / 3) and result["recall"] == pytest.approx(2 / 6) and result["f1"] == pytest.approx(4 / 9)
    assert result["tiou"] == pytest.approx((1 + 1 / 1.2) / 2) and result["edge_error"] == pytest.approx((0 + 0.1) / 2)
    assert math.isnan(cycle_metrics([], [])["f1"]) and tiou((0, 2), (1, 3)) == pytest.approx(1 / 3)
