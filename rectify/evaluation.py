"""Accuracy of a model on a labelled set: share of items, the same for every batch size.

An item that the model sees in several views has the mean of their softmax scores, as VideoMAE
merges the views of a clip.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rectify.data.batches import Prepare, Reader
from rectify.runtime import autocast, process, summed


def accuracies(
    model: nn.Module,
    images: Any,
    labels: Int[Tensor, " items"],
    k: int,
    *,
    transform: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
    prepare: Prepare | None = None,
    workers: int = 0,
    precision: str = "float32",
    candidates: Int[Tensor, " candidates"] | None = None,
) -> tuple[float, float]:
    """Return the top-1 and top-k accuracy of ``model`` in ``eval`` mode, each in 0 .. 1.

    Processes that train together share the items, and all get the accuracy on all of them.

    Args:
        model: Returns logits ``(batch, classes)`` in ``eval`` mode.
        images: Indexed by an item number, or by a tensor of them if there is no ``prepare``.
        labels: Class index of each item.
        k: An item counts for top-k if its class is among the k largest logits.
        transform: From a batch on the device to the model's input, one view or more for each item,
            those of an item together.
        batch_size: Items at a time; the last batch may be smaller.
        device: Where the model lies.
        prepare: From one image or clip to the model's size, where they are read.
        workers: Processes that read and prepare ahead.
        precision: ``float32``, or ``bfloat16``: autocast, as in training.
        candidates: Classes whose logits compete, in ascending order; None for all.

    Raises:
        ValueError: If there are no items, fewer classes than ``k``, or no such precision.
    """
    if len(labels) == 0:
        raise ValueError("evaluation: the test set must hold items, got none. Prepare it again.")
    model.eval()
    rank, ranks = process()
    hits, own = torch.zeros(2, dtype=torch.int64), torch.arange(rank, len(labels), ranks)
    batches = Reader(images, prepare, workers, device).read(own, batch_size)
    with torch.inference_mode():
        for items, batch in zip(own.split(batch_size), batches, strict=True):
            with autocast(device, precision):
                outputs = model(transform(batch))
            logits = _merged(outputs.float().cpu(), len(items))
            if candidates is None:
                hits += _hits(logits, labels[items], k)
            else:
                places = torch.searchsorted(candidates, labels[items])
                hits += _hits(logits[:, candidates], places, k)
    top1, topk = (summed(hits.to(device)).double() / len(labels)).tolist()
    return top1, topk


def _merged(logits: Float[Tensor, "views classes"], items: int) -> Float[Tensor, "batch classes"]:
    if len(logits) == items:
        return logits
    return logits.softmax(-1).unflatten(0, (items, -1)).mean(1)


def _hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    if k > logits.shape[1]:
        raise ValueError(
            f"evaluation: k must not exceed the {logits.shape[1]} classes, got {k}. "
            "Lower top_k of the data set in the config."
        )
    right = logits.topk(k).indices == labels[:, None]  # (batch, k), best first
    return torch.stack([right[:, 0].sum(), right.sum()])
