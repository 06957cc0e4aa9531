"""VideoMAE in timm's ViT against transformers' own, and its checkpoints in both formats."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

from rectify.gsnr import gradient_moments
from rectify.rectified import auxiliary, export, insert, trainable_state
from rectify.runtime import generator
from rectify.trunks.videomae import create_videomae, load_start, sine_positions, videomae_tensors
from rectify.trunks.vit import ViT
from tests.helpers.ssv2_tree import save_as_videomae

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}
CONFIG = VideoMAEConfig(
    image_size=32,
    patch_size=8,
    num_frames=4,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=96,
    num_labels=5,
    layer_norm_eps=1e-6,
    decoder_num_hidden_layers=1,
    decoder_hidden_size=12,
    decoder_num_attention_heads=3,
    decoder_intermediate_size=16,
)


@pytest.fixture
def vit():
    return tiny()


def tiny(seed=0, **overrides):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_videomae(
            "vit_tiny_patch16_224",
            num_classes=5,
            image_size=32,
            frames=4,
            overrides=SIZES | overrides,
        ).eval()


def of_transformers(kind=VideoMAEForVideoClassification):
    """A model whose every parameter differs from 0, biases too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = kind(CONFIG).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def of_the_authors(model):
    """The tensors of a pretraining model under the names of VideoMAE's own code."""
    state, renamed = model.state_dict(), {}
    for layer in range(CONFIG.num_hidden_layers):
        theirs, ours = f"videomae.encoder.layer.{layer}", f"encoder.blocks.{layer}"
        own = f"{theirs}.attention.attention"
        parts = [state[f"{own}.{part}.weight"] for part in ("query", "key", "value")]
        renamed[f"{ours}.attn.qkv.weight"] = torch.cat(parts)
        renamed[f"{ours}.attn.q_bias"] = state[f"{own}.query.bias"]
        renamed[f"{ours}.attn.v_bias"] = state[f"{own}.value.bias"]
        for their, name in (
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
        ):
            for kind in ("weight", "bias"):
                renamed[f"{ours}.{name}.{kind}"] = state[f"{theirs}.{their}.{kind}"]
    for kind in ("weight", "bias"):
        patches = state[f"videomae.embeddings.patch_embeddings.projection.{kind}"]
        renamed[f"encoder.patch_embed.proj.{kind}"] = patches
        renamed[f"encoder.norm.{kind}"] = torch.ones(24)
    other = {"mask_token": torch.ones(1, 1, 12), "encoder_to_decoder.weight": torch.ones(12, 24)}
    return renamed | other | {"decoder.blocks.0.attn.q_bias": torch.ones(12)}


def published(folder, model, key="model"):
    """Write a ``.pth`` file as VideoMAE's pretraining does; its tensors alone without a key."""
    path, tensors = folder / "checkpoint.pth", of_the_authors(model)
    if key:
        save_as_videomae(tensors, path, key)
    else:
        torch.save(tensors, path)
    return path


def clips(count=3):
    return torch.randn(count, 4, 3, 32, 32, generator=generator(0, "clips"))


@pytest.mark.parametrize(("size", "count"), [("small", 21_946_926), ("base", 86_361_006)])
def test_the_parameters_are_the_published_ones_to_the_last(size, count):
    with torch.device("meta"):
        vit = create_videomae(f"vit_{size}_patch16_224", num_classes=174, image_size=224, frames=16)
    assert sum(parameter.numel() for parameter in vit.parameters()) == count
    assert vit.pos_embed.shape == (1, 8 * 14 * 14, vit.embed_dim)


