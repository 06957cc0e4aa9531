"""RandAugment on the device: drawn where images are read, computed on batches.

timm draws its operations one image at a time, and Pillow computes them on its core. Here the draws
stay as they are, from the image's own seed; what was drawn is computed for all images of a batch
that drew the same. Each operation follows Pillow's arithmetic step by step: integers, or floats of
its precision, in its order and without fused products. So no value differs from Pillow's on x86-64.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int, UInt8
from PIL import Image
from timm.data import auto_augment as timms
from timm.data.auto_augment import RandAugment
from torch import Tensor
from torchvision.transforms import Compose

from rectify.data.batches import Undone
from rectify.data.draws import Draws
from rectify.tasks.image_classification.augment import MEAN, Augment

Images = UInt8[Tensor, "batch 3 height width"]
Arguments = Float64[Tensor, " batch"]
"""What an operation takes, image by image, on the CPU."""
Matrix = tuple[float, float, float, float, float, float]
"""Where a pixel comes from: ``a x + b y + c`` across and ``d x + e y + f`` down, in pixels."""

FILL = tuple(round(255 * share) for share in MEAN)
"""Colour of what operations move in."""
NOTHING = -1
LUMA = (19595, 38470, 7471)  # of red, green and blue in a grey, over 2**16
LEVELS = 256
TAPS = range(-1, 3)  # of a cubic


class Drawn(NamedTuple):
    """An operation of timm's with what was drawn for it, to be computed later."""

    function: Callable[..., Image.Image]
    arguments: tuple[Real, ...]
    options: dict[str, object]

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return what timm makes of an image."""
        return self.function(image, *self.arguments, **self.options)


def drawing(policy: RandAugment) -> Callable[[], tuple[Drawn, ...]]:
    """Return a function that draws a policy's operations for an image, and computes none."""
    for operation in policy.ops:
        operation.aug_fn = partial(_noted, operation.aug_fn)
    return partial(policy, ())


def _noted(function: Callable, drawn: tuple, *arguments: object, **options: object) -> tuple:
    # A type of the items would be checked in tests, for an item that Python's generator draws.
    return (*drawn, Drawn(function, arguments, options))


class Drawing:
    """A training transform whose RandAugment is only drawn."""

    def __init__(self, transform: Compose):
        """Take RandAugment out of a transform.

        Args:
            transform: Of timm, up to ``uint8``.

        Raises:
            ValueError: If it has another policy, or an operation that is not computed here.
        """
        policies = [step for step in transform.transforms if isinstance(step, RandAugment)]
        unknown = {
            one.name for policy in policies for one in policy.ops if one.aug_fn not in NUMBERS
        }
        if unknown or not policies:
            raise ValueError(
                "image_classification: auto_augment must be a RandAugment of operations that the "
                f"device computes, got {', '.join(sorted(unknown)) or 'another policy'}. Set "
                "training.augment_on to worker, or change training.auto_augment."
            )
        options = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
        assert all(operation.kwargs == options for operation in policies[0].ops)
        self._rest = Compose([step for step in transform.transforms if step is not policies[0]])
        self._layers, self._draw = policies[0].num_layers, drawing(policies[0])

    def __call__(self, image: Image.Image) -> Undone:
        """Return an image as it is before RandAugment, and the operations that follow."""
        pixels = self._rest(image)  # its draws come first, as in the complete transform
        drawn = [(NUMBERS[one.function], *one.arguments, 0.0)[:2] for one in self._draw()]
        drawn += [(NOTHING, 0.0)] * (self._layers - len(drawn))
        return Undone(pixels, torch.tensor(drawn, dtype=torch.float64))


def operated(change: Augment) -> Callable[[Undone, Draws], Float[Tensor, "batch 3 height width"]]:
    """Return a change of batches that computes what was drawn before it."""
    return lambda undone, draws: change(operate(*undone), draws)


def operate(images: Images, drawn: Float64[Tensor, "batch layers 2"]) -> Images:
    """Return the images after all their operations.

    Args:
        images: On the device.
        drawn: Number and argument of each operation in its order, on the CPU.
    """
    images = images.clone()
    for layer in drawn.unbind(1):
        numbers, arguments = layer.unbind(1)
        for number in sorted({*numbers.int().tolist()} - {NOTHING}):
            chosen = (numbers == number).nonzero()[:, 0]
            places = chosen.to(images.device)
            images[places] = FUNCTIONS[number](images[places], arguments[chosen])
    return images


