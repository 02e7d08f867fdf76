"The GRPO chapter: what a reader need not wade through."
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from actrep_nb.grpo import GRPOTrainer, _say_once, group_stats, judge, policy_loss, shared_prefix_logprobs, token_logprobs, why_not_shared
from actrep_nb.models import Sample, add_lora, collate, encode, freeze, load_model, make_tiny_checkpoint, parts, see, unwrapped
from actrep_nb.records import Clip
from actrep_nb.rewards import REWARDS
from actrep_nb.rollout import Rollout
from actrep_nb.sft import training_arguments
from actrep_nb.tasks import TASKS
from actrep_nb.video import Frames


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32)


@pytest.fixture
def loaded(tiny):
    return load_model(tiny, device="cpu")


def noise_pairs(model, processor, lengths=(12, 8)):
    "Prompts over videos of noise, of different lengths."
    pairs, size = [], processor.video_processor.frame_size
    for i, n in enumerate(lengths):
        frames = Frames(np.random.default_rng(i).integers(0, 255, (n, *size, 3)).astype(np.uint8), np.arange(n) / 4)
        clip = Clip(video=f"{i}.mp4", action="squat", count=2 + i)
        pairs.append((clip, encode(model, processor, Sample(clip, frames, "How many?"))))
    return pairs


@pytest.fixture
def seen_context():
    "A reward that keeps what it was told."
    told = []

    def listening(completions, clips, **context):
        told.append({"completions": completions, "clips": clips} | context)
        return [float(i % 2) for i in range(len(completions))]

    REWARDS["listening"] = listening
    yield told
    del REWARDS["listening"]


# ---- judging --------------------------------------------------------------------------------------------------------

def test_rewards_are_told_lengths_group_size_and_answers_to_shuffled_frames(loaded, tmp_path, seen_context):
    pairs = noise_pairs(*loaded)
    trainer = GRPOTrainer(*loaded, pairs, training_arguments(tmp_path, 1, 2, 1e-3), {"listening": 1.0}, group_size=4, shuffled_answers=3, max_new_tokens=5)
    trainer.train()
    told = seen_context[0]
    assert told["group_size"] == 4 and len(told["lengths"]) == len(told["completions"]) == 8
    assert [len(texts) for texts in told["shuffled"]] == [3, 3] and all(isinstance(t, str) for texts in told["shuffled"] for t in texts)
    assert [c.id for c in told["clips"][:4]] == [told["clips"][0].id] * 4 and len({c.id for c in told["clips"]}) == 2
    assert all(1 <= n <= 5 for n in told["lengths"])


def test_without_the_option_nothing_is_said_about_shuffled_frames(loaded, tmp_path, seen_context):
    GRPOTrainer(*loaded, noise_pairs(*loaded), training_arguments(tmp_path, 1, 2, 1e-3), {"listening": 1.0}, group_size=2, max_new_tokens=3).train()
    assert "shuffled" not in seen_context[0]


def said(text, n=3):
    return Rollout(torch.arange(n), torch.zeros(n), text)


def test_each_group_is_its_own_yardstick():
    clips = [Clip(video="a.mp4", action="", count=2), Clip(video="b.mp4", action="", count=5)]
    answer = "<think>\n</think>\n<answer>{}</answer>".format
    groups = [[said(answer(2)), said(answer(9))], [said(answer(5)), said(answer(5))]]
    judged = judge(groups, clips, {"exact": 2.0})
    assert [[r.advantage for r in g] for g in judged] == [[1.0, -1.0], [0.0, 0.0]]
    assert [[r.rewards["exact"] for r in g] for g in judged] == [[1, 0], [1, 1]]
    by_task = judge(groups, clips, replace(TASKS["counting"], rewards={"exact": 2.0}))
    assert [[r.reward for r in g] for g in by_task] == [[r.reward for r in g] for g in judged]
    stats = group_stats(judged, clips)
    assert stats["group/mixed"] == stats["group/all_right"] == stats["group/zero_std"] == 0.5

# ---- one flat stream ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def family(request, tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp(request.param) / "checkpoint", family=request.param, hidden=32, layers=3, vision_hidden=32)


def answers(groups=2, lengths=(3, 11, 7, 1)):
    generator = torch.Generator().manual_seed(0)
    return [[torch.randint(300, 500, (n + g,), generator=generator) for n in lengths] for g in range(groups)]


def adapted(model):
    "LoRA with adapters that do something."
    model = add_lora(model, rank=2)
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05)
    return model


def probe(model, prompts, completions, shared, **options):
    "Log-probabilities, the loss and its gradient (in units of its largest entry), for answers that pull in all directions."
    model.zero_grad()
    logps, entropy, mask = shared_prefix_logprobs(model, prompts, completions, shared=shared, **options)
    pull = torch.linspace(-1, 1, len(logps))
    loss, _ = policy_loss(logps, logps.detach() - 0.05, pull, mask)
    loss.backward()
    gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    return logps.detach(), loss.detach(), gradient, entropy


def differences(a, b):
    return [float((x - y).abs().max()) for x, y in zip(a, b)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("seen", [False, True], ids=["vision-trained", "vision-frozen"])
def test_a_flat_stream_equals_repeated_rows(family, lora, checkpointing, seen):
    model, processor = load_model(family, device="cpu")
    prompts = [p for _, p in noise_pairs(model, processor)]
    if seen:
        freeze(model, "vision", "merger", *(["deepstack"] if "deepstack" in parts(model) else []))
        prompts = see(model, prompts)
    model = adapted(model) if lora else model
    if checkpointing:
        unwrapped(model).gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    stream, rows = (probe(model, prompts, answers(), shared) for shared in (True, False))
    assert max(differences(stream, rows)) <= 1e-5 and stream[2].abs().max() > 1e-3
    if not (lora or seen):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parts(model)["vision"].parameters())


