"""Captions of prepared pairs."""

import pytest
import torch

from rectify.data.pairs import captions
from rectify.data.sets import load_set, save_sets
from rectify.results.provenance import provenance
from rectify.tasks.image_classification.readers import digits
from rectify.tasks.pairs.readers import pairs


def test_captions_are_read_back_in_the_order_of_the_images(tmp_path):
    drawn = pairs.read(items=20)["pairs"]
    save_sets(tmp_path, {"pairs": drawn}, provenance(0))
    assert captions(tmp_path) == list(drawn.captions)
    loaded = load_set(tmp_path, "pairs")
    assert loaded.captions == drawn.captions
    assert torch.equal(loaded.images, drawn.images)


def test_a_set_without_pairs_has_no_captions(tmp_path):
    save_sets(tmp_path, digits.read(image_size=8), provenance(0))
    with pytest.raises(
        ValueError, match=r"must hold image-caption pairs, got splits train, test\."
    ):
        captions(tmp_path)
