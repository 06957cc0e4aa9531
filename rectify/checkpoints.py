"""Checkpoint folders: settings and named tensors, read without building a model.

Hugging Face's format (``config.json``; one or many ``.safetensors`` or ``.bin`` files) and Meta's
(``params.json``; one or many ``consolidated.<n>.pth``), whose settings and names are given as
Hugging Face's. Files are mapped into memory, so that only the bytes of the tensors that are
used are read. Pickles are opened with ``weights_only``: they cannot run code.
"""

import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rectify.records import read_json

Tensors = dict[str, Tensor]
FETCHED = "fetched.json"  # what `rectify fetch` leaves in a folder
UNREADABLE = (SafetensorError, OSError, RuntimeError, EOFError)  # what libraries raise for a file
OLD_START = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # of torch before 1.6

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
# Meta's larger models are cut for model parallelism: each file holds a slice of every matrix, cut
# by its rows or, where the layer sums over the slices, by its columns. The embedding is cut by
# its columns up to LLaMA 2, and by its rows in LLaMA 3. Norms are whole in every file.
CUT_BY_COLUMNS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
EMBEDDING = META_MODEL["tok_embeddings.weight"]


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
        "or params.json. Run `snakemake fetch`, or change the model's path in the config."
    )


def read_revision(checkpoint: Path) -> str | None:
    """Return the commit on the hub that a checkpoint was fetched from; None if it was not."""
    note = checkpoint / FETCHED
    return read_json(note)["commit"] if note.is_file() else None


def read_tensors(checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
    """Return copies of the tensors whose names match, under the first group of the match.

    Only files that hold one of them are opened, and only their bytes are read.

    Raises:
        ValueError: If the folder holds no weights, or such a file is damaged or missing.
    """
    tensors: Tensors = {}
    for name, files in _files(checkpoint).items():
        if match := pattern.search(name):
            parts = _copies(files, name)
            if len(files) > 1:
                _check_parts(checkpoint, name, parts, len(files))
            if parts:
                tensors[match[1]] = _joined(checkpoint, name, parts)
    return tensors


def tensor_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor; no weights are read.

    Raises:
        ValueError: As ``read_tensors``.
    """
    places = _files(checkpoint)
    mapped = {file: mapped_tensors(file) for files in places.values() for file in files}
    shapes = {}
    for name, files in places.items():
        parts = [mapped[file][name].to("meta") for file in files if name in mapped[file]]
        if parts:
            shapes[name] = _joined(checkpoint, name, parts).shape
    return shapes


def mapped_tensors(path: Path) -> Tensors:
    """Return a file's tensors mapped into memory: bytes are read when a tensor is used.

    Raises:
        ValueError: If the file is missing, cut short or of another format.
    """
    if path.suffix == ".bin":
        return load_pickle(path)
    if path.suffix == ".pth":
        return {_hugging_face_name(name): tensor for name, tensor in load_pickle(path).items()}
    try:
        return load_file(path)
    except UNREADABLE as error:
        raise ValueError(_refused(path, error)) from None


def load_pickle(path: Path, ignored: Iterable[str] = ()) -> Any:
    """Return what a file of ``torch.save`` holds, its tensors mapped into memory.

    Args:
        path: The file.
        ignored: Full names of classes and functions that may stand beside the tensors. None of
            them is imported or called; what they would make is left out.

    Raises:
        ValueError: If the file is missing, cut short, of another format or holds other objects.
    """
    try:
        _check_zip(path)
        with torch.serialization.safe_globals([(_Ignored, name) for name in ignored]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        first = re.search(r"GLOBAL ([\w.]+)", str(error))
        got = f"other objects too{f', first {first[1]}' if first else ''}"
        advice = "Save its tensors alone, or get another file."
        raise ValueError(_refused(path, got, advice)) from None
    except UNREADABLE as error:
        raise ValueError(_refused(path, error)) from None


class _Ignored:
    """Takes the place of an object that is not used, whatever it is made of."""

    def __init__(self, *content: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _check_zip(path: Path) -> None:
    """Check that a file is a zip file to its end, as torch's are since 1.6."""
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        start = file.read(len(OLD_START))
    if start == OLD_START:
        advice = "Load and save it again with a recent torch."
        raise ValueError(_refused(path, "torch's old format", advice))
    whole = not b"PK".startswith(start[:2])
    raise ValueError(_refused(path, "another format" if whole else "a file cut short"))


def _refused(path: Path, got: Exception | str, advice: str = "Get the file again.") -> str:
    """Return the one line for a file that cannot be read."""
    reason = str(got).strip().partition("\n")[0] or "a file cut short"
    return f"{path}: must be a whole file of tensors, got {reason}. {advice}"


def _copies(files: list[Path], name: str) -> list[Tensor]:
    """Return a tensor's parts. Files are opened anew for each: a closed one gives memory back."""
    parts = (mapped_tensors(file).get(name) for file in files)
    return [part.clone() for part in parts if part is not None]


def _files(checkpoint: Path) -> dict[str, list[Path]]:
    """Return the names of a checkpoint's tensors with the files that hold them, or their parts."""
    for file in ("model.safetensors", "pytorch_model.bin"):
        index, single = checkpoint / f"{file}.index.json", checkpoint / file
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict):
                raise ValueError(
                    f"{index}: must have a weight_map, got none. Get the checkpoint again."
                )
            return {name: [_beside(index, part)] for name, part in places.items()}
        if single.is_file():
            return {name: [single] for name in mapped_tensors(single)}
    parts = _meta_files(checkpoint)
    return {name: parts for part in parts for name in mapped_tensors(part)}


