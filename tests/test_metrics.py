"Metrics against a second computation in plain Python, and intervals against simulation."

import math
import os
import random
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actrep_nb.metrics import (
    METRICS,
    PROTOCOLS,
    bootstrap_ci,
    boundary_metrics,
    choice_metrics,
    clip_duration,
    clip_metrics,
    clip_period,
    count_bin,
    count_metrics,
    cycle_map,
    cycle_metrics,
    density_count,
    grounding_metrics,
    metrics_table,
    paired_bootstrap,
    protocol_table,
    stratify,
    under_protocol,
)
from actrep_nb.rewards import tiou
from actrep_nb.formats import load_clips
from actrep_nb.records import Clip, Prediction

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))
KEYS = {
    "n",
    "parse_rate",
    "mae",
    "mae_pos",
    "abs_mae",
    "median_ae",
    "rmse",
    "obo",
    "exact",
    "bias",
    "r2",
    "modal_answer",
    "modal_share",
}


def by_hand(preds, trues):
    "The definitions, one clip after the other."
    if not trues:
        return None
    said = [0 if p is None else p for p in preds]
    absolute = [abs(s - t) for s, t in zip(said, trues)]
    positive = [a / (t + 0.1) for a, t in zip(absolute, trues) if t >= 1]
    read, spread = [p for p in preds if p is not None], sum((t - sum(trues) / len(trues)) ** 2 for t in trues)
    modal = max(sorted(set(read)), key=read.count) if read else None
    return {
        "n": len(trues),
        "parse_rate": sum(p is not None for p in preds) / len(preds),
        "mae": statistics.fmean(a / (t + 0.1) for a, t in zip(absolute, trues)),
        "mae_pos": statistics.fmean(positive) if positive else math.nan,
        "abs_mae": statistics.fmean(absolute),
        "median_ae": statistics.median(absolute),
        "rmse": math.sqrt(statistics.fmean(a * a for a in absolute)),
        "obo": sum(p is not None and -1 <= p - t <= 1 for p, t in zip(preds, trues)) / len(trues),
        "exact": sum(p is not None and p == t for p, t in zip(preds, trues)) / len(trues),
        "bias": statistics.fmean(s - t for s, t in zip(said, trues)),
        "r2": 1 - sum((t - s) ** 2 for s, t in zip(said, trues)) / spread if len(set(trues)) > 1 else math.nan,
        "modal_answer": modal,
        "modal_share": read.count(modal) / len(read) if read else math.nan,
    }


def test_against_a_second_computation():
    rng = np.random.default_rng(0)
    for case in range(1500):
        n = int(rng.integers(1, 30))
        trues = rng.integers(0, [3, 12, 140][case % 3], n).tolist()
        preds = [None if rng.random() < [0, 0.2, 0.9][case % 3] else max(0, int(t + rng.normal(0, 2))) for t in trues]
        result = count_metrics(preds, trues)
        kept = [(p, t) for p, t in zip(preds, trues) if p is not None]
        assert set(result) == KEYS | {"parsed_only"} and set(result["parsed_only"]) == KEYS
        assert {k: result[k] for k in KEYS} == pytest.approx(by_hand(preds, trues), nan_ok=True)
        if kept:
            assert result["parsed_only"] == pytest.approx(by_hand(*map(list, zip(*kept))), nan_ok=True)


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


@pytest.mark.parametrize(
    "preds, trues, message",
    [
        ([1], [], "1 predictions for 0"),
        ([1], [-1], "true count 0"),
        ([1], [float("nan")], "true count 0"),
        ([1], [None], "true count 0"),
        ([1, float("inf")], [1, 1], "prediction 1"),
        (["3"], [3], "prediction 0"),
        ([True], [1], "prediction 0"),
    ],
)
def test_bad_input(preds, trues, message):
    with pytest.raises(ValueError, match=message):
        count_metrics(preds, trues)


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
    assert (
        mean == values.mean()
        and low == pytest.approx(mean - half, abs=0.05)
        and high == pytest.approx(mean + half, abs=0.05)
    )
    assert bootstrap_ci(values, seed=1) == bootstrap_ci(values, seed=1) != bootstrap_ci(values, seed=2)
    assert bootstrap_ci([2.0]) == (2.0, 2.0, 2.0)
    median, low, high = bootstrap_ci(values, stat=np.median)
    assert low < median == np.median(values) < high


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bootstrap_ci([1.0, float("nan")]), "1 of 2 values are NaN or infinite"),
        (lambda: bootstrap_ci([[1.0]]), "one number per clip"),
        (lambda: bootstrap_ci([1.0], level=95), "level"),
        (lambda: paired_bootstrap([1], [1, 2]), "same clips"),
    ],
)
def test_bootstrap_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_table_agrees_with_count_metrics():
    rng = np.random.default_rng(6)
    trues = rng.integers(0, 20, 60).tolist()
    preds = [None if rng.random() < 0.1 else max(0, int(t + rng.integers(-2, 3))) for t in trues]
    table, plain = metrics_table(preds, trues), count_metrics(preds, trues)
    assert {name: row["value"] for name, row in table.items()} == pytest.approx(
        {name: plain[name] for name in KEYS - {"n", "modal_answer"}}
    )
    assert all(row["lo"] <= row["value"] <= row["hi"] for row in table.values())


