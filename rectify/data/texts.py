"""Texts about images, as questions and captions are: their files, and their tokens.

A prepared set is a folder as one of images (``rectify.data.sets``): ``manifest.csv`` has a row for
each text with the image that it is about; ``arrays.safetensors`` holds the tokens of the texts and
whatever else is known of them. Drawn images are there, too; others stay in their files.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int32, Int64
from pandas import DataFrame
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rectify.data.arrays import opened
from rectify.data.manifests import ARRAYS, LISTING, NOTES, read_listing, write_listing
from rectify.data.sets import FileSet
from rectify.results.files import atomic_path

PADDING = 1
"""The token that stands where a text has none: RoBERTa's."""
IMAGES = "images"


def filled_up(tokens: Sequence[Sequence[int]]) -> Int32[Tensor, "texts longest"]:
    """Return the tokens of texts with ``PADDING`` behind the end of each."""
    rows = [torch.tensor(row, dtype=torch.int32) for row in tokens]
    return pad_sequence(rows, True, PADDING)


def cut(words: Int32[Tensor, "*batch longest"]) -> Int64[Tensor, "*batch words"]:
    """Return texts as long as the longest of them."""
    longest = int((words != PADDING).sum(-1).max())
    return words[..., :longest].long()


def save_texts(
    folder: Path,
    sets: Mapping[str, object],
    fields: Sequence[str],
    listing: DataFrame,
    files: Path | None,
    provenance: dict,
    notes: Mapping[str, object],
) -> None:
    """Write the splits of a set; the manifest comes last.

    Args:
        folder: Gets ``manifest.csv``, its note and ``arrays.safetensors``.
        sets: By split; each has the fields as tensors, and drawn ``images``.
        fields: What is written of each.
        listing: Their manifest.
        files: Folder that the images are named from, where they stay in their files.
        provenance: What ``rectify.results.provenance.provenance`` returned.
        notes: What is written next to the tensors, as JSON: in one entry of the file's metadata,
            since the order of several differs from time to time.
    """
    names = fields if files is not None else (*fields, IMAGES)
    tensors = {
        f"{split}.{name}": getattr(one, name).contiguous()
        for split, one in sets.items()
        for name in names
    }
    with atomic_path(Path(folder) / ARRAYS) as temporary:
        save_file(tensors, temporary, {NOTES: json.dumps(notes, ensure_ascii=False)})
    where = {} if files is None else {"files": f"{files}"}
    write_listing(folder, listing, {**provenance, "facts": {**provenance["facts"], **where}})


def load_texts(
    folder: Path, split: str, fields: Sequence[str]
) -> tuple[dict[str, Tensor | FileSet], dict[str, Any]]:
    """Return the fields and the images of one split of a prepared set, and its notes.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    listing, facts = read_listing(folder)
    in_files = "files" in facts
    with opened(folder, split) as file:
        names = fields if in_files else (*fields, IMAGES)
        tensors = {name: file.get_tensor(f"{split}.{name}") for name in names}
        notes = json.loads(file.metadata()[NOTES])
    rows = listing[listing["split"] == split]
    if len(tensors[fields[0]]) != len(rows):
        raise ValueError(
            f"{folder}: {LISTING} and {ARRAYS} must list the same items of {split}, got "
            f"{len(rows)} and {len(tensors[fields[0]])}. Prepare the data set again."
        )
    if in_files:
        once = rows.drop_duplicates("source")
        tensors[IMAGES] = FileSet(Path(facts["files"]), once, split)
    return tensors, notes
