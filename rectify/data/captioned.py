"""Images with several captions each: which caption is about which image.

A prepared set is a folder as ``rectify.data.texts`` has it, with a row for each caption.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float64, Int32, Int64, UInt8
from pandas import DataFrame
from torch import Tensor

from rectify.data.manifests import manifest
from rectify.data.sets import FileSet
from rectify.data.texts import filled_up, load_texts, save_texts

FIELDS = ("words", "pictures")


@dataclass(frozen=True)
class Captioned:
    """The images of one split, before anything is made of them."""

    pictures: Sequence[str]
    """Their files, or how they were drawn."""
    captions: Sequence[Sequence[str]]
    """Of each image, one at least."""
    images: UInt8[Tensor, "pictures 1 height width"] | None = None
    """Those that were drawn."""

    @property
    def texts(self) -> list[str]:
        """All captions, those of an image one after the other."""
        return [text for own in self.captions for text in own]


@dataclass(frozen=True)
class CaptionSet:
    """One split."""

    words: Int32[Tensor, "captions longest"]
    """Numbers of tokens: see ``rectify.data.texts``."""
    pictures: Int64[Tensor, " captions"]
    """Which image each is about, from 0 on, in order."""
    images: UInt8[Tensor, "pictures 1 height width"] | FileSet | None = None
    """None where they stay in files and the set has no place yet."""

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def counts(self) -> Int64[Tensor, " pictures"]:
        """How many captions each image has."""
        return self.pictures.bincount()

    def others(
        self, items: Int64[Tensor, " batch"], shares: Float64[Tensor, "batch others"]
    ) -> Int64[Tensor, "batch others"]:
        """Return captions of other images than those that some captions are about.

        Args:
            items: The captions.
            shares: From 0 to below 1: which of all others, in their order.
        """
        counts = self.counts
        pictures = self.pictures[items]
        own, first = counts[pictures][:, None], (counts.cumsum(0) - counts)[pictures][:, None]
        chosen = (shares * (len(self) - own)).long()
        return chosen + own * (chosen >= first)


def gathered(described: Captioned, tokens: Sequence[Sequence[int]]) -> CaptionSet:
    """Return a split with the tokens of its captions."""
    counts = torch.tensor([len(own) for own in described.captions])
    pictures = torch.arange(len(counts)).repeat_interleave(counts)
    return CaptionSet(filled_up(tokens), pictures, described.images)


def listing_of(split_by_name: Mapping[str, Captioned]) -> DataFrame:
    """Return the manifest of the splits: a row for each caption."""
    return manifest(
        (split, -1, text, picture)
        for split, described in split_by_name.items()
        for picture, own in zip(described.pictures, described.captions, strict=True)
        for text in own
    )


def save_captions(
    folder: Path,
    sets: Mapping[str, CaptionSet],
    listing: DataFrame,
    files: Path | None,
    provenance: dict,
) -> None:
    """Write the splits of a set: see ``rectify.data.texts.save_texts``."""
    save_texts(folder, sets, FIELDS, listing, files, provenance, {})


def load_captions(folder: Path, split: str) -> CaptionSet:
    """Return one split of a prepared set.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    return CaptionSet(**load_texts(folder, split, FIELDS)[0])
