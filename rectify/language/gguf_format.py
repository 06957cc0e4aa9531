"""Checkpoints in GGUF, the format of llama.cpp, under the settings and names of Hugging Face's.

One file holds everything: the settings and the tokenizer as metadata, and the tensors, mostly
quantised. A quantised matrix is given in float32, exactly as its blocks say; others keep their
precision. Where llama.cpp's converter changed the numbers of a tensor, the change is undone.
"""

import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    dequantize,
    get_tensor_name_map,
)
from gguf.gguf_reader import ReaderTensor
from torch import Tensor

from rectify.language.families import FAMILIES, empty_layer, parse_config
from rectify.results.files import check_no_pointer
from rectify.tensors import Tensors

SUFFIX = ".gguf"

ARCHITECTURES = {  # llama.cpp's name: that of FAMILIES
    "gemma": "gemma",
    "gemma3": "gemma3_text",
    "gpt2": "gpt2",
    "llama": "llama",  # Mistral's too
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
SETTINGS = {  # after the architecture's name; head_count_kv and key_length may be left out
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "attention.sliding_window": "sliding_window",
}
OF_GPT2 = {"intermediate_size": "n_inner"}  # which has a name of its own
OUTPUT = "output.weight"
EMBEDDING = "token_embd.weight"
GEMMA_27B_LAYERS = 62  # the one Gemma 3 whose queries are scaled by width / heads


class Reader(GGUFReader):
    """The package's reader, but for lists: it passes over them.

    A vocabulary and its merges have a hundred thousand strings, of each of which the package
    would make some arrays, for seconds. Nobody asks this reader for them.
    """

    def _get_field_parts(
        self, orig_offs: int, raw_type: np.integer
    ) -> tuple[int, list[np.ndarray], list[int], list[GGUFValueType]]:
        """Return a value's size in bytes, its parts, where its data are in them, and its types."""
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        order = "<" if self.endianess.name == "LITTLE" else ">"
        kind, count = struct.unpack_from(f"{order}IQ", self.data, orig_offs)
        place = orig_offs + struct.calcsize("<IQ")
        if kind == GGUFValueType.STRING:
            content, length = memoryview(self.data), struct.Struct(f"{order}Q")
            for _ in range(count):
                place += length.size + length.unpack_from(content, place)[0]
        elif kind == GGUFValueType.ARRAY:
            raise ValueError("a list of lists")
        else:
            place += count * np.dtype(self.gguf_scalar_to_np[GGUFValueType(kind)]).itemsize
        return place - orig_offs, [], [], [GGUFValueType.ARRAY]


class Layout(NamedTuple):
    """What a file holds.

    Attributes:
        values: The metadata, but for lists.
        architecture: llama.cpp's name of it.
        tensors: By llama.cpp's name, mapped into memory.
    """

    values: dict[str, object]
    architecture: str
    tensors: dict[str, ReaderTensor]


def is_here(checkpoint: Path) -> bool:
    """Return whether a checkpoint is a file in this format, by its name."""
    return checkpoint.suffix == SUFFIX


def read_settings(checkpoint: Path) -> dict[str, object]:
    """Return what ``config.json`` would hold, as it follows from the metadata.

    Raises:
        ValueError: If the file is missing, damaged, a part of a model, or of an architecture
            that is not one of ``ARCHITECTURES``.
    """
    layout = _layout(checkpoint)
    name, own = ARCHITECTURES[layout.architecture], {}
    for key, renamed in SETTINGS.items():
        value = layout.values.get(f"{layout.architecture}.{key}")
        if value is not None:
            own[OF_GPT2.get(renamed, renamed) if name == "gpt2" else renamed] = value
    if missing := {"num_hidden_layers", "hidden_size", "num_attention_heads"} - own.keys():
        raise ValueError(
            f"{checkpoint}: the metadata must give {', '.join(sorted(missing))}, got none. "
            "Get the file again."
        )
    own["vocab_size"] = _shape(_tensor(layout, checkpoint, EMBEDDING))[0]
    own["tie_word_embeddings"] = OUTPUT not in layout.tensors
    if name in ("llama", "qwen2", "qwen3"):
        own["attention_bias"] = "blk.0.attn_q.bias" in layout.tensors
    base = layout.values.get(f"{layout.architecture}.rope.freq_base")
    if name == "gemma3_text":
        width, heads = own["hidden_size"], own["num_attention_heads"]
        is_27b = own["num_hidden_layers"] == GEMMA_27B_LAYERS
        own["query_pre_attn_scalar"] = width // heads if is_27b else own.get("head_dim", 256)
        own["rope_theta"] = base or 1e6
    elif base is not None:
        own["rope_parameters"] = {"rope_type": "default", "rope_theta": base}
    return {"model_type": name, **own}


def tensor_names(checkpoint: Path) -> list[str]:
    """Return Hugging Face's name of every tensor."""
    return list(tensor_shapes(checkpoint))


def read_tensors(checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
    """Return the tensors whose names match, as ``files.read_tensors``; only their bytes are read.

    Raises:
        ValueError: As ``read_settings``, or if a tensor cannot be read.
    """
    layout, names = _layout(checkpoint), _hugging_face_names(checkpoint)
    heads = _heads(layout)
    tensors: Tensors = {}
    for original, tensor in layout.tensors.items():
        if match := pattern.search(names.get(original, original)):
            values = _values(checkpoint, tensor)
            tensors[match[1]] = _as_trained(layout.architecture, original, values, heads)
    return tensors


def tensor_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor; no weights are read."""
    layout, names = _layout(checkpoint), _hugging_face_names(checkpoint)
    shapes = {}
    for name, tensor in layout.tensors.items():
        shape = torch.Size(_shape(tensor))
        is_transposed = _is_transposed(layout.architecture, name)
        shapes[names.get(name, name)] = shape[::-1] if is_transposed else shape
    return shapes


def check_positions(checkpoint: Path) -> None:
    """Check that a token's position enters as the settings say, without a scaling of angles.

    A frozen layer has no positions, so that this is for models that read captions.

    Raises:
        ValueError: If the file scales the angles of rotary positions.
    """
    layout = _layout(checkpoint)
    kind = layout.values.get(f"{layout.architecture}.rope.scaling.type", "none")
    factor = layout.values.get(f"{layout.architecture}.rope.scaling.factor", 1.0)
    if "rope_freqs.weight" in layout.tensors or (kind != "none" and factor != 1.0):
        raise ValueError(
            f"{checkpoint}: rotary positions must not be scaled for features of captions, got "
            f"{'factors for each angle' if kind == 'none' else kind}. Use the model in Hugging "
            "Face format; this file is enough for single blocks."
        )


def text_splits(checkpoint: Path) -> str | None:
    """Return llama.cpp's name of how a byte-level tokenizer splits texts; None of others."""
    values = _layout(checkpoint).values
    return (
        values.get("tokenizer.ggml.pre") if values.get("tokenizer.ggml.model") == "gpt2" else None
    )


@lru_cache(maxsize=4)
def _opened(checkpoint: Path, changed: int) -> Layout:
    try:
        reader = Reader(checkpoint)
        values = {
            name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1
        }
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else "a file that ends too early"
        raise ValueError(
            f"{checkpoint}: must be a complete GGUF file, got {reason}. Get the file again."
        ) from None
    values = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in values.items()
    }
    architecture = str(values.get("general.architecture"))
    return Layout(values, architecture, {one.name: one for one in reader.tensors})


def _layout(checkpoint: Path) -> Layout:
    """Return what a file holds, once it is known to be a whole model that can be read."""
    if not checkpoint.is_file():
        raise ValueError(
            f"{checkpoint}: must be a GGUF file, got none. Change the model's path in the config."
        )
    check_no_pointer(checkpoint)
    layout = _opened(checkpoint, checkpoint.stat().st_mtime_ns)
    if layout.architecture not in ARCHITECTURES:
        raise ValueError(
            f"{checkpoint}: the architecture must be one of {', '.join(ARCHITECTURES)}, got "
            f"{layout.architecture}. Use the model in Hugging Face format, or another model."
        )
    if (kind := layout.values.get("general.type", "model")) != "model":
        raise ValueError(f"{checkpoint}: must hold a model, got a GGUF of type {kind}. Change it.")
    if (parts := layout.values.get("split.count", 0)) > 1:
        raise ValueError(
            f"{checkpoint}: must be one file, got one of {parts} parts. Join them by llama.cpp's "
            "gguf-split --merge."
        )
    return layout


def _tensor(layout: Layout, checkpoint: Path, name: str) -> ReaderTensor:
    if name not in layout.tensors:
        raise ValueError(f"{checkpoint}: must hold {name}, got none. Get the file again.")
    return layout.tensors[name]


def _hugging_face_names(checkpoint: Path) -> dict[str, str]:
    """Return Hugging Face's name of each tensor that a model of this family has, by llama.cpp's."""
    layout = _layout(checkpoint)
    config = parse_config(read_settings(checkpoint), checkpoint)
    family, layers = FAMILIES[config.model_type], config.num_hidden_layers
    [architecture] = (key for key, n in MODEL_ARCH_NAMES.items() if n == layout.architecture)
    given = get_tensor_name_map(architecture, layers)
    stem = "transformer" if family.stem == "h" else "model"
    parts = [name.removesuffix(".weight") for name in empty_layer(config, 0).state_dict()]
    names = [f"{stem}.{family.embedding}", f"{stem}.{family.norm}", f"{stem}.wpe", "lm_head"]
    names += [f"{stem}.{family.stem}.{n}.{part}" for n in range(layers) for part in parts]
    found: dict[str, str] = {}
    for name in names:
        bare = name.removesuffix(".bias")
        ending = ".bias" if bare != name else ".weight"
        original = given.get_name(bare)
        if original is None:
            continue
        found[f"{original}{ending}"] = f"{bare}{ending}"
        if ending == ".weight":
            found.setdefault(f"{original}.bias", f"{bare}.bias")
    found["rope_freqs.weight"] = f"{stem}.rotary_emb.inv_freq"  # constants
    for name in layout.tensors:  # of a layer, but unknown: whoever reads that layer must see it
        if name not in found and (match := re.fullmatch(r"blk\.(\d+)\.(.+)", name)):
            found[name] = f"{stem}.{family.stem}.{match[1]}.{match[2]}"
    return found


def _shape(tensor: ReaderTensor) -> tuple[int, ...]:
    """Return the shape with rows first: the format lists the fastest dimension first."""
    return tuple(int(size) for size in reversed(tensor.shape))


def _values(checkpoint: Path, tensor: ReaderTensor) -> Tensor:
    """Return a copy of a tensor: in its own precision, or in float32 where it is quantised."""
    kinds, data = GGMLQuantizationType, np.array(tensor.data)
    try:
        if tensor.tensor_type == kinds.BF16:
            values = torch.from_numpy(data).view(torch.bfloat16)
        elif tensor.tensor_type in (kinds.F16, kinds.F32):
            values = torch.from_numpy(data)
        else:
            values = torch.from_numpy(np.ascontiguousarray(dequantize(data, tensor.tensor_type)))
        return values.reshape(_shape(tensor))
    except (ValueError, RuntimeError) as error:  # also of a type that gguf does not implement
        raise ValueError(
            f"{checkpoint}: tensor {tensor.name} must be whole and of a type that gguf reads, got "
            f"{tensor.tensor_type.name}: {error}. Get the file again, or in another quantisation."
        ) from None


def _heads(layout: Layout) -> tuple[int, int]:
    """Return the numbers of heads of queries, and of keys and values."""
    count = layout.values.get(f"{layout.architecture}.attention.head_count", 1)
    return count, layout.values.get(f"{layout.architecture}.attention.head_count_kv", count)


def _as_trained(architecture: str, name: str, values: Tensor, heads: tuple[int, int]) -> Tensor:
    """Undo what llama.cpp's converter does to a tensor."""
    if architecture == "llama" and (match := re.search(r"\.attn_([qk])\.", name)):
        return _halves(values, heads[match[1] == "k"])
    if _is_transposed(architecture, name):
        return values.T.contiguous()
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return values - 1  # Gemma's norms multiply by one more than their weight
    return values


def _halves(values: Tensor, heads: int) -> Tensor:
    """Return the rows of each head with the pairs that positions turn half a head apart.

    llama.cpp has the two rows of a pair next to each other.
    """
    return values.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(values.shape)


def _is_transposed(architecture: str, name: str) -> bool:
    """Return whether a matrix is (inputs, outputs) in Hugging Face's GPT-2."""
    matrix = re.search(r"\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$", name)
    return architecture == "gpt2" and matrix is not None
