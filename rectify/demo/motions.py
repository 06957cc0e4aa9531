"""Clips of a moving character: the label is the motion, never visible in a single frame.

Each clip starts from its own place, angle, size and brightness and goes by its own speed;
the characters of the test clips never occur in training, and each class has the same ones.
Chance is 1 / 10.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8

from rectify.data.sets import ImageSet
from rectify.demo.fonts import FACES, Face, Pose, draw
from rectify.runtime import seed_for

State = tuple[Pose, float]
"""How the glyph lies, and its brightness in 0 .. 1."""

MOTIONS: dict[str, Callable[[float], State]] = {
    "left": lambda phase: (Pose(right=-0.14 * phase), 0.75),
    "right": lambda phase: (Pose(right=0.14 * phase), 0.75),
    "up": lambda phase: (Pose(down=-0.14 * phase), 0.75),
    "down": lambda phase: (Pose(down=0.14 * phase), 0.75),
    "turn left": lambda phase: (Pose(angle=60 * phase), 0.75),
    "turn right": lambda phase: (Pose(angle=-60 * phase), 0.75),
    "grow": lambda phase: (Pose(scale=1 + 0.4 * phase), 0.75),
    "shrink": lambda phase: (Pose(scale=1 - 0.4 * phase), 0.75),
    "brighten": lambda phase: (Pose(), 0.6 + 0.3 * phase),
    "darken": lambda phase: (Pose(), 0.6 - 0.3 * phase),
}
"""By name: change from the start of a clip, phase -1, to its end, phase 1, at full speed."""

SCALE = 0.6
JITTER = (0.02, 0.02, 6, 0.05, 0.08)
"""Most by which clips differ in place (two), angle, relative size and brightness."""
SPEED = (0.8, 1.0)
TRAIN_CHARACTERS, TEST_CHARACTERS = "ABEFGHKLNRSTZabdefhkrt2457", "CJPQYgnqy369"


def motions(
    *,
    image_size: int,
    seed: int,
    frames: int,
    train_items: int,
    test_items: int,
) -> dict[str, ImageSet]:
    """Return train and test clips of ten motions.

    Args:
        image_size: Height and width in pixels.
        seed: Of every draw.
        frames: Frames of a clip.
        train_items: Training clips per motion.
        test_items: Test clips per motion.
    """
    shares = {"train": (train_items, TRAIN_CHARACTERS), "test": (test_items, TEST_CHARACTERS)}
    return {
        split: _clips(split, *share, image_size, frames, seed) for split, share in shares.items()
    }


def _clips(
    split: str, items: int, letters: str, image_size: int, frames: int, seed: int
) -> ImageSet:
    random = np.random.default_rng(seed_for(seed, "motions", split))
    clips, sources = [], []
    for motion in MOTIONS:
        for item in range(items):
            character, face = letters[item % len(letters)], FACES[int(random.integers(len(FACES)))]
            clips.append(_clip(motion, character, face, image_size, frames, random))
            sources.append(f"{character} in {face.name}")
    images = torch.from_numpy(np.stack(clips))[:, :, None]  # (items, frames, 1, height, width)
    labels = torch.arange(len(MOTIONS)).repeat_interleave(items)
    return ImageSet(images, labels, tuple(MOTIONS), tuple(sources))


def _clip(
    motion: str,
    character: str,
    face: Face,
    image_size: int,
    frames: int,
    random: np.random.Generator,
) -> UInt8[np.ndarray, "frames size size"]:
    right, down, angle, size, light = random.uniform(-1, 1, 5) * JITTER
    speed = random.uniform(*SPEED)
    drawn = []
    for phase in np.linspace(-speed, speed, frames):
        change, brightness = MOTIONS[motion](float(phase))
        pose = Pose(
            angle=angle + change.angle,
            scale=SCALE * (1 + size) * change.scale,
            right=right + change.right,
            down=down + change.down,
        )
        drawn.append(draw(character, face, image_size, pose) * (brightness + light))
    return np.round(np.stack(drawn)).astype(np.uint8)