def invert(images: Images, _arguments: Arguments) -> Images:
    """Return negatives."""
    return 255 - images


def posterize(images: Images, bits: Arguments) -> Images:
    """Return images with so many of the highest bits of each value."""
    lost = 256 >> _like(images, bits, torch.int64).clamp(0, 8)
    return images & (256 - lost).to(torch.uint8)


def solarize(images: Images, thresholds: Arguments) -> Images:
    """Return images whose values from the threshold on are inverted."""
    return torch.where(images < _like(images, thresholds, torch.int16), images, 255 - images)


def solarize_add(images: Images, added: Arguments) -> Images:
    """Return images whose values below 128 are raised."""
    raised = (images + _like(images, added, torch.int16)).clamp(max=255).to(torch.uint8)
    return torch.where(images < 128, raised, images)


def auto_contrast(images: Images, _arguments: Arguments) -> Images:
    """Return images whose channels reach from 0 to 255 each, unless they have one value only."""
    low, high = (limit.double()[..., None] for limit in images.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255) / (high - low)  # 255 / tensor rounds twice
    levels = torch.arange(LEVELS, device=images.device)
    table = (levels * scale + -low * scale).clamp(0, 255)  # nan where there is one value only
    return _looked_up(images, torch.where(high > low, table, levels))


def equalize(images: Images, _arguments: Arguments) -> Images:
    """Return images whose channels have each value about equally often."""
    levels = torch.arange(LEVELS, device=images.device)
    channels = torch.arange(images.shape[0] * 3, device=images.device).view(-1, 3, 1)
    places = (images.flatten(2) + LEVELS * channels).flatten()
    counts = torch.bincount(places, minlength=channels.numel() * LEVELS).view(-1, 3, LEVELS)
    highest = ((counts > 0) * levels).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, highest)) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _looked_up(images, torch.where(step > 0, table, levels))


def brightness(images: Images, factors: Arguments) -> Images:
    """Return images between black and themselves, or beyond."""
    return _blend(torch.zeros_like(images), images, factors)


def contrast(images: Images, factors: Arguments) -> Images:
    """Return images between their mean grey and themselves, or beyond."""
    grey = _grey(images).flatten(1)
    mean = (2 * grey.sum(1) + grey.shape[1]) // (2 * grey.shape[1])  # rounded
    return _blend(mean[:, None, None, None], images, factors)


def color(images: Images, factors: Arguments) -> Images:
    """Return images between their greys and themselves, or beyond."""
    return _blend(_grey(images), images, factors)


def sharpness(images: Images, factors: Arguments) -> Images:
    """Return images between smoothed ones and themselves, or beyond; the rim is not smoothed.

    A smoothed value has 5 parts of itself and one of each of its 8 neighbours.
    """
    wide = images.to(torch.int16)
    across = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    near = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = (2 * (near + 4 * wide[..., 1:-1, 1:-1]) + 13) // 26  # rounded
    return _blend(smooth, images, factors)


def moved(
    matrix: Callable[[float, int, int], Matrix], images: Images, arguments: Arguments
) -> Images:
    """Return images that are turned, sheared or moved, by cubics; what moves in is ``FILL``.

    Args:
        matrix: From an image's argument, width and height.
        images: At least 2 pixels wide and high.
        arguments: Of the operation.
    """
    height, width = images.shape[-2:]
    return _sampled(images, [matrix(value, width, height) for value in arguments.tolist()])


def turn(degrees: float, width: int, height: int) -> Matrix:
    """Return the matrix of a turn about the centre; cosine and sine have 15 digits."""
    angle = -math.radians(degrees % 360.0)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    across, down = cosine * -x + sine * -y, -sine * -x + cosine * -y
    return cosine, sine, across + x, -sine, cosine, down + y


def _shear_x(factor: float, _width: int, _height: int) -> Matrix:
    return 1.0, factor, 0.0, 0.0, 1.0, 0.0


def _shear_y(factor: float, _width: int, _height: int) -> Matrix:
    return 1.0, 0.0, 0.0, factor, 1.0, 0.0


