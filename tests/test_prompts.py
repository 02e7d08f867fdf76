"How a question is put decides what is learned, what is well-formed and what is read; a checkpoint remembers it."

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actrep_nb.answers import FORMS, PROMPTS, STYLED, STYLES, is_well_formed, parse_answer
from actrep_nb.cli import main
from actrep_nb.cot import cot_from_cycles
from actrep_nb.loading import ClipExamples, make_example
from actrep_nb.models import (
    Sample,
    choose_prompt,
    encode,
    load_model,
    opening_of,
    prompt_of,
    template_opening,
    unopened,
)
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.prompts import PromptSpec, asked, completion, final_part, parse_prompt
from actrep_nb.formats import load_clips
from actrep_nb.records import Clip
from actrep_nb.rollout import SamplingParams, sample_group
from actrep_nb.synth import make_dataset
from actrep_nb.tasks import TASKS
from actrep_nb.video import FrameCache, Frames
from test_hub_like import run_cells

COUNTING = ("count", "count-no-think", "count-answer-think-answer", "actrep-r1", "actrep-r1-8b")
clip = Clip("any.mp4", "squat", 2, cycles=((0.0, 1.5), (1.5, 3.0)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), hidden=32, layers=1)


@pytest.fixture
def thinking(tiny):
    "A model and its processor, whose chat template opens the reasoning as Qwen3-VL-Thinking's does."
    model, processor = load_model(tiny, device="cpu")
    processor.chat_template = processor.chat_template.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
    )
    assert template_opening(processor) == "<think>\n"
    return model, processor


def sample(prompt="How many?"):
    return Sample(clip, Frames(np.zeros((8, 56, 56, 3), np.uint8), np.arange(8) / 4, 4.0), prompt)


# ---- what is asked, learned and read belongs together --------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTING)
def test_what_is_learned_is_well_formed_and_read(name):
    task = asked(TASKS["counting"], PromptSpec(name))
    text = completion(cot_from_cycles(clip), clip.count, PromptSpec(name).style)
    totals, parts = task.reward([text, f"Well. {text}"], [clip] * 2)
    assert (
        parts["format"] == [1, 0]
        and parts["count_hybrid"] == [1.5, 1.5]
        and task.predict(clip, text).count == 2
        and not task.predict(clip, text).problems
    )
    for tag in ("think", "thinking"):
        assert (f"<{tag}>" in task.ask(clip)) == (f"<{tag}>" in text), "the prompt names the tags that are learned"


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("other", COUNTING)
def test_the_format_of_another_style_earns_nothing(name, other):
    text, style = completion(cot_from_cycles(clip), 2, PromptSpec(other).style), PromptSpec(name).style
    assert asked(TASKS["counting"], PromptSpec(name)).reward([text], [clip])[1]["format"] == [
        float(style == PromptSpec(other).style)
    ]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "form, answer", [("count", "7"), ("interval", '{"start_time": "1.0", "end_time": "2.5"}'), ("choice", "B")]
)
def test_every_style_has_its_grammar_for_every_form(style, form, answer):
    text = completion(f"<think>\nSo.\n</think>\n<answer>{answer}</answer>", None, style)
    assert [is_well_formed(text, other, style) for other in FORMS] == [other == form for other in FORMS]
    assert is_well_formed(f"\n {text} \n", form, style) and not any(
        is_well_formed(t, form, style)
        for t in (text + ".", "x" + text, text.replace(answer, "x"), text.replace("So.", " ") if "So." in text else "")
    )


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<thinking>", "</thinking>", "<answer>", "</answer>", "3", "so", " "]),
        max_size=9,
    ).map("".join)
)
def test_what_is_well_formed_can_be_read(text):
    for style in STYLES:
        if is_well_formed(text, style=style):
            assert parse_answer(final_part(text, style)).count is not None


