"""Which items make up a step, with which random numbers, and who takes which part of them.

An epoch is one order of the items, cut into batches; every place in it has random numbers of
its own. Processes that train together, and accumulated parts of a batch, divide the places
among themselves: the images are those that one process would have had.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rectify.data.augment import Augment, draw, seeds
from rectify.data.batches import Prepare, Reader
from rectify.recipes import Recipe
from rectify.runtime import generator, process


@dataclass(frozen=True)
class TrainingData:
    """Training images as they are stored, and what is done to them."""

    images: Any
    """Indexed by an item number, or by a tensor of them where nothing prepares the images."""
    labels: Int[Tensor, " items"]
    num_classes: int
    augment: Augment
    """From a batch on the device, and the random numbers of its images, to the model's input."""
    prepare: Prepare | None = None
    """From one image or clip to the model's size, where they are read."""
    workers: int = 0
    """Processes that read and prepare ahead."""


def item_order(items: int, repeats: int, seed: int, epoch: int) -> Int[Tensor, " items"]:
    """Return the items of an epoch in their order, another one in each epoch.

    With ``repeats`` above 1 the first ``1 / repeats`` of a permutation stand so many times one
    after the other: repeated augmentation (Hoffer et al., 2020), as DeiT samples it.
    """
    order = torch.randperm(items, generator=generator(seed, "order", epoch))
    return order.repeat_interleave(repeats)[:items]


class Epochs:
    """The batches of a training, read for this process.

    Attributes:
        steps: Optimizer steps of an epoch; a ragged last batch is left out, since GSNR depends
            on its size.
        samples: Samples of a step, in all processes and parts: an item may stand in its batch
            more than once.
        parts: Parts of a step's batch that this process takes, one after the other.
    """

    def __init__(self, data: TrainingData, recipe: Recipe, seed: int, device: torch.device):
        """Start nothing yet.

        Raises:
            ValueError: If a batch is larger than the set, or does not divide into even parts.
        """
        self._data, self._recipe, self._seed, self._device = data, recipe, seed, device
        self._rank, self._ranks = process()
        self.steps = _steps_per_epoch(len(data.labels), recipe.batch_size)
        self.samples = recipe.batch_size * recipe.augment_repeats
        self.parts = recipe.accumulate
        self._check_parts()
        self._reader = Reader(data.images, data.prepare, data.workers, device)

    def read(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Give augmented images and labels, ``parts`` times for each step from ``first`` on."""
        order = item_order(len(self._data.labels), self._recipe.repeats, self._seed, epoch)
        order = order.repeat_interleave(self._recipe.augment_repeats)
        draws = draw(len(order), generator(self._seed, "augment", epoch))
        places = torch.arange(self.steps * self.samples)
        own = places.view(self.steps, self._ranks, -1)[first:, self._rank].flatten()
        size = self.samples // (self._ranks * self.parts)
        stored = self._reader.read(order[own], size, seeds(draws[own]))
        for images, part in zip(stored, own.split(size), strict=True):
            labels = self._data.labels[order[part]].to(self._device)
            yield self._data.augment(images, draws[part]), labels

    def _check_parts(self) -> None:
        mixes = bool(self._recipe.mixup or self._recipe.cutmix)  # in pairs
        if self.samples % (self._ranks * self.parts * (1 + mixes)):
            raise ValueError(
                f"training: a step's samples (batch_size times augment_repeats) must divide into "
                f"{self._ranks} processes times {self.parts} accumulated parts, each "
                f"{'even for Mixup' if mixes else 'whole'}, got {self.samples}. Change "
                "training.batch_size, training.accumulate or device_gpus in the config."
            )


def _steps_per_epoch(items: int, batch_size: int) -> int:
    if items < batch_size:
        raise ValueError(
            f"training: batch_size must not exceed the {items} training items, got {batch_size}. "
            "Lower training.batch_size in the config."
        )
    return items // batch_size  # a ragged last batch is left out: GSNR depends on its size
