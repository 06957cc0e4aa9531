import itertools

import pytest
import timm
import torch
from torchvision.transforms.functional import to_pil_image

from rectify.data.augment import (
    GRAY_MEAN,
    GRAY_STD,
    MEAN,
    STD,
    batched,
    evaluation_transform,
    flip,
    normalise,
    per_image,
    published_transform,
    shift,
)
from rectify.runtime import generator, seed_globals

SETTINGS = {"image_size": 24, "crop_scale": 0.3, "flip_prob": 0.5}
RANDAUGMENT = {**SETTINGS, "auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25}


def pixels(*shape, seed=0):
    draws = generator(seed, "pixels")
    return torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)


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
    moved = shift(images, 2, generator(1))
    assert moved.shape == images.shape
    found = [places(*pair, 2) for pair in zip(images, moved, strict=True)]
    assert all(len(one) == 1 for one in found)
    rows, columns = zip(*(one[0] for one in found), strict=True)
    assert set(rows) == set(columns) == set(range(5))
    assert len(set(zip(rows, columns, strict=True))) > 15


def test_no_padding_means_no_shift():
    images = pixels(5, 1, 6, 6)
    assert torch.equal(shift(images, 0, generator(0)), images)


@pytest.mark.parametrize(("prob", "expected"), [(0.0, False), (1.0, True)])
def test_the_flip_probability_is_kept_at_its_ends(prob, expected):
    images = pixels(20, 1, 4, 4)
    assert torch.equal(flip(images, prob, generator(0)), images.flip(-1) if expected else images)


def test_each_image_is_flipped_or_not_on_its_own():
    images = pixels(400, 1, 4, 4)
    flipped = (flip(images, 0.3, generator(0)) != images).flatten(1).any(1)
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
    images, draws = pixels(8, 3, 6, 6), generator(4)
    augment = batched(crop="padded", pad=2, flip_prob=0.5, erasing=0.0)
    by_hand = normalise(flip(shift(images, 2, draws), 0.5, draws))
    assert torch.equal(augment(images, generator(4)), by_hand)
    plain = batched(crop="none", pad=2, flip_prob=0.0, erasing=0.0)
    assert torch.equal(plain(images, generator(4)), normalise(images))


@pytest.mark.parametrize(("channels", "erasing"), [(1, 0.0), (3, 0.0), (3, 1.0)])
def test_the_frames_of_a_clip_move_together(channels, erasing):
    frame = pixels(30, 1, channels, 8, 8)
    clips = frame.expand(30, 4, channels, 8, 8).contiguous()
    augment = batched(crop="padded", pad=2, flip_prob=0.5, erasing=erasing)
    seed_globals(0)
    moved = augment(clips, generator(0))
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
        batched(crop="none", pad=0, flip_prob=0.0, erasing=erasing)(images, generator(0))
    assert torch.equal(images, before)


def test_erasing_is_different_for_each_image_and_repeats_with_the_seed():
    images = pixels(1, 1, 16, 16).expand(12, 1, 16, 16).contiguous()
    augment = batched(crop="none", pad=0, flip_prob=0.0, erasing=1.0)
    seed_globals(3)
    first = augment(images, generator(0))
    erased = first != normalise(images)
    assert erased.flatten(1).any(1).all()
    assert len({tuple(one.flatten().tolist()) for one in erased}) > 6
    seed_globals(3)
    assert torch.equal(augment(images, generator(0)), first)


def test_randaugment_repeats_with_the_seed_and_differs_for_each_image():
    transform, image = per_image(**RANDAUGMENT), pixels(3, 32, 32)

    def several():
        seed_globals(0, "step", 1)
        return torch.stack([transform(image) for _ in range(6)])

    first = several()
    assert first.shape == (6, 3, 24, 24)
    assert torch.equal(several(), first)
    assert len({tuple(one.flatten().tolist()) for one in first}) == 6


def test_two_hundred_random_images_pass_randaugment():
    transform = per_image(**RANDAUGMENT)
    seed_globals(1)
    sizes = [(3, 24, 24), (3, 40, 30), (3, 17, 50)]
    for index in range(200):
        assert transform(pixels(*sizes[index % 3], seed=index)).isfinite().all()


def test_without_randaugment_a_crop_changes_no_colour():
    plain = per_image(**SETTINGS | {"crop_scale": 1.0}, auto_augment=None, erasing=0.0)
    image = torch.full((3, 24, 24), 200, dtype=torch.uint8)
    expected = normalise(image[None])[0]
    seed_globals(0)
    for _ in range(5):
        torch.testing.assert_close(plain(image), expected)


def test_erased_pixels_are_noise_as_in_deit():
    transform = per_image(**SETTINGS, auto_augment=None, erasing=1.0)
    seed_globals(0)
    erased = transform(torch.zeros(3, 24, 24, dtype=torch.uint8))
    black = normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))[0]
    changed = erased[(erased - black).abs() > 1e-4]
    assert len(changed) > 10
    assert changed.std() > 0.5


def test_embedded_images_are_only_normalised_at_test():
    assert evaluation_transform(28, crop=None) is normalise


def test_other_images_are_resized_and_cropped_as_in_deit_at_test():
    image = pixels(3, 50, 70)
    out = evaluation_transform(28, crop=0.875)([image])
    small = to_pil_image(image).resize((round(32 * 70 / 50 - 0.5), 32), resample=3)
    assert out.shape == (1, 3, 28, 28)
    left = round((small.width - 28) / 2)
    expected = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    expected = expected.view(32, small.width, 3).permute(2, 0, 1)[:, 2:30, left : left + 28]
    torch.testing.assert_close(out, normalise(expected[None]))


def test_the_published_transform_is_the_one_that_timm_names_for_the_weights():
    vit = timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=0)
    image = torch.full((3, 300, 200), 255, dtype=torch.uint8)
    out = published_transform(vit)([image, image])
    assert out.shape == (2, 3, 224, 224)
    torch.testing.assert_close(out, torch.ones_like(out))  # mean and std are 0.5 there


def test_an_image_of_the_right_size_is_kept_whole_with_crop_1():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    out = evaluation_transform(32, crop=1.0)([image])
    torch.testing.assert_close(out, normalise(image[None]))


def test_images_from_files_need_resized_crops():
    augment = batched(crop="none", pad=0, flip_prob=0.0, erasing=0.0)
    with pytest.raises(ValueError, match=r"need resized crops, got crop 'none'\. Set training"):
        augment([torch.zeros(3, 8, 8, dtype=torch.uint8)], generator(0))
