"Rewards against hand-computed values, brute force and their own stated properties."
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from actrep_nb.records import Clip
from actrep_nb.rewards import REWARDS, combine, count_exact, count_fixed, count_gaussian, count_hybrid, count_linear, cycle_f1, match_cycles, tiou

SCALARS = {count_hybrid: 1.5, count_gaussian: 1.0, count_linear: 1.0, count_fixed: 1.0, count_exact: 1.0}
counts = st.integers(0, 300)


@pytest.mark.parametrize("true, row", {1: (1.5, .500, 0, 0), 2: (1.5, .559, 0, 0), 3: (1.5, .772, .006, 0), 5: (1.5, 1.118, .146, .013), 10: (1.5, 1.385, .613, .332),
                                       20: (1.5, 1.470, .884, .757), 50: (1.5, 1.495, .980, .956), 100: (1.5, 1.499, .995, .989)}.items())
def test_hybrid_as_published(true, row):
    assert [round(count_hybrid(true + e, true), 3) for e in range(4)] == pytest.approx(row, abs=6e-4)


def test_siblings_by_hand():
    assert count_gaussian(12, 10) == pytest.approx(math.exp(-0.5)) and count_gaussian(2, 1) == pytest.approx(math.exp(-0.5)) and count_gaussian(110, 100) == pytest.approx(math.exp(-0.125))
    assert count_linear(12, 10) == pytest.approx(0.8) and count_linear(25, 10) == 0 and count_linear(1, 0) == 0 and count_linear(0, 0) == 1
    assert count_fixed(13, 10) == pytest.approx(math.exp(-0.5)) == count_fixed(103, 100)
    assert count_hybrid(1, 0) == pytest.approx(0.5) and count_hybrid(0, 0) == 1.5


@pytest.mark.parametrize("score", SCALARS, ids=lambda f: f.__name__)
@settings(max_examples=500, deadline=None)
@given(true=counts, near=st.integers(0, 60), more=st.integers(0, 60))
def test_bounded_monotone_symmetric(score, true, near, more):
    assert 0 <= score(true + near + more, true) <= score(true + near, true) <= SCALARS[score] == score(true, true)
    if near <= true: assert score(true - near, true) == score(true + near, true)


@pytest.mark.parametrize("score", SCALARS, ids=lambda f: f.__name__)
def test_bad_numbers(score):
    assert score(None, 0) == score(None, 5) == 0
    assert score(10**500, 5) == 0 and isinstance(score(np.int64(5), np.int64(5)), float)
    for true in (-1, 2.5, None, float("nan"), True, "3"):
        with pytest.raises(ValueError, match="true count"): score(3, true)
    for pred in (2.5, float("nan"), "3", True):
        with pytest.raises(ValueError, match="predicted count"): score(pred, 3)


@st.composite
def intervals(draw, most=6):
    "Disjoint intervals in order."
    edges = sorted(draw(st.sets(st.integers(0, 60), max_size=2 * most)))
    return tuple((a / 4, b / 4) for a, b in zip(edges[::2], edges[1::2]))


