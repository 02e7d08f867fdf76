"Annotation files: what is kept, what is rejected and why, and that nothing disappears."

import itertools
import json
import os
import random
import re
import shlex
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actrep_nb.audit import audit, audit_page, distributions, need_clips, spellings
from actrep_nb.formats import (
    clips_from_rows,
    find_videos,
    guess_mapping,
    load_clips,
    load_sources,
    pair_up,
    parse_mapping,
    read_count,
    read_cycles_s,
    save_clips,
    to_dataset,
    with_sources,
)
from actrep_nb.records import Clip, ClipFormatError, ClipSet, canonical_action, label_findings, leakage, split_clips
from actrep_nb.sampling import random_count_sampling

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason="the real annotation files are not at hand (set ACTREP_SHARED_DATA)"
)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


# --- real files


@needs_shared
@pytest.mark.parametrize("name, rows, kept", [("train", 758, 757), ("valid", 131, 131), ("test", 152, 152)])
def test_repcount_a_loads_every_row(name, rows, kept):
    clips = load_clips(SHARED / f"annotations/repcount_a/{name}_with_fps.csv", split=name)
    assert (len(clips.kept), len(clips.kept) + len(clips.rejected)) == (kept, rows)
    assert {c.split for c in clips} == {name}


@needs_shared
def test_the_row_of_repcount_a_without_a_count_is_rejected():
    (bad,) = load_clips(SHARED / "annotations/repcount_a/train_with_fps.csv").rejected
    assert bad.raw["name"] == "stu6_44.mp4" and bad.field == "count" and "NaN" in bad.reason
    assert (SHARED / "annotations/repcount_a/train_with_fps.csv").read_text().splitlines()[bad.row - 1].count(
        "stu6_44.mp4"
    ) == 1


@needs_shared
def test_the_audit_of_repcount_a_finds_its_known_defects():
    everything, raw = ClipSet(), set()
    for name in ("train", "valid", "test"):
        clips = load_clips(SHARED / f"annotations/repcount_a/{name}_with_fps.csv", split=name)
        everything, raw = everything + clips, raw | set(spellings(clips.findings))
    found = {(f.id, f.rule) for f in audit(everything) if f.severity == "error"}
    assert {
        ("test118", "count_cycles"),
        ("stu6_5", "zero_length"),
        ("stu4_3", "zero_length"),
        (None, "rejected"),
    } <= found
    assert len({c.action for c in everything}) == 10


@needs_shared
def test_frames_become_seconds():
    clips = load_clips(SHARED / "annotations/repcount_a/train_with_fps.csv")
    first = next(c for c in clips if c.id == "train951")
    assert first.action == "front_raise" and first.cycles[0] == (6 / 30, 72 / 30) and first.count == 4


@needs_shared
def test_the_manifest_of_real_clips_loads_with_its_videos():
    clips = load_clips(SHARED / "clips/manifest.csv", videos=SHARED / "clips")
    assert (len(clips), len(clips.rejected)) == (24, 0)
    assert all(Path(c.video).is_file() and len(c.cycles) == c.count for c in clips)


@needs_shared
def test_frame_numbers_without_a_frame_rate_leave_the_counts():
    path = SHARED / "annotations/repcount_a/new_train.csv"
    counts, clips = load_clips(path), load_clips(path, fps=30)
    assert (len(counts.kept), len(counts.rejected)) == (646, 0) and [c.count for c in counts] == [
        c.count for c in clips
    ]
    assert not any(c.cycles for c in counts) and {f.id for f in counts.findings if f.rule == "no_fps"} == {
        c.id for c in clips if c.cycles
    }
    (told,) = [f for f in audit(counts) if f.rule == "no_fps"]
    assert "videos=" in told.message and "fps=" in told.message


# --- formats


def test_spreadsheet_habits(tmp_path):
    text = 'file,action,count,cycles_s,note\r\n\r\n"a,b.mp4",Squat ,2.0,0-1;1-2.5,"said ""no"", left"\r\n\r\nc.mp4,squat,x,,\r\n'
    clips = load_clips(write(tmp_path / "m.csv", text, "utf-8-sig"))
    assert [(c.video, c.action, c.count, c.cycles) for c in clips] == [("a,b.mp4", "squat", 2, ((0, 1), (1, 2.5)))]
    assert [(r.file, r.row, r.field) for r in clips.rejected] == [("m.csv", 5, "count")]


@pytest.mark.parametrize("encoding, delimiter", [("utf-16", ","), ("latin-1", ";"), ("utf-8", "\t")])
def test_encodings_and_delimiters(tmp_path, encoding, delimiter):
    text = "file,action,count\nübung.mp4,squat,3\n".replace(",", delimiter)
    assert load_clips(write(tmp_path / "m.csv", text, encoding))[0].video == "übung.mp4"


def test_actrep_csv_with_and_without_header(tmp_path):
    rows = "stu1.mp4,train,push_up,4\nstu2.mp4,test,squant,two\n"
    for text in (rows, rows.replace(",train,", ",Training,"), "video_id,split,action,count\n" + rows):
        clips = load_clips(write(tmp_path / "a.csv", text))
        assert [(c.id, c.split, c.count) for c in clips] == [("stu1", "train", 4)] and len(clips.rejected) == 1