def _move_x(share: float, width: int, _height: int) -> Matrix:
    return 1.0, 0.0, share * width, 0.0, 1.0, 0.0


def _move_y(share: float, _width: int, height: int) -> Matrix:
    return 1.0, 0.0, 0.0, 0.0, 1.0, share * height


OPERATIONS: dict[Callable[..., Image.Image], Callable[[Images, Arguments], Images]] = {
    timms.auto_contrast: auto_contrast,
    timms.equalize: equalize,
    timms.invert: invert,
    timms.posterize: posterize,
    timms.solarize: solarize,
    timms.solarize_add: solarize_add,
    timms.color: color,
    timms.contrast: contrast,
    timms.brightness: brightness,
    timms.sharpness: sharpness,
    timms.rotate: partial(moved, turn),
    timms.shear_x: partial(moved, _shear_x),
    timms.shear_y: partial(moved, _shear_y),
    timms.translate_x_rel: partial(moved, _move_x),
    timms.translate_y_rel: partial(moved, _move_y),
}
"""timm's functions, and those that compute the same for a batch."""
FUNCTIONS = tuple(OPERATIONS.values())
NUMBERS = {function: number for number, function in enumerate(OPERATIONS)}


def _like(images: Images, arguments: Arguments, dtype: torch.dtype) -> Tensor:
    """Return the arguments next to the images, with an axis for each of theirs."""
    return arguments.to(images.device, dtype)[:, None, None, None]


def _looked_up(images: Images, table: Tensor) -> Images:
    """Return what a table of each channel, (batch, 3, levels), has for the values."""
    values = table.to(torch.uint8).gather(2, images.flatten(2).long())
    return values.view_as(images)


def _grey(images: Images) -> Int[Tensor, "batch 1 height width"]:
    luma = torch.tensor(LUMA, dtype=torch.int32, device=images.device).view(3, 1, 1)
    return ((images * luma).sum(1, keepdim=True) + 2**15) >> 16


def _blend(start: Tensor, images: Images, factors: Arguments) -> Images:
    """Return ``start + factor (images - start)``, cut to values and down to integers."""
    start = start.float()
    values = start + _like(images, factors, torch.float32) * (images - start)
    return values.clamp(0, 255).to(torch.uint8)


def _sampled(images: Images, matrices: Sequence[Matrix]) -> Images:
    """Return images whose pixels come from where the matrices say, as centres of pixels."""
    height, width = images.shape[-2:]
    terms = torch.tensor(matrices, dtype=torch.float64, device=images.device).T[..., None, None]
    right, low = (
        torch.arange(side, device=images.device).double() + 0.5 for side in (width, height)
    )
    x, y = (a * right + b * low[:, None] + c for a, b, c in (terms[:3], terms[3:]))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    across = TAPS if any(matrix[:3] != (1, 0, 0) for matrix in matrices) else (0,)
    down = TAPS if any(matrix[3:] != (0, 1, 0) for matrix in matrices) else (0,)
    x, y = x - 0.5, y - 0.5
    column, row, flat = x.floor(), y.floor(), images.flatten(2)
    lines = []
    for step in down:
        begin = (row + step).clamp(0, height - 1) * width
        places = [begin + (column + tap).clamp(0, width - 1) for tap in across]
        indices = [place.long().flatten(1)[:, None].expand(-1, 3, -1) for place in places]
        near = [flat.gather(2, index).view_as(images).to(torch.int16) for index in indices]
        lines.append(_cubic(near, (x - column)[:, None]))
    values = _cubic(lines, (y - row)[:, None]).clamp(0, 255).to(torch.uint8)
    fill = torch.tensor(FILL, dtype=torch.uint8, device=images.device).view(3, 1, 1)
    return torch.where(inside[:, None], values, fill)


def _cubic(near: Sequence[Tensor], past: Float64[Tensor, "batch 1 height width"]) -> Tensor:
    """Return the value between four neighbours, ``past`` the second; a single one as it is.

    Pillow's cubic, whose slope at a pixel is the difference of its two neighbours (a = -1).
    """
    if len(near) == 1:
        return near[0]
    first, second, third, fourth = near
    cubed = second - first - third + fourth
    squared = 2 * (first - second) + third - fourth
    return second + past * (third - first + past * (squared + past * cubed))
