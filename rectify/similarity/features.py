"""What features are: one vector per item, by which the items can be told apart.

Every measure takes them as tensors, NumPy arrays or lists, of any real type, on any device, with
or without a gradient, and refuses in one line what has no neighbours to compare.
"""

import operator
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

Features = Tensor | np.ndarray | Sequence
"""One vector per item, ``(items, dim)``: a tensor, an array, or a list of vectors."""
Layers = Tensor | np.ndarray | Sequence
"""Features of each layer of a model: ``(layers, items, dim)``, or a list of layers."""

STRIPE_ENTRIES = 2**18  # of features in fp64, 2 MiB: they stay in the cache
ROWS = 64  # of a kernel in fp64, at a time
EQUAL = 1e-12  # cosines in fp64 that are nearer are equal but for rounding


def as_tensor(features: Features, where: str = "similarity") -> Tensor:
    """Return features as a tensor without gradient; the memory of an array is shared if it can be.

    Raises:
        ValueError: If they are no numbers, or no list of vectors of one length.
    """
    try:
        return _as_tensor(features)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{where}: features must be real numbers, vectors of one length, got {reason}. "
            "Give one vector per item."
        ) from None


def as_features(features: Features, where: str, name: str, may_collapse: bool = False) -> Tensor:
    """Return features ``(items, dim)`` as a tensor of a floating type, checked.

    Args:
        features: One vector per item.
        where: Function that was called, for messages.
        name: Its argument.
        may_collapse: Whether they may be collapsed.

    Raises:
        ValueError: If they have another shape, are not finite, or are collapsed: if all cosines
            of two items are equal, nothing tells the items apart.
    """
    values = as_tensor(features, where)
    if values.dim() != 2 or 0 in values.shape:
        raise ValueError(
            f"{where}: {name} must have the shape (items, dim), got {tuple(values.shape)}. "
            f"{_advice(values.dim())}"
        )
    # a sum is finite only if all are, and much faster; it may overflow of large ones
    if not (values.sum().isfinite() or values.isfinite().all()):
        raise ValueError(
            f"{where}: features must be finite, got inf or nan in {name}. Extract them again in "
            "float32."
        )
    if not may_collapse and _is_collapsed(values):
        raise ValueError(
            f"{where}: the features of {name} must differ, got equal cosines for all pairs of "
            "items. Leave the layer out, or extract its features again."
        )
    return values


def as_layers(layers: Layers, where: str, name: str) -> list[Tensor]:
    """Return the features ``(items, dim)`` of each layer of a model, checked.

    Raises:
        ValueError: As ``as_features``, or if there is no layer or they differ in their items.
    """
    if not isinstance(layers, list | tuple):
        layers = as_tensor(layers, where)
        if layers.dim() != 3:
            raise ValueError(
                f"{where}: {name} must be a list of layers (items, dim), got one of shape "
                f"{tuple(layers.shape)}. Write [{name}] for a single layer."
            )
    checked = [as_features(layer, where, f"{name}[{n}]") for n, layer in enumerate(layers)]
    if not checked:
        raise ValueError(f"{where}: {name} must have layers, got none. Give one at least.")
    check_same_items(where, *checked)
    return checked


def as_sides(lefts: Layers, rights: Layers, where: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return the layers of two models, checked: all with the same number of items.

    Raises:
        ValueError: As ``as_layers``.
    """
    left, right = as_layers(lefts, where, "lefts"), as_layers(rights, where, "rights")
    check_same_items(where, left[0], right[0])
    return left, right


def as_pair(left: Features, right: Features, where: str) -> tuple[Tensor, Tensor]:
    """Return the features of two models, checked: both with the same number of items.

    Raises:
        ValueError: As ``as_features``.
    """
    one, other = as_features(left, where, "left"), as_features(right, where, "right")
    check_same_items(where, one, other)
    return one, other


def check_same_items(where: str, first: Tensor, *others: Tensor) -> None:
    """Raise ``ValueError`` if features are not of as many items."""
    for other in others:
        if len(other) != len(first):
            raise ValueError(
                f"{where}: both sides must have the same items, got {len(first)} and "
                f"{len(other)}. Compare features of the same items, in the same order."
            )


def check_k(items: int, k: object, where: str = "similarity") -> int:
    """Return ``k``, the neighbours of an item, as a plain number.

    Raises:
        ValueError: If it is no whole number, or not every item has so many others.
    """
    try:
        number = operator.index(k)
    except TypeError:
        raise ValueError(
            f"{where}: k must be a whole number, got {k!r}. Round it yourself."
        ) from None
    if not 1 <= number < items:
        advice = "Raise k." if number < 1 else "Lower k, or use more items."
        raise ValueError(
            f"{where}: k must lie in 1..{items - 1} for {items} items, got {number}. {advice}"
        )
    return number


def precise(features: Tensor) -> Tensor:
    """Return features in fp32, or in their own precision if it is higher."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def exact_cosines(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the cosines (rows, columns) of some items with others, in fp64."""
    unit = normalize(features[rows].double())
    stripe = max(1, STRIPE_ENTRIES // features.shape[1])
    parts = [unit @ normalize(features[some].double()).T for some in columns.split(stripe)]
    return torch.cat(parts, 1)


def _as_tensor(features: Features) -> Tensor:
    if isinstance(features, list | tuple) and any(isinstance(row, Tensor) for row in features):
        features = torch.stack([_as_tensor(row) for row in features])
    if not isinstance(features, Tensor):
        array = np.ascontiguousarray(features)  # torch has no negative strides
        if array.dtype.kind not in "buif":
            raise TypeError(f"entries of type {array.dtype}")
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
        features = torch.from_numpy(array)
    if features.is_complex():
        raise TypeError(f"entries of type {features.dtype}")
    features = features.detach()
    return features if features.is_floating_point() else features.double()


def _advice(dimensions: int) -> str:
    if dimensions == 3:
        return "Give one layer, or compare all with mutual_knn_matrix."
    return "Give one vector per item."


def _is_collapsed(features: Tensor) -> bool:
    """Return whether all cosines of two items are equal, as of constant or one-hot features.

    Mostly those of the first few items already differ.
    """
    if len(features) < 3:  # a single cosine
        return False
    return not any(
        spread > EQUAL for some in (features[:ROWS], features) for spread in _spreads(some)
    )


def _spreads(features: Tensor) -> Iterator[float]:
    """Give by how much the cosines of an item with all others differ, most among some items."""
    everybody = torch.arange(len(features), device=features.device)
    for rows in everybody.split(ROWS):
        cosines = exact_cosines(features, rows, everybody)
        own = rows[:, None]
        highest = cosines.scatter(1, own, -torch.inf).amax(1)
        lowest = cosines.scatter(1, own, torch.inf).amin(1)
        yield (highest - lowest).max().item()
