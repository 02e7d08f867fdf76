"Rewards against hand-computed values, brute force and their own stated properties."

import itertools
import json
import math
import random
import re
import warnings
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from actrep_nb.records import Clip
from actrep_nb.rewards import (
    DUAL,
    REWARDS,
    combine,
    count_exact,
    count_fixed,
    count_gaussian,
    count_hybrid,
    count_linear,
    count_reward,
    cycle_f1,
    length_bonus,
    match_cycles,
    near_number,
    parse_weights,
    rouge,
    solution_letter,
    temporal_bonus,
    tiou,
    word_error_rate,
)

SCALARS = {count_hybrid: 1.5, count_gaussian: 1.0, count_linear: 1.0, count_fixed: 1.0, count_exact: 1.0}
counts = st.integers(0, 300)


BY_HAND = {  # true count → what errors of 0, 1, 2, 3 earn under each formula, computed with 40 digits from the formulas as written in the papers' code
    1: (
        (1.5000, 0.5000, 0.0000, 0.0000),
        (1.0000, 0.6065, 0.1353, 0.0111),
        (1.0000, 0.0000, 0.0000, 0.0000),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
    2: (
        (1.5000, 0.5587, 0.0000, 0.0000),
        (1.0000, 0.6065, 0.1353, 0.0111),
        (1.0000, 0.5000, 0.0000, 0.0000),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
    3: (
        (1.5000, 0.7723, 0.0055, 0.0000),
        (1.0000, 0.6065, 0.1353, 0.0111),
        (1.0000, 0.6667, 0.3333, 0.0000),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
    5: (
        (1.5000, 1.1184, 0.1463, 0.0132),
        (1.0000, 0.6065, 0.1353, 0.0111),
        (1.0000, 0.8000, 0.6000, 0.4000),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
    10: (
        (1.5000, 1.3847, 0.6125, 0.3319),
        (1.0000, 0.8825, 0.6065, 0.3247),
        (1.0000, 0.9000, 0.8000, 0.7000),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
    20: (
        (1.5000, 1.4695, 0.8836, 0.7569),
        (1.0000, 0.9692, 0.8825, 0.7548),
        (1.0000, 0.9500, 0.9000, 0.8500),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
    50: (
        (1.5000, 1.4950, 0.9803, 0.9562),
        (1.0000, 0.9950, 0.9802, 0.9560),
        (1.0000, 0.9800, 0.9600, 0.9400),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
    100: (
        (1.5000, 1.4988, 0.9950, 0.9888),
        (1.0000, 0.9988, 0.9950, 0.9888),
        (1.0000, 0.9900, 0.9800, 0.9700),
        (1.0000, 0.9460, 0.8007, 0.6065),
    ),
}


@pytest.mark.parametrize("true", BY_HAND)
def test_the_table_of_values(true):
    for score, row in zip((count_hybrid, count_gaussian, count_linear, count_fixed), BY_HAND[true], strict=True):
        assert [score(true + e, true) for e in range(4)] == pytest.approx(row, abs=5e-5), score.__name__
    assert [count_exact(true + e, true) for e in range(4)] == [1, 0, 0, 0]


def test_siblings_by_hand():
    assert (
        count_gaussian(12, 10) == pytest.approx(math.exp(-0.5))
        and count_gaussian(2, 1) == pytest.approx(math.exp(-0.5))
        and count_gaussian(110, 100) == pytest.approx(math.exp(-0.125))
    )
    assert (
        count_linear(12, 10) == pytest.approx(0.8)
        and count_linear(25, 10) == 0
        and count_linear(1, 0) == 0
        and count_linear(0, 0) == 1
    )
    assert count_fixed(13, 10) == pytest.approx(math.exp(-0.5)) == count_fixed(103, 100)
    assert count_hybrid(1, 0) == pytest.approx(0.5) and count_hybrid(0, 0) == 1.5


@pytest.mark.parametrize("score", SCALARS, ids=lambda f: f.__name__)
@settings(max_examples=500, deadline=None)
@given(true=counts, near=st.integers(0, 60), more=st.integers(0, 60))
def test_bounded_monotone_symmetric(score, true, near, more):
    assert 0 <= score(true + near + more, true) <= score(true + near, true) <= SCALARS[score] == score(true, true)
    if near <= true:
        assert score(true - near, true) == score(true + near, true)


@pytest.mark.parametrize("score", SCALARS, ids=lambda f: f.__name__)
def test_bad_numbers(score):
    assert score(None, 0) == score(None, 5) == 0
    assert score(10**500, 5) == 0 and isinstance(score(np.int64(5), np.int64(5)), float)
    for true in (-1, 2.5, None, float("nan"), True, "3"):
        with pytest.raises(ValueError, match="true count"):
            score(3, true)
    for pred in (2.5, float("nan"), "3", True):
        with pytest.raises(ValueError, match="predicted count"):
            score(pred, 3)


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
    shuffled = list(a)
    random.shuffle(shuffled)
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


def said(cycles, count):
    return (
        "<think>"
        + ", ".join(f"rep{k}: {a}s-{b}s" for k, (a, b) in enumerate(cycles, 1))
        + f"</think><answer>{count}</answer>"
    )


def test_invention_earns_nothing_for_being_consistent():
    invented = said(((10.0, 11.0), (11.0, 12.0), (12.0, 13.0)), 3)
    assert REWARDS["count_interval"]([invented], [CLIP]) == [1.0] and REWARDS["cycles"]([invented], [CLIP]) == [0.0]
    assert REWARDS["cycles"](
        [said(TRUTH, 3), said(TRUTH[:2], 3), "<answer>3</answer>", said(TRUTH * 3, 3)], [CLIP] * 4
    ) == [1.0, pytest.approx(0.8), 0.0, 0.5]


def test_cycles_of_clips_without_them():
    text = "<think>Reps: none.</think><answer>0</answer>"
    assert REWARDS["cycles"](
        [text] * 3, [Clip("a.mp4", "", 3), Clip("b.mp4", "", 0), Clip("c.mp4", "", 0, cycles=())]
    ) == [None, 1.0, 1.0]


def test_count_interval_by_hand():
    assert REWARDS["count_interval"](
        [
            said(TRUTH, 6),
            said(TRUTH, "x"),
            "<answer>3</answer>",
            "<think>reps 1-20: 0s-9s, reps 21-24: 9s-12s</think><answer>24</answer>",
        ],
        [CLIP] * 4,
    ) == [0.25, 0.0, 0.0, 1.0]


PIECES = [
    "<think>",
    "</think>",
    "<thinking>",
    "</thinking>",
    "<answer>",
    "</answer>",
    "B",
    '{"start_time": "1", "end_time": "2"}',
    "nan",
    "rep1: 1s-2s",
    "rep2: 2s",
    "reps 1-9:",
    "7",
    "3",
    "12.7",
    "²",
    "٣",
    "-",
    "x y",
    "\n",
    "\x00",
    "9" * 50,
]
TEXTS = 12_000


def any_texts(random):
    "Completions of every sort: loose pieces, and pieces in the right places."
    for i in range(TEXTS):
        pieces = random.choices(PIECES, k=random.randrange(12))
        yield (
            "".join(pieces)
            if i % 2
            else f"<think>{''.join(pieces[2:])}</think>{random.choice(['', chr(10), '!'])}<answer>{''.join(pieces[:2])}</answer>"
        )


def about(kind, solution, **extra):
    return Clip("q.mp4", "", 0, extra={"task": kind, "solution": solution} | extra)


CLIPS = [
    about("numerical", "7"),
    CLIP,
    CHOICE,
    about("regression", "12.5"),
    about("ocr", "x y x"),
    about("free_form", "x y"),
    Clip("g.mp4", "", 1, cycles=((1.0, 3.0),), extra={"task": "grounding"}),
]
MOST = {"count_hybrid": 1.5, "temporal": 0.3, "length": 0.2}


def test_every_reward_takes_any_text():
    texts = list(any_texts(random.Random(0)))
    assert len(texts) == TEXTS >= 10_000
    clips = (CLIPS * TEXTS)[:TEXTS]
    earned = {
        name: reward(
            texts, clips, lengths=[320 + len(text) for text in texts], group_size=1000, shuffled=[texts[:9]] * 12
        )
        for name, reward in REWARDS.items()
    }
    for name, values in earned.items():
        known = [value for value in values if value is not None]
        assert len(values) == TEXTS and all(0 <= value <= MOST.get(name.rpartition("/")[2], 1.0) for value in known), (
            name
        )
        assert min(known) == 0 < max(known), f"{name} never tells two texts apart"
    assert all(value is not None for value in earned["accuracy"])


@pytest.mark.parametrize(
    "reward, right, wrong", [("tiou", '{"start_time": "1.0", "end_time": "3.0"}', "1 to 3"), ("choice", "B", "A")]
)
def test_rewards_of_other_questions(reward, right, wrong):
    moment = Clip("g.mp4", "", 1, cycles=((1.0, 3.0),), extra={"task": "grounding"})
    clip = CHOICE if reward == "choice" else moment
    assert REWARDS[reward](
        [f"<think>a</think><answer>{said}</answer>" for said in (right, wrong)] + ["", right], [clip] * 4
    ) == [1, 0, 0, 0]
    assert REWARDS["accuracy"]([f"<answer>{right}</answer>"], [clip]) == [1]
    assert REWARDS[reward]([right], [Clip("n.mp4", "", 0)]) == [None], "a clip that asks something else is left out"


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 40), st.integers(0, 40))
def test_tiou_reward_in_seconds_is_the_published_one_in_parts_of_the_video(start, length, late, longer):
    clip = Clip("g.mp4", "", 1, cycles=((start / 10, (start + length) / 10),), extra={"task": "grounding"})
    said = (start + late) / 10, (start + late + length + longer) / 10
    scaled = [[t / 37.0 for t in times] for times in (said, clip.cycles[0])]
    hull = max(e for _, e in scaled) - min(s for s, _ in scaled)
    published = max(0.0, min(e for _, e in scaled) - max(s for s, _ in scaled)) / hull
    assert REWARDS["tiou"](
        [f'<answer>{{"start_time": "{said[0]:.1f}", "end_time": "{said[1]:.1f}"}}</answer>'], [clip]
    )[0] == pytest.approx(published)


@pytest.mark.parametrize(
    "clip", [CHOICE, about("numerical", "3"), Clip("g.mp4", "", 1, cycles=((1.0, 3.0),), extra={"task": "grounding"})]
)
def test_a_question_that_is_no_count_is_not_scored_as_one(clip):
    text = "<think>rep1: 1.0s-3.0s</think><answer>1</answer>"
    assert [
        REWARDS[name]([text], [clip])[0]
        for name in ("count", "count_hybrid", "count_linear", "count_fixed", "exact", "cycles")
    ] == [None] * 6
    with pytest.raises(ValueError, match="can score clip"):
        combine(["count_hybrid", "cycles"], [text], [clip])


def test_the_dual_reward():
    clip = Clip("g.mp4", "", 1, cycles=((12.0, 20.0),), extra={"task": "grounding"})
    texts = [
        '<think>a</think><answer>{"start_time": "14.0", "end_time": "20.0"}</answer>',
        '<answer>{"start_time": "12.0", "end_time": "20.0"}</answer>',
        '<think>a</think><answer>{"start_time": "25.0", "end_time": "30.0"}</answer>',
        "?",
    ]
    assert combine(DUAL, texts, [clip] * 4)[0] == [0.875, 0.5, 0.5, 0.0]


def test_a_choice_whose_solution_is_none_of_its_options():
    with pytest.raises(ValueError, match="clip 'c': its solution is not-an-option"):
        REWARDS["choice"](
            ["x"], [Clip("c.mp4", "", 0, extra={"task": "choice", "options": ["a", "b"], "solution": "C"})]
        )


# ---- accuracy by question type ----------------------------------------------------------------------------------------

words = st.lists(st.sampled_from("a b c ab bc the cats 12".split()), max_size=7)


@settings(max_examples=400, deadline=None)
@given(words, words)
def test_word_error_rate_against_brute_force(said, true):
    @cache
    def edits(i, j):
        return (
            max(i, j)
            if not i or not j
            else min(edits(i - 1, j) + 1, edits(i, j - 1) + 1, edits(i - 1, j - 1) + (said[i - 1] != true[j - 1]))
        )

    rate = word_error_rate(" ".join(said), " ".join(true))
    assert rate == pytest.approx(edits(len(said), len(true)) / max(1, len(true)))


@settings(max_examples=400, deadline=None)
@given(words, words)
def test_rouge_against_brute_force(said, true):
    def subsequences(seq):
        return {tuple(seq[i] for i in range(len(seq)) if mask >> i & 1) for mask in range(2 ** len(seq))}

    def f(shared, n, m):
        return 0 if not shared else 2 * (shared / n) * (shared / m) / (shared / n + shared / m)

    def paired(a, b):
        b = list(b)
        return sum(1 for gram in a if gram in b and (b.remove(gram) or True))

    ones, twos = paired(said, true), paired(list(zip(said, said[1:])), list(zip(true, true[1:])))
    longest = max(map(len, subsequences(said) & subsequences(true)))
    expected = (
        f(ones, len(said), len(true)) + f(twos, len(said) - 1, len(true) - 1) + f(longest, len(said), len(true))
    ) / 3
    assert rouge(" ".join(said), " ".join(true)) == pytest.approx(expected)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abcGI .,-_19", max_size=40), st.text(alphabet="abcGI .,-_19", max_size=40))
def test_rouge_against_rouge_score(said, true):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False).score(true, said)
    assert rouge(said, true) == pytest.approx(sum(score.fmeasure for score in theirs.values()) / 3)


@settings(max_examples=300, deadline=None)
@given(words, words.filter(bool))
def test_word_error_rate_against_jiwer(said, true):
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed")
    assert word_error_rate(" ".join(said), " ".join(true)) == pytest.approx(jiwer.wer(" ".join(true), " ".join(said)))


def test_rouge_compares_stems_where_it_is_told_to():
    assert (
        rouge("lifting bars", "lifted bars")
        < 1
        == rouge("lifting bars", "lifted bars", stem=lambda word: word.removesuffix("ing").removesuffix("ed"))
    )


@pytest.mark.parametrize(
    "kind, solution, said, ours, published",
    [
        ("numerical", "3.14", "3.141", 1, 1),
        ("numerical", "3.14", "3.2", 0, 0),
        ("numerical", "42", "42.0", 0, 0),
        ("numerical", "1,234", "1234", 1, 0),
        ("numerical", "5", "nan", 0, 0),
        ("numerical", "5", "five", 0, 0),
        ("regression", "40", "50", 0.75, 0.75),
        ("regression", "40", "100", 0, 0),
        ("regression", "0", "0", 1, 0),
        ("regression", "50", "nan", 0, 1),
        ("regression", "50", "inf", 0, 0),
        ("regression", "50", "", 0, 0),
        ("regression", "-4", "-3", 0.75, 0.75),
        ("ocr", "NO ENTRY AFTER 10", "NO ENTRY AFTER TEN", 0.75, 0.75),
        ("ocr", "A", "a b c", 0, 0),
        ("free_form", "twice", "twice", 1, 2 / 3),
        ("free_form", "a red ball", "a blue ball", (2 / 3 + 0 + 2 / 3) / 3, (2 / 3 + 0 + 2 / 3) / 3),
        ("choice", "B", "B", 1, 1),
        ("choice", "B", "B.", 1, 0),
        ("poem", "x", "x", None, 0),
    ],
)
def test_accuracy_by_question_type(kind, solution, said, ours, published):
    text, clip = f"<think>a</think><answer>{said}</answer>", about(kind, solution)
    assert REWARDS["accuracy"]([text], [clip])[0] == (ours if ours is None else pytest.approx(ours))
    assert REWARDS["video_r1/accuracy"]([text], [clip])[0] == pytest.approx(published, abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(st.integers(-500, 500), st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, -1]))
def test_estimates_earn_less_the_further_they_are(true, near, more, side):
    close, far = (
        near_number(str(true + side * near), str(true)),
        near_number(str(true + side * (near + more)), str(true)),
    )
    assert 0 <= far <= close <= 1 == near_number(str(true), str(true))
    assert close == near_number(str(true - side * near), str(true)), "too many is as far as too few"


def test_published_accuracy_reads_the_first_tag_and_the_first_type():
    draft, clip = "<think><answer>5</answer></think><answer>6</answer>", about("numerical", "5")
    assert REWARDS["video_r1/accuracy"]([draft], [clip]) == [1] and REWARDS["accuracy"]([draft], [clip]) == [0]
    mixed = [about("numerical", "5"), about("regression", "10")]
    assert REWARDS["video_r1/accuracy"](["<answer>5</answer>"] * 2, mixed) == [1, 0] and REWARDS["accuracy"](
        ["<answer>5</answer>"] * 2, mixed
    ) == [1, 0.5]


@pytest.mark.parametrize(
    "clip", [about("numerical", "many"), about("regression", ""), Clip("q.mp4", "", 0, extra={"task": "ocr"})]
)
def test_a_solution_that_cannot_be_used_names_its_clip(clip):
    with pytest.raises(ValueError, match="clip 'q': no usable solution"):
        REWARDS["accuracy"](["<answer>5</answer>"], [clip])


# ---- what a group earns together -----------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 10), min_size=3, max_size=3), st.lists(st.integers(0, 10), max_size=3)),
        max_size=4,
    )
)
def test_temporal_bonus_by_its_definition(groups):
    share = lambda completions, clips, **context: [int(text) / 10 for text in completions]
    earned = temporal_bonus(share)(
        [str(a) for ordered, _ in groups for a in ordered],
        [CLIP] * 3 * len(groups),
        group_size=3,
        shuffled=[[str(a) for a in mixed] for _, mixed in groups],
    )
    expected = []
    for ordered, mixed in groups:
        if not mixed:
            expected += [None] * 3
            continue
        paid = (
            5 * sum(ordered) * len(mixed) >= 4 * sum(mixed) * 3
        )  # mean ordered >= 0.8 mean shuffled, in whole numbers
        margin = abs(5 * sum(ordered) * len(mixed) - 12 * sum(mixed))
        if not margin:
            return  # a tie is decided by rounding
        expected += [0.3 if paid and a > 1 else 0.0 for a in ordered]
    assert earned == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(300, 530)), max_size=12).filter(lambda rows: len(rows) % 4 == 0)
)
def test_length_bonus_by_its_definition(rows):
    share = lambda completions, clips, **context: [int(text) / 10 for text in completions]
    earned = length_bonus(share)(
        [str(a) for a, _ in rows], [CLIP] * len(rows), lengths=[n for _, n in rows], group_size=4
    )
    assert earned == [
        0.2 if a > 1 and 320 <= n <= 512 and sum(b > 1 for b, _ in rows[i // 4 * 4 : i // 4 * 4 + 4]) >= 2 else 0.0
        for i, (a, n) in enumerate(rows)
    ]


def test_the_factor_of_the_code_and_the_words_of_the_paper():
    right, wrong = "<answer>3</answer>", "<answer>4</answer>"
    group, shuffled = [right, wrong], [[right, right, right, wrong, wrong]]  # .5 against .6
    assert temporal_bonus()(group, [CLIP] * 2, shuffled=shuffled) == [0.3, 0] and temporal_bonus(ratio=1.0)(
        group, [CLIP] * 2, shuffled=shuffled
    ) == [0, 0]


@pytest.mark.parametrize(
    "name, context, message",
    [
        ("temporal", {}, "needs `shuffled`"),
        ("temporal", {"shuffled": [["x"]] * 3, "group_size": 2}, "3 groups, there are 2"),
        ("temporal", {"shuffled": [["x"]], "group_size": 3}, "groups of 3"),
        ("length", {}, "needs `lengths`"),
        ("length", {"lengths": [1]}, "1 lengths for 4"),
        ("length", {"lengths": [1] * 4, "group_size": 0}, "groups of 0"),
    ],
)
def test_what_group_rewards_need(name, context, message):
    with pytest.raises(ValueError, match=message):
        combine([name, "exact"], ["x"] * 4, [CLIP] * 4, **context)


def test_counts_can_be_scored_as_a_published_parser_reads_them():
    text, seven = "<think>a</think><answer>12.7</answer>", Clip("a.mp4", "", 7)
    assert [count_reward(count_hybrid, reader)([text], [seven])[0] for reader in (None, "actrep-r1", "lmms-eval")] == [
        0,
        1.5,
        pytest.approx(count_hybrid(13, 7)),
    ]


PUBLISHED = {
    "actrep_r1/count_format": (re.search, "think"),
    "actrep_r1/count_format_8b": (re.search, "thinking"),
    "video_r1/format": (re.fullmatch, "think"),
}


@pytest.mark.parametrize("name", PUBLISHED)
@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<thinking>", "</thinking>", "<answer>", "</answer>", " ", "\n", "a"]),
        max_size=9,
    ),
    st.sampled_from(
        [
            "{}",
            "<TAG>{}</TAG> <answer>{}</answer>",
            "<TAG>{}</TAG><answer>{}</answer>\n",
            "x<TAG>{}</TAG><answer>{}</answer>",
        ]
    ),
)
def test_published_formats(name, pieces, frame):
    look, tag = PUBLISHED[name]
    text = frame.replace("TAG", tag).replace("{}", "".join(pieces))
    assert REWARDS[name]([text], [CLIP]) == [
        float(bool(look(rf"<{tag}>.*?</{tag}>\s*<answer>.*?</answer>", text, re.S)))
    ]


