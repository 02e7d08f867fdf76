"Selecting clips by what a model answers: rules against brute force, and repeated inference that is killed, continued and reordered."

import math
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actrep_nb.records import Clip
from actrep_nb.sampling import (
    KEPT,
    SELECTIONS,
    seed_for,
    difficulty_window,
    gaussian_selection,
    plot_selection,
    random_selection,
    read_completions,
    repeated_completions,
    select_by_variance,
    variance_selection,
)

ROOT = Path(__file__).parents[1]
some_scores = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8), max_size=30
)


def clips(n):
    return [Clip(f"{i:03}.mp4", "squat", i % 9) for i in range(n)]


# ---- rules -----------------------------------------------------------------------------------------------------------


@given(some_scores, st.one_of(st.none(), st.integers(0, 30)), st.integers(0, 5))
def test_every_rule_gives_every_clip_one_fate_and_keeps_at_most_n(scores, n, seed):
    for rule in SELECTIONS.values():
        fates = rule(scores, n, seed)
        assert [f.id for f in fates] == list(scores) and all(f.reason for f in fates)
        assert n is None or sum(f.kept for f in fates) <= n
        assert all((f.mean is None) == (f.scored == 0) for f in fates) and fates == rule(scores, n, seed)


@given(some_scores, st.one_of(st.none(), st.integers(0, 30)))
def test_variance_against_brute_force(scores, n):
    spread = {}
    for name, some in scores.items():
        values = [s for s in some if s is not None]
        spread[name] = np.std(values) if values else 0.0
    divided = [name for name in spread if spread[name] > 1e-6]
    kept = select_by_variance(scores, n)
    assert len(kept) == min(len(divided), len(divided) if n is None else n) and set(kept) <= set(divided)
    assert all(spread[a] >= spread[b] - 1e-9 for a, b in zip(kept, kept[1:]))
    assert all(spread[out] <= spread[k] + 1e-9 for k in kept for out in set(divided) - set(kept))


def test_temporal_r1_all_right_all_wrong_mixed():
    fates = {
        f.id: f
        for f in variance_selection(
            {"right": [1] * 8, "wrong": [0] * 8, "mixed": [1, 0, 0, 0, 0, 0, 0, 0], "mute": [None] * 8}
        )
    }
    assert {i: f.kept for i, f in fates.items()} == {"right": False, "wrong": False, "mixed": True, "mute": False}
    assert (fates["right"].mean, fates["wrong"].mean, fates["mute"].mean, fates["mixed"].std) == (
        1,
        0,
        None,
        pytest.approx(math.sqrt(7) / 8),
    )


def test_poor_but_divided_clips_are_left_out_when_asked():
    scores = {"poor": [0, 0.2], "good": [0.6, 0.9], "flat": [0.5, 0.5]}
    assert {f.id: f.reason for f in variance_selection(scores, min_mean=0.3)} == {
        "poor": "mean score below 0.3",
        "good": KEPT,
        "flat": "all completions score alike",
    }
    assert select_by_variance({"half": [0, 1], "more": [0, 2]}, min_std=0.5) == ["more"], (
        "a spread has to exceed the threshold"
    )


def test_difficulty_window_against_brute_force():
    rng = random.Random(0)
    scores = {str(i): [float(rng.random() < p) for _ in range(8)] for i, p in enumerate([0, 0.2, 0.5, 0.8, 1.0] * 40)}
    mean = {name: statistics.fmean(s) for name, s in scores.items()}
    inside = sorted((name for name in scores if 0 < mean[name] <= 0.7), key=lambda name: -mean[name])
    assert {f.id for f in difficulty_window(scores) if f.kept} == set(inside)
    twenty = [inside[int(k)] for k in np.round(np.linspace(0, len(inside) - 1, 20))]
    assert {f.id for f in difficulty_window(scores, 20) if f.kept} == set(twenty)
    why = {f.id: f.reason for f in difficulty_window(scores)}
    assert all(
        why[i].startswith("too hard") == (mean[i] == 0) and why[i].startswith("too easy") == (mean[i] > 0.7)
        for i in scores
    )


def test_the_bell_is_drawn_as_one_after_the_other_would_be():
    means = [0.0, 0.1, 0.3, 0.5, 0.9]
    scores = {str(i): [m] for i, m in enumerate(means)}
    weights = np.array([math.exp(-((m - 0.3) ** 2) / (2 * 0.2**2)) for m in means[1:]])
    rng, times = np.random.default_rng(0), 4000
    wanted, found = np.zeros(4), np.zeros(4)
    for _ in range(times):
        wanted[rng.choice(4, 2, replace=False, p=weights / weights.sum())] += 1
    for seed in range(times):
        found[[int(f.id) - 1 for f in gaussian_selection(scores, 2, seed=seed) if f.kept]] += 1
    assert np.abs(found - wanted).max() < 5 * math.sqrt(times / 2), "within five standard errors"


