"""The activations of a trained model compared with the masks of a set of images or clouds.

Each place and activation is one row of a table `FILTERING`. For pictures, the maps of a few items
are kept as they are.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from safetensors.torch import save_file
from torch import Tensor, nn

from rectify.filtering.layout import layout_of
from rectify.filtering.overlap import (
    THRESHOLDS,
    TokenMasks,
    auc,
    ious,
    permuted,
    shares,
    token_masks,
)
from rectify.filtering.places import recording
from rectify.filtering.settings import Filtering
from rectify.results.files import atomic_path
from rectify.runtime import generator
from rectify.tasks.contract import Batch, Source
from rectify.trunks.activations import frequency, magnitude, pixel_tokens, scaled

PERMUTATIONS = 10  # of each map: their mean is the floor
SHOWN = 4  # items of which the maps are kept
BATCH = 64  # items at a time
PIXELS = "pixels", "magnitude"
SLASH = "/"  # between the parts of a map's name

Name = tuple[str, str]
"""Place and activation of a map."""
Row = tuple[str, str, int, int, float, float, float, float, float, float, float, float]


@runtime_checkable
class Masks(Protocol):
    """Masks of test items, as a task gives them.

    Attributes:
        items: Place of each item in the test set.
        objects: Number of each item's own object in its mask.
    """

    items: Int64[Tensor, " items"]
    objects: Int64[Tensor, " items"]

    def read(self, items: Int64[Tensor, " some"], batch: Batch) -> Int64[Tensor, " some *places"]:
        """Return the number of each pixel, or of each point, that the model takes.

        Args:
            items: Places in ``items``.
            batch: The same test items.
        """


class Measured(NamedTuple):
    """What is compared, for tables and pictures."""

    rows: list[Row]
    """Of a table `FILTERING`."""
    pictures: dict[str, Tensor]
    """Of a few items: ``items``, ``mask``, what `Layout.shown` gives, ``map/<place>/<activation>``
    and ``heads/<place>``, each with the items first."""


def measure(
    model: nn.Module, source: Source, masks: Masks, settings: Filtering, seed: int
) -> Measured:
    """Return how well the activations of a model outline the objects of images or clouds.

    Items of which no token shows the object are left out and counted.

    Args:
        model: A trunk, or one with an inserted layer, on the device of ``source``.
        source: The test items, one view each.
        masks: Of some of them.
        settings: What the paper leaves open.
        seed: Of the permutations.

    Raises:
        ValueError: If the tokens of the model are neither patches nor groups of points, or no mask
            has a token of the object.
    """
    maps, of_tokens, kept = _compared(model, source, masks, settings)
    shown = kept[torch.linspace(0, len(kept) - 1, min(SHOWN, len(kept))).round().long()]
    dropped = len(of_tokens.inside) - len(kept)
    chosen = {name: values[kept] for name, values in maps.items()}
    rows = _rows(chosen, of_tokens.of(kept), dropped, seed)
    return Measured(rows, _pictures(model, source, masks, shown, settings))


def outlines(
    model: nn.Module, source: Source, masks: Masks, settings: Filtering
) -> dict[str, float]:
    """Return the IoU with masks of each activation, the mean over items, without floors.

    It is ``iou`` of the table `FILTERING`, by ``iou/<place>/<activation>``. Arguments and errors
    are those of `measure`.
    """
    maps, of_tokens, kept = _compared(model, source, masks, settings)
    return {
        SLASH.join(("iou", *name)): _best(values[kept], of_tokens.of(kept))
        for name, values in maps.items()
        if name != PIXELS
    }


def save_pictures(pictures: dict[str, Tensor], path: Path) -> None:
    """Write what `Measured` keeps for pictures as a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: values.contiguous() for name, values in pictures.items()}, temporary)


