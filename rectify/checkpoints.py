"""Checkpoint folders: settings and named tensors, read without building a model.

Hugging Face's format (``config.json``; one or many ``.safetensors`` or ``.bin`` files) and Meta's
(``params.json`` and ``consolidated.00.pth``), whose settings and names are given as Hugging
Face's. Files are mapped into memory, so that only the bytes of the tensors that are used are
read. Pickles are opened with ``weights_only``: they cannot run code.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rectify.records import read_json

Tensors = dict[str, Tensor]

# Hugging Face's conversion also permutes the rows of wq and wk within each head, for its way of
# turning pairs of rows by an angle. Without rotary positions there are no pairs, and the product
# q.k stays the same when both are permuted alike: the rows are taken as they are.
META_LAYER = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "attention.inner_attention.rope.freqs": "self_attn.rotary_emb.inv_freq",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
META_MODEL = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "rope.freqs": "model.rotary_emb.inv_freq",
}


def read_settings(checkpoint: Path) -> dict[str, Any]:
    """Return the values of ``config.json``, or those that follow from Meta's ``params.json``.

    Raises:
        ValueError: If neither is there, or it is not as it must be.
    """
    if (checkpoint / "config.json").is_file():
        return read_json(checkpoint / "config.json")
    if (checkpoint / "params.json").is_file():
        return _meta_settings(checkpoint)
    raise ValueError(
        f"{checkpoint}: must be a folder in Hugging Face's or Meta's format, got no config.json "
        "or params.json. Change the model's path in the config, or pretrain the model first."
    )


def read_tensors(checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
    """Return copies of the tensors whose names match, under the first group of the match.

    Only files that hold one of them are opened.

    Raises:
        ValueError: If the folder holds no weights, or such a file is damaged or missing.
    """
    tensors: Tensors = {}
    for file, names in _files(checkpoint).items():
        wanted = {name: match[1] for name in names if (match := pattern.search(name))}
        mapped = mapped_tensors(checkpoint / file) if wanted else {}
        for name in sorted(wanted.keys() & mapped.keys()):
            tensors[wanted[name]] = mapped[name].clone()
    return tensors


def tensor_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor; no weights are read.

    Raises:
        ValueError: As ``read_tensors``.
    """
    return {
        name: tensor.shape
        for file in _files(checkpoint)
        for name, tensor in mapped_tensors(checkpoint / file).items()
    }


def mapped_tensors(path: Path) -> Tensors:
    """Return a file's tensors mapped into memory: bytes are read when a tensor is used.

    Raises:
        ValueError: If the file is missing, cut short or of another format.
    """
    try:
        if path.suffix not in (".bin", ".pth"):
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(damaged(path, error)) from None
    if path.suffix == ".pth":
        return {_hugging_face_name(name): tensor for name, tensor in tensors.items()}
    return tensors


def damaged(path: Path, error: Exception) -> str:
    """Return the one line for a file that a library could not read."""
    reason = (str(error).strip() or "an empty file").splitlines()[0]
    return f"{path}: must be a whole file of tensors, got {reason}. Get the file again."


def _files(checkpoint: Path) -> dict[str, list[str]]:
    """Return the files of a checkpoint with the names of their tensors."""
    for file in ("model.safetensors", "pytorch_model.bin"):
        index = checkpoint / f"{file}.index.json"
        if index.is_file():
            files: dict[str, list[str]] = {}
            for name, part in read_json(index)["weight_map"].items():
                _check_inside(index, part)
                files.setdefault(part, []).append(name)
            return files
        if (checkpoint / file).is_file():
            return {file: list(mapped_tensors(checkpoint / file))}
    meta = _meta_file(checkpoint)
    return {meta.name: list(mapped_tensors(meta))}


def _check_inside(index: Path, part: str) -> None:
    if Path(part).name != part:
        raise ValueError(
            f"{index}: its parts must lie beside it, got {part!r}. Get the checkpoint again."
        )


def _meta_file(checkpoint: Path) -> Path:
    files = sorted(checkpoint.glob("consolidated.*.pth"))
    if not files:
        raise ValueError(
            f"{checkpoint}: must hold model.safetensors or pytorch_model.bin, their index, or "
            "consolidated.00.pth, got none. Get the checkpoint again."
        )
    if len(files) > 1:
        raise ValueError(
            f"{checkpoint}: must hold one consolidated.00.pth, got {len(files)} parts, each with "
            "a slice of every tensor. Get the checkpoint in Hugging Face format."
        )
    return files[0]


def _hugging_face_name(name: str) -> str:
    layer = re.match(r"layers\.(\d+)\.(.+)$", name)
    if layer:
        return f"model.layers.{layer[1]}.{META_LAYER.get(layer[2], layer[2])}"
    return META_MODEL.get(name, name)


def _meta_settings(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "params.json"
    values = read_json(path)
    missing = {"dim", "n_heads", "n_layers", "norm_eps"} - values.keys()
    if missing:
        raise ValueError(
            f"{path}: must have dim, n_heads, n_layers and norm_eps, got no "
            f"{', '.join(sorted(missing))}. Get the file again."
        )
    return {
        "model_type": "llama",
        "hidden_size": values["dim"],
        "intermediate_size": _meta_width(checkpoint),
        "num_attention_heads": values["n_heads"],
        "num_key_value_heads": values.get("n_kv_heads") or values["n_heads"],
        "num_hidden_layers": values["n_layers"],
        "rms_norm_eps": values["norm_eps"],
    }


def _meta_width(checkpoint: Path) -> int:
    """Return the MLP's width, which ``multiple_of`` and ``ffn_dim_multiplier`` only imply."""
    file, name = _meta_file(checkpoint), "layers.0.feed_forward.w1.weight"
    tensors = mapped_tensors(file)
    if _hugging_face_name(name) not in tensors:
        raise ValueError(f"{file}: tensor {name} must be there, got none. Get the file again.")
    return tensors[_hugging_face_name(name)].shape[0]
