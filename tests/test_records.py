"Annotation files: what is kept, what is rejected and why, and that nothing disappears."
import json
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actrep_nb.records import (Clip, ClipFormatError, ClipSet, audit, audit_page, canonical_action, clips_from_rows, label_findings, leakage, load_clips,
                               load_sources, pair_up, read_count, save_clips, spellings, to_dataset, with_sources)

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the real annotation files are not at hand (set ACTREP_SHARED_DATA)")


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
    assert (SHARED / "annotations/repcount_a/train_with_fps.csv").read_text().splitlines()[bad.row - 1].count("stu6_44.mp4") == 1


@needs_shared
def test_the_audit_of_repcount_a_finds_its_known_defects():
    everything, raw = ClipSet(), set()
    for name in ("train", "valid", "test"):
        clips = load_clips(SHARED / f"annotations/repcount_a/{name}_with_fps.csv", split=name)
        everything, raw = everything + clips, raw | set(spellings(clips.findings))
    found = {(f.id, f.rule) for f in audit(everything) if f.severity == "error"}
    assert {("test118", "count_cycles"), ("stu6_5", "zero_length"), ("stu4_3", "zero_length"), (None, "rejected")} <= found
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
    assert (len(counts.kept), len(counts.rejected)) == (646, 0) and [c.count for c in counts] == [c.count for c in clips]
    assert not any(c.cycles for c in counts) and {f.id for f in counts.findings if f.rule == "no_fps"} == {c.id for c in clips if c.cycles}
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
    rows = [{"video_id": "a.mp4", "split": "test", "action": "squant", "gt_count": 3, "cot": "…"}, {"video_id": "b.mp4", "ground_truth": {"action": "push_up", "count": "5"}}]
    clips = load_clips(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\nnot json\n"))
    assert [(c.action, c.count, c.split) for c in clips] == [("squat", 3, "test"), ("push_up", 5, None)]
    assert [r.row for r in clips.rejected] == [3]


def test_a_file_that_is_something_else_says_what_was_found(tmp_path):
    with pytest.raises(ClipFormatError, match=r"prices.csv: its columns are date, price.*repcount: columns type"):
        load_clips(write(tmp_path / "prices.csv", "date,price\n1,2\n"))
    with pytest.raises(ClipFormatError, match="no rows"): load_clips(write(tmp_path / "empty.csv", ""))
    with pytest.raises(ClipFormatError, match="no rows"): load_clips(write(tmp_path / "bad.jsonl", "{\n[1]\n"))
    with pytest.raises(FileNotFoundError, match="absent.csv"): load_clips(tmp_path / "absent.csv")
    with pytest.raises(ClipFormatError, match="is not a file"): load_clips(tmp_path)


def test_missing_video_is_rejected_with_its_path(tmp_path):
    (tmp_path / "here.mp4").touch()
    clips = load_clips(write(tmp_path / "m.csv", "file,action,count\nhere,squat,1\ngone.mp4,squat,1\n"), videos=tmp_path)
    assert [Path(c.video).name for c in clips] == ["here.mp4"]
    assert str(tmp_path / "gone.mp4") in clips.rejected[0].reason and clips.rejected[0].row == 3


def test_unpaired_boundaries_keep_the_count_and_are_found(tmp_path):
    path = write(tmp_path / "r.csv", "type,name,count,L1,L2,L3,L4,fps\nsquat,a.mp4,2,0,10,10,,10\nsquat,b.mp4,1,0,,5,10,10\nsquat,c.mp4,0,,,,,10\n")
    clips = load_clips(path)
    assert [(c.count, c.cycles) for c in clips] == [(2, None), (1, None), (0, ())]
    assert [(f.id, f.rule, f.row) for f in audit(path)] == [("a", "unusable_cycles", 2), ("b", "unusable_cycles", 3), ("c", "zero_count", 4)]


def test_duplicates_and_leaks_are_found():
    clips = ClipSet([Clip("a.mp4", "squat", 1, split="train"), Clip("a.mp4", "squat", 2, split="test"), Clip("b.mp4", "", 1, split="test", source="yt"), Clip("c.mp4", "", 1, split="train", source="yt")])
    assert sorted(f.rule for f in audit(clips)) == ["duplicate", "leak", "leak"]
    assert [c.id for c in clips] == ["a", "a#2", "b", "c"]
    assert {f.rule for f in audit(clips, files=True)} >= {"missing_video"}


# --- records


def test_clip_refuses_what_is_no_count():
    for count in (-1, 1.0, True, None, "3"):
        with pytest.raises(ValueError, match="x.mp4"): Clip("x.mp4", "squat", count)
    with pytest.raises(ValueError, match="window"): Clip("x.mp4", "squat", 1, window=(3, 2))


def test_views_and_sums_keep_the_books():
    clips = ClipSet([Clip(f"{k}.mp4", "squat", k, split="ab"[k % 2]) for k in range(6)])
    assert isinstance(clips[1:3], ClipSet) and [c.count for c in clips.split("b")] == [1, 3, 5] and clips[0] in clips
    assert len(clips + clips) == 12 and len({c.id for c in clips + clips}) == 12
    with pytest.raises(ValueError, match="the splits are a, b"): clips.split("test")


def test_spellings():
    written = ["frontraise", "front_raise", "squant", "squat", "pullups", "pull_up", "pushups", "push_up", "jumpjacks", "jump_jack", "benchpressing", "bench_pressing", "battle_rope", "pommelhorse", "situp", "others"]
    assert len({canonical_action(w) for w in written}) == 10
    assert canonical_action(" Jumping Jacks") == "jumping_jacks" and canonical_action("") == ""


# --- round trips and parsers under random input

seconds = st.floats(0, 1e4, allow_nan=False)
clip_st = st.builds(
    Clip, st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 999),
    st.none() | st.lists(st.tuples(seconds, seconds), max_size=5), st.none() | st.text("abc", min_size=1), st.none() | st.text("xyz", min_size=1),
    st.text("abcdef0123456789", min_size=1), st.none() | st.tuples(st.floats(0, 50), st.floats(51, 100)))


