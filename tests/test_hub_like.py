"""Checkpoints as the hub has them (hub_like.py), small but for the vocabulary: they load, read clips as the library's
processor does, are trained, judged and used.
"""

import json
import shutil
import unicodedata
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from hub_like import HUB, ROWS, make_hub_checkpoint, needs_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from actrep_nb.answers import is_well_formed, messages
from actrep_nb.cli import main
from actrep_nb.evaluate import load_predictions
from actrep_nb.loading import make_example
from actrep_nb.families import VIDEO, family_of
from actrep_nb.models import checkpoint_config, encode, load_model, make_sample, whole_processor
from actrep_nb.parallel import parameter_counts
from actrep_nb.formats import save_clips
from actrep_nb.records import Clip
from actrep_nb.rewards import REWARDS
from actrep_nb.rollout import ignored_settings, stop_ids, whole_text
from actrep_nb.runs import find_notebook, run
from actrep_nb.show import read_log
from actrep_nb.synth import draw_clip
from actrep_nb.tasks import TASKS
from actrep_nb.video import write_video

pytestmark = needs_vocabulary
every_checkpoint = pytest.mark.parametrize("name", HUB)
two_families = pytest.mark.parametrize(
    "name", ["Qwen2.5-VL-3B-Instruct", "Qwen3-VL-4B-Thinking"]
)  # one video block and one for each slot; the others differ in nothing that ranks see
RATES = (8, 23.976, 25, 50)  # frames per second
SAID = "<think>\nTwo.\n</think>\n<answer>2</answer>"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    "The checkpoint of a name, written when it is first asked for."
    folder = tmp_path_factory.mktemp("hub")
    return lambda name: folder / name if (folder / name).exists() else make_hub_checkpoint(folder / name, name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A clip for each frame rate, their annotations, and the same short answer to all, as `actrep run sft` wants them."
    folder, clips = tmp_path_factory.mktemp("data"), []
    (folder / "videos").mkdir()
    for k, fps in enumerate(RATES):
        drawn = draw_clip("squat", 1 + k % 2, seed=k, size=64, fps=fps, max_seconds=6)
        write_video(folder / "videos" / f"{fps}.mp4", drawn.pixels, fps)
        clips.append(
            Clip(
                video=str(folder / "videos" / f"{fps}.mp4"),
                action="squat",
                count=drawn.count,
                cycles=drawn.cycles,
                id=f"{fps}",
            )
        )
    save_clips(clips, folder / "train.jsonl")
    (folder / "cot.jsonl").write_text("".join(json.dumps({"video_id": c.id, "cot": SAID}) + "\n" for c in clips))
    return folder, clips


# ---- the files -----------------------------------------------------------------------------------------------------


@every_checkpoint
def test_the_vocabulary_is_whole(name, hub):
    "Ids that any user of these models has seen; numbers are cut into digits."
    tokenizer, last = AutoTokenizer.from_pretrained(hub(name)), HUB[name].tokens
    assert tokenizer("Hello, world!").input_ids == [9707, 11, 1879, 0] and tokenizer("12.5").input_ids == [
        16,
        17,
        13,
        20,
    ]
    assert len(tokenizer) == last + 1 and sorted(tokenizer.get_vocab().values()) == list(range(last + 1))
    known = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ]
    assert tokenizer.convert_tokens_to_ids(known) == [151643, 151644, 151645, 151652, 151653, 151654, 151655, 151656]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (151645, 151643, None)
    assert (tokenizer("<think></think>").input_ids == [151667, 151668]) == (
        last == 151668
    ) and "<think>" in tokenizer.decode(tokenizer("<think>").input_ids, skip_special_tokens=True)


