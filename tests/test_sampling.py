"Crops that hold whole repetitions only, and counts spread as asked."

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actrep_nb.audit import audit
from actrep_nb.formats import load_clips
from actrep_nb.records import Clip, clip_findings
from actrep_nb.sampling import (
    STRATA,
    count_histogram,
    crop_to_cycles,
    curriculum,
    idle_stretches,
    random_count_sampling,
    select_by_variance,
)

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@st.composite
def clips_st(draw):
    "A clip with pauses of any length, sometimes itself a window of its file; and its duration."
    steps = draw(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 5)), min_size=1, max_size=12))
    t, cycles = 0.0, []
    for pause, length in steps:
        cycles.append((t + pause, t + pause + length))
        t += pause + length
    duration = t + draw(st.floats(0, 3))
    window = draw(st.none() | st.floats(0, 100).map(lambda a: (a, a + duration)))
    return Clip("a.mp4", "squat", len(cycles), cycles, "train", "yt", window=window), duration


@given(clips_st(), st.data())
def test_a_crop_holds_its_repetitions_and_no_part_of_another(made, data):
    clip, duration = made
    first = data.draw(st.integers(0, clip.count - 1))
    n = data.draw(st.integers(1, clip.count - first))
    part = crop_to_cycles(clip, first, n, data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1)), duration)
    origin = clip.window[0] if clip.window else 0.0
    low, high = (t - origin for t in part.window)
    assert part.count == len(part.cycles) == n and (part.split, part.source, part.video) == ("train", "yt", "a.mp4")
    assert -1e-9 <= low and high <= duration + 1e-6
    for k, (a, b) in enumerate(clip.cycles):
        if first <= k < first + n:
            c, d = part.cycles[k - first]
            assert (c + low, d + low) == pytest.approx((a, b), abs=1e-6) and low <= a + 1e-9 and b <= high + 1e-9
        else:
            assert b <= low + 1e-9 or a >= high - 1e-9
    assert not [f for f in clip_findings(part) if f.rule in ("count_cycles", "out_of_range")]


def test_margins_are_the_whole_pause_or_none_of_it():
    clip = Clip("a.mp4", "squat", 3, [(2, 3), (4, 5), (7, 8)])
    assert crop_to_cycles(clip, 1, 1, 1, 1).window == (3, 7)
    assert crop_to_cycles(clip, 1, 1, 0, 0).window == (4, 5)
    assert crop_to_cycles(clip, 0, 3, 1, 1).window == (0, 8)
    assert crop_to_cycles(clip, 0, 3, 1, 1, duration=11).window == (0, 11)
    with pytest.raises(ValueError, match="3 cycles"):
        crop_to_cycles(clip, 2, 2)
    assert idle_stretches(clip, 11) == [(0, 2), (3, 4), (5, 7), (8, 11)]


def pool(counts, split="train"):
    return [
        Clip(f"{split}{k}.mp4", "squat", n, [(2 + 2 * i, 3.5 + 2 * i) for i in range(n)], split)
        for k, n in enumerate(counts)
    ]


def test_counts_are_as_flat_as_asked():
    clips = pool([2] * 500 + [30] * 20)
    flat = count_histogram(random_count_sampling(clips, 1000, seed=1))
    assert flat == {"0": 0, "1–2": 200, "3–5": 200, "6–10": 200, "11–20": 200, "21+": 200}
    natural = count_histogram(random_count_sampling(clips, 1040, flatness=0))
    assert natural["1–2"] == 1000 and natural["21+"] == 40 and sum(natural.values()) == 1040
    with pytest.raises(ValueError, match="flatness"):
        random_count_sampling(clips, 1, flatness=2)


def test_every_clip_is_used_before_any_is_used_twice():
    out = random_count_sampling(pool([12] * 40), 80, strata=(1,))
    assert sorted([o.video for o in out].count(c.video) for c in pool([12] * 40)) == [2] * 40


def test_counts_within_a_stratum_are_uniform():
    out = random_count_sampling(pool([20] * 10), 4000, strata=(1, 11))
    tally = [sum(c.count == n for c in out) for n in range(1, 21)]
    assert all(abs(t - 200) < 5 * 200**0.5 for t in tally)


