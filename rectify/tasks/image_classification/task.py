"""Image classification: a ViT on labelled images, tested on them and on shifted versions.

A set of images in files is resized and cropped as in DeiT; an embedded one is taken as it is.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectify.data.draws import Draws
from rectify.data.sets import FileSet, ImageSet, load_set
from rectify.tasks import classification
from rectify.tasks.classification import LabelledSource
from rectify.tasks.contract import Batch, Machine, Recipe, TestSet, Vision
from rectify.tasks.image_classification import augment, operations
from rectify.tasks.image_classification.masks import Masks
from rectify.tasks.image_classification.settings import METRICS, Settings
from rectify.tasks.shifts import prepared_sets
from rectify.trunks.vit import create_vit

CROP = 0.875  # share of the resized image that is kept, as in DeiT
KEPT_WHOLE = ("c",)  # ImageNet-C's images have their size already
SHIFTS_WITH_FEWER_CLASSES = ("a", "r")  # of ImageNet-A and -R; only their classes compete


class ImageClassification:
    """Which class an image shows."""

    settings, metrics = Settings, METRICS

    def training_source(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> LabelledSource:
        """Return the training split, augmented item by item first where that is needed."""
        items = load_set(folder, "train")
        complete = {"crop": recipe.crop, "pad": recipe.pad, "flip_prob": recipe.flip}
        prepare = None
        if recipe.auto_augment is not None or recipe.crop in augment.RESIZED:
            prepare = augment.per_image(
                **complete,
                image_size=entry.image_size,
                crop_scale=recipe.crop_scale,
                auto_augment=recipe.auto_augment,
            )
            check_colours(entry)
            complete = {"crop": "none", "pad": 0, "flip_prob": 0.0}
        change = augment.batched(**complete, erasing=recipe.random_erasing)
        if recipe.augment_on == "device":
            prepare, change = operations.Drawing(prepare), operations.operated(change)
        return LabelledSource(
            items.images,
            items.labels,
            machine,
            prepare=prepare,
            change=change,
            mix=classification.mixing(recipe, entry.classes),
        )

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give the plain test set, its embedded shifts, and those with a folder of their own."""
        for name, group, items in prepared_sets(entry, folder):
            yield TestSet(name, group, self.test_source(entry, items, recipe, machine, name))

    def test_source(
        self,
        entry: Settings,
        items: ImageSet | FileSet,
        recipe: Recipe,
        machine: Machine,
        name: str = "test",
    ) -> LabelledSource:
        """Return items as a trained model sees them: brought to its size, if they don't have it.

        Drawn images, which have no margin to spare, are resized as a whole; others lose the rim.

        Args:
            entry: Of the set that the model learnt.
            items: Labelled images, or the images of pairs.
            recipe: How the model was trained.
            machine: Where batches are wanted.
            name: Of the test set.
        """
        crop, prepare = _crop(entry, items, recipe, name), None
        if crop is not None:
            prepare = augment.evaluation_transform(entry.image_size, crop)
        more = {"ks": torch.tensor([entry.top_k])}
        if name in SHIFTS_WITH_FEWER_CLASSES:
            more["candidates"] = items.labels.unique()
        return LabelledSource(
            items.images, items.labels, machine, prepare=prepare, change=normalised, more=more
        )

    def preprocessing(self, entry: Settings, folder: Path, recipe: Recipe) -> dict[str, object]:
        """Return what is done to a test image, as timm's ``data_config`` says it."""
        mean, std = augment.usual(entry.channels)
        crop = _crop(entry, load_set(folder, "test"), recipe, "test")
        how = {"crop_pct": 1.0 if crop is None else crop, "interpolation": augment.INTERPOLATION}
        return {"mean": mean, "std": std, **how}

    def masks(self, entry: Settings, folder: Path, prepared: Path, recipe: Recipe) -> Masks:
        """Return the masks of test images, at the place where the model sees what they show.

        Args:
            entry: Of the set that the model learnt.
            folder: Of the prepared set.
            prepared: Of its prepared masks.
            recipe: How the model was trained.
        """
        is_resized = _is_resized(load_set(folder, "test"), recipe)
        prepare = augment.mask_transform(entry.image_size, CROP) if is_resized else None
        return Masks(prepared, prepare)

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a model of timm; its first weights are drawn from torch's global generator."""
        if vision.family is not None or vision.start is not None:
            raise ValueError(
                f"image_classification: {vision.name} must have no family and no start, got "
                f"{vision.family} and {vision.start}. Take them away."
            )
        vit = create_vit(
            vision.timm,
            num_classes=entry.classes,
            image_size=entry.image_size,
            channels=entry.channels,
            drop_path=0.0 if recipe is None else recipe.drop_path,
            overrides=vision.overrides,
        )
        if recipe is not None:
            classification.scale_head(vit, recipe.head_scale)
        return vit

    def starts(self, vision: Vision) -> list[Path]:
        """Return no file: images are learnt from random weights."""
        return []

    def example(
        self,
        entry: Settings,
        vision: Vision,
        batch_size: int,
        device: torch.device | str,
        *,
        tested: bool = False,
    ) -> Batch:
        """Return random images: see ``rectify.tasks.contract.Exemplary``."""
        shape = (entry.channels, entry.image_size, entry.image_size)
        return classification.example(shape, entry.classes, batch_size, device)

    def losses(self, outputs: Float[Tensor, "batch classes"], batch: Batch) -> Tensor:
        """Return the cross entropy of each sample."""
        return classification.losses(outputs, batch["labels"])

    def scores(self, outputs: Float[Tensor, "items classes"], batch: Batch) -> dict[str, Tensor]:
        """Return accuracy and loss of each item."""
        more = (batch.get("ks"), batch.get("candidates"))
        return classification.scores(outputs, batch["labels"], *more)


def _crop(entry: Settings, items: ImageSet | FileSet, recipe: Recipe, name: str) -> float | None:
    """Return the share of a resized test image that is kept; None where none is resized."""
    if not _is_resized(items, recipe) and not _has_other_size(items, entry.image_size):
        return None
    return 1.0 if name in KEPT_WHOLE or items.final_size else CROP


def _is_resized(items: ImageSet | FileSet, recipe: Recipe) -> bool:
    return recipe.crop in augment.RESIZED and not items.final_size


def _has_other_size(items: ImageSet | FileSet, size: int) -> bool:
    """Return whether images in memory, such as those of pairs, are not what the model takes."""
    return isinstance(items, ImageSet) and items.images.shape[-2:] != (size, size)


def normalised(images: Tensor, draws: Draws | None) -> Tensor:
    """Return test images as the model's inputs."""
    return augment.normalise(images)


def check_colours(entry: Settings) -> None:
    """Check that images have the colours that RandAugment and resized crops need.

    Raises:
        ValueError: If they are grey.
    """
    if entry.channels != 3:
        raise ValueError(
            f"image_classification: RandAugment and resized crops need RGB images, got "
            f"{entry.channels} channel. Set training.auto_augment to null and training.crop to "
            "padded or none."
        )


TASK = ImageClassification()