def test_texts_survive_the_vocabulary(hub):
    tokenizer = AutoTokenizer.from_pretrained(hub("Qwen3-VL-4B-Instruct"))

    @settings(max_examples=200, deadline=None)
    @given(st.text())
    def check(text):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text) and all(
            0 <= i < 151643 for i in ids if "<" not in text
        )

    check()


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("Qwen2-VL-2B-Instruct", 2_208_985_600),
        ("Qwen2.5-VL-3B-Instruct", 3_754_622_976),
        ("Qwen3-VL-4B-Instruct", 4_437_815_808),
    ],
)
def test_full_configurations_are_the_published_ones(name, parameters, tmp_path):
    """The parameters that the hub states for them, from the whole config.json and from the sizes that `actrep plan`
    knows.
    """
    make_hub_checkpoint(tmp_path, name, full=True, weights=False)
    assert parameter_counts(str(tmp_path))[0] == parameter_counts(f"Qwen/{name}")[0] == parameters


@every_checkpoint
def test_keys_of_the_hub_reach_the_configuration(name, hub):
    "Qwen2-VL and Qwen2.5-VL have the language model's keys beside the others, under older names."
    config = AutoConfig.from_pretrained(hub(name))
    text, tower = config.text_config, config.vision_config
    section = [24, 20, 20] if "Qwen3" in name else [16, 24, 24]
    assert text.rope_parameters["mrope_section"] == section and text.rope_parameters["rope_theta"] == (
        5e6 if "Qwen3" in name else 1e6
    )
    assert (
        text.vocab_size == ROWS
        and config.tie_word_embeddings
        and (config.image_token_id, config.video_token_id) == (151655, 151656)
    )
    assert getattr(tower, "tokens_per_second", None) == (2 if "2.5" in name else None)
    assert getattr(tower, "deepstack_visual_indexes", None) == ([0, 1, 2] if "Qwen3" in name else None)
    assert getattr(tower, "fullatt_block_indexes", None) == ([0, 1, 2, 3] if "2.5" in name else None)


@every_checkpoint
def test_every_weight_of_the_files_arrives(name, hub):
    "Under the names that they have on the hub, in several files, without a head where it is the embedding."
    model, told = AutoModelForImageTextToText.from_pretrained(hub(name), dtype=torch.float32, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    place = json.loads((hub(name) / "model.safetensors.index.json").read_text())["weight_map"]
    old = "Qwen3" not in name
    for theirs, ours in (
        ("model.embed_tokens" if old else "model.language_model.embed_tokens", model.lm_head),
        ("visual.patch_embed.proj" if old else "model.visual.patch_embed.proj", model.model.visual.patch_embed.proj),
    ):
        with safe_open(hub(name) / place[f"{theirs}.weight"], "pt") as file:
            assert torch.equal(file.get_tensor(f"{theirs}.weight").float(), ours.weight)
    assert "lm_head.weight" not in place and len(set(place.values())) == 2 and model.lm_head.weight.shape[0] == ROWS
    assert model.generation_config.eos_token_id == [151645, 151643] and model.generation_config.repetition_penalty == (
        1.05 if "2.5" in name else 1.0
    )


@every_checkpoint
def test_of_the_generation_settings_the_ends_are_used_and_the_rest_is_named(name, hub):
    model, _ = load_model(hub(name), device="cpu")
    ignored = ignored_settings(model)
    assert (
        stop_ids(model) == {151645, 151643}
        and ignored["do_sample"]
        and ignored.get("temperature", 1.0) == HUB[name].generation["temperature"]
    )
    assert ignored.get("repetition_penalty") == (1.05 if "2.5" in name else None)


ASKED = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "How many?"}]}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "<think>\nSo.\n</think>\n\n2"}]
QUESTION = f"<|im_start|>user\n{VIDEO}How many?<|im_end|>\n"
RENDERED = {  # what comes before the question; what opens an answer; an answer
    "Qwen2-VL-2B-Instruct": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        "",
        "<think>\nSo.\n</think>\n\n2",
    ),
    "Qwen2.5-VL-3B-Instruct": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        "",
        "<think>\nSo.\n</think>\n\n2",
    ),
    "Qwen3-VL-4B-Instruct": ("", "", "<think>\nSo.\n</think>\n\n2"),
    "Qwen3-VL-4B-Thinking": ("", "<think>\n", "<think>\nSo.\n</think>\n\n2"),
}