def test_other_tasks_have_both_styles():
    for name in ("grounding", "choice", "dvd_counting"):
        assert (
            STYLED[f"{name}-no-think"] == "no-think"
            and "think" not in PROMPTS[f"{name}-no-think"]
            and PROMPTS[f"{name}-answer-think-answer"].count("<answer>") == 2
        )
    event = Clip("a.mp4", "squat", 1, cycles=((1.0, 2.0),), extra={"task": "grounding", "problem": "squats?"})
    task = asked(TASKS["temporal_grounding"], PromptSpec("grounding-no-think"))
    assert task.reward(['<answer>{"start_time": "1.0", "end_time": "2.0"}</answer>'], [event])[1] == {
        "tiou": [1.0],
        "format_interval": [1.0],
    }


def test_the_name_is_told_only_where_it_should_be():
    assert '"push up"' in asked(TASKS["counting"], parse_prompt("count action")).ask(Clip("a.mp4", "push_up", 1))
    assert "push" not in asked(TASKS["counting"], parse_prompt("count")).ask(Clip("a.mp4", "push_up", 1))


# ---- what a chat template opens ------------------------------------------------------------------------------------


def test_what_is_learned_holds_one_opening(thinking):
    model, processor = thinking
    prompt = encode(model, processor, sample())
    example = make_example(processor, prompt, cot_from_cycles(clip))
    said = processor.tokenizer.decode(np.concatenate([example.prompt.input_ids, example.answer]))
    assert said.count("<think>") == 1 and said.endswith(cot_from_cycles(clip) + "<|im_end|>"), (
        "question and answer together are the text that was meant"
    )
    assert processor.tokenizer.decode(prompt.opened) == "<think>\n"


def test_a_completion_is_judged_with_what_was_opened(thinking):
    model, processor = thinking
    [[rollout]] = sample_group(
        model, processor, [encode(model, processor, sample())], group_size=1, params=SamplingParams(5), seeds=[0]
    )
    assert (
        rollout.text == "<think>\n" + processor.tokenizer.decode(rollout.ids, skip_special_tokens=True)
        and len(rollout.ids) == 5
    )
    rest = unopened(processor, cot_from_cycles(clip))
    assert not rest.startswith("<think>") and is_well_formed("<think>\n" + rest) and not is_well_formed(rest)


@pytest.mark.parametrize("name", ["count-no-think", "count-answer-think-answer", "actrep-r1-8b"])
def test_another_style_takes_the_opening_away(thinking, tiny, name):
    model, processor = thinking
    plain = load_model(tiny, device="cpu")[1]
    for each in (processor, plain):
        choose_prompt(each, name)
    assert (
        encode(model, processor, sample()).input_ids.tolist() == encode(model, plain, sample()).input_ids.tolist()
        and opening_of(processor) == ""
    )
    assert unopened(processor, "<answer>2</answer>") == "<answer>2</answer>"


def test_a_text_that_begins_otherwise_is_refused(thinking):
    with pytest.raises(ValueError, match="begins every answer with '<think>'"):
        make_example(thinking[1], encode(*thinking, sample()), "<answer>2</answer>")


def test_a_system_turn_comes_first(tiny):
    model, processor = load_model(tiny, device="cpu")
    choose_prompt(processor, "count system=You count.")
    assert processor.tokenizer.decode(encode(model, processor, sample()).input_ids).startswith(
        "<|im_start|>system\nYou count.<|im_end|>\n<|im_start|>user\n"
    )


# ---- a checkpoint remembers ----------------------------------------------------------------------------------------


def test_a_checkpoint_remembers_how_it_was_asked(tiny, tmp_path):
    _, processor = load_model(tiny, device="cpu")
    assert choose_prompt(processor, "actrep-r1 action system=You count.") == "", "nobody said how it was asked before"
    model, _ = load_model(tiny, device="cpu")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")[1]
    assert prompt_of(again) == PromptSpec("actrep-r1", True, "You count.")
    assert "was trained with actrep-r1 action" in choose_prompt(again, "count")
    files = [path for path in tmp_path.glob("*.json") if "actrep-r1" in path.read_text()]
    files[0].write_text(files[0].read_text().replace('"actrep-r1"', '"actrep-r9"'))
    with pytest.raises(ValueError, match="prompt_spec .* is not of this version"):
        prompt_of(load_model(tmp_path, device="cpu")[1])


