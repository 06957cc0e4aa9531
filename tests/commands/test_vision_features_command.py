"""Features of the images of pairs, of trained runs and of published models."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rectify.commands import prepare_data, vision_features
from rectify.data.manifests import read_listing
from rectify.data.sets import load_set
from rectify.experiment.run import RunSettings
from rectify.language.weights import sha256
from rectify.tasks import find
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.augment import normalise
from rectify.tasks.pairs import images as pair_images
from rectify.training.models import entry_of
from rectify.trunks.features import block_features, load_features
from rectify.trunks.vit import create_vit
from tests.helpers.training import OVERRIDES, run, settings_of, training, write_set

pytestmark = pytest.mark.usefixtures("restored_runtime")

VISION = {"name": "vit-t", "timm": "vit_tiny_patch16_224"}


def test_published_weights_come_from_the_folder_of_the_config(tmp_path):
    torch.manual_seed(0)
    vit = create_vit("vit_tiny_patch16_224", num_classes=21843, image_size=224)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    loaded = pair_images.published({**VISION, "weights": str(tmp_path)}).state_dict()
    assert "head.weight" not in loaded
    assert all(torch.equal(tensor, vit.state_dict()[name]) for name, tensor in loaded.items())


def test_missing_published_weights_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"model.safetensors: timm's weights .* got no file"):
        pair_images.published({**VISION, "weights": str(tmp_path)})


@pytest.fixture
def pairs(tmp_path):
    settings = {"task": "pairs", "reader": "pairs", "image_size": 16, "sizes": {"items": 10}}
    run(prepare_data, data="pairs", settings=json.dumps(settings), folder=tmp_path / "pairs")
    return tmp_path / "pairs"


def features_of(folder, pairs, **more):
    output = folder / "features.safetensors"
    run(vision_features, pairs=pairs, seed=0, threads=1, output=output, **{"batch-size": 4} | more)
    return load_features(output)


def test_the_features_of_a_trained_run_are_those_of_its_blocks(tmp_path, images, pairs):
    write_set(tmp_path / "data", images)
    training(tmp_path, settings_of())
    weights = tmp_path / "run" / "model.safetensors"
    layers, facts = features_of(tmp_path, pairs, config=tmp_path / "config.json", model=weights)
    vit = create_vit(
        "vit_tiny_patch16_224", num_classes=5, image_size=16, channels=1, overrides=OVERRIDES
    )
    vit.load_state_dict(load_file(weights))
    shown = normalise(load_set(pairs, "pairs").images)
    with torch.inference_mode():
        torch.testing.assert_close(layers, block_features(vit.eval(), shown))
    assert facts == {
        "pairs": "pairs",
        "pairs_sha256": read_listing(pairs)[1]["sha256"],
        "vision": "vit-s",
        "seed": 0,
        "pretrained": False,
        "vision_parameters": sum(weight.numel() for weight in vit.parameters()),
        "vision_revision": None,
        "vision_sha256": sha256(vit.state_dict()),
    }


def test_a_published_model_sees_the_images_as_it_was_trained(tmp_path, pairs, monkeypatch):
    torch.manual_seed(0)
    published = create_vit("vit_tiny_patch16_224", num_classes=0, image_size=224)
    monkeypatch.setattr(pair_images, "pretrained", lambda *arguments: published)
    colours = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8)
    items = load_set(pairs, "pairs")
    shown = type(items)(colours, items.labels[:3], (), items.sources[:3], items.captions[:3])
    monkeypatch.setattr(pair_images, "load_set", lambda folder, split: shown)
    layers, facts = features_of(tmp_path, pairs, pretrained=json.dumps(VISION))
    assert layers.shape == (12, 3, 192)
    assert (facts["vision"], facts["pretrained"]) == ("vit-t", True)
    assert facts["vision_parameters"] == 5_524_416  # timm's 5,717,416 without 1,000 classes
    assert facts["vision_sha256"] == sha256(published.state_dict())


def as_seen(pictures, size):
    """Return grey images as a whole, resized by Pillow to ``size`` pixels."""
    resized = [
        np.asarray(Image.fromarray(image[0].numpy()).resize((size, size), Image.Resampling.BICUBIC))
        for image in pictures
    ]
    return torch.from_numpy(np.stack(resized))[:, None]


def test_drawn_pairs_are_resized_to_what_a_run_takes(pairs):
    settings = RunSettings.model_validate(settings_of(data={"image_size": 24}))
    task, machine = find(settings.task), Machine.of(torch.device("cpu"), 1)
    entry = entry_of(settings, task)
    source = pair_images.as_trained(task, entry, pairs, settings.recipe, machine)
    shown = torch.cat(list(pair_images.inputs(source, 4)))
    expected = as_seen(load_set(pairs, "pairs").images, 24)
    torch.testing.assert_close(shown, normalise(expected))


def test_a_published_model_sees_grey_pairs_in_three_equal_channels(pairs):
    vit = create_vit("vit_tiny_patch16_224", num_classes=0, image_size=224, overrides=OVERRIDES)
    source = pair_images.as_published(vit, pairs, Machine.of(torch.device("cpu"), 1))
    shown = next(pair_images.inputs(source, 4))
    assert shown.shape == (4, 3, 224, 224)
    assert torch.equal(shown, shown[:, :1].expand_as(shown))


def test_a_run_that_learnt_clips_has_no_features_of_images(tmp_path, images, pairs):
    write_set(tmp_path / "data", images)
    training(tmp_path, settings_of())
    entry = {"task": "video_classification", "frames": 2}
    settings = settings_of(data=entry, task=entry["task"])
    (tmp_path / "config.json").write_text(json.dumps(settings))
    weights = tmp_path / "run" / "model.safetensors"
    with pytest.raises(ValueError, match="must"):
        features_of(tmp_path, pairs, config=tmp_path / "config.json", model=weights)