@every_checkpoint
def test_templates_render(name, hub):
    "Thinking opens the reasoning, and drops it from answers to earlier questions."
    write, (before, opens, answer) = AutoProcessor.from_pretrained(hub(name)).apply_chat_template, RENDERED[name]
    assert write(ASKED, add_generation_prompt=True) == f"{before}{QUESTION}<|im_start|>assistant\n{opens}"
    assert write(ANSWERED) == f"{before}{QUESTION}<|im_start|>assistant\n{answer}<|im_end|>\n"
    earlier = "2" if name.endswith("Thinking") else answer
    assert write([*ANSWERED, *ASKED]) == f"{before}{QUESTION}<|im_start|>assistant\n{earlier}<|im_end|>\n{QUESTION}"


# ---- the same in other layouts, all of which the hub has -----------------------------------------------------------


def in_tokenizer_config(folder):
    "The chat template, as fine-tuned checkpoints have it."
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    (folder / "chat_template.json").unlink()


def in_jinja(folder):
    "The chat template, as transformers writes it today."
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.jinja").write_text(template)
    (folder / "chat_template.json").unlink()


def no_tokenizer_json(folder):
    (folder / "tokenizer.json").unlink()


def no_vocabulary_beside(folder):
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()


@pytest.mark.slow
def test_a_processor_is_taken_in_every_layout(hub, tmp_path):
    "One family is enough: the files are the same in all."
    config = checkpoint_config(hub("Qwen2.5-VL-3B-Instruct"))

    def read(folder):
        processor = whole_processor(folder, config)
        asked = processor.apply_chat_template(messages("squats?"), add_generation_prompt=True, tokenize=False)
        return asked, processor.tokenizer(asked).input_ids, processor.tokenizer.eos_token_id

    expected = read(hub("Qwen2.5-VL-3B-Instruct"))
    for layout in (in_tokenizer_config, in_jinja, no_tokenizer_json, no_vocabulary_beside):
        ours = shutil.ignore_patterns("*.safetensors*")
        folder = shutil.copytree(hub("Qwen2.5-VL-3B-Instruct"), tmp_path / layout.__name__, ignore=ours)
        layout(folder)
        assert read(folder) == expected, layout.__name__


def test_half_a_vocabulary_is_none(hub, tmp_path):
    folder = make_hub_checkpoint(tmp_path / "m", "Qwen2.5-VL-3B-Instruct", weights=False)
    for name in ("tokenizer.json", "merges.txt"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="m holds no tokenizer .tokenizer.json, or vocab.json with merges.txt"):
        load_model(folder, device="cpu")


# ---- what the model reads ------------------------------------------------------------------------------------------


@every_checkpoint
def test_a_prompt_is_what_the_librarys_processor_makes_of_it(name, hub, data):
    """Called by hand, told which frames of the file were taken and the file's rate; at four rates, whose frames do not
    fall on ours.
    """
    model, processor = load_model(hub(name), device="cpu")
    for clip, fps in zip(data[1], RATES):
        sample = make_sample(processor, clip)
        prompt, messages = (
            encode(model, processor, sample),
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": sample.prompt}]}],
        )
        text = processor.apply_chat_template(messages, add_generation_prompt=True).replace(
            VIDEO, family_of(model).marker
        )  # Qwen3-VL's marks come with each slot
        metadata = dict(fps=fps, total_num_frames=10_000, frames_indices=(sample.frames.times * fps).tolist())
        theirs = processor(
            text=[text],
            videos=[torch.from_numpy(sample.frames.pixels).permute(0, 3, 1, 2)],
            video_metadata=[metadata],
            do_sample_frames=False,
            do_resize=False,
            return_tensors="pt",
        )
        assert (
            prompt.input_ids.tolist() == theirs["input_ids"][0].tolist()
            and prompt.grid_thw.tolist() == theirs["video_grid_thw"][0].tolist()
        )
        assert (
            torch.equal(prompt.pixels, theirs["pixel_values_videos"])
            and int((prompt.input_ids == 151656).sum()) == int(prompt.grid_thw.prod()) // 4
        )
        written = processor.tokenizer.decode(prompt.input_ids)
        starts = [f"<{(a + b) / 2:.1f} seconds>" for a, b in zip(sample.frames.times[::2], sample.frames.times[1::2])]
        assert [t for t in starts if t in written] == (starts if "Qwen3" in name else []), (
            "the times of a slot are those of its frames"
        )