# ---- adding up ----------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(-3, 3)), st.integers(-3, 3)), min_size=3, max_size=9).filter(
        lambda rows: len(rows) % 3 == 0
    )
)
def test_normalise_then_sum_by_its_definition(rows):
    REWARDS["one"] = lambda completions, clips, **context: [a for a, _ in rows]
    REWARDS["two"] = lambda completions, clips, **context: [b for _, b in rows]
    try:
        totals, parts = combine(
            {"one": 2.0, "two": 1.0}, ["x"] * len(rows), [CLIP] * len(rows), normalise=True, group_size=3
        )
    finally:
        del REWARDS["one"], REWARDS["two"]
    assert parts == {"one": [a for a, _ in rows], "two": [b for _, b in rows]}
    table = np.array(rows, dtype=float).reshape(-1, 3, 2)  # groups, answers, rewards
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group without any value
        spread = np.nan_to_num(np.nanstd(table, axis=1, ddof=1, keepdims=True)) + 1e-4
        scaled = (table - np.nanmean(table, axis=1, keepdims=True)) / spread
    assert totals == pytest.approx(np.nansum(scaled * [2.0, 1.0], axis=2).ravel().tolist(), abs=1e-9)


def test_combine():
    texts, clips = [said(TRUTH, 3), said(TRUTH, 4)], [CLIP, Clip("b.mp4", "squat", 3)]
    totals, parts = combine({"exact": 0.5, "cycles": 2}, texts, clips)
    assert parts == {"exact": [1.0, 0.0], "cycles": [1.0, None]} and totals == [2.5, 0.0]
    assert combine("exact", texts, clips)[0] == combine(["exact"], texts, clips)[0] == [1.0, 0.0]
    assert combine("exact", [], []) == ([], {"exact": []})


