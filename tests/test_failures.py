"""Why it fails: groups, confidence and frame rates against brute force, and the page of the worst clips read as a
browser reads it.
"""

import base64
import hashlib
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from statistics import mean, multimode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actrep_nb.baselines import ConstantCounter, PeriodCounter
from actrep_nb.cli import main
from actrep_nb.evaluate import LocalCounter
from actrep_nb.failures import (
    OUTCOMES,
    STRATA,
    Case,
    _worst_of_each,
    at_rate,
    calibration_error,
    cases_of,
    error_page,
    fps_curve,
    outcomes,
    plot_calibration,
    plot_fps_curve,
    plot_strata,
    reliability,
    risk_at,
    risk_coverage,
    seen_rate,
    story,
    strata,
    strip_jpeg,
    too_fast,
    weaknesses,
)
from actrep_nb.models import frames_for
from actrep_nb.metrics import modal_answer
from actrep_nb.records import Clip, Prediction
from actrep_nb.rollout import SamplingParams
from actrep_nb.spec import VideoSpec
from actrep_nb.synth import draw_clip
from actrep_nb.video import fastest_period, nyquist_fps, write_video
from actrep_nb.film import VideoError

TINY = Path(__file__).parents[1] / "data" / "tiny_base"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def even(name, count, period, said, rate=None, **more):
    "A case of `count` repetitions, one straight after the other."
    cycles = tuple((k * period, (k + 1) * period) for k in range(count))
    return Case(
        Clip(f"{name}.mp4", more.pop("action", "squat"), count, cycles, id=name), Prediction(name, said, **more), rate
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "Two drawn clips: four squats and nine push-ups."
    folder, clips = tmp_path_factory.mktemp("films"), []
    for action, count in (("squat", 4), ("push_up", 9)):
        drawn = draw_clip(action, count, seed=1)
        write_video(folder / f"{action}.mp4", drawn.pixels, drawn.fps)
        clips.append(Clip(str(folder / f"{action}.mp4"), action, count, drawn.cycles))
    return clips


# ---- groups --------------------------------------------------------------------------------------------------------

some_cases = st.lists(
    st.tuples(
        st.integers(0, 45),
        st.floats(0.1, 4),
        st.one_of(st.none(), st.integers(0, 50)),
        st.one_of(st.none(), st.floats(0.5, 30)),
        st.one_of(st.none(), st.floats(0, 1)),
    ),
    max_size=25,
)


@given(some_cases)
@settings(max_examples=40, deadline=None)
def test_every_case_is_in_one_group_whose_numbers_are_its_own(rows):
    cases = [
        even(str(i), count, period, said, rate, regularity=sure)
        for i, (count, period, said, rate, sure) in enumerate(rows)
    ]
    for by in STRATA:
        found = strata(cases, by)
        assert sorted(i for s in found for i in s.places) == list(range(len(cases)))
        for s in found:
            hits = [rows[i][2] == rows[i][0] for i in s.places]
            assert s.scores["exact"]["value"] == pytest.approx(mean(hits))
            assert ("lo" in s.scores["exact"]) == (len(s.places) >= 5)
    assert len(outcomes(cases)) == len(cases) and story(cases)


def test_a_planted_weakness_is_found_and_no_other_is_made_up():
    cases = [even(f"fast{i}", 8, 0.4, 2, 4.0) for i in range(6)] + [even(f"slow{i}", 8, 3.0, 8, 4.0) for i in range(12)]
    found = {(w.stratum.by, w.stratum.name) for w in weaknesses(cases)}
    assert found == {
        ("period", "0–0.5 s"),
        ("frames per cycle", "0–2"),
        ("duration", "0–10 s"),
    }  # not "count", nor "class": they are the same for all
    assert weaknesses(cases[6:]) == [] and weaknesses(cases[:4]) == []
    assert any(
        "of 6 clips it sees fewer than two frames of a repetition: 0% exact there, 100% elsewhere" in line
        for line in story(cases)
    )


def test_confidence_is_agreement_where_several_answers_were_sampled():
    assert [
        Case(Clip("a", "", 1), Prediction("a", 1, regularity=r, agreement=a)).confidence
        for r, a in ((0.3, None), (0.3, 0.8), (None, 0.0), (None, None))
    ] == [0.3, 0.8, 0.0, None]


@given(st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=30))
def test_the_favourite_answer_is_the_mode(counts):
    said = [c for c in counts if c is not None]
    answer, share = modal_answer(counts)
    assert answer == (min(multimode(said)) if said else None)
    assert share == said.count(answer) / len(said) if said else share != share


# ---- confidence ----------------------------------------------------------------------------------------------------

answered = st.lists(st.tuples(st.integers(0, 10).map(lambda k: k / 10), st.booleans()), min_size=1, max_size=40)