def test_a_template_that_opens_the_reasoning_opens_it_once(hub, data):
    """Question and answer together are what the template itself writes of both, line breaks aside; what is judged is
    the whole completion.
    """
    model, processor = load_model(hub("Qwen3-VL-4B-Thinking"), device="cpu")
    sample = make_sample(processor, data[1][0])
    example = make_example(processor, encode(model, processor, sample), SAID)
    read = processor.tokenizer.decode(torch.cat([example.prompt.input_ids, example.answer]))
    whole = processor.apply_chat_template([*messages(sample.prompt), {"role": "assistant", "content": SAID}])
    assert (
        read.split("assistant")[-1].count("<think>") == 1
        and read.split("assistant")[-1] == f"\n{SAID}<|im_end|>"
        and whole.split("assistant")[-1].replace("\n\n<answer>", "\n<answer>") == f"\n{SAID}<|im_end|>\n"
    )
    assert processor.tokenizer.decode(example.prompt.opened) == "<think>\n" and not processor.tokenizer.decode(
        example.answer
    ).startswith("<think>")
    task = TASKS["counting"]
    said = whole_text(processor, example.prompt, example.answer)
    assert (
        said == SAID
        and task.reward([said], [data[1][1]])[1] == {"count_hybrid": [1.5], "format": [1.0]}
        and task.predict(data[1][1], said).problems == ()
    )


# ---- training, judging and counting, in this process ---------------------------------------------------------------


def run_cells(name, **parameters):
    """The cells of an experiment in this process, which `actrep run` runs in a kernel: seconds instead of half a
    minute. Returns what they defined.
    """
    first, *cells = [
        "".join(c["source"])
        for c in json.loads(Path(find_notebook(name)).read_text())["cells"]
        if c["cell_type"] == "code"
    ]
    defined = {}
    exec(first, defined)
    assert set(parameters) <= set(defined), "the experiment has no such parameter"
    defined |= parameters | ({"workers": 0} if "workers" in defined else {})
    for cell in cells:
        exec(cell, defined)
    plt.close("all")
    return defined


@pytest.fixture
def letters():
    "A reward that random text earns more or less of: the share of its letters that are ASCII."
    REWARDS["ascii"] = lambda completions, clips, **_: [
        sum(c.isascii() for c in text) / (len(text) or 1) for text in completions
    ]
    yield "ascii=1"
    del REWARDS["ascii"]