def test_bfloat16_differs_by_its_own_rounding(family):
    "The stream is no further from float32 than repeated rows are, both in bfloat16."
    exact, processor = load_model(family, device="cpu")
    prompts = [p for _, p in noise_pairs(exact, processor)]
    truth = probe(exact, prompts, answers(), True)[0]
    rough, _ = load_model(family, device="cpu", dtype=torch.bfloat16)
    stream, rows = (probe(rough, prompts, answers(), shared)[0] for shared in (True, False))
    error = [float((x - truth).abs().mean()) for x in (stream, rows)]
    assert error[0] < 1.5 * error[1] and error[1] < 0.1


def test_a_prompt_with_one_answer_and_groups_of_unequal_size(loaded):
    prompts, completions = [p for _, p in noise_pairs(*loaded)], answers()
    completions = [completions[0][:1], completions[1][:3]]
    assert max(differences(*(probe(loaded[0], prompts, completions, shared) for shared in (True, False)))) <= 1e-5


def test_answers_do_not_see_each_other(loaded):
    "Other sisters, other order: the log-probabilities of an answer stay."
    model, processor = loaded
    prompts, [group] = [noise_pairs(model, processor)[0][1]], answers(1)
    together = shared_prefix_logprobs(model, prompts, [group])[0]
    alone = shared_prefix_logprobs(model, prompts, [[group[1]]])[0]
    turned = shared_prefix_logprobs(model, prompts, [group[::-1]])[0]
    assert torch.allclose(together[1, :11], alone[0, :11], atol=1e-5) and torch.allclose(together, turned.flip(0), atol=1e-5)


def test_a_shared_cache_is_wrong_under_gradient_checkpointing_and_a_stream_is_not(loaded):
    "Trap: transformers drops the cache under checkpointing without a word; this is why prompts are not shared through one."
    model, processor = loaded
    prompt, [group] = noise_pairs(model, processor)[0][1], answers(1)
    truth = shared_prefix_logprobs(model, [prompt], [group], shared=False)[0][1, 1:11]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    batch = {k: v for k, v in collate(model, [prompt]).items() if k != "labels"}
    cache = model.model(**batch, use_cache=True).past_key_values
    position = (prompt.position_ids[:, -1:] + 1 + torch.arange(11))[:, None]
    states = model.model(input_ids=group[1][None], position_ids=position, past_key_values=cache, use_cache=True).last_hidden_state
    by_cache = token_logprobs(model, states[0, :-1], group[1][1:])[0]
    assert (by_cache - truth).abs().max() > 0.01
    assert (shared_prefix_logprobs(model, [prompt], [group])[0][1, 1:11] - truth).abs().max() <= 1e-5


def test_the_vision_tower_runs_once_per_prompt(loaded):
    model, processor = loaded
    prompts, patches = [p for _, p in noise_pairs(model, processor)], []
    model.model.visual.register_forward_hook(lambda module, inputs, kwargs, out: patches.append(len(kwargs.get("hidden_states", inputs[0] if inputs else None))), with_kwargs=True)
    shared_prefix_logprobs(model, prompts, answers())
    assert patches == [sum(len(p.pixels) for p in prompts)]


def test_logits_in_chunks_are_the_same(loaded, monkeypatch):
    model, processor = loaded
    prompts = [p for _, p in noise_pairs(model, processor)]
    whole = probe(model, prompts, answers(), True)
    monkeypatch.setattr("actrep_nb.grpo.CHUNK", 5 * model.config.text_config.vocab_size)
    assert max(differences(whole, probe(model, prompts, answers(), True))) <= 1e-6


@pytest.mark.parametrize("why", ["family", "window", "dropout", "eager"])
def test_what_cannot_be_shown_exact_is_repeated_and_said_once(tiny, tmp_path, why):
    if why == "family":
        tiny = make_tiny_checkpoint(tmp_path / "other", family="video_llama_3", hidden=32, layers=2, vision_hidden=32)
    model, processor = load_model(tiny, device="cpu")
    text = model.config.text_config
    if why == "window":
        text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    if why == "dropout":
        text.attention_dropout = 0.1
        model.train()
    if why == "eager":
        text._attn_implementation = "eager"
    assert why_not_shared(model)
    if why in ("window", "dropout"):
        return
    prompts = [p for _, p in noise_pairs(model, processor)]
    _say_once.cache_clear()
    with pytest.warns(UserWarning, match="once per answer"):
        repeated = shared_prefix_logprobs(model, prompts, answers())[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(repeated, shared_prefix_logprobs(model, prompts, answers())[0])


def test_a_model_saved_after_practice_is_an_ordinary_checkpoint(loaded, tmp_path):
    model, processor = loaded
    prompts = [p for _, p in noise_pairs(model, processor)]
    before = shared_prefix_logprobs(model, prompts, answers())[0]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert "branches" not in (tmp_path / "config.json").read_text()
    again, _ = load_model(tmp_path, device="cpu")
    assert torch.equal(shared_prefix_logprobs(again, prompts, answers(), shared=True)[0], before)
