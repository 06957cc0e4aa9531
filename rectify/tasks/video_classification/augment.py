"""From decoded clips to a model's input; one random draw for each clip, the same in its frames.

As VideoMAE does it on Something-Something-v2: RandAugment on the complete frames, then a crop of
random size and place, then erasing; no flip, since left and right are in the labels. At test time
the short side is resized and several crops are taken along the long side. Resizing is bilinear
without smoothing. All draws of a clip are made before its first frame is changed.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from rectify.tasks.image_classification.augment import normalise
from rectify.tasks.image_classification.operations import drawing

Clip = list[Image.Image]
"""Frames of one clip in memory, all of one size."""

ASPECT = (3 / 4, 4 / 3)
Operation = Callable[[Image.Image], Image.Image]


class TrainingClip:
    """The training transform of one clip, up to ``uint8``; erasing follows on the device.

    Draws from Python's, NumPy's and torch's global generators.
    """

    def __init__(
        self, *, image_size: int, crop_scale: float, flip_prob: float, auto_augment: str | None
    ):
        """Set the transform.

        Raises:
            ValueError: If ``auto_augment`` is no RandAugment.
        """
        self.image_size, self.crop_scale, self.flip_prob = image_size, crop_scale, flip_prob
        self.operations = rand_augment(auto_augment) if auto_augment else tuple

    def __call__(self, clip: Clip) -> UInt8[Tensor, "frames 3 size size"]:
        """Return the frames, all changed alike."""
        operations = self.operations()
        scale = (self.crop_scale, 1.0)
        crop = RandomResizedCropAndInterpolation.get_params(clip[0], scale, ASPECT)
        flip = random.random() < self.flip_prob
        changes = {"operations": operations, "crop": crop, "flip": flip, "size": self.image_size}
        return _each_frame(clip, partial(_changed, **changes))


@dataclass(frozen=True)
class EvaluationClip:
    """The test transform of one clip, up to ``uint8``: its views in time, times crops in space."""

    image_size: int
    """Height and width of a crop, and the short side of the resized frames."""
    frames: int
    """Frames of a view; a clip comes with those of all views, one after the other."""
    crops: int
    """Crops from one end of the long side to the other; one is taken in the middle."""

    def __call__(self, clip: Clip) -> UInt8[Tensor, "views frames 3 size size"]:
        """Return all crops of the first view in time, then those of the next."""
        size = self.image_size
        width, height = short_side(clip[0].size, size)
        pixels = _each_frame(clip, partial(_resized, size=(width, height)))
        pixels = pixels.unflatten(0, (-1, self.frames))  # (in time, frames, 3, height, width)
        cut = [
            pixels[..., top : top + size, left : left + size]
            for top, left in crop_places(width, height, size, self.crops)
        ]
        return torch.stack(cut, 1).flatten(0, 1)


def normalise_views(
    clips: UInt8[Tensor, "batch views frames 3 size size"],
) -> Float[Tensor, "batch_views frames 3 size size"]:
    """Return the views of all clips as floats, those of a clip together."""
    return normalise(clips.flatten(0, 1))


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
    return drawing(rand_augment_transform(name, settings))


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
    complete = (0, 0, *frame.size)
    return frame.transform(size, Image.Transform.EXTENT, complete, Image.Resampling.BILINEAR)


def _each_frame(clip: Clip, change: Operation) -> UInt8[Tensor, "frames 3 height width"]:
    pixels = np.stack([np.asarray(change(frame)) for frame in clip])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
