"""Classification, of images or clips: losses and scores, and batches of labelled items.

An item that the model sees in several views has the mean of their softmax scores, as VideoMAE
merges the views of a clip.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Float, Int, Int64, UInt8
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from rectify.data.batches import Items, Prepare, Reader
from rectify.data.draws import Draws, seeds
from rectify.tasks.contract import Batch, Machine, Recipe

Labels = Int64[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""Class indices; or shares of the classes, of mixed or smoothed labels."""
Change = Callable[[Tensor, Draws | None], Float[Tensor, " views *pixels"]]
"""From stored pixels on the device, and their random numbers, to the model's inputs."""


@dataclass(frozen=True)
class Mix:
    """What a recipe does to a training batch at last: Mixup and CutMix, else smoothed labels."""

    mixup: Mixup | None
    smoothing: float
    classes: int

    def __call__(self, inputs: Tensor, labels: Int64[Tensor, " batch"]) -> tuple[Tensor, Labels]:
        """Return the inputs and labels that the model learns."""
        if self.mixup is not None:
            flat, soft = self.mixup(inputs.flatten(1, -3), labels)  # frames and channels together
            return flat.reshape(inputs.shape), soft
        if self.smoothing:
            return inputs, smoothed(labels, self.classes, self.smoothing)
        return inputs, labels

    def origins(self, items: Int64[Tensor, " batch"]) -> Int64[Tensor, "batch origins"] | None:
        """Return the items that each sample is made from, or None where no two share one.

        The partners of Mixup and CutMix are the first and the last, the second and the last but
        one, and so on.
        """
        if self.mixup is not None:
            return torch.stack([items, items.flip(0)], 1)
        return items[:, None] if len(items.unique()) < len(items) else None


def example(
    shape: Sequence[int], classes: int, batch_size: int, device: torch.device | str
) -> Batch:
    """Return random labelled items, to count and time a model without any set.

    Args:
        shape: Of one item.
        classes: That there are.
        batch_size: Items.
        device: Where they are wanted; ``meta`` for shapes alone.
    """
    labels = torch.arange(batch_size, device=device) % classes
    return {"inputs": torch.rand(batch_size, *shape, device=device), "labels": labels}


def losses(logits: Float[Tensor, "batch classes"], labels: Labels) -> Float[Tensor, " batch"]:
    """Return the cross entropy of each sample."""
    return cross_entropy(logits, labels, reduction="none")


def scores(
    logits: Float[Tensor, "views classes"],
    labels: Int64[Tensor, " items"],
    ks: Int[Tensor, " ks"] | None = None,
    candidates: Int64[Tensor, " candidates"] | None = None,
) -> dict[str, Float[Tensor, " items"]]:
    """Return whether each item's class is among the k best, and its cross entropy.

    Args:
        logits: Of one view or more for each item, those of an item together.
        labels: Class of each item.
        ks: For which k besides 1.
        candidates: Classes that compete, in ascending order; all if None.

    Raises:
        ValueError: If fewer classes than k compete.
    """
    logits, labels = logits.float().cpu(), labels.cpu()
    if candidates is not None:
        labels, chosen = torch.searchsorted(candidates.cpu(), labels), candidates.cpu()
    else:
        chosen = torch.arange(logits.shape[1])
    merged = _merged(logits, len(labels))[:, chosen]
    values = {}
    for k in sorted({1, *(() if ks is None else ks.tolist())}):
        if k > merged.shape[1]:
            raise ValueError(
                f"evaluation: k must not exceed the {merged.shape[1]} classes, got {k}. "
                "Lower top_k of the data set in the config."
            )
        right = merged.topk(k).indices == labels[:, None]  # (items, k), best first
        values[f"accuracy@{k}"] = right.any(1).float()
    return {**values, "loss": losses(merged, labels)}


def mixing(recipe: Recipe, classes: int) -> Mix:
    """Return what a recipe does to a batch."""
    return Mix(mixup_of(recipe, classes), recipe.label_smoothing, classes)


def mixup_of(recipe: Recipe, classes: int) -> Mixup | None:
    """Return timm's Mixup/CutMix for a recipe, or None where both are off."""
    if not recipe.mixes:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        switch_prob=recipe.mixup_switch_prob,
        mode=recipe.mixup_mode,
        label_smoothing=recipe.label_smoothing,
        num_classes=classes,
    )


def smoothed(
    labels: Int64[Tensor, " batch"], classes: int, smoothing: float
) -> Float[Tensor, "batch classes"]:
    """Return the label's class with share 1 - smoothing, and that share of all classes alike."""
    return one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def scale_head(vit: nn.Module, factor: float) -> None:
    """Multiply the first weights of the head of a model of timm, or of its heads."""
    heads = vit.get_classifier()
    with torch.no_grad():
        for head in heads if isinstance(heads, tuple) else (heads,):
            for parameter in head.parameters():
                parameter.mul_(factor)


class LabelledSource:
    """Labelled images or clips of one split, as batches: ``inputs``, ``labels``, and ``more``.

    A training batch also has ``origins``, on the CPU, where samples share pixels.
    """

    def __init__(
        self,
        images: UInt8[Tensor, " items *pixels"] | Items,
        labels: Int64[Tensor, " items"],
        machine: Machine,
        *,
        change: Change,
        prepare: Prepare | None = None,
        mix: Mix | None = None,
        views: int = 1,
        more: Mapping[str, Tensor] | None = None,
    ):
        """Start nothing yet.

        Args:
            images: All of them, or read one by one.
            labels: Class of each item, -1 where there is none.
            machine: Where batches are wanted.
            change: What is done to a batch.
            prepare: From one image or clip to the model's size, where they are read.
            mix: What is done to a training batch at last.
            views: Inputs of an item.
            more: What the scores need besides, the same for each batch.
        """
        self.views = views
        self._labels, self._device, self._more = labels, machine.device, dict(more or {})
        self._change, self._mix = change, mix
        self._reader = Reader(images, prepare, machine.workers, machine.device)

    def __len__(self) -> int:
        return len(self._labels)

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        item_seeds = None if draws is None else seeds(draws)
        numbers = repeat(None) if draws is None else draws.split(batch_size)
        stored = self._reader.read(items, batch_size, item_seeds)
        for pixels, batch, drawn in zip(stored, items.split(batch_size), numbers, strict=False):
            labels = self._labels[batch].to(self._device)
            inputs = self._change(pixels, drawn)
            shared = {}
            if self._mix is not None:
                inputs, labels = self._mix(inputs, labels)
                origins = self._mix.origins(batch)
                shared = {} if origins is None else {"origins": origins}
            yield {"inputs": inputs, "labels": labels, **shared, **self._more}


def _merged(logits: Float[Tensor, "views classes"], items: int) -> Float[Tensor, "items classes"]:
    """Return the logits of each item; of several views the logarithm of the mean share."""
    if len(logits) == items:
        return logits
    shares = logits.log_softmax(-1).unflatten(0, (items, -1))  # (items, views, classes)
    return shares.logsumexp(1) - math.log(shares.shape[1])