def last_json(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def judged_by(checkpoint, data, out, capsys, tokens):
    """What `actrep evaluate` and `actrep count` say of the four clips: the metrics, the exit code of count, and its
    JSON.
    """
    folder, clips = data
    assert (
        main(
            [
                "evaluate",
                str(folder / "train.jsonl"),
                "--model",
                f"it={checkpoint}",
                "--max-new-tokens",
                str(tokens),
                "--out",
                str(out / "judged"),
                "--json",
            ]
        )
        == 0
    )
    metrics = last_json(capsys)["models"]["it"]
    predictions = [json.loads(line) for line in (out / "judged" / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == len(clips), "every clip is accounted for"
    return (
        metrics,
        main(
            [
                "count",
                *(str(c.video) for c in clips),
                "--model",
                str(checkpoint),
                "--max-new-tokens",
                str(tokens),
                "--out",
                str(out),
                "--json",
            ]
        ),
        last_json(capsys),
    )


@two_families
def test_imitation_judging_and_counting_with_the_whole_vocabulary(name, hub, data, tmp_path, capsys):
    "After two steps nothing can be read from the answers yet, which is said of every clip."
    run_cells(
        "sft", model=str(hub(name)), data=str(data[0]), out=str(tmp_path / "sft"), cache="", steps=2, batch=2, lr=1e-3
    )
    first, second = [row["loss"] for row in read_log(tmp_path / "sft" / "log.jsonl")]
    assert 11.5 < first < 12.5 and second < first, "at first every token is as likely: ln 151,936 = 11.9"
    metrics, code, said = judged_by(tmp_path / "sft" / "checkpoint", data, tmp_path, capsys, 6)
    assert metrics["parse_rate"]["value"] == metrics["obo"]["value"] == 0
    assert (
        code == 1
        and not said["files"]
        and len(said["failed"]) == len(RATES)
        and all("gave no count" in f["reason"] for f in said["failed"])
    )
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (hub(name), tmp_path / "sft" / "checkpoint"))
    assert (
        after.get_vocab() == before.get_vocab()
        and after("<think>½ 12.5 次</think>").input_ids == before("<think>½ 12.5 次</think>").input_ids
    )


@every_checkpoint
def test_grpo_learns_from_answers_that_differ(name, hub, data, tmp_path, letters):
    run_cells(
        "grpo",
        model=str(hub(name)),
        clips=str(data[0] / "train.jsonl"),
        out=str(tmp_path),
        cache="",
        steps=2,
        samples=0,
        prompts=2,
        group_size=4,
        max_new_tokens=6,
        recipe="dr_grpo",
        lr=1e-3,
        rewards=letters,
    )
    log, (first, *_) = (
        read_log(tmp_path / "log.jsonl"),
        map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines()),
    )
    assert len(log) == 2 and all(
        row["reward_std"] > 0 and row["group/zero_std"] == 0 and 0 < row["grad_norm"] < float("inf") for row in log
    )
    assert all(abs(row["ratio_max"] - 1) < 1e-4 and 11.5 < row["entropy"] < 12 for row in log), (
        "what was sampled is what is trained, from all of the vocabulary"
    )
    assert any(s["advantage"] for s in first["samples"]) and not any(
        "<|video_pad|>" in s["text"] for s in first["samples"]
    )
    trained, _ = load_model(tmp_path / "checkpoint", device="cpu")
    assert any(
        not torch.equal(a, b) for a, b in zip(trained.parameters(), load_model(hub(name), device="cpu")[0].parameters())
    )


# ---- the same from the command line, on several ranks --------------------------------------------------------------


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    "Kernels that know the reward `ascii`, as a file of Jupyter's startup folder tells them."
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "reward.py").write_text(
        "from actrep_nb.rewards import REWARDS\nREWARDS['ascii'] = lambda completions, clips, **_: [sum(c.isascii() "
        "for c in text) / (len(text) or 1) for text in completions]\n"
    )
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def run_notebook(name, out, capsys, *options, **parameters):
    "`actrep run` as a person types it; returns the log of the run."
    given = [word for pair in (parameters | {"out": str(out)}).items() for word in ("-p", *map(str, pair))]
    code = main(["run", name, *given, *options, "--timeout", "600", "--out", str(out / "run"), "--json"])
    told = last_json(capsys)
    assert code == 0 and told["ok"], told.get("error")
    return read_log(out / "log.jsonl")


