"""The images or clouds of pairs as a model sees them: one trained here, or a published one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rectify.data.clouds import has_clouds, load_clouds
from rectify.data.draws import Draws
from rectify.data.pairs import SPLIT
from rectify.data.sets import FileSet, ImageSet, load_set
from rectify.tasks.classification import LabelledSource
from rectify.tasks.contract import Machine, Recipe, Source, Task
from rectify.tasks.entry import Entry
from rectify.tasks.image_classification.augment import published_transform
from rectify.trunks.pretrained import pretrained
from rectify.trunks.trunk import Inputs


def as_trained(task: Task, entry: Entry, folder: Path, recipe: Recipe, machine: Machine) -> Source:
    """Return the images, or clouds, as a run's model sees its test items.

    Args:
        task: Of the run.
        entry: Of the set that the model learnt.
        folder: Of the prepared pairs.
        recipe: How the model was trained.
        machine: Where batches are wanted.

    Raises:
        ValueError: If the folder has no pairs, or none of what the task sees.
    """
    if not hasattr(task, "test_source") or hasattr(entry, "frames"):
        raise ValueError(
            f"vision-features: the run must have learnt images or clouds, got task {entry.task}. "
            "Choose another run."
        )
    takes_clouds = hasattr(entry, "points")
    _check_kind(folder, takes_clouds)
    items = (
        load_clouds(folder, SPLIT)
        if takes_clouds
        else _coloured(load_set(folder, SPLIT), entry.channels)
    )
    return task.test_source(entry, items, recipe, machine)


def as_published(vit: nn.Module, folder: Path, machine: Machine) -> Source:
    """Return the images as a published model of timm takes them."""
    _check_kind(folder, takes_clouds=False)
    items = _coloured(load_set(folder, SPLIT), 3)
    prepare, normalise = published_transform(vit)

    def change(images: Tensor, draws: Draws | None) -> Tensor:
        return normalise(images)

    return LabelledSource(items.images, items.labels, machine, prepare=prepare, change=change)


def _check_kind(folder: Path, takes_clouds: bool) -> None:
    given = has_clouds(folder)
    if given != takes_clouds:
        kinds = {True: "clouds", False: "images"}
        raise ValueError(
            f"vision-features: a model of {kinds[takes_clouds]} must get pairs of such, got "
            f"{kinds[given]}. Name other pairs under similarity.pairs."
        )


def _coloured(items: ImageSet | FileSet, channels: int) -> ImageSet | FileSet:
    """Return the images with as many channels as a model takes: grey ones as colours, too.

    Raises:
        ValueError: If they have colours and the model takes grey images.
    """
    if isinstance(items, FileSet) or items.images.shape[1] == channels:
        return items
    if items.images.shape[1] != 1:
        raise ValueError(
            f"vision-features: a model of grey images must get grey images, got "
            f"{items.images.shape[1]} channels. Name other pairs under similarity.pairs."
        )
    return replace(items, images=items.images.expand(-1, channels, -1, -1))


def inputs(source: Source, batch_size: int) -> Iterator[Inputs]:
    """Give the inputs of all items, in their order."""
    for batch in source.read(torch.arange(len(source)), batch_size):
        yield batch["inputs"]


def check_given(
    config: Path | None, weights: Path | None, vision: Mapping[str, object] | None
) -> None:
    """Check that a model is given in one of two ways.

    Raises:
        ValueError: Unless there are settings and weights of a run, or a published vision.
    """
    if (vision is None) == (config is None) or bool(config) != bool(weights):
        raise ValueError(
            "vision-features: a model must be given by --config and --model, or by --pretrained, "
            "got both, none or one half. Correct the options."
        )


def published(vision: Mapping[str, object]) -> nn.Module:
    """Return a model of timm with its published weights, without a head.

    Args:
        vision: ``name``, in the config; ``timm``, its name there; ``weights``, a file or folder
            that has them, else the hub's cache; ``overrides``.

    Raises:
        ValueError: If a name is missing, or a tensor does not come from the weights.
    """
    for key in ("name", "timm"):
        if not isinstance(vision.get(key), str):
            raise ValueError(
                f"vision-features: --pretrained must have {key} as text, got {vision.get(key)!r}. "
                'Write \'{"name": "vit-t", "timm": "vit_tiny_patch16_224"}\'.'
            )
    return pretrained(vision["timm"], weights_of(vision), vision.get("overrides"))


def weights_of(vision: Mapping[str, object]) -> Path | None:
    """Return the file or folder of a vision's published weights, if it names one."""
    return Path(vision["weights"]) if vision.get("weights") else None