@settings(max_examples=500, deadline=None)
@given(intervals(), intervals())
def test_matching_is_optimal(a, b):
    pairs = match_cycles(a, b)
    assert len({i for i, _, _ in pairs}) == len({j for _, j, _ in pairs}) == len(pairs)
    table = np.array([[tiou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    rows, cols = linear_sum_assignment(table, maximize=True)
    assert sum(overlap for *_, overlap in pairs) == pytest.approx(table[rows, cols].sum())
    assert all(overlap == tiou(a[i], b[j]) > 0 for i, j, overlap in pairs)


@settings(max_examples=300, deadline=None)
@given(intervals(4), intervals(4), st.randoms())
def test_cycle_f1(a, b, random):
    score = cycle_f1(a, b)
    assert 0 <= score <= 1 and score == pytest.approx(cycle_f1(b, a)) and cycle_f1(a, a) == 1
    assert (score == 1) == (a == b)
    shuffled = list(a); random.shuffle(shuffled)
    assert cycle_f1(tuple(shuffled), b) == pytest.approx(score), "the order of the list does not matter"


@settings(max_examples=300, deadline=None)
@given(st.tuples(*[st.integers(0, 40)] * 4))
def test_tiou_against_counting_cells(ends):
    a, b = (min(ends[:2]), max(ends[:2])), (min(ends[2:]), max(ends[2:]))
    one, two = set(range(*a)), set(range(*b))
    expected = len(one & two) / len(one | two) if one and two else 0
    assert tiou(a, b) == pytest.approx(expected)


TRUTH = ((1.0, 2.0), (2.0, 3.0), (4.0, 5.0))
CLIP = Clip("a.mp4", "squat", 3, cycles=TRUTH)
CHOICE = Clip("c.mp4", "", 0, extra={"task": "choice", "options": ["A. push up", "B. squat"], "solution": "B"})


def said(cycles, count): return "<think>" + ", ".join(f"rep{k}: {a}s-{b}s" for k, (a, b) in enumerate(cycles, 1)) + f"</think><answer>{count}</answer>"


def test_invention_earns_nothing_for_being_consistent():
    invented = said(((10.0, 11.0), (11.0, 12.0), (12.0, 13.0)), 3)
    assert REWARDS["count_interval"]([invented], [CLIP]) == [1.0] and REWARDS["cycles"]([invented], [CLIP]) == [0.0]
    assert REWARDS["cycles"]([said(TRUTH, 3), said(TRUTH[:2], 3), "<answer>3</answer>", said(TRUTH * 3, 3)], [CLIP] * 4) == [1.0, pytest.approx(0.8), 0.0, 0.5]


def test_cycles_of_clips_without_them():
    text = "<think>Reps: none.</think><answer>0</answer>"
    assert REWARDS["cycles"]([text] * 3, [Clip("a.mp4", "", 3), Clip("b.mp4", "", 0), Clip("c.mp4", "", 0, cycles=())]) == [None, 1.0, 1.0]


def test_count_interval_by_hand():
    assert REWARDS["count_interval"]([said(TRUTH, 6), said(TRUTH, "x"), "<answer>3</answer>", "<think>reps 1-20: 0s-9s, reps 21-24: 9s-12s</think><answer>24</answer>"], [CLIP] * 4) == [0.25, 0.0, 0.0, 1.0]


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "B", '{"start_time": "1", "end_time": "2"}', "rep1: 1s-2s", "rep2: 2s", "reps 1-9:", "7", "²", "-", "x", "\n", "9" * 50]), max_size=16).map("".join))
def test_every_reward_takes_any_text(text):
    for name, reward in REWARDS.items():
        (value,) = reward([text], [CHOICE if "choice" in name else CLIP], lengths=[400], shuffled=[[text]])
        assert value is not None and 0 <= value <= 1.5, name


def test_combine():
    texts, clips = [said(TRUTH, 3), said(TRUTH, 4)], [CLIP, Clip("b.mp4", "squat", 3)]
    totals, parts = combine({"exact": 0.5, "cycles": 2}, texts, clips)
    assert parts == {"exact": [1.0, 0.0], "cycles": [1.0, None]} and totals == [2.5, 0.0]
    assert combine("exact", texts, clips)[0] == combine(["exact"], texts, clips)[0] == [1.0, 0.0]
    assert combine("exact", [], []) == ([], {"exact": []})


@pytest.mark.parametrize("names, message", [("exactly", "did you mean 'exact'"), ([], "no reward was named"), ({"exact": float("nan")}, "finite"), ({"exact": "1"}, "finite"), ("cycles", "none of .'cycles'. can score clip 'b'")])
def test_combine_refuses(names, message):
    with pytest.raises(ValueError, match=message): combine(names, [said(TRUTH, 3)], [Clip("b.mp4", "squat", 3)])


@pytest.mark.parametrize("values, message", [([1.0], "gave 1 values for 2"), ([1.0, float("nan")], "gave nan for completion 1"), ([float("inf"), 0.0], "gave inf")])
def test_combine_checks_a_readers_own_reward(monkeypatch, values, message):
    monkeypatch.setitem(REWARDS, "mine", lambda completions, clips, **context: values)
    with pytest.raises(ValueError, match=message): combine({"exact": 1, "mine": 1}, ["a", "b"], [CLIP, CLIP])


def test_context_reaches_every_reward(monkeypatch):
    monkeypatch.setitem(REWARDS, "mine", lambda completions, clips, step, **context: [float(step)] * len(clips))
    assert combine("mine", ["a"], [CLIP], step=7)[0] == [7.0]


def test_registry_covers_the_papers_names():
    assert {"count", "count_hybrid", "count_linear", "count_fixed", "count_interval", "count_format", "format", "exact", "cycles"} <= set(REWARDS)
    assert REWARDS["count"].__name__ == "count_gaussian"
