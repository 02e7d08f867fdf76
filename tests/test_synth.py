"Clips that ask something else than a count: the truth in the annotation is the truth in the pixels."

import random
from collections import Counter

import numpy as np
import pytest

from actrep_nb.formats import load_clips
from actrep_nb.synth import (
    ACTIONS,
    OBJECTS,
    QUESTIONS,
    draw_clip,
    draw_moment,
    draw_objects,
    make_questions,
    write_jumps,
    write_moment,
)
from actrep_nb.video import plan_frames, probe, read_frames


@pytest.mark.parametrize(
    "write, longest", [(write_moment, 16.0), (write_jumps, 16.0), (write_moment, 13.0), (write_jumps, 15.0)]
)
def test_scripts_are_whole(write, longest):
    for seed in range(300):
        script = write(random.Random(seed), longest)
        assert script[0].start == 0 and script[-1].end <= longest + 1e-6
        assert all(a.end == pytest.approx(b.start, abs=1e-6) and a.end > a.start for a, b in zip(script, script[1:]))


def test_a_moment_is_one_stretch_of_one_to_four_repetitions():
    for seed in range(300):
        kinds = [s.kind for s in write_moment(random.Random(seed))]
        n = kinds.count("cycle")
        assert 1 <= n <= 4 and kinds[kinds.index("cycle") :][:n] == ["cycle"] * n


def test_the_person_moves_inside_the_moment_and_hardly_outside():
    """Seen from the pixels: how far each frame is from the clip's median frame, inside and outside of the annotated
    interval.
    """
    for seed in range(12):
        drawn = draw_moment("jumping_jack", seed)
        times = (np.arange(len(drawn.pixels)) + 0.5) / drawn.fps
        idle = [i for i, t in enumerate(times) if any(s.kind == "idle" and s.start < t < s.end for s in drawn.script)]
        moved = np.abs(drawn.pixels.astype(float) - drawn.pixels[idle[0]]).mean((1, 2, 3))
        ((start, end),) = drawn.cycles
        inside = (times > start) & (times < end)
        assert moved[inside].max() > 2 * np.median(moved[idle]), f"seed {seed}"
        assert inside[moved.argmax()], f"seed {seed}: the farthest frame is outside"


def jumps_seen(pixels):
    """How often each object leaves the ground, from the pixels alone.

    A box fills its bounding box, a ball π/4 of it, a triangle half.
    """
    bright = pixels.astype(float).mean(-1)
    front = bright > 128 if np.median(bright) < 128 else bright < 128
    edges = np.flatnonzero(np.diff(np.r_[False, front.any((0, 1)), False]))
    seen = {}
    for left, right in edges.reshape(-1, 2):
        lane = front[:, :, left:right]
        rows = np.flatnonzero(lane[0].any(1))
        filled = lane[0].sum() / ((rows[-1] - rows[0] + 1) * (right - left))
        name = min({"box": 1.0, "ball": np.pi / 4, "triangle": 0.5}.items(), key=lambda item: abs(item[1] - filled))[0]
        top = np.array([np.flatnonzero(frame.any(1))[0] for frame in lane])
        high = top < top.max() - 0.25 * pixels.shape[1]
        seen[name] = int((np.diff(np.r_[0, high]) == 1).sum())
    return seen


def test_objects_jump_as_often_as_the_answer_says():
    answers = Counter()
    for seed in range(40):
        drawn, facts = QUESTIONS["dvd_counting"](seed, fps=16.0)
        seen = jumps_seen(drawn.pixels)
        assert set(seen) == set(OBJECTS)
        problem = facts["extra"]["problem"]
        asked = next((name for name in OBJECTS if name in problem), None)
        assert facts["count"] == (seen[asked] if asked else sum(n > 0 for n in seen.values())), (
            f"seed {seed}: {problem}"
        )
        answers[facts["count"]] += 1
    assert set(answers) == {0, 1, 2, 3}


def test_one_option_is_the_drawn_action_and_its_letter_is_chance():
    letters = Counter()
    for seed in range(400):
        drawn, facts = QUESTIONS["choice"](seed, size=8, fps=1.0)
        named = [option[3:] for option in facts["extra"]["options"]]
        assert len(set(named)) == 4 and set(named) <= set(ACTIONS)
        assert named["ABCD".index(facts["extra"]["solution"])] == facts["action"] == drawn.action
        letters[facts["extra"]["solution"]] += 1
    assert min(letters.values()) > 70 and max(letters.values()) < 130  # 100 expected, standard deviation 9


@pytest.mark.parametrize("kind", QUESTIONS)
def test_questions_survive_their_file(kind, tmp_path):
    clips = load_clips(make_questions(tmp_path / "a", kind, 3, seed=5), videos=tmp_path / "a/videos")
    again = load_clips(make_questions(tmp_path / "b", kind, 3, seed=5), videos=tmp_path / "b/videos")
    other = load_clips(make_questions(tmp_path / "c", kind, 3, seed=6), videos=tmp_path / "c/videos")
    assert len(clips) == 3 and not clips.rejected and all(clip.extra["task"] == kind for clip in clips)
    facts = [[(c.action, c.count, c.cycles, c.extra) for c in some] for some in (clips, again, other)]
    assert facts[0] == facts[1] != facts[2]
    info = probe(clips[0].video)
    assert len(read_frames(clips[0].video, plan_frames(info, fps=4)).pixels) == pytest.approx(info.duration * 4, abs=2)


def test_a_kind_nobody_draws_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no clips of kind 'poem'.*grounding, choice, dvd_counting"):
        make_questions(tmp_path, "poem", 1)


def test_drawing_is_a_function_of_its_seed():
    for draw in (lambda seed: draw_moment("squat", seed), draw_objects, lambda seed: draw_clip("squat", 2, seed)):
        a, b, c = draw(1), draw(1), draw(2)
        assert (a.pixels == b.pixels).all() and a.script == b.script != c.script
