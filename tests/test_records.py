"Annotation files: what is kept, what is rejected and why, and that nothing disappears."
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actrep_nb.records import Clip, ClipFormatError, ClipSet, audit, canonical_action, load_clips, pair_up, read_count, save_clips, spellings

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
def test_frame_numbers_without_a_frame_rate_are_rejected_with_the_cure():
    path = SHARED / "annotations/repcount_a/new_test.csv"
    refused = load_clips(path)
    assert refused.rejected and all(r.field == "fps" and "videos=" in r.reason for r in refused.rejected)
    assert len(load_clips(path, fps=30).kept) == len(refused.kept) + len(refused.rejected)


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
    for text in (rows, "video_id,split,action,count\n" + rows):
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
    assert [(f.id, f.rule, f.row) for f in audit(path)] == [("a", "unusable_cycles", 2), ("b", "unusable_cycles", 3)]


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


@given(st.lists(clip_st, max_size=5))
@settings(max_examples=60, deadline=None)
def test_jsonl_loses_nothing(tmp_path_factory, clips):
    clips = ClipSet(clips)
    path = save_clips(clips, tmp_path_factory.mktemp("j") / "c.jsonl")
    if not clips: return
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
    with pytest.raises(ClipFormatError, match="jsonl or .csv"): save_clips([], tmp_path / "a.txt")


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
