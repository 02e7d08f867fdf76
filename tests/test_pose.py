"""Body points: features, files, finding and following people, counting.

What needs the models says so and skips where they are not.
"""

import csv
import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actrep_nb import pose
from actrep_nb.baselines import PeriodCounter
from actrep_nb.pose import (
    BLAZEPOSE,
    BODY,
    COCO,
    MODELS,
    PictureAndPoseCounter,
    PoseCounter,
    PoseFinder,
    Poses,
    Region,
    crop,
    find_people,
    find_poses,
    fill_gaps,
    joints_decide,
    people_swings,
    person_features,
    pose_features,
    pose_missing,
    read_poses,
    region_of,
    save_poses,
    skeleton,
    uncrop,
)
from actrep_nb.formats import load_clips
from actrep_nb.records import Clip
from actrep_nb.synth import _LIMBS, ACTIONS, _joints
from actrep_nb.video import Frames, plan_frames, probe, read_frames, write_video
from actrep_nb.film import VideoError

SHARED = Path(os.environ.get("ACTREP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
MISSING = pose_missing()
needs_models = pytest.mark.skipif(bool(MISSING), reason=f"people cannot be found here: {MISSING}")
needs_clips = pytest.mark.skipif(
    not (SHARED / "clips").exists(), reason="the real clips are not at hand (set ACTREP_SHARED_DATA)"
)

PARTS = {
    "shoulder": "neck",
    "hip": "hip",
    "elbow": "elbow_{}",
    "wrist": "hand_{}",
    "knee": "knee_{}",
    "ankle": "foot_{}",
}


def stick(action, count=4, period=1.6, fps=15.0, height=200.0, at=(160.0, 220.0), idle=1.0, noise=0.0):
    """[T, 33, 3] of a drawn figure: `idle` seconds at rest, `count` repetitions, at rest again.

    Joints it does not have are where its head is, unseen.
    """
    move, rng, rows = ACTIONS[action], np.random.default_rng(0), []
    for t in np.arange(round((count * period + 2 * idle) * fps)) / fps - idle:
        u = 0.5 - 0.5 * math.cos(2 * math.pi * t / period) if 0 <= t < count * period else 0.0
        j = _joints({k: move.rest[k] + u * (move.extreme[k] - move.rest[k]) for k in _LIMBS}, move.anchor)
        rows.append([j[PARTS[n.partition("_")[2]].format(n[0])] if n in BODY[1:] else j["head"] for n in BLAZEPOSE])
    xy = np.array(rows) * height + at
    return np.concatenate(
        [
            xy + noise * height * rng.normal(size=xy.shape),
            np.broadcast_to(np.array([n in BODY for n in BLAZEPOSE], float)[:, None], (*xy.shape[:2], 1)),
        ],
        -1,
    )


def poses_of(*people, fps=15.0):
    n = min(map(len, people))
    return Poses(np.arange(n) / fps, np.stack([p[:n] for p in people], 1))


# ---- features ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 5), st.floats(-500, 500), st.floats(-500, 500))
def test_features_do_not_depend_on_size_and_place(scale, dx, dy):
    points = stick("squat", 2)
    moved = np.concatenate([points[..., :2] * scale + (dx, dy), points[..., 2:]], -1)
    assert np.abs(pose_features(moved) - pose_features(points)).max() < 1e-6


def test_a_joint_that_is_not_seen_does_not_count():
    points = stick("squat", 2)
    wild = points.copy()
    wild[:, BLAZEPOSE.index("left_wrist"), :2] += 100 * np.random.default_rng(0).normal(size=(len(points), 2))
    assert np.abs(pose_features(wild) - pose_features(points)).max() > 0.3
    for p in (wild, points):
        p[:, BLAZEPOSE.index("left_wrist"), 2] = 0
    assert np.abs(pose_features(wild) - pose_features(points)).max() < 1e-9


def test_a_joint_that_a_file_never_has_does_not_count():
    points = stick("squat", 2)
    points[:, BLAZEPOSE.index("left_wrist"), :2] = np.nan
    without = [n for n in BLAZEPOSE if n != "left_wrist"]
    assert np.array_equal(
        pose_features(points), pose_features(points[:, [BLAZEPOSE.index(n) for n in without]], without)
    )


def test_a_person_without_a_nose_is_a_person():
    points = stick("squat", 2)
    points[:, 0] = np.nan
    points[3] = np.nan
    (person,) = people_swings(poses_of(points))
    assert person.found == pytest.approx(1 - 1 / len(points)) and len(person.swings.cycles) == 2


def test_gaps_are_bridged_in_a_straight_line():
    points = np.array([[0.0], [np.nan], [np.nan], [6.0], [np.nan]])
    assert fill_gaps(points)[:, 0].tolist() == [0, 2, 4, 6, 6]
    with pytest.raises(ValueError, match="nobody was found"):
        fill_gaps(points * np.nan)


def test_right_angles_are_right():
    points = np.ones((1, 33, 3))
    for name, xy in {
        "left_shoulder": (0, 0),
        "left_elbow": (0, 1),
        "left_wrist": (1, 1),
        "right_shoulder": (2, 0),
        "left_hip": (0, 3),
        "right_hip": (2, 3),
    }.items():
        points[0, BLAZEPOSE.index(name), :2] = xy
    features = pose_features(points)[0]
    assert features[2 * len(BODY)] == pytest.approx(math.pi / 2)  # the first angle is the left elbow's


def test_uneven_times_become_even():
    points = stick("squat", 3)
    keep = np.sort(np.random.default_rng(1).choice(len(points), len(points) * 3 // 4, replace=False))
    times, features, fps = person_features(Poses(keep / 15.0, points[keep][:, None]))
    assert fps == pytest.approx(15) and np.allclose(np.diff(times), 1 / 15)
    assert np.abs(features - pose_features(points[keep[0] : keep[0] + len(times)])).max() < 0.3


def test_poses_refuse_what_does_not_fit():
    points = stick("squat", 1)
    with pytest.raises(ValueError, match=r"\[T, P, K, 3\]"):
        Poses(np.arange(len(points)), points)
    with pytest.raises(ValueError, match="ascend"):
        Poses(np.zeros(len(points)), points[:, None])


def test_bones_end_where_joints_are_seen():
    frame = stick("squat", 1)[0]
    assert len(skeleton(frame)) == 12
    frame[BLAZEPOSE.index("left_knee"), 2] = 0.1
    assert len(skeleton(frame)) == 10


# ---- counting ------------------------------------------------------------------------------------------------------

UPSIDE_DOWN = {
    ("leg_raise", 7, 1.0): pytest.mark.xfail(
        strict=True, reason="known: which end is rest is not clear, and one repetition too many is counted"
    )
}


@pytest.mark.parametrize(
    "action, count, period",
    [
        pytest.param(a, n, p, marks=UPSIDE_DOWN.get((a, n, p), ()))
        for n, p in ((3, 2.4), (7, 1.0))
        for a in sorted(ACTIONS)
    ],
)
def test_every_drawn_movement_is_counted(action, count, period):
    points = stick(action, count, period, noise=0.005)
    (person,) = people_swings(poses_of(points))
    assert len(person.swings.cycles) == count and person.found == 1
    assert person.swings.period == pytest.approx(period, rel=0.15) and person.swings.regularity > 0.3
    starts = [a for a, _ in person.swings.cycles]
    assert np.allclose(
        starts[1:], 1 + period * np.arange(1, count), atol=0.35 * period
    )  # from rest to rest; the figure rests for a second first


def test_someone_at_rest_repeats_nothing():
    rest = np.repeat(stick("squat", 1)[:1], 100, axis=0)
    (person,) = people_swings(poses_of(rest))
    assert person.swings.cycles == () and person.swings.regularity == 0 and person.swings.problems


def test_the_most_regular_of_several_people_comes_first():
    fidget = stick("squat", 4)
    fidget[..., :2] += np.cumsum(
        np.random.default_rng(0).normal(size=(len(fidget), 1, 2)), axis=0
    ) * 6 + 8 * np.random.default_rng(1).normal(size=fidget[..., :2].shape)
    absent = np.full_like(fidget, np.nan)
    people = people_swings(poses_of(fidget, stick("jumping_jack", 4), absent))
    assert [p.person for p in people] == [1, 0] and len(people[0].swings.cycles) == 4


def test_who_is_hardly_seen_is_hardly_trusted(tmp_path):
    hardly, always = stick("jumping_jack", 4), stick("squat", 4, noise=0.02)
    hardly[np.arange(len(hardly)) % 4 > 0] = np.nan
    people = people_swings(poses_of(hardly, always))
    assert (
        [p.person for p in people] == [1, 0]
        and people[0].found == 1
        and people[1].found == pytest.approx(0.25, abs=0.02)
    )
    save_poses(poses_of(hardly), tmp_path / "a.npz")
    answer = PoseCounter(folder=tmp_path).count(Clip("a.mp4", "jumping_jack", 4))
    assert answer.regularity < 0.25 and "25%" in answer.problems[-1]


def test_cycles_are_told_in_the_clips_own_time():
    points = stick("squat", 3, idle=0.0)
    late = Poses(5.0 + np.arange(len(points)) / 15, points[:, None])
    (person,) = people_swings(late)
    assert person.swings.cycles[0][0] >= 5.0 and person.swings.times[0] == 5.0


@pytest.mark.parametrize(
    "found, joints, picture, decides",
    [
        (0.7, 0.15, None, True),
        (0.69, 0.9, 0.1, False),
        (1.0, 0.14, 0.0, False),
        (1.0, 0.5, 0.5, True),
        (1.0, 0.5, 0.51, False),
    ],
)
def test_the_rule_for_picture_and_joints(found, joints, picture, decides):
    assert joints_decide(found, joints, picture) is decides


def test_counter_on_sequences_from_files(tmp_path):
    save_poses(poses_of(stick("squat", 3, 2.0), stick("sit_up", 5, 1.2)), tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", stick("squat", 3)[:, :, :2].reshape(-1, 66))
    answers = PoseCounter(folder=tmp_path).predict(
        [Clip("x/a.mp4", "squat", 3, id="a"), Clip("b.mp4", "squat", 3, id="b"), Clip("c.mp4", "squat", 3, id="c")],
        progress=False,
    )
    assert [p.id for p in answers] == ["a", "b", "c"]
    assert answers[0].count in (3, 5) and "2 people" in answers[0].problems[-1] and answers[0].regularity > 0.3
    assert answers[1].count is None and "fps" in answers[1].problems[0]  # an array without its film has no frame rate
    assert answers[2].count is None and "holds no c" in answers[2].problems[0]


def test_a_window_of_a_sequence(tmp_path):
    points = np.concatenate([stick("squat", 2, 2.0), stick("squat", 3, 2.0)])
    save_poses(poses_of(points), tmp_path / "a.npz")
    answer = PoseCounter(folder=tmp_path).count(Clip("a.mp4", "squat", 3, window=(6.0, 14.0)))
    assert answer.count == 3 and answer.cycles[0][0] < 2 and answer.cycles[-1][1] <= 8


def test_picture_and_pose_says_which_it_was(tmp_path):
    drawn = np.zeros((120, 36, 48, 3), np.uint8)
    for i, frame in enumerate(drawn):
        frame[10 + round(8 * math.sin(i / 6)) :][:8, 20:28] = 255
    write_video(tmp_path / "a.mp4", drawn, 15)
    clip, counter = Clip(str(tmp_path / "a.mp4"), "squat", 3), PictureAndPoseCounter(PoseCounter(folder=tmp_path))
    (without,) = counter.predict([clip], progress=False)
    assert (
        without.count == PeriodCounter().predict([clip], progress=False)[0].count
        and "counted without body points" in without.problems[-1]
    )

    class Told:
        regularity = 0.0

        def watch(self, clip):
            return pose.Watched(pose.Prediction(clip.id, 77, regularity=self.regularity))

    save_poses(poses_of(stick("squat", 5, 1.5)), tmp_path / "a.npz")
    counter.picture = Told()
    assert counter.count(clip).count == 5 and counter.count(clip).problems[-1] == "counted by body points"
    Told.regularity = 0.99
    assert counter.count(clip).count == 77


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, names, third",
    [
        ((20, 33, 2), BLAZEPOSE, "ones"),
        ((20, 33, 3), BLAZEPOSE, "share"),
        ((20, 99), BLAZEPOSE, "share"),
        ((20, 132), BLAZEPOSE, "own"),
        ((20, 51), COCO, "share"),
        ((20, 2, 17, 3), COCO, "share"),
        ((20, 5, 2), tuple(f"point_{i}" for i in range(5)), "ones"),
    ],
)
def test_arrays(tmp_path, shape, names, third):
    values = np.random.default_rng(0).uniform(0.05, 1, size=shape)
    np.save(tmp_path / "a.npy", values)
    poses = read_poses(tmp_path / "a.npy", fps=25, size=(640, 480))
    per = values.reshape(20, poses.points.shape[1], len(names), -1)
    assert poses.names == names and poses.times[1] == pytest.approx(0.04) and not poses.problems
    assert np.allclose(poses.points[..., :2], per[..., :2] * (640, 480))
    assert np.allclose(poses.points[..., 2], {"ones": 1.0, "share": per[..., -1], "own": per[..., -1]}[third])


def test_a_third_coordinate_below_zero_is_a_depth(tmp_path):
    values = 100 + np.random.default_rng(0).normal(size=(20, 33, 3))
    values[..., 2] -= 100
    values[7] = 0
    np.save(tmp_path / "a.npy", values)
    poses = read_poses(tmp_path / "a.npy", fps=25)
    assert (
        (poses.points[:7, ..., 2] == 1).all() and np.isnan(poses.points[7]).all() and poses.found == pytest.approx(0.95)
    )


@pytest.mark.parametrize(
    "values, reason",
    [
        (np.zeros((5, 7)), "rows of"),
        (np.zeros((5, 33, 5)), "shape"),
        (np.full((5, 3), "a"), "not numbers"),
        (np.zeros((5, 33, 2)), "nobody was found"),
        (np.full((5, 33, 4), 7.0), "visibilities"),
        (np.array([{}]), "no array of numbers"),
    ],
)
def test_arrays_that_are_none(tmp_path, values, reason):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=reason) as e:
        read_poses(tmp_path / "a.npy", fps=25)
    assert "a.npy" in str(e.value)


def write_table(path, points, style, clock="time", fps=25.0):
    "[T, K, 3] as a CSV table, in one of the ways people name their columns."
    named = {
        "number": "{c}{k}",
        "under": "{c}_{k}",
        "landmark": "landmark_{k}_{c}",
        "name": "{n}_{c}",
        "shout": "{N}.{c}",
        "front": "{c}_{n}",
    }[style]
    columns = [
        named.format(c=c, k=k, n=n, N=n.upper())
        for k, n in enumerate(BLAZEPOSE)
        for c in ("x", "y", "visibility" if style in ("name", "shout", "front") else "v")
    ]
    with path.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow([clock, *columns])
        for i, row in enumerate(points):
            out.writerow(
                [
                    {"time": i / fps, "timestamp_ms": 1000 * i / fps, "frame": i}[clock],
                    *("" if np.isnan(v) else v for v in row.reshape(-1)),
                ]
            )
    return path


@pytest.mark.parametrize("style", ["number", "under", "landmark", "name", "shout", "front"])
@pytest.mark.parametrize("clock", ["time", "timestamp_ms", "frame"])
def test_tables(tmp_path, style, clock):
    points = stick("squat", 2)
    points[3] = np.nan
    poses = read_poses(write_table(tmp_path / "a.csv", points, style, clock), fps=25)
    assert (
        poses.names == BLAZEPOSE
        and np.allclose(poses.points[:, 0], points, equal_nan=True)
        and np.allclose(poses.times, np.arange(len(points)) / 25)
    )


def test_a_table_of_several_people(tmp_path):
    (tmp_path / "a.csv").write_text("frame,person,nose_x,nose_y\n0,a,10,20\n0,b,30,40\n2,b,31,41\n")
    poses = read_poses(tmp_path / "a.csv", fps=10)
    assert (
        poses.times.tolist() == [0, 0.2]
        and poses.points[0, :, 0].tolist() == [[10, 20, 1], [30, 40, 1]]
        and np.isnan(poses.points[1, 0]).all()
        and poses.points[1, 1, 0].tolist() == [31, 41, 1]
    )


@pytest.mark.parametrize(
    "text, reason",
    [
        ("time,x0,y0\n", "no row"),
        ("", "no row"),
        ("x0,y0\n1,2\n", "no column tells the time"),
        ("frame,x0,y0\n0,1,2\n", "give fps="),
        ("time,a,b\n0,1,2\n", "no column is a coordinate"),
        ("time,x0,y0,x1\n0,1,2,3\n", "1 has no y"),
        ("time,x0,y0\n0,10,2\n0.1,one,2\n", "row 3, column x0: 'one' is not a number"),
        ("time,x0,y0\n0.2,10,2\n0.1,10,2\n", "row 3, column time: 0.1 is before"),
        ("time,x0,y0\n0.1,10,2\n0.1,10,2\n", "row 3: a second row"),
        ("time,x0,y0\n,10,2\n", "row 2, column time: there is no time"),
        ("time,x0,y0,v0\n0,10,2,87\n", "visibilities"),
        ("time,x0,y0\n0,,\n", "nobody was found"),
        ("time,x0,y0\n0,10,20\n1,10,2", "ends inside line 3.*add a line break"),
        ("time,x0,y0,x0\n0,10,20,11\n", "two columns are named x0"),
    ],
)
def test_tables_that_are_none(tmp_path, text, reason):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=reason) as e:
        read_poses(tmp_path / "a.csv")
    assert "a.csv" in str(e.value)


def test_shares_without_a_size_are_told(tmp_path):
    points = stick("squat", 1) / (320, 240, 1)
    assert "give size=" in read_poses(write_table(tmp_path / "a.csv", points, "number")).problems[0]
    sized = read_poses(tmp_path / "a.csv", size=(320, 240))
    assert not sized.problems and np.allclose(sized.points[:, 0], stick("squat", 1))


def test_saved_and_read(tmp_path):
    poses = Poses(np.array([0.0, 0.5]), np.full((2, 1, 1, 3), 5.0), ("ball",), ("blurred",))
    back = read_poses(save_poses(poses, tmp_path / "a.npz"))
    assert (
        back.names == ("ball",)
        and back.problems == ("blurred",)
        and np.array_equal(back.points, poses.points)
        and list(tmp_path.iterdir()) == [tmp_path / "a.npz"]
    )
    (tmp_path / "b.npz").write_bytes(b"PK no zip")
    for name, reason in (("b.npz", "not written by save_poses"), ("gone.npy", "no such file")):
        with pytest.raises(ValueError, match=reason):
            read_poses(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.npz"):
        save_poses(poses, tmp_path / "a.npy")
    np.save(tmp_path / "c.npy", np.zeros((9, 33, 3)))
    for name in ("a.npz", "c.npy"):
        whole = (tmp_path / name).read_bytes()
        for end in range(0, len(whole), max(1, len(whole) // 40)):
            (tmp_path / name).write_bytes(whole[:end])
            with pytest.raises(ValueError, match=f"{name}.*cut off"):
                read_poses(tmp_path / name, fps=8)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"\.npy, \.npz, \.csv"):
        read_poses(tmp_path / "a.txt")


# ---- finding people: what needs no model ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.floats(40, 160),
    st.floats(40, 80),
    st.floats(60, 150),
    st.floats(-math.pi, math.pi),
    st.floats(-0.3, 0.3),
    st.floats(-0.3, 0.3),
)
def test_a_spot_is_where_the_crop_shows_it(x, y, size, angle, u, v):
    "The spot is drawn in the frame by hand, at the place that a rotation by the angle says."
    dx, dy = u * size, v * size
    cx, cy = x + math.cos(angle) * dx - math.sin(angle) * dy, y + math.sin(angle) * dx + math.cos(angle) * dy
    py, px = np.mgrid[:120, :200] + 0.5
    rgb = np.repeat((255 * np.exp(-((px - cx) ** 2 + (py - cy) ** 2) / 40)).astype(np.uint8)[..., None], 3, axis=2)
    if not (8 < cx < 192 and 8 < cy < 112):
        return
    seen = crop(rgb, Region(x, y, size, angle), 64)[0, ..., 0]
    rows, columns = np.mgrid[:64, :64] + 0.5
    at = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum() / 64
    assert np.hypot(*(at - (0.5 + u, 0.5 + v))) < 0.02
    assert np.hypot(*(uncrop(at, Region(x, y, size, angle)) - (cx, cy))) < 0.02 * size


def test_a_region_stands_the_body_upright():
    for name, top, angle in (
        ("standing", (50, 30), 0),
        ("head to the right", (70, 50), math.pi / 2),
        ("upside down", (50, 70), math.pi),
        ("head to the left", (30, 50), -math.pi / 2),
    ):
        region = region_of(np.array([50.0, 50.0]), np.array(top, float))
        assert region.size == 50 and math.isclose(region.angle, angle), name
        assert np.allclose(uncrop(np.array([0.5, 0.1]), region), top), name


def told(*people):
    """What the detector says of a 200×100 frame: (place, likelihood before the sigmoid, hips, top), in pixels of the
    frame.
    """
    raw, score = np.zeros((1, 2254, 12), np.float32), np.full((1, 2254, 1), -9.0, np.float32)
    places = [
        ((x + 0.5) / n, (y + 0.5) / n)
        for n, k in ((28, 2), (14, 2), (7, 6))
        for y in range(n)
        for x in range(n)
        for _ in range(k)
    ]
    for place, likely, hips, top in people:
        score[0, place, 0] = likely
        for slot, (px, py) in ((0, (hips[0], hips[1] - 30)), (2, hips), (3, top)):
            raw[0, place, 2 * slot : 2 * slot + 2] = 224 * (np.array([px / 200, (py + 50) / 200]) - places[place])
        raw[0, place, 2:4] = 224 * 20 / 200
    return lambda picture, *shapes: [raw, score]


def test_the_detectors_numbers_become_regions():
    rgb = np.zeros((100, 200, 3), np.uint8)
    people = find_people(
        told((700, 3.0, (60, 50), (60, 20)), (1600, 2.0, (150, 60), (180, 60)), (2200, -1.0, (20, 60), (20, 30))), rgb
    )
    assert [tuple(np.round(r, 3)) for r in people] == [(60, 50, 75, 0), (150, 60, 75, round(math.pi / 2, 3))]
    both = find_people(told((700, 3.0, (60, 50), (60, 20)), (1700, 3.0, (64, 50), (64, 20))), rgb)
    assert [tuple(np.round(r, 3)) for r in both] == [(62, 50, 75, 0)]  # the same face: one person, half-way
    assert find_people(told(), rgb) == []


@pytest.mark.parametrize("height, width, n", [(100, 200, 4), (200, 100, 4), (100, 110, 1)])
def test_views_are_squares_inside_the_frame(height, width, n):
    whole, *parts = pose.views(height, width)
    assert len(parts) == n - 1 and whole == (width / 2, height / 2, max(height, width), 0)
    edges = [(v.x - v.size / 2, v.y - v.size / 2, v.x + v.size / 2, v.y + v.size / 2) for v in parts]
    assert all(min(e) >= 0 and e[2] <= width and e[3] <= height for e in edges)
    if parts:
        assert edges[0][:2] == (0, 0) and edges[-1][2:] == (width, height)


def test_a_person_found_in_a_part_is_where_they_are_in_the_frame():
    rgb, part = np.zeros((100, 200, 3), np.uint8), Region(150.0, 50.0, 100.0, 0.0)
    (seen,) = find_people(
        told((700, 3.0, (60, 50), (60, 20))), rgb, part
    )  # in the whole frame at (60, 50): at .3 and .5 of its square
    assert tuple(np.round(seen, 3)) == (100 + 30, 50, 37.5, 0)


def follow(monkeypatch, tracks, people, hide=(), shape=(10, 10)):
    """Follow people whose bodies are where `tracks` [T, N, 33, 2] has them; in frames in `hide` nobody is seen by
    either model. Returns points [T, people, 33, 3] and the frames in which people were looked for.
    """
    now, looked = {"t": 0}, []

    def regions():
        return [region_of(b.mean(0), b.mean(0) - (0, 0.6 * np.ptp(b[:, 1]))) for b in tracks[now["t"]]]

    def look(model, rgb, view=None, least=0.5):
        looked.append(now["t"])
        return (
            [] if now["t"] in hide else regions()[:: -1 if hide and now["t"] > hide[-1] else 1]
        )  # in another order, the second time

    def read(model, rgb, region):
        away = [math.hypot(r.x - region.x, r.y - region.y) for r in regions()]
        i = int(np.argmin(away))
        here = now["t"] not in hide and away[i] < 0.5 * region.size
        return (0.9 if here else 0.1), np.concatenate([tracks[now["t"]][i], np.ones((33, 1))], -1), regions()[i]

    monkeypatch.setattr(pose, "find_people", look)
    monkeypatch.setattr(pose, "read_person", read)
    finder, out = PoseFinder(people, models=(lambda *_: [], lambda *_: [])), []
    for now["t"] in range(len(tracks)):
        out.append(finder(np.zeros((*shape, 3), np.uint8)))
    return np.stack(out), looked


def test_people_keep_their_index(monkeypatch):
    a, b = stick("squat", 3)[..., :2], stick("jumping_jack", 3, at=(420.0, 220.0))[..., :2]
    points, looked = follow(monkeypatch, np.stack([a, b], 1), 2)
    assert (
        np.allclose(points[:, 0, :, :2], a, atol=1e-3)
        and np.allclose(points[:, 1, :, :2], b, atol=1e-3)
        and looked == [0]
    )


def test_who_is_lost_is_found_again_under_the_same_index(monkeypatch):
    a, b = stick("squat", 3)[..., :2], stick("jumping_jack", 3, at=(420.0, 220.0))[..., :2]
    points, looked = follow(monkeypatch, np.stack([b, a], 1), 2, hide=range(20, 25))
    assert (
        np.isnan(points[20:25]).all()
        and np.allclose(points[25:, 0, :, :2], b[25:], atol=1e-3)
        and np.allclose(points[25:, 1, :, :2], a[25:], atol=1e-3)
    )
    assert looked == [0, 21, 22, 23, 24, 25]  # every frame, while nobody is followed


def test_the_detector_rests_while_somebody_is_followed(monkeypatch):
    a = stick("squat", 3)[..., :2][:, None]
    points, looked = follow(monkeypatch, a, 3)
    assert looked == list(range(0, len(a), 10)) and np.isnan(points[:, 1:]).all() and np.isfinite(points[:, 0]).all()


def test_parts_of_a_wide_frame_are_looked_at_now_and_then(monkeypatch):
    a = stick("squat", 3)[..., :2][:, None]
    _, looked = follow(monkeypatch, a, 1, hide=range(25), shape=(10, 40))
    assert [looked.count(t) for t in range(26)] == [4, *[1] * 9, 4, *[1] * 9, 4, *[1] * 5] and len(looked) == 35
    _, looked = follow(monkeypatch, a, 1, hide=range(12, 15), shape=(10, 40))
    assert [looked.count(t) for t in range(12, 17)] == [
        0,
        4,
        1,
        1,
        0,
    ]  # lost in frame 12, so the next is looked at all over


def test_two_who_become_one_are_parted(monkeypatch):
    a = stick("squat", 3)[..., :2]
    away = np.clip(np.abs(np.arange(len(a)) - len(a) // 2) - 8, 0, None)[:, None, None] * (
        12,
        0,
    )  # comes, stands in the same place, goes
    points, _ = follow(monkeypatch, np.stack([a, a + away], 1), 2)
    assert (
        np.isnan(points[len(a) // 2, 1]).all() and np.isfinite(points[:, 0]).all() and np.isfinite(points[-1, 1]).all()
    )


def spots(rgb):
    return np.array([[[*np.argwhere(rgb[..., 1] > 128).mean(0)[::-1], 1.0]]])


@pytest.fixture(scope="module")
def spot_video(tmp_path_factory):
    path, frames = tmp_path_factory.mktemp("spots") / "a.mp4", np.zeros((90, 48, 64, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[16:24, i // 2 : i // 2 + 8] = 255
    write_video(path, frames, 30)
    return path


def test_a_film_is_watched_frame_by_frame(spot_video):
    whole = find_poses(spot_video, finder=spots, progress=False)
    assert (
        len(whole) == 90
        and np.allclose(whole.times, np.arange(90) / 30, atol=1e-3)
        and np.abs(whole.points[:, 0, 0, 0] - (np.arange(90) // 2 + 3.5)).max() < 1
    )
    some = find_poses(spot_video, finder=spots, fps=10, window=(1.0, 2.0), progress=False)
    assert np.allclose(some.times, np.arange(10) / 10) and some.points[0, 0, 0, 0] == pytest.approx(18.5, abs=1)
    frames = read_frames(spot_video, plan_frames(probe(spot_video), 5, 512, size=(48, 64)))
    assert (
        np.abs(
            find_poses(frames, finder=spots).points
            - find_poses(((t, f) for t, f in zip(frames.times, frames.pixels)), finder=spots).points
        ).max()
        == 0
    )


def test_frames_that_are_there_twice_are_seen_once():
    twice = Frames(np.full((4, 8, 8, 3), 255, np.uint8), np.array([0.0, 0.1, 0.2, 0.2]), 10.0)
    assert find_poses(twice, finder=spots).times.tolist() == [0.0, 0.1, 0.2]


def test_what_cannot_be_watched_is_told(tmp_path, spot_video):
    with pytest.raises(VideoError, match="no such file"):
        find_poses(tmp_path / "gone.mp4", finder=spots)
    with pytest.raises(VideoError, match="reader 'none' is unknown"):
        find_poses(spot_video, finder=spots, reader="none")
    with pytest.raises(VideoError, match="not one frame"):
        find_poses([], finder=spots)
    nobody = find_poses(spot_video, finder=lambda rgb: np.full((2, 33, 3), np.nan), progress=False)
    assert (
        nobody.points.shape == (90, 0, 33, 3)
        and nobody.problems == ("nobody was found",)
        and people_swings(nobody) == []
    )
    with pytest.raises(ValueError, match="people=0"):
        PoseFinder(0)


def test_why_people_cannot_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'actrep_nb[pose]'" in pose_missing()
    monkeypatch.undo()
    monkeypatch.setenv("ACTREP_POSE_MODELS", str(tmp_path / "gone.whl"))
    with pytest.raises(ImportError, match="gone.whl holds no .*pose_detection.*pip install"):
        pose._model("detector")
    with zipfile.ZipFile(tmp_path / "m.whl", "w") as wheel:
        wheel.writestr(MODELS["detector"], b"net")
    monkeypatch.setenv("ACTREP_POSE_MODELS", str(tmp_path / "m.whl"))
    assert pose._model("detector") == b"net"
    with pytest.raises(ImportError, match="0.10.14"):
        pose._model("landmarks")
    assert pose_missing() != ""


def test_the_counter_says_why_it_cannot_count(spot_video, monkeypatch):
    monkeypatch.setattr(pose, "_model", lambda name: (_ for _ in ()).throw(ImportError("no models")))
    (answer,) = PoseCounter().predict([Clip(str(spot_video), "squat", 3)], progress=False)
    assert answer.count is None and answer.problems[0].startswith("ImportError")


# ---- with the models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return {c.id: c for c in load_clips(SHARED / "clips" / "manifest.csv", videos=SHARED / "clips")}


@needs_models
@needs_clips
@pytest.mark.parametrize("name", ["yuyou_squat", "venkat_jumping_jacks", "escounts_test2021"])
def test_real_clips_are_counted(real, name):
    answer = PoseCounter().count(real[name])
    assert answer.count == real[name].count and answer.regularity > 0.5 and not answer.problems


@needs_models
@needs_clips
def test_points_are_those_of_mediapipe(real):
    """The package whose models these are is the oracle: the points of a body differ by a hundredth or two of half its
    height.
    """
    solutions = pytest.importorskip("mediapipe", reason="the package mediapipe is not installed").solutions
    frames = read_frames(
        real["yuyou_squat"].video, plan_frames(probe(real["yuyou_squat"].video), 1, 8, max_pixels=544 * 960)
    )
    with solutions.pose.Pose(model_complexity=1, static_image_mode=True, smooth_landmarks=False) as oracle:
        for rgb in frames.pixels:
            theirs = np.array(
                [(p.x * rgb.shape[1], p.y * rgb.shape[0]) for p in oracle.process(rgb).pose_landmarks.landmark]
            )
            ours = PoseFinder()(rgb)[0, :, :2]
            assert np.median(np.hypot(*(ours - theirs).T)) < 0.03 * np.ptp(theirs[:, 1]) / 1.6


@needs_models
@needs_clips
def test_two_people_side_by_side(real, tmp_path):
    def half(name, n=90):
        info = probe(real[name].video)
        return read_frames(
            real[name].video,
            plan_frames(
                info, 15, n, n, size=(360, round(360 * info.width / info.height / 2) * 2), window=(0.0, n / 15)
            ),
        ).pixels

    left, right = half("venkat_jumping_jacks"), half("wissem_bicep")
    write_video(tmp_path / "two.mp4", np.concatenate([left, right], axis=2), 15)
    poses = find_poses(tmp_path / "two.mp4", people=2, progress=False)
    assert (poses.found > 0.9).all() and len(poses.found) == 2
    sides = np.nanmedian(poses.points[:, :, BLAZEPOSE.index("left_hip"), 0], axis=0) > left.shape[2]
    assert sorted(sides.tolist()) == [False, True]
    jumper = next(p for p in people_swings(poses) if not sides[p.person])
    assert len(jumper.swings.cycles) == real["venkat_jumping_jacks"].count