def test_actrep_jsonl_both_forms(tmp_path):
    rows = [
        {"video_id": "a.mp4", "split": "test", "action": "squant", "gt_count": 3, "cot": "…"},
        {"video_id": "b.mp4", "ground_truth": {"action": "push_up", "count": "5"}},
    ]
    clips = load_clips(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\nnot json\n"))
    assert [(c.action, c.count, c.split) for c in clips] == [("squat", 3, "test"), ("push_up", 5, None)]
    assert [r.row for r in clips.rejected] == [3]


def test_a_file_that_is_something_else_says_what_was_found(tmp_path):
    with pytest.raises(ClipFormatError, match=r"prices.csv: its columns are date, price.*repcount: columns type"):
        load_clips(write(tmp_path / "prices.csv", "date,price\n1,2\n"))
    with pytest.raises(ClipFormatError, match="no rows"):
        load_clips(write(tmp_path / "empty.csv", ""))
    with pytest.raises(ClipFormatError, match="no rows"):
        load_clips(write(tmp_path / "bad.jsonl", "{\n[1]\n"))
    with pytest.raises(FileNotFoundError, match="absent.csv"):
        load_clips(tmp_path / "absent.csv")
    with pytest.raises(ClipFormatError, match="is not a file"):
        load_clips(tmp_path)


def test_missing_video_is_rejected_with_its_path(tmp_path):
    (tmp_path / "here.mp4").touch()
    clips = load_clips(
        write(tmp_path / "m.csv", "file,action,count\nhere,squat,1\ngone.mp4,squat,1\n"), videos=tmp_path
    )
    assert [Path(c.video).name for c in clips] == ["here.mp4"]
    assert str(tmp_path / "gone.mp4") in clips.rejected[0].reason and clips.rejected[0].row == 3


def test_unpaired_boundaries_keep_the_count_and_are_found(tmp_path):
    path = write(
        tmp_path / "r.csv",
        "type,name,count,L1,L2,L3,L4,fps\nsquat,a.mp4,2,0,10,10,,10\nsquat,b.mp4,1,0,,5,10,10\nsquat,c.mp4,0,,,,,10\n",
    )
    clips = load_clips(path)
    assert [(c.count, c.cycles) for c in clips] == [(2, None), (1, None), (0, ())]
    assert [(f.id, f.rule, f.row) for f in audit(path)] == [
        ("a", "unusable_cycles", 2),
        ("b", "unusable_cycles", 3),
        ("c", "zero_count", 4),
    ]


def test_duplicates_and_leaks_are_found():
    clips = ClipSet(
        [
            Clip("a.mp4", "squat", 1, split="train"),
            Clip("a.mp4", "squat", 2, split="test"),
            Clip("b.mp4", "", 1, split="test", source="yt"),
            Clip("c.mp4", "", 1, split="train", source="yt"),
        ]
    )
    assert sorted(f.rule for f in audit(clips)) == ["duplicate", "leak", "leak"]
    assert [c.id for c in clips] == ["a", "a#2", "b", "c"]
    assert {f.rule for f in audit(clips, files=True)} >= {"missing_video"}


# --- records


def test_clip_refuses_what_is_no_count():
    for count in (-1, 1.0, True, None, "3"):
        with pytest.raises(ValueError, match="x.mp4"):
            Clip("x.mp4", "squat", count)
    with pytest.raises(ValueError, match="window"):
        Clip("x.mp4", "squat", 1, window=(3, 2))


def test_views_and_sums_keep_the_books():
    clips = ClipSet([Clip(f"{k}.mp4", "squat", k, split="ab"[k % 2]) for k in range(6)])
    assert isinstance(clips[1:3], ClipSet) and [c.count for c in clips.split("b")] == [1, 3, 5] and clips[0] in clips
    assert len(clips + clips) == 12 and len({c.id for c in clips + clips}) == 12
    with pytest.raises(ValueError, match="the splits are a, b"):
        clips.split("test")


def test_spellings():
    written = [
        "frontraise",
        "front_raise",
        "squant",
        "squat",
        "pullups",
        "pull_up",
        "pushups",
        "push_up",
        "jumpjacks",
        "jump_jack",
        "benchpressing",
        "bench_pressing",
        "battle_rope",
        "pommelhorse",
        "situp",
        "others",
    ]
    assert len({canonical_action(w) for w in written}) == 10
    assert canonical_action(" Jumping Jacks") == "jumping_jacks" and canonical_action("") == ""


# --- round trips and parsers under random input

seconds = st.floats(0, 1e4, allow_nan=False)
clip_st = st.builds(
    Clip,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(0, 999),
    st.none() | st.lists(st.tuples(seconds, seconds), max_size=5),
    st.none() | st.text("abc", min_size=1),
    st.none() | st.text("xyz", min_size=1),
    st.text("abcdef0123456789", min_size=1),
    st.none() | st.tuples(st.floats(0, 50), st.floats(51, 100)),
)


@given(st.lists(clip_st, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_jsonl_loses_nothing(tmp_path_factory, clips):
    clips = ClipSet(clips)
    path = save_clips(clips, tmp_path_factory.mktemp("j") / "c.jsonl")
    again = load_clips(path)
    assert not again.rejected
    for was, now in zip(clips, again, strict=True):
        assert now == Clip(
            was.video, canonical_action(was.action), was.count, was.cycles, was.split, was.source, was.id, was.window
        )


@given(
    st.lists(st.lists(st.integers(0, 10**5), max_size=8), min_size=1, max_size=4), st.sampled_from([8.0, 25.0, 30.0])
)
@settings(max_examples=40, deadline=None)
def test_repcount_csv_is_exact_on_frame_boundaries(tmp_path_factory, frames, fps):
    clips = [
        Clip(
            f"{k}.mp4",
            "squat",
            len(f) // 2,
            [(a / fps, b / fps) for a, b in zip(f[::2], f[1::2])] or None,
            "train",
            id=f"id{k}",
        )
        for k, f in enumerate(frames)
    ]
    again = load_clips(save_clips(clips, tmp_path_factory.mktemp("c") / "c.csv", fps=fps))
    assert [(c.id, c.split, c.count, c.cycles or None) for c in again] == [
        (c.id, c.split, c.count, c.cycles) for c in clips
    ]


def test_save_refuses_what_it_cannot_say(tmp_path):
    with pytest.raises(ClipFormatError, match="window"):
        save_clips([Clip("a.mp4", "", 1, window=(0, 1))], tmp_path / "a.csv")
    with pytest.raises(ClipFormatError, match="jsonl or .csv"):
        save_clips([Clip("a.mp4", "", 1)], tmp_path / "a.txt")


@given(st.text())
def test_a_count_is_read_or_refused_never_guessed(text):
    try:
        value = read_count(text)
    except ValueError as e:
        assert "count" in str(e)
    else:
        assert value >= 0 and float(text) == value


@given(st.lists(st.one_of(st.none(), st.text(), st.floats(), st.integers())))
def test_pairs_are_finite_or_refused(cells):
    try:
        pairs = pair_up(cells)
    except ValueError:
        return
    assert all(abs(t) < float("inf") for pair in pairs for t in pair) and 2 * len(pairs) <= len(cells)


@given(
    st.binary(max_size=400)
    | st.text('file,action,count\n"\r;{}[]:0123abc', max_size=200).map(lambda t: ("file,action,count\n" + t).encode())
)
@example(b"\0\n\0\r\n\0")  # line breaks of two kinds, the last line without one
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_clips_rejections_or_one_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("d") / "x.csv"
    path.write_bytes(data)
    try:
        clips = load_clips(path)
    except ClipFormatError as e:
        assert "x.csv" in str(e)
    else:
        assert all(r.row >= 1 and r.reason for r in clips.rejected)


# --- every dataset's format


def as_json(path, value):
    return write(path, json.dumps(value, ensure_ascii=False))


LISTS = {
    "repcount_a/new_train.csv": 646,
    "repcount_a/new_valid.csv": 128,
    "repcount_a/new_test.csv": 250,
    "ucfrep/new_train.csv": 421,
    "ucfrep/new_val.csv": 105,
    "countix/countix_train.csv": 4503,
    "countix/countix_val.csv": 1433,
    "countix/countix_test.csv": 2640,
    "quva/quva_index.csv": 100,
    "quva/npy": 100,
}


@needs_shared
@pytest.mark.parametrize("name, rows", LISTS.items())
def test_every_real_file_loads_whole(name, rows):
    clips = load_clips(SHARED / "annotations" / name, fps=25)
    assert (len(clips.kept), len(clips.rejected)) == (rows, 0)
    without = load_clips(SHARED / "annotations" / name)
    assert len(without.kept) + len(without.rejected) == rows and {r.field for r in without.rejected} <= {"fps"}


@needs_shared
def test_every_file_of_the_real_annotations_is_read_by_some_function():
    for path in (p for p in (SHARED / "annotations").rglob("*") if p.is_file()):
        if path.suffix == ".xlsx":
            assert len(load_sources(path)) == 800 - 16
        else:
            assert len(load_clips(path, fps=25)) > 0, path


@needs_shared
def test_ucfrep_and_quva_agree_with_their_own_counts():
    for name in ("ucfrep/new_train.csv", "ucfrep/new_val.csv", "quva/quva_index.csv"):
        clips = load_clips(SHARED / "annotations" / name, fps=25)
        assert [f.rule for c in clips for f in label_findings(c) if f.severity == "error"] == []
        assert all(len(c.cycles) == c.count for c in clips)


def test_ucfrep_frames_start_at_one_and_are_cropped(tmp_path):
    text = (
        "name,counts,start_frame,end_frame,L1,L2,L3,L4\nUCF-101/JumpRope/v_JumpRope_g22_c04.avi,2.0,11,31,11,21,21,31\n"
    )
    (clip,) = load_clips(write(tmp_path / "u.csv", text), fps=10)
    assert (clip.window, clip.cycles, clip.action, clip.source) == (
        (1.0, 3.1),
        ((0, 1), (1, 2)),
        "jump_rope",
        "v_JumpRope_g22",
    )


def test_countix_has_several_windows_of_one_video(tmp_path):
    text = "video_id,kinetics_start,kinetics_end,repetition_start,repetition_end,count\nab,17,27,18.5,20.25,4\nab,17,27,21,24,6\nab,17,27,x,24,6\nab,17,27,24,24,6\n"
    clips = load_clips(write(tmp_path / "c.csv", text))
    assert [(c.id, c.video, c.window, c.source) for c in clips] == [
        ("ab_000017_000027", "ab_000017_000027.mp4", (1.5, 3.25), "ab"),
        ("ab_000017_000027#2", "ab_000017_000027.mp4", (4, 7), "ab"),
    ]
    assert [(r.row, r.field) for r in clips.rejected] == [(4, "repetition_start"), (5, "window")]


def test_quva_needs_a_frame_rate_and_its_array(tmp_path):
    np = pytest.importorskip("numpy")
    np.save(tmp_path / "a.npy", np.array([10, 20, 35]))
    (clip,) = load_clips(tmp_path / "a.npy", fps=10)
    assert clip.count == 3 and clip.cycles == ((0, 1), (1, 2), (2, 3.5))
    bare = load_clips(tmp_path / "a.npy")
    assert [(c.count, c.cycles) for c in bare] == [(3, None)] and [f.rule for f in bare.findings] == ["no_fps"]
    index = write(tmp_path / "i.csv", "name,count,first,last,fps\na,3,10,35,10\nb,2,1,2,10\n")
    clips = load_clips(index)
    assert [c.cycles and len(c.cycles) for c in clips] == [3, None] and [f.rule for f in clips.findings] == [
        "unusable_cycles"
    ]
    write(tmp_path / "bad.npy", "no array")
    assert "bad.npy" in load_clips(tmp_path / "bad.npy", fps=10).rejected[0].reason


def test_ovr(tmp_path):
    entry = {
        "video_id": "v",
        "ovr_annotations": [
            {"start_time": 1, "end_time": 4.5, "count": 3, "description": "a child's jump"},
            {"start_time": 5, "count": 1},
        ],
    }
    clips = load_clips(as_json(tmp_path / "o.json", [entry, {"video_id": "w", "ovr_annotations": []}]))
    assert [(c.video, c.count, c.window) for c in clips] == [("v", 3, (1, 4.5))]
    assert [(r.row, r.field) for r in clips.rejected] == [(1, "end_time"), (2, "ovr_annotations")]
    assert spellings(clips.findings) == {"a child's jump": "a_child's_jump"}


def test_video_r1_counts_and_questions(tmp_path):
    rows = [
        {"problem": "How many?", "solution": "<answer> 3 </answer>", "video_filename": "./a.mp4"},
        {"problem": "How many?", "solution": "<answer></answer>", "video_filename": "b.mp4"},
    ]
    clips = load_clips(write(tmp_path / "d.jsonl", "\n".join(map(json.dumps, rows))))
    assert [(c.count, c.extra["task"]) for c in clips] == [(3, "dvd_counting")] and clips.rejected[
        0
    ].field == "solution"
    item = {
        "problem_id": 2,
        "problem": "Which?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": ["A. x", "B. y"],
        "solution": "<answer>B</answer>",
        "path": "./v.mp4",
        "data_source": "s",
    }
    (clip,) = load_clips(as_json(tmp_path / "v.json", [item]))
    assert (
        clip.extra["task"] == "choice" and clip.extra["solution"] == "B" and clip.extra["options"] == ["A. x", "B. y"]
    )


def test_temporal_r1_items_and_recipe(tmp_path):
    items = [
        {
            "dataset": "charades",
            "video": f"{k}.mp4",
            "problem": "a door opens",
            "solution": [0.25, 0.5],
            "video_length": 20,
        }
        for k in range(10)
    ]
    as_json(tmp_path / "t.json", [*items, items[0] | {"solution": [0.5, 2]}])
    (first, *_), (bad,) = (s := load_clips(tmp_path / "t.json")).kept, s.rejected
    assert (
        first.cycles == ((5.0, 10.0),)
        and first.count == 1
        and first.extra["problem"] == "a door opens"
        and bad.field == "solution"
    )
    recipe = write(
        tmp_path / "r.yaml",
        """datasets:
  - {json_path: t.json, data_folder: charades, sampling_strategy: "first:3"}
  - {json_path: t.json, sampling_strategy: "random:20%"}
  - {json_path: gone.json}
  - {json_path: r.yaml}
  - {json_path: t.json, sampling_strategy: some}
""",
    )
    clips = load_clips(recipe)
    assert [c.video for c in clips][:3] == [f"charades{os.sep}{k}.mp4" for k in range(3)] and len(clips) == 5
    assert [(r.row, r.field) for r in clips.rejected if r.file == "r.yaml"] == [
        (3, "json_path"),
        (4, "json_path"),
        (5, "sampling_strategy"),
    ]
    assert [f.message for f in clips.findings if f.rule == "sampled"] == [
        "first:3: 3 of 10 clips",
        "random:20%: 2 of 10 clips",
    ]
    assert load_clips(recipe).kept == clips.kept
    recipe.write_text("datasets:\n  - json_path: t.json\n    json_path: u.json\n")
    with pytest.raises(ClipFormatError, match="YAML .json_path is given twice, again in line 3"):
        load_clips(recipe)


def test_charades_sta_as_text_and_json(tmp_path):
    clips = load_clips(
        write(
            tmp_path / "charades_sta_train.txt",
            "3MSZA 24.3 30.4##person turn a light on.\n\nodd line\nAMT7R 1 x##person sits.\n",
        )
    )
    assert [(c.video, c.cycles, c.extra["problem"]) for c in clips] == [
        ("3MSZA", ((24.3, 30.4),), "person turn a light on.")
    ]
    assert [(r.row, r.field) for r in clips.rejected] == [(3, "row"), (4, "end")]
    keyed = {
        "3MSZA": {"duration": 31, "timestamps": [[1, 2], [3, 4]], "sentences": ["a", "b"]},
        "X": {"duration": 31, "timestamps": [[1, 2]], "sentences": []},
    }
    for text in (json.dumps(keyed), json.dumps(keyed, indent=2)):
        clips = load_clips(write(tmp_path / "c.json", text))
        assert [(c.id, c.cycles) for c in clips] == [("3MSZA", ((1, 2),)), ("3MSZA#2", ((3, 4),))] and [
            r.field for r in clips.rejected
        ] == ["timestamps"]
    (clip,) = load_clips(as_json(tmp_path / "l.json", [{"video": "3MSZA.mp4", "caption": "a", "timestamp": [1, 2]}]))
    assert clip.cycles == ((1, 2),)


def test_columns_of_ones_own(tmp_path):
    path = write(tmp_path / "m.csv", "Clip File;Reps;exercise\na.mp4;3;Squats\n")
    (clip,) = load_clips(path, mapping={"video": "Clip File", "count": "reps", "action": "exercise"})
    assert (clip.video, clip.count, clip.action) == ("a.mp4", 3, "squat")
    assert load_clips(path, mapping={"video": "Clip File", "count": "reps"})[0].action == ""
    with pytest.raises(ClipFormatError, match=r"names repz, but its columns are clip file, exercise, reps"):
        load_clips(path, mapping={"count": "repz"})


def test_extra_packages_are_named_when_missing(tmp_path, monkeypatch):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("actrep_nb.formats.import_module", refuse)
    with pytest.raises(ImportError, match="Parquet needs the package pyarrow"):
        save_clips([Clip("a.mp4", "", 1)], tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match="pyarrow"):
        load_clips(tmp_path / "b.parquet")
    with pytest.raises(ImportError, match="needs the package datasets"):
        to_dataset([Clip("a.mp4", "", 1)])


# --- written and read back

plain = Clip("v/a.mp4", "push_up", 2, [(0.5, 1.5), (1.5, 2.5)], "train", "yt", "a")
crop = Clip(
    "UCF-101/JumpRope/v_JumpRope_g01_c01.avi",
    "jump_rope",
    1,
    [(0.0, 1.0)],
    None,
    "v_JumpRope_g01",
    "v_JumpRope_g01_c01",
    (1.0, 3.0),
)
reasoned = Clip("a.mp4", "squat", 3, split="test", extra={"cot": "one, two, three"})
moment = Clip("a.mp4", "", 1, [(5.0, 10.0)], extra={"task": "grounding", "problem": "a door opens", "duration": 20.0})
SAID = {  # format → suffix, clip, fields that survive
    "repcount": (".csv", plain, "video action count cycles split source id"),
    "table": (".csv", plain, "video action count cycles split source id"),
    "actrep_csv": (".csv", plain, "video action count split"),
    "actrep_jsonl": (".jsonl", reasoned, "video action count split extra"),
    "actrep_jsonl_legacy": (".jsonl", plain, "video action count"),
    "ucfrep": (".csv", crop, "video action count cycles source id window"),
    "countix": (
        ".csv",
        Clip("ab_000017_000027.mp4", "sawing_wood", 4, window=(1.5, 3.25), source="ab"),
        "video action count window source id",
    ),
    "ovr": (".json", Clip("ab", "sawing_wood", 4, window=(1.5, 3.25), source="ab"), "video action count window source"),
    "dvd_counting": (
        ".jsonl",
        Clip(
            "a.mp4", "", 4, extra={"task": "dvd_counting", "problem": "How many?", "solution": "<answer> 4 </answer>"}
        ),
        "video count extra",
    ),
    "video_r1": (
        ".json",
        Clip(
            "a.mp4",
            "",
            0,
            extra={"task": "choice", "problem": "Which?", "options": ["A", "B"], "solution": "B", "data_type": "video"},
        ),
        "video extra",
    ),
    "charades_txt": (".txt", moment, "video count cycles"),
    "charades_json": (".json", moment, "video count cycles extra"),
    "temporal_r1": (".json", moment, "video count cycles"),
    "clips": (".jsonl", reasoned, "video action count split id extra"),
}


@pytest.mark.parametrize("format, case", SAID.items())
def test_what_is_written_is_recognised_and_read_back(tmp_path, format, case):
    suffix, clip, survive = case
    path = save_clips([clip], tmp_path / f"x{suffix}", format=format)
    again = load_clips(path, fps=30)
    assert again.rejected == [] and len(again) == 1
    for name in survive.split():
        assert getattr(again[0], name) == getattr(clip, name), name


@pytest.mark.parametrize("format, case", SAID.items())
def test_a_file_cut_at_any_byte_is_refused_or_gives_its_whole_rows(tmp_path, format, case):
    "Whoever cuts between two rows cannot be caught; inside a row, nothing is read of it, and not one digit of a count is lost."
    suffix, clip, _ = case
    path = save_clips(
        [replace(clip, video=f"{k}{clip.video}", count=10 * k, id="") for k in (1, 2, 3)],
        tmp_path / f"x{suffix}",
        format=format,
    )
    data, whole = path.read_bytes(), load_clips(path, fps=30)
    ends = [
        k
        for k in range(1, len(data))
        if data[k - 1 : k] == b"\n" or data[k - 1 : k] == b"}" and data[k : k + 1] == b"\n" or not data[k:].strip()
    ]
    for cut in range(len(data) // 2, len(data)):
        path.write_bytes(data[:cut])
        try:
            some = load_clips(path, fps=30)
        except ClipFormatError as e:
            assert path.name in str(e)
        else:
            assert cut in ends and not some.rejected and some.kept == whole.kept[: len(some)], data[:cut]


def test_a_web_spreadsheet_s_export_is_read_and_told(tmp_path):
    text = "file,action,count\r\na.mp4,squat,5\r\nb.mp4,\"up, down\",10"
    from actrep_nb.show import RunWarning

    with pytest.warns(
        RunWarning, match=r"sheet.csv: the last line, .*10'?.*has no line break.*see that this line is whole"
    ):
        clips = load_clips(write(tmp_path / "sheet.csv", text))
    assert [(c.count, c.action) for c in clips] == [(5, "squat"), (10, "up,_down")] and not clips.rejected
    (told,) = [f for f in clips.findings if f.rule == "no_last_line_break"]
    assert told.severity == "warning" and "down\",10" in told.message and "see that this line is whole" in told.action
    assert not [
        f for f in load_clips(write(tmp_path / "sheet.csv", text + "\r\n")).findings if f.rule == "no_last_line_break"
    ]


def test_a_table_that_ends_inside_a_row_says_so(tmp_path):
    rows = "".join(f"{k}.mp4,squat,10\n" for k in range(120))
    for text in (
        "file,action,count\n" + rows[:-2],
        "file,action,count\r\n" + rows[:-3],
        ("file,action,count\n" + rows)[:-4].replace("\n", "\r\n"),
        "file;action;count\n" + rows[:-6].replace(",", ";"),
        rows.replace(",squat", ",test,squat")[:-2],
    ):
        with pytest.raises(
            ClipFormatError, match=r"m.csv ends inside line 12[01], .*119.mp4.*without a line break.*add a line break"
        ):
            load_clips(write(tmp_path / "m.csv", text))
    with pytest.raises(ClipFormatError, match="s.csv ends inside line 3"):
        load_sources(write(tmp_path / "s.csv", "file,source\na.mp4,x1\nb.mp4,x1"))
    with pytest.raises(ClipFormatError, match="y.yaml ends inside line 3"):
        load_clips(write(tmp_path / "y.yaml", "datasets:\n  - json_path: g.json\n    sampling_strategy: first:1"))
    with pytest.raises(ClipFormatError, match=r"x.json: the JSON list is cut off or damaged.*line 1 column 54"):
        load_clips(write(tmp_path / "x.json", '[{"video": "a.mp4", "action": "squat", "count": 1}, {]\n'))
    last = load_clips(write(tmp_path / "m.csv", 'file,count,action\na.mp4,1,squat\nb.mp4,1,"squat\n'))
    assert len(last) == 1 and "never closed" in last.rejected[0].reason


@pytest.mark.parametrize("kind", ["x.parquet", "x.xlsx", "saved"])
def test_what_is_no_text_and_cut_off_is_refused(tmp_path, kind):
    clips, path = [replace(plain, id=str(k)) for k in range(3)], tmp_path / kind
    if kind == "saved":
        pytest.importorskip("datasets")
        to_dataset(clips).save_to_disk(str(path))
        cut = next(path.glob("*.arrow"))
    elif kind == "x.xlsx":
        cut = path
        path.write_bytes(samples()["x.xlsx"])
    else:
        cut = save_clips(clips, path)
    data = cut.read_bytes()
    for at in (0, 10, len(data) // 2, len(data) - 9):
        cut.write_bytes(data[:at])
        with pytest.raises(ClipFormatError, match=path.name):
            load_clips(path)


def test_two_columns_of_one_name(tmp_path):
    "Rows in which both say the same, or one says nothing, are kept; the others are rejected. A key that a JSON object has twice is the same fault."
    path = write(
        tmp_path / "m.csv",
        "file,action,count,count,,\na.mp4,squat,5,6\nb.mp4,squat,5,5,,\nc.mp4,squat,,7\nd.mp4,squat,8,\n",
    )
    clips = load_clips(path)
    assert (
        [(c.id, c.count) for c in clips] == [("b", 5), ("c", 7), ("d", 8)]
        and clips.rejected[0].row == 2
        and "two columns are named 'count', and hold '5' and '6': rename or delete one" in clips.rejected[0].reason
    )
    assert [f.message for f in audit(path) if f.rule == "columns_twice"] == ["two columns are named 'count'"]
    for name in ("j.jsonl", "j.json"):
        text = '{"video": "a.mp4", "action": "squat", "count": 5}, {"video": "b.mp4", "action": "squat", "count": 5, "count": 6}'
        text = f"[{text}]" if name == "j.json" else text.replace("}, ", "}\n")
        try:
            reason = load_clips(write(tmp_path / name, text + "\n")).rejected[0].reason
        except ClipFormatError as e:
            reason = str(e)
        assert "the key 'count' is there twice, with '5' and '6'" in reason
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["file", "action", "count", "Count"], ["a.mp4", "squat", 5, 6], ["b.mp4", "squat", None, 7]):
        book.active.append(row)
    book.save(tmp_path / "x.xlsx")
    assert [(c.id, c.count) for c in load_clips(tmp_path / "x.xlsx")] == [("b", 7)] and "two columns" in load_clips(
        tmp_path / "x.xlsx"
    ).rejected[0].reason


def test_quva_is_written_as_arrays_with_an_index(tmp_path):
    clip = Clip("a.mp4", "squat", 2, [(0.0, 0.5), (0.5, 1.0)])
    (again,) = load_clips(save_clips([clip], tmp_path / "q", fps=10, format="quva"))
    assert again.cycles == clip.cycles and again.action == "squat"


@pytest.mark.parametrize(
    "format", ["repcount", "table", "actrep_csv", "actrep_jsonl", "ucfrep", "countix", "ovr", "dvd_counting", "quva"]
)
def test_a_question_is_not_written_as_a_count(tmp_path, format):
    with pytest.raises(ClipFormatError):
        save_clips([moment], tmp_path / "x", format=format)
    with pytest.raises(ClipFormatError):
        save_clips([plain], tmp_path / "x", format="charades_txt")


@needs_shared
def test_real_frame_numbers_survive_a_round_trip(tmp_path):
    clips = load_clips(SHARED / "annotations/repcount_a/test_with_fps.csv")
    again = load_clips(save_clips(clips, tmp_path / "r.csv"))
    assert [(c.count, c.cycles or None, c.action) for c in again] == [
        (c.count, c.cycles or None, c.action) for c in clips
    ]
    ucf = load_clips(SHARED / "annotations/ucfrep/new_val.csv", fps=25)
    assert [
        (c.window, c.cycles) for c in load_clips(save_clips(ucf, tmp_path / "u.csv", fps=25, format="ucfrep"), fps=25)
    ] == [(c.window, c.cycles) for c in ucf]


@given(st.lists(clip_st, min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_parquet_loses_nothing(tmp_path_factory, clips):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, which is optional")
    clips = ClipSet(clips)
    again = load_clips(save_clips(clips, tmp_path_factory.mktemp("p") / "c.parquet"))
    for was, now in zip(clips, again, strict=True):
        assert now == Clip(
            was.video, canonical_action(was.action), was.count, was.cycles, was.split, was.source, was.id, was.window
        )


def test_hugging_face_datasets_in_and_out(tmp_path):
    pytest.importorskip("datasets", reason="the package datasets is optional")
    clips = ClipSet([plain, crop, moment]).kept
    data = to_dataset(clips)
    assert clips_from_rows(data).kept == clips
    data.save_to_disk(tmp_path / "d")
    assert load_clips(tmp_path / "d").kept == clips


def test_a_name_no_file_system_takes_is_a_missing_file(tmp_path):
    for text in (
        "name,count,first,last\n" + "x" * 300 + ",3,1,9\n",
        "type,name,count,L1,L2\nsquat," + "x" * 300 + ",1,0,5\n",
    ):
        assert (
            not load_clips(write(tmp_path / "q.csv", text))[0].cycles
            and load_clips(tmp_path / "q.csv", videos=tmp_path).rejected
        )


def test_rows_in_memory():
    clips = clips_from_rows(
        [{"path": "a.mp4", "reps": 3.0}, {"path": "b.mp4", "reps": float("nan")}],
        mapping={"video": "path", "count": "reps"},
    )
    assert [c.count for c in clips] == [3] and [(r.file, r.row, r.field) for r in clips.rejected] == [
        ("rows", 2, "count")
    ]


# --- audit


@needs_shared
def test_the_audit_of_repcount_a_over_its_splits(tmp_path):
    folder = SHARED / "annotations/repcount_a"
    clips = sum((load_clips(folder / f"{s}_with_fps.csv", split=s) for s in ("train", "valid", "test")), ClipSet())
    clips = with_sources(clips, load_sources(folder / "filename_mapping.xlsx"))
    found = audit(clips)
    of = lambda rule: {f.id for f in found if f.rule == rule}
    assert (
        of("zero_count") == {"stu9_67", "train143"}
        and of("count_cycles") == {"test118"}
        and of("zero_length") == {"stu6_5", "stu4_3", "stu4_5"}
    )
    assert of("past_last_frame") == {"stu11_11", "stu11_8", "stu12_0", "stu12_1", "stu12_2", "stu12_27"}
    assert [f for f in found if f.rule == "rejected" and "stu6_44" in f.message]
    assert ["16 files have no source (#NAME? 16 times)"] == [f.message for f in found if f.rule == "source_unknown"]
    assert not any("#NAME?" in f.message for f in found if f.rule == "leak")
    assert [f.message for f in found if f.rule == "class_names"][0].startswith("16 spellings for 10 classes")
    pairs = {(r["split"], r["other"]): (r["with_source"], r["shared"]) for r in leakage(clips)}
    assert pairs["test", "train"] == (109, 22) and pairs["valid", "train"] == (91, 21)
    page = audit_page(clips, found, "A & B")
    assert (
        "A &amp; B" in page
        and "stu6_44" in page
        and page.count("<img") == 1
        and not re.search(r"<script|https?:|src=\"(?!data:)", page)
    )


def test_leaks_name_the_other_split_and_survive_a_clash_of_ids():
    train, test = (
        ClipSet([Clip("t/a.mp4", "squat", 1, split="train", source="s")]),
        ClipSet([Clip("e/a.mp4", "squat", 2, split="test", source="s")], rows={"a": ("e.csv", 2)}),
    )
    (leak,) = [f for f in audit(train + test) if f.rule == "leak"]
    assert (leak.id, leak.file, leak.row) == (
        "a#2",
        "e.csv",
        2,
    ) and "s is in test and in train (clip a)" in leak.message


def test_sources_from_a_table(tmp_path):
    table = write(tmp_path / "s.csv", "file,source\na.mp4,yt1\nb,yt1\nc,\n")
    clips = with_sources(
        ClipSet([Clip("x/a.mp4", "", 1), Clip("b.mp4", "", 1), Clip("c.mp4", "", 1)]), load_sources(table)
    )
    assert [c.source for c in clips] == ["yt1", "yt1", None]
    with pytest.raises(ClipFormatError, match="needs the columns file and source"):
        load_sources(write(tmp_path / "t.csv", "x,y\n1,2\n"))


@pytest.mark.parametrize("word", ["#NAME?", "#REF!", "#N/A", "#DIV/0!", "N/A", "unknown", " ", "nan"])
def test_a_source_that_is_not_known_is_shared_with_nobody(tmp_path, word):
    sources = load_sources(write(tmp_path / "s.csv", f"file,source\na,{word}\nb,{word}\nc,yt\n"))
    clips = with_sources(
        ClipSet(
            [
                Clip("a.mp4", "", 1, split="train"),
                Clip("b.mp4", "", 1, split="test"),
                Clip("c.mp4", "", 1, split="test"),
            ]
        ),
        sources,
    )
    assert [(r["with_source"], r["shared"]) for r in leakage(clips)] == [(0, 0), (1, 0)] and [
        c.source for c in clips
    ] == [None, None, "yt"]
    assert ["2 files have no source"] == [f.message[:22] for f in audit(clips) if f.rule == "source_unknown"]
    written = [Clip("a.mp4", "", 1, split="train", source=word), Clip("b.mp4", "", 1, split="test", source=word)]
    assert not [f for f in audit(written) if f.rule == "leak"]


def test_a_file_with_two_sources_is_found(tmp_path):
    sources = load_sources(write(tmp_path / "s.csv", "file,source\na,yt1\na.mp4,yt2\nb,yt1\nb,yt1\n"))
    (f,) = [f for f in audit(with_sources(ClipSet([Clip("a.mp4", "", 1)]), sources)) if f.rule == "two_sources"]
    assert (
        sources == {"a": "yt1", "b": "yt1"}
        and (f.file, f.row, f.severity) == ("s.csv", 3, "error")
        and "yt1" in f.message
        and "yt2" in f.message
    )


def test_one_split_under_several_names_and_one_file_under_several_paths():
    clips = [Clip("v/a.mp4", "", 1, split=s) for s in ("val", "Valid", "validation")]
    assert (
        {c.split for c in clips} == {"valid"}
        and not [f for f in audit(clips) if f.rule == "leak"]
        and len(ClipSet(clips).split("val")) == 3
    )
    apart = [Clip("./a.mp4", "", 1, split="TRAIN"), Clip("sub/../a.mp4", "", 2, split="test")]
    assert [f.rule for f in audit(apart) if f.rule in ("leak", "duplicate")] == ["duplicate", "leak"]
    assert leakage(apart)[0]["split"] == "train" and leakage(apart)[0]["shared"] == 1


def test_an_open_quote_costs_its_row_only(tmp_path):
    rows = [f"{k}.mp4,squat,{k}" for k in range(500)]
    for at, quoted in ((3, '"3.mp4,squat,3'), (498, '"498.mp4,squat,498'), (7, '7.mp4,"squat,7')):
        clips = load_clips(
            write(tmp_path / "q.csv", "\n".join(["file,action,count", *rows[:at], quoted, *rows[at + 1 :]]) + "\n")
        )
        (bad,) = clips.rejected
        assert len(clips) == 499 and bad.row == at + 2 and "quote opens in this row" in bad.reason
    kept = load_clips(write(tmp_path / "q.csv", 'file,action,count\na.mp4,"push\nup",3\n"b, ""c"".mp4",squat,2\n'))
    assert [(c.video, c.count) for c in kept] == [("a.mp4", 3), ('b, "c".mp4', 2)] and not kept.rejected


def test_cycles_and_windows_as_other_tools_print_them(tmp_path):
    text = 'video,action,count,cycles,window,extra\na.mp4,squat,2,"[[0.5, 1.5], [1.5, 2.6]]",[2.0 6.0],"{""fps"": 30}"\nb.mp4,squat,1,[array([0.5 1.5])],,\nc.mp4,squat,1,0.5-1.5,1-2;5-6,\nd.mp4,squat,1,[oops],,\n'
    clips = load_clips(write(tmp_path / "c.csv", text))
    assert [(c.cycles, c.window, c.extra) for c in clips] == [
        (((0.5, 1.5), (1.5, 2.6)), (2, 6), {"fps": 30}),
        (((0.5, 1.5),), None, {}),
        (None, None, {}),
    ]
    assert [(r.row, r.field) for r in clips.rejected] == [(4, "window")] and [f.rule for f in clips.findings] == [
        "unusable_cycles"
    ]


def test_a_dataset_written_as_csv_keeps_cycles_and_windows(tmp_path):
    pytest.importorskip("datasets")
    clips = [
        Clip("a.mp4", "squat", 2, [(0.5, 1.5), (1.5, 2.6)], window=(2, 6), extra={"fps": 25}),
        Clip("b.mp4", "squat", 0),
    ]
    to_dataset(clips).to_csv(tmp_path / "c.csv")
    assert list(load_clips(tmp_path / "c.csv")) == clips


def test_splits_of_a_saved_dataset_whose_rows_name_none(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {
        s: datasets.Dataset.from_list([{"video": f"{s}.mp4", "action": "squat", "count": 1, "split": blank}])
        for s, blank in (("train", ""), ("test", None))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    assert [c.split for c in load_clips(tmp_path / "d")] == ["train", "test"]


def test_a_mapping_takes_nothing_away(tmp_path):
    table = write(tmp_path / "m.csv", "path,action,count\na.mp4,squat,3\n")
    assert load_clips(table, mapping={"video": "path"})[0].action == "squat"
    with pytest.raises(ClipFormatError, match="gives reps, which is no column of ours; there are video"):
        load_clips(table, mapping={"video": "path", "reps": "count"})
    with pytest.raises(ClipFormatError, match=r"has video or file or name; its columns are action, count, path$"):
        load_clips(table, mapping={"count": "count"})
    frames = write(tmp_path / "r.csv", "type,name,count,L1,L2,fps\nsquat,a.mp4,1,30,60,30\n")
    assert load_clips(frames, mapping={"video": "name", "action": "type"})[0].cycles == ((1.0, 2.0),)


@pytest.mark.parametrize("name", ["e.jsonl", "e.csv", "e.parquet"])
def test_no_clips_are_not_saved(tmp_path, name):
    with pytest.raises(ClipFormatError, match="no clip"):
        save_clips([], tmp_path / name)
    with pytest.raises(ClipFormatError, match="no clip"):
        to_dataset([])


def test_a_row_against_what_it_says_of_its_file():
    rules = lambda **k: [
        f.rule for f in label_findings(Clip("a.mp4", "squat", k.pop("count", 1), k.pop("cycles", [(0, 1)]), **k))
    ]
    assert rules(extra={"fps": 30, "num_frames": 300, "duration": 10}) == []
    assert rules(extra={"fps": 30, "num_frames": 300, "duration": 12}) == ["duration"]
    assert rules(cycles=[(0, 11)], extra={"duration": 10}) == ["out_of_range"] and rules(
        window=(0, 11), extra={"duration": 10}
    ) == ["out_of_range"]
    assert rules(cycles=[(0, 10)], extra={"fps": 30, "num_frames": 300}) == ["past_last_frame"]
    assert (
        rules(count=0, cycles=()) == ["zero_count"]
        and rules(count=0, cycles=None, extra={"task": "choice"}) == []
        and rules(extra={"fps": "x"}) == []
    )


def test_files_are_opened_and_compared(tmp_path):
    from actrep_nb.synth import make_dataset

    (clip,) = load_clips(
        make_dataset(tmp_path / "data", 1, seed=0, name="test", workers=1), videos=tmp_path / "data/videos"
    )
    (tmp_path / "empty.mp4").touch()
    shutil.copy(clip.video, tmp_path / "twin.mp4")
    others = [Clip(str(tmp_path / n), "squat", 1) for n in ("twin.mp4", "empty.mp4", "gone.mp4")]
    wrong = [Clip(clip.video, "squat", 1, [(0, 500)], id="late", window=None, extra={"fps": 3.0, "duration": 900})]
    found = {(f.id, f.rule) for f in audit(ClipSet([clip, *others, *wrong]), files=True)}
    assert {
        ("twin", "same_bytes"),
        ("empty", "unreadable_video"),
        ("gone", "missing_video"),
        ("late", "file_fps"),
        ("late", "file_duration"),
        ("late", "out_of_range"),
    } <= found
    assert not {rule for id, rule in found if id == clip.id} & {"unreadable_video", "file_fps", "same_bytes"}


# --- damaged files

SAMPLES = {
    "r.csv": "type,name,count,L1,L2,L3,L4,fps\nsquat,a.mp4,2,0,10,10,20,10\npushups,b.mp4,1,0,15,,,10\n",
    "t.csv": "file,action,count,cycles_s\na.mp4,squat,2,0.5-1.5;1.5-2.5\n",
    "a.csv": "a.mp4,train,squat,3\nb.mp4,test,squat,4\n",
    "u.csv": "name,counts,start_frame,end_frame,L1,L2\nUCF-101/JumpRope/v_JumpRope_g22_c04.avi,1.0,11,31,11,21\n",
    "c.csv": "video_id,kinetics_start,kinetics_end,repetition_start,repetition_end,count\nab,17,27,18.5,20.25,4\n",
    "q.csv": "name,count,first,last,fps\na,3,10,35,10\n",
    "a.jsonl": '{"video_id":"a","split":"train","action":"squat","gt_count":3,"cot":"x"}\n{"video_id":"b","split":"test","action":"squat","gt_count":4}\n',
    "l.jsonl": '{"video_id":"a","ground_truth":{"action":"squat","count":3}}\n',
    "k.jsonl": '{"video":"a.mp4","action":"squat","count":2,"cycles":[[0,1],[1,2]],"window":[0,3],"extra":{"fps":25}}\n',
    "o.json": '[{"video_id":"v","ovr_annotations":[{"start_time":1,"end_time":4.5,"count":3,"description":"jump"}]}]',
    "d.jsonl": '{"problem":"How many?","solution":"<answer> 3 </answer>","video_filename":"./a.mp4"}\n',
    "v.json": '[{"problem_id":2,"problem":"Which?","data_type":"video","problem_type":"multiple choice","options":["A","B"],"solution":"<answer>B</answer>","path":"v.mp4"}]',
    "g.json": '[{"dataset":"charades","video":"k.mp4","problem":"a door opens","solution":[0.25,0.5],"video_length":20}]',
    "s.txt": "3MSZA 24.3 30.4##person turn a light on.\nX 1 2##b\n",
    "s.json": '{"3MSZA":{"duration":31,"timestamps":[[1,2],[3,4]],"sentences":["a","b"]}}',
    "y.yaml": "datasets:\n  - json_path: g.json\n    data_folder: x\n    sampling_strategy: first:1\n",
}
ODD = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"'",
    b"\n",
    b"\r",
    b",",
    b";",
    b"{",
    b"[" * 3000,
    b"]",
    b"}",
    b"nan",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 5000,
    b"null",
    b"true",
    b"\\ud800",
    b"&a [*a]",
    b"#",
    b"\xc2\xb2",
    b"x" * 300,
    b"/" * 300,
    b"..",
    b"0",
    b"Infinity",
    b"\t" * 50,
    b"{}",
    b"[]",
    b"\x1a",
]


def samples() -> dict[str, bytes]:
    "One small good file of each kind."
    import io

    import numpy as np

    out = {name: text.encode() for name, text in SAMPLES.items()}
    array = io.BytesIO()
    np.save(array, np.array([10, 20, 35]))
    book = io.BytesIO()
    openpyxl = pytest.importorskip("openpyxl")
    table = openpyxl.Workbook()
    for row in (["file", "action", "count"], ["a.mp4", "squat", 3]):
        table.active.append(row)
    table.save(book)
    return out | {"n.npy": array.getvalue(), "x.xlsx": book.getvalue()}


def damage(data: bytes, rng: random.Random) -> bytes:
    "Cut, flip, drop, double, insert: one to three times."
    for _ in range(rng.randint(1, 3)):
        at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        flipped = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
        data = rng.choice(
            [
                data[:at],
                data[:at] + data[to:],
                data[:to] + data[at:],
                data[:at] + rng.choice(ODD) + data[at:],
                data[:at] + rng.choice(ODD) + data[to:],
                data[:at] + flipped + data[at + 1 :],
                data[:at] + rng.randbytes(rng.randrange(20)) + data[to:],
            ]
        )
    return data


def check_damaged(folder: Path, name: str, data: bytes, good: dict[str, bytes]) -> str:
    "Load, audit and draw one damaged file; the outcome in a word. Anything but clips, reasons or one named error raises."
    folder.mkdir(parents=True, exist_ok=True)
    for other in ("g.json", "a.npy"):
        (folder / other).write_bytes(good.get(other, good["n.npy"]))
    (folder / name).write_bytes(data)
    try:
        clips = load_clips(folder / name, fps=25)
    except ClipFormatError as e:
        assert name in str(e) and len(str(e)) > 20
        return "refused"
    assert all(r.row >= 1 and r.field and len(r.reason) > 3 for r in clips.rejected)
    assert all(f.message for f in audit(clips, files=True))
    load_clips(folder / name, fps=25, videos=folder)
    return "clips and reasons" if clips.rejected else "clips"


def test_damaged_annotation_files_of_every_kind(tmp_path):
    rng, good = random.Random(0), samples()
    outcomes = [
        check_damaged(tmp_path / str(k), name, damage(good[name], rng), good) for k in range(8) for name in good
    ]
    assert {"refused", "clips", "clips and reasons"} == set(outcomes)


@pytest.mark.parametrize("format", ["clips", "video_r1"])
def test_no_number_is_null_in_a_file_of_clips(tmp_path, format):
    "NaN is not JSON; a value that somebody computed and kept may be one."
    extra = {"x": float("nan"), "problem_id": float("inf")} | (
        {"task": "numerical", "problem": "?", "solution": "3"} if format == "video_r1" else {}
    )
    path = save_clips(
        [Clip("a.mp4", "squat", 3, extra=extra)],
        tmp_path / "clips.json" if format == "video_r1" else tmp_path / "clips.jsonl",
        format=format,
    )

    def no_number(text):
        raise ValueError(f"{text} is not JSON")

    assert "null" in (text := path.read_text()) and json.loads(text, parse_constant=no_number)


# --- names


def test_a_name_in_another_writing_is_the_one_file_there_is(tmp_path):
    "Case, Unicode form, slashes, spaces and a missing suffix: the row is kept, and a finding says which file was read."
    for name in ("IMG_0001.MOV", "clip.MP4", "Train/u\u0308bung 1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    written = {
        "IMG_0001": 0,
        "IMG_0001.mov": 0,
        "img_0001.MOV": 0,
        "img_0001": 0,
        "clip.mp4": 1,
        "clip": 1,
        ".\\clip.mp4": 1,
        "./Clip.Mp4": 1,
        " clip.mp4": 1,
        "clip .mp4": 1,
        "train\\übung 1.mp4": 2,
        "Train/ÜBUNG 1": 2,
        "train\\..\\Train//u\u0308bung  1.mp4": 2,
    }
    rows = [{"file": name, "action": "squat", "count": 6} for name in [*written, "IMG_0001.MOV"]]
    clips = clips_from_rows(rows, videos=tmp_path)
    assert not clips.rejected and [Path(c.video).relative_to(tmp_path).parts[-1] for c in clips] == [
        ["IMG_0001.MOV", "clip.MP4", "u\u0308bung 1.mp4"][k] for k in [*written.values(), 0]
    ]
    assert all(os.path.isfile(c.video) for c in clips) and [
        f.row for f in clips.findings if f.rule == "file_name"
    ] == list(range(1, len(written) + 1))
    assert [c.video for c in clips_from_rows(rows)] == [
        r["file"].strip() for r in rows
    ]  # without videos= nothing is looked for


def test_a_name_as_it_is_written_comes_first_and_nobody_guesses_between_two(tmp_path):
    for name in ("a.mp4", "A.MP4", "B.mp4", "b.MP4", "only.avi", "sub/deep.mkv", "x\\y.mp4", "x/y.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if len(os.listdir(tmp_path)) < 8:
        pytest.skip("this file system takes names of other case for the same")
    rows = [
        {"file": name, "action": "squat", "count": 6}
        for name in (
            "a.mp4",
            "A.MP4",
            "x\\y.mp4",
            "b.mp4",
            "only.mp4",
            "/elsewhere/ann/ONLY.mp4",
            "C:\\clips\\only.avi",
            "sub/deep.mp4",
            "none.mp4",
            "..\\..\\none",
        )
    ]
    clips = clips_from_rows(rows, videos=tmp_path)
    assert [Path(c.video).name for c in clips] == ["a.mp4", "A.MP4", "x\\y.mp4"] and not clips.findings
    reasons = [r.reason for r in clips.rejected]
    assert f"there is {tmp_path / 'B.mp4'} and {tmp_path / 'b.MP4'}: did you mean one of them?" in reasons[0]
    assert (
        all(f"there is {tmp_path / 'only.avi'}: did you mean it?" in reason for reason in reasons[1:4])
        and f"{Path('sub/deep.mkv')}: did you mean it?" in reasons[4]
    )
    assert all("fetch it, or name the folder that it is in (--videos" in reason for reason in reasons[5:])


def test_a_file_that_comes_later_is_found(tmp_path):
    "What a folder holds is remembered until it changes."
    row = [{"file": "img.mov", "action": "squat", "count": 6}]
    assert len(clips_from_rows(row, videos=tmp_path).rejected) == 1
    time.sleep(0.05)  # longer than the clock of a file system ticks
    (tmp_path / "IMG.MOV").touch()
    assert Path(clips_from_rows(row, videos=tmp_path)[0].video).name == "IMG.MOV"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["2026-11-27T12:30:00.mp4", "pipe:.mp4", "concat:a|b.mp4", "%03d.mp4"])
def test_files_with_odd_names_are_asked_for_their_rate_and_opened(tmp_path, monkeypatch, name):
    import numpy as np

    from actrep_nb.video import write_video

    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", np.zeros((16, 32, 32, 3), np.uint8), fps=8).rename(name)
    clips = load_clips(write(tmp_path / "r.csv", f"type,name,count,L1,L2\nsquat,{name},1,4,12\n"), videos=".")
    assert [c.cycles for c in clips] == [((0.5, 1.5),)] and not {f.rule for f in audit(clips, files=True)} & {
        "unreadable_video",
        "missing_video",
    }
    assert [
        f.rule
        for f in audit(ClipSet([Clip(name, "squat", 1, extra={"fps": 25, "duration": 9})]), files=True)
        if f.rule.startswith("file_")
    ] == ["file_fps", "file_duration"]


def test_rows_are_compared_with_the_film_and_not_with_its_thumbnail(tmp_path):
    "As `actrep_nb.video` sees it: the rate and length of the stream with the frames."
    av, np = pytest.importorskip("av"), pytest.importorskip("numpy")
    with av.open(str(tmp_path / "two.mov"), "w") as out:
        thumb, film = out.add_stream("mjpeg", rate=1), out.add_stream("libx264", rate=8)
        for stream, pix_fmt in ((thumb, "yuvj420p"), (film, "yuv420p")):
            stream.height, stream.width, stream.pix_fmt = 32, 32, pix_fmt
        for stream, n in ((thumb, 1), (film, 32)):
            for k in range(n):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * k, np.uint8), format="rgb24").reformat(
                    format=stream.pix_fmt
                )
                frame.pts, frame.time_base = k, 1 / stream.codec_context.framerate
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    (clip,) = load_clips(write(tmp_path / "r.csv", "type,name,count,L1,L2\nsquat,two.mov,1,4,12\n"), videos=tmp_path)
    assert clip.cycles == ((0.5, 1.5),)
    said = Clip(clip.video, "squat", 1, extra={"fps": 8, "duration": 4})
    assert not [f for f in audit(ClipSet([said]), files=True) if f.rule.startswith("file_")]


# --- text as spreadsheets write it


def test_a_hint_at_the_separator_is_no_header(tmp_path):
    for first in ("sep=;", '"sep=;"', "SEP=;\r"):
        clips = load_clips(write(tmp_path / "m.csv", f"{first}\nfile;action;count\na.mp4;squat;5\nb.mp4;squat;x\n"))
        assert [(c.video, c.count) for c in clips] == [("a.mp4", 5)] and clips.rejected[0].row == 4
    assert (
        load_clips(write(tmp_path / "m.csv", "sep=|\nfile|action|count\na,1;2.mp4|squat|5\n"))[0].video == "a,1;2.mp4"
    )


def test_decimal_commas_where_semicolons_part_the_cells(tmp_path):
    frames = load_clips(write(tmp_path / "r.csv", "type;name;count;L1;L2;fps\nsquat;a.mp4;1,0;0;30;29,97\n"))
    assert frames[0].count == 1 and frames[0].cycles == ((0, 30 / 29.97),) and frames[0].extra["fps"] == 29.97
    times = load_clips(
        write(
            tmp_path / "t.csv",
            'file;action;count;cycles_s\n"one, two.mp4";squat;2,0;"0,5-1,5;1,5-2,5"\nb.mp4;squat;1,5;\nc.mp4;squat;1;"[[0.5, 1.5]]"\n',
        )
    )
    assert [(c.video, c.count, c.cycles) for c in times] == [
        ("one, two.mp4", 2, ((0.5, 1.5), (1.5, 2.5))),
        ("c.mp4", 1, ((0.5, 1.5),)),
    ]
    assert "'1.5' is not a whole number" in times.rejected[0].reason


@pytest.mark.parametrize(
    "encoding, name, said",
    [
        ("gbk", "深蹲01.mp4", "Chinese"),
        ("gb18030", "引体向上.mp4", "Chinese"),
        ("latin-1", "übung.mp4", "Western European"),
        ("cp1252", "flexão é.mp4", "Western European"),
    ],
)
def test_a_text_that_is_not_utf8_is_read_and_said(tmp_path, encoding, name, said):
    path = write(tmp_path / "m.csv", f"file,action,count\n{name},squat,5\n", encoding)
    assert load_clips(path)[0].video == name and [said in f.action for f in audit(path) if f.rule == "encoding"] == [
        True
    ]
    assert not [f for f in audit(write(path, f"file,action,count\n{name},squat,5\n")) if f.rule == "encoding"]


def test_cells_past_the_header_are_named(tmp_path):
    path = write(
        tmp_path / "r.csv",
        "type,name,count,L1,L2,L3,L4,fps\nsquat,a.mp4,3,0,30,30,60,30,60,90\nsquat,b.mp4,2,0,30,30,60,30,,\n",
    )
    assert [(f.rule, f.message, f.row) for f in audit(path) if f.rule == "past_header"] == [
        ("past_header", "2 cells past the header: 60, 90", 2)
    ]


# --- tables of one's own


def test_a_mapping_as_it_is_typed():
    assert (
        parse_mapping("file=clip, action = exercise,count=reps, in all")
        == {"file": "clip", "action": "exercise", "count": "reps, in all"}
        and parse_mapping("") == {}
    )
    for bad in ("clip", "file=", "=clip"):
        with pytest.raises(ValueError, match="write ours=yours"):
            parse_mapping(bad)


@pytest.mark.parametrize(
    "columns, guess",
    [
        ("clip,exercise,reps", "file=clip,action=exercise,count=reps"),
        ("Video Path;Num Reps;Label", "file=video path,action=label,count=num reps"),
        ("filename,counts", "file=filename,count=counts"),
        ("file,action,repetitions,cycle_times", "file=file,action=action,count=repetitions,cycles_s=cycle_times"),
    ],
)
def test_what_columns_probably_mean_is_offered_and_reads_them(tmp_path, columns, guess):
    by = ";" if ";" in columns else ","
    path = write(
        tmp_path / "m.csv",
        f"{columns}\n{by.join(['a.mp4', '3', 'Squats'] if by == ';' else ['a.mp4', '3'] if 'filename' in columns else ['a.mp4', 'Squats', '3', '0-1;1-2;2-3'][: columns.count(',') + 1])}\n",
    )
    with pytest.raises(
        ClipFormatError, match=r"There is no column .*did you mean --map " + re.escape(shlex.quote(guess)) + r" \("
    ):
        load_clips(path)
    (clip,) = load_clips(path, mapping=parse_mapping(guess))
    assert (clip.video, clip.count, clip.action in ("squat", "")) == ("a.mp4", 3, True) and (
        clip.cycles is not None
    ) == ("cycles_s" in guess)
    assert "count" not in guess_mapping(["date", "price"])


def test_a_column_that_nearly_has_the_name_is_offered(tmp_path):
    path = write(tmp_path / "m.csv", "clip,exercise,reps\na.mp4,squat,3\n")
    with pytest.raises(ClipFormatError, match="names rep, but its columns are clip, exercise, reps; did you mean reps"):
        load_clips(path, mapping={"file": "clip", "count": "rep"})
    with pytest.raises(ClipFormatError, match="gives clip, .*write ours=yours"):
        load_clips(path, mapping={"clip": "file", "count": "reps"})


def test_cycles_that_are_not_understood_are_found(tmp_path):
    "Whatever the column is called, whatever is in it, and whichever format the file is."
    for header, row, rule in [
        ("file,action,count,cycles", "a.mp4,squat,2,one to two", "unusable_cycles"),
        ("type,name,count,cycles", "squat,a.mp4,2,5", "unusable_cycles"),
        ("file,action,count,rep_times", "a.mp4,squat,2,1.0-2.0;2.0-3.0", "cycles_unread"),
        ("file,action,count,notes", "a.mp4,squat,2,1.0-2.0;2.0-3.0", "cycles_unread"),
        ("video_id,split,action,count,intervals", "a.mp4,train,squat,2,x", "cycles_unread"),
        ("file,action,count,mood", "a.mp4,squat,2,fine", "columns_unread"),
    ]:
        clips = load_clips(write(tmp_path / "m.csv", f"{header}\n{row}\n"))
        assert len(clips) == 1 and clips[0].cycles is None and [f.rule for f in clips.findings] == [rule], header
    assert load_clips(write(tmp_path / "m.csv", "type,name,count,cycles_s\nsquat,a.mp4,2,0-1;1-2\n"))[0].cycles == (
        (0, 1),
        (1, 2),
    )
    assert load_clips(
        write(tmp_path / "m.jsonl", '{"video": "a.mp4", "action": "squat", "count": 1, "cycles_s": "0-1"}\n')
    )[0].cycles == ((0, 1),)
    assert not load_clips(
        write(tmp_path / "m.csv", "clip,action,count,when\na.mp4,squat,1,0-1\n"),
        mapping={"file": "clip", "cycles_s": "when"},
    ).findings


# --- where the videos are


def test_videos_are_looked_for_where_they_usually_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("set/videos/a.mp4", "set/videos/b.mp4", "set/c.mp4", "d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()

    def found(*names):
        return find_videos(
            write(tmp_path / "set/m.csv", "file,action,count\n" + "".join(f"{n},squat,1\n" for n in names))
        )

    assert [found("a.mp4"), found("C.MP4"), found("d"), found("gone.mp4")] == [
        tmp_path / "set/videos",
        tmp_path / "set",
        Path(),
        None,
    ]
    assert (
        found("c.mp4", "a.mp4", "b.mp4") == tmp_path / "set/videos"
        and found("videos/a.mp4", "videos/b.mp4") == tmp_path / "set"
    )
    assert (
        find_videos(write(tmp_path / "set/n.csv", "clip,reps\na.mp4,1\n"), {"file": "clip", "count": "reps"})
        == tmp_path / "set/videos"
    )


def test_a_folder_of_clips_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here/videos").mkdir(parents=True)
    (tmp_path / "here/videos/a.mp4").touch()
    clips = [
        Clip(
            "here/videos/a.mp4",
            "squat",
            2,
            [(0.5, 1.5), (1.5, 2.6)],
            extra={"fps": 25.0, "cot": "so; \"there\""},
            source="ann",
        )
    ]
    for name, format in (("runs/clips.jsonl", "auto"), ("runs/clips.csv", "table")):
        save_clips(clips, tmp_path / "here" / name, videos="here/runs", format=format)
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir("/")
    for name in ("clips.jsonl", "clips.csv"):
        (clip,) = load_clips(tmp_path / "there/runs" / name, videos=find_videos(tmp_path / "there/runs" / name))
        assert os.path.samefile(clip.video, tmp_path / "there/videos/a.mp4") and (
            clip.cycles,
            clip.extra,
            clip.source,
        ) == (clips[0].cycles, clips[0].extra, "ann")


def test_what_cannot_be_worked_with_is_refused_in_one_line(tmp_path):
    names = [f"{k}.mp4" for k in range(300)]
    path = write(tmp_path / "m.csv", "file,action,count\n" + "".join(f"{n},squat,1\n" for n in names))
    with pytest.raises(
        ClipFormatError, match=r"none of its 300 rows is a clip .*row 2, video: .*0.mp4 is missing"
    ) as e:
        need_clips(load_clips(path, videos=tmp_path), path)
    assert len(str(e.value).splitlines()) == 1 and len(load_clips(path, videos=tmp_path).report().splitlines()) == 22
    with pytest.raises(
        ClipFormatError, match="none of the 4 videos that were tried, of 300, can be read.*0.mp4: there is no such file"
    ):
        need_clips(load_clips(path), path)
    for n in names:
        (tmp_path / n).write_bytes(b"no film")
    with pytest.raises(ClipFormatError, match="can be read; the first: .*0.mp4 cannot be opened"):
        need_clips(load_clips(path, videos=tmp_path), path)
    import numpy as np

    from actrep_nb.video import write_video

    write_video(tmp_path / "299.mp4", np.zeros((4, 32, 32, 3), np.uint8), fps=8)
    assert len(need_clips(load_clips(path, videos=tmp_path), path)) == 300


# --- parts to learn from and to be judged on


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(0, 25)), min_size=1, max_size=60),
    st.floats(0.05, 0.6),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.integers(0, 3),
)
def test_no_source_and_no_file_is_in_two_parts(rows, test, valid, seed):
    clips = ClipSet(
        Clip(f"{file}.mp4", "squat", count, source=f"s{source}" if source < 8 else None) for count, source, file in rows
    )
    shares = {"test": test} | ({"valid": valid} if valid else {})
    try:
        dealt = split_clips(clips, shares, seed)
    except ValueError as e:
        assert "cannot fill" in str(e) or "would be empty" in str(e)
        return
    assert not any(r["shared"] for r in leakage(dealt)) and {c.split for c in dealt} == {"train", *shares}
    assert [(c.id, c.count) for c in dealt] == [(c.id, c.count) for c in clips] and list(dealt) == list(
        split_clips(clips, shares, seed)
    )


@pytest.mark.parametrize("seed", range(5))
def test_parts_have_the_counts_of_the_whole(seed):
    rng = random.Random(seed)
    clips = ClipSet(
        Clip(f"{k}.mp4", "squat", min(60, int(rng.paretovariate(0.8))), source=f"s{k // 2}") for k in range(400)
    )
    dealt = split_clips(clips, {"test": 0.2, "valid": 0.1}, seed)

    def above(name):
        return sum(c.count > 5 for c in dealt.split(name)) / len(dealt.split(name))

    assert [abs(len(dealt.split(name)) - n) <= 3 for name, n in (("test", 80), ("valid", 40), ("train", 280))] == [
        True
    ] * 3
    assert max(abs(above(name) - sum(c.count > 5 for c in clips) / 400) for name in ("train", "test", "valid")) < 0.05
    assert [c.split for c in dealt] != [c.split for c in split_clips(clips, {"test": 0.2, "valid": 0.1}, seed + 1)]


def test_what_a_split_cannot_give_is_said(tmp_path):
    one = ClipSet(Clip(f"{k}.mp4", "squat", k, source="ann") for k in range(9))
    with pytest.raises(ValueError, match="9 clips of 1 source cannot fill 2 parts"):
        split_clips(one, {"test": 0.2})
    for shares in ({}, {"test": 0.0}, {"test": 0.7, "valid": 0.3}, {"train": 0.5}):
        with pytest.raises(ValueError, match="each must be between 0 and 1"):
            split_clips(one, shares)
    lopsided = ClipSet(
        [
            *(Clip(f"{k}.mp4", "squat", 2, source="ann", split="train") for k in range(8)),
            Clip("x.mp4", "squat", 20),
            Clip("y.mp4", "squat", 21, source="eva"),
        ]
    )
    assert {f.rule for f in split_clips(lopsided, {"test": 0.5}).findings} == {
        "share",
        "range",
        "source_unknown",
        "split_again",
    }
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(b"the same film")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "c.mp4").write_bytes(b"another film!")
    clips = ClipSet(Clip(str(tmp_path / f"{n}.mp4"), "squat", 3) for n in ("a", "b", "link", "c"))
    assert all(len({c.split for c in split_clips(clips, {"test": 0.3}, s).kept[:3]}) == 1 for s in range(6))


# ---- several accepted counts ------------------------------------------------------------------------------------------

SEVERAL = [
    Clip("a_[6].mp4", "squat", 6, extra={"accepted": [6, 7], "fuzzy_action": True, "complex_action": False}),
    Clip("b.mp4", "push_up", 3, extra={"fuzzy_action": False, "complex_action": False}),
]


@pytest.mark.parametrize(
    "format, name", [("pushupbench", "x.jsonl"), ("table", "x.csv"), ("clips", "x.jsonl"), ("parquet", "x.parquet")]
)
def test_accepted_counts_are_written_and_read(tmp_path, format, name):
    again = load_clips(save_clips(SEVERAL, tmp_path / name, format=format))
    assert again.kept == SEVERAL and not again.rejected and not again.findings


def test_accepted_counts_in_repcounts_columns(tmp_path):
    again = load_clips(save_clips(SEVERAL, tmp_path / "x.csv"))
    assert [(c.count, c.extra.get("accepted")) for c in again] == [(6, [6, 7]), (3, None)] and not again.findings
    assert "accepted" not in save_clips(SEVERAL[1:], tmp_path / "one.csv").read_text()


def test_pushupbench_as_it_is_published(tmp_path):
    "A saved dataset, a Parquet file and JSON, the counts as a list or as JSON text; names and counts that are none are told."
    rows = [
        {
            "name": "leg_lift",
            "video_path": "x_leg_lift_[12].mp4",
            "count": [12, 13, 12],
            "fuzzy_action": False,
            "complex_action": True,
        },
        {"name": "push ups", "video_path": "y.mp4", "count": [8], "fuzzy_action": True, "complex_action": False},
    ]
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "x.parquet"))
    (tmp_path / "x.json").write_text(json.dumps([r | {"count": json.dumps(r["count"])} for r in rows]))
    for source in ("saved", "x.parquet", "x.json"):
        found = load_clips(tmp_path / source, videos=None)
        assert [(c.video, c.action, c.count, c.extra.get("accepted"), c.extra["complex_action"]) for c in found] == [
            ("x_leg_lift_[12].mp4", "leg_lift", 12, [12, 13], True),
            ("y.mp4", "push_up", 8, None, False),
        ], source
    bad = clips_from_rows(
        [rows[0] | {"count": c} for c in ([], [12, -1], "many", [12, 1.5], None)] + [rows[0] | {"video_path": ""}]
    )
    assert not bad.kept and [r.field for r in bad.rejected] == ["count"] * 5 + ["video"]


