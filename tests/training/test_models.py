"""A run's model: untrained, as a file, trained."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rectify.controls import VARIANTS
from rectify.data.manifests import label_order
from rectify.experiment.run import RunSettings
from rectify.rectified import AuxiliaryModel, InsertedModel, trunk_of
from rectify.tasks.image_classification.task import TASK
from rectify.training.models import check_labels, save_model, trained, untrained
from rectify.typed import parse
from tests.helpers.training import same, settings_of, write_set

INSERTED = ("frozen", "random", "scratch", "tuned", "adapter", "norm", "mlp", "shuffled", "matched")


def model_of(block, variant="vanilla", control="frozen", seed=0, **changes):
    settings = parse(RunSettings, settings_of(variant, control, **changes), "")
    return untrained(settings, TASK, block, seed)


def test_the_trunk_starts_the_same_in_every_variant_and_control(block_file):
    torch.manual_seed(3)
    plain = trunk_of(model_of(None)).plain.state_dict()
    torch.manual_seed(4)
    pairs = [(variant, control) for variant in ("insert", "residual") for control in INSERTED]
    pairs += [("auxiliary", control) for control in (*INSERTED, "head")]
    for variant, control in pairs:
        vit = trunk_of(model_of(block_file, variant, control)).plain
        assert same(vit.state_dict(), plain), (variant, control)
    other = trunk_of(model_of(None, seed=1)).plain.state_dict()
    assert not torch.equal(other["blocks.0.attn.qkv.weight"], plain["blocks.0.attn.qkv.weight"])


def test_the_adapters_start_the_same_in_every_control_and_path(block_file):
    expected = model_of(block_file, "insert").bridge
    for variant in ("insert", "residual", "auxiliary"):
        for control in INSERTED:
            bridge = model_of(block_file, variant, control).bridge
            assert torch.equal(bridge.up.weight, expected.up.weight), (variant, control)
            assert torch.equal(bridge.down.weight, expected.down.weight), (variant, control)


def test_a_variant_is_of_its_kind(block_file):
    for variant in ("insert", "residual"):
        model = model_of(block_file, variant)
        assert isinstance(model, InsertedModel)
        assert model.bridge.residual == (variant == "residual")
    assert isinstance(model_of(block_file, "auxiliary"), AuxiliaryModel)


def test_the_head_starts_smaller_where_the_recipe_says_so():
    heads = [
        trunk_of(model_of(None, training={"head_scale": scale})).plain.head.weight
        for scale in (1.0, 1e-3)
    ]
    torch.testing.assert_close(heads[1], heads[0] * 1e-3)


@pytest.mark.parametrize("variant", ["insert", "residual", "auxiliary"])
@pytest.mark.parametrize("kind", ["trunc_normal", "linear", "xavier"])
def test_the_adapters_first_weights_are_of_the_recipes_distribution(block_file, variant, kind):
    model = model_of(block_file, variant, training={"adapter_init": kind})
    again = model_of(block_file, variant, training={"adapter_init": kind})
    plain = model_of(block_file, variant)
    assert same(model.state_dict(), again.state_dict())
    for name in ("up", "down"):
        weight = getattr(model.bridge, name).weight
        fan_out, fan_in = weight.shape
        bound = {
            "linear": 1 / math.sqrt(fan_in),
            "xavier": math.sqrt(6 / (fan_in + fan_out)),
        }.get(kind)
        std = 0.02 if bound is None else bound / math.sqrt(3)
        assert weight.std().item() == pytest.approx(std, rel=0.15)
        if bound is not None:
            assert 0.9 * bound < weight.abs().max() <= bound
        is_default = torch.equal(weight, getattr(plain.bridge, name).weight)
        assert is_default == (kind == "trunc_normal")
    trunks = [trunk_of(one).plain.state_dict() for one in (model, plain)]
    assert same(*trunks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_comes_back_from_its_file_as_it_is_used_at_test_time(tmp_path, block_file, variant):
    settings = parse(RunSettings, settings_of(variant), "")
    model = untrained(settings, TASK, None if variant == "vanilla" else block_file, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    path = tmp_path / "model.safetensors"
    save_model(model, {"run": "toy"}, path)
    block = block_file if variant in ("insert", "residual") else None
    again = trained(settings, TASK, block, 5, path)  # another seed: all comes from the file
    images = torch.randn(3, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again.eval()(images), model.eval()(images))
    frozen = [name for name in load_file(path) if "layer" in name]
    assert frozen == []  # never stored again


def test_the_order_of_the_labels_is_compared(tmp_path, images):
    data, path = write_set(tmp_path / "data", images), tmp_path / "model.safetensors"
    model = nn.Linear(2, 2)
    save_model(model, {"label_order": label_order(data)}, path)
    check_labels(path, data)
    save_model(model, {"label_order": "0" * 64}, path)
    with pytest.raises(ValueError, match=r"must have learnt the classes in the order of .*0000"):
        check_labels(path, data)
