import itertools
import math

import pytest
import timm
import torch
from timm.data import create_transform
from torchvision.transforms.functional import to_pil_image

from rectify.data.draws import draw, seeds
from rectify.runtime import generator, seed_globals
from rectify.tasks.image_classification.augment import (
    GRAY_MEAN,
    GRAY_STD,
    MEAN,
    STD,
    batched,
    erase,
    evaluation_transform,
    flip,
    normalise,
    per_image,
    pose,
    published_transform,
    shift,
)

SETTINGS = {"image_size": 24, "crop": "resized", "crop_scale": 0.3, "pad": 4, "flip_prob": 0.5}
RANDAUGMENT = {**SETTINGS, "auto_augment": "rand-m9-mstd0.5-inc1"}


def pixels(*shape, seed=0):
    draws = generator(seed, "pixels")
    return torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)


def draws(items, seed=0):
    return draw(items, generator(seed))


def colours(*shape, seed=0):
    return to_pil_image(pixels(*shape, seed=seed))


def places(image, moved, pad):
    """Return the offsets at which a window of the padded image is the moved one."""
    height, width = image.shape[-2:]
    padded = torch.zeros(len(image), height + 2 * pad, width + 2 * pad, dtype=torch.uint8)
    padded[:, pad : pad + height, pad : pad + width] = image
    return [
        (row, column)
        for row, column in itertools.product(range(2 * pad + 1), repeat=2)
        if torch.equal(padded[:, row : row + height, column : column + width], moved)
    ]


def test_a_shift_is_a_window_of_the_padded_image_and_each_image_has_its_own():
    images = pixels(64, 3, 6, 7)
    moved = shift(images, 2, draws(64, 1))
    assert moved.shape == images.shape
    found = [places(*pair, 2) for pair in zip(images, moved, strict=True)]
    assert all(len(one) == 1 for one in found)
    rows, columns = zip(*(one[0] for one in found), strict=True)
    assert set(rows) == set(columns) == set(range(5))
    assert len(set(zip(rows, columns, strict=True))) > 15


def test_no_padding_means_no_shift():
    images = pixels(5, 1, 6, 6)
    assert torch.equal(shift(images, 0, draws(5)), images)


@pytest.mark.parametrize(("prob", "expected"), [(0.0, False), (1.0, True)])
def test_the_flip_probability_is_kept_at_its_ends(prob, expected):
    images = pixels(20, 1, 4, 4)
    assert torch.equal(flip(images, prob, draws(20)), images.flip(-1) if expected else images)


def test_each_image_is_flipped_or_not_on_its_own():
    images = pixels(400, 1, 4, 4)
    flipped = (flip(images, 0.3, draws(400)) != images).flatten(1).any(1)
    assert 0.2 < flipped.float().mean() < 0.4


