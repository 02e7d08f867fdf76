"Reasoning written from cycles says what the cycles say, and the check finds what does not."

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actrep_nb.answers import is_well_formed, parse_answer
from actrep_nb.cot import (
    check_cot,
    check_line,
    cot_from_cycles,
    cot_from_teacher,
    grid_cycles,
    load_cots,
    save_cots,
    write_cots,
)
from actrep_nb.formats import load_clips, save_clips
from actrep_nb.records import Clip
from actrep_nb.video import write_video

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
CLIP = Clip("a.mp4", "squat", 3, cycles=((1.52, 3.04), (3.04, 4.4), (6.0, 7.46)))


@st.composite
def ordered_cycles(draw, shortest=0.3):
    "Cycles in order, apart or touching, each longer than `shortest` seconds."
    time, cycles = draw(st.floats(0, 5)), []
    for pause, length in draw(
        st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.05, 0.7, 3.0]), st.floats(shortest, 4)), max_size=25)
    ):
        cycles.append((time + pause, time + pause + length))
        time += pause + length
    return tuple(cycles)


@settings(max_examples=1000, deadline=None)
@given(ordered_cycles(), st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from(["", "squat", "push_up"]))
def test_what_is_written_is_read_back(cycles, step, action):
    clip = Clip("a.mp4", action, len(cycles), cycles=cycles)
    try:
        text = cot_from_cycles(clip, step)
    except ValueError as error:
        assert "too coarse" in str(error) and step == 0.5
        return
    said = parse_answer(text)
    assert is_well_formed(text) and said.problems == () and said.count == len(cycles) and (said.action or "") == action
    assert check_cot(text, clip, tolerance=step) == []
    assert len(said.cycles) == len(cycles)
    for (a, b), (c, d) in zip(said.cycles, cycles):
        assert b > a and abs(a - c) <= step + 1e-6 and abs(b - d) <= step + 1e-6
        assert abs(a / step - round(a / step)) < 1e-6


@settings(max_examples=500, deadline=None)
@given(ordered_cycles(shortest=1.0))
def test_plain_rounding_where_it_is_enough(cycles):
    plain = [(int(np.floor(a / 0.5 + 0.5 + 1e-9)), int(np.floor(b / 0.5 + 0.5 + 1e-9))) for a, b in cycles]
    assert grid_cycles(cycles, 0.5) == plain


def test_short_cycles_survive_a_coarse_grid():
    assert grid_cycles(((1.0, 1.2), (1.2, 1.4)), 0.5) == [(1, 2), (2, 3)]
    assert grid_cycles(((2.2, 2.2),), 0.5) == [(4, 5)]  # a zero-length annotation still counts
    for n in (3, 10, 50):
        with pytest.raises(ValueError, match="too coarse"):
            grid_cycles(tuple((0.2 * k, 0.2 * k + 0.2) for k in range(n)), 0.5)


@pytest.mark.parametrize("cycles", [((2.0, 1.0),), ((float("nan"), 1.0),), ((0.0, float("inf")),)])
def test_impossible_cycles_are_refused_by_name(cycles):
    with pytest.raises(ValueError, match="clip 'a'"):
        cot_from_cycles(Clip("a.mp4", "squat", 1, cycles=cycles))


def test_house_text_to_the_letter():
    clip = Clip("a.mp4", "squat", 3, cycles=((1.5, 3.0), (3.0, 4.5), (4.5, 6.0)))
    assert cot_from_cycles(clip) == (
        "<think>\nAction: squat, from 1.5s to 6.0s.\nReps: rep1: 1.5s-3.0s, rep2: 3.0s-4.5s, rep3: 4.5s-6.0s.\n"
        "Check: 3 reps, in order, no overlap, no pause.\nTotal count: 3.\n</think>\n<answer>3</answer>"
    )
    assert "Check: 3 reps, in order, no overlap, longest pause 1.6s after rep2." in cot_from_cycles(CLIP)
    assert (
        cot_from_cycles(Clip("a.mp4", "", 0))
        == "<think>\nAction: none.\nReps: none.\nCheck: 0 reps.\nTotal count: 0.\n</think>\n<answer>0</answer>"
    )
    assert "Action: squat, no full repetition." in cot_from_cycles(Clip("a.mp4", "squat", 0, cycles=()))
    assert "squat" not in cot_from_cycles(CLIP, action_known=False)


def test_check_line_says_what_is_wrong():
    assert check_line(((1, 3), (2, 4))) == "Check: 2 reps, in order, overlap at rep2, no pause."
    assert check_line(((5, 6), (1, 2))) == "Check: 2 reps, out of order at rep2, no overlap, no pause."


def test_unordered_and_overlapping_annotations_are_told_and_not_kept():
    for cycles in (((5.0, 6.0), (1.0, 2.0)), ((1.0, 3.0), (2.0, 4.0))):
        result = write_cots([Clip("a.mp4", "squat", 2, cycles=cycles)])
        assert not result.kept and any(p.startswith(("rep-order", "rep-overlap")) for p in result.rejected[0][1])


@pytest.mark.parametrize("clip", [replace(CLIP, cycles=None), replace(CLIP, count=4)])
def test_clips_without_a_story_are_named(clip):
    with pytest.raises(ValueError, match="clip 'a'"):
        cot_from_cycles(clip)