def _beside(index: Path, part: str) -> Path:
    if Path(part).name != part:
        raise ValueError(
            f"{index}: its parts must lie beside it, got {part!r}. Get the checkpoint again."
        )
    return index.parent / part


def _meta_files(checkpoint: Path) -> list[Path]:
    files = sorted(checkpoint.glob("consolidated.*.pth"))
    if not files:
        raise ValueError(
            f"{checkpoint}: must hold model.safetensors or pytorch_model.bin, their index, or "
            "consolidated.00.pth, got none. Get the checkpoint again."
        )
    for number, file in enumerate(files):
        if file.name != f"consolidated.{number:02d}.pth":
            raise ValueError(
                f"{checkpoint}: must hold consolidated.{number:02d}.pth, the parts being numbered "
                f"from 00, got {file.name} in its place. Get the checkpoint again."
            )
    return files


def _check_parts(checkpoint: Path, name: str, parts: list[Tensor], count: int) -> None:
    """Check that each of ``count`` files has a slice of one shape, or the same whole vector."""
    alike = all(part.shape == parts[0].shape for part in parts)
    if parts[0].ndim == 1:
        alike = alike and all(torch.equal(part, parts[0]) for part in parts)
    if len(parts) != count or not alike:
        raise ValueError(
            f"{checkpoint}: tensor {name} must be in all {count} parts, slices alike in shape and "
            f"vectors equal, got {len(parts)} of {', '.join(str(tuple(p.shape)) for p in parts)}. "
            "Get the checkpoint again, or in Hugging Face format."
        )


def _joined(checkpoint: Path, name: str, parts: list[Tensor]) -> Tensor:
    if len(parts) == 1 or parts[0].ndim == 1:
        return parts[0]
    by_columns = name.endswith(CUT_BY_COLUMNS)
    if name == EMBEDDING:
        by_columns = parts[0].shape[1] < read_json(checkpoint / "params.json")["dim"]
    return torch.cat(parts, dim=1 if by_columns else 0)


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
    name = _hugging_face_name("layers.0.feed_forward.w1.weight")
    files = _meta_files(checkpoint)
    parts = [part for file in files if (part := mapped_tensors(file).get(name)) is not None]
    if len(parts) < len(files):
        raise ValueError(
            f"{checkpoint}: tensor layers.0.feed_forward.w1.weight must be in every part, got "
            f"{len(parts)} of {len(files)}. Get the checkpoint again."
        )
    return sum(len(part) for part in parts)