def test_interval_of_r_squared_against_a_loop():
    rng = np.random.default_rng(8)
    trues = rng.integers(1, 30, 50).tolist()
    preds = [int(t + rng.integers(-4, 5)) for t in trues]
    found, drawn = metrics_table(preds, trues, n=4000)["r2"], []
    for _ in range(4000):
        rows = rng.integers(0, 50, 50)
        drawn.append(
            1
            - sum((trues[i] - preds[i]) ** 2 for i in rows)
            / sum((trues[i] - np.mean([trues[j] for j in rows])) ** 2 for i in rows)
        )
    assert (found["lo"], found["hi"]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01) and found[
        "lo"
    ] < found["value"] < found["hi"]
    assert math.isnan(metrics_table([1, 2], [3, 3])["r2"]["value"]) and math.isnan(
        metrics_table([None], [3])["modal_share"]["value"]
    )


def test_several_accepted_counts():
    clips = [Clip("a.mp4", "squat", 6, extra={"accepted": [6, 7]}), Clip("b.mp4", "squat", 6)]
    assert [
        stratify(clips, said, "action")["squat"][m]
        for said in ([7, 7], [9, 6], [None, 6])
        for m in ("exact", "obo", "abs_mae")
    ] == [0.5, 1, 0.5, 0.5, 0.5, 1, 0.5, 0.5, 3]
    assert PROTOCOLS["ours"].score([[8], [8]], clips) == pytest.approx(
        {"judged": 2, "left_out": 0, "mae": (1 / 7.1 + 2 / 6.1) / 2, "obo": 0.5}
    )


@given(st.integers(0, 500))
def test_every_count_has_one_bin(count):
    name = count_bin(count)
    low, _, high = name.rstrip("+").partition("–")
    assert int(low) <= count and (name.endswith("+") or count <= int(high or low))


def test_strata_partition_the_clips():
    clips = [
        Clip(f"{i}.mp4", action, count, split=None if i % 2 else "test")
        for i, (action, count) in enumerate([("squat", 3), ("squat", 30), ("push_up", 0), ("", 141)])
    ]
    preds = [Prediction(c.id, c.count) for c in clips]
    assert {k: m["n"] for k, m in stratify(clips, preds).items()} == {"0": 1, "1–5": 1, "21–40": 1, "41+": 1}
    assert {k: m["n"] for k, m in stratify(clips, preds, "action").items()} == {"": 1, "push_up": 1, "squat": 2}
    assert {k: m["n"] for k, m in stratify(clips, [None] * 4, "split").items()} == {"test": 2, None: 2}
    assert list(stratify(clips, preds, lambda clip: clip.count > 10)) == [False, True]
    with pytest.raises(ValueError, match="no field"):
        stratify(clips, preds, "actoin")
    with pytest.raises(ValueError, match="1 predictions for 4"):
        stratify(clips, preds[:1])


def test_cycles_by_hand():
    true = ((1.0, 2.0), (2.0, 3.0), (4.0, 5.0))
    result = cycle_metrics([((1.0, 2.0), (2.4, 3.4), (4.0, 5.2)), None, ((0.0, 1.0),)], [true, true, None])
    assert (result["n"], result["left_out"]) == (2, 1)
    assert (
        result["precision"] == pytest.approx(2 / 3)
        and result["recall"] == pytest.approx(2 / 6)
        and result["f1"] == pytest.approx(4 / 9)
    )
    assert result["tiou"] == pytest.approx((1 + 1 / 1.2) / 2) and result["edge_error"] == pytest.approx((0 + 0.1) / 2)
    assert math.isnan(cycle_metrics([], [])["f1"]) and tiou((0, 2), (1, 3)) == pytest.approx(1 / 3)


