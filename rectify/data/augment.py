"""From stored ``uint8`` images to the tensors that a model sees; one draw for each image.

Small sets that lie in memory are shifted and flipped by index arithmetic on the whole
batch. RandAugment and resized crops go image by image through timm's transforms. Either
way each image has its own random parameters: a draw shared by a batch would correlate
the per-sample gradients.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from timm.data import create_transform, resolve_model_data_config
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, as in DeiT
GRAY_MEAN, GRAY_STD = (0.15,), (0.3,)  # of drawn glyphs


def normalise(images: UInt8[Tensor, " batch *pixels"]) -> Float[Tensor, " batch *pixels"]:
    """Return images or clips as floats: 0..255 to 0..1, less the mean, over the std."""
    channels = images.shape[-3]
    mean, std = (MEAN, STD) if channels == 3 else (GRAY_MEAN, GRAY_STD)
    shape = (len(mean), 1, 1)
    return (images / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def shift(
    images: UInt8[Tensor, "batch channels height width"], pad: int, generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Return each image cropped at its own place from a copy with ``pad`` pixels around it."""
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    rows = _offsets(batch, pad, generator) + torch.arange(height)  # (batch, height)
    columns = _offsets(batch, pad, generator) + torch.arange(width)  # (batch, width)
    items = torch.arange(batch)[:, None, None]
    return padded[items, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(
    images: UInt8[Tensor, "batch channels height width"], prob: float, generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Return the images, each mirrored left to right with probability ``prob``."""
    mirrored = torch.rand(len(images), generator=generator) < prob
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def batched(
    *, crop: str, pad: int, flip_prob: float, erasing: float
) -> Callable[[UInt8[Tensor, " batch *pixels"], torch.Generator], Float[Tensor, " batch *pixels"]]:
    """Return the augmentation of whole batches: shift, mirror, normalise, erase.

    A clip is moved as a whole: its frames share the shift.
    """
    erase = RandomErasing(erasing, mode="pixel", device="cpu")

    def augment(images: Tensor | list[Tensor], generator: torch.Generator) -> Tensor:
        if isinstance(images, list):
            raise ValueError(
                "augment: images from files come in many sizes and need resized crops, got "
                f"crop {crop!r}. Set training.crop to resized."
            )
        flat = images.flatten(1, -3)  # clips: frames and channels together
        if crop == "padded":
            flat = shift(flat, pad, generator)
        if flip_prob:
            flat = flip(flat, flip_prob, generator)
        floats = normalise(flat.reshape(images.shape))
        return erase(floats.flatten(1, -3)).reshape(images.shape) if erasing else floats

    return augment


def per_image(
    *,
    image_size: int,
    crop_scale: float,
    flip_prob: float,
    auto_augment: str | None,
    erasing: float,
) -> Callable[[UInt8[Tensor, "channels height width"]], Float[Tensor, "channels size size"]]:
    """Return timm's training transform of one RGB image; draws from the global generators."""
    transform = create_transform(
        input_size=image_size,
        is_training=True,
        scale=(crop_scale, 1.0),
        hflip=flip_prob,
        color_jitter=None,  # DeiT's is off too: RandAugment replaces it
        auto_augment=auto_augment,
        interpolation="bicubic",
        re_prob=erasing,
        re_mode="pixel",
        mean=MEAN,
        std=STD,
    )
    return lambda image: transform(to_pil_image(image))


def evaluation_transform(
    image_size: int, crop: float | None
) -> Callable[[UInt8[Tensor, " batch *pixels"]], Float[Tensor, " batch *pixels"]]:
    """Return the test transform: resize and centre crop, or nothing but ``normalise``.

    Args:
        image_size: Height and width of the model's input in pixels.
        crop: Share of the resized image that is kept: 0.875 as in DeiT, 1.0 for images that
            have the right size already; None for sets that are stored as the model takes them.
    """
    if crop is None:
        return normalise
    transform = create_transform(
        input_size=image_size, interpolation="bicubic", crop_pct=crop, mean=MEAN, std=STD
    )
    return lambda images: torch.stack([transform(to_pil_image(image)) for image in images])


def published_transform(
    vit: nn.Module,
) -> Callable[[UInt8[Tensor, " batch *pixels"]], Float[Tensor, " batch *pixels"]]:
    """Return the test transform that a timm model with published weights was trained for."""
    transform = create_transform(**resolve_model_data_config(vit))
    return lambda images: torch.stack([transform(to_pil_image(image)) for image in images])


def _offsets(batch: int, pad: int, generator: torch.Generator) -> Int[Tensor, "batch 1"]:
    return torch.randint(0, 2 * pad + 1, (batch, 1), generator=generator)
