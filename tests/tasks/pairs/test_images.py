import pytest
import torch

from rectify.data.sets import ImageSet
from rectify.tasks.pairs.images import _coloured


def pairs(channels):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (3, channels, 4, 4), generator=draws).to(torch.uint8)
    return ImageSet(images, torch.full((3,), -1), (), ("a", "b", "c"), ("x", "y", "z"))


def test_grey_pairs_are_colours_to_a_model_of_colours():
    grey = pairs(1)
    coloured = _coloured(grey, 3).images
    assert coloured.shape == (3, 3, 4, 4)
    assert all(torch.equal(coloured[:, channel], grey.images[:, 0]) for channel in range(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_with_the_channels_of_the_model_stay_as_they_are(channels):
    items = pairs(channels)
    assert _coloured(items, channels) is items


def test_coloured_pairs_for_a_model_of_grey_images_are_one_line():
    with pytest.raises(ValueError, match=r"^vision-features: .* got 3 channels\. Name other pairs"):
        _coloured(pairs(3), 1)