# ---- periods and durations -----------------------------------------------------------------------------------------


def test_what_is_not_known_is_counted_not_dropped():
    clips = [
        Clip("a.mp4", "", 2, [(0, 0.4), (1, 1.6)]),
        Clip("b.mp4", "", 3),
        Clip("c.mp4", "", 0, []),
        Clip("d.mp4", "", 1, [(2, 2)]),
        Clip("e.mp4", "", 1, [(0, 9)]),
    ]
    by_period = stratify(clips, [2, 3, 0, 1, 1], "period")
    assert {name: m["n"] for name, m in by_period.items()} == {"0.5–1 s": 1, "2+ s": 1, "unknown": 3} and list(
        by_period
    )[-1] == "unknown"
    assert [clip_period(c) for c in clips] == [pytest.approx(0.5), None, None, None, 9]


def test_duration_is_taken_from_what_is_surest():
    whole = {"fps": 25, "num_frames": 500, "duration": 999.0}
    assert clip_duration(Clip("a.mp4", "", 1, [(0, 1)], window=(3, 7.5), extra=whole)) == 4.5
    assert (
        clip_duration(Clip("a.mp4", "", 1, [(0, 1)], extra=whole)) == 20
        and clip_duration(Clip("a.mp4", "", 1, [(0, 1)], extra={"duration": 12.0, "fps": 25})) == 12
    )
    assert (
        clip_duration(Clip("a.mp4", "", 2, [(0, 1), (1, 3)])) == 3
        and clip_duration(Clip("a.mp4", "", 2)) is None
        and clip_duration(Clip("a.mp4", "", 0, [])) is None
    )
    assert list(
        stratify(
            [Clip("a.mp4", "", 2), Clip("b.mp4", "", 1, extra={"duration": 60.0}), Clip("c.mp4", "", 1, [(0, 10)])],
            [1, 1, 1],
            "duration",
        )
    ) == ["10–20 s", "40+ s", "unknown"]


# ---- where the repetitions are -------------------------------------------------------------------------------------


def jittered(rng, most=8):
    """Cycles one after the other, and a list that is off here and there, in any order, with some missing and some made
    up.
    """
    starts = np.cumsum(rng.uniform(0.3, 1.2, rng.integers(0, most)))
    true = [(s, s + rng.uniform(0.2, 1.0)) for s in starts]
    pred = [(a + rng.normal(0, 0.15), b + rng.normal(0, 0.15)) for a, b in true if rng.random() < 0.8] + [
        (s, s + 0.5) for s in rng.uniform(0, 6, rng.integers(0, 3))
    ]
    return tuple(pred[i] for i in rng.permutation(len(pred))), tuple(true)


def test_boundary_hits_against_an_assignment_solver():
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(0)
    for frames in (1, 3, 6, 12):
        cases = [jittered(rng) for _ in range(60)]
        hits = 0
        for pred, true in cases:
            near = np.array(
                [[abs(a - c) <= frames / 25 and abs(b - d) <= frames / 25 for c, d in true] for a, b in pred]
            ).reshape(len(pred), len(true))
            hits += int(near[linear_sum_assignment(near, maximize=True)].sum())
        listed, annotated = (sum(map(len, side)) for side in zip(*cases))
        found = boundary_metrics(*zip(*cases), tolerance=frames, fps=25)
        assert (
            found["precision"] == pytest.approx(hits / listed)
            and found["recall"] == pytest.approx(hits / annotated)
            and found["f1"] == pytest.approx(2 * hits / (listed + annotated))
        )


def test_tolerance_is_in_frames_or_seconds_and_both_ends_count():
    true = [((1.0, 2.0),)]
    assert [
        boundary_metrics([((1.2, 2.0),)], true, tolerance=t, fps=f)["f1"]
        for t, f in ((5, 30), (6, 30), (0.2, 1), (0.19, 1))
    ] == [0, 1, 1, 0]
    assert boundary_metrics([((1.0, 2.5),)], true)["f1"] == 0 and boundary_metrics([None], true)["recall"] == 0
    assert boundary_metrics([None, ((0, 1),)], [((0, 1),), None])["left_out"] == 1 and math.isnan(
        boundary_metrics([], [])["f1"]
    )
    for wrong in ({"tolerance": -1}, {"fps": 0}):
        with pytest.raises(ValueError, match="tolerance"):
            boundary_metrics([], [], **wrong)