def test_grey_and_colour_are_normalised_with_their_own_values():
    gray = normalise(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
    torch.testing.assert_close(gray.flatten(), torch.tensor([-0.5, 0.85 / 0.3]))
    assert (GRAY_MEAN, GRAY_STD) == ((0.15,), (0.3,))
    colour = normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    expected = [(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    torch.testing.assert_close(colour, torch.tensor(expected))
    assert (MEAN, STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_clips_are_normalised_frame_by_frame():
    clips = pixels(2, 4, 3, 5, 5)
    assert torch.equal(normalise(clips)[:, 1], normalise(clips[:, 1]))


def test_the_batched_path_is_shift_flip_and_normalise():
    images, numbers = pixels(8, 3, 6, 6), draws(8, 4)
    augment = batched(crop="padded", pad=2, flip_prob=0.5, erasing=0.0)
    by_hand = normalise(flip(shift(images, 2, numbers), 0.5, numbers))
    assert torch.equal(augment(images, numbers), by_hand)
    plain = batched(crop="none", pad=2, flip_prob=0.0, erasing=0.0)
    assert torch.equal(plain(images, numbers), normalise(images))


def test_a_pose_takes_each_pixel_from_where_it_was():
    """By hand: turn, scale and move each place of the output, and read the nearest four pixels."""
    size = 9
    images, numbers = pixels(6, 2, size, size), draws(6)
    posed = pose(images, numbers)
    bits = seeds(numbers)
    for item in range(6):
        number = bits[item].item()
        angle = math.radians(-10 + 20 * (number >> 26) / 2**27)
        factor = 0.9 + 0.15 * (number % 2**26) / 2**26
        right, down = (-0.05 + 0.1 * numbers[item, column].item() for column in (1, 0))
        for row, column in itertools.product(range(size), range(size)):
            x, y = column + 0.5 - size / 2, row + 0.5 - size / 2
            x, y = (
                (x * math.cos(angle) - y * math.sin(angle)) / factor + (right + 0.5) * size - 0.5,
                (x * math.sin(angle) + y * math.cos(angle)) / factor + (down + 0.5) * size - 0.5,
            )
            x, y = min(max(x, 0), size - 1), min(max(y, 0), size - 1)
            left, top = min(int(x), size - 2), min(int(y), size - 2)
            near = images[item, :, top : top + 2, left : left + 2].double()
            across = near[..., 0] * (1 - x + left) + near[..., 1] * (x - left)
            expected = across[:, 0] * (1 - y + top) + across[:, 1] * (y - top)
            assert (posed[item, :, row, column] - expected).abs().max() <= 0.51


def test_the_numbers_of_poses_are_even_and_independent():
    numbers = seeds(draws(5000))
    high, low = numbers // 2**26 / 2**27, numbers % 2**26 / 2**26
    for one in (high, low):
        assert 0 <= one.min() < 0.01 < 0.99 < one.max() < 1
        assert abs(one.mean() - 0.5) < 0.02
    assert abs(torch.corrcoef(torch.stack([high, low]))[0, 1]) < 0.05


@pytest.mark.parametrize("crop", ["padded", "posed"])
def test_an_image_is_augmented_the_same_in_any_batch(crop):
    images, numbers = pixels(12, 3, 16, 16), draws(12)
    augment = batched(crop=crop, pad=2, flip_prob=0.5, erasing=0.5)
    together = augment(images, numbers)
    assert torch.equal(augment(images, numbers), together)
    alone = [augment(images[[item]], numbers[[item]]) for item in range(12)]
    assert torch.equal(torch.cat(alone), together)
    assert torch.equal(augment(images[7:9], numbers[7:9]), together[7:9])


def test_the_random_numbers_of_an_epoch_are_even_and_differ_by_image():
    numbers = draws(5000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    torch.testing.assert_close(numbers.mean(0), torch.full((5,), 0.5).double(), atol=0.02, rtol=0)
    assert len(seeds(numbers).unique()) == 5000
    assert torch.equal(seeds(numbers[10:20]), seeds(numbers)[10:20])


@pytest.mark.parametrize(("channels", "erasing"), [(1, 0.0), (3, 0.0), (3, 1.0)])
def test_the_frames_of_a_clip_move_together(channels, erasing):
    frame = pixels(30, 1, channels, 8, 8)
    clips = frame.expand(30, 4, channels, 8, 8).contiguous()
    augment = batched(crop="padded", pad=2, flip_prob=0.5, erasing=erasing)
    moved = augment(clips, draws(30))
    assert moved.shape == clips.shape
    if erasing:  # one region for all frames: what differs between them lies inside it
        same = (moved == moved[:, :1]).all((1, 2))  # (items, height, width)
        assert 0 < same.float().mean() < 1
    else:
        assert torch.equal(moved, moved[:, :1].expand_as(moved))


def test_stored_images_stay_as_they_are():
    images = pixels(6, 1, 8, 8)
    before = images.clone()
    for erasing in (0.0, 1.0):
        batched(crop="none", pad=0, flip_prob=0.0, erasing=erasing)(images, draws(6))
    assert torch.equal(images, before)


def test_erasing_is_different_for_each_image_and_repeats_with_its_numbers():
    images = pixels(1, 1, 16, 16).expand(12, 1, 16, 16).contiguous()
    augment = batched(crop="none", pad=0, flip_prob=0.0, erasing=1.0)
    first = augment(images, draws(12))
    erased = first != normalise(images)
    assert erased.flatten(1).any(1).all()
    assert len({tuple(one.flatten().tolist()) for one in erased}) > 6
    seed_globals(3)
    assert torch.equal(augment(images, draws(12)), first)


def test_the_share_of_erased_images_is_the_probability():
    floats = torch.zeros(400, 1, 8, 8)
    shares = [
        (erase(floats.clone(), prob, draws(400)) != 0).flatten(1).any(1).float().mean()
        for prob in (0.0, 0.25, 1.0)
    ]
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.25, abs=0.06)
    assert shares[2] == 1


def test_randaugment_repeats_with_the_seed_and_differs_for_each_image():
    transform, image = per_image(**RANDAUGMENT), colours(3, 32, 32)

    def several():
        seed_globals(0, "step", 1)
        return torch.stack([transform(image) for _ in range(6)])

    first = several()
    assert first.shape == (6, 3, 24, 24)
    assert first.dtype == torch.uint8
    assert torch.equal(several(), first)
    assert len({tuple(one.flatten().tolist()) for one in first}) == 6


def test_two_hundred_random_images_pass_randaugment():
    transform = per_image(**RANDAUGMENT)
    seed_globals(1)
    sizes = [(3, 24, 24), (3, 40, 30), (3, 17, 50)]
    for index in range(200):
        assert transform(colours(*sizes[index % 3], seed=index)).shape == (3, 24, 24)


def test_the_transform_is_deits_whose_colour_jitter_timm_leaves_out():
    ours = per_image(**RANDAUGMENT | {"crop_scale": 0.08, "image_size": 224})
    deits = create_transform(
        input_size=224, is_training=True, color_jitter=0.3, interpolation="bicubic",
        auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, re_mode="pixel", re_count=1,
    )  # fmt: skip
    steps = [repr(step) for step in deits.transforms]
    assert [repr(step) for step in ours.transforms[:-1]] == steps[:3]  # crop, mirror, RandAugment
    assert [name.partition("(")[0] for name in steps[3:]] == [
        "MaybeToTensor",
        "Normalize",
        "RandomErasing",
    ]
    assert not [name for name in steps if "Jitter" in name]


def test_our_two_stages_give_the_pixels_of_timms_one():
    image = colours(3, 40, 30)
    whole = create_transform(
        input_size=24, is_training=True, scale=(0.3, 1.0), color_jitter=None,
        auto_augment=RANDAUGMENT["auto_augment"], interpolation="bicubic",
    )  # fmt: skip
    ours = per_image(**RANDAUGMENT)
    for seed in range(10):
        seed_globals(seed)
        expected = whole(image)
        seed_globals(seed)
        torch.testing.assert_close(normalise(ours(image)[None])[0], expected)


def test_at_32_pixels_the_crop_is_padded_as_in_deit():
    settings = RANDAUGMENT | {"image_size": 32, "crop": "padded", "auto_augment": None}
    settings["flip_prob"] = 0.0
    image, transform = pixels(3, 32, 32), per_image(**settings)
    seed_globals(0)
    found = [places(image[:1], transform(to_pil_image(image))[:1], 4) for _ in range(30)]
    assert all(len(one) == 1 for one in found)
    assert len({one[0] for one in found}) > 15
    assert "RandAugment" in repr(per_image(**RANDAUGMENT | {"crop": "padded"}))


def test_a_centre_crop_is_that_of_the_test_before_the_image_is_changed():
    settings = RANDAUGMENT | {"crop": "centre", "flip_prob": 0.0}
    image, size = colours(3, 60, 40), settings["image_size"]
    plain = per_image(**settings | {"auto_augment": None})
    assert torch.equal(plain(image), evaluation_transform(size, 1.0)(image))
    steps = [type(step).__name__ for step in per_image(**settings).transforms]
    assert steps[:2] == ["Resize", "CenterCrop"]
    assert "RandAugment" in steps[2:]


def test_without_randaugment_a_crop_changes_no_colour():
    plain = per_image(**SETTINGS | {"crop_scale": 1.0}, auto_augment=None)
    seed_globals(0)
    for _ in range(5):
        out = plain(to_pil_image(torch.full((3, 24, 24), 200, dtype=torch.uint8)))
        assert torch.equal(out, torch.full((3, 24, 24), 200, dtype=torch.uint8))


def test_erased_pixels_are_noise_as_in_deit():
    erased = erase(torch.full((1, 3, 24, 24), 9.0), 1.0, draws(1))
    changed = erased[erased != 9.0]
    assert len(changed) > 10
    assert changed.std() > 0.5


def test_other_images_are_resized_and_cropped_as_in_deit_at_test():
    image = pixels(3, 50, 70)
    out = evaluation_transform(28, crop=0.875)(to_pil_image(image))
    small = to_pil_image(image).resize((round(32 * 70 / 50 - 0.5), 32), resample=3)
    assert out.shape == (3, 28, 28)
    left = round((small.width - 28) / 2)
    expected = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    expected = expected.view(32, small.width, 3).permute(2, 0, 1)[:, 2:30, left : left + 28]
    assert torch.equal(out, expected)


def test_the_published_transform_is_the_one_that_timm_names_for_the_weights():
    vit = timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=0)
    image = torch.full((3, 300, 200), 255, dtype=torch.uint8)
    prepare, transform = published_transform(vit)
    out = transform(prepare(to_pil_image(image))[None])
    assert out.shape == (1, 3, 224, 224)
    torch.testing.assert_close(out, torch.ones_like(out))  # mean and std are 0.5 there


def test_an_image_of_the_right_size_is_kept_whole_with_crop_1():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert torch.equal(evaluation_transform(32, crop=1.0)(to_pil_image(image)), image)
