import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation

from rectify.data.draws import draw
from rectify.runtime import generator, seed_globals
from rectify.tasks.image_classification.augment import MEAN, STD, batched, normalise
from rectify.tasks.video_classification.augment import (
    EvaluationClip,
    TrainingClip,
    crop_places,
    normalise_views,
    rand_augment,
    short_side,
)

RANDAUGMENT = "rand-m7-n4-mstd0.5-inc1"
SETTINGS = {
    "image_size": 24,
    "crop_scale": 0.08,
    "flip_prob": 0.0,
    "auto_augment": RANDAUGMENT,
}


def picture(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def clip(seed=0, frames=6, size=(40, 30)):
    return [picture(100 * seed + frame, size) for frame in range(frames)]


def tensor(frame):
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1)


def scaled(pixels):
    """Return floats in 0..255 as a model sees them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels / 255 - mean) / std


def changed(clips, seed=0, **changes):
    """Return each clip as a worker prepares it, with a seed of its own."""
    transform, out = TrainingClip(**SETTINGS | changes), []
    for place, one in enumerate(clips):
        seed_globals(seed, "place", place)
        out.append(transform(one))
    return torch.stack(out)


def augmented(clips, seed=0, erasing=0.0, **changes):
    last = batched(crop="none", pad=0, flip_prob=0.0, erasing=erasing)
    return last(changed(clips, seed, **changes), draw(len(clips), generator(seed)))


def test_equal_frames_stay_equal_and_clips_have_draws_of_their_own():
    frame = picture()
    out = changed([[frame] * 5] * 12)
    assert out.dtype == torch.uint8
    assert out.shape == (12, 5, 3, 24, 24)
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert len({tuple(one.flatten().tolist()) for one in out[:, 0]}) == 12


def test_a_clip_depends_on_its_seed_alone():
    clips = [clip(seed) for seed in range(4)]
    first = changed(clips)
    assert torch.equal(changed(clips[:2]), first[:2])
    assert not torch.equal(changed(clips, seed=1), first)


def test_the_transforms_can_be_sent_to_a_worker():
    for transform in (TrainingClip(**SETTINGS), EvaluationClip(24, 6, 3)):
        sent = pickle.loads(pickle.dumps(transform))
        made = []
        for one in (transform, sent):
            seed_globals(3)
            made.append(one(clip()))
        assert torch.equal(*made)


def test_the_drawn_operations_are_timms_own_on_each_frame():
    """The oracle: timm's RandAugment from the same state of the generators, frame by frame."""
    draw = rand_augment(RANDAUGMENT)
    timms = rand_augment_transform(RANDAUGMENT, {"interpolation": Image.Resampling.BICUBIC})
    kinds = set()
    for seed in range(60):
        seed_globals(seed)
        operations = draw()
        after = random.getstate()
        kinds.add(len(operations))
        for frame in clip(seed, frames=2):
            seed_globals(seed)
            expected = timms(frame)
            for operation in operations:
                frame = operation(frame)
            assert frame == expected
            assert random.getstate() == after  # the same draws, so none is made per frame
    assert kinds == {0, 1, 2, 3, 4}  # each of the four with probability 1/2


def test_another_policy_is_refused():
    with pytest.raises(ValueError, match=r"must be a RandAugment, rand-\.\.\., got 'augmix-m3'"):
        rand_augment("augmix-m3")


def test_a_crop_is_resized_bilinearly_without_smoothing(monkeypatch):
    box = top, left, height, width = 8, 4, 42, 36
    drawn = staticmethod(lambda image, scale, ratio: box)
    monkeypatch.setattr(RandomResizedCropAndInterpolation, "get_params", drawn)
    frames = clip(size=(60, 50))
    out = augmented([frames], auto_augment=None)
    cut = torch.stack([tensor(one)[:, top : top + height, left : left + width] for one in frames])
    expected = torch.nn.functional.interpolate(cut.float(), (24, 24), mode="bilinear")
    assert (out[0] - scaled(expected)).abs().max() <= 1 / 255 / 0.22  # one level of 256