@given(st.lists(clip_st, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_jsonl_loses_nothing(tmp_path_factory, clips):
    clips = ClipSet(clips)
    path = save_clips(clips, tmp_path_factory.mktemp("j") / "c.jsonl")
    again = load_clips(path)
    assert not again.rejected
    for was, now in zip(clips, again, strict=True):
        assert now == Clip(was.video, canonical_action(was.action), was.count, was.cycles, was.split, was.source, was.id, was.window)


@given(st.lists(st.lists(st.integers(0, 10**5), max_size=8), min_size=1, max_size=4), st.sampled_from([8.0, 25.0, 30.0]))
@settings(max_examples=40, deadline=None)
def test_repcount_csv_is_exact_on_frame_boundaries(tmp_path_factory, frames, fps):
    clips = [Clip(f"{k}.mp4", "squat", len(f) // 2, [(a / fps, b / fps) for a, b in zip(f[::2], f[1::2])] or None, "train", id=f"id{k}") for k, f in enumerate(frames)]
    again = load_clips(save_clips(clips, tmp_path_factory.mktemp("c") / "c.csv", fps=fps))
    assert [(c.id, c.split, c.count, c.cycles or None) for c in again] == [(c.id, c.split, c.count, c.cycles) for c in clips]


def test_save_refuses_what_it_cannot_say(tmp_path):
    with pytest.raises(ClipFormatError, match="window"): save_clips([Clip("a.mp4", "", 1, window=(0, 1))], tmp_path / "a.csv")
    with pytest.raises(ClipFormatError, match="jsonl or .csv"): save_clips([Clip("a.mp4", "", 1)], tmp_path / "a.txt")


@given(st.text())
def test_a_count_is_read_or_refused_never_guessed(text):
    try: value = read_count(text)
    except ValueError as e: assert "count" in str(e)
    else: assert value >= 0 and float(text) == value


@given(st.lists(st.one_of(st.none(), st.text(), st.floats(), st.integers())))
def test_pairs_are_finite_or_refused(cells):
    try: pairs = pair_up(cells)
    except ValueError: return
    assert all(abs(t) < float("inf") for pair in pairs for t in pair) and 2 * len(pairs) <= len(cells)


@given(st.binary(max_size=400) | st.text('file,action,count\n"\r;{}[]:0123abc', max_size=200).map(lambda t: ("file,action,count\n" + t).encode()))
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_clips_rejections_or_one_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("d") / "x.csv"
    path.write_bytes(data)
    try: clips = load_clips(path)
    except ClipFormatError as e: assert "x.csv" in str(e)
    else: assert all(r.row >= 1 and r.reason for r in clips.rejected)


# --- every dataset's format


def as_json(path, value):
    return write(path, json.dumps(value, ensure_ascii=False))


LISTS = {"repcount_a/new_train.csv": 646, "repcount_a/new_valid.csv": 128, "repcount_a/new_test.csv": 250, "ucfrep/new_train.csv": 421, "ucfrep/new_val.csv": 105,
         "countix/countix_train.csv": 4503, "countix/countix_val.csv": 1433, "countix/countix_test.csv": 2640, "quva/quva_index.csv": 100, "quva/npy": 100}


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
        if path.suffix == ".xlsx": assert len(load_sources(path)) == 800 - 16
        else: assert len(load_clips(path, fps=25)) > 0, path


@needs_shared
def test_ucfrep_and_quva_agree_with_their_own_counts():
    for name in ("ucfrep/new_train.csv", "ucfrep/new_val.csv", "quva/quva_index.csv"):
        clips = load_clips(SHARED / "annotations" / name, fps=25)
        assert [f.rule for c in clips for f in label_findings(c) if f.severity == "error"] == []
        assert all(len(c.cycles) == c.count for c in clips)


def test_ucfrep_frames_start_at_one_and_are_cropped(tmp_path):
    text = "name,counts,start_frame,end_frame,L1,L2,L3,L4\nUCF-101/JumpRope/v_JumpRope_g22_c04.avi,2.0,11,31,11,21,21,31\n"
    (clip,) = load_clips(write(tmp_path / "u.csv", text), fps=10)
    assert (clip.window, clip.cycles, clip.action, clip.source) == ((1.0, 3.1), ((0, 1), (1, 2)), "jump_rope", "v_JumpRope_g22")


def test_countix_has_several_windows_of_one_video(tmp_path):
    text = "video_id,kinetics_start,kinetics_end,repetition_start,repetition_end,count\nab,17,27,18.5,20.25,4\nab,17,27,21,24,6\nab,17,27,x,24,6\nab,17,27,24,24,6\n"
    clips = load_clips(write(tmp_path / "c.csv", text))
    assert [(c.id, c.video, c.window, c.source) for c in clips] == [("ab_000017_000027", "ab_000017_000027.mp4", (1.5, 3.25), "ab"), ("ab_000017_000027#2", "ab_000017_000027.mp4", (4, 7), "ab")]
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
    assert [c.cycles and len(c.cycles) for c in clips] == [3, None] and [f.rule for f in clips.findings] == ["unusable_cycles"]
    write(tmp_path / "bad.npy", "no array")
    assert "bad.npy" in load_clips(tmp_path / "bad.npy", fps=10).rejected[0].reason


def test_ovr(tmp_path):
    entry = {"video_id": "v", "ovr_annotations": [{"start_time": 1, "end_time": 4.5, "count": 3, "description": "a child's jump"}, {"start_time": 5, "count": 1}]}
    clips = load_clips(as_json(tmp_path / "o.json", [entry, {"video_id": "w", "ovr_annotations": []}]))
    assert [(c.video, c.count, c.window) for c in clips] == [("v", 3, (1, 4.5))]
    assert [(r.row, r.field) for r in clips.rejected] == [(1, "end_time"), (2, "ovr_annotations")]
    assert spellings(clips.findings) == {"a child's jump": "a_child's_jump"}


def test_video_r1_counts_and_questions(tmp_path):
    rows = [{"problem": "How many?", "solution": "<answer> 3 </answer>", "video_filename": "./a.mp4"}, {"problem": "How many?", "solution": "<answer></answer>", "video_filename": "b.mp4"}]
    clips = load_clips(write(tmp_path / "d.jsonl", "\n".join(map(json.dumps, rows))))
    assert [(c.count, c.extra["task"]) for c in clips] == [(3, "dvd_counting")] and clips.rejected[0].field == "solution"
    item = {"problem_id": 2, "problem": "Which?", "data_type": "video", "problem_type": "multiple choice", "options": ["A. x", "B. y"], "solution": "<answer>B</answer>", "path": "./v.mp4", "data_source": "s"}
    (clip,) = load_clips(as_json(tmp_path / "v.json", [item]))
    assert clip.extra["task"] == "choice" and clip.extra["solution"] == "B" and clip.extra["options"] == ["A. x", "B. y"]


def test_temporal_r1_items_and_recipe(tmp_path):
    items = [{"dataset": "charades", "video": f"{k}.mp4", "problem": "a door opens", "solution": [0.25, 0.5], "video_length": 20} for k in range(10)]
    as_json(tmp_path / "t.json", [*items, items[0] | {"solution": [0.5, 2]}])
    (first, *_), (bad,) = (s := load_clips(tmp_path / "t.json")).kept, s.rejected
    assert first.cycles == ((5.0, 10.0),) and first.count == 1 and first.extra["problem"] == "a door opens" and bad.field == "solution"
    recipe = write(tmp_path / "r.yaml", """datasets:
  - {json_path: t.json, data_folder: charades, sampling_strategy: "first:3"}
  - {json_path: t.json, sampling_strategy: "random:20%"}
  - {json_path: gone.json}
  - {json_path: r.yaml}
  - {json_path: t.json, sampling_strategy: some}
""")
    clips = load_clips(recipe)
    assert [c.video for c in clips][:3] == [f"charades{os.sep}{k}.mp4" for k in range(3)] and len(clips) == 5
    assert [(r.row, r.field) for r in clips.rejected if r.file == "r.yaml"] == [(3, "json_path"), (4, "json_path"), (5, "sampling_strategy")]
    assert [f.message for f in clips.findings if f.rule == "sampled"] == ["first:3: 3 of 10 clips", "random:20%: 2 of 10 clips"]
    assert load_clips(recipe).kept == clips.kept


def test_charades_sta_as_text_and_json(tmp_path):
    clips = load_clips(write(tmp_path / "charades_sta_train.txt", "3MSZA 24.3 30.4##person turn a light on.\n\nodd line\nAMT7R 1 x##person sits.\n"))
    assert [(c.video, c.cycles, c.extra["problem"]) for c in clips] == [("3MSZA", ((24.3, 30.4),), "person turn a light on.")]
    assert [(r.row, r.field) for r in clips.rejected] == [(3, "row"), (4, "end")]
    keyed = {"3MSZA": {"duration": 31, "timestamps": [[1, 2], [3, 4]], "sentences": ["a", "b"]}, "X": {"duration": 31, "timestamps": [[1, 2]], "sentences": []}}
    for text in (json.dumps(keyed), json.dumps(keyed, indent=2)):
        clips = load_clips(write(tmp_path / "c.json", text))
        assert [(c.id, c.cycles) for c in clips] == [("3MSZA", ((1, 2),)), ("3MSZA#2", ((3, 4),))] and [r.field for r in clips.rejected] == ["timestamps"]
    (clip,) = load_clips(as_json(tmp_path / "l.json", [{"video": "3MSZA.mp4", "caption": "a", "timestamp": [1, 2]}]))
    assert clip.cycles == ((1, 2),)


def test_columns_of_ones_own(tmp_path):
    path = write(tmp_path / "m.csv", "Clip File;Reps;exercise\na.mp4;3;Squats\n")
    (clip,) = load_clips(path, mapping={"video": "Clip File", "count": "reps", "action": "exercise"})
    assert (clip.video, clip.count, clip.action) == ("a.mp4", 3, "squat")
    assert load_clips(path, mapping={"video": "Clip File", "count": "reps"})[0].action == ""
    with pytest.raises(ClipFormatError, match=r"names repz, but its columns are clip file, exercise, reps"): load_clips(path, mapping={"count": "repz"})


def test_a_json_list_that_breaks_off_gives_what_came_before(tmp_path):
    text = json.dumps([{"video": f"{k}.mp4", "action": "squat", "count": k} for k in range(5)])
    clips = load_clips(write(tmp_path / "x.json", text[:text.index('"3.mp4"')]))
    assert [c.count for c in clips] == [0, 1, 2] and [(r.row, "cannot be read from here" in r.reason) for r in clips.rejected] == [(4, True)]
    clips = load_clips(write(tmp_path / "y.json", text[:-1]))
    assert len(clips) == 5 and "never closed" in clips.rejected[0].reason


def test_extra_packages_are_named_when_missing(tmp_path, monkeypatch):
    def refuse(name): raise ImportError(f"No module named {name!r}")
    monkeypatch.setattr("actrep_nb.records.import_module", refuse)
    with pytest.raises(ImportError, match="Parquet needs the package pyarrow"): save_clips([Clip("a.mp4", "", 1)], tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match="pyarrow"): load_clips(tmp_path / "b.parquet")
    with pytest.raises(ImportError, match="needs the package datasets"): to_dataset([Clip("a.mp4", "", 1)])


# --- written and read back

plain = Clip("v/a.mp4", "push_up", 2, [(0.5, 1.5), (1.5, 2.5)], "train", "yt", "a")
crop = Clip("UCF-101/JumpRope/v_JumpRope_g01_c01.avi", "jump_rope", 1, [(0.0, 1.0)], None, "v_JumpRope_g01", "v_JumpRope_g01_c01", (1.0, 3.0))
reasoned = Clip("a.mp4", "squat", 3, split="test", extra={"cot": "one, two, three"})
moment = Clip("a.mp4", "", 1, [(5.0, 10.0)], extra={"task": "grounding", "problem": "a door opens", "duration": 20.0})
SAID = {  # format → suffix, clip, fields that survive
    "repcount": (".csv", plain, "video action count cycles split source id"), "table": (".csv", plain, "video action count cycles split source id"),
    "actrep_csv": (".csv", plain, "video action count split"), "actrep_jsonl": (".jsonl", reasoned, "video action count split extra"),
    "actrep_jsonl_legacy": (".jsonl", plain, "video action count"), "ucfrep": (".csv", crop, "video action count cycles source id window"),
    "countix": (".csv", Clip("ab_000017_000027.mp4", "sawing_wood", 4, window=(1.5, 3.25), source="ab"), "video action count window source id"),
    "ovr": (".json", Clip("ab", "sawing_wood", 4, window=(1.5, 3.25), source="ab"), "video action count window source"),
    "dvd_counting": (".jsonl", Clip("a.mp4", "", 4, extra={"task": "dvd_counting", "problem": "How many?", "solution": "<answer> 4 </answer>"}), "video count extra"),
    "video_r1": (".json", Clip("a.mp4", "", 0, extra={"task": "choice", "problem": "Which?", "options": ["A", "B"], "solution": "B", "data_type": "video"}), "video extra"),
    "charades_txt": (".txt", moment, "video count cycles"), "charades_json": (".json", moment, "video count cycles extra"), "temporal_r1": (".json", moment, "video count cycles"),
    "clips": (".jsonl", reasoned, "video action count split id extra"),
}


@pytest.mark.parametrize("format, case", SAID.items())
def test_what_is_written_is_recognised_and_read_back(tmp_path, format, case):
    suffix, clip, survive = case
    path = save_clips([clip], tmp_path / f"x{suffix}", format=format)
    again = load_clips(path, fps=30)
    assert again.rejected == [] and len(again) == 1
    for name in survive.split(): assert getattr(again[0], name) == getattr(clip, name), name


def test_quva_is_written_as_arrays_with_an_index(tmp_path):
    clip = Clip("a.mp4", "squat", 2, [(0.0, 0.5), (0.5, 1.0)])
    (again,) = load_clips(save_clips([clip], tmp_path / "q", fps=10, format="quva"))
    assert again.cycles == clip.cycles and again.action == "squat"


@pytest.mark.parametrize("format", ["repcount", "table", "actrep_csv", "actrep_jsonl", "ucfrep", "countix", "ovr", "dvd_counting", "quva"])
def test_a_question_is_not_written_as_a_count(tmp_path, format):
    with pytest.raises(ClipFormatError): save_clips([moment], tmp_path / "x", format=format)
    with pytest.raises(ClipFormatError): save_clips([plain], tmp_path / "x", format="charades_txt")


@needs_shared
def test_real_frame_numbers_survive_a_round_trip(tmp_path):
    clips = load_clips(SHARED / "annotations/repcount_a/test_with_fps.csv")
    again = load_clips(save_clips(clips, tmp_path / "r.csv"))
    assert [(c.count, c.cycles or None, c.action) for c in again] == [(c.count, c.cycles or None, c.action) for c in clips]
    ucf = load_clips(SHARED / "annotations/ucfrep/new_val.csv", fps=25)
    assert [(c.window, c.cycles) for c in load_clips(save_clips(ucf, tmp_path / "u.csv", fps=25, format="ucfrep"), fps=25)] == [(c.window, c.cycles) for c in ucf]


@given(st.lists(clip_st, min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_parquet_loses_nothing(tmp_path_factory, clips):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, which is optional")
    clips = ClipSet(clips)
    again = load_clips(save_clips(clips, tmp_path_factory.mktemp("p") / "c.parquet"))
    for was, now in zip(clips, again, strict=True):
        assert now == Clip(was.video, canonical_action(was.action), was.count, was.cycles, was.split, was.source, was.id, was.window)


def test_hugging_face_datasets_in_and_out(tmp_path):
    pytest.importorskip("datasets", reason="the package datasets is optional")
    clips = ClipSet([plain, crop, moment]).kept
    data = to_dataset(clips)
    assert clips_from_rows(data).kept == clips
    data.save_to_disk(tmp_path / "d")
    assert load_clips(tmp_path / "d").kept == clips


def test_a_name_no_file_system_takes_is_a_missing_file(tmp_path):
    for text in ("name,count,first,last\n" + "x" * 300 + ",3,1,9\n", "type,name,count,L1,L2\nsquat," + "x" * 300 + ",1,0,5\n"):
        assert not load_clips(write(tmp_path / "q.csv", text))[0].cycles and load_clips(tmp_path / "q.csv", videos=tmp_path).rejected


def test_rows_in_memory():
    clips = clips_from_rows([{"path": "a.mp4", "reps": 3.0}, {"path": "b.mp4", "reps": float("nan")}], mapping={"video": "path", "count": "reps"})
    assert [c.count for c in clips] == [3] and [(r.file, r.row, r.field) for r in clips.rejected] == [("rows", 2, "count")]


# --- audit


@needs_shared
def test_the_audit_of_repcount_a_over_its_splits(tmp_path):
    folder = SHARED / "annotations/repcount_a"
    clips = sum((load_clips(folder / f"{s}_with_fps.csv", split=s) for s in ("train", "valid", "test")), ClipSet())
    clips = with_sources(clips, load_sources(folder / "filename_mapping.xlsx"))
    found = audit(clips)
    of = lambda rule: {f.id for f in found if f.rule == rule}
    assert of("zero_count") == {"stu9_67", "train143"} and of("count_cycles") == {"test118"} and of("zero_length") == {"stu6_5", "stu4_3", "stu4_5"}
    assert of("past_last_frame") == {"stu11_11", "stu11_8", "stu12_0", "stu12_1", "stu12_2", "stu12_27"}
    assert [f for f in found if f.rule == "rejected" and "stu6_44" in f.message]
    assert ["16 files have no source (#NAME? 16 times)"] == [f.message for f in found if f.rule == "source_unknown"]
    assert not any("#NAME?" in f.message for f in found if f.rule == "leak")
    assert [f.message for f in found if f.rule == "class_names"][0].startswith("16 spellings for 10 classes")
    pairs = {(r["split"], r["other"]): (r["with_source"], r["shared"]) for r in leakage(clips)}
    assert pairs["test", "train"] == (109, 22) and pairs["valid", "train"] == (91, 21)
    page = audit_page(clips, found, "A & B")
    assert "A &amp; B" in page and "stu6_44" in page and page.count("<img") == 1 and not re.search(r"<script|https?:|src=\"(?!data:)", page)


def test_leaks_name_the_other_split_and_survive_a_clash_of_ids():
    train, test = ClipSet([Clip("t/a.mp4", "squat", 1, split="train", source="s")]), ClipSet([Clip("e/a.mp4", "squat", 2, split="test", source="s")], rows={"a": ("e.csv", 2)})
    (leak,) = [f for f in audit(train + test) if f.rule == "leak"]
    assert (leak.id, leak.file, leak.row) == ("a#2", "e.csv", 2) and "s is in test and in train (clip a)" in leak.message


def test_sources_from_a_table(tmp_path):
    table = write(tmp_path / "s.csv", "file,source\na.mp4,yt1\nb,yt1\nc,\n")
    clips = with_sources(ClipSet([Clip("x/a.mp4", "", 1), Clip("b.mp4", "", 1), Clip("c.mp4", "", 1)]), load_sources(table))
    assert [c.source for c in clips] == ["yt1", "yt1", None]
    with pytest.raises(ClipFormatError, match="needs the columns file and source"): load_sources(write(tmp_path / "t.csv", "x,y\n1,2\n"))


@pytest.mark.parametrize("word", ["#NAME?", "#REF!", "#N/A", "#DIV/0!", "N/A", "unknown", " ", "nan"])
def test_a_source_that_is_not_known_is_shared_with_nobody(tmp_path, word):
    sources = load_sources(write(tmp_path / "s.csv", f"file,source\na,{word}\nb,{word}\nc,yt\n"))
    clips = with_sources(ClipSet([Clip("a.mp4", "", 1, split="train"), Clip("b.mp4", "", 1, split="test"), Clip("c.mp4", "", 1, split="test")]), sources)
    assert [(r["with_source"], r["shared"]) for r in leakage(clips)] == [(0, 0), (1, 0)] and [c.source for c in clips] == [None, None, "yt"]
    assert ["2 files have no source"] == [f.message[:22] for f in audit(clips) if f.rule == "source_unknown"]
    written = [Clip("a.mp4", "", 1, split="train", source=word), Clip("b.mp4", "", 1, split="test", source=word)]
    assert not [f for f in audit(written) if f.rule == "leak"]


def test_a_file_with_two_sources_is_found(tmp_path):
    sources = load_sources(write(tmp_path / "s.csv", "file,source\na,yt1\na.mp4,yt2\nb,yt1\nb,yt1\n"))
    (f,) = [f for f in audit(with_sources(ClipSet([Clip("a.mp4", "", 1)]), sources)) if f.rule == "two_sources"]
    assert sources == {"a": "yt1", "b": "yt1"} and (f.file, f.row, f.severity) == ("s.csv", 3, "error") and "yt1" in f.message and "yt2" in f.message


def test_one_split_under_several_names_and_one_file_under_several_paths():
    clips = [Clip("v/a.mp4", "", 1, split=s) for s in ("val", "Valid", "validation")]
    assert {c.split for c in clips} == {"valid"} and not [f for f in audit(clips) if f.rule == "leak"] and len(ClipSet(clips).split("val")) == 3
    apart = [Clip("./a.mp4", "", 1, split="TRAIN"), Clip("sub/../a.mp4", "", 2, split="test")]
    assert [f.rule for f in audit(apart) if f.rule in ("leak", "duplicate")] == ["duplicate", "leak"]
    assert leakage(apart)[0]["split"] == "train" and leakage(apart)[0]["shared"] == 1


def test_an_open_quote_costs_its_row_only(tmp_path):
    rows = [f"{k}.mp4,squat,{k}" for k in range(500)]
    for at, quoted in ((3, '"3.mp4,squat,3'), (498, '"498.mp4,squat,498'), (7, '7.mp4,"squat,7')):
        clips = load_clips(write(tmp_path / "q.csv", "\n".join(["file,action,count", *rows[:at], quoted, *rows[at + 1 :]]) + "\n"))
        (bad,) = clips.rejected
        assert len(clips) == 499 and bad.row == at + 2 and "quote opens in this row" in bad.reason
    kept = load_clips(write(tmp_path / "q.csv", 'file,action,count\na.mp4,"push\nup",3\n"b, ""c"".mp4",squat,2\n'))
    assert [(c.video, c.count) for c in kept] == [("a.mp4", 3), ('b, "c".mp4', 2)] and not kept.rejected


def test_cycles_and_windows_as_other_tools_print_them(tmp_path):
    text = 'video,action,count,cycles,window,extra\na.mp4,squat,2,"[[0.5, 1.5], [1.5, 2.6]]",[2.0 6.0],"{""fps"": 30}"\nb.mp4,squat,1,[array([0.5 1.5])],,\nc.mp4,squat,1,0.5-1.5,1-2;5-6,\nd.mp4,squat,1,[oops],,\n'
    clips = load_clips(write(tmp_path / "c.csv", text))
    assert [(c.cycles, c.window, c.extra) for c in clips] == [(((0.5, 1.5), (1.5, 2.6)), (2, 6), {"fps": 30}), (((0.5, 1.5),), None, {}), (None, None, {})]
    assert [(r.row, r.field) for r in clips.rejected] == [(4, "window")] and [f.rule for f in clips.findings] == ["unusable_cycles"]


def test_a_dataset_written_as_csv_keeps_cycles_and_windows(tmp_path):
    pytest.importorskip("datasets")
    clips = [Clip("a.mp4", "squat", 2, [(0.5, 1.5), (1.5, 2.6)], window=(2, 6), extra={"fps": 25}), Clip("b.mp4", "squat", 0)]
    to_dataset(clips).to_csv(tmp_path / "c.csv")
    assert list(load_clips(tmp_path / "c.csv")) == clips


def test_splits_of_a_saved_dataset_whose_rows_name_none(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {s: datasets.Dataset.from_list([{"video": f"{s}.mp4", "action": "squat", "count": 1, "split": blank}]) for s, blank in (("train", ""), ("test", None))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    assert [c.split for c in load_clips(tmp_path / "d")] == ["train", "test"]


def test_a_mapping_takes_nothing_away(tmp_path):
    table = write(tmp_path / "m.csv", "path,action,count\na.mp4,squat,3\n")
    assert load_clips(table, mapping={"video": "path"})[0].action == "squat"
    with pytest.raises(ClipFormatError, match="gives reps, which is no column of ours; there are video"): load_clips(table, mapping={"video": "path", "reps": "count"})
    with pytest.raises(ClipFormatError, match=r"has video or file or name; its columns are action, count, path$"): load_clips(table, mapping={"count": "count"})
    frames = write(tmp_path / "r.csv", "type,name,count,L1,L2,fps\nsquat,a.mp4,1,30,60,30\n")
    assert load_clips(frames, mapping={"video": "name", "action": "type"})[0].cycles == ((1.0, 2.0),)


@pytest.mark.parametrize("name", ["e.jsonl", "e.csv", "e.parquet"])
def test_no_clips_are_not_saved(tmp_path, name):
    with pytest.raises(ClipFormatError, match="no clip"): save_clips([], tmp_path / name)
    with pytest.raises(ClipFormatError, match="no clip"): to_dataset([])


def test_a_row_against_what_it_says_of_its_file():
    rules = lambda **k: [f.rule for f in label_findings(Clip("a.mp4", "squat", k.pop("count", 1), k.pop("cycles", [(0, 1)]), **k))]
    assert rules(extra={"fps": 30, "num_frames": 300, "duration": 10}) == []
    assert rules(extra={"fps": 30, "num_frames": 300, "duration": 12}) == ["duration"]
    assert rules(cycles=[(0, 11)], extra={"duration": 10}) == ["out_of_range"] and rules(window=(0, 11), extra={"duration": 10}) == ["out_of_range"]
    assert rules(cycles=[(0, 10)], extra={"fps": 30, "num_frames": 300}) == ["past_last_frame"]
    assert rules(count=0, cycles=()) == ["zero_count"] and rules(count=0, cycles=None, extra={"task": "choice"}) == [] and rules(extra={"fps": "x"}) == []


def test_files_are_opened_and_compared(tmp_path):
    from actrep_nb.synth import make_dataset
    (clip,) = load_clips(make_dataset(tmp_path / "data", 1, seed=0, name="test", workers=1), videos=tmp_path / "data/videos")
    (tmp_path / "empty.mp4").touch()
    shutil.copy(clip.video, tmp_path / "twin.mp4")
    others = [Clip(str(tmp_path / n), "squat", 1) for n in ("twin.mp4", "empty.mp4", "gone.mp4")]
    wrong = [Clip(clip.video, "squat", 1, [(0, 500)], id="late", window=None, extra={"fps": 3.0, "duration": 900})]
    found = {(f.id, f.rule) for f in audit(ClipSet([clip, *others, *wrong]), files=True)}
    assert {("twin", "same_bytes"), ("empty", "unreadable_video"), ("gone", "missing_video"), ("late", "file_fps"), ("late", "file_duration"), ("late", "out_of_range")} <= found
    assert not {rule for id, rule in found if id == clip.id} & {"unreadable_video", "file_fps", "same_bytes"}


# --- damaged files

SAMPLES = {
    "r.csv": "type,name,count,L1,L2,L3,L4,fps\nsquat,a.mp4,2,0,10,10,20,10\npushups,b.mp4,1,0,15,,,10\n", "t.csv": "file,action,count,cycles_s\na.mp4,squat,2,0.5-1.5;1.5-2.5\n",
    "a.csv": "a.mp4,train,squat,3\nb.mp4,test,squat,4\n", "u.csv": "name,counts,start_frame,end_frame,L1,L2\nUCF-101/JumpRope/v_JumpRope_g22_c04.avi,1.0,11,31,11,21\n",
    "c.csv": "video_id,kinetics_start,kinetics_end,repetition_start,repetition_end,count\nab,17,27,18.5,20.25,4\n", "q.csv": "name,count,first,last,fps\na,3,10,35,10\n",
    "a.jsonl": '{"video_id":"a","split":"train","action":"squat","gt_count":3,"cot":"x"}\n{"video_id":"b","split":"test","action":"squat","gt_count":4}\n',
    "l.jsonl": '{"video_id":"a","ground_truth":{"action":"squat","count":3}}\n', "k.jsonl": '{"video":"a.mp4","action":"squat","count":2,"cycles":[[0,1],[1,2]],"window":[0,3],"extra":{"fps":25}}\n',
    "o.json": '[{"video_id":"v","ovr_annotations":[{"start_time":1,"end_time":4.5,"count":3,"description":"jump"}]}]',
    "d.jsonl": '{"problem":"How many?","solution":"<answer> 3 </answer>","video_filename":"./a.mp4"}\n',
    "v.json": '[{"problem_id":2,"problem":"Which?","data_type":"video","problem_type":"multiple choice","options":["A","B"],"solution":"<answer>B</answer>","path":"v.mp4"}]',
    "g.json": '[{"dataset":"charades","video":"k.mp4","problem":"a door opens","solution":[0.25,0.5],"video_length":20}]', "s.txt": "3MSZA 24.3 30.4##person turn a light on.\nX 1 2##b\n",
    "s.json": '{"3MSZA":{"duration":31,"timestamps":[[1,2],[3,4]],"sentences":["a","b"]}}', "y.yaml": "datasets:\n  - json_path: g.json\n    data_folder: x\n    sampling_strategy: first:1\n",
}
ODD = [b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b"\n", b"\r", b",", b";", b"{", b"[" * 3000, b"]", b"}", b"nan", b"NaN", b"-1", b"1e999", b"9" * 5000, b"null", b"true", b"\\ud800", b"&a [*a]",
       b"#", b"\xc2\xb2", b"x" * 300, b"/" * 300, b"..", b"0", b"Infinity", b"\t" * 50, b"{}", b"[]", b"\x1a"]


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
    for row in (["file", "action", "count"], ["a.mp4", "squat", 3]): table.active.append(row)
    table.save(book)
    return out | {"n.npy": array.getvalue(), "x.xlsx": book.getvalue()}


def damage(data: bytes, rng: random.Random) -> bytes:
    "Cut, flip, drop, double, insert: one to three times."
    for _ in range(rng.randint(1, 3)):
        at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        flipped = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
        data = rng.choice([data[:at], data[:at] + data[to:], data[:to] + data[at:], data[:at] + rng.choice(ODD) + data[at:], data[:at] + rng.choice(ODD) + data[to:],
                           data[:at] + flipped + data[at + 1:], data[:at] + rng.randbytes(rng.randrange(20)) + data[to:]])
    return data


def check_damaged(folder: Path, name: str, data: bytes, good: dict[str, bytes]) -> str:
    "Load, audit and draw one damaged file; the outcome in a word. Anything but clips, reasons or one named error raises."
    folder.mkdir(parents=True, exist_ok=True)
    for other in ("g.json", "a.npy"): (folder / other).write_bytes(good.get(other, good["n.npy"]))
    (folder / name).write_bytes(data)
    try: clips = load_clips(folder / name, fps=25)
    except ClipFormatError as e:
        assert name in str(e) and len(str(e)) > 20
        return "refused"
    assert all(r.row >= 1 and r.field and len(r.reason) > 3 for r in clips.rejected)
    assert all(f.message for f in audit(clips, files=True))
    load_clips(folder / name, fps=25, videos=folder)
    return "clips and reasons" if clips.rejected else "clips"


def test_damaged_annotation_files_of_every_kind(tmp_path):
    rng, good = random.Random(0), samples()
    outcomes = [check_damaged(tmp_path / str(k), name, damage(good[name], rng), good) for k in range(8) for name in good]
    assert {"refused", "clips", "clips and reasons"} == set(outcomes)


@pytest.mark.parametrize("format", ["clips", "video_r1"])
def test_no_number_is_null_in_a_file_of_clips(tmp_path, format):
    "NaN is not JSON; a value that somebody computed and kept may be one."
    extra = {"x": float("nan"), "problem_id": float("inf")} | ({"task": "numerical", "problem": "?", "solution": "3"} if format == "video_r1" else {})
    path = save_clips([Clip("a.mp4", "squat", 3, extra=extra)], tmp_path / "clips.json" if format == "video_r1" else tmp_path / "clips.jsonl", format=format)
    def no_number(text): raise ValueError(f"{text} is not JSON")
    assert "null" in (text := path.read_text()) and json.loads(text, parse_constant=no_number)


# --- names


def test_a_name_in_another_writing_is_the_one_file_there_is(tmp_path):
    "Case, Unicode form, slashes, spaces and a missing suffix: the row is kept, and a finding says which file was read."
    for name in ("IMG_0001.MOV", "clip.MP4", "Train/u\u0308bung 1.mp4"): (tmp_path / name).parent.mkdir(exist_ok=True); (tmp_path / name).touch()
    written = {"IMG_0001": 0, "IMG_0001.mov": 0, "img_0001.MOV": 0, "img_0001": 0, "clip.mp4": 1, "clip": 1, ".\\clip.mp4": 1, "./Clip.Mp4": 1, " clip.mp4": 1, "clip .mp4": 1,
               "train\\übung 1.mp4": 2, "Train/ÜBUNG 1": 2, "train\\..\\Train//u\u0308bung  1.mp4": 2}
    rows = [{"file": name, "action": "squat", "count": 6} for name in [*written, "IMG_0001.MOV"]]
    clips = clips_from_rows(rows, videos=tmp_path)
    assert not clips.rejected and [Path(c.video).relative_to(tmp_path).parts[-1] for c in clips] == [["IMG_0001.MOV", "clip.MP4", "u\u0308bung 1.mp4"][k] for k in [*written.values(), 0]]
    assert all(os.path.isfile(c.video) for c in clips) and [f.row for f in clips.findings if f.rule == "file_name"] == list(range(1, len(written) + 1))
    assert [c.video for c in clips_from_rows(rows)] == [r["file"].strip() for r in rows]  # without videos= nothing is looked for


def test_a_name_as_it_is_written_comes_first_and_nobody_guesses_between_two(tmp_path):
    for name in ("a.mp4", "A.MP4", "B.mp4", "b.MP4", "only.avi", "sub/deep.mkv", "x\\y.mp4", "x/y.mp4"): (tmp_path / name).parent.mkdir(exist_ok=True); (tmp_path / name).touch()
    if len(os.listdir(tmp_path)) < 8: pytest.skip("this file system takes names of other case for the same")
    rows = [{"file": name, "action": "squat", "count": 6} for name in ("a.mp4", "A.MP4", "x\\y.mp4", "b.mp4", "only.mp4", "/elsewhere/ann/ONLY.mp4", "C:\\clips\\only.avi", "sub/deep.mp4", "none.mp4", "..\\..\\none")]
    clips = clips_from_rows(rows, videos=tmp_path)
    assert [Path(c.video).name for c in clips] == ["a.mp4", "A.MP4", "x\\y.mp4"] and not clips.findings
    reasons = [r.reason for r in clips.rejected]
    assert f"there is {tmp_path / 'B.mp4'} and {tmp_path / 'b.MP4'}: did you mean one of them?" in reasons[0]
    assert all(f"there is {tmp_path / 'only.avi'}: did you mean it?" in reason for reason in reasons[1:4]) and f"{Path('sub/deep.mkv')}: did you mean it?" in reasons[4]
    assert all("fetch it, or correct videos=" in reason for reason in reasons[5:])


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
    assert [c.cycles for c in clips] == [((0.5, 1.5),)] and not {f.rule for f in audit(clips, files=True)} & {"unreadable_video", "missing_video"}
    assert [f.rule for f in audit(ClipSet([Clip(name, "squat", 1, extra={"fps": 25, "duration": 9})]), files=True) if f.rule.startswith("file_")] == ["file_fps", "file_duration"]


def test_rows_are_compared_with_the_film_and_not_with_its_thumbnail(tmp_path):
    "As `actrep_nb.video` sees it: the rate and length of the stream with the frames."
    av, np = pytest.importorskip("av"), pytest.importorskip("numpy")
    with av.open(str(tmp_path / "two.mov"), "w") as out:
        thumb, film = out.add_stream("mjpeg", rate=1), out.add_stream("libx264", rate=8)
        for stream, pix_fmt in ((thumb, "yuvj420p"), (film, "yuv420p")): stream.height, stream.width, stream.pix_fmt = 32, 32, pix_fmt
        for stream, n in ((thumb, 1), (film, 32)):
            for k in range(n):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * k, np.uint8), format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = k, 1 / stream.codec_context.framerate
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    (clip,) = load_clips(write(tmp_path / "r.csv", "type,name,count,L1,L2\nsquat,two.mov,1,4,12\n"), videos=tmp_path)
    assert clip.cycles == ((0.5, 1.5),)
    said = Clip(clip.video, "squat", 1, extra={"fps": 8, "duration": 4})
    assert not [f for f in audit(ClipSet([said]), files=True) if f.rule.startswith("file_")]
