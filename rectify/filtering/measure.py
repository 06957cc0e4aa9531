"""The activations of a trained model compared with the masks of a set of images.

Each place and activation is one row of a table `FILTERING`. For pictures, the maps of a few images
are kept as they are.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from safetensors.torch import save_file
from torch import Tensor, nn

from rectify.filtering.activations import frequency, magnitude, pixel_tokens, scaled
from rectify.filtering.overlap import (
    THRESHOLDS,
    TokenMasks,
    auc,
    ious,
    permuted,
    shares,
    token_masks,
)
from rectify.filtering.places import recording, vit_of
from rectify.filtering.settings import Filtering
from rectify.results.files import atomic_path
from rectify.runtime import generator
from rectify.tasks.contract import Source

PERMUTATIONS = 10  # of each map: their mean is the floor
SHOWN = 4  # images of which the maps are kept
BATCH = 64  # images at a time
PIXELS = "pixels", "magnitude"
SLASH = "/"  # between the parts of a map's name

Name = tuple[str, str]
"""Place and activation of a map."""
Row = tuple[str, str, int, int, float, float, float, float, float, float, float, float]


@runtime_checkable
class Masks(Protocol):
    """Masks of test images, as a task gives them.

    Attributes:
        items: Place of each image in the test set.
        objects: Number of each image's own object in its mask.
    """

    items: Int64[Tensor, " images"]
    objects: Int64[Tensor, " images"]

    def read(self, images: Int64[Tensor, " some"]) -> Int64[Tensor, "some height width"]:
        """Return the numbers in some masks, at the size of the model's input."""


class Measured(NamedTuple):
    """What is compared, for tables and pictures."""

    rows: list[Row]
    """Of a table `FILTERING`."""
    pictures: dict[str, Tensor]
    """Of a few images: ``items``, ``image``, ``mask``, ``map/<place>/<activation>`` and
    ``heads/<place>``, each with the images first."""


def measure(
    model: nn.Module, source: Source, masks: Masks, settings: Filtering, seed: int
) -> Measured:
    """Return how well the activations of a model outline the objects of images.

    Images of which no token shows the object are left out and counted.

    Args:
        model: A ViT, or one with an inserted layer, on the device of ``source``.
        source: The test images, one view each.
        masks: Of some of them.
        settings: What the paper leaves open.
        seed: Of the permutations.

    Raises:
        ValueError: If the model's trunk is no ViT, or no mask has a token of the object.
    """
    grid = _grid(model)
    of_tokens = _token_masks(masks, grid, settings.cover)
    kept = _with_objects(of_tokens, settings)
    shown = kept[torch.linspace(0, len(kept) - 1, min(SHOWN, len(kept))).round().long()]
    maps: dict[Name, list[Tensor]] = {}
    pictures: dict[str, list[Tensor]] = {}
    for images, inputs, found, attention in _seen(model, source, masks, kept, settings):
        found[PIXELS] = magnitude(pixel_tokens(inputs, grid), settings.center)
        for name, values in found.items():
            maps.setdefault(name, []).append(values.flatten(1).cpu())
        chosen = torch.isin(images, shown)
        kinds = {"image": _shown(inputs), **_prefixed("heads", attention)}
        kinds |= {SLASH.join(("map", *name)): values for name, values in found.items()}
        for name, values in kinds.items():
            pictures.setdefault(name, []).append(values[chosen.to(values.device)].cpu())
    compared = of_tokens.of(kept)
    dropped = len(of_tokens.inside) - len(kept)
    objects = masks.objects[shown][:, None, None]
    return Measured(
        _rows({name: torch.cat(parts) for name, parts in maps.items()}, compared, dropped, seed),
        {
            "items": masks.items[shown],
            "mask": (masks.read(shown) == objects).to(torch.uint8),
            **{name: torch.cat(parts) for name, parts in pictures.items()},
        },
    )


def outlines(
    model: nn.Module, source: Source, masks: Masks, settings: Filtering
) -> dict[str, float]:
    """Return the IoU with masks of each activation, the mean over images, without floors.

    It is ``iou`` of the table `FILTERING`, by ``iou/<place>/<activation>``. Arguments and errors
    are those of `measure`.
    """
    of_tokens = _token_masks(masks, _grid(model), settings.cover)
    kept = _with_objects(of_tokens, settings)
    maps: dict[Name, list[Tensor]] = {}
    for _, _, found, _ in _seen(model, source, masks, kept, settings):
        for name, values in found.items():
            maps.setdefault(name, []).append(values.flatten(1).cpu())
    compared = of_tokens.of(kept)
    return {
        SLASH.join(("iou", *name)): _best(torch.cat(parts), compared)
        for name, parts in maps.items()
    }


def save_pictures(pictures: dict[str, Tensor], path: Path) -> None:
    """Write what `Measured` keeps for pictures as a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: values.contiguous() for name, values in pictures.items()}, temporary)


def _grid(model: nn.Module) -> tuple[int, int]:
    return vit_of(model).patch_embed.grid_size


def _with_objects(masks: TokenMasks, settings: Filtering) -> Tensor:
    """Return the images of which some token shows the object."""
    kept = masks.inside.any(1).nonzero().flatten()
    if len(kept) == 0:
        raise ValueError(
            f"filtering: a mask must cover {settings.cover:g} of a token at least once, got none "
            f"in {len(masks.inside)} images. Lower filtering.cover in the config."
        )
    return kept


def _seen(
    model: nn.Module, source: Source, masks: Masks, kept: Tensor, settings: Filtering
) -> Iterator[tuple[Tensor, Tensor, dict[Name, Tensor], dict[str, Tensor]]]:
    """Give images a batch at a time: their places, pixels, maps, and the heads of attention."""
    model.eval()
    with torch.inference_mode(), recording(model, settings.after_attention) as recorded:
        reading = source.read(masks.items[kept], BATCH)
        for images, batch in zip(kept.split(BATCH), reading, strict=True):
            model(batch["inputs"])
            found = dict(_maps(recorded.features, recorded.attention, settings.center))
            yield images, batch["inputs"], found, recorded.attention


def _token_masks(masks: Masks, grid: tuple[int, int], cover: float) -> TokenMasks:
    """Return the masks of all images at the resolution of tokens, a batch at a time."""
    parts = [
        token_masks(masks.read(images), masks.objects[images], grid, cover)
        for images in torch.arange(len(masks.items)).split(BATCH)
    ]
    return TokenMasks(*(torch.cat(kind) for kind in zip(*parts, strict=True)))


def _maps(
    features: dict[str, Tensor], attention: dict[str, Tensor], center: str
) -> Iterator[tuple[Name, Tensor]]:
    for place, tokens in features.items():
        yield (place, "magnitude"), magnitude(tokens, center)
        yield (place, "frequency"), frequency(tokens, center)
    for place, heads in attention.items():
        yield (place, "attention"), scaled(heads.sum(1))


def _shown(inputs: Tensor) -> Tensor:
    """Return images as bytes, from the darkest value of each to the brightest."""
    low, high = (edge(inputs.flatten(1), 1).view(-1, 1, 1, 1) for edge in (torch.amin, torch.amax))
    return ((inputs - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)


def _prefixed(kind: str, by_place: dict[str, Tensor]) -> dict[str, Tensor]:
    return {SLASH.join((kind, place)): values for place, values in by_place.items()}


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