@pytest.mark.parametrize(
    "names, message",
    [
        ("exactly", "did you mean 'exact'"),
        ([], "no reward was named"),
        ({"exact": float("nan")}, "finite"),
        ({"exact": "1"}, "finite"),
        ("cycles", "none of .'cycles'. can score clip 'b'"),
    ],
)
def test_combine_refuses(names, message):
    with pytest.raises(ValueError, match=message):
        combine(names, [said(TRUTH, 3)], [Clip("b.mp4", "squat", 3)])


@pytest.mark.parametrize(
    "values, message",
    [
        ([1.0], "gave 1 values for 2"),
        ([1.0, float("nan")], "gave nan for completion 1"),
        ([float("inf"), 0.0], "gave inf"),
    ],
)
def test_combine_checks_a_readers_own_reward(monkeypatch, values, message):
    monkeypatch.setitem(REWARDS, "mine", lambda completions, clips, **context: values)
    with pytest.raises(ValueError, match=message):
        combine({"exact": 1, "mine": 1}, ["a", "b"], [CLIP, CLIP])


def test_context_reaches_every_reward(monkeypatch):
    monkeypatch.setitem(REWARDS, "mine", lambda completions, clips, step, **context: [float(step)] * len(clips))
    assert combine("mine", ["a"], [CLIP], step=7)[0] == [7.0]