def activitynet(preds, trues, scores, least):
    """The procedure of ActivityNet's evaluation, written as it is told: by falling score, then interpolated precision
    over recall.
    """
    order = sorted(((s, k, i) for k, rank in enumerate(scores) for i, s in enumerate(rank)), reverse=True)
    locked, hits = set(), []
    for _, k, i in order:
        free = [(tiou(preds[k][i], t), j) for j, t in enumerate(trues[k]) if (k, j) not in locked]
        overlap, j = max(free, default=(0.0, -1))
        hits.append(overlap >= least and j >= 0)
        if hits[-1]:
            locked.add((k, j))
    found, positives = np.cumsum(hits), sum(map(len, trues))
    recall, precision = (
        np.concatenate([[0], found / positives, [1]]),
        np.concatenate([[0], found / np.arange(1, len(hits) + 1), [0]]),
    )
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    step = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[step] - recall[step - 1]) * precision[step]))


def test_map_against_activitynets_procedure():
    rng = np.random.default_rng(1)
    for _ in range(60):
        preds, trues = zip(*[jittered(rng) for _ in range(4)])
        if not any(trues):
            continue
        scores = [rng.permutation(len(p)) + rng.random(len(p)) for p in preds]
        found = cycle_map(preds, trues, scores=scores)
        for least in (0.3, 0.4, 0.5, 0.6, 0.7):
            assert found[f"ap@{least}"] == pytest.approx(activitynet(preds, trues, scores, least))
        assert found["map"] == pytest.approx(np.mean([found[f"ap@{least}"] for least in (0.3, 0.4, 0.5, 0.6, 0.7)]))


def test_without_scores_order_does_not_matter_and_the_area_is_a_product():
    rng = np.random.default_rng(2)
    for _ in range(40):
        pred, true = jittered(rng)
        if not true:
            continue
        plain = cycle_map([pred], [true])
        assert plain == cycle_map([pred[::-1]], [true])
        hit = sum(max((tiou(p, t) for t in true), default=0) >= 0.7 for p in pred)
        if pred and hit == len(
            {
                max(range(len(true)), key=lambda j: tiou(p, true[j]))
                for p in pred
                if max(tiou(p, t) for t in true) >= 0.7
            }
        ):
            assert plain["ap@0.7"] == pytest.approx(hit / len(pred) * hit / len(true))
    assert math.isnan(cycle_map([((0, 1),)], [()])["map"]) and cycle_map([None], [((0, 1),)])["map"] == 0
    with pytest.raises(ValueError, match="one number for each"):
        cycle_map([((0, 1),)], [((0, 1),)], scores=[[]])


# ---- other answers -------------------------------------------------------------------------------------------------


def test_grounding_and_choices_by_hand():
    preds, trues = [(0, 10), (0, 5), (0, 4), None, (5, 1)], [(0, 10)] * 5
    found = grounding_metrics(preds, trues)
    assert {name: row["value"] for name, row in found.items()} == pytest.approx(
        {"miou": (1 + 0.5 + 0.4) / 5, "r@0.3": 0.6, "r@0.5": 0.4, "r@0.7": 0.2, "parse_rate": 0.8}
    )
    assert all(row["lo"] <= row["value"] <= row["hi"] for row in found.values()) and found == grounding_metrics(
        preds, trues
    )
    chosen = choice_metrics(["A", "B", None, "a"], ["A", "C", "A", "A"])
    assert (chosen["accuracy"]["value"], chosen["parse_rate"]["value"]) == (0.25, 0.75)
    assert math.isnan(choice_metrics([], [])["accuracy"]["value"]) and math.isnan(
        grounding_metrics([], [])["miou"]["value"]
    )
    with pytest.raises(ValueError, match="1 predictions for 0"):
        choice_metrics(["A"], [])


# ---- protocols -----------------------------------------------------------------------------------------------------


def random_judgement(seed):
    rng = random.Random(seed)
    clips = [
        Clip(f"{i}.mp4", "", n, [(k, k + 1) for k in range(n)], extra={"duration": 40.0})
        for i, n in enumerate(rng.choices(range(30), k=20))
    ]
    return [
        [None if rng.random() < 0.2 else max(0, c.count + rng.randint(-3, 3)) for _ in range(4)] for c in clips
    ], clips