@pytest.mark.parametrize(
    "count, accepted, kept",
    [
        ("6", "6|7", (6, [6, 7])),
        ("7", "6;7", (7, [7, 6])),
        ("", "6|7", (6, [6, 7])),
        ("6", "", (6, None)),
        ("6", "6", (6, None)),
        ("5", "6|7", "accepted"),
        ("6", "6|x", "accepted"),
        ("x", "6|7", "count"),
        ("", "", "count"),
    ],
)
def test_a_column_of_accepted_counts(tmp_path, count, accepted, kept):
    (tmp_path / "mine.csv").write_text(f'file,action,count,accepted\na.mp4,squat,{count},"{accepted}"\n')
    found = load_clips(tmp_path / "mine.csv")
    assert (
        [(c.count, c.extra.get("accepted")) for c in found] == [kept]
        if isinstance(kept, tuple)
        else [r.field for r in found.rejected] == [kept]
    )


def test_mvbench_and_activitynet(tmp_path):
    rows = [
        {"video": "m.mp4", "question": "What falls?", "candidates": ["a cup", "a book"], "answer": "a book"},
        {"video": "n.mp4", "question": "Who?", "candidates": ["he", "she"], "answer": "he", "start": 1.5, "end": 4.0},
    ]
    (tmp_path / "mv.json").write_text(json.dumps(rows))
    clips = load_clips(tmp_path / "mv.json")
    assert [(c.extra["task"], c.extra["options"], c.extra["solution"], c.window) for c in clips] == [
        ("choice", ["a cup", "a book"], "a book", None),
        ("choice", ["he", "she"], "he", (1.5, 4.0)),
    ]
    assert load_clips(save_clips(clips, tmp_path / "again.json", format="mvbench")).kept == clips.kept
    bad = clips_from_rows(
        [
            rows[0] | {"answer": "a tree"},
            rows[0] | {"candidates": []},
            rows[0] | {"candidates": ["a book", "a book"]},
            rows[1] | {"end": "x"},
        ]
    )
    assert [r.field for r in bad.rejected] == ["answer", "candidates", "answer", "end"]
    (tmp_path / "val_1.json").write_text(
        json.dumps(
            {
                "v_uqiMw7tQ1Cc": {
                    "duration": 55.15,
                    "timestamps": [[0.28, 55.15], [13.79, 54.32]],
                    "sentences": ["A weight lifting tutorial is given.", " The coach helps the guy in red."],
                }
            }
        )
    )
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/v_uqiMw7tQ1Cc.mp4").write_bytes(b"-")
    found = load_clips(tmp_path / "val_1.json", videos=tmp_path / "videos")
    assert [(Path(c.video).name, c.extra["problem"], c.cycles, c.extra["duration"]) for c in found] == [
        ("v_uqiMw7tQ1Cc.mp4", "A weight lifting tutorial is given.", ((0.28, 55.15),), 55.15),
        ("v_uqiMw7tQ1Cc.mp4", "The coach helps the guy in red.", ((13.79, 54.32),), 55.15),
    ]
    assert {c.extra["task"] for c in found} == {"grounding"}


