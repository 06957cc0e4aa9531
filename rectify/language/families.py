"""The decoder layers of Hugging Face's implementation, one entry per architecture.

Each is built without weights. A frozen block is called without rotary or learned positions,
without ALiBi and without a causal mask, so that every token sees all tokens but padding.
"""

import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

Tokens = Float[Tensor, "batch tokens dim"]
Arguments = dict[str, Tensor | tuple[Tensor, Tensor] | None]
"""What a layer is called with besides its tokens, by name."""
FREQUENCIES = "rotary_emb.inv_freq"  # of rotary positions


def _rotary(layer: nn.Module, tokens: Tokens) -> Arguments:
    cosine, sine = tokens.new_ones(1, 1, 1), tokens.new_zeros(1, 1, 1)  # an angle of 0
    return {"position_embeddings": (cosine, sine)}


def _plain(layer: nn.Module, tokens: Tokens) -> Arguments:
    return {}


def _alibi(layer: nn.Module, tokens: Tokens) -> Arguments:
    return {"alibi": tokens.new_zeros(len(tokens) * layer.num_heads, 1, tokens.shape[1])}


def _falcon(layer: nn.Module, tokens: Tokens) -> Arguments:
    """Without ALiBi it turns by angles; its eager attention adds a mask that must be there."""
    mask = tokens.new_zeros(1, 1, 1, tokens.shape[1])
    return {"alibi": None, "attention_mask": mask, **_rotary(layer, tokens)}


@dataclass(frozen=True)
class Family:
    """How one architecture names and calls its decoder layers.

    Attributes:
        layer: Class of the decoder layer, in ``transformers.models.<model_type>``.
        arguments: What the layer is called with to have no positions; a mask only where it must
            have one.
        stem: Name of the list of layers in the model and in the checkpoint.
        norm: Name of the norm after the last layer.
        embedding: Name of the table of token embeddings.
        buffers: Endings of tensors in old checkpoints that are constants, not weights.
        in_tuple: Whether the layer returns its tokens as the first of a tuple.
        attention: Name of the attention in the layer.
        attention_adds: Whether the attention itself adds its result to the layer's tokens.
        attention_norm: Name of the norm that its result passes before it is added, if any.
        module: Name of the package in ``transformers.models``; by default that of the family.
        adds_one: Whether norms multiply by one more than their weight.
        kernel: The attention of transformers that computes what the layer was trained with.
    """

    layer: str
    arguments: Callable[[nn.Module, Tokens], Arguments]
    stem: str = "layers"
    norm: str = "norm"
    embedding: str = "embed_tokens"
    buffers: tuple[str, ...] = (FREQUENCIES,)
    in_tuple: bool = False
    attention: str = "self_attn"
    attention_adds: bool = False
    attention_norm: str | None = None
    module: str | None = None
    adds_one: bool = False
    kernel: str = "sdpa"

    @property
    def unit(self) -> float:
        """The weight of a norm that multiplies by one."""
        return 0.0 if self.adds_one else 1.0


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
        kernel="eager",  # it has no other
    ),
    "falcon": Family(
        "FalconDecoderLayer",
        _falcon,
        stem="h",
        norm="ln_f",
        embedding="word_embeddings",
        in_tuple=True,
        attention="self_attention",
    ),
    "gemma": Family("GemmaDecoderLayer", _rotary, adds_one=True),
    "gemma2": Family(
        "Gemma2DecoderLayer",
        _rotary,
        attention_norm="post_attention_layernorm",
        adds_one=True,
        kernel="eager",  # the fused one leaves out the bound of the scores, and says nothing
    ),
    "gemma3_text": Family(
        "Gemma3DecoderLayer",
        _rotary,
        attention_norm="post_attention_layernorm",
        module="gemma3",
        adds_one=True,
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
    "gpt_neox": Family(
        "GPTNeoXLayer",
        _rotary,
        norm="final_layer_norm",
        embedding="embed_in",
        buffers=(".attention.bias", ".attention.masked_bias", FREQUENCIES),
        attention="attention",
    ),
    "llama": Family("LlamaDecoderLayer", _rotary),
    "mistral": Family("MistralDecoderLayer", _rotary),
    "olmo": Family("OlmoDecoderLayer", _rotary),
    "olmo2": Family("Olmo2DecoderLayer", _rotary, attention_norm="post_attention_layernorm"),
    "opt": Family("OPTDecoderLayer", _plain, norm="final_layer_norm"),
    "phi": Family("PhiDecoderLayer", _rotary, norm="final_layernorm"),
    "phi3": Family("Phi3DecoderLayer", _rotary),
    "qwen2": Family("Qwen2DecoderLayer", _rotary),
    "qwen3": Family("Qwen3DecoderLayer", _rotary),
    "smollm3": Family("SmolLM3DecoderLayer", _rotary),
    "stablelm": Family("StableLmDecoderLayer", _rotary),
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # settings of mixtures of them


def parse_config(values: Mapping[str, object], where: Path | str) -> PretrainedConfig:
    """Return the configuration with these values; ``where`` they are from is for the error.

    Of a model of pictures and texts it is that of its language model, ``text_config``.

    Raises:
        ValueError: If the architecture is not one of ``FAMILIES``, or a value is not as it must be.
    """
    text = values.get("text_config")
    if isinstance(text, Mapping) and values.get("model_type") not in FAMILIES:
        values = text
    family = values.get("model_type")
    if family not in FAMILIES and any(values.get(key) for key in EXPERTS):
        raise ValueError(
            f"{where}: a layer must have a gradient in all it does, got {family!r}, a mixture of "
            "experts: which of them a token passes is a choice that jumps. Choose another model."
        )
    if family not in FAMILIES:
        raise ValueError(
            f"{where}: model_type must be one of {', '.join(FAMILIES)}, got {family!r}. "
            "Choose another model, or add the family to rectify/language/families.py."
        )
    try:
        return AutoConfig.for_model(**values)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(f"{error}".split()).rstrip(".")
        raise ValueError(
            f"{where}: must hold the settings of a {family} as transformers has them, got "
            f"{reason}. Get config.json again."
        ) from None


def empty_layer(config: PretrainedConfig, layer: int) -> nn.Module:
    """Return decoder layer ``layer`` without weights, on torch's ``meta`` device."""
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.kernel  # alone, a layer would choose the slow one
    package = family.module or config.model_type
    module = importlib.import_module(f"transformers.models.{package}.modeling_{package}")
    with torch.device("meta"):
        return getattr(module, family.layer)(config, layer).eval()


def empty_norm(config: PretrainedConfig) -> nn.Module | None:
    """Return the model's norm after its last layer without weights, on torch's ``meta`` device.

    None if the model has none, as OPT with its norms after the layers' parts.
    """
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = 0
    return getattr(empty_model(shallow), FAMILIES[config.model_type].norm, None)


def empty_model(config: PretrainedConfig) -> nn.Module:
    """Return what has the layers and what is around them, without weights, on ``meta``."""
    with torch.device("meta"):
        model = AutoModel.from_config(config, dtype=torch.float32)
    return getattr(model, "decoder", model).eval()  # OPT's layers are in its decoder


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
