"""Each corruption keeps the image's form and changes it more at each severity."""

import numpy as np
import pytest

from rectify.demo.corruptions import CORRUPTIONS, grey
from rectify.demo.fonts import FACES, draw


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_images_more(name: str):
    images = [draw(one, FACES[0], 28) for one in "ABEGKRSTae258"]
    changes = []
    for severity in range(1, 6):
        random = np.random.default_rng(0)
        changed = [CORRUPTIONS[name](image, severity, random) for image in images]
        assert {(one.shape, one.dtype.name) for one in changed} == {((28, 28), "uint8")}
        changes.append(np.mean([(a - b.astype(float)) ** 2 for a, b in zip(changed, images)]))  # noqa: B905
    assert changes[0] > 0
    assert changes == sorted(changes)
    assert len(set(changes)) == 5


def test_there_are_corruptions_of_noise_blur_weather_like_light_and_encoding():
    """One or more of each of the four kinds of ImageNet-C."""
    kinds = ({"gaussian-noise", "impulse-noise"}, {"gaussian-blur", "motion-blur"})
    assert set(CORRUPTIONS) == set().union(*kinds, {"contrast"}, {"pixelate", "jpeg"})


def test_grey_rounds_and_clips():
    assert grey(np.array([[-3.0, 0.6], [254.7, 300.0]])).tolist() == [[0, 1], [255, 255]]