def test_registry_covers_the_papers_names():
    published = {"count", "count_hybrid", "count_linear", "count_fixed", "count_interval"}
    assert published | {"format", "exact", "cycles"} | {
        f"actrep_r1/{name}" for name in published | {"count_format", "count_format_8b"}
    } <= set(REWARDS)
    assert REWARDS["count"].__name__ == "count_gaussian"


@pytest.mark.parametrize("least", ["3/10", "1/2", "7/10"])
def test_a_pair_exactly_at_the_threshold_reaches_it(least):
    least, missed, seen = Fraction(least), 0, 0
    for a, b, c in itertools.product(range(0, 60, 3), range(5, 60), range(1, 40)):
        if Fraction(min(a + b, 20 + c) - max(a, 20), max(a + b, 20 + c) - min(a, 20)) == least:
            x, y = (a / 10, (a + b) / 10), (2.0, (20 + c) / 10)
            seen, missed = seen + 1, missed + (not match_cycles((x,), (y,), float(least)))
    assert seen > 40 and not missed
    assert not match_cycles(((0.0, 1.0),), ((0.0, 2.002),), 0.5)


def test_a_solution_is_read_as_an_answer_is():
    options = ["squat", "push_up"]
    for solution in ("B", "b", "(B)", "push_up", "B. push_up"):
        assert (
            solution_letter(Clip("a.mp4", "", 0, extra={"task": "choice", "solution": solution, "options": options}))
            == "B"
        )
    for solution in (None, "", "7", "squat or push_up"):
        with pytest.raises(ValueError, match="clip 'a'"):
            solution_letter(Clip("a.mp4", "", 0, extra={"task": "choice", "solution": solution, "options": options}))


