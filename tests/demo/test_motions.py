"""Clips really move the way their label says."""

import numpy as np
import pytest
import torch

from rectify.data.sets import ImageSet
from rectify.demo import motions
from rectify.tasks.video_classification.readers.motions import read


@pytest.fixture(scope="module")
def sets() -> dict[str, ImageSet]:
    return read(train_items=26, test_items=12)


def clips_of(images: ImageSet, motion: str) -> np.ndarray:
    """Return the clips of one motion as floats (items, frames, height, width)."""
    chosen = images.labels == images.classes.index(motion)
    return images.images[chosen][:, :, 0].numpy().astype(float)


def centres(clips: np.ndarray) -> np.ndarray:
    """Return the centroid of each frame: (items, frames, right and down)."""
    rows, columns = np.indices(clips.shape[-2:])
    light = clips.sum((2, 3))
    return (
        np.stack([(clips * columns).sum((2, 3)), (clips * rows).sum((2, 3))], -1) / light[..., None]
    )


def spread(clips: np.ndarray) -> np.ndarray:
    """Return the mean squared distance of the light from its centre: (items, frames)."""
    rows, columns = np.indices(clips.shape[-2:])
    middle = centres(clips)[..., None, None]
    squared = (columns - middle[:, :, 0]) ** 2 + (rows - middle[:, :, 1]) ** 2
    return (clips * squared).sum((2, 3)) / clips.sum((2, 3))


def turned(clip: np.ndarray) -> float:
    """Return by which angle the last frame, turned about its centre, is most like the first."""
    first, last = (torch.tensor(frame)[None, None] for frame in (clip[0], clip[-1]))
    shift = (centres(clip[None])[0] - 13.5) / 14  # of each frame's centre, in grid_sample's units
    scores = {}
    for angle in range(-90, 91, 6):
        turn = np.radians(angle)
        cosine, sine = np.cos(turn), np.sin(turn)
        matrix = torch.tensor([[cosine, sine, shift[-1, 0]], [-sine, cosine, shift[-1, 1]]])
        still = torch.tensor([[1.0, 0.0, shift[0, 0]], [0.0, 1.0, shift[0, 1]]])
        moved = [
            torch.nn.functional.grid_sample(
                image,
                torch.nn.functional.affine_grid(one[None].double(), [1, 1, 28, 28], False),
                align_corners=False,
            )
            for image, one in ((last, matrix), (first, still))
        ]
        scores[angle] = float((moved[0] - moved[1]).square().sum())
    return min(scores, key=scores.__getitem__)


@pytest.mark.parametrize(
    ("motion", "direction"),
    [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))],
)
def test_the_centroid_goes_in_the_named_direction(motion, direction, sets):
    for images in sets.values():
        middle = centres(clips_of(images, motion))
        steps = np.diff(middle, axis=1)
        along = steps @ np.array(direction)
        across = np.abs(middle @ np.array(direction[::-1]))
        assert (along > 0).all()
        assert (along.sum(1) > 4.5).all()
        assert (np.ptp(across, axis=1) < 0.7).all()


def test_the_centroid_stays_where_nothing_is_shifted(sets):
    for motion in ("grow", "shrink", "brighten", "darken"):
        assert np.ptp(centres(clips_of(sets["train"], motion)), axis=1).max() < 2


def test_growing_spreads_the_light_and_shrinking_gathers_it(sets):
    for images in sets.values():
        for motion, sign in (("grow", 1), ("shrink", -1)):
            size = spread(clips_of(images, motion))
            assert (sign * np.log(size[:, -1] / size[:, 0]) > 0.8).all()


def test_brightening_and_darkening_change_the_light_and_not_the_size(sets):
    for images in sets.values():
        for motion, sign in (("brighten", 1), ("darken", -1)):
            clips = clips_of(images, motion)
            assert (sign * np.diff(clips.sum((2, 3)), axis=1) > 0).all()
            assert np.abs(np.log(spread(clips)[:, -1] / spread(clips)[:, 0])).max() < 0.1


@pytest.mark.parametrize(("motion", "sign"), [("turn left", 1), ("turn right", -1)])
def test_turning_is_counter_clockwise_to_the_left(motion, sign, sets):
    angles = [turned(clip) for clip in clips_of(sets["test"], motion)]
    assert np.median(angles) * sign > 60


def test_train_and_test_show_different_characters(sets):
    letters = [{source[0] for source in images.sources} for images in sets.values()]
    assert not letters[0] & letters[1]


def test_the_character_says_nothing_about_the_motion(sets):
    for images in sets.values():
        sources, items = images.sources, len(images) // 10
        first = sorted(source[0] for source in sources[:items])
        for motion in range(10):
            part = sources[motion * items : (motion + 1) * items]
            assert sorted(source[0] for source in part) == first


def test_clips_have_frames_before_channels_and_all_classes_equally_often(sets):
    assert sets["train"].images.shape == (260, 8, 1, 28, 28)
    assert sets["test"].images.shape == (120, 8, 1, 28, 28)
    assert sets["train"].labels.bincount().tolist() == [26] * 10
    assert sets["train"].classes == tuple(motions.MOTIONS)


def test_no_grey_level_wraps_around(sets):
    bright = clips_of(sets["train"], "brighten")
    assert (np.diff(bright.max((2, 3)), axis=1) > -20).all()


def test_the_same_seed_gives_the_same_clips():
    first, again, other = (
        read(seed=seed, train_items=2, test_items=1, frames=4)["train"].images for seed in (1, 1, 2)
    )
    assert first.shape == (20, 4, 1, 28, 28)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
