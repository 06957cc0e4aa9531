import pytest
import torch
from safetensors.torch import save_file

from rectify.commands.vision_features import _published
from rectify.vision import create_vit

VISION = {"name": "vit-t", "timm": "vit_tiny_patch16_224"}


def test_published_weights_come_from_the_folder_of_the_config(tmp_path):
    torch.manual_seed(0)
    vit = create_vit("vit_tiny_patch16_224", num_classes=21843, image_size=224)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    found = _published({**VISION, "weights": str(tmp_path)}).state_dict()
    assert "head.weight" not in found
    assert all(torch.equal(tensor, vit.state_dict()[name]) for name, tensor in found.items())


def test_missing_published_weights_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"model.safetensors: timm's weights .* got no file"):
        _published({**VISION, "weights": str(tmp_path)})
