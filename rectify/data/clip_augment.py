"""From decoded clips to a model's input; one random draw for each clip, the same in its frames.

As VideoMAE does it on Something-Something-v2: RandAugment on the whole frames, then a crop of
random size and place, then erasing; no flip, since left and right are in the labels. At test the
short side is resized and several crops are taken along the long side. Resizing is bilinear without
smoothing. All draws are made before the work, which threads share.
"""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from rectify.data.augment import normalise

Clip = list[Image.Image]
"""Frames of one clip in memory, all of one size."""

ASPECT = (3 / 4, 4 / 3)
Operation = Callable[[Image.Image], Image.Image]


def training_clips(
    *,
    image_size: int,
    crop_scale: float,
    flip_prob: float,
    auto_augment: str | None,
    erasing: float,
    threads: int,
) -> Callable[[list[Clip], torch.Generator], Float[Tensor, "batch frames 3 size size"]]:
    """Return the training transform of clips; draws from Python's and NumPy's generators.

    Raises:
        ValueError: If ``auto_augment`` is no RandAugment.
    """
    draw_operations = rand_augment(auto_augment) if auto_augment else tuple
    erase = RandomErasing(erasing, mode="pixel", device="cpu")

    def draw(clip: Clip) -> Operation:
        operations = draw_operations()
        crop = RandomResizedCropAndInterpolation.get_params(clip[0], (crop_scale, 1.0), ASPECT)
        flip = random.random() < flip_prob
        return partial(_changed, operations=operations, crop=crop, flip=flip, size=image_size)

    def augment(clips: list[Clip], generator: torch.Generator) -> Tensor:
        changes = [draw(clip) for clip in clips]
        with ThreadPoolExecutor(threads) as pool:
            floats = normalise(torch.stack(list(pool.map(_each_frame, clips, changes))))
        # frames and channels together: one rectangle for all frames
        return erase(floats.flatten(1, 2)).reshape(floats.shape) if erasing else floats

    return augment


def evaluation_clips(
    *, image_size: int, frames: int, crops: int, threads: int
) -> Callable[[list[Clip]], Float[Tensor, "views frames 3 size size"]]:
    """Return the test transform: each clip becomes its views in time, times ``crops`` in space.

    Args:
        image_size: Height and width of a crop, and the short side of the resized frames.
        frames: Frames of a view; a clip comes with those of all views, one after the other.
        crops: Crops from one end of the long side to the other; one is taken in the middle.
        threads: Clips at a time.
    """

    def transform(clips: list[Clip]) -> Tensor:
        with ThreadPoolExecutor(threads) as pool:
            return normalise(torch.cat(list(pool.map(views, clips))))

    def views(clip: Clip) -> UInt8[Tensor, "views frames 3 size size"]:
        width, height = short_side(clip[0].size, image_size)
        pixels = _each_frame(clip, partial(_resized, size=(width, height)))
        pixels = pixels.unflatten(0, (-1, frames))  # (views in time, frames, 3, height, width)
        cut = [
            pixels[..., top : top + image_size, left : left + image_size]
            for top, left in crop_places(width, height, image_size, crops)
        ]
        return torch.stack(cut, 1).flatten(0, 1)

    return transform


def rand_augment(name: str) -> Callable[[], tuple[Operation, ...]]:
    """Return a function that draws the operations of timm's RandAugment for one clip.

    Raises:
        ValueError: If the name is not one of RandAugment's, e.g. ``rand-m7-n4-mstd0.5-inc1``.
    """
    if not name.startswith("rand-"):
        raise ValueError(
            f"clips: auto_augment must be a RandAugment, rand-..., got {name!r}. "
            "Change training.auto_augment, or set it to null."
        )
    settings = {"interpolation": Image.Resampling.BICUBIC}  # one: nothing is drawn per frame
    chosen = rand_augment_transform(name, settings)
    for operation in chosen.ops:  # noted with what timm draws for them instead of being run
        operation.aug_fn = partial(_noted, operation.aug_fn)
    return lambda: chosen(())


def short_side(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return width and height with the short side ``short`` and the aspect kept, cut to pixels."""
    width, height = size
    if width < height:
        return short, short * height // width
    return short * width // height, short


def crop_places(width: int, height: int, size: int, crops: int) -> list[tuple[int, int]]:
    """Return top and left of square crops along the long side, from one end to the other."""
    over = max(width, height) - size
    starts = [over // 2] if crops == 1 else [over * index // (crops - 1) for index in range(crops)]
    return [(0, start) if width >= height else (start, 0) for start in starts]


def _noted(function: Callable, drawn: tuple, *arguments: Any, **options: Any) -> tuple:
    return (*drawn, lambda frame: function(frame, *arguments, **options))


def _changed(
    frame: Image.Image,
    operations: tuple[Operation, ...],
    crop: tuple[int, int, int, int],
    flip: bool,
    size: int,
) -> Image.Image:
    for operation in operations:
        frame = operation(frame)
    top, left, height, width = crop
    frame = _resized(frame.crop((left, top, left + width, top + height)), (size, size))
    return ImageOps.mirror(frame) if flip else frame


def _resized(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize bilinearly from the nearest four pixels, also where it becomes smaller."""
    whole = (0, 0, *frame.size)
    return frame.transform(size, Image.Transform.EXTENT, whole, Image.Resampling.BILINEAR)


def _each_frame(clip: Clip, change: Operation) -> UInt8[Tensor, "frames 3 height width"]:
    pixels = np.stack([np.asarray(change(frame)) for frame in clip])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