@pytest.mark.parametrize("seed", range(20))
def test_protocols_by_hand(seed):
    answers, clips = random_judgement(seed)
    mean = lambda values: sum(values) / len(values)
    first = [(some[0], c.count) for some, c in zip(answers, clips)]
    zero = [(p or 0, t) for p, t in first]
    read = [(p, t) for p, t in first if p is not None]
    found = {name: protocol.score(answers, clips) for name, protocol in PROTOCOLS.items()}
    assert all(
        set(f) >= {"judged", "left_out", "mae", "obo"} and f["judged"] + f["left_out"] == 20 for f in found.values()
    )
    assert found["ours"]["mae"] == pytest.approx(mean([abs(p - t) / (t + 0.1) for p, t in zero])) and found["ours"][
        "obo"
    ] == mean([p is not None and abs(p - t) < 2 for p, t in first])
    assert found["ActRep-R1"]["mae"] == pytest.approx(mean([abs(p - t) / (t + 0.1) for p, t in read])) and found[
        "ActRep-R1"
    ]["obo"] == mean([abs(p - t) < 2 for p, t in read])
    assert (
        found["lmms-eval"]["mae"] == pytest.approx(mean([t if p is None else abs(p - t) / (t + 0.1) for p, t in first]))
        and found["lmms-eval"]["obo"] == found["ours"]["obo"]
    )
    positive = [(p, t) for p, t in zero if t]
    assert found["RepNet"]["mae"] == pytest.approx(mean([abs(p - t) / t for p, t in positive])) and found["RepNet"][
        "obo_error"
    ] == pytest.approx(mean([abs(p - t) > 1 for p, t in positive]))
    best = [min((abs((p or 0) - c.count), (p or 0)) for p in some)[0] for some, c in zip(answers, clips)]
    assert found["PoseRAC"]["mae"] == pytest.approx(
        mean([e / (c.count + 1e-9) for e, c in zip(best, clips)])
    ) and found["PoseRAC"]["obo"] == mean([e < 2 for e in best])


def pushupbench_by_hand(docs, texts):
    """lmms-eval's task `pushupbench`, written down again from its utils.py: percentages, errors in repetitions, R²
    without errors above 50.
    """
    words = (
        "none zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty"
    ).split()
    numerals = dict(zip(words, [0, *range(21)])) | {"thirty": 30, "forty": 40, "fifty": 50}
    exact, off, near, pairs = [], [], [], []
    for counts, text in zip(docs, texts):
        text = text.strip()
        if "</think>" in text:
            text = text[text.rindex("</think>") + len("</think>") :].strip()
        said = numerals.get(text.lower().replace(",", ""))
        if said is None:
            boxed = re.compile(r"\\boxed\{(\d+(?:\.\d+)?)\}").search(text)
            numbers = [boxed.group(1)] if boxed else re.compile(r"\b(\d+(?:\.\d+)?)\b").findall(text)
            said = int(round(float(numbers[-1]))) if numbers else None
        exact.append(said is not None and said in counts)
        near.append(said is not None and min(abs(said - c) for c in counts) <= 1)
        off.append(counts[0] if said is None else abs(said - counts[0]))
        if said is not None and abs(said - counts[0]) <= 50:
            pairs.append((said, counts[0]))
    mean = sum(g for _, g in pairs) / len(pairs) if pairs else 0
    total = sum((g - mean) ** 2 for _, g in pairs)
    r2 = 1 - sum((g - p) ** 2 for p, g in pairs) / total if len(pairs) > 1 and total else 0.0
    return {
        "exact": 100 * sum(exact) / len(exact),
        "mae": sum(off) / len(off),
        "obo": 100 * sum(near) / len(near),
        "r2": r2,
    }


