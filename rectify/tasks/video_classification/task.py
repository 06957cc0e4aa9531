"""Video classification: a ViT on labelled clips, tested on several views of each.

Clips in files are decoded and cropped as in VideoMAE; an embedded set is taken as it is.
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
from rectify.tasks.image_classification import augment as image_augment
from rectify.tasks.shifts import prepared_sets
from rectify.tasks.video_classification import augment
from rectify.tasks.video_classification.frames import Clips
from rectify.tasks.video_classification.settings import METRICS, Settings, Views
from rectify.trunks import videomae
from rectify.trunks.vit import create_vit
from rectify.typed import check_known

VIDEOMAE = "videomae"
FAMILIES = {VIDEOMAE: videomae.create_videomae}
"""Forms of the trunk besides timm's own ViT."""


class VideoClassification:
    """Which class a clip shows."""

    settings, metrics = Settings, METRICS

    def training_source(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> LabelledSource:
        """Return the training split; clips in files are augmented one by one."""
        items = load_set(folder, "train")
        change = {"crop": recipe.crop, "pad": recipe.pad, "flip_prob": recipe.flip}
        prepare, images = None, items.images
        _check_recipe(items, recipe)
        if isinstance(items, FileSet):
            images = Clips(items, entry.frames, None)
            prepare = augment.TrainingClip(
                image_size=entry.image_size,
                crop_scale=recipe.crop_scale,
                flip_prob=recipe.flip,
                auto_augment=recipe.auto_augment,
            )
            change = {"crop": "none", "pad": 0, "flip_prob": 0.0}
        return LabelledSource(
            images,
            items.labels,
            machine,
            prepare=prepare,
            change=image_augment.batched(**change, erasing=recipe.random_erasing),
            mix=classification.mixing(recipe, entry.classes),
        )

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give the test set; each clip of it is seen in the views that ``entry`` asks for."""
        for name, group, items in prepared_sets(entry, folder):
            yield TestSet(name, group, self.test_source(entry, items, machine))

    def test_source(
        self, entry: Settings, items: ImageSet | FileSet, machine: Machine
    ) -> LabelledSource:
        """Return clips as a trained model sees them."""
        more = {"ks": torch.tensor([entry.top_k])}
        if not isinstance(items, FileSet):
            _check_single_view(entry.views)
            return LabelledSource(items.images, items.labels, machine, change=_stored, more=more)
        views = entry.views
        return LabelledSource(
            Clips(items, entry.frames, views.time),
            items.labels,
            machine,
            prepare=augment.EvaluationClip(entry.image_size, entry.frames, views.space),
            change=_views,
            views=views.time * views.space,
            more=more,
        )

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a ViT for clips, VideoMAE's or timm's with tubelets, and where it starts from."""
        create = create_vit
        if vision.family is not None:
            where = f"video_classification: family of {vision.name}"
            check_known(where, vision.family, FAMILIES, "a known form of the trunk")
            create = FAMILIES[vision.family]
        vit = create(
            vision.timm,
            num_classes=entry.classes,
            image_size=entry.image_size,
            channels=entry.channels,
            frames=entry.frames,
            drop_path=0.0 if recipe is None else recipe.drop_path,
            overrides=vision.overrides,
        )
        if recipe is not None:
            for file in self.starts(vision):
                videomae.load_start(vit, file)
            classification.scale_head(vit, recipe.head_scale)
        return vit

    def starts(self, vision: Vision) -> list[Path]:
        """Return the file of VideoMAE's weights, if training starts from them."""
        if vision.start is None:
            return []
        if vision.family != VIDEOMAE:
            raise ValueError(
                f"video_classification: {vision.name} must have family {VIDEOMAE} to start from "
                f"{vision.start}, got {vision.family or 'none'}. Set its family."
            )
        return [videomae.start_file(Path(vision.start))]

    def example(
        self,
        entry: Settings,
        vision: Vision,
        batch_size: int,
        device: torch.device | str,
        *,
        tested: bool = False,
    ) -> Batch:
        """Return random clips: see ``rectify.tasks.contract.Exemplary``."""
        shape = (entry.frames, entry.channels, entry.image_size, entry.image_size)
        return classification.example(shape, entry.classes, batch_size, device)

    def losses(self, outputs: Float[Tensor, "batch classes"], batch: Batch) -> Tensor:
        """Return the cross entropy of each sample."""
        return classification.losses(outputs, batch["labels"])

    def scores(self, outputs: Float[Tensor, "views classes"], batch: Batch) -> dict[str, Tensor]:
        """Return accuracy and loss of each item, its views merged."""
        return classification.scores(outputs, batch["labels"], batch.get("ks"))


def _stored(clips: Tensor, draws: Draws | None) -> Tensor:
    return image_augment.normalise(clips)


def _views(views: Tensor, draws: Draws | None) -> Tensor:
    return augment.normalise_views(views)


def _check_recipe(items: ImageSet | FileSet, recipe: Recipe) -> None:
    in_files = isinstance(items, FileSet)
    if recipe.augment_on != "worker":
        raise ValueError(
            "video_classification: clips are changed before they are cropped, so by workers, got "
            f"augment_on {recipe.augment_on}. Set training.augment_on to worker."
        )
    if in_files and recipe.crop != "resized":
        raise ValueError(
            f"video_classification: clips in files need resized crops, got {recipe.crop}. "
            "Set training.crop to resized."
        )
    if not in_files and (recipe.crop in image_augment.RESIZED or recipe.auto_augment is not None):
        raise ValueError(
            f"video_classification: clips in memory are taken as they are stored, got crop "
            f"{recipe.crop} and auto_augment {recipe.auto_augment}. Set training.auto_augment to "
            "null and training.crop to padded or none."
        )


def _check_single_view(views: Views) -> None:
    if views != Views():
        raise ValueError(
            f"video_classification: clips in memory have one view, got {views.time} in time and "
            f"{views.space} in space. Take the set's views away."
        )


TASK = VideoClassification()