def test_the_logits_are_those_of_transformers_with_the_same_weights(vit):
    model = of_transformers()
    model.fc_norm.eps = 1e-6  # VideoMAE's own; transformers has 1e-5 there
    vit.load_state_dict(videomae_tensors(model.state_dict()), strict=True)
    expected = model(clips()).logits
    torch.testing.assert_close(vit(clips()), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(ViT(vit)(clips()), vit(clips()))


def test_positions_are_sines_and_cosines_and_no_parameter(vit):
    positions = sine_positions(7, 6)[0]
    for place in range(7):
        for column in range(6):
            angle = place / 10000 ** (2 * (column // 2) / 6)
            wave = math.cos(angle) if column % 2 else math.sin(angle)
            assert positions[place, column] == pytest.approx(wave, abs=1e-6)
    assert not [name for name, _ in vit.named_parameters() if "pos" in name]
    assert "pos_embed" not in vit.state_dict()


def test_the_start_of_both_formats_is_the_same_and_equals_the_source(tmp_path):
    source = of_transformers(VideoMAEForPreTraining)
    source.save_pretrained(tmp_path / "folder")
    torch.save(source.state_dict(), tmp_path / "pytorch_model.bin")
    files = (tmp_path / "folder", published(tmp_path, source), tmp_path)
    states = []
    for file in files:
        started = tiny(seed=5)
        before = {name: tensor.clone() for name, tensor in started.state_dict().items()}
        load_start(started, file)
        states.append(started.state_dict())
        for name in ("head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"):
            assert torch.equal(states[-1][name], before[name])
    for other in states[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in states[0].items())
    query = source.videomae.encoder.layer[1].attention.attention.query
    assert torch.equal(states[0]["blocks.1.attn.qkv.query.bias"], query.bias)
    assert query.bias.abs().min() > 0


@pytest.mark.parametrize("key", ["model", "module", None])
def test_tensors_may_stand_alone_or_under_a_key(tmp_path, vit, key):
    load_start(vit, published(tmp_path, of_transformers(VideoMAEForPreTraining), key))
    assert vit.blocks[0].attn.qkv.value.bias.abs().min() > 0


def test_a_finetuned_checkpoint_brings_its_norm_but_not_its_head(tmp_path, vit):
    model = of_transformers()
    model.save_pretrained(tmp_path)
    before = vit.head.weight.clone()
    load_start(vit, tmp_path)
    assert torch.equal(vit.fc_norm.weight, model.fc_norm.weight)
    assert torch.equal(vit.head.weight, before)


def damage(tensors, how):
    if how == "missing":
        del tensors["encoder.blocks.1.attn.q_bias"]
    if how == "surplus":
        tensors["encoder.blocks.2.norm1.weight"] = torch.ones(24)
    if how == "shape":
        tensors["encoder.blocks.0.mlp.fc1.bias"] = torch.ones(95)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "missing",
            r"tensor blocks\.1\.attn\.qkv\.query\.bias must be \(24,\), got absent\. Get a Vid",
        ),
        (
            "surplus",
            r"tensor blocks\.2\.norm1\.weight must be absent, got \(24,\)\. Get a",
        ),
        ("shape", r"tensor blocks\.0\.mlp\.fc1\.bias must be \(96,\), got \(95,\)"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_is_loaded(tmp_path, vit, how, message):
    tensors = of_the_authors(of_transformers(VideoMAEForPreTraining))
    damage(tensors, how)
    torch.save({"model": tensors}, tmp_path / "a.pth")
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_start(vit, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())


class Runs:
    """What a pickle must not do."""

    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"must be an intact file of tensors, got .* Get the file again\."),
        (b"", r"tensors, got a file cut short\. Get the file again\."),
        (b"no checkpoint", r"tensors, got another format\. Get the file again\."),
        ({"model": {"epoch": 3}}, "must hold named tensors, alone or under model or module"),
        ([1], "must hold named tensors"),
        ({"model": {"a": np.float64(1)}}, "must hold named tensors"),
        ({"model": {"a": Runs()}}, r"got other objects too, first print\. Save its tensors alone"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, vit, capsys, content, message):
    path = tmp_path / "a.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        load_start(vit, path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"must hold model\.safetensors or pytorch_model\.bin"):
        load_start(vit, tmp_path)


def test_a_cut_safetensors_file_is_one_line(tmp_path, vit):
    save_file({"a": torch.ones(9)}, tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-8])
    with pytest.raises(ValueError, match="must be an intact file of tensors"):
        load_start(vit, tmp_path)


def test_a_layer_can_be_inserted_or_be_in_a_second_path(vit, block):
    both = auxiliary(vit, block, generator=generator(0)).train()
    main, second = both(clips(2))
    assert main.shape == second.shape == (2, 5)
    tiny(seed=3).load_state_dict(export(both), strict=True)
    inside = insert(tiny(), block, "end", generator=generator(0)).eval()
    plain = inside.trunk.vit
    tokens = inside.bridge(plain.blocks(inside.trunk.embed(clips(2)).values))
    expected = plain.head(plain.fc_norm(tokens.mean(1)))
    torch.testing.assert_close(inside(clips(2)), expected)
    assert not [name for name in trainable_state(inside) if "pos_embed" in name]


def test_every_parameter_of_a_block_is_measured_and_equals_the_loop_over_samples(vit):
    inputs, targets = clips(4), torch.tensor([0, 1, 2, 3])

    def losses(logits, wanted):
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="none")

    moments = gradient_moments(vit, inputs, targets, losses, {"0": vit.blocks[0]})
    named = dict(vit.blocks[0].named_parameters())
    assert {f"0.{name}" for name in named} == set(moments)
    for name, parameter in named.items():
        each = []
        for item in range(4):
            loss = losses(vit(inputs[item : item + 1]), targets[item : item + 1]).sum()
            each.append(torch.autograd.grad(loss, parameter)[0])
        torch.testing.assert_close(
            moments[f"0.{name}"].mean, torch.stack(each).mean(0), rtol=1e-4, atol=1e-7
        )


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="frames must be a multiple of 2, got 5"):
        create_videomae("vit_tiny_patch16_224", num_classes=2, image_size=32, frames=5)
    with pytest.raises(ValueError, match="must know the vision transformer"):
        create_videomae("vit_tini", num_classes=2, image_size=32, frames=4)
