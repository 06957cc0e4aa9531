import pytest
import torch
from safetensors.torch import save_file

from rectify.trunks.features import (
    block_features,
    load_features,
    save_features,
    vision_features,
)
from rectify.trunks.vit import ViT


def test_block_features_equal_hooks_on_timms_forward(make_vit):
    vit = make_vit().eval()
    pixels, seen = torch.rand(3, 1, 16, 16), []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[:, 0]))
        for block in vit.blocks
    ]
    vit(pixels)
    for hook in hooks:
        hook.remove()
    assert torch.equal(block_features(vit, pixels), torch.stack(seen))
    assert torch.equal(block_features(ViT(vit), pixels), torch.stack(seen))


def normalise(pixels):
    return pixels.float() / 255 - 0.5


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100])
def test_features_equal_those_of_single_images(make_vit, images, batch_size):
    vit = make_vit(drop_path=0.5).train()
    layers = vision_features(vit, map(normalise, images.images.split(batch_size)))
    assert (layers.shape, layers.dtype) == ((4, 40, 16), torch.float32)
    for item in (0, 20, 39):
        single = block_features(vit.eval(), normalise(images.images[item : item + 1]))
        torch.testing.assert_close(layers[:, item], single[:, 0])


def test_features_come_back_with_their_facts(tmp_path):
    layers, facts = torch.rand(3, 5, 4).transpose(0, 1), {"vision": "vit-s", "seed": 1, "k": 0.95}
    save_features(layers, facts, tmp_path / "deep" / "one.safetensors")
    found, known = load_features(tmp_path / "deep" / "one.safetensors")
    assert torch.equal(found, layers)
    assert known == facts
    save_features(layers, facts, tmp_path / "two.safetensors")
    first, second = tmp_path / "deep" / "one.safetensors", tmp_path / "two.safetensors"
    assert first.read_bytes() == second.read_bytes()


def test_a_damaged_or_foreign_file_is_one_line(tmp_path):
    path = tmp_path / "features.safetensors"
    save_features(torch.rand(3, 5, 4), {}, path)
    path.write_bytes(path.read_bytes()[:-9])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"other": torch.zeros(1)}, foreign)
    bare = tmp_path / "bare.safetensors"
    save_file({"layers": torch.zeros(1, 2, 3)}, bare)
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    for file in (path, foreign, bare, empty, tmp_path / "absent.safetensors"):
        with pytest.raises(
            ValueError, match=r", got .* Name another file, or delete it and make it again\.$"
        ) as caught:
            load_features(file)
        assert str(caught.value).startswith(f"{file}: must ")
        assert "\n" not in str(caught.value)