@given(answered)
def test_risk_and_coverage_are_those_of_every_threshold(pairs):
    sure, right = zip(*pairs)
    covered, risk = risk_coverage(sure, right)
    brute = []
    for least in sorted(set(sure), reverse=True):
        kept = [hit for s, hit in pairs if s >= least]
        brute.append((len(kept) / len(pairs), 1 - mean(kept)))
    assert list(zip(covered, risk)) == [pytest.approx(b) for b in brute]
    at, value = risk_at(sure, right, 0.5)
    assert (at, value) == pytest.approx(next(b for b in brute if b[0] >= 0.5 - 1e-9))


@given(answered, st.permutations(range(40)))
def test_bins_hold_each_answer_once_and_do_not_depend_on_the_order(pairs, order):
    shuffled = [pairs[i] for i in order if i < len(pairs)]
    rows, again = reliability(*zip(*pairs)), reliability(*zip(*shuffled))
    assert sum(r["n"] for r in rows) == len(pairs) and len(rows) <= 5
    assert [(r["n"], r["accuracy"]) for r in rows] == [(r["n"], pytest.approx(r["accuracy"])) for r in again]
    assert calibration_error(*zip(*pairs)) == pytest.approx(
        sum(r["n"] / len(pairs) * abs(r["accuracy"] - r["confidence"]) for r in rows)
    )


# ---- frame rates ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_at_another_rate_is_shown_other_frames_and_stays_as_it_was(films):
    counter = LocalCounter.from_pretrained(
        TINY, device="cpu", video="fps=4 max_frames=64 frame_size=56x56", params=SamplingParams(8)
    )
    slow, fast = at_rate(counter, 1), at_rate(counter, 6, "max_frames=128")
    assert (counter.video.fps, slow.video.fps, fast.video.fps, fast.video.max_frames) == (4, 1, 6, 128)
    for other in (counter, slow, fast):
        frames = frames_for(other.processor, films[0])
        assert seen_rate(other, films[0]) == pytest.approx(frames.fps) == other.video.fps
    assert slow.model is counter.model and len(frames_for(slow.processor, films[0])) < len(
        frames_for(fast.processor, films[0])
    )
    (point,) = fps_curve(slow, films, [2], progress=False)
    assert [c.prediction.id for c in point.cases] == ["squat", "push_up"] and {
        (c.rate, c.slot) for c in point.cases
    } == {(2.0, 2)}
    assert (
        [too_fast(c) for c in point.cases]
        == [nyquist_fps(fastest_period(c.cycles), 2) > 2.0 for c in films]
        == [False, True]
    )
    assert point.too_fast == 0.5


def test_what_cannot_look_at_another_rate_is_refused():
    with pytest.raises(ValueError, match="looks at no frames"):
        at_rate(ConstantCounter(), 2)
    counter = type("Watcher", (), {"video": VideoSpec(fps=4, frame_size=(28, 28), pictures="likeness")})()
    with pytest.raises(ValueError, match="likeness"):
        at_rate(counter, 2)


def test_counters_without_a_processor_take_a_spec(films):
    asked = type("Asked", (), {"video": VideoSpec(max_frames=64)})()
    other = at_rate(asked, 2, "max_frames=8")
    assert (other.video.fps, other.video.max_frames, asked.video.fps) == (2, 8, "motion")
    assert seen_rate(other, films[0]) < 2  # eight frames do not reach
    assert seen_rate(other, Clip("gone.mp4", "", 1)) is None and seen_rate(ConstantCounter(), films[0]) is None


def test_pictures_are_drawn_of_anything(films):
    odd = [even("a", 0, 1, None), even("b", 3, 1.0, 3, 2.0, regularity=0.4)]
    for cases in ({"a": []}, {"a": odd}, {"a": odd, "b": [Case(c.clip, Prediction(c.clip.id, None)) for c in odd]}):
        assert plot_strata(cases).axes and plot_calibration(cases).axes
    curve = fps_curve(PeriodCounter(), [*films, Clip("gone.mp4", "squat", 2)], [2, 8], progress=False)
    assert plot_fps_curve({"period": curve}).axes
    assert curve[1].cases[2].prediction.count is None and curve[1].models["parse_rate"]["value"] == pytest.approx(2 / 3)


# ---- the page ------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    "Elements with their attributes, the text of scripts, and that of everything else."

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.words, self.inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside = tag

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif not self.inside:
            self.words += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


NASTY = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"


