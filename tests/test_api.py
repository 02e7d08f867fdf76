"""Models behind an API: whatever a server does, every clip is answered or listed with its reason, nothing is paid for
twice, and the key is nowhere."""

import json
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from disks import only_read, small_disk
from faulty import GOOD, proxy, served, upstream
from hypothesis import given
from hypothesis import strategies as st

from actrep_nb.api import (
    Failure,
    Replies,
    Request,
    api_counter,
    asked_to_wait,
    find_teacher,
    frame_messages,
    openai_reply,
    report,
    report_lines,
    scrub,
)
from actrep_nb.cli import main
from actrep_nb.cot import ask_teacher, teacher_prompt
from actrep_nb.formats import load_clips, save_clips
from actrep_nb.records import Clip
from actrep_nb.show import RunWarning
from actrep_nb.synth import draw_clip
from actrep_nb.video import Frames, write_video

pytest.importorskip("openai", reason="needs the extra 'api'")
SECRET = "sk-test-Qx7Zk2Lm9PwR4tYv"
N = 12


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("OPENAI_BASE_URL", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "Windows of one small film: different requests, one file."
    folder = tmp_path_factory.mktemp("films")
    d = draw_clip("squat", 2, seed=0, max_seconds=8)
    write_video(folder / "squat.mp4", d.pixels, d.fps)
    return [Clip(str(folder / "squat.mp4"), "squat", 2, id=f"c{k}", window=(k / 8, 2 + k / 8)) for k in range(N)]


def counter(url, folder, **options):
    settings = {
        "video": "max_frames=4 fps=2",
        "pause": lambda attempt: 0.05,
        "timeout": 10.0,
        "price": "1/2",
        "max_tokens": 200,
    }
    return api_counter("openai:m", base_url=f"{url}/v1", folder=folder, **(settings | options))


def holds_key(*texts):
    return [text[:80] for text in texts if SECRET in text or re.search(r"Qx7Zk2|Lm9PwR|4tYv", text)]


def written(folder):
    return [path.read_bytes().decode(errors="replace") for path in Path(folder).rglob("*") if path.is_file()]


def test_every_fault_ends_in_an_answer_or_a_reason(clips, tmp_path):
    faults = {
        2: "429 after 0.3",
        3: "500",
        4: "429",
        5: "hang",
        6: "cut",
        7: "malformed",
        8: "empty",
        9: "filter",
        10: "length",
        11: "400",
        12: "echo",
        13: "refusal",
    }
    up = upstream()
    with served(up) as behind:
        front = proxy(behind, faults)
        with served(front) as url:
            first = counter(url, tmp_path, timeout=2.0)
            said = first.predict(clips, progress=False)
            assert [p.id for p in said] == [c.id for c in clips]
            reasons = Counter(p.problems[0].split(":")[0] for p in said if p.count is None)
            assert reasons == {"content-filter": 2, "cut-off": 1, "refused": 1}, [p.problems for p in said]
            assert sum(p.count == 2 for p in said) == N - 4
            assert [p.problems[0] for p in said if "cut-off" in p.problems[0:1].__str__()][0].startswith(
                "cut-off: the reply ended at its token budget"
            )
            assert any("I cannot help with that" in str(p.problems) for p in said)
            sent = len(front.seen)
            assert sent == N + 7, "each passing fault costs one request more"
            found = report(first.asker)
            assert (found["asked"], found["failed"], found["failures"]) == (N - 1, 1, {"refused": 1})
            assert any(
                "1 failed (1 refused): the same command asks them again" in line for line in report_lines(first.asker)
            )
            again = counter(url, tmp_path).predict(clips, progress=False)
            assert len(front.seen) == sent + 1, "only the request that failed is sent again"
            assert sum(p.count == 2 for p in again) == N - 3
    assert not holds_key(*written(tmp_path), *(str(p) for p in [*said, *again]), *report_lines(first.asker))


def test_failures_that_last_are_named(clips, tmp_path):
    names = {
        "hang": "timeout: no reply within 0.2 s",
        "cut": "connection: ",
        "malformed": "malformed-reply: the reply is not JSON",
        "empty": "empty-reply: ",
        "500": "server: 500, internal, while serving [key]",
        "429": "rate-limit: 429, Rate limit reached",
    }
    for fault, begins in names.items():
        with served(upstream()) as behind, served(proxy(behind, {n: fault for n in range(1, 9)})) as url:
            (said,) = counter(url, tmp_path / fault, retries=1, timeout=0.2).predict(clips[:1], progress=False)
            assert said.count is None and said.problems[0].startswith(begins), said.problems
            assert not list((tmp_path / fault).glob("*.json")) and not list((tmp_path / fault).glob("*.sent"))


def test_answers_that_cannot_be_kept_are_used_and_told(clips, tmp_path):
    """A disk that is full in the middle, and one that is only read: all answers are there, and the reader is told what
    the next run will pay for."""
    with served(upstream("<answer>2</answer>" + "." * 20_000)) as url:
        with small_disk(tmp_path / "full", "96k", least=10_000) as disk:
            with pytest.warns(
                RunWarning, match="answers cannot be kept there.*the next will ask, and pay, again: make room"
            ) as told:
                full = counter(url, disk, concurrency=2)
                said = full.predict(clips, progress=False)
            kept, lost = len(list(disk.glob("*.json"))), report(full.asker)["unkept"]
            assert (
                [p.count for p in said] == [2] * N
                and kept + lost == N
                and lost > 0
                and len([w for w in told if "cannot be kept" in str(w.message)]) == 1
            )
            assert any(
                f"{lost} answers could not be kept in {disk}" in line for line in report_lines(full.asker)
            ) and not list(disk.glob("*.part"))
        counter(url, tmp_path / "locked").predict(clips[:2], progress=False)
        with only_read(tmp_path / "locked") as arranged:
            if not arranged:
                return
            with pytest.warns(RunWarning, match="cannot be kept there"):
                locked = counter(url, tmp_path / "locked")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # it was said
                assert [p.count for p in locked.predict(clips[:3], progress=False)] == [2] * 3
            assert (found := report(locked.asker))["cached"] == 2 and found["asked"] == found["unkept"] == 1


def test_a_rate_limit_holds_back_all(clips, tmp_path):
    with served(upstream()) as behind:
        front = proxy(behind, {3: "429 after 0.8"})
        with served(front) as url:
            said = counter(url, tmp_path, concurrency=3).predict(clips, progress=False)
    times = [t for _, t in front.seen]
    assert all(p.count == 2 for p in said)
    began = times[2]
    assert sum(began + 0.2 < t < began + 0.75 for t in times) == 0 and times[-1] > began + 0.75, [
        round(t - began, 2) for t in times
    ]


def test_a_quota_and_a_wrong_key_end_the_run(clips, tmp_path, capsys):
    for fault, at, kind in (("quota", 4, "quota"), ("401", 1, "key")):
        with served(upstream()) as behind:
            front = proxy(behind, {n: fault for n in range(at, 99)})
            with served(front) as url:
                run = counter(url, tmp_path / fault, concurrency=1, say=print)
                said = run.predict(clips, progress=False)
                assert len(front.seen) == at
        assert [p.count for p in said] == [2] * (at - 1) + [None] * (N - at + 1)
        assert said[at - 1].problems[0].startswith(f"{kind}: ") and all(
            p.problems[0].startswith(f"not-asked: {kind}: ") for p in said[at:]
        )
        assert report(run.asker)["not-asked"] == N - at
        assert not holds_key(str(said), capsys.readouterr().out, *written(tmp_path))
    with served(upstream()) as url:
        later = counter(url, tmp_path / "quota").predict(clips, progress=False)
        assert all(p.count == 2 for p in later), "another address is another request, so all are asked"


def test_settings_are_learned_once(clips, tmp_path):
    up, told = upstream(refuses=("max_tokens", "temperature")), []
    with served(up) as behind:
        front = proxy(behind, {})
        with served(front) as url:
            run = counter(url, tmp_path, concurrency=4, say=told.append)
            said = run.predict(clips, progress=False)
    assert all(p.count == 2 for p in said) and len(front.seen) == N + 2
    assert all(body["max_completion_tokens"] == 200 and "temperature" not in body for body in up.bodies)
    assert "m refuses max_tokens: sent as max_completion_tokens" in told and any(
        line.startswith("m refuses temperature: left out") for line in told
    )


def test_estimate_and_total(clips, tmp_path):
    up = upstream()
    with served(up) as url:
        plan = counter(url, tmp_path).dry_run(clips)
        assert not up.asked and (plan.requests, plan.cached) == (N, 0) and plan.bytes > N * 2000
        assert plan.measured == 0 and "first replies will correct it" in plan.lines()[1]
        counter(url, tmp_path).predict(clips[:3], progress=False)
        sent = len(up.asked)
        measured = counter(url, tmp_path)
        plan = measured.dry_run(clips)
        assert len(up.asked) == sent and (plan.requests, plan.cached, plan.measured) == (N - 3, 3, 3)
        measured.predict(clips, progress=False)
        total = report(measured.asker)
    assert abs(plan.tokens_in / total["tokens_in"] - 1) < 0.2 and abs(plan.cost / total["cost"] - 1) < 0.2, (
        plan,
        total,
    )
    assert total["tokens_in"] == sum(
        sum(170 if part["type"] == "image_url" else len(part["text"]) // 4 for part in body["messages"][0]["content"])
        for body in up.bodies[3:]
    )
    assert plan.cost < plan.most


def test_max_cost_is_not_exceeded(clips, tmp_path):
    up = upstream()
    with served(up) as url:
        poor = counter(url, tmp_path, max_cost=0.0045, concurrency=3)
        said = poor.predict(clips, progress=False)
        total = report(poor.asker)
        assert 0 < total["cost"] <= 0.0045 and 1 < total["asked"] < N == total["asked"] + total["not-asked"]
        assert all("max-cost: $" in p.problems[0] for p in said if p.count is None)
        rich = counter(url, tmp_path).predict(clips, progress=False)
    assert all(p.count == 2 for p in rich) and len(up.asked) == N == len(set(up.asked))


RUN = """
import sys
from actrep_nb.api import api_counter
from actrep_nb.formats import load_clips
run = api_counter("openai:m", base_url=sys.argv[1], folder=sys.argv[2], video="max_frames=4 fps=2",
                  concurrency=3, say=print)
print([p.count for p in run.predict(load_clips(sys.argv[3]), progress=True)])
"""


def test_killed_and_begun_again(clips, tmp_path):
    "kill -9 midway; then two processes at once do the rest."
    save_clips(clips, tmp_path / "clips.jsonl")
    up = upstream(delay=0.4)
    with served(up) as url:
        command = [sys.executable, "-c", RUN, f"{url}/v1", str(tmp_path / "replies"), str(tmp_path / "clips.jsonl")]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        folder = tmp_path / "replies"

        def answered():
            return len(list(folder.glob("*.json")))

        def under_way():
            return sum(not mark.with_suffix(".json").exists() for mark in folder.glob("*.sent"))

        while first.poll() is None:
            first.send_signal(signal.SIGSTOP)  # looked at while it stands still
            if answered() >= 4 and under_way():
                break
            first.send_signal(signal.SIGCONT)
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        printed = first.communicate()[0]
        done, left = answered(), under_way()
        assert 4 <= done < N and 0 < left <= 3, printed
        both = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
        ]
        outputs = [p.communicate(timeout=300)[0] for p in both]
    assert all(output.strip().endswith(str([2] * N)) for output in outputs), "\n=====\n".join(outputs)
    twice = [n for n in Counter(up.asked).values() if n > 1]
    assert len(set(up.asked)) == N and set(twice) <= {2} and len(twice) <= left, (
        "only what was under way at the kill is sent again"
    )
    told = [
        int(m[1])
        for output in outputs
        for m in re.finditer(r"(\d+) were under way when an earlier run was killed", output)
    ]
    assert sum(told) == left and not list((tmp_path / "replies").glob("*.sent"))
    assert not holds_key(printed, *outputs, *written(tmp_path))


def test_killed_between_the_reply_and_the_end_of_its_mark(clips, tmp_path):
    up = upstream()
    with served(up) as url:
        counter(url, tmp_path).predict(clips[:1], progress=False)
        (reply,) = tmp_path.glob("*.json")
        reply.with_suffix(".sent").touch()
        again = counter(url, tmp_path)
        again.predict(clips[:1], progress=False)
    assert report(again.asker)["interrupted"] == 0 and len(up.asked) == 1 and not list(tmp_path.glob("*.sent"))


def test_one_key_is_asked_once_by_many_threads(clips, tmp_path):
    up = upstream(delay=0.1)
    with served(up) as url:
        said = counter(url, tmp_path, concurrency=6).predict([clips[0]] * 6, progress=False)
    assert [p.count for p in said] == [2] * 6 and len(up.asked) == 1


def test_a_request_is_what_is_sent():
    base = Request("openai", "http://a/v1", {"model": "m", "max_tokens": 9, "messages": []})
    others = [
        Request("openai", "http://b/v1", base.body),
        Request("gemini", base.url, base.body),
        Request("openai", base.url, base.body, sample=1),
        *(
            Request("openai", base.url, base.body | change)
            for change in ({"model": "n"}, {"max_tokens": 10}, {"temperature": 0})
        ),
    ]
    assert len({r.key for r in [base, *others]}) == 7 and SECRET not in base.text


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "x"}]},
        {"choices": [{"message": {"content": None}}]},
    ],
)
def test_any_reply_is_read_or_named(data):
    with pytest.raises(Failure, match="malformed-reply|empty-reply"):
        openai_reply(data)