def test_nothing_is_mirrored_unless_it_is_asked_for():
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 6, dtype=np.uint8)[None, :, None], (30, 1, 3)))
    out = changed([[ramp] * 2] * 30, auto_augment=None)
    assert (out[..., -1] > out[..., 0]).all()
    out = changed([[ramp] * 2] * 30, flip_prob=1.0, auto_augment=None)
    assert (out[..., -1] < out[..., 0]).all()
    both = changed([[ramp] * 2] * 60, flip_prob=0.5, auto_augment=None)[:, 0, 0, 0]
    assert 10 < (both[:, -1] > both[:, 0]).sum() < 50


def test_one_rectangle_is_erased_in_all_frames_with_noise():
    black = [Image.new("RGB", (40, 30))] * 4
    out = augmented([black] * 10, auto_augment=None, erasing=1.0)
    base = normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    erased = (out - base).abs().amax(2) > 1e-4  # (clips, frames, height, width)
    assert erased.flatten(1).any(1).all()
    assert torch.equal(erased, erased[:, :1].expand_as(erased))
    assert len({tuple(one.flatten().tolist()) for one in erased[:, 0]}) > 5
    some = out[0][erased[0][:, None].expand_as(out[0])]
    assert some.std() > 0.5
    quarter = augmented([black] * 60, auto_augment=None, erasing=0.25) - base
    assert 0 < quarter.abs().amax((1, 2, 3, 4)).gt(1e-4).float().mean() < 0.5


def test_two_hundred_clips_pass_the_whole_transform():
    sizes = [(40, 30), (24, 24), (30, 50)]
    for seed in range(50):
        out = augmented([clip(seed, 2, sizes[(seed + k) % 3]) for k in range(4)], seed, 0.25)
        assert out.shape == (4, 2, 3, 24, 24)
        assert out.isfinite().all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((427, 240), (398, 224)), ((240, 427), (224, 398)), ((224, 224), (224, 224))],
)
def test_the_short_side_is_resized_and_the_aspect_kept(size, expected):
    assert short_side(size, 224) == expected


def test_crops_lie_at_both_ends_and_in_the_middle_of_the_long_side():
    assert crop_places(398, 224, 224, 3) == [(0, 0), (0, 87), (0, 174)]
    assert crop_places(224, 399, 224, 3) == [(0, 0), (87, 0), (175, 0)]
    assert crop_places(398, 224, 224, 1) == [(0, 87)]
    assert crop_places(224, 224, 224, 3) == [(0, 0)] * 3


def test_views_in_time_come_before_crops_and_frames_stay_in_order():
    shades = [Image.new("RGB", (40, 20), (20 * time,) * 3) for time in range(8)]
    prepare = EvaluationClip(image_size=20, frames=4, crops=3)
    out = normalise_views(torch.stack([prepare(shades), prepare(shades[::-1])]))
    assert out.shape == (2 * 2 * 3, 4, 3, 20, 20)
    stored = torch.tensor([[0, 20, 40, 60]] * 3 + [[80, 100, 120, 140]] * 3)
    pixels = stored.view(6, 4, 1, 1, 1).expand(6, 4, 3, 20, 20).to(torch.uint8)
    torch.testing.assert_close(out[:6], normalise(pixels))
    torch.testing.assert_close(out[6:9, 0], out[3:6, 3])


def test_a_crop_at_test_is_a_window_of_the_resized_frame():
    frames = clip(size=(50, 40))
    out = normalise(EvaluationClip(image_size=20, frames=6, crops=3)(frames))
    small = torch.stack([tensor(one) for one in frames]).float()
    small = torch.nn.functional.interpolate(small, (20, 25), mode="bilinear")
    for view, left in enumerate((0, 2, 5)):
        expected = scaled(small[..., left : left + 20])
        assert (out[view] - expected).abs().max() <= 1 / 255 / 0.22