def test_features_are_kept_apart_by_what_was_asked(tiny, tmp_path):
    "The question's tokens are kept with them."
    clips = load_clips(make_dataset(tmp_path, 1, seed=0, workers=1), videos=tmp_path / "videos")
    model, processor = load_model(tiny, device="cpu")
    model.requires_grad_(False)
    ids = set()
    for text in ("own", "count-no-think", "own system=You count.", "count action"):
        choose_prompt(processor, text)
        dataset = ClipExamples(model, processor, clips, cache=FrameCache(tmp_path / "frames"))
        ids.add(tuple(dataset.encoded(model, [dataset[0]])[0].prompt.input_ids.tolist()))
    assert len(ids) == 4


def test_published_data_are_learned_as_they_are_and_the_prompt_stays(tiny, tmp_path):
    """ActRep-R1's file: bare reasoning and the count.

    RL training, choosing clips and judging then ask as it was trained.
    """
    clips = load_clips(make_dataset(tmp_path, 4, seed=0, workers=1, name="train"), videos=tmp_path / "videos")
    rows = [
        {
            "video_id": Path(c.video).name,
            "split": "test" if k == 3 else "train",
            "action": c.action,
            "gt_count": c.count,
            "cot": f"Each rep goes down and up.\nTotal count: {c.count}.",
        }
        for k, c in enumerate(clips)
    ]
    (tmp_path / "cot_train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = run_cells(
        "sft",
        model=str(tiny),
        data=str(tmp_path / "cot_train.jsonl"),
        out=str(tmp_path / "sft"),
        cache="",
        steps=1,
        batch=2,
        prompt="actrep-r1-8b action",
    )
    assert len(said["examples"]) == 3 and all(
        text
        == f"<thinking>\nEach rep goes down and up.\nTotal count: {c.count}.\n</thinking>\n<answer>{c.count}</answer>"
        for text, c in zip(said["texts"], said["told"])
    )
    assert f'"{clips[0].action.replace("_", " ")}"' in said["examples"].question.ask(clips[0])
    kept = prompt_of(load_model(tmp_path / "sft", device="cpu")[1])
    assert kept == PromptSpec("actrep-r1-8b", action=True)
    trained = run_cells(
        "grpo",
        model=str(tmp_path / "sft"),
        clips=str(tmp_path / "train.csv"),
        out=str(tmp_path / "grpo"),
        cache="",
        steps=1,
        samples=0,
        prompts=1,
        group_size=2,
        max_new_tokens=4,
    )
    assert (
        trained["examples"].question.style == "thinking"
        and prompt_of(load_model(tmp_path / "grpo", device="cpu")[1]) == kept
    )
    chosen = run_cells(
        "select",
        model=str(tmp_path / "sft"),
        clips=str(tmp_path / "train.csv"),
        out=str(tmp_path / "select"),
        cache="",
        group_size=2,
        max_new_tokens=4,
    )
    assert chosen["question"].style == "thinking" and len(chosen["said"]) == 4
    judged = run_cells(
        "evaluate",
        clips=str(tmp_path / "train.csv"),
        none="",
        train="",
        base=str(tiny),
        sft=str(tmp_path / "sft"),
        grpo="",
        out=str(tmp_path / "judged"),
        cache="",
        max_new_tokens=4,
    )
    assert "<thinking>" in judged["judged"]["sft"].task.ask(clips[0]) and "<thinking>" not in judged["judged"][
        "base"
    ].task.ask(clips[0])


def test_wrong_prompts_are_exit_code_2(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert main(["count", "a.mp4", "--model", str(tiny), "--prompt", "no-think", "--json"]) == 2
    assert "did you mean 'count-no-think'" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert main(["count", "a.mp4", "--model", "period", "--prompt", "count"]) == 2
