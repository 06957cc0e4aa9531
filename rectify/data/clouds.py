"""Point clouds with labels or captions in memory, in one fixed order.

A prepared set is a folder as one of images (``rectify.data.sets``): ``manifest.csv`` lists every
item, ``arrays.safetensors`` holds the coordinates and, where they are known, which points belong
to the object.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Bool, Float32, Int64
from pandas import DataFrame
from safetensors.torch import save_file
from torch import Tensor

from rectify.data.arrays import opened
from rectify.data.manifests import ARRAYS, LISTING, manifest, read_listing, write_listing
from rectify.results.files import atomic_path

CLOUDS = "clouds"
"""Fact of a manifest that says so."""


@dataclass(frozen=True)
class CloudSet:
    """One split."""

    points: Float32[Tensor, "items points 3"]
    """Coordinates as they were published or drawn."""
    labels: Int64[Tensor, " items"]
    """Index into ``classes``; -1 where an item has a caption instead."""
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    """Where each item comes from, or how it was drawn."""
    objects: Bool[Tensor, "items points"] | None = None
    """Whether a point is of the object, not of what is around it; None where nobody knows."""
    captions: tuple[str, ...] = ()
    """One per item, or none at all."""

    def __post_init__(self) -> None:
        objects = self.points[..., 0] if self.objects is None else self.objects
        assert objects.shape == self.points.shape[:2], objects.shape
        assert len(self.points) == len(self.labels) == len(self.sources) == len(self.names)

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, kept: Bool[Tensor, " items"]) -> "CloudSet":
        """Return the items that are kept."""
        numbers = kept.nonzero()[:, 0].tolist()
        return replace(
            self,
            points=self.points[kept],
            labels=self.labels[kept],
            sources=tuple(self.sources[number] for number in numbers),
            objects=None if self.objects is None else self.objects[kept],
            captions=tuple(self.captions[number] for number in numbers if self.captions),
        )

    @property
    def names(self) -> list[str]:
        """Each item's caption, or the name of its class."""
        return list(self.captions) or [self.classes[label] for label in self.labels.tolist()]


def listing_of(sets: Mapping[str, CloudSet]) -> DataFrame:
    """Return the manifest of the splits."""
    return manifest(
        [
            (split, *item)
            for split, clouds in sets.items()
            for item in zip(clouds.labels.tolist(), clouds.names, clouds.sources, strict=True)
        ]
    )


def save_clouds(folder: Path, sets: Mapping[str, CloudSet], provenance: dict) -> None:
    """Write the splits of a set; the manifest comes last.

    Args:
        folder: Gets ``manifest.csv``, its note and ``arrays.safetensors``.
        sets: Splits by name, all with the same classes.
        provenance: What ``rectify.results.provenance.provenance`` returned.
    """
    tensors = {}
    for split, clouds in sets.items():
        parts = {"points": clouds.points, "labels": clouds.labels, "objects": clouds.objects}
        tensors |= {
            f"{split}.{name}": part.contiguous() for name, part in parts.items() if part is not None
        }
    classes = next(iter(sets.values())).classes
    with atomic_path(Path(folder) / ARRAYS) as temporary:
        save_file(tensors, temporary, {"classes": json.dumps(classes, ensure_ascii=False)})
    facts = {**provenance["facts"], CLOUDS: True}
    write_listing(folder, listing_of(sets), {**provenance, "facts": facts})


def has_clouds(folder: Path) -> bool:
    """Return whether a prepared set has clouds rather than images.

    Raises:
        ValueError: If its manifest is missing or was changed.
    """
    return read_listing(folder)[1].get(CLOUDS, False)


def load_clouds(folder: Path, split: str) -> CloudSet:
    """Return one split of a prepared set.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    listing, _ = read_listing(folder)
    rows = listing[listing["split"] == split]
    tensors, classes = _read_arrays(folder, split)
    if tensors["labels"].tolist() != rows["label"].tolist():
        raise ValueError(
            f"{folder}: {LISTING} and {ARRAYS} must list the same items of {split}, got others. "
            "Prepare the data set again."
        )
    captions = () if classes else tuple(rows["name"])
    return CloudSet(**tensors, classes=classes, sources=tuple(rows["source"]), captions=captions)


def _read_arrays(folder: Path, split: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return a split's tensors by the fields of ``CloudSet``, and the names of the classes."""
    with opened(folder, split) as file:
        classes = tuple(json.loads(file.metadata()["classes"]))
        names = [name for name in ("points", "labels", "objects")
                 if name != "objects" or f"{split}.{name}" in set(file.keys())]  # fmt: skip
        return {name: file.get_tensor(f"{split}.{name}") for name in names}, classes