def test_a_damaged_reply_is_named(tmp_path):
    replies = Replies(tmp_path)
    replies.path("ab" * 20).write_text('{"reply": ')
    with pytest.raises(ValueError, match="is damaged: delete it"):
        replies.get("ab" * 20)


@given(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789-_", min_size=16, max_size=60),
    st.text(max_size=40),
    st.text(max_size=40),
    st.integers(0, 8),
    st.integers(0, 8),
)
def test_no_part_of_a_key_is_left(key, before, after, cut, end):
    part = key[cut : len(key) - end]
    left = scrub(f"{before} {part} {after}", key)
    for k in range(len(part) - 7 if len(part) >= 8 else 0):
        assert part[k : k + 8] not in left


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]),
        st.text(max_size=12),
    )
)
def test_any_header_can_be_read(headers):
    wait = asked_to_wait(headers)
    assert wait is None or wait >= 0


def test_frames_carry_their_times():
    frames = Frames(np.zeros((2, 8, 8, 3), np.uint8), np.array([0.0, 1.25]), 0.8)
    content = frame_messages(frames, "How many?")[0]["content"]
    assert [c["text"] for c in content if c["type"] == "text"] == [
        "Frames of one video, each after its time in seconds.",
        "0.00 s",
        "1.25 s",
        "How many?",
    ]
    assert all(
        c["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/") for c in content if c["type"] == "image_url"
    )