def test_a_text_of_twenty_thousand_repetitions_is_scored():
    true = tuple((float(i), i + 1.0) for i in range(40))
    text = (
        "<think>"
        + ", ".join(f"rep{i + 1}: {i / 10:.1f}s-{i / 10 + 0.1:.1f}s" for i in range(20_000))
        + "</think><answer>20000</answer>"
    )
    assert len(match_cycles(tuple((i / 10, i / 10 + 0.1) for i in range(20_000)), true)) == 40
    assert 0 < REWARDS["cycles"]([text], [Clip("a.mp4", "squat", 40, true)])[0] < 0.01


def test_intervals_that_are_no_numbers_overlap_nothing():
    nan, inf = math.nan, math.inf
    for odd in ((nan, 1.0), (0.0, nan), (0.0, inf), (-inf, inf), (nan, nan), (1.0, 1.0), (2.0, 1.0)):
        for other in ((0.0, 1.0), odd):
            assert tiou(odd, other) == tiou(other, odd) == 0.0 and not match_cycles((odd,), (other,))


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_reward_refuses_what_is_no_text_and_what_has_no_clip(name):
    clip = Clip("a.mp4", "squat", 1, ((0.0, 1.0),))
    with pytest.raises(TypeError, match="a completion is a str, not NoneType"):
        REWARDS[name]([None], [clip])
    with pytest.raises(TypeError, match="list of str"):
        REWARDS[name]("a", [clip])
    with pytest.raises(ValueError, match="2 completions for 1 clips"):
        REWARDS[name](["a", "b"], [clip])
    with pytest.raises(ValueError, match="0 completions for 1 clips"):
        REWARDS[name]([], [clip])