def test_nothing_that_clips_or_models_say_becomes_part_of_the_page(tmp_path, films):
    clips = [
        Clip(films[0].video, NASTY, 3, id=NASTY),
        Clip(f"{tmp_path}/{NASTY}.mp4", "", 2, ((0.0, 1.0), (1.0, float("inf"))), id="gone\ud800"),
    ]
    said = [Prediction(c.id, None, ((0.5, 9e9),), (NASTY,), NASTY + "\nline two", 3, agreement=0.5) for c in clips]
    text = error_page({NASTY: said}, clips, tmp_path / "page.html", NASTY, progress=False).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.scripts) == 2 and not [a for _, attrs in page.elements for a in attrs if a.startswith("on")]
    assert (
        all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in page.all("img"))
        and len(page.all("img")) == 1
    )
    assert [a["data-name"] for a in page.all("article")][0] in (NASTY, "gone?") and {
        a["data-counter"] for a in page.all("tr") if "data-counter" in a
    } == {NASTY}
    assert (
        page.words.count(NASTY) >= 6
        and "there is no such file" in page.words
        and "http" not in re.sub(r"base64,[^\"]*", "", text).replace("http-equiv", "")
    )
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    for script in page.scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_frames_of_a_strip_are_from_the_middle_of_their_stretch(tmp_path):
    grey = np.repeat(np.arange(0, 240, 6), 1)  # frame k is grey 6 k
    write_video(
        tmp_path / "grey.mp4",
        np.broadcast_to(grey[:, None, None, None], (40, 96, 64, 3)).astype(np.uint8).copy(),
        fps=10.0,
    )
    for window, begin, length in ((None, 0.0, 4.0), ((1.0, 3.0), 1.0, 2.0)):
        jpeg, seconds = strip_jpeg(Clip(str(tmp_path / "grey.mp4"), "", 1, window=window), frames=5)
        tiles = np.array_split(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"), float), 5, axis=1)
        wanted = [6 * int((begin + length * (i + 0.5) / 5) * 10 + 1e-6) for i in range(5)]
        assert seconds == pytest.approx(length) and [t[:, 8:-8].mean() for t in tiles] == pytest.approx(wanted, abs=4)
    with pytest.raises(VideoError):
        strip_jpeg(Clip(str(tmp_path / "grey.mp4"), "", 1, window=(5.0, 6.0)))


@given(st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_each_counter_names_its_worst_clips(errors, most):
    chosen = _worst_of_each(errors, most)
    assert len(chosen) == len(set(chosen)) == min(most, 6)
    for own in errors:
        if most >= len(errors):
            assert max(own[i] for i in chosen) == max(own)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: what the page's script does cannot be seen")
def test_filters_of_the_page_in_a_browser(tmp_path, films):
    clips = [*films, Clip("gone.mp4", "squat", 2, id="gone")]
    said = {
        "a": [Prediction("squat", 4), Prediction("push_up", 10), Prediction("gone", None)],
        "b": [Prediction("squat", 9, text="I saw <nine>"), Prediction("push_up", 9), Prediction("gone", 2)],
    }
    page = error_page(said, clips, tmp_path / "page.html", progress=False)

    def shown(state):
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            f"{page.as_uri()}#{state}",
        ]
        dom = Page(
            subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120, check=True
            ).stdout.decode()
        )
        return [a["data-name"] for a in dom.all("article") if "hidden" not in a]

    assert shown("sort=count") == ["push_up", "squat", "gone"]
    assert shown("counter=a&outcome=exact") == ["squat"] and shown("outcome=unreadable") == ["gone"]
    assert (
        shown("action=squat&most=3") == ["gone"]
        and shown("text=%3Cnine%3E") == ["squat"]
        and shown("text=nobody") == []
    )


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_says_writes_and_refuses(tmp_path, films, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "clips.csv"
    table.write_text(
        "file,action,count,cycles_s\n"
        + "".join(f"{c.video},{c.action},{c.count},{';'.join(f'{a}-{b}' for a, b in c.cycles)}\n" for c in films)
    )
    assert (
        main(
            [
                "evaluate",
                "clips.csv",
                "--videos",
                str(Path(films[0].video).parent),
                "--baseline",
                "period",
                "--out",
                "judged",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["why", "judged", "clips.csv", "--fps-curve", "period", "--rates", "1,4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [p["fps"] for p in told["fps_curve"]] == [1, 4] and told["story"]["period"][0].startswith("2 clips: ")
    assert {Path(f).name for f in told["files"].values()} == {
        "why.json",
        "errors.png",
        "calibration.png",
        "errors.html",
        "fps.png",
    } and all(Path(f).stat().st_size > 900 for f in told["files"].values())
    assert sum(s["clips"] for s in json.loads(Path("judged/why.json").read_text())["period"]["strata"]["count"]) == 2
    table.write_text(table.read_text().replace(",squat,4,", ",squat,3,"))
    assert (
        main(["why", "judged", "clips.csv"]) == 0
        and "1 clips had another count when they were judged" in capsys.readouterr().err
    )
    table.write_text("file,action,count,cycles_s\n" + f"{films[0].video},squat,4,\n")
    assert main(["why", "judged", "clips.csv"]) == 2 and "judged on other clips" in capsys.readouterr().err
    assert [main(["why", *rest]) for rest in (["nothing", "clips.csv"], ["judged", "clips.csv", "--rates", "0"])] == [
        2,
        2,
    ]


def test_words_of_an_outcome():
    assert outcomes([even("a", 4, 1.0, said) for said in (4, 5, 3, 6, None)]) == [OUTCOMES[k] for k in (0, 1, 1, 2, 3)]
    assert cases_of([], []) == []