GOOD = cot_from_cycles(CLIP)


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("<answer>3", "<answer>4", "count"),
        ("Total count: 3", "Total count: 4", "total"),
        ("rep2: 3.0s-4.4s", "rep2: 3.0s-5.5s", "rep-times"),
        (", rep3: 6.0s-7.5s", "", "list-length"),
        ("Check: 3", "Check: 2", "check-line"),
        ("no overlap", "overlap at rep2", "check-line"),
        ("longest pause 1.6s after rep2", "no pause", "check-line"),
        ("Action: squat", "Action: jump_jack", "action"),
        ("rep1: 1.5s-3.0s", "rep1: 3.0s-1.5s", "rep-empty"),
        ("Reps: rep1: 1.5s-3.0s, rep2: 3.0s-4.4s, rep3: 6.0s-7.5s", "Reps: reps 1-3: 1.5s-7.5s", "list-missing"),
        ("</answer>", "", "answer-unclosed"),
    ],
)
def test_each_contradiction_is_found(old, new, problem):
    assert old in GOOD and problem in [p.split(":")[0] for p in check_cot(GOOD.replace(old, new), CLIP)]


def test_cycles_outside_the_clip():
    assert check_cot(GOOD, CLIP, duration=7.5) == []
    assert check_cot(GOOD, CLIP, duration=6.0) == ["outside: rep3 ends at 7.5s, the clip at 6.00s"]
    assert any(p.startswith("outside") for p in check_cot(GOOD, replace(CLIP, window=(10.0, 15.0))))


@settings(max_examples=2000, deadline=None)
@given(st.text(max_size=200))
def test_any_text_can_be_checked(text):
    assert check_cot(text, CLIP)


def test_teacher():
    asked = []

    def ask(prompt):
        asked.append(prompt)
        return GOOD if len(asked) == 2 else "no idea"

    assert (
        cot_from_teacher(CLIP, ask, tries=3) == (GOOD, [])
        and len(asked) == 2
        and '"squat"' in asked[0]
        and "3 " not in asked[0].split("steps")[0]
    )
    text, problems = cot_from_teacher(CLIP, lambda prompt: GOOD.replace("<answer>3", "<answer>2"))
    assert text is None and any(p.startswith("count") for p in problems)

    def broken(prompt):
        raise TimeoutError("no reply")

    assert cot_from_teacher(CLIP, broken) == (None, ["teacher-failed: TimeoutError: no reply"])
    result = write_cots([CLIP, replace(CLIP, count=2)], lambda clip: cot_from_teacher(clip, lambda prompt: GOOD))
    assert (len(result.kept), len(result.rejected)) == (1, 1) and result.report().startswith("1 kept, 1 rejected")


def test_repcount_train():
    path = next(iter(sorted(SHARED.rglob("train_with_fps.csv"))), None)
    if path is None:
        pytest.skip(f"no RepCount-A annotations under {SHARED}")
    clips = load_clips(path)
    result = write_cots(clips)
    assert len(result.kept) + len(result.rejected) == len(clips)
    assert len(result.kept) > 0.9 * len(clips)
    assert Counter(clip.count for clip, _ in result.kept)[0] == sum(clip.count == 0 for clip in clips)


def test_reasoning_that_ends_on_another_count_is_not_learned_from(tmp_path):
    rows = [
        {"video_id": "a", "action": "squat", "gt_count": 4, "cot": "<think>x</think><answer>9</answer>"},
        {"video_id": "b", "action": "squat", "gt_count": 7, "cot": "Total count: 3."},
        {"video_id": "c", "action": "squat", "gt_count": 2, "cot": "rep1: 1s-2s, rep2: 2s-3s. Total count: 2."},
        {"video_id": "d", "action": "squat", "gt_count": None, "cot": "x"},
    ]
    (tmp_path / "videos").mkdir()
    for row in rows:
        write_video(tmp_path / "videos" / f"{row['video_id']}.mp4", np.zeros((9, 56, 56, 3), np.uint8), 9)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_cots(tmp_path / "train.jsonl")
    assert (
        [clip.id for clip, _ in found.kept] == ["c"]
        and [clip.id for clip, _ in found.rejected] == ["a", "b"]
        and len(found.rows) == 1
    )
    assert found.report().startswith("1 kept, 2 rejected") and "no clip: " in found.report()


def test_reasoning_that_was_cut_off_is_refused(tmp_path):
    write_video(tmp_path / "film.mp4", np.zeros((16, 32, 32, 3), np.uint8), 8)
    clips = [Clip(str(tmp_path / "film.mp4"), "squat", 2, cycles=((0.0, 1.0), (1.0, 2.0)), id=name) for name in "ab"]
    save_clips(clips, tmp_path / "train.jsonl", videos=tmp_path)
    path = save_cots(write_cots(clips), tmp_path / "cot.jsonl")
    assert len(load_cots(tmp_path).kept) == 2
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cot.jsonl, line 2: cut off inside the row: write the reasoning again"):
        load_cots(tmp_path)
    path.write_text('{"video_id": "a"}\n')
    with pytest.raises(ValueError, match="cot.jsonl, row 1: it has no video_id or no cot"):
        load_cots(tmp_path)
