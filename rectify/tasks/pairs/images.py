"""The images of pairs as a ViT sees them: one that was trained here, or a published one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from rectify.data.draws import Draws
from rectify.data.pairs import SPLIT
from rectify.data.sets import FileSet, ImageSet, load_set
from rectify.tasks.classification import LabelledSource
from rectify.tasks.contract import Machine, Recipe, Source, Task
from rectify.tasks.entry import Entry
from rectify.tasks.image_classification.augment import published_transform
from rectify.trunks.trunk import Inputs
from rectify.trunks.vit import create_vit

TAG = "augreg_in21k"  # of timm's weights, as in Huh et al. (2024)
IMAGE_SIZE = 224
WEIGHTS = "model.safetensors"


def as_trained(task: Task, entry: Entry, folder: Path, recipe: Recipe, machine: Machine) -> Source:
    """Return the images as a run's model sees its test images.

    Args:
        task: Of the run.
        entry: Of the set that the model learnt.
        folder: Of the prepared pairs.
        recipe: How the model was trained.
        machine: Where batches are wanted.

    Raises:
        ValueError: If the folder has no pairs, or the task does not see single images.
    """
    if not hasattr(task, "test_source") or hasattr(entry, "frames"):
        raise ValueError(
            f"vision-features: the run must have learnt images, got task {entry.task}. "
            "Choose another run."
        )
    return task.test_source(entry, _coloured(load_set(folder, SPLIT), entry), recipe, machine)


def as_published(vit: VisionTransformer, folder: Path, machine: Machine) -> Source:
    """Return the images as a published model of timm takes them."""
    items = load_set(folder, SPLIT)
    prepare, normalise = published_transform(vit)

    def change(images: Tensor, draws: Draws | None) -> Tensor:
        return normalise(images)

    return LabelledSource(items.images, items.labels, machine, prepare=prepare, change=change)


def _coloured(items: ImageSet | FileSet, entry: Entry) -> ImageSet | FileSet:
    """Return the images with as many channels as a model takes: grey ones as colours, too.

    Raises:
        ValueError: If they have colours and the model takes grey images.
    """
    if isinstance(items, FileSet) or items.images.shape[1] == entry.channels:
        return items
    if items.images.shape[1] != 1:
        raise ValueError(
            f"vision-features: a model of grey images must get grey images, got "
            f"{items.images.shape[1]} channels. Name other pairs under similarity.pairs."
        )
    return replace(items, images=items.images.expand(-1, entry.channels, -1, -1))


def inputs(source: Source, batch_size: int) -> Iterator[Inputs]:
    """Give the inputs of all items, in their order."""
    for batch in source.read(torch.arange(len(source)), batch_size):
        yield batch["inputs"]


def published(vision: Mapping[str, object]) -> VisionTransformer:
    """Return timm's ViT with its published weights, without a head.

    Args:
        vision: ``timm``, its name there; ``weights``, a folder that has them; else timm's cache.

    Raises:
        ValueError: If the folder does not have the weights.
    """
    name = f"{vision['timm']}.{TAG}"
    overlay = {}
    if "weights" in vision:
        file = Path(vision["weights"]) / WEIGHTS
        if not file.is_file():
            raise ValueError(
                f"{file}: timm's weights of {name} must be here, got no file. Run `snakemake "
                "fetch` where there is a network."
            )
        overlay["pretrained_cfg_overlay"] = {"file": str(file)}
    return create_vit(
        name, num_classes=0, image_size=IMAGE_SIZE, pretrained=True, overrides=overlay
    )