def test_drawing_does_not_depend_on_order_and_tells_seeds_apart():
    scores = {f"clip{i}": [(i % 7) / 7] for i in range(200)}
    turned = dict(reversed(scores.items()))
    for name in ("gaussian", "random"):
        kept = [
            {f.id for f in SELECTIONS[name](s, 60, seed) if f.kept}
            for s, seed in ((scores, 0), (turned, 0), (scores, 1))
        ]
        assert kept[0] == kept[1] != kept[2] and len(kept[0]) == 60


def test_far_from_the_centre_weights_do_not_underflow():
    assert sum(f.kept for f in gaussian_selection({"a": [1.0], "b": [0.9]}, 1, centre=0.0, width=0.001)) == 1


def test_refusals():
    with pytest.raises(ValueError, match="x has a reward"):
        variance_selection({"x": [1.0, math.inf]})
    with pytest.raises(ValueError, match="cannot keep -1"):
        random_selection({"x": []}, -1)


def test_the_picture_counts_every_clip():
    fates = variance_selection({"a": [0, 1], "b": [1, 1], "c": [None]})
    figure = plot_selection(fates)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "kept: 1",
        "all completions score alike: 1",
        "no completion could be scored: 1",
    }
    assert sum(patch.get_height() for bars in figure.axes[0].containers[:2] for patch in bars) > 0


# ---- repeated inference -------------------------------------------------------------------------------------------------


def chance(clip, seed):
    return [str(random.Random(f"{seed}{g}").randrange(clip.count + 2)) for g in range(4)]


@settings(max_examples=30, deadline=None)
@given(stop=st.integers(0, 19), torn=st.integers(0, 60), order=st.randoms())
def test_a_run_cut_anywhere_goes_on_to_the_same_answers(tmp_path_factory, stop, torn, order):
    path, whole = (
        tmp_path_factory.mktemp("answers") / "a.jsonl",
        {c.id: chance(c, seed_for(3, c.id)) for c in clips(20)},
    )
    repeated_completions(clips(20)[:stop], chance, path, {"model": "m"}, seed=3)
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - torn)])
    shuffled = order.sample(clips(20), 20)
    asked = []

    def counted(clip, seed):
        asked.append(clip.id)
        return chance(clip, seed)

    again = repeated_completions(shuffled, counted, path, {"model": "m"}, seed=3)
    assert again == whole and list(again) == [c.id for c in shuffled] and len(asked) == len(set(asked)) >= 20 - stop
    assert read_completions(path, {"model": "m", "seed": 3}) == whole and len(path.read_text().splitlines()) == 21


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"settings": {"model": "other", "temperature": 1.0}}, {"settings": {"model": "m"}}]
)
def test_other_settings_are_refused(tmp_path, change):
    repeated_completions(clips(3), chance, tmp_path / "a.jsonl", {"model": "m", "temperature": 1.0})
    with pytest.raises(ValueError, match="other settings"):
        repeated_completions(
            clips(4),
            chance,
            tmp_path / "a.jsonl",
            **{"settings": {"model": "m", "temperature": 1.0}, "seed": 0, **change},
        )


def test_equal_ids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same id"):
        repeated_completions(clips(2) + clips(1), chance, tmp_path / "a.jsonl", {})


def test_seeds_do_not_collide():
    assert len({seed_for(s, f"clip{i}") for s in range(5) for i in range(4000)}) == 20000
    assert seed_for(0, "a") == seed_for(0, "a") < 2**56


def ask(data, path, back=False):
    "Three answers of the tiny base to each clip."
    import torch

    from actrep_nb.models import load_model
    from actrep_nb.formats import load_clips
    from actrep_nb.rollout import SamplingParams, sample_group
    from actrep_nb.loading import ClipExamples, read_all

    torch.set_num_threads(1)
    model, processor = load_model(ROOT / "data/tiny_base", device="cpu")
    clips = list(load_clips(f"{data}/train.csv", videos=f"{data}/videos"))
    prompts = {e.clip.id: e.prompt for e in read_all(ClipExamples(model.eval(), processor, clips), model)[0]}

    def answer(clip, seed):
        return [
            r.text for r in sample_group(model, processor, [prompts[clip.id]], 3, SamplingParams(16, 1.0), [seed])[0]
        ]

    return repeated_completions(clips[::-1] if back else clips, answer, path, {"model": "tiny"}, seed=1)