def test_pushupbench_against_its_code_written_again():
    rng, answers = random.Random(7), 0
    forms = [
        "{}",
        "{}.",
        "\\boxed{{{}}}",
        "\\boxed{{{}.5}} of 9",
        "about {} reps",
        "<think>3 and 4</think>{}",
        "<think>{}</think>",
        "<answer>{}</answer>",
        "rep 1, rep 2, … {}",
        "{}.5",
        "-{}",
        "{},000",
        "a{}b",
        "none",
        "Twenty",
        "thirty",
        "",
        "no idea",
        "<think>9</think> seven",
        "²",
        "{} to 40",
    ]
    for case in range(150):
        n = rng.choice([1, 2, 20, 40])
        docs = [
            [c := rng.randint(0, [4, 20, 90][case % 3]), *rng.sample([c + 1, c + 2, max(0, c - 1)], rng.randint(0, 2))]
            for _ in range(n)
        ]
        if case % 7 == 0:
            docs = [docs[0]] * n
        texts = [rng.choice(forms).format(max(0, d[0] + rng.choice([-2, -1, 0, 0, 0, 1, 2, 60]))) for d in docs]
        clips = [Clip(f"{i}.mp4", "", d[0], extra={"accepted": d}) for i, d in enumerate(docs)]
        found = under_protocol(
            [Prediction(c.id, None, text=text) for c, text in zip(clips, texts)], clips, "PushupBench"
        )
        theirs = pushupbench_by_hand([list(dict.fromkeys(d)) for d in docs], texts)
        assert {
            "exact": 100 * found["exact"],
            "mae": found["mae"],
            "obo": 100 * found["obo"],
            "r2": found["r2"],
        } == pytest.approx(theirs), texts
        answers += n
    assert answers >= 2000
    assert protocol_table(
        {"a": [Prediction("0", 4)], "b": [Prediction("0", None)]},
        [Clip("0.mp4", "", 3, extra={"accepted": [3, 4]})],
        "PushupBench",
    ) == {
        "a": {"judged": 1, "left_out": 0, "mae": 1, "obo": 1, "exact": 1, "r2": 0},
        "b": {"judged": 1, "left_out": 0, "mae": 3, "obo": 0, "exact": 0, "r2": 0},
    }
    with pytest.raises(ValueError, match="no protocol 'pushup'; there are ours"):
        under_protocol([], [], "pushup")


def test_density_count_against_numerical_integration():
    from scipy.integrate import quad
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    for _ in range(10):
        ends = np.sort(rng.uniform(0, 30, 2 * rng.integers(0, 25)))
        if rng.random() < 0.5:
            ends = np.repeat(ends, 2)[1:-1]  # each cycle begins where the last one ended
        cycles = list(zip(ends[::2], ends[1::2]))
        bins = [min(math.ceil(t / 30 * 64), 63) for t in ends]
        density = np.zeros(64)
        for a, b in zip(bins[::2], bins[1::2]):
            if a == b:
                density[a] = 1
            else:
                density[a : b + 1] = [
                    quad(norm((a + b) / 2, (b - a) / 6).pdf, k - 0.5, k + 0.5)[0] for k in range(a, b + 1)
                ]
        assert density_count(cycles, 30) == round(density.sum())


def test_a_clip_without_times_is_left_out_by_transrac_only():
    answers, clips = (
        [[3], [2]],
        [Clip("a.mp4", "", 3), Clip("b.mp4", "", 2, [(0, 9), (9, 20)], extra={"duration": 30.0})],
    )
    assert PROTOCOLS["TransRAC"].score(answers, clips) == {"judged": 1, "left_out": 1, "mae": 0, "obo": 1}
    assert PROTOCOLS["ours"].score(answers, clips)["judged"] == 2 and math.isnan(
        PROTOCOLS["ActRep-R1"].score([[None]], clips[:1])["mae"]
    )


@pytest.mark.skipif(not SHARED.exists(), reason="the real annotation files are not at hand (set ACTREP_SHARED_DATA)")
def test_a_perfect_counter_on_repcount_a_under_transracs_truth():
    "As counted from the published code: 49 of 152 videos have another truth, 43 of them by more than one."
    clips = list(load_clips(SHARED / "annotations/repcount_a/test_with_fps.csv", split="test"))
    off = [abs(density_count(c.cycles, clip_duration(c)) - c.count) for c in clips]
    found = PROTOCOLS["TransRAC"].score([[c.count] for c in clips], clips)
    assert (
        (sum(e > 0 for e in off), sum(e > 1 for e in off)) == (49, 43)
        and found["obo"] == pytest.approx(0.717, abs=1e-3)
        and found["mae"] == pytest.approx(0.148, abs=1e-3)
    )