# ---- Gemini -----------------------------------------------------------------------------------------------------


class _Gemini:
    "Answers as Google's REST server does."

    def __new__(cls, replies):
        from faulty import _Handler

        class Handler(_Handler):
            bodies: list = []

            def do_POST(self):
                self.bodies.append(json.loads(self.body()))
                status, data = replies[min(len(self.bodies), len(replies)) - 1]
                self.answer(status, json.dumps(data).encode())

        Handler.bodies = []
        return Handler


def _gemini_says(text, ended="STOP"):
    return 200, {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": text}]} if text else {}, "finishReason": ended}
        ],
        "usageMetadata": {"promptTokenCount": 1300, "candidatesTokenCount": 20, "thoughtsTokenCount": 30},
    }


def test_gemini(clips, tmp_path, monkeypatch):
    pytest.importorskip("google.genai", reason="needs the extra 'api'")
    monkeypatch.setenv("GEMINI_API_KEY", "AIzaSyTest0123456789abcdef")
    wait = {
        "error": {
            "code": 429,
            "message": "Resource exhausted",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.2s"}],
        }
    }
    day = {
        "error": {
            "code": 429,
            "message": "Quota exceeded",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}],
                }
            ],
        }
    }
    handler = _Gemini(
        [
            _gemini_says(GOOD),
            (429, wait),
            _gemini_says("", "SAFETY"),
            _gemini_says("Down, up", "MAX_TOKENS"),
            (200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
            (503, {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}),
            _gemini_says(GOOD),
            (429, day),
        ]
    )
    with served(handler) as url:
        run = api_counter(
            "gemini:gemini-x",
            base_url=url,
            folder=tmp_path,
            video="max_frames=4 fps=2",
            concurrency=1,
            pause=lambda attempt: 0.05,
            prompt="count system=Count.",
        )
        said = run.predict(clips[:7], progress=False)
    assert [p.count for p in said] == [2, None, None, None, 2, None, None], [p.problems for p in said]
    assert [(p.problems[:1] or ("",))[0].split(":")[0] for p in said] == [
        "",
        "content-filter",
        "cut-off",
        "content-filter",
        "",
        "quota",
        "not-asked",
    ]
    assert report(run.asker)["tokens_out"] == 50 * 4
    body = handler.bodies[0]
    assert (
        body["systemInstruction"]["parts"][0]["text"] == "Count."
        and body["generationConfig"]["maxOutputTokens"] == 1024
    )
    pictures = [part["inlineData"] for part in body["contents"][0]["parts"] if "inlineData" in part]
    assert len(pictures) == 4 and all((p.get("mimeType") or p.get("mime_type")) == "image/jpeg" for p in pictures), (
        pictures[0].keys()
    )
    assert not [text for text in written(tmp_path) if "AIzaSy" in text]


def test_gemini_takes_films_cut_to_their_window(clips, tmp_path, monkeypatch):
    import base64

    from actrep_nb.video import probe

    pytest.importorskip("google.genai", reason="needs the extra 'api'")
    monkeypatch.setenv("GOOGLE_API_KEY", "AIzaSyTest0123456789abcdef")
    handler = _Gemini([_gemini_says(GOOD)])
    whole = Clip(clips[0].video, "squat", 2, id="whole")
    with served(handler) as url:
        said = api_counter(
            "gemini:gemini-x", base_url=url, folder=tmp_path, video="fps=8", native=True, concurrency=1
        ).predict([whole, clips[0]], progress=False)
    assert [p.count for p in said] == [2, 2]
    parts = [body["contents"][0]["parts"][0] for body in handler.bodies]
    films = [base64.urlsafe_b64decode(part["inlineData"]["data"]) for part in parts]
    assert films[0] == Path(whole.video).read_bytes() and all(part["videoMetadata"]["fps"] == 8 for part in parts)
    (tmp_path / "part.mp4").write_bytes(films[1])
    assert probe(tmp_path / "part.mp4").duration == pytest.approx(2.0, abs=0.2) and probe(whole.video).duration > 3
    with pytest.raises(ValueError, match="only gemini: takes films"):
        counter("http://127.0.0.1:1", tmp_path, native=True)


# ---- teachers ---------------------------------------------------------------------------------------------------


def test_a_teacher_is_asked_again_with_what_was_wrong(clips, tmp_path):
    bad = GOOD.replace("<answer>2", "<answer>3")

    def text(body):
        return GOOD if len(body["messages"]) > 1 and "that is not so" in json.dumps(body["messages"][-1]) else bad

    up = upstream(text)
    with served(up) as url:
        clip = Clip(clips[0].video, "squat", 2, id="c", window=clips[0].window, cycles=((0.0, 2.0), (2.0, 4.0)))
        for _ in range(2):  # the second time nothing is sent
            teach = find_teacher(
                "openai:m", tmp_path, base_url=f"{url}/v1", video="max_frames=4 fps=2", pause=lambda attempt: 0.05
            )
            tried = ask_teacher(clip, partial(teach, clip), tries=3, duration=4.0)
            assert [bool(attempt.problems) for attempt in tried] == [True, False], tried
    assert len(up.asked) == 2 and report(teach.asker)["cached"] == 2
    roles = [message["role"] for message in up.bodies[1]["messages"]]
    assert roles == ["user", "assistant", "user"] and up.bodies[1]["messages"][1]["content"] == bad
    assert "annotated" not in json.dumps(up.bodies[1]), "the truth is not told"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A file of three clips: two squats each, the cycles as `GOOD` lists them; and one whose film ends before its last
    cycle."""
    folder = tmp_path_factory.mktemp("drawn")
    d = draw_clip("squat", 2, seed=0, max_seconds=8)
    for k, name in enumerate(("a", "b", "late")):
        write_video(folder / f"{name}.mp4", d.pixels[k:], d.fps)
    (folder / "clips.csv").write_text(
        "file,action,count,cycles_s\n"
        + "".join(f"{name}.mp4,squat,2,0.0-2.0;2.0-4.0\n" for name in "ab")
        + "late.mp4,squat,2,0.0-2.0;59.0-61.4\n"
    )
    return folder / "clips.csv"


def test_cot_from_the_cycles_knows_where_a_film_ends(drawn, tmp_path, capsys):
    assert main(["cot", str(drawn), "--out", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (
        said["cots"] == 2
        and list(said["rejected"]) == ["late"]
        and said["rejected"]["late"][0].startswith("outside: rep2 ends at 61.4s, the clip at ")
    )
    assert main(["cot", str(drawn), "--out", str(tmp_path), "--max-cost", "1"]) == 2


def test_cot_from_a_teacher_behind_an_api(drawn, tmp_path, capsys):
    def text(body):
        return GOOD if len(body["messages"]) > 1 or len(up.asked) % 2 else GOOD.replace("<answer>2", "<answer>3")

    up = upstream(text)
    with served(up) as url:
        command = [
            "cot",
            str(drawn),
            "--out",
            str(tmp_path),
            "--teacher",
            "openai:m",
            "--base-url",
            f"{url}/v1",
            "--video",
            "max_frames=4 fps=2",
            "--price",
            "1/2",
            "--concurrency",
            "1",
            "--tries",
            "2",
            "--json",
        ]
        assert main([*command, "--dry-run"]) == 0 and not up.asked and not (tmp_path / "cot.jsonl").exists()
        plan = json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]
        assert (plan["requests"], plan["clips"]) == (3, 3) and plan["cost"] > 0
        assert main(command) == 0
        said, sent = json.loads(capsys.readouterr().out.splitlines()[-1]), len(up.asked)
        assert main(command) == 0 and len(up.asked) == sent, "nothing is asked twice"
        out, err = capsys.readouterr()
    assert said["cots"] == 2 and list(said["rejected"]) == ["late"]
    kept = [json.loads(line) for line in (tmp_path / "cot.jsonl").read_text().splitlines()]
    assert [row["video_id"] for row in kept] == ["a", "b"] and all(row["cot"] == GOOD for row in kept)
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert len(rejected) == sent - 2 and all(row["problems"] and row["text"] for row in rejected)
    count = next(row for row in said["mistakes"] if row["mistake"] == "count")
    assert count["texts"] >= 1 and count["mended"] == sum(row["video_id"] in "ab" for row in rejected) == 1
    assert not holds_key(out, err, *written(tmp_path))
    from actrep_nb.cot import load_cots

    assert len(load_cots(tmp_path).kept) == 2


def test_a_plan_needs_no_key(drawn, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    command = [
        "cot",
        str(drawn),
        "--out",
        str(tmp_path),
        "--teacher",
        "openai:gpt-5-mini",
        "--video",
        "max_frames=4 fps=2",
    ]
    assert main([*command, "--dry-run"]) == 0 and "list price of August 2025" in capsys.readouterr().out
    assert main(command) == 2 and "no key: set OPENAI_API_KEY in the environment" in capsys.readouterr().err


def test_cot_from_a_checkpoint(drawn, tmp_path, capsys):
    "The tiny model that was never taught to answer: every text is kept with its problems, and not written twice."
    from actrep_nb.tiny_base import make_tiny_checkpoint

    make_tiny_checkpoint(tmp_path / "tiny")
    command = [
        "cot",
        str(drawn),
        "--out",
        str(tmp_path / "out"),
        "--teacher",
        str(tmp_path / "tiny"),
        "--tries",
        "2",
        "--limit",
        "2",
        "--max-new-tokens",
        "6",
        "--json",
    ]
    assert main(command) == 1, "no clip has a text"
    rejected = (tmp_path / "out/rejected.jsonl").read_text()
    assert len(rejected.splitlines()) == 4 and all(json.loads(line)["problems"] for line in rejected.splitlines())
    answers = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/replies").glob("*.json")}
    assert len(answers) == 4
    main(command)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/replies").glob("*.json")} == answers and (
        tmp_path / "out/rejected.jsonl"
    ).read_text() == rejected
    assert "mistakes" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_what_may_have_been_billed_is_in_the_total(clips, tmp_path):
    "What the server counted at its price, and the rest named: together they are the total."
    faults = {2: "cut", 3: "malformed", 4: "empty", 6: "html", 7: "blank", 8: "hang"}
    up = upstream()
    with served(up) as behind, served(proxy(behind, faults)) as url:
        run = counter(url, tmp_path, concurrency=1, timeout=0.5)
        assert all(p.count == 2 for p in run.predict(clips[:4], progress=False))
    found, lines = report(run.asker), report_lines(run.asker)
    assert found["tries"] == 4 + len(faults) and found["unanswered"] == 5, "the empty reply came with its tokens"
    assert found["tokens_out"] == 4 * (len(GOOD) // 4) + len(GOOD) // 4
    assert found["cost"] == pytest.approx(
        (found["tokens_in"] * 1 + found["tokens_out"] * 2) / 1e6 + found["unanswered_cost"], abs=2e-6
    )
    tokens_in = found["tokens_in"] / 5
    assert found["unanswered_cost"] == pytest.approx((5 * tokens_in + 3 * 2 * (len(GOOD) // 4)) / 1e6, rel=0.05), (
        "three replies came, and were written by someone"
    )
    assert (
        f", of which ${run.asker.unanswered:.4f} for 5 requests that may have been billed though no usable reply came"
        in lines[1]
    )


def test_what_reached_no_server_costs_nothing(clips, tmp_path):
    with served(upstream()) as url:
        pass  # nobody listens there any more
    run = counter(url, tmp_path, retries=1)
    (said,) = run.predict(clips[:1], progress=False)
    found = report(run.asker)
    assert said.problems[0].startswith("connection: ") and (found["tries"], found["cost"], found["unanswered"]) == (
        2,
        0,
        0,
    )


@pytest.mark.parametrize("url", ["notaurl", "localhost:8000/v1", "http://", "ftp://host/v1", "me:word@host/v1"])
def test_an_address_that_is_none_is_refused_at_once(url, tmp_path):
    for name in ("openai:m", "gemini:m"):
        with pytest.raises(ValueError, match="no http:// or https://") as refused:
            api_counter(name, base_url=url, folder=tmp_path, connect=False)
        assert "word" not in str(refused.value)


def test_answers_that_vote_have_one_estimate_and_one_total(drawn, tmp_path, capsys):
    up = upstream()
    with served(up) as url:
        command = [
            "evaluate",
            str(drawn),
            "--model",
            "openai:m",
            "--base-url",
            f"{url}/v1",
            "--video",
            "max_frames=4 fps=2",
            "--price",
            "1/2",
            "--samples",
            "3",
            "--replies",
            str(tmp_path / "replies"),
        ]
        assert main([*command, "--dry-run", "--json"]) == 0 and not up.asked
        plan = json.loads(capsys.readouterr().out.splitlines()[-1])["plans"]["m"]
        one = api_counter(
            "openai:m", base_url=f"{url}/v1", folder=tmp_path / "one", video="max_frames=4 fps=2", price="1/2"
        ).dry_run(load_clips(drawn, videos=drawn.parent))
        assert (
            (plan["requests"], plan["clips"], plan["samples"]) == (9, 3, 3)
            and plan["cost"] == pytest.approx(3 * one.cost)
            and plan["most"] == pytest.approx(3 * one.most)
        )
        main(command)
        out = "".join(capsys.readouterr())
        assert len(up.asked) == 9 and out.count("estimate: ") == out.count("total: ") == 1, out
        assert "9 requests for 3 clips, 3 answers about each" in out and "9 answered now, 0 before" in out
        assert main([*command, "--dry-run"]) == 0
        assert "0 requests for 3 clips, 3 answers about each, 9 answered before" in capsys.readouterr().out


def test_a_teachers_estimate_knows_that_it_asks_again(drawn, tmp_path, capsys):
    "A teacher that is never right costs no more than the upper figure."
    up = upstream(GOOD.replace("<answer>2", "<answer>3"))
    with served(up) as url:
        command = [
            "cot",
            str(drawn),
            "--out",
            str(tmp_path),
            "--teacher",
            "openai:m",
            "--base-url",
            f"{url}/v1",
            "--video",
            "max_frames=4 fps=2",
            "--price",
            "1/2",
            "--max-new-tokens",
            "60",
        ]
        plans = {}
        for tries in ("1", "3"):
            assert main([*command, "--tries", tries, "--dry-run"]) == 0
            out = capsys.readouterr().out
            assert out.rstrip().endswith("nothing was sent") and (
                "up to 3 times in all: 9 requests at most" in out
            ) == (tries == "3"), out
            main([*command, "--tries", tries, "--dry-run", "--json"])
            plans[tries] = json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]
        assert plans["3"]["most"] > 3 * plans["1"]["most"] and plans["3"]["cost"] == plans["1"]["cost"] and not up.asked
        main([*command, "--tries", "1"])
        said = capsys.readouterr().out
        assert (
            len(up.asked) == 3
            and "cot.jsonl, 0 texts" in said
            and "train.jsonl, all 3 clips, those without a text too" in said
        )
        main(
            [*command, "--dry-run", "--json"]
        )  # three tries: what is there is not asked again, and has told how this server counts
        left = json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]
        assert (left["requests"], left["most_requests"], left["measured"]) == (3, 6, 3)
        main([*command, "--tries", "3"])
        assert len(up.asked) == 9
    found = re.search(r"total: .*\$([\d.]+)", capsys.readouterr().out)
    assert found and left["cost"] < float(found[1]) <= left["most"]


@pytest.mark.parametrize(
    "name", ["period", "pose", "constant", "wrong:x", "blind:openai:m", "blind:somewhere", "nothing", "blind:"]
)
def test_what_is_no_teacher_is_told_what_is(name, drawn, tmp_path, capsys):
    assert main(["cot", str(drawn), "--out", str(tmp_path), "--teacher", name]) == (1 if name == "nothing" else 2)
    said = capsys.readouterr().err
    assert "A teacher is openai:MODEL, gemini:MODEL, or a checkpoint" in said and "picture+pose" not in said, said


def test_a_checkpoint_that_remembers_its_prompt_is_asked_with_it(drawn, tmp_path, capsys):
    "Its first text is what it says as a counter; one that remembers none is asked as any teacher."
    from actrep_nb.evaluate import LocalCounter
    from actrep_nb.models import choose_prompt, load_model
    from actrep_nb.rollout import SamplingParams
    from actrep_nb.tiny_base import make_tiny_checkpoint

    make_tiny_checkpoint(tmp_path / "raw")
    model, processor = load_model(tmp_path / "raw")
    choose_prompt(processor, "count-no-think")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "trained")
    clip = load_clips(drawn, videos=drawn.parent)[0]
    own = (
        LocalCounter.from_pretrained(tmp_path / "trained", params=SamplingParams(8))
        .predict([clip], progress=False)[0]
        .text
    )
    taught = {
        name: find_teacher(str(tmp_path / name), tmp_path / "replies", max_tokens=8) for name in ("raw", "trained")
    }
    texts = {name: teach(clip, [teacher_prompt(clip)]) for name, teach in taught.items()}
    assert texts["trained"] == own != texts["raw"], "the weights are the same"
    main(
        [
            "cot",
            str(drawn),
            "--out",
            str(tmp_path / "out"),
            "--teacher",
            str(tmp_path / "trained"),
            "--tries",
            "1",
            "--limit",
            "1",
            "--max-new-tokens",
            "8",
        ]
    )
    assert "trained is asked with its own prompt, as it was trained (count-no-think)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_experiment_asks_a_teacher_and_knows_where_a_film_ends(drawn, tmp_path):
    from actrep_nb.runs import run

    alone = run("cot", tmp_path / "alone", {"clips": str(drawn), "crops": 0}, quiet=True)
    assert alone.metrics["cots"] == 2 and alone.metrics["without_cot"] == 1
    assert "outside: rep2 ends at 61.5s, the clip at " in (tmp_path / "alone/notebook.ipynb").read_text()
    up = upstream()
    with served(up) as url:
        given = {
            "clips": str(drawn),
            "crops": 0,
            "teacher": "openai:m",
            "tries": 2,
            "base_url": f"{url}/v1",
            "price": "1/2",
        }
        taught = run("cot", tmp_path / "taught", given, quiet=True)
    assert taught.metrics["cots"] == 2 and len(up.asked) == 4
    assert len((tmp_path / "taught/rejected.jsonl").read_text().splitlines()) == 2
    assert "rep-times" in (tmp_path / "taught/notebook.ipynb").read_text() and not holds_key(*written(tmp_path))


# ---- a real server ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_server_behind_a_faulty_proxy(clips, tmp_path):
    """`transformers serve` with the tiny checkpoint: its own token counts, its own replies; the proxy in front spoils
    some."""
    pytest.importorskip("fastapi", reason="needs what transformers serve needs")
    checkpoint = Path(__file__).parents[1] / "data/tiny_base"
    with served(proxy("http://127.0.0.1:9", {})) as url:
        port = int(url.rpartition(":")[2])  # free again
    log = open(tmp_path / "server.log", "w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "transformers.cli.transformers",
            "serve",
            str(checkpoint),
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--device",
            "cpu",
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        import urllib.request

        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
            assert server.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
        front = proxy(f"http://127.0.0.1:{port}", {2: "429 after 0.3", 4: "500", 6: "cut"})
        with served(front) as url:

            def run():
                return api_counter(
                    f"openai:{checkpoint}",
                    base_url=f"{url}/v1",
                    folder=tmp_path / "replies",
                    video="max_frames=4 fps=2 frame_size=56x56",
                    max_tokens=24,
                    price="1/2",
                    pause=lambda attempt: 0.1,
                    timeout=120,
                    concurrency=2,
                )

            first = run()
            first.predict(clips[:3], progress=False)
            later = run()
            plan = later.dry_run(clips)
            said = later.predict(clips, progress=False)
            total = report(later.asker)
            assert all(p.text is not None for p in said), [p.problems for p in said]
            assert (plan.requests, total["asked"], total["cached"], total["failed"]) == (N - 3, N - 3, 3, 0)
            assert abs(plan.cost / total["cost"] - 1) < 0.2 and abs(plan.tokens_in / total["tokens_in"] - 1) < 0.2, (
                plan,
                total,
            )
            sent = len(front.seen)
            assert sent == N + 3
            again = run().predict(clips, progress=False)
            assert len(front.seen) == sent and [p.text for p in again] == [p.text for p in said]
    finally:
        server.terminate()
        server.wait(20)
        log.close()
    assert not holds_key(*written(tmp_path))


def test_a_film_is_decoded_once_however_often_it_is_asked_about(clips, tmp_path, monkeypatch):
    """The estimate, the request and every further answer look at the same frames; what was kept of them goes with the
    counter."""
    import gc

    from actrep_nb import video

    decoded, read = [], video.read_frames
    monkeypatch.setattr(
        video, "read_frames", lambda path, *args, **kw: (decoded.append(path), read(path, *args, **kw))[1]
    )
    with served(upstream()) as url:
        said = counter(url, tmp_path / "replies")
        readable = [c for c in clips[:4] if said.predict([c], progress=False)[0].text is not None]
        decoded.clear()
        other = counter(url, tmp_path / "others")
        place = other.cache.folder
        other.dry_run(readable)
        for sample in range(2):
            other.drawn(sample).predict(readable, progress=False)
    assert readable and sorted(map(str, decoded)) == sorted(c.video for c in readable) and place.exists()
    del other
    gc.collect()
    assert not place.exists()
