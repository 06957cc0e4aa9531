"""Published weights: every tensor but the head's comes from the file, or one line says which."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from rectify.trunks.pretrained import WEIGHTS, pretrained, tagged

TINY = {"embed_dim": 16, "depth": 3, "num_heads": 2}
VIT = "vit_tiny_patch16_224"


def published(name: str, classes: int = 7, **overrides: object) -> nn.Module:
    """Return a small model as somebody trained it, with a head."""
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=classes, **{**TINY, **overrides})


def written(folder: Path, tensors: dict[str, Tensor], name: str = WEIGHTS) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (VIT, f"{VIT}.augreg_in21k"),
        ("vit_base_patch16_224.mae", "vit_base_patch16_224.mae"),
        ("deit_small_patch16_224.fb_in1k", "deit_small_patch16_224.fb_in1k"),
        ("vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m"),
        ("vit_base_patch16_siglip_224.webli", "vit_base_patch16_siglip_224.webli"),
        ("vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_224.openai"),
        ("beit_base_patch16_224.in22k_ft_in22k", "beit_base_patch16_224.in22k_ft_in22k"),
        ("vit_small_patch16_dinov3.lvd1689m", "vit_small_patch16_dinov3.lvd1689m"),
    ],
)
def test_a_tag_in_the_name_wins(name: str, found: str) -> None:
    assert tagged(name) == found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "vit_base_patch16_224.mea",
            ["_224.mea'", "vit_base_patch16_224.mae"],
        ),
        ("vit_small_patch14_dinov2", ["dinov2.augreg_in21k'", "vit_small_patch14_dinov2.lvd142m"]),
        ("vit_smal_patch16_224.mae", ["timm must know", "vit_small_patch16_224"]),
        ("resnet50.a1_in1k", ["can be taken apart, got resnet50.a1_in1k"]),
    ],
)
def test_an_unknown_tag_or_name_is_one_line_with_the_near_ones(name: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^vision: ") as caught:
        tagged(name)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


KINDS = {
    VIT: {},
    "vit_base_patch16_224.mae": {},
    "deit_tiny_distilled_patch16_224.fb_in1k": {},
    "deit3_small_patch16_224.fb_in1k": {},
    "vit_base_patch16_siglip_224.webli": {},
    "vit_small_patch14_reg4_dinov2.lvd142m": {},
    "beit_base_patch16_224.in22k_ft_in22k": {},
    "vit_small_patch16_dinov3.lvd1689m": {},
    "swin_tiny_patch4_window7_224.ms_in22k": {
        "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "overrides"), KINDS.items())
def test_every_kind_is_as_its_file_has_it(
    name: str, overrides: dict[str, object], tmp_path: Path
) -> None:
    overrides = overrides or TINY
    source = timm.create_model(name, num_classes=7, **overrides)
    state = source.state_dict()
    buffers = dict(source.named_buffers())  # older files have them too
    written(tmp_path, state | {key: one.float() for key, one in buffers.items()})
    model = pretrained(name, tmp_path, overrides)
    heads = source.pretrained_cfg["classifier"]
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    expected = {key: one for key, one in state.items() if not key.startswith(heads)}
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], one) for key, one in expected.items())
    assert model.pretrained_cfg["tag"] == (name.partition(".")[2] or "augreg_in21k")
    size = source.pretrained_cfg["input_size"][-1]
    assert model.patch_embed.img_size == (size, size)


def in_transformers_names(_state: dict[str, Tensor]) -> dict[str, Tensor]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    return ViTModel(ViTConfig(**sizes, intermediate_size=64)).state_dict()


def of_another_size(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"pos_embed": torch.zeros(1, 577, 16)}


DAMAGES = {
    "blocks.2.attn.proj.bias must be (16,), got absent (12 tensors differ)": lambda state: {
        key: one for key, one in state.items() if not key.startswith("blocks.2.")
    },
    "blocks.0.attn.proj.bias must be (16,), got absent": in_transformers_names,
    "surplus must be absent, got (2,)": lambda state: state | {"surplus": torch.zeros(2)},
    "norm.weight must be (16,), got absent": lambda state: {
        key: one for key, one in state.items() if key != "norm.weight"
    },
    "pos_embed must be (1, 197, 16), got (1, 577, 16)": of_another_size,
}


@pytest.mark.parametrize(("words", "damage"), DAMAGES.items())
def test_a_file_that_is_not_the_models_is_one_line(words: str, damage, tmp_path: Path) -> None:
    file = written(tmp_path, damage(published(VIT).state_dict()))
    with pytest.raises(ValueError, match="Get the weights of this name and tag") as caught:
        pretrained(VIT, tmp_path, TINY)
    message = str(caught.value)
    assert message.startswith(f"{file}: tensor {words}")
    assert "\n" not in message


def test_weights_are_a_folder_or_a_file(tmp_path: Path) -> None:
    state = published(VIT).state_dict()
    written(tmp_path, state)
    other = tmp_path / "other.bin"
    torch.save(state, other)
    models = [pretrained(VIT, place, TINY) for place in (tmp_path, tmp_path / WEIGHTS, other)]
    for model in models:
        assert torch.equal(model.blocks[2].mlp.fc1.weight, state["blocks.2.mlp.fc1.weight"])


def test_weights_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "no", tmp_path / "no.safetensors"):
        with pytest.raises(ValueError, match=r"vit_tiny_patch16_224\.augreg_in21k must be here"):
            pretrained(VIT, place)


def test_without_a_folder_the_weights_are_those_of_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", f"{tmp_path}")
    with pytest.raises(ValueError, match="must be in the hub's cache or in the folder `weights`"):
        pretrained(VIT, overrides=TINY)
    repository = tmp_path / f"models--timm--{VIT}.augreg_in21k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    state = published(VIT).state_dict()
    written(repository / "snapshots" / "abc", state)
    model = pretrained(VIT, overrides=TINY)
    assert torch.equal(model.norm.bias, state["norm.bias"])


def test_no_number_is_drawn(tmp_path: Path) -> None:
    """Two calls are equal, whatever the random numbers in between."""
    written(tmp_path, published(VIT).state_dict())
    first = pretrained(VIT, tmp_path, TINY).state_dict()
    torch.manual_seed(5)
    second = pretrained(VIT, tmp_path, TINY).state_dict()
    assert all(torch.equal(one, second[key]) for key, one in first.items())