def test_every_metric_has_the_same_thresholds():
    pred, true = (4.5, 7.3), (4.0, 8.0)  # overlap 2.8 of 4.0, exactly .7, which floats miss
    assert tiou(pred, true) < 0.7
    assert cycle_metrics([(pred,)], [(true,)], 0.7)["f1"] == 1
    assert cycle_map([(pred,)], [(true,)], thresholds=(0.7,))["map"] == 1
    assert grounding_metrics([pred], [true], (0.7,), n=2)["r@0.7"]["value"] == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_looks_at_what_it_is_given(name):
    score, clip = PROTOCOLS[name].score, Clip("a.mp4", "squat", 1, ((0.0, 1.0),), extra={"duration": 2.0})
    nothing = score([], [])
    assert nothing["judged"] == nothing["left_out"] == 0 and math.isnan(nothing["mae"]) and math.isnan(nothing["obo"])
    assert score([[Prediction("a", 1)]], [clip]) == score([[1]], [clip])
    for answers, clips in (([[1]], []), ([], [clip]), ([[1], [1]], [clip])):
        with pytest.raises(ValueError, match=f"answers to {len(answers)} clips, there are {len(clips)}"):
            score(answers, clips)
    for said in ("3", 1.5, True, (1,)):
        with pytest.raises(ValueError, match="clip 'a'.* a predicted count is"):
            score([[said]], [clip])
    for some in ([], 3, "3", None):
        with pytest.raises(ValueError, match="clip 'a' needs a list"):
            score([some], [clip])
    with pytest.raises(ValueError, match="clip 'g'.*asks for grounding"):
        score([[1]], [Clip("g.mp4", "", 1, ((0.0, 1.0),), extra={"task": "grounding"})])


def test_strata_name_the_clip_whose_prediction_is_none():
    with pytest.raises(ValueError, match="clip 'b'"):
        stratify([Clip("a.mp4", "x", 1), Clip("b.mp4", "x", 2)], [1, "2"])


def test_scores_and_thresholds_of_cycle_map_are_looked_at():
    one = [((0.0, 1.0),)]
    for scores, message in (
        ([[math.nan]], "scores of clip 0"),
        ([[None]], "scores of clip 0"),
        ([["a"]], "scores of clip 0"),
        ([None], "one number for each"),
    ):
        with pytest.raises(ValueError, match=message):
            cycle_map(one, one, scores)
    with pytest.raises(ValueError, match="at least one threshold"):
        cycle_map(one, one, thresholds=())


def test_what_is_not_finite_is_refused():
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            bootstrap_ci([1.0, bad])
        with pytest.raises(ValueError, match="both finite"):
            boundary_metrics([()], [()], bad)
        with pytest.raises(ValueError, match="both finite"):
            boundary_metrics([()], [()], 1, bad)


def test_boundaries_of_a_long_chain_are_paired():
    """Each listed cycle is near its own annotated one and the one before; in this order every pairing moves all the
    others.
    """
    n = 1500
    true = tuple((float(i), i + 0.5) for i in range(n))
    listed = tuple((i + 0.5, i + 1.0) for i in range(n - 1)) + ((0.0, 0.5),)
    assert boundary_metrics([listed], [true], 0.5, fps=1)["f1"] == 1


def test_actrep_r1_as_published_on_random_answers():
    "Its `compute_metrics` stated once more: percent there, fractions here."
    rng = np.random.default_rng(3)
    for _ in range(2000):
        n = int(rng.integers(1, 12))
        clips = [Clip(f"{k}.mp4", "", int(rng.integers(0, 9))) for k in range(n)]
        said = [None if rng.random() < 0.2 else int(rng.integers(-1, 11)) for _ in clips]
        errors = [abs(a - c.count) for a, c in zip(said, clips) if a is not None and a >= 0]
        found = PROTOCOLS["ActRep-R1"].score([[a] for a in said], clips)
        if not errors:
            assert math.isnan(found["median_ae"]) and found["left_out"] == n
            continue
        relative = [abs(a - c.count) / (c.count + 0.1) for a, c in zip(said, clips) if a is not None and a >= 0]
        theirs = dict(
            judged=len(errors),
            left_out=n - len(errors),
            mae=sum(relative) / len(errors),
            obo=sum(e <= 1 for e in errors) / len(errors),
            exact=errors.count(0) / len(errors),
            median_ae=sorted(errors)[len(errors) // 2],
        )
        assert found == pytest.approx(theirs, abs=1e-12)