def _compared(
    model: nn.Module, source: Source, masks: Masks, settings: Filtering
) -> tuple[dict[Name, Tensor], TokenMasks, Tensor]:
    """Return all maps, the masks of tokens, and the items of which some token shows the object."""
    layout = layout_of(model)
    maps: dict[Name, list[Tensor]] = {}
    parts = []
    everything = torch.arange(len(masks.items))
    for items, batch, found, _ in _seen(model, source, masks, everything, settings):
        for name, values in found.items():
            maps.setdefault(name, []).append(values.flatten(1).cpu())
        numbers = layout.numbers(masks.read(items, batch), batch["inputs"]).cpu()
        parts.append(token_masks(numbers, masks.objects[items], layout.grid, settings.cover))
    of_tokens = TokenMasks(*(torch.cat(kind) for kind in zip(*parts, strict=True)))
    kept = of_tokens.inside.any(1).nonzero().flatten()
    if len(kept) == 0:
        raise ValueError(
            f"filtering: a mask must cover {settings.cover:g} of a token at least once, got none "
            f"in {len(everything)} items. Lower filtering.cover in the config."
        )
    return {name: torch.cat(values) for name, values in maps.items()}, of_tokens, kept


def _seen(
    model: nn.Module, source: Source, masks: Masks, chosen: Tensor, settings: Filtering
) -> Iterator[tuple[Tensor, Batch, dict[Name, Tensor], dict[str, Tensor]]]:
    """Give items a batch at a time: their places, the batch, maps, and the heads of attention."""
    layout = layout_of(model)
    model.eval()
    with torch.inference_mode(), recording(model, settings.after_attention) as recorded:
        reading = source.read(masks.items[chosen], BATCH)
        for items, batch in zip(chosen.split(BATCH), reading, strict=True):
            model(batch["inputs"])
            found = dict(_maps(recorded.features, recorded.attention, settings.center))
            pixels = pixel_tokens(layout.pixels(batch["inputs"]), layout.grid)
            found[PIXELS] = magnitude(pixels, settings.center)
            yield items, batch, found, recorded.attention


def _pictures(
    model: nn.Module, source: Source, masks: Masks, shown: Tensor, settings: Filtering
) -> dict[str, Tensor]:
    """Return what `Measured` keeps of a few items."""
    ((items, batch, found, attention),) = _seen(model, source, masks, shown, settings)
    numbers = masks.read(items, batch).cpu()
    objects = masks.objects[items].view(-1, *[1] * (numbers.ndim - 1))
    kept = layout_of(model).shown(batch["inputs"])
    kept |= {SLASH.join(("heads", place)): values for place, values in attention.items()}
    kept |= {SLASH.join(("map", *name)): values for name, values in found.items()}
    return {
        "items": masks.items[items],
        "mask": (numbers == objects).to(torch.uint8),
        **{name: values.cpu() for name, values in kept.items()},
    }


def _maps(
    features: dict[str, Tensor], attention: dict[str, Tensor], center: str
) -> Iterator[tuple[Name, Tensor]]:
    for place, tokens in features.items():
        yield (place, "magnitude"), magnitude(tokens, center)
        yield (place, "frequency"), frequency(tokens, center)
    for place, heads in attention.items():
        yield (place, "attention"), scaled(heads.sum(1))


def _rows(maps: dict[Name, Tensor], masks: TokenMasks, dropped: int, seed: int) -> list[Row]:
    pixels = _best(maps.pop(PIXELS), masks)
    share = shares(masks).mean().item()
    rows = []
    for (place, activation), values in maps.items():
        by_threshold = ious(values, masks).mean(0)
        iou, floor = _best(values, masks), _permuted_best(values, masks, seed)
        areas = auc(values, masks)
        rows.append(
            (
                *(place, activation, len(values), dropped, iou),
                by_threshold.max().item(),
                THRESHOLDS[int(by_threshold.argmax())],
                floor,
                (iou - floor) / (1 - floor),
                *(pixels, share),
                areas.nanmean().item(),
            )
        )
    return rows


def _best(maps: Tensor, masks: TokenMasks) -> float:
    """Return the mean over images of the IoU at each image's best threshold."""
    return ious(maps, masks).amax(1).mean().item()


def _permuted_best(maps: Tensor, masks: TokenMasks, seed: int) -> float:
    draws = generator(seed, "filtering")  # the same permutations for every map
    floors = [_best(permuted(maps, masks, draws), masks) for _ in range(PERMUTATIONS)]
    return sum(floors) / len(floors)
