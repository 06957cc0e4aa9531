"""RandAugment of a batch is timm's of each image on Pillow, without a single other value."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from rectify.runtime import seed_globals
from rectify.tasks.image_classification.augment import per_image
from rectify.tasks.image_classification.operations import FILL, NUMBERS, Drawing, Drawn, operate

OPTIONS = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
NAMES = [name for name, function in NAME_TO_OP.items() if function in NUMBERS]
MAGNITUDES = np.linspace(0, 10, 9)
SETTINGS = {"image_size": 24, "crop": "resized", "crop_scale": 0.3, "pad": 4, "flip_prob": 0.5}


def pictures(height: int, width: int) -> list[Image.Image]:
    """Noise, a ramp of colours, what has few values, and what has one."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    ramp = Image.fromarray(noise[:3, :3]).resize((width, height), Image.Resampling.BICUBIC)
    few = [Image.fromarray(90 + noise // step) for step in (6, 100)]
    return [Image.fromarray(noise), ramp, *few, Image.new("RGB", (width, height), (7, 200, 30))]


def drawn(name: str) -> set[tuple[float, ...]]:
    """Return what timm gives an operation at several magnitudes, either way where it has two."""
    level = LEVEL_TO_ARG[name]
    if level is None:
        return {()}
    found = set()
    for seed, magnitude in enumerate(np.repeat(MAGNITUDES, 4).tolist()):
        random.seed(seed)
        found.add(tuple(level(magnitude, {"translate_pct": 0.45})))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_is_pillows_in_every_value(name: str) -> None:
    """Not only those that are exact in integers: also what is turned, sheared, moved or blended."""
    function, images = NAME_TO_OP[name], pictures(24, 17)
    stored = torch.stack([pil_to_tensor(image) for image in images])
    changed = 0
    for arguments in drawn(name):
        code = (NUMBERS[function], *arguments, 0.0)[:2]
        given = torch.tensor([[code]] * len(images), dtype=torch.float64)
        made = operate(stored, given)
        for image, mine in zip(images, made, strict=True):
            expected = pil_to_tensor(Drawn(function, arguments, OPTIONS)(image))
            assert (mine.int() - expected.int()).abs().max() == 0, (name, arguments)
        changed += int((made != stored).any())
    assert changed >= (len(drawn(name)) - 1 or 1)  # all but at no strength


def test_a_factor_of_one_and_a_quarter_of_a_turn_are_exact_too() -> None:
    """Where Pillow takes a shorter way."""
    images = pictures(20, 20)
    stored = torch.stack([pil_to_tensor(image) for image in images])
    for name, argument in (("Color", 1.0), ("Brightness", 0.0), ("Rotate", 90.0), ("Rotate", 0.0)):
        function = NAME_TO_OP[name]
        given = torch.tensor([[[NUMBERS[function], argument]]] * len(images), dtype=torch.float64)
        expected = [pil_to_tensor(function(image, argument, **OPTIONS)) for image in images]
        assert torch.equal(operate(stored, given), torch.stack(expected))


@pytest.mark.parametrize(
    ("policy", "crop"),
    [
        ("rand-m9-mstd0.5-inc1", "resized"),
        ("rand-m7-n4-mstd0.5-inc1", "centre"),
        ("rand-m15-mmax30-n3-p1", "padded"),
        ("rand-mstd101-tweights", "resized"),
    ],
)
def test_a_batch_is_what_timms_transform_makes_of_its_images(policy: str, crop: str) -> None:
    settings = SETTINGS | {"crop": crop, "auto_augment": policy}
    complete, drawing = per_image(**settings), Drawing(per_image(**settings))
    drawing = pickle.loads(pickle.dumps(drawing))  # as a worker gets it
    expected, parts, kinds = [], [], set()
    for seed, image in enumerate(pictures(30, 26) * 12):
        seed_globals(seed)
        expected.append(complete(image))
        after = random.getstate()
        seed_globals(seed)
        parts.append(drawing(image))
        assert random.getstate() == after
        kinds.update(parts[-1].drawn[:, 0].tolist())
    pixels, numbers = (torch.stack(part) for part in zip(*parts, strict=True))
    before = pixels.clone()
    made = operate(pixels, numbers)
    assert torch.equal(made, torch.stack(expected))
    assert torch.equal(pixels, before)
    assert len(kinds) > 10
    some = torch.tensor([3, 50, 8])  # whatever else is in the batch
    assert torch.equal(operate(pixels[some], numbers[some]), made[some])


@pytest.mark.parametrize(
    ("policy", "got"),
    [
        ("rand-m9-t3a", "Desaturate, GaussianBlur"),
        ("augmix-m3", "another policy"),
        ("original-mstd0.5", "another policy"),
    ],
)
def test_what_the_device_does_not_compute_is_one_line(policy: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"that the device computes, got {got}. Set") as caught:
        Drawing(per_image(**SETTINGS, auto_augment=policy))
    assert "\n" not in f"{caught.value}"


def test_images_are_drawn_as_tensors_of_the_model_too() -> None:
    """Stored pixels reach the transform as pictures, whatever they were."""
    image = to_pil_image(torch.zeros(3, 24, 24, dtype=torch.uint8))
    undone = Drawing(per_image(**SETTINGS, auto_augment="rand-m9-p0"))(image)
    assert undone.drawn.tolist() == [[-1.0, 0.0]] * 2
    assert torch.equal(operate(undone.pixels[None], undone.drawn[None])[0], undone.pixels)
