"""Point cloud classification: Point-BERT on labelled clouds, as Pang et al. (2024), Sec. 4.2."""

from collections.abc import Iterator
from functools import cached_property
from itertools import repeat
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rectify.data.clouds import CloudSet, load_clouds
from rectify.data.draws import Draws, seeds
from rectify.data.points import taken
from rectify.runtime import seed_for
from rectify.tasks import classification, unchanged
from rectify.tasks.contract import NO_TIMM, Batch, Machine, Recipe, TestSet, Vision
from rectify.tasks.point_classification import augment
from rectify.tasks.point_classification.masks import Masks
from rectify.tasks.point_classification.settings import METRICS, Settings
from rectify.trunks.point_bert import PointBert, load_start


class CloudSource:
    """Clouds of one split, as batches of ``inputs`` and ``labels``.

    A training batch also has ``origins``, on the CPU, where it has a cloud twice. A test batch of
    one view also has ``objects``: whether a point is of the object, where that is known.
    """

    def __init__(
        self,
        clouds: CloudSet,
        entry: Settings,
        machine: Machine,
        recipe: Recipe,
        *,
        votes: int = 1,
        more: dict[str, Tensor] | None = None,
    ):
        """Start nothing yet.

        Args:
            clouds: All stored points.
            entry: Says which of them a model sees.
            machine: Where batches are wanted.
            recipe: How a cloud is changed, in training and for votes.
            votes: Views of a cloud at test.
            more: What the scores need besides, the same for each batch.
        """
        self.views, self._entry, self._recipe = votes, entry, recipe
        self._device, self._more = machine.device, dict(more or {})
        points = augment.unit_ball(clouds.points) if entry.normalise == "unit" else clouds.points
        self._points, self._labels, self._objects = points, clouds.labels, clouds.objects
        self._mix = classification.mixing(recipe, entry.classes)

    def __len__(self) -> int:
        return len(self._labels)

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        numbers = repeat(None) if draws is None else draws.split(batch_size)
        for batch, drawn in zip(items.split(batch_size), numbers, strict=False):
            labels = self._labels[batch].to(self._device)
            if drawn is None:
                yield {**self._seen(batch), "labels": labels, **self._more}
                continue
            inputs = self._changed(self._points[batch].to(self._device), seeds(drawn))
            inputs, labels = self._mix(inputs, labels)
            origins = self._mix.origins(batch)
            shared = {} if origins is None else {"origins": origins}
            yield {"inputs": inputs, "labels": labels, **shared, **self._more}

    def _seen(self, items: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
        """Return the test views of the items, those of an item one after the other."""
        if self.views == 1:
            chosen = self._chosen[items]
            seen = {"inputs": taken(self._points[items], chosen)}
            if self._objects is not None:
                seen["objects"] = self._objects[items].gather(1, chosen)
            return {name: values.to(self._device) for name, values in seen.items()}
        own = [
            seed_for(item, "vote", view) for item in items.tolist() for view in range(self.views)
        ]
        stored = self._points[items].repeat_interleave(self.views, 0)
        return {"inputs": self._changed(stored.to(self._device), torch.tensor(own))}

    @cached_property
    def _chosen(self) -> Int64[Tensor, "items points"]:
        """The one choice of points of every item, made once."""
        entry, parts = self._entry, self._points.split(self._recipe.batch_size)
        chosen = (
            augment.fixed_points(part.to(self._device), entry.points, entry.fps_skip_origin)
            for part in parts
        )
        return torch.cat([part.cpu() for part in chosen])

    def _changed(self, stored: Tensor, own: Int64[Tensor, " batch"]) -> Tensor:
        entry, recipe = self._entry, self._recipe
        points = augment.drawn_points(stored, entry.points, own, entry.fps_skip_origin)
        return augment.scaled_and_shifted(points, own, recipe.cloud_scale, recipe.cloud_shift)


class PointClassification:
    """Which class a cloud of points is of."""

    settings, metrics = Settings, METRICS

    def training_source(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> CloudSource:
        """Return the training split; each cloud has its own choice of points, scales and shifts."""
        unchanged.check("point_classification", recipe, "point-bert")
        return CloudSource(load_clouds(folder, "train"), entry, machine, recipe)

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give the test set; each cloud of it is seen as often as ``entry`` asks for votes."""
        more = {"ks": torch.tensor([entry.top_k])}
        clouds = load_clouds(folder, "test")
        source = CloudSource(clouds, entry, machine, recipe, votes=entry.votes, more=more)
        yield TestSet("test", "-", source)

    def test_source(
        self, entry: Settings, clouds: CloudSet, recipe: Recipe, machine: Machine
    ) -> CloudSource:
        """Return clouds as a trained model sees them, each once."""
        return CloudSource(clouds, entry, machine, recipe)

    def masks(self, entry: Settings, folder: Path, prepared: Path, recipe: Recipe) -> Masks:
        """Return which points of test clouds are of the object.

        Args:
            entry: Of the set that the model learnt.
            folder: Of the prepared set.
            prepared: Of its prepared masks.
            recipe: How the model was trained.
        """
        return Masks(prepared)

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a Point-BERT, and where it starts from."""
        _check_vision(vision)
        trunk = PointBert.of(
            vision.overrides,
            classes=entry.classes,
            points=entry.points,
            drop_path=0.0 if recipe is None else recipe.drop_path,
            skip_origin=entry.fps_skip_origin,
        )
        if recipe is not None:
            for file in self.starts(vision):
                load_start(trunk, file)
            with torch.no_grad():
                for parameter in trunk.head.output.parameters():
                    parameter.mul_(recipe.head_scale)
        return trunk

    def starts(self, vision: Vision) -> list[Path]:
        """Return the file of Point-BERT's weights, if training starts from them."""
        return [] if vision.start is None else [Path(vision.start)]

    def example(
        self,
        entry: Settings,
        vision: Vision,
        batch_size: int,
        device: torch.device | str,
        *,
        tested: bool = False,
    ) -> Batch:
        """Return random clouds: see ``rectify.tasks.contract.Exemplary``."""
        return classification.example((entry.points, 3), entry.classes, batch_size, device)

    def losses(self, outputs: Float[Tensor, "batch classes"], batch: Batch) -> Tensor:
        """Return the cross entropy of each sample."""
        return classification.losses(outputs, batch["labels"])

    def scores(self, outputs: Float[Tensor, "views classes"], batch: Batch) -> dict[str, Tensor]:
        """Return accuracy and loss of each item, the logits of its votes averaged."""
        labels = batch["labels"]
        merged = outputs.float().unflatten(0, (len(labels), -1)).mean(1)
        return classification.scores(merged, labels, batch.get("ks"))


def _check_vision(vision: Vision) -> None:
    if vision.timm != NO_TIMM or vision.family is not None:
        raise ValueError(
            f"point_classification: {vision.name} must have timm: {NO_TIMM} and no family, since "
            f"the trunk is Point-BERT, got {vision.timm} and {vision.family or 'none'}. Correct it."
        )


TASK = PointClassification()
