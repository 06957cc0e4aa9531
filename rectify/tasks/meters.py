"""What the tasks whose trunk is METER share: its images, and where it starts from."""

from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from timm.data.auto_augment import rand_augment_transform
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torchvision.transforms import Compose

from rectify.data.batches import Prepare
from rectify.data.sets import FileSet
from rectify.tasks import unchanged
from rectify.tasks.contract import NO_TIMM, Recipe, Vision
from rectify.tasks.image_classification.augment import evaluation_transform, normalise
from rectify.tasks.worded import Worded
from rectify.trunks.meter import Meter
from rectify.trunks.meter_starts import load_start, start_files

OPERATIONS = (
    *("AutoContrast", "Equalize", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color"),
    *("Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
"""METER's, of timm's: an inverted picture has other colours than those that are spoken of."""

TOKENS = 20
"""Of a text where nothing else is said: fewer than the longest of most batches have."""

Kind = TypeVar("Kind", bound=Meter)


def trunk_of(
    task: str, kind: type[Kind], entry: Worded, vision: Vision, recipe: Recipe | None, outputs: int
) -> Kind:
    """Return a METER, and where it starts from.

    Args:
        task: Its name, for messages.
        kind: Which METER.
        entry: Of the set that it learns.
        vision: Its sizes.
        recipe: None for a trunk that gets trained weights.
        outputs: Of its head.

    Raises:
        ValueError: If another trunk is asked for, or a size or a start is not as it must be.
    """
    if vision.timm != NO_TIMM or vision.family is not None:
        raise ValueError(
            f"{task}: {vision.name} must have timm: {NO_TIMM} and no family, since the trunk is "
            f"METER, got {vision.timm} and {vision.family or 'none'}. Correct it."
        )
    trunk = kind.of(
        vision.overrides, answers=outputs, words=entry.words, image_size=entry.image_size
    )
    if recipe is not None and vision.start is not None:
        load_start(trunk, Path(vision.start))
    return trunk


def example_images(
    entry: Worded, count: int, device: torch.device | str
) -> Float[Tensor, "count 3 height width"]:
    """Return random images as the model takes them."""
    return torch.rand(count, 3, entry.image_size, entry.image_size, device=device)


def example_words(
    entry: Worded, *count: int, device: torch.device | str
) -> Int64[Tensor, "*count words"]:
    """Return the tokens of texts of the usual length, none of them padding."""
    return torch.zeros(*count, min(TOKENS, entry.longest), dtype=torch.int64, device=device)


def starts_of(vision: Vision) -> list[Path]:
    """Return the files of CLIP and RoBERTa, if training starts from them."""
    return [] if vision.start is None else start_files(Path(vision.start))


def training_prepare(
    task: str, recipe: Recipe, images: Tensor | FileSet, image_size: int
) -> Prepare | None:
    """Return what training images go through; None for those that are as the model takes them.

    Args:
        task: Its name, for messages.
        recipe: That changes them.
        images: All of them.
        image_size: Height and width of the model's input.

    Raises:
        ValueError: If the recipe changes images otherwise.
    """
    values, prepare = dict(unchanged.OF_IMAGES), None
    if isinstance(images, FileSet):
        values["crop"] = "centre"
        del values["auto_augment"]
        prepare = training_transform(image_size, recipe.auto_augment)
    unchanged.check(task, recipe, "meter", values)
    return prepare


def test_prepare(images: Tensor | FileSet, image_size: int) -> Prepare | None:
    """Return what test images go through; None for those that are as the model takes them."""
    return evaluation_transform(image_size, 1.0) if isinstance(images, FileSet) else None


def training_transform(image_size: int, operations: str | None) -> Compose:
    """Return what a training image goes through: RandAugment, then what test images do."""
    test = evaluation_transform(image_size, 1.0)
    if operations is None:
        return test
    return Compose([rand_augment_transform(operations, {}, list(OPERATIONS)), *test.transforms])


def normalised(pixels: Tensor) -> Float[Tensor, "batch 3 height width"]:
    """Return images as the model takes them: colours as CLIP's, drawn greys three times."""
    if pixels.shape[1] == 3:
        return normalise(pixels, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    return normalise(pixels).expand(-1, 3, -1, -1)