def test_combine_takes_weights_of_any_float_and_refuses_the_rest():
    clip, text = Clip("a.mp4", "squat", 1), "<think>x</think><answer>1</answer>"
    assert combine({"exact": np.float32(0.5), "format": np.int64(2)}, [text], [clip])[0] == [2.5]
    with pytest.raises(ValueError, match="no reward was named"):
        combine(None, [text], [clip])
    with pytest.raises(ValueError, match="finite number"):
        combine({"exact": np.float32("nan")}, [text], [clip])
    with pytest.raises(TypeError, match="list of str"):
        combine("exact", text, [clip] * len(text))
    with pytest.raises(TypeError, match="not NoneType"):
        combine("format", [None], [clip])


def test_a_moment_of_two_events_is_refused():
    two = Clip("a.mp4", "", 2, ((0.0, 1.0), (2.0, 3.0)), extra={"task": "grounding"})
    with pytest.raises(ValueError, match="clip 'a'.*2 events"):
        REWARDS["tiou"](["x"], [two])


def test_weights_are_read_from_a_line():
    assert parse_weights("format=0.5, exact = 1,") == {"format": 0.5, "exact": 1.0}
    for line, message in {
        "format": "'format' has no weight.*e.g. format=0.5",
        "format=much": "e.g. format=0.5",
        "format=1,format=2": "'format' stands there twice",
        "fromat=1": "did you mean 'format'",
        "": "no reward was named",
        "format=nan": "finite",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_weights(line)


# ---- as published -------------------------------------------------------------------------------------------------------
# Each rule stated once more, from the papers' code and word by word: quadratic patterns, exceptions and all.


def their_count(text):
    said = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    if not said:
        return None
    if said[-1].strip().isdigit():
        return int(said[-1].strip())
    runs = [int(run) for run in re.findall(r"\b(\d+)\b", said[-1].strip())]
    return runs[-1] if runs and runs[-1] <= 1000 else None


def their_list(text):
    block = re.search(r"<think(?:ing)?>(.*?)</think(?:ing)?>", text, re.DOTALL)
    if not block:
        return None
    block = block[1]
    if single := re.findall(r"rep\d+:", block):
        return len(single)
    size = lambda pairs: sum(int(b) - int(a) + 1 for a, b in pairs)
    if pairs := re.findall(r"reps\s+(\d+)-(\d+):", block):
        return size(pairs)
    if (line := re.search(r"Intervals\(grouped\):\s*(.+?)(?:\n|$)", block)) and (
        pairs := re.findall(r"reps\s+(\d+)-(\d+)", line[1])
    ):
        return size(pairs)
    line = re.search(r"Intervals:\s*(.+?)(?:\n|$)", block)
    return (len(re.findall(r"\d+\.?\d*\s*-\s*\d+\.?\d*", line[1])) or None) if line else None


def their_interval(text, clip):
    said, listed = their_count(text), their_list(text)
    if said is None or listed is None:
        return 0.0
    return 1.0 if listed == said else min(listed, said) / max(listed, said) * 0.5 if listed > 0 and said > 0 else 0.0


def by_count(formula):
    return lambda text, clip: (
        0.0 if (said := their_count(text)) is None else formula(abs(said - clip.count), clip.count)
    )


def their_tiou(text, clip, length=13.7):  # as there, in parts of the video
    try:
        said = json.loads(re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)[1].strip())
        (a0, a1), (b0, b1) = (
            (float(said["start_time"]) / length, float(said["end_time"]) / length),
            (t / length for t in clip.cycles[0]),
        )
        return max(0, max(min(a1, b1) - max(a0, b0), 0) / (max(a1, b1) - min(a0, b0)))
    except Exception:
        return 0.0