# --- many rows


def steps_of(work) -> int:
    "Instructions of our own code that a piece of work runs through: what it costs, on whatever machine."
    count, before = 0, sys.gettrace()

    def trace(frame, event, arg):
        nonlocal count
        if "actrep_nb" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def many_missing(n, folder):
    place = folder / str(n)
    place.mkdir()
    for k in range(n):
        (place / f"{k}.mp4").touch()
    rows = [{"file": f"elsewhere/{k}.avi", "action": "squat", "count": 6} for k in range(n)]
    return lambda: [r.reason for r in clips_from_rows(rows, videos=place).rejected]


def many_parts(n, folder):
    for k in range(n):
        write(folder / f"{k}.jsonl", json.dumps({"video": "a.mp4", "action": "squat", "count": k}) + "\n")
    recipe = write(folder / f"{n}.yaml", "datasets:\n" + "".join(f"  - json_path: {k}.jsonl\n" for k in range(n)))
    return lambda: load_clips(recipe)


MANY = {  # what is done with n rows
    "load windows of one video": lambda n, folder: (
        lambda: clips_from_rows(
            {"file": "day.mp4", "action": "Squats", "count": 1, "window_s": f"{k}-{k + 1}"} for k in range(n)
        )
    ),
    "audit windows of one video": lambda n, folder: partial(
        audit, ClipSet(Clip("day.mp4", "squat", 1, id=str(k), window=(k, k + 1)) for k in range(n))
    ),
    "leaks of a source that many splits have": lambda n, folder: (
        lambda: "".join(
            f.message for f in audit([Clip(f"{k}.mp4", "squat", 1, split=f"s{k}", source="yt") for k in range(n)])
        )
    ),
    "leakage over many splits": lambda n, folder: partial(
        leakage, [Clip(f"{k}.mp4", "squat", 1, split=f"s{k}", source=f"p{k // 2}") for k in range(n)]
    ),
    "a picture of many splits": lambda n, folder: partial(
        distributions, [Clip(f"{k}.mp4", "squat", k, split=f"s{k}") for k in range(n)]
    ),
    "crops of one clip": lambda n, folder: partial(
        random_count_sampling, [Clip("a.mp4", "squat", 3, [(0.5, 1.5), (1.5, 2.5), (2.5, 3.5)])], n
    ),
    "families of files that share a source": lambda n, folder: partial(
        split_clips,
        ClipSet(
            [Clip(f"{k}.mp4", "squat", 1) for k in range(n)]
            + [Clip(f"{k}.mp4", "squat", 1, source="yt") for k in range(n)]
            + [Clip("other.mp4", "squat", 1)]
        ),
        {"test": 0.1},
    ),
    "missing names in a full folder": many_missing,
    "a recipe of many sets": many_parts,
}