@pytest.mark.slow
@two_families
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_two_ranks_that_share_out_the_weights_do_what_one_process_does(
    name, stage, hub, data, tmp_path, capsys, letters, kernels
):
    "ZeRO-3, `--ranks 2`: the same losses, rewards and gradients, with an embedding that is the head."
    pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    given = {
        "sft": dict(data=str(data[0]), batch=2),
        "grpo": dict(
            clips=str(data[0] / "train.jsonl"),
            samples=0,
            prompts=2,
            group_size=4,
            max_new_tokens=6,
            recipe="dr_grpo",
            rewards=letters,
        ),
    }[stage]
    given |= dict(model=str(hub(name)), cache="", steps=2, lr=1e-3)
    run_cells(stage, **given, out=str(tmp_path / "alone"))
    alone, shared = (
        read_log(tmp_path / "alone" / "log.jsonl"),
        run_notebook(stage, tmp_path / "shared", capsys, "--ranks", "2", **given, strategy="zero3"),
    )
    for key in ("loss", "reward", "grad_norm"):
        if key in alone[0]:
            assert [row[key] for row in shared] == pytest.approx([row[key] for row in alone], rel=1e-3, abs=1e-5), key


@pytest.mark.slow
@two_families
def test_two_ranks_judge_as_one_process(name, hub, data, tmp_path, kernels):
    "The same words, token for token, whichever rank wrote them."
    given = {
        "clips": str(data[0] / "train.jsonl"),
        "none": "",
        "train": "",
        "base": str(hub(name)),
        "sft": "",
        "grpo": "",
        "cache": "",
        "batch": 2,
        "max_new_tokens": 6,
    }
    for ranks in (1, 2):
        run("06_evaluate", tmp_path / str(ranks), given, ranks=ranks, quiet=True)
    one, two = (
        [(p.id, p.text, p.problems) for p in load_predictions(tmp_path / str(ranks))["base"]] for ranks in (1, 2)
    )
    assert one == two and len(one) == len(RATES) and all(text for _, text, _ in one)


@pytest.mark.slow
def test_what_was_learnt_is_said_and_read(data, tmp_path, capsys):
    """Trained to give every clip the same short answer, a model gives it, ends its turn, and the answer is read: with
    the hub's tokens, template and limits.
    """
    wider = make_hub_checkpoint(tmp_path / "wider", "Qwen3-VL-4B-Thinking", width=2)
    log = run_notebook(
        "sft", tmp_path / "sft", capsys, model=str(wider), data=str(data[0]), cache="", steps=40, batch=4, lr=5e-3
    )
    assert log[-1]["loss"] < 0.2
    metrics, code, said = judged_by(tmp_path / "sft" / "checkpoint", data, tmp_path, capsys, 16)
    assert metrics["parse_rate"]["value"] == metrics["obo"]["value"] == 1 and metrics["exact"]["value"] == 0.5
    assert code == 0 and [f["count"] for f in said["files"]] == [2] * len(RATES) and not said["failed"]
    predicted = [
        json.loads(line)["text"] for line in (tmp_path / "judged" / "predictions.jsonl").read_text().splitlines()
    ]
    assert all(is_well_formed(text) and text.startswith("<think>\n") for text in predicted), (
        "what the template opened is part of what is judged"
    )
    run_cells(
        "grpo",
        model=str(tmp_path / "sft"),
        clips=str(data[0] / "train.jsonl"),
        out=str(tmp_path / "grpo"),
        cache="",
        steps=3,
        samples=0,
        prompts=2,
        group_size=8,
        max_new_tokens=16,
        temperature=1.0,
        rewards="count_hybrid=1,format=1",
        lr=1e-6,
    )
    log = read_log(tmp_path / "grpo" / "log.jsonl")
    assert any(row["reward/format"] > 0 for row in log) and any(
        row["reward_std"] > 0 and row["used"] > 0 for row in log
    ), "well-formed completions are paid for, and groups differ"