def their_moment_format(text, clip):
    time = r'"([\d.]+)"'
    return float(
        bool(
            re.fullmatch(
                r"<think>.*?</think>\s*<answer>\s*{\s*"
                + rf'"start_time"\s*:\s*{time}\s*,\s*"end_time"\s*:\s*{time}'
                + r"\s*}\s*</answer>",
                text,
                re.DOTALL,
            )
        )
    )


THEIRS = {
    "actrep_r1/count": by_count(lambda e, y: math.exp(-(e**2) / (2 * max(1.0, y * 0.2) ** 2))),
    "actrep_r1/count_hybrid": by_count(
        lambda e, y: math.exp(-((e / (y + 0.1)) ** 2) / (2 * 0.2**2)) + (0.5 if e <= 1 else 0.0)
    ),
    "actrep_r1/count_linear": by_count(lambda e, y: max(0.0, 1 - e / max(y, 1))),
    "actrep_r1/count_fixed": by_count(lambda e, y: math.exp(-(e**2) / 18)),
    "actrep_r1/count_format": lambda text, clip: float(
        bool(re.search(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL))
    ),
    "actrep_r1/count_format_8b": lambda text, clip: float(
        bool(re.search(r"<thinking>.*?</thinking>\s*<answer>.*?</answer>", text, re.DOTALL))
    ),
    "actrep_r1/count_interval": their_interval,
    "video_r1/format": lambda text, clip: float(
        bool(re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL))
    ),
    "dvd_counting/exact": lambda text, clip: float(
        (found := re.search(r"<answer>\s*(\d+)\s*</answer>", text)) is not None and int(found[1]) == clip.count
    ),
    "temporal_r1/tiou": their_tiou,
    "temporal_r1/format": their_moment_format,
}
BITS = [
    "rep1: 1.0s-2.0s, ",
    "rep2: 2-3",
    "reps 1-20: ",
    "reps  3-1:",
    "Intervals: ",
    "Intervals(grouped): ",
    "1.5-2.5, ",
    "1.2.3 - 4",
    "12 ",
    "\n",
    " ",
    "<think>",
    "</think>",
    "<thinking>",
    "</thinking>",
    "<answer>",
    "</answer>",
    "3",
    "٣",
    "12.7",
    "1001",
    "-2",
    "no",
    '{"start_time": "1.5", "end_time": "4"}',
    '{"start_time": 3, "end_time": 1}',
    '{"start_time": "nan", "end_time": "2"}',
    '{"start_time": "7"}',
]