def test_a_killed_model_goes_on_to_the_same_answers(tmp_path):
    "The tiny base, killed with SIGKILL after its first clips, continued over the clips in reverse, against a run that was left alone."
    import torch

    from actrep_nb.synth import make_dataset

    data, path, threads = tmp_path / "data", tmp_path / "killed.jsonl", torch.get_num_threads()
    make_dataset(data, 16, seed=0, name="train")
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from test_selection import ask; ask({str(data)!r}, {str(path)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lines, deadline = lambda: path.read_bytes().count(b"\n") if path.exists() else 0, time.monotonic() + 120
    while lines() < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 3 <= lines() < 17, f"killed after {lines()} lines, which is no interruption"
    try:
        continued, alone = ask(data, path, back=True), ask(data, tmp_path / "alone.jsonl")
    finally:
        torch.set_num_threads(threads)
    assert continued == alone and len(alone) == 16 and len({tuple(a) for a in alone.values()}) > 8
    assert lines() == 17 and read_completions(path, {"model": "tiny", "seed": 1}) == alone


@pytest.mark.slow
def test_04_select_accounts_for_every_clip(tmp_path):
    "The experiment on drawn clips, one of them no video: every clip has a fate, what it writes can be loaded, and another rule asks nobody again."
    import pandas as pd

    from actrep_nb.formats import find_videos, load_clips
    from actrep_nb.runs import run
    from actrep_nb.synth import make_dataset

    make_dataset(tmp_path / "data", 5, seed=0, name="train")
    videos = tmp_path / "data/videos"
    spoilt = load_clips(tmp_path / "data/train.csv", videos=videos)[2]
    Path(spoilt.video).write_bytes(b"no video")
    given = {
        "model": str(ROOT / "data/tiny_base"),
        "clips": str(tmp_path / "data/train.csv"),
        "cache": "",
        "answers": str(tmp_path / "answers.jsonl"),
        "group_size": 2,
        "max_new_tokens": 8,
        "share": 1.0,
    }
    blind = run("04_select", tmp_path / "random", given | {"rule": "random"}, quiet=True)
    fates = pd.read_csv(tmp_path / "random/fates.csv").set_index("id")
    assert (blind.metrics["clips"], blind.metrics["selected"], blind.metrics["unreadable"]) == (5, 4, 1)
    assert (
        len(fates) == 5
        and fates.loc[spoilt.id, "reason"].startswith("not read: ")
        and not fates.loc[spoilt.id, "kept"]
        and fates["kept"].sum() == 4
    )
    chosen = tmp_path / "random/selected.jsonl"
    assert {c.id for c in load_clips(chosen, videos=find_videos(chosen))} == set(fates.index[fates["kept"]])
    before = (tmp_path / "answers.jsonl").read_bytes()
    run("04_select", tmp_path / "variance", given | {"rule": "variance"}, quiet=True)
    assert (tmp_path / "answers.jsonl").read_bytes() == before and len(
        pd.read_csv(tmp_path / "variance/fates.csv")
    ) == 5


@pytest.mark.parametrize("said", ["one\u2028two", "one\u2029two\x85three\x0b", "half a pair \ud83d"])
def test_any_string_an_answer_can_be_is_read_back(tmp_path, said):
    path = tmp_path / "answers.jsonl"
    first = repeated_completions(clips(2), lambda clip, seed: [said], path, {})
    assert (
        repeated_completions(clips(2), lambda clip, seed: pytest.fail("asked again"), path, {})
        == first
        == {c.id: [said] for c in clips(2)}
    )


def test_lines_are_ended_by_line_feeds_only(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"settings": {}}\n{"id": "000", "answers": ["one\u2028two"]}\n')
    assert read_completions(tmp_path / "a.jsonl", {}) == {"000": ["one\u2028two"]}


@pytest.mark.parametrize(
    "held",
    [
        b"hello\n",
        b"[1]\n",
        b"\xff\n",
        b'{"a": 1}\n',
        b'{"settings": {}}\n{"id": 3}\n',
        b'{"settings": {}}\n7\n',
        b'{"settings": 3}\n',
    ],
)
def test_a_file_that_holds_no_answers_is_named(tmp_path, held):
    (tmp_path / "mine.jsonl").write_bytes(held)
    with pytest.raises(ValueError, match="mine.jsonl does not hold completions"):
        read_completions(tmp_path / "mine.jsonl", {})


@pytest.mark.parametrize(
    "call",
    [
        *(lambda width=width: gaussian_selection({"a": [0.5]}, width=width) for width in (0, -1.0, math.nan, math.inf)),
        *(
            lambda n=n, rule=rule: rule({"a": [0.1, 0.5]}, n)
            for n in (-1, 1.5, "2", True)
            for rule in (variance_selection, difficulty_window, gaussian_selection, random_selection)
        ),
        lambda: difficulty_window({"a": [0.5]}, low=0.7, high=0.3),
        lambda: difficulty_window({"a": [0.5]}, high=math.nan),
        lambda: plot_selection([]),
    ],
)
def test_settings_that_select_nothing_sensible_are_refused(call):
    with pytest.raises(ValueError, match="cannot keep|width must|window must|no fates"):
        call()
