"""Checkpoints in Meta's format, under the settings and the names of Hugging Face's.

A folder holds ``params.json`` and one or many ``consolidated.<n>.pth``. Larger models are cut
for model parallelism: each file holds a slice of every matrix, cut by its rows or, where the
layer sums over the slices, by its columns. The embedding is cut by its columns up to LLaMA 2,
and by its rows in LLaMA 3. Norms are complete in every file.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from rectify.language import hugging_face_format
from rectify.results.files import check_no_pointer, read_json
from rectify.tensors import Tensors, copied_tensor, mapped_tensors

PARAMS = "params.json"

# Hugging Face's conversion also permutes the rows of wq and wk within each head, for its way of
# turning pairs of rows by an angle. Without rotary positions there are no pairs, and the product
# q.k stays the same when both are permuted alike: the rows are taken as they are.
LAYER = {
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
MODEL = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "rope.freqs": "model.rotary_emb.inv_freq",
}
CUT_BY_COLUMNS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
EMBEDDING = MODEL["tok_embeddings.weight"]


def is_here(checkpoint: Path) -> bool:
    """Return whether a folder is in this format.

    Some folders hold a model in both formats; then this one has nothing that is needed.
    """
    has_settings = (checkpoint / PARAMS).is_file()
    return has_settings and not hugging_face_format.holds_weights(checkpoint)


def read_settings(checkpoint: Path) -> dict[str, object]:
    """Return what ``config.json`` would hold, as it follows from ``params.json`` and a weight.

    Raises:
        ValueError: If ``params.json`` lacks a value, or a file is missing or damaged.
    """
    path = checkpoint / PARAMS
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
        "intermediate_size": _mlp_width(checkpoint),
        "num_attention_heads": values["n_heads"],
        "num_key_value_heads": values.get("n_kv_heads") or values["n_heads"],
        "num_hidden_layers": values["n_layers"],
        "rms_norm_eps": values["norm_eps"],
    }


def tensor_names(checkpoint: Path) -> list[str]:
    """Return Hugging Face's name of every tensor."""
    return list(tensor_shapes(checkpoint))


def read_tensors(checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
    """Return the tensors whose names match, their slices joined, as ``files.read_tensors``."""
    files = slice_files(checkpoint)
    tensors: Tensors = {}
    for original in dict.fromkeys(name for file in files for name in mapped_tensors(file)):
        name = _hugging_face_name(original)
        if match := pattern.search(name):
            copies = (copied_tensor(file, original) for file in files)
            slices = [tensor for tensor in copies if tensor is not None]
            _check_slices(checkpoint, name, slices, len(files))
            tensors[match[1]] = _joined(checkpoint, name, slices)
    return tensors


def tensor_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every joined tensor; no weights are read."""
    slices: dict[str, list[Tensor]] = {}
    for file in slice_files(checkpoint):
        for name, tensor in mapped_tensors(file).items():
            slices.setdefault(_hugging_face_name(name), []).append(tensor.to("meta"))
    return {name: _joined(checkpoint, name, parts).shape for name, parts in slices.items()}


def slice_files(checkpoint: Path) -> list[Path]:
    """Return the files of a checkpoint, each with a slice of every tensor.

    Raises:
        ValueError: If there are none, or they are not numbered from 00 without a gap.
    """
    files = sorted(checkpoint.glob("consolidated.*.pth"))
    if not files:
        raise ValueError(
            f"{checkpoint}: must hold consolidated.00.pth next to {PARAMS}, or a model in Hugging "
            "Face's format, got none. Get the checkpoint again."
        )
    for number, file in enumerate(files):
        check_no_pointer(file)
        if file.name != f"consolidated.{number:02d}.pth":
            raise ValueError(
                f"{checkpoint}: must hold consolidated.{number:02d}.pth, the parts being numbered "
                f"from 00, got {file.name} in its place. Get the checkpoint again."
            )
    return files


def _check_slices(checkpoint: Path, name: str, slices: list[Tensor], count: int) -> None:
    """Check that each of ``count`` files has a slice of one shape, or the same vector."""
    alike = all(tensor.shape == slices[0].shape for tensor in slices)
    if slices[0].ndim == 1:
        alike = alike and all(torch.equal(tensor, slices[0]) for tensor in slices)
    if len(slices) != count or not alike:
        raise ValueError(
            f"{checkpoint}: tensor {name} must be in all {count} parts, slices alike in shape and "
            f"vectors equal, got {len(slices)} of "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in slices)}. "
            "Get the checkpoint again, or in Hugging Face format."
        )


def _joined(checkpoint: Path, name: str, slices: list[Tensor]) -> Tensor:
    if len(slices) == 1 or slices[0].ndim == 1:
        return slices[0]
    by_columns = name.endswith(CUT_BY_COLUMNS)
    if name == EMBEDDING:
        by_columns = slices[0].shape[1] < read_json(checkpoint / PARAMS)["dim"]
    return torch.cat(slices, dim=1 if by_columns else 0)


def _hugging_face_name(name: str) -> str:
    layer = re.match(r"layers\.(\d+)\.(.+)$", name)
    if layer:
        return f"model.layers.{layer[1]}.{LAYER.get(layer[2], layer[2])}"
    return MODEL.get(name, name)


def _mlp_width(checkpoint: Path) -> int:
    """Return the MLP's width, which ``multiple_of`` and ``ffn_dim_multiplier`` only imply."""
    original = "layers.0.feed_forward.w1.weight"
    files = slice_files(checkpoint)
    slices = [
        tensor for file in files if (tensor := mapped_tensors(file).get(original)) is not None
    ]
    if len(slices) < len(files):
        raise ValueError(
            f"{checkpoint}: tensor {original} must be in every part, got {len(slices)} of "
            f"{len(files)}. Get the checkpoint again."
        )
    return sum(len(tensor) for tensor in slices)