def strange_completion(rng):
    "Half of them shaped like an answer, half a heap of bits."
    heap = lambda n, bits=BITS: "".join(rng.choice(bits) for _ in range(rng.randint(0, n)))
    if rng.random() < 0.5:
        return heap(12)
    tag = rng.choice(["think", "thinking"])
    said = rng.choice(
        [
            str(rng.randint(0, 30)),
            heap(3),
            json.dumps({"start_time": f"{rng.uniform(0, 9):.1f}", "end_time": f"{rng.uniform(0, 14):.1f}"}),
        ]
    )
    between = rng.choice(["", " ", "\n"])
    return f"{heap(1)}<{tag}>{heap(9)}</{tag}>{between}<answer>{said}</answer>{heap(1)}"


@pytest.mark.parametrize("name", THEIRS)
def test_published_verdicts(name):
    rng, differ, seen = random.Random(name), 0, set()
    for _ in range(4000):
        text, start = strange_completion(rng), rng.uniform(0, 8)
        clip = (
            Clip("a.mp4", "", 1, ((start, start + rng.uniform(0.1, 5)),), extra={"task": "grounding"})
            if name == "temporal_r1/tiou"
            else Clip("a.mp4", "", rng.randint(0, 30))
        )
        ours, theirs = REWARDS[name]([text], [clip])[0], THEIRS[name](text, clip)
        differ += abs(ours - theirs) > (
            1e-9 if name == "temporal_r1/tiou" else 0
        )  # there in parts of the video, here in seconds
        seen.add(round(theirs, 2))
    assert not differ and len(seen) >= 2  # and the texts are not all alike to it


def test_a_list_of_a_hundred_thousand_digits_is_read_at_once():
    for block in (
        "Intervals: " + "1" * 100_000,
        "Intervals: 1" + " " * 100_000,
        "Intervals: " + "1-" * 50_000,
        "<think>" * 20_000,
    ):
        assert (
            REWARDS["actrep_r1/count_interval"]([f"<think>{block}</think><answer>3</answer>", block], [CLIP] * 2)[1]
            == 0
        )
    assert REWARDS["actrep_r1/count_interval"](
        [f"<think>reps {'9' * 5000}-{'9' * 5000}: </think><answer>1</answer>"], [CLIP]
    ) == [0]  # where `int` refuses


@pytest.mark.parametrize(
    "reward, said",
    [
        (lambda completions, clips: [1.0], "unexpected keyword argument"),
        (lambda completions, clips, **context: 1.0, "not iterable"),
        (lambda completions, clips, **context: ["good"], "gave 'good' for completion 0, which is no number"),
    ],
)
def test_a_reward_that_is_written_wrong_is_named(monkeypatch, reward, said):
    monkeypatch.setitem(REWARDS, "mine", reward)
    with pytest.raises(TypeError, match=f"reward 'mine'.*{said}"):
        combine("mine", ["<answer>2</answer>"], [Clip("a.mp4", "squat", 2)], group_size=1)
