"""Tiny random checkpoints of every family, in Hugging Face format."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from rectify.demo.language_models import character_tokenizer

WIDTH, HEADS, LAYERS, TOKENS = 32, 4, 3, 7
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}
OPT = {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": WIDTH}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
FAMILIES = {
    "llama": {"model_type": "llama", "intermediate_size": 48},
    "llama 3, with grouped queries": {
        "model_type": "llama",
        "rms_norm_eps": 0.1,  # large, so that it shows
        "rope_parameters": LLAMA3_ROPE,
        **GROUPED,
    },
    "mistral": {"model_type": "mistral", "sliding_window": 4, **GROUPED},
    "qwen2": {"model_type": "qwen2", **GROUPED},
    "qwen2 with two masks": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        **GROUPED,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16, **GROUPED},
    "gemma": {"model_type": "gemma", "head_dim": 16, **GROUPED},
    "gemma 3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        **GROUPED,
    },
    "gemma 2": {
        "model_type": "gemma2",
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 4,
        "attn_logit_softcapping": 0.3,  # small, so that it shows
        **GROUPED,
    },
    "opt": OPT,
    "opt 350m, with the norm after and a narrow embedding": {
        **OPT,
        "word_embed_proj_dim": 20,
        "do_layer_norm_before": False,
    },
    "gpt2": {"model_type": "gpt2"},
    "bloom": {"model_type": "bloom"},
    "falcon": {"model_type": "falcon"},
    "falcon 40b, with two norms and grouped queries": {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
    },
    "falcon rw, with alibi and one part after the other": {
        "model_type": "falcon",
        "alibi": True,
        "bias": True,
        "multi_query": False,
        "parallel_attn": False,
    },
    "gpt-neox": {"model_type": "gpt_neox", "intermediate_size": 48},
    "gpt-neox, one part after the other": {
        "model_type": "gpt_neox",
        "intermediate_size": 48,
        "use_parallel_residual": False,
    },
    "olmo": {"model_type": "olmo", "intermediate_size": 48, "clip_qkv": 0.4},
    "olmo 2": {"model_type": "olmo2", "rms_norm_eps": 0.1, **GROUPED},
    "phi": {"model_type": "phi", "qk_layernorm": True, **GROUPED},
    "phi 3": {"model_type": "phi3", "pad_token_id": 0, "sliding_window": 4, **GROUPED},
    "smollm 3": {"model_type": "smollm3", "pad_token_id": 0, **GROUPED},
    "stablelm": {"model_type": "stablelm", "use_qkv_bias": True, **GROUPED},
    "stablelm 2 12b, with a norm for each head": {
        "model_type": "stablelm",
        "qk_layernorm": True,
        "use_parallel_residual": True,
        **GROUPED,
    },
}

QUICK = ("llama", "opt", "gpt2")
EVERY_FAMILY = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES
]
"""For tests and fixtures; `make test-fast` takes a few of them."""


def made_checkpoint(folder: Path, seed: int = 0, **settings) -> Path:
    """Write a checkpoint; the same one is made only once."""
    torch.manual_seed(seed)
    return shutil.copytree(_made(seed, json.dumps(settings)), folder, dirs_exist_ok=True)


@functools.cache
def _made(seed: int, settings: str) -> Path:
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    config = AutoConfig.for_model(**SIZES | {"vocab_size": 40} | json.loads(settings))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # norms and biases too, so that swapping two of them shows
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    character_tokenizer(["abcdefghijklmnopqrstuvwxyz "]).save_pretrained(folder)
    return folder


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """Return a folder that is removed when the tests end."""
    return tempfile.TemporaryDirectory(prefix="checkpoints-")


def sharded(folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= LAYERS
    return folder


def rewritten(folder: Path, **changes) -> None:
    """Rename (a string), replace (a tensor) or drop (None) tensors of layer 1."""
    tensors = load_file(folder / "model.safetensors")
    for name, change in changes.items():
        tensor = tensors.pop(f"model.layers.1.{name}")
        if isinstance(change, str):
            tensors[f"model.layers.1.{change}"] = tensor
        elif change is not None:
            tensors[f"model.layers.1.{name}"] = change
    save_file(tensors, folder / "model.safetensors")


def error_of(action, *arguments) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message
