"""Which items make up a step, with which random numbers, and which process takes which of them.

An epoch is one order of the items, cut into batches; every place in it has random numbers of
its own. Processes that train together, and the slices of a batch that are accumulated, divide the
places among themselves: the samples are those that one process would have had.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rectify.data.draws import draw
from rectify.runtime import generator, process
from rectify.tasks.contract import Batch, Source
from rectify.training.recipes import Recipe


def item_order(items: int, repeats: int, seed: int, epoch: int) -> Int64[Tensor, " items"]:
    """Return the items of an epoch in their order, another one in each epoch.

    With ``repeats`` above 1 each item of the first ``1 / repeats`` of a permutation is repeated
    that many times in a row: repeated augmentation (Hoffer et al., 2020), as DeiT samples it.
    """
    order = torch.randperm(items, generator=generator(seed, "order", epoch))
    return order.repeat_interleave(repeats)[:items]


class Epochs:
    """The batches of a training, read for this process.

    Attributes:
        steps: Optimizer steps of an epoch; a ragged last batch is left out, since GSNR depends
            on its size.
        samples: Samples of a step, in all processes and slices: an item may be in its batch more
            than once.
        slices: How many batches this process takes for a step, one after the other.
        device: Where batches are; a GPU makes them on a stream of its own.
    """

    def __init__(self, source: Source, recipe: Recipe, seed: int, device: torch.device):
        """Start nothing yet.

        Args:
            source: The set.
            recipe: Of the training.
            seed: Of the training.
            device: Where the source gives batches.

        Raises:
            ValueError: If a batch is larger than the set, or does not divide into even slices.
        """
        self._source, self._recipe, self._seed = source, recipe, seed
        self.device = device
        self._rank, self._ranks = process()
        self.steps = _steps_per_epoch(len(source), recipe.batch_size)
        self.samples = recipe.batch_size * recipe.augment_repeats
        self.slices = recipe.accumulate
        self._check_slices()

    def read(
        self, epoch: int, first: int = 0, last: int | None = None, source: Source | None = None
    ) -> Iterator[Batch]:
        """Give batches, ``slices`` of them for each step from ``first`` on.

        Args:
            epoch: Counted from 0.
            first: First step.
            last: Step before which to end; none: that of the epoch.
            source: Another source of the same items.
        """
        order = item_order(len(self._source), self._recipe.repeats, self._seed, epoch)
        order = order.repeat_interleave(self._recipe.augment_repeats)
        draws = draw(len(order), generator(self._seed, "augment", epoch))
        places = torch.arange(self.steps * self.samples)
        taken = places.view(self.steps, self._ranks, -1)[first:last, self._rank].flatten()
        size = self.samples // (self._ranks * self.slices)
        batches = (source or self._source).read(order[taken], size, draws[taken])
        return _on_own_stream(batches, self.device) if self.device.type == "cuda" else batches

    def _check_slices(self) -> None:
        mixes = self._recipe.mixes  # in pairs
        if self.samples % (self._ranks * self.slices * (1 + mixes)):
            raise ValueError(
                f"training: a step's samples (batch_size times augment_repeats) must divide into "
                f"{self._ranks} processes times {self.slices} accumulated slices"
                f"{', each even for Mixup' if mixes else ''}, got {self.samples}. Change "
                "training.batch_size, training.accumulate or device_gpus in the config."
            )


def _on_own_stream(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Give batches that a GPU makes while it still computes the step before.

    What has to wait for a batch, as a copy from ordinary memory does, then waits for that alone.
    """
    steps, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(steps)  # what the source keeps on the device
    while True:
        with torch.cuda.stream(own):
            batch = next(batches, None)
        if batch is None:
            return
        steps.wait_stream(own)
        for values in tree_leaves(batch):
            if isinstance(values, Tensor) and values.is_cuda:
                values.record_stream(steps)  # its memory is not used again before
        yield batch


def _steps_per_epoch(items: int, batch_size: int) -> int:
    if items < batch_size:
        raise ValueError(
            f"training: batch_size must not exceed the {items} training items, got {batch_size}. "
            "Lower training.batch_size in the config."
        )
    return items // batch_size
