"""Each control differs from the frozen layer in one thing, in either path."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.functional import cross_entropy, gelu, layer_norm

from rectify import controls
from rectify.controls import CONTROLS, VARIANTS, Inner, control, find, insert_index
from rectify.language.block import outline_block
from rectify.rectified import auxiliary, build, insert, trainable_state
from rectify.runtime import generator, seed_globals
from rectify.training.objective import Objective
from rectify.trunks.vit import ViT, create_vit
from tests.helpers.toy_trunk import ToyTrunk

WIDTH, HIDDEN = 16, 24
PIXELS = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 1, 2, 3])
LAYERS = ("frozen", "random", "scratch", "tuned", "shuffled", "matched")
DRAWN = ("random", "scratch", "shuffled", "matched")
TRAINED = ("scratch", "tuned")
WIDTH_ALONE = ("adapter", "norm", "mlp")
BRIDGED = (*LAYERS, *WIDTH_ALONE)
BRIDGELESS = ("head", "scale")
PATHS = ("insert", "residual", "auxiliary")
PAIRS = [(variant, name) for variant in PATHS for name in BRIDGED]
ADAPTERS = {"bridge.up.weight", "bridge.down.weight"}


@pytest.fixture
def make(make_vit, block_file):
    """A function that builds a model with a control; everything else is the same each time."""

    def made(variant, name, seed=0, final_norm="loaded", block=block_file, drop_path=0.3):
        position = "end" if variant == "auxiliary" else "middle"
        vit = make_vit(drop_path=drop_path)
        return build(
            vit, variant, name, block=block, position=position, final_norm=final_norm, seed=seed
        )

    return made


def layer_of(model):
    return {name: tensor.float() for name, tensor in model.bridge.layer.named_parameters()}


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def trunk_names(model):
    return {f"trunk.{name}" for name, _ in model.trunk.named_parameters()}


def test_the_registry_has_the_controls_of_both_papers():
    assert list(VARIANTS) == ["vanilla", *PATHS]
    assert list(CONTROLS) == [*BRIDGED, *BRIDGELESS]
    for name, known in CONTROLS.items():
        assert known.variants == (("auxiliary",) if name in BRIDGELESS else PATHS)
    for entries in (CONTROLS.values(), VARIANTS.values()):
        assert len({entry.title for entry in entries}) == len(entries)
        assert len({entry.colour for entry in entries}) == len(entries)
        assert all(re.fullmatch("#[0-9a-f]{6}", entry.colour) for entry in entries)


def test_names_titles_and_colours_are_read_without_torch():
    code = "import sys, rectify.controls; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize(("variant", "name"), PAIRS)
def test_trunk_adapters_and_norm_are_those_of_the_frozen_layer(make, variant, name):
    frozen, model = make(variant, "frozen"), make(variant, name)
    expected, state = frozen.state_dict(), model.state_dict()
    for key in trunk_names(frozen) | ADAPTERS:
        assert torch.equal(state[key], expected[key]), key
    norm = [(type(module), module.state_dict()) for module in model.bridge.tokenwise]
    if name in ("adapter", "mlp"):
        assert [kind for kind, _ in norm] == ([] if name == "adapter" else [nn.GELU, nn.LayerNorm])
    else:
        (kind, weights), (own,) = norm[0], frozen.bridge.tokenwise
        assert kind is type(own)
        assert torch.equal(weights["weight"], own.weight)


@pytest.mark.parametrize("name", [*BRIDGED, *BRIDGELESS])
def test_while_training_the_main_path_sees_the_same_whatever_is_in_the_second(make, name):
    outputs = []
    for model in (make("auxiliary", "frozen"), make("auxiliary", name)):
        seed_globals(0, "step")
        outputs.append(model.train()(PIXELS))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1]) == (name in ("frozen", "tuned"))


@pytest.mark.parametrize("name", BRIDGED)
def test_a_skip_changes_the_sum_and_nothing_else(make, name):
    plain, model = make("insert", name).eval(), make("residual", name).eval()
    expected, state = plain.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key
    assert trained_names(model) == trained_names(plain)
    with torch.no_grad():
        tokens = plain.trunk.run(plain.trunk.embed(PIXELS), 0, 2)
        both = tokens._replace(values=tokens.values + plain.bridge(tokens.values))
        assert torch.equal(model(PIXELS), plain.trunk.decode(plain.trunk.run(both, 2, 4)))
        assert not torch.allclose(model(PIXELS), plain(PIXELS))


@pytest.mark.parametrize("name", BRIDGED)
def test_blocks_before_an_inserted_control_see_the_same(make, name):
    seen = []
    for model in (make("insert", "frozen"), make("insert", name)):
        for block in model.trunk.blocks.values():
            block.register_forward_hook(lambda module, inputs, output: seen.append(output))
        seed_globals(0, "step")
        model.train()(PIXELS)
    same = [torch.equal(left, right) for left, right in zip(seen[:4], seen[4:], strict=True)]
    assert same == ([True] * 4 if name in ("frozen", "tuned") else [True, True, False, False])


@pytest.mark.parametrize(
    ("variant", "name"), [*PAIRS, *(("auxiliary", name) for name in BRIDGELESS)]
)
def test_only_what_should_be_trained_is_in_the_optimizer_and_changes(make, variant, name):
    model = make(variant, name).train()
    expected = trunk_names(model) | (set() if name in BRIDGELESS else ADAPTERS)
    if name in TRAINED:
        expected |= {f"bridge.layer.{key}" for key in layer_of(model)}
    if name == "mlp":
        expected |= {"bridge.tokenwise.1.weight", "bridge.tokenwise.1.bias"}
    if name == "head":
        expected |= {f"head.vit.{key}" for key in ("norm.weight", "norm.bias")}
        expected |= {f"head.vit.{key}" for key in ("head.weight", "head.bias")}
    assert trained_names(model) == set(trainable_state(model)) == expected
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(p) for key, p in model.named_parameters() if key in expected}
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    for _ in range(3):
        outputs = model(PIXELS)
        paths = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(cross_entropy(path, TARGETS) for path in paths).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert changed == expected


@pytest.mark.parametrize("variant", PATHS)
@pytest.mark.parametrize("name", DRAWN)
def test_a_layer_is_drawn_from_the_seed_alone_and_apart_from_the_adapters(make, variant, name):
    first = make(variant, name)
    torch.manual_seed(99)
    again, other = make(variant, name), make(variant, name, seed=1)
    same = [torch.equal(layer_of(first)[key], layer_of(again)[key]) for key in layer_of(first)]
    assert all(same)
    same = [torch.equal(layer_of(first)[key], layer_of(other)[key]) for key in layer_of(first)]
    assert not all(same)
    assert not torch.equal(first.bridge.up.weight, other.bridge.up.weight)


@pytest.mark.parametrize("variant", PATHS)
def test_layers_are_what_their_names_say(make, variant):
    layers = {name: layer_of(make(variant, name)) for name in LAYERS}
    for key, weight in layers["frozen"].items():
        assert torch.equal(layers["tuned"][key], weight)
        assert torch.equal(layers["scratch"][key], layers["random"][key])
        assert torch.equal(layers["shuffled"][key].flatten().sort().values,
                           weight.flatten().sort().values)  # fmt: skip
        for moment in (torch.mean, torch.std):
            torch.testing.assert_close(
                moment(layers["matched"][key]), moment(weight), rtol=1e-4, atol=1e-5
            )
        if weight.ndim > 1:
            assert layers["random"][key].std().item() == pytest.approx(0.02, rel=0.2)
            for name in DRAWN:
                assert not torch.equal(layers[name][key], weight)


def test_a_trained_layer_is_in_float32_and_a_copy(make_vit, block):
    block.decoder.to(torch.bfloat16)
    for name in ("frozen", *TRAINED):
        model = insert(make_vit(), block, "end", control=name, generator=generator(0))
        kinds = {parameter.dtype for parameter in model.bridge.layer.parameters()}
        assert kinds == {torch.bfloat16 if name == "frozen" else torch.float32}
        assert not any(parameter.requires_grad for parameter in block.parameters())
        assert (model.bridge.layer is block) == (name == "frozen")


@pytest.mark.parametrize("name", DRAWN)
def test_a_control_draws_after_the_adapters_where_there_is_one_generator(make_vit, block, name):
    frozen = insert(make_vit(), block, "end", generator=generator(0))
    model = insert(make_vit(), block, "end", control=name, generator=generator(0))
    assert torch.equal(model.bridge.up.weight, frozen.bridge.up.weight)
    assert torch.equal(model.bridge.down.weight, frozen.bridge.down.weight)


def test_bridges_without_a_layer_equal_their_formulas(make):
    tokens = torch.rand(2, 5, WIDTH)
    bridges = {name: make("insert", name, final_norm="unit").bridge for name in WIDTH_ALONE}
    up, down = bridges["norm"].up.weight.T, bridges["norm"].down.weight.T
    torch.testing.assert_close(bridges["adapter"](tokens), tokens @ up @ down)
    wide = tokens @ up
    unit = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(bridges["norm"](tokens), unit @ down)
    with torch.no_grad():
        bridges["mlp"].tokenwise[1].weight.copy_(torch.rand(HIDDEN))
        bridges["mlp"].tokenwise[1].bias.copy_(torch.rand(HIDDEN))
    gain, shift = bridges["mlp"].tokenwise[1].parameters()
    bent = layer_norm(gelu(wide), (HIDDEN,), gain, shift)
    torch.testing.assert_close(bridges["mlp"](tokens), bent @ down)


def test_the_mlp_trains_as_much_as_the_frozen_layer_but_for_its_norm():
    block = nn.Identity()
    block.hidden = 4096
    with torch.device("meta"):
        vit = create_vit("vit_small_patch16_224", num_classes=1000, image_size=224)
        model = insert(vit, block, "end", control="mlp", generator=generator(0))
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_196_392 + 2 * 4096


def test_a_second_head_sees_the_trunks_tokens_and_needs_no_layer(make, make_vit):
    model = make("auxiliary", "head", block=None, drop_path=0.0).train()
    main, second = model(PIXELS)
    vit = make_vit().train()
    assert torch.equal(main, vit(PIXELS))
    assert model.bridge is None
    tokens = vit.blocks(ViT(vit).embed(PIXELS).values)
    weights = model.head.vit
    normed = layer_norm(tokens, (WIDTH,), weights.norm.weight, weights.norm.bias, eps=1e-6)
    expected = normed[:, 0] @ weights.head.weight.T + weights.head.bias
    torch.testing.assert_close(second, expected)
    assert torch.equal(model.eval()(PIXELS), vit.eval()(PIXELS))


def test_a_scaled_main_gradient_is_that_of_the_main_loss_times_one_minus_lambda(make):
    model, weight = make("auxiliary", "scale", block=None).train(), 0.35
    seed_globals(0, "step")
    main, second = (cross_entropy(outputs, TARGETS) for outputs in model(PIXELS))
    objective = Objective.of(main, second, weight)
    assert objective.total.item() == pytest.approx(main.item())
    tensors = [tensor for tensor in model.parameters() if tensor.requires_grad]
    alone = torch.autograd.grad(main, tensors, retain_graph=True)
    for ours, theirs in zip(torch.autograd.grad(objective.total, tensors), alone, strict=True):
        torch.testing.assert_close(ours, (1 - weight) * theirs)
    assert set(model.state_dict()) == {f"trunk.{name}" for name in model.trunk.state_dict()}


def test_a_second_head_must_be_offered_by_the_trunk(block):
    with pytest.raises(ValueError, match="must have a trunk with second_head, got ToyTrunk"):
        auxiliary(ToyTrunk(), block, control="head", generator=generator(0))


@pytest.mark.parametrize("variant", PATHS)
def test_controls_that_need_the_width_alone_read_no_weights(make, block_file, tmp_path, variant):
    damaged = tmp_path / "layer-1.safetensors"
    shutil.copy(block_file, damaged)
    with safe_open(damaged, framework="pt") as file:
        size = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    content = bytearray(damaged.read_bytes())
    content[-size:] = bytes(size)  # all zeros
    damaged.write_bytes(content)
    for name in WIDTH_ALONE:
        model = make(variant, name, final_norm="unit", block=damaged)
        assert model.bridge.up.weight.shape == (HIDDEN, WIDTH)
        assert not any(parameter.is_meta for parameter in model.parameters())
    for name in LAYERS:
        with pytest.raises(ValueError, match="must have the digest"):
            make(variant, name, final_norm="unit", block=damaged)


def test_an_outline_has_the_shapes_of_a_layer_and_its_models_own_norm(block, block_file):
    outline = outline_block(block_file)
    shapes = {name: weight.shape for name, weight in block.named_parameters()}
    assert {name: weight.shape for name, weight in outline.named_parameters()} == shapes
    assert all(weight.is_meta for weight in outline.parameters())
    assert outline.hidden == block.hidden
    assert torch.equal(outline.final_norm.weight, block.final_norm.weight)


def test_the_norm_alone_needs_a_norm(make):
    with pytest.raises(ValueError, match="control norm must have a norm, got final_norm none"):
        make("insert", "norm", final_norm="none")


@pytest.mark.parametrize(
    ("variant", "name", "message"),
    [
        ("insrt", "frozen", r"got 'insrt'\. Did you mean insert\?"),
        ("lora", "frozen", r"variant, got 'lora'\. Known: vanilla, insert, residual, auxiliary"),
        ("insert", "sratch", r"got 'sratch'\. Did you mean scratch\?"),
        ("auxiliary", "lora", r"control, got 'lora'\. Known: frozen, random, scratch, "),
        ("insert", "head", r"control head must be of variant auxiliary, got insert"),
        ("vanilla", "random", r"vanilla has nothing that a control could replace, got control ran"),
    ],
)
def test_a_name_that_is_unknown_or_out_of_place_is_one_line(make, variant, name, message):
    for call in (make, find):
        with pytest.raises(ValueError, match=message) as got:
            call(variant, name)
        assert "\n" not in str(got.value)


def test_insert_and_auxiliary_know_the_same_names(vit, block):
    with pytest.raises(ValueError, match=r"got 'sratch'\. Did you mean scratch\?"):
        insert(vit, block, "end", control="sratch", generator=generator(0))
    with pytest.raises(ValueError, match=r"got 'sratch'\. Did you mean scratch\?"):
        auxiliary(vit, block, control="sratch", generator=generator(0))


def test_a_control_from_outside_is_one_decorated_function(make, monkeypatch):
    monkeypatch.setattr(controls, "CONTROLS", dict(CONTROLS))

    @control("bent frozen layer", "#123456")
    def bent(place):
        return Inner(place.block, (nn.Tanh(), *place.norm()))

    assert controls.CONTROLS["bent"].title == "bent frozen layer"
    for variant in PATHS:
        frozen, model = make(variant, "frozen"), make(variant, "bent")
        tokens = torch.rand(2, 5, WIDTH)
        wide = torch.tanh(frozen.bridge.layer(frozen.bridge.up(tokens)))
        expected = frozen.bridge.down(frozen.bridge.tokenwise(wide))
        expected = expected + tokens if variant == "residual" else expected
        torch.testing.assert_close(model.bridge(tokens), expected)
    with pytest.raises(ValueError, match="a control's name must be new, got bent again"):
        control("bent", "#654321")(bent)
    assert "bent" not in CONTROLS


def test_positions_are_places_before_a_block():
    assert [insert_index(name, 12) for name in ("early", "middle", "end", 5)] == [0, 6, 12, 5]


@pytest.mark.parametrize("position", ["ende", 13, -1, "", None, "5"])
def test_a_position_that_does_not_exist_is_one_line(position):
    with pytest.raises(ValueError, match=r"early, middle, end or 0\.\.12, got ") as caught:
        insert_index(position, 12)
    assert repr(position) in str(caught.value)
