"""The decoder layers of Hugging Face's implementation, one entry per architecture.

Each is built without weights. A frozen block is called without rotary or learned positions,
without ALiBi and without a causal mask, so that every token sees all tokens but padding.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

Tokens = Float[Tensor, "batch tokens dim"]
Arguments = dict[str, Tensor | tuple[Tensor, Tensor] | None]
"""What a layer is called with besides its tokens and the mask, by name."""


def _rotary(layer: nn.Module, tokens: Tokens) -> Arguments:
    cosine, sine = tokens.new_ones(1, 1, 1), tokens.new_zeros(1, 1, 1)  # an angle of 0
    return {"position_embeddings": (cosine, sine)}


def _plain(layer: nn.Module, tokens: Tokens) -> Arguments:
    return {}


def _alibi(layer: nn.Module, tokens: Tokens) -> Arguments:
    return {"alibi": tokens.new_zeros(len(tokens) * layer.num_heads, 1, tokens.shape[1])}


@dataclass(frozen=True)
class Family:
    """How one architecture names and calls its decoder layers.

    Attributes:
        layer: Class of the decoder layer, in ``transformers.models.<model_type>``.
        arguments: What the layer is called with, besides the mask, to have no positions.
        stem: Name of the list of layers in the model and in the checkpoint.
        norm: Name of the norm after the last layer.
        embedding: Name of the table of token embeddings.
        buffers: Endings of tensors in old checkpoints that are constants, not weights.
        in_tuple: Whether the layer returns its tokens as the first of a tuple.
        attention: Name of the attention in the layer.
        attention_adds: Whether the attention itself adds its result to the layer's tokens.
        attention_norm: Name of the norm that its result passes before it is added, if any.
        module: Name of the package in ``transformers.models``; by default that of the family.
        own_norm: Class of norms that multiply by one more than their weight, if they do.
    """

    layer: str
    arguments: Callable[[nn.Module, Tokens], Arguments]
    stem: str = "layers"
    norm: str = "norm"
    embedding: str = "embed_tokens"
    buffers: tuple[str, ...] = ()
    in_tuple: bool = False
    attention: str = "self_attn"
    attention_adds: bool = False
    attention_norm: str | None = None
    module: str | None = None
    own_norm: str | None = None

    @property
    def unit(self) -> float:
        """The weight of a norm that multiplies by one."""
        return 0.0 if self.own_norm else 1.0


FAMILIES = {
    "bloom": Family(
        "BloomBlock",
        _alibi,
        stem="h",
        norm="ln_f",
        embedding="word_embeddings",
        in_tuple=True,
        attention="self_attention",
        attention_adds=True,
    ),
    "gemma": Family("GemmaDecoderLayer", _rotary, own_norm="GemmaRMSNorm"),
    "gemma3_text": Family(
        "Gemma3DecoderLayer",
        _rotary,
        attention_norm="post_attention_layernorm",
        module="gemma3",
        own_norm="Gemma3RMSNorm",
    ),
    "gpt2": Family(
        "GPT2Block",
        _plain,
        stem="h",
        norm="ln_f",
        embedding="wte",
        buffers=(".attn.bias", ".attn.masked_bias"),
        attention="attn",
    ),
    "llama": Family("LlamaDecoderLayer", _rotary, buffers=("rotary_emb.inv_freq",)),
    "mistral": Family("MistralDecoderLayer", _rotary),
    "opt": Family("OPTDecoderLayer", _plain, norm="final_layer_norm"),
    "qwen2": Family("Qwen2DecoderLayer", _rotary),
    "qwen3": Family("Qwen3DecoderLayer", _rotary),
}


def parse_config(values: Mapping[str, object], where: Path | str) -> PretrainedConfig:
    """Return the configuration with these values; ``where`` they are from is for the error.

    Raises:
        ValueError: If the architecture is not one of ``FAMILIES``.
    """
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"{where}: model_type must be one of {', '.join(FAMILIES)}, got {family!r}. "
            "Choose another model, or add the family to rectify/language/families.py."
        )
    return AutoConfig.for_model(**values)


def empty_layer(config: PretrainedConfig, layer: int) -> nn.Module:
    """Return decoder layer ``layer`` without weights, on torch's ``meta`` device."""
    config._attn_implementation = "sdpa"  # building a layer alone would choose the slow one
    make = _class_of(config, FAMILIES[config.model_type].layer)
    with torch.device("meta"):
        return make(config, layer).eval()


def _class_of(config: PretrainedConfig, name: str) -> type[nn.Module]:
    """Return a class of transformers' implementation of the model."""
    package = FAMILIES[config.model_type].module or config.model_type
    return getattr(
        importlib.import_module(f"transformers.models.{package}.modeling_{package}"), name
    )


def without_causal_mask(layer: nn.Module) -> nn.Module:
    """Return the decoder layer itself, its attention no longer causal where it has no mask."""
    for module in layer.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    return layer


def eager_attention(
    attention: nn.Module, args: tuple, kwargs: Mapping[str, object]
) -> Float[Tensor, "batch heads to from"]:
    """Return the weights of a decoder layer's attention, which fused kernels do not give.

    The attention is called once more, with the kernel that keeps its weights.

    Args:
        attention: Of a decoder layer.
        args: What it is called with.
        kwargs: Likewise, by name.
    """
    config = getattr(attention, "config", None)  # BLOOM's has one kernel only
    before = config and config._attn_implementation
    if config is not None:
        config._attn_implementation = "eager"
    try:
        return attention.forward(*args, **kwargs)[1]  # without its hooks
    finally:
        if config is not None:
            config._attn_implementation = before


def empty_norm(config: PretrainedConfig) -> nn.Module:
    """Return the norm after the last layer without weights, on torch's ``meta`` device."""
    width, own = config.hidden_size, FAMILIES[config.model_type].own_norm
    with torch.device("meta"):
        if own:
            return _class_of(config, own)(width, eps=config.rms_norm_eps)
        if hasattr(config, "rms_norm_eps"):
            return nn.RMSNorm(width, eps=config.rms_norm_eps)
        return nn.LayerNorm(width, eps=getattr(config, "layer_norm_epsilon", 1e-5))  # OPT: fixed