@pytest.mark.parametrize("what", MANY)
def test_four_times_the_rows_cost_four_times_as_much(tmp_path, what):
    few, more = (MANY[what](n, tmp_path) for n in (60, 240))
    for work in (few, more):
        work()  # what is imported and remembered once
    one, four = steps_of(few), steps_of(more)
    assert one > 1000 and four < 6 * one, f"{one} steps, of four times the rows {four}"


def test_what_many_splits_share_is_told_in_few_words():
    sets = [Clip(f"{k}.mp4", "squat", 1, split=f"s{k}", source="yt" if k else "mine") for k in range(50)]
    rows = leakage(sets)
    assert (
        len(rows) == 50
        and {r["other"] for r in rows} == {"the others"}
        and sum(r["shared"] for r in rows) == 49
        and rows[0] == {"split": "s0", "other": "the others", "clips": 1, "with_source": 1, "shared": 0}
    )
    assert (
        max(len(f.message) for f in audit(sets)) < 150
        and audit(sets)[-1].message == "yt is in s49 and in s1 (clip 1), s2 (clip 2), s3 (clip 3) and 45 more"
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", "z", None]), st.sampled_from("stuv")), max_size=12
    )
)
def test_leakage_is_what_counting_pair_by_pair_gives(rows):
    clips = [Clip(f"{v}.mp4", "squat", 1, split=s, source=o) for v, o, s in rows]

    def origins(c):
        return {c.video} | ({c.source} if c.source else set())

    wanted = {
        (s, o): sum(any(origins(c) & origins(d) for d in clips if d.split == o) for c in clips if c.split == s)
        for s in {c.split for c in clips}
        for o in {c.split for c in clips} - {s}
    }
    assert {(r["split"], r["other"]): r["shared"] for r in leakage(clips)} == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "b#2", "a#2#2"]), max_size=14))
def test_ids_are_counted_up_as_one_by_one(names):
    got, seen = [c.id for c in ClipSet(Clip("v.mp4", "squat", 1, id=name) for name in names)], set()
    for name, now in zip(names, got):
        wanted = (
            name
            if name not in seen
            else next(w for k in itertools.count(2) if (w := f"{name}#{k}") not in seen and w not in names)
        )
        assert now == wanted
        seen.add(now)


def test_a_count_of_a_million_has_a_picture_of_a_hundred_bins():
    clips = ClipSet([Clip("typo.mp4", "squat", 1_000_000), Clip("a.mp4", "squat", 3)])
    left = distributions(clips).axes[0]
    assert (
        max(len(p.get_xy()) for p in left.patches) < 500
        and "400 and more" in left.get_xlabel()
        and "1000000" in audit_page(clips, audit(clips))
    )


def test_a_long_cell_is_refused_at_once():
    for text in ("9" * 200_000, "1" * 200_000 + "-", "1." + "0" * 200_000 + "x"):
        with pytest.raises(ValueError, match="is not start-end in seconds"):
            read_cycles_s(text)