def test_seeded_unique_and_true_to_the_split():
    clips = pool([1, 4, 9, 25])
    a, b = random_count_sampling(clips, 60, seed=5), random_count_sampling(clips, 60, seed=5)
    assert a == b != random_count_sampling(clips, 60, seed=6)
    assert (
        len({c.id for c in a}) == 60
        and {c.split for c in a} == {"train"}
        and not [f for f in audit(a) if f.rule == "leak"]
    )
    with pytest.raises(ValueError, match="test, train"):
        random_count_sampling(clips + pool([3], "test"), 5)
    assert random_count_sampling([], 5) == [] and random_count_sampling(clips, 0) == []


def test_clips_without_usable_cycles_are_used_whole():
    clips = [Clip("a.mp4", "", 8), Clip("b.mp4", "", 8, [(0, 1), (3, 2)]), Clip("c.mp4", "", 0, [])]
    out = random_count_sampling(clips, 6)
    assert {c.count for c in out} == {8} and all(c.window is None for c in out)
    assert {c.count for c in random_count_sampling(clips, 6, strata=(0, 1))} == {0, 8}


def test_without_cropping_clips_are_drawn_whole_and_in_their_own_range():
    clips = pool([1] * 30 + [8] * 5)
    out = random_count_sampling(clips, 40, strata=(1, 5), crop=False, idle_seconds=1.0)
    assert (
        all(c.window is None for c in out) and [c.count for c in out].count(8) == 20 and len({c.id for c in out}) == 40
    )


def test_idle_crops_hold_nothing():
    clips = pool([5, 9])
    nothing = [
        c for c in random_count_sampling(clips, 60, idle_seconds=1.0, durations={clips[0].id: 30.0}) if c.count == 0
    ]
    assert len(nothing) >= 10
    for c in nothing:
        whole = next(w for w in clips if w.video == c.video)
        assert c.cycles == () and c.window[1] - c.window[0] >= 1.0 - 1e-9
        assert all(b <= c.window[0] + 1e-9 or a >= c.window[1] - 1e-9 for a, b in whole.cycles)


@pytest.mark.skipif(not SHARED.exists(), reason="the real annotation files are not at hand (set ACTREP_SHARED_DATA)")
def test_repcount_a_becomes_flat():
    clips = load_clips(SHARED / "annotations/repcount_a/train_with_fps.csv", split="train")
    before, after = count_histogram(clips), count_histogram(random_count_sampling(clips, 1000))
    assert list(before.values()) == [
        0,
        *(sum(lo <= c.count < hi for c in clips) for lo, hi in zip(STRATA, (*STRATA[1:], 999))),
    ]
    assert before["1–2"] < 100 < before["21+"] and list(after.values()) == [0] + [200] * 5


def test_curriculum_is_stable():
    clips = pool([3, 1, 2, 1])
    assert [c.id for c in curriculum(clips)] == ["train1", "train3", "train2", "train0"]


def test_select_by_variance():
    rewards = {"same": [1, 1], "unscored": [None, None], "one": [0.3], "torn": [0, 1, None], "mild": [0.4, 0.6]}
    assert (
        select_by_variance(rewards) == ["torn", "mild"]
        and select_by_variance(rewards, n=1) == ["torn"]
        and select_by_variance({}) == []
    )
    with pytest.raises(ValueError, match="x has a reward"):
        select_by_variance({"x": [float("nan"), 1.0]})


def test_a_question_is_no_clip_without_repetitions():
    question = Clip("q.mp4", "", 0, extra={"task": "choice"}, split="train")
    with pytest.raises(ValueError, match="clip q asks for choice"):
        random_count_sampling([Clip("a.mp4", "squat", 3, split="train"), question], 4, strata=(0, 1))


@pytest.mark.parametrize("odd", [{"n": -5}, {"ratio_strata": 0}, {"strata": ()}, {"idle_seconds": -1}])
def test_impossible_draws_are_refused(odd):
    with pytest.raises(ValueError, match="ratio_strata="):
        random_count_sampling([Clip("a.mp4", "squat", 3)], **({"n": 2} | odd))
