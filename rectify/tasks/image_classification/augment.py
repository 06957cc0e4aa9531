"""From stored ``uint8`` images to the tensors that a model sees; one draw for each image.

First an image is brought to the model's size by timm's transforms, one by one and where the
files are read, unless its set is stored that way; then batches are shifted, mirrored, normalised
and erased on the device. Each place in an epoch has its own random numbers, whatever batch, worker
or process it falls to: a draw shared by a batch would correlate the per-sample gradients.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int, UInt8
from timm.data import create_transform, resolve_model_data_config
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms import Compose, RandomCrop

from rectify.data.draws import Draws, seeds
from rectify.runtime import seed_globals

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as in DeiT
GRAY_MEAN, GRAY_STD = (0.15,), (0.3,)  # of drawn glyphs
INTERPOLATION = "bicubic"  # where an image is resized, as in DeiT
TURN, SCALE, MOVE = 10.0, (0.9, 1.05), 0.05
"""Of a pose: degrees either way, least and largest factor, share of the image's size."""
RESIZED = ("resized", "centre")
"""Crops that bring an image of any size to the model's."""
ROW, COLUMN, MIRROR, ERASE = range(4)
"""Columns of the random numbers of an image."""

Augment = Callable[[UInt8[Tensor, " batch *pixels"], Draws], Float[Tensor, " batch *pixels"]]


def normalise(
    images: UInt8[Tensor, " batch *pixels"],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Float[Tensor, " batch *pixels"]:
    """Return images or clips as floats: 0..255 to 0..1, less the mean, over the std.

    Args:
        images: Grey or colour images.
        mean: By channel; ImageNet's for colours and that of drawn glyphs for grey if None.
        std: By channel, likewise.
    """
    mean, std = (
        torch.tensor(given or default, device=images.device).view(-1, 1, 1)
        for given, default in zip((mean, std), usual(images.shape[-3]), strict=True)
    )
    return (images / 255 - mean) / std


def usual(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std by channel, of colours or of grey."""
    return (MEAN, STD) if channels == 3 else (GRAY_MEAN, GRAY_STD)


def shift(
    images: UInt8[Tensor, "batch channels height width"], pad: int, draws: Draws
) -> UInt8[Tensor, "batch channels height width"]:
    """Return each image cropped at its own place from a copy with ``pad`` pixels around it."""
    _, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    rows = _offsets(draws[:, ROW], pad) + torch.arange(height)  # (batch, height)
    columns = _offsets(draws[:, COLUMN], pad) + torch.arange(width)  # (batch, width)
    items = torch.arange(len(images))[:, None, None]
    return padded[items, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def pose(
    images: UInt8[Tensor, "batch channels height width"], draws: Draws
) -> UInt8[Tensor, "batch channels height width"]:
    """Return each image turned, scaled and moved by its own numbers; its edges are repeated.

    By up to ``TURN``, ``SCALE`` and ``MOVE``, all uniform; bilinear.
    """
    bits = seeds(draws)
    turned, scaled = (
        (bits // 2**26).double() / 2**27,
        (bits % 2**26).double() / 2**26,
    )  # two more numbers in 0 .. 1
    angles = torch.deg2rad(_between(-TURN, TURN, turned))
    factors = 1 / _between(*SCALE, scaled)
    cosines, sines = angles.cos() * factors, angles.sin() * factors
    right, down = (_between(-MOVE, MOVE, draws[:, column]) * 2 for column in (COLUMN, ROW))
    rows = torch.stack([cosines, -sines, right, sines, cosines, down], 1).view(-1, 2, 3)
    grid = affine_grid(rows.to(images.device, torch.float32), list(images.shape), False)
    return grid_sample(images.float(), grid, "bilinear", "border", False).round().to(torch.uint8)


def flip(
    images: UInt8[Tensor, "batch channels height width"], prob: float, draws: Draws
) -> UInt8[Tensor, "batch channels height width"]:
    """Return the images, each mirrored left to right with probability ``prob``."""
    mirrored = (draws[:, MIRROR] < prob).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def erase(
    floats: Float[Tensor, "batch channels height width"], prob: float, draws: Draws
) -> Float[Tensor, "batch channels height width"]:
    """Replace a rectangle by noise in some images, in place; seeds the global generators."""
    chosen = (draws[:, ERASE] < prob).nonzero().flatten().tolist()
    eraser = RandomErasing(1.0, mode="pixel", device=floats.device)
    for item, seed in zip(chosen, seeds(draws[chosen]).tolist(), strict=True):
        seed_globals(seed, "erase")
        eraser(floats[item])
    return floats


def batched(*, crop: str, pad: int, flip_prob: float, erasing: float) -> Augment:
    """Return the augmentation of a batch: shift or pose, mirror, normalise, erase.

    The frames of a clip share the shift or pose.
    """

    def augment(images: Tensor, draws: Tensor) -> Tensor:
        flat = images.flatten(1, -3)  # clips: frames and channels together
        if crop == "padded":
            flat = shift(flat, pad, draws)
        if crop == "posed":
            flat = pose(flat, draws)
        if flip_prob:
            flat = flip(flat, flip_prob, draws)
        floats = normalise(flat.reshape(images.shape))
        return erase(floats.flatten(1, -3), erasing, draws).reshape(images.shape)

    return augment


def per_image(
    *,
    image_size: int,
    crop: str,
    crop_scale: float,
    pad: int,
    flip_prob: float,
    auto_augment: str | None,
) -> Compose:
    """Return timm's training transform of one RGB image, up to ``uint8`` of the model's size."""
    transform = create_transform(
        input_size=image_size,
        is_training=True,
        scale=(crop_scale, 1.0),
        hflip=flip_prob,
        color_jitter=None,  # RandAugment replaces it, as in DeiT
        auto_augment=auto_augment,
        interpolation=INTERPOLATION,
        mean=MEAN,  # grey of the edges that RandAugment moves in
        normalize=False,
    )
    if crop == "padded":  # as DeiT does at 32 pixels
        transform.transforms[0] = RandomCrop(image_size, padding=pad)
    if crop == "centre":
        transform.transforms[:1] = evaluation_transform(image_size, 1.0).transforms[:-1]
    return transform


def evaluation_transform(image_size: int, crop: float) -> Compose:
    """Return the test transform of one RGB image, up to ``uint8``: resize and centre crop.

    Args:
        image_size: Height and width of the model's input in pixels.
        crop: Share of the resized image that is kept: 0.875 as in DeiT, 1.0 for images that
            have the right size already.
    """
    return create_transform(
        input_size=image_size, interpolation=INTERPOLATION, crop_pct=crop, normalize=False
    )


def mask_transform(image_size: int, crop: float) -> Compose:
    """Return the same crop for a mask stored as RGB: each pixel is one of the stored ones."""
    return create_transform(
        input_size=image_size, interpolation="nearest", crop_pct=crop, normalize=False
    )


def published_transform(
    vit: nn.Module,
) -> tuple[Compose, Callable[[UInt8[Tensor, " batch *pixels"]], Float[Tensor, " batch *pixels"]]]:
    """Return what a timm model with published weights takes: up to ``uint8``, and from there."""
    published = resolve_model_data_config(vit)
    mean, std = published["mean"], published["std"]
    prepare = create_transform(**published, normalize=False)
    return prepare, lambda images: normalise(images, mean, std)


def _between(low: float, high: float, draws: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return low + (high - low) * draws


def _offsets(draws: Float64[Tensor, " batch"], pad: int) -> Int[Tensor, "batch 1"]:
    return (draws * (2 * pad + 1)).to(torch.int64)[:, None]
