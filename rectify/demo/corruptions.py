"""Corruptions of grey images in five severities, after Hendrycks and Dietterich (2019).

Each takes an image, the severity 1..5 and a generator, and returns an image of the same
size. A higher severity changes an image more.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

Grey = UInt8[np.ndarray, "size size"]


def gaussian_noise(image: Grey, severity: int, random: np.random.Generator) -> Grey:
    """Add normal noise to each pixel."""
    return grey(image + random.normal(0, 20 + 20 * severity, image.shape))


def impulse_noise(image: Grey, severity: int, random: np.random.Generator) -> Grey:
    """Make some pixels black or white."""
    hit = random.random(image.shape) < 0.05 * severity
    return np.where(hit, grey(255 * random.integers(0, 2, image.shape)), image)


def gaussian_blur(image: Grey, severity: int, random: np.random.Generator) -> Grey:
    """Blur in all directions."""
    radius = (0.01 + 0.014 * severity) * len(image)
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def motion_blur(image: Grey, severity: int, random: np.random.Generator) -> Grey:
    """Blur in the direction of one of four axes."""
    reach = max(1, round(0.035 * severity * len(image)))
    step = np.array([(0, 1), (1, 0), (1, 1), (1, -1)][random.integers(4)])
    steps = range(-reach, reach + 1)
    return grey(np.mean([np.roll(image, tuple(k * step), (0, 1)) for k in steps], axis=0))


def pixelate(image: Grey, severity: int, random: np.random.Generator) -> Grey:
    """Average over squares."""
    small = max(2, round(len(image) / (1 + 0.5 * severity)))
    reduced = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
    return np.asarray(reduced.resize(image.shape, Image.Resampling.NEAREST))


def contrast(image: Grey, severity: int, random: np.random.Generator) -> Grey:
    """Bring all grey levels nearer to the mean."""
    return grey(image.mean() + (image - image.mean()) * (0.75 - 0.13 * severity))


def jpeg(image: Grey, severity: int, random: np.random.Generator) -> Grey:
    """Compress by JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=36 - 7 * severity)
    return np.asarray(Image.open(buffer))


CORRUPTIONS: dict[str, Callable[[Grey, int, np.random.Generator], Grey]] = {
    "gaussian-noise": gaussian_noise,
    "impulse-noise": impulse_noise,
    "gaussian-blur": gaussian_blur,
    "motion-blur": motion_blur,
    "pixelate": pixelate,
    "contrast": contrast,
    "jpeg": jpeg,
}


def grey(values: np.ndarray) -> Grey:
    """Return numbers as grey levels, rounded and kept within 0..255."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
