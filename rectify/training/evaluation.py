"""Scores of a model on a set, item by item: the same for every batch size and any processes."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from rectify.runtime import autocast, process, summed
from rectify.tasks.contract import Batch, Metric, Source, Task
from rectify.trunks.trunk import Inputs, Outputs

Scores = dict[str, Float64[Tensor, " items"]]
"""By metric, ``<name>`` or ``<name>@<k>``: one value for each item."""
Values = dict[str, Float64[Tensor, " items *own"]]
"""What is said of each item, by name."""


def item_scores(
    model: nn.Module,
    task: Task,
    source: Source,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "float32",
) -> Scores:
    """Return what a task scores ``model`` with: see ``item_values``."""
    options = {"batch_size": batch_size, "device": device, "precision": precision}
    return item_values(model, task.scores, source, **options)


def item_values(
    model: nn.Module,
    values_of: Callable[[Outputs, Batch], Mapping[str, Tensor]],
    source: Source,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "float32",
) -> Values:
    """Return what is said of the outputs of ``model`` in ``eval`` mode, for each item of a set.

    Processes that train together share the items, and all get the values of all of them.

    Args:
        model: On the device.
        values_of: From outputs and batch to values of each item, by name.
        source: The set.
        batch_size: Inputs at a time; the last batch may be smaller.
        device: Where the model is.
        precision: ``float32``, or ``bfloat16``: autocast, as in training.

    Raises:
        ValueError: If there are no items, or no such precision.
    """
    if len(source) == 0:
        raise ValueError("evaluation: the test set must hold items, got none. Prepare it again.")
    model.eval()
    rank, ranks = process()
    shared = torch.arange(rank, len(source), ranks)
    size, found = max(1, batch_size // source.views), {}
    with torch.inference_mode():
        batches = source.read(shared, size)
        for items, batch in zip(shared.split(size), batches, strict=True):
            with autocast(device, precision):
                outputs = _joined(model, batch["inputs"])
            for name, values in values_of(outputs, batch).items():
                shape = (len(source), *values.shape[1:])
                pooled = found.setdefault(name, torch.zeros(shape, dtype=torch.float64))
                pooled[items] = values.double().cpu()
    return {name: summed(values.to(device)).cpu() for name, values in found.items()}


def _joined(model: nn.Module, inputs: Inputs | list[Inputs]) -> Outputs:
    """Return the outputs, of inputs that come in parts next to each other."""
    if isinstance(inputs, list):
        return torch.cat([model(part) for part in inputs], 1)
    return model(inputs)


def means(scores: Mapping[str, Float[Tensor, " items"]]) -> dict[str, float]:
    """Return the mean of each score over the items."""
    return {name: (values.sum() / len(values)).item() for name, values in scores.items()}


def headline(means: Mapping[str, float], metric: Metric) -> float:
    """Return the mean of a metric: of its best answer alone, where it has a k."""
    return means[metric.name] if metric.name in means else means[f"{metric.name}@1"]


def metric_and_k(name: str) -> tuple[str, int]:
    """Return a score's metric and its k, 0 where it has none: of ``accuracy@5`` accuracy and 5."""
    metric, _, k = name.partition("@")
    return metric, int(k or 0)
