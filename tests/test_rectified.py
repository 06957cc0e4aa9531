import itertools

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from rectify.rectified import (
    adapters,
    auxiliary,
    build,
    export,
    insert,
    load_trainable_state,
    trainable_state,
    trunk_of,
)
from rectify.runtime import generator
from rectify.trunks.vit import ViT, create_vit
from tests.helpers.toy_trunk import DIM, ToyTrunk, toy_inputs

DEPTH, WIDTH, HIDDEN = 4, 16, 24
PIXELS = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def draws():
    return generator(0, "bridge")


@pytest.fixture
def two_paths(vit, block, draws):
    return auxiliary(vit, block, generator=draws)


@pytest.fixture
def inserted(vit, block, draws):
    return insert(vit, block, "end", generator=draws)


@pytest.fixture(params=["auxiliary", "insert", "residual"])
def with_block(request, vit, block, draws):
    if request.param == "auxiliary":
        return auxiliary(vit, block, generator=draws)
    return insert(vit, block, "middle", generator=draws, residual=request.param == "residual")


def loss_of(model):
    logits = model(PIXELS)
    paths = logits if isinstance(logits, tuple) else (logits,)
    return sum(cross_entropy(path, TARGETS) for path in paths)


def bridge_by_hand(bridge, block, tokens):
    middle = block(tokens @ bridge.up.weight.T)
    middle = middle / (middle.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return middle @ bridge.down.weight.T


def after_the_blocks(vit):
    return vit.blocks(ViT(vit).embed(PIXELS).values)


def classified(vit, tokens):
    return vit.forward_head(vit.norm(tokens))


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def names_of_vit(make_vit):
    return {f"trunk.vit.{name}" for name, _ in make_vit().named_parameters()}


def test_at_test_the_auxiliary_model_is_the_plain_vit_bit_for_bit(make_vit, two_paths):
    assert torch.equal(two_paths.eval()(PIXELS), make_vit().eval()(PIXELS))


def test_while_training_the_main_path_is_the_plain_vit(make_vit, two_paths):
    main, second = two_paths.train()(PIXELS)
    assert torch.equal(main, make_vit().train()(PIXELS))
    assert not torch.allclose(main, second)


def test_the_second_path_equals_its_formula(two_paths, block):
    _, second = two_paths.train()(PIXELS)
    tokens = bridge_by_hand(two_paths.bridge, block, after_the_blocks(two_paths.trunk.vit))
    torch.testing.assert_close(second, classified(two_paths.trunk.vit, tokens))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("position", ["early", "middle", "end", 1])
def test_an_inserted_model_equals_its_formula(vit, block, draws, position, residual):
    model = insert(vit, block, position, generator=draws, residual=residual).eval()
    place = {"early": 0, "middle": DEPTH // 2, "end": DEPTH}.get(position, position)
    tokens = ViT(vit).embed(PIXELS).values
    for index in range(DEPTH + 1):
        if index == place:
            skipped = tokens if residual else 0
            tokens = skipped + bridge_by_hand(model.bridge, block, tokens)
        if index < DEPTH:
            tokens = vit.blocks[index](tokens)
    torch.testing.assert_close(model(PIXELS), classified(vit, tokens))


@pytest.mark.parametrize("place", [0, 2, DEPTH])
def test_blocks_before_the_inserted_one_see_what_they_saw(make_vit, block, draws, place):
    def outputs(model, vit):
        seen = []
        hooks = [b.register_forward_hook(lambda *call: seen.append(call[2])) for b in vit.blocks]
        model(PIXELS)
        for hook in hooks:
            hook.remove()
        return seen

    plain, vit = make_vit().eval(), make_vit()
    model = insert(vit, block, place, generator=draws).eval()
    for index, (left, right) in enumerate(
        zip(outputs(plain, plain), outputs(model, vit), strict=True)
    ):
        assert torch.equal(left, right) == (index < place)


def test_the_trunk_runs_once_for_both_paths(two_paths):
    calls = []
    vit = two_paths.trunk.vit
    for part in (*vit.blocks, two_paths.bridge, vit.head):
        part.register_forward_hook(lambda module, inputs, output: calls.append(module))
    two_paths.train()(PIXELS)
    assert [calls.count(part) for part in vit.blocks] == [1] * DEPTH
    assert calls.count(two_paths.bridge) == 1
    assert calls.count(vit.head) == 2
    calls.clear()
    two_paths.eval()(PIXELS)
    assert calls.count(two_paths.bridge) == 0


@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
def test_the_gradient_is_the_weighted_sum_of_two_separate_passes(two_paths, weight):
    trained = {n: p for n, p in two_paths.named_parameters() if p.requires_grad}
    vit = two_paths.train().trunk.vit

    def gradients(loss):
        each = torch.autograd.grad(loss, trained.values(), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g
                for g, p in zip(each, trained.values(), strict=True)]  # fmt: skip

    main, second = two_paths(PIXELS)
    losses = cross_entropy(main, TARGETS), cross_entropy(second, TARGETS)
    together = gradients((1 - weight) * losses[0] + weight * losses[1])
    first = gradients(cross_entropy(classified(vit, after_the_blocks(vit)), TARGETS))
    tokens = two_paths.bridge(after_the_blocks(vit))
    other = gradients(cross_entropy(classified(vit, tokens), TARGETS))
    for name, total, of_main, of_second in zip(trained, together, first, other, strict=True):
        expected = (1 - weight) * of_main + weight * of_second
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-7, msg=name)


def test_export_loads_strictly_into_timm_and_gives_equal_logits(two_paths):
    sizes = {"embed_dim": WIDTH, "num_heads": 2, "depth": DEPTH, "patch_size": 8}
    plain = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=16, in_chans=1, **sizes
    )
    plain.load_state_dict(export(two_paths), strict=True)
    assert torch.equal(plain.eval()(PIXELS), two_paths.eval()(PIXELS))
    assert export(two_paths.trunk).keys() == export(two_paths).keys()
    assert export(two_paths.trunk.vit).keys() == export(two_paths).keys()
    assert not any(tensor.requires_grad for tensor in export(two_paths).values())


@pytest.mark.parametrize("residual", [False, True])
def test_an_inserted_model_has_no_plain_form(vit, block, draws, residual):
    model = insert(vit, block, "end", generator=draws, residual=residual)
    with pytest.raises(ValueError, match="only a vanilla or auxiliary model has a plain form"):
        export(model)


def test_adapters_are_two_linears_without_bias_from_a_cut_normal(vit, block, draws):
    bridge = insert(vit, block, "end", generator=draws).bridge
    shapes = {name: tuple(p.shape) for name, p in bridge.named_parameters() if p.requires_grad}
    assert shapes == {"up.weight": (HIDDEN, WIDTH), "down.weight": (WIDTH, HIDDEN)}
    for weight in (linear.weight for linear in adapters(256, 512, generator(3))):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert weight.mean().item() == pytest.approx(0, abs=2e-4)


def test_adapters_depend_on_their_generator_alone(make_vit, block):
    weights = []
    for seed, number in itertools.product((0, 1), (4, 5)):
        torch.manual_seed(number)
        weights.append(auxiliary(make_vit(), block, generator=generator(seed)).bridge.up.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_frozen_block_is_absent_from_the_optimizer_and_unchanged_after_three_steps(with_block):
    block = with_block.bridge.layer
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    others = [parameter.clone() for parameter in with_block.trunk.parameters()]
    optimizer = create_optimizer_v2(with_block, opt="adamw", lr=1e-3, weight_decay=0.05)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in with_block.parameters() if p.requires_grad}
    assert not held & {id(parameter) for parameter in block.parameters()}
    with_block.train()
    for _ in range(3):
        loss_of(with_block).backward()
        assert all(parameter.grad is None for parameter in block.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())
    pairs = zip(others, with_block.trunk.parameters(), strict=True)
    changed = [not torch.equal(*pair) for pair in pairs]
    assert all(changed)


def test_the_frozen_block_is_out_of_the_optimizer_without_weight_decay_too(with_block):
    optimizer = create_optimizer_v2(with_block, opt="adamw", lr=1e-3, weight_decay=0.0)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(parameter.requires_grad for parameter in parameters)
    assert len(parameters) == len(trained_names(with_block))


def test_the_frozen_block_stays_in_evaluation_mode(with_block):
    with_block.train()
    assert with_block.trunk.vit.training
    assert not any(part.training for part in with_block.bridge.layer.modules())


def test_the_frozen_block_is_not_stored_again(make_vit, with_block):
    state = trainable_state(with_block)
    adapters = {"bridge.up.weight", "bridge.down.weight"}
    assert set(state) == names_of_vit(make_vit) | adapters == trained_names(with_block)


def test_the_norm_after_the_block_has_unit_gain_or_is_left_out(vit, block, draws):
    unit = auxiliary(vit, block, generator=draws, final_norm="unit").bridge.tokenwise
    tokens = torch.rand(2, 5, HIDDEN)
    size = unit(tokens).square().mean(-1)
    torch.testing.assert_close(size, torch.ones_like(size), rtol=1e-4, atol=0)
    bare = auxiliary(vit, block, generator=draws, final_norm="none").bridge
    assert len(bare.tokenwise) == 0
    assert bare.layer is block


@pytest.fixture
def models_with_the_loaded_norm(make_vit, block, draws):
    arguments = {"generator": draws, "final_norm": "loaded"}
    return [
        auxiliary(make_vit(), block, **arguments),
        insert(make_vit(), block, "end", **arguments),
        insert(make_vit(), block, "end", control="tuned", **arguments),
    ]


def test_the_loaded_norm_runs_after_the_block_with_its_own_gain(make_vit, block, draws):
    block.final_norm.weight.data += torch.rand(HIDDEN)
    tokens = torch.rand(2, 5, HIDDEN)
    loaded = auxiliary(make_vit(), block, generator=draws, final_norm="loaded").bridge
    unit = auxiliary(make_vit(), block, generator=draws, final_norm="unit").bridge
    expected = unit.tokenwise(tokens) * block.final_norm.weight
    torch.testing.assert_close(loaded.tokenwise(tokens), expected)


def test_the_loaded_norm_is_frozen_and_never_stored(make_vit, models_with_the_loaded_norm):
    adapters = {"bridge.up.weight", "bridge.down.weight"}
    for model in models_with_the_loaded_norm:
        layer = model.bridge.layer.named_parameters()
        inside = {f"bridge.layer.{name}" for name, weight in layer if weight.requires_grad}
        assert not model.bridge.tokenwise[0].weight.requires_grad
        assert trained_names(model) == names_of_vit(make_vit) | adapters | inside
        assert set(trainable_state(model)) == trained_names(model)
        others = set(model.state_dict()) - names_of_vit(make_vit) - adapters
        outside = {name for name in others if not name.startswith("bridge.layer.decoder.")}
        assert outside == {"bridge.tokenwise.0.weight"}
    assert inside  # tuned: the block, not its norm


def test_the_loaded_norm_is_counted_in_a_model_that_uses_it_alone(make_vit, block, draws):
    def size(final_norm):
        model = auxiliary(make_vit(), block, generator=draws, final_norm=final_norm)
        return sum(parameter.numel() for parameter in model.parameters())

    assert size("none") == size("unit") == size("loaded") - HIDDEN


def test_a_norm_that_is_unknown_or_not_there_is_one_line(vit, draws):
    block = nn.Identity()
    block.hidden = HIDDEN
    with pytest.raises(ValueError, match=r"a known norm, got 'lodaed'\. Did you mean loaded\?"):
        auxiliary(vit, block, generator=draws, final_norm="lodaed")
    with pytest.raises(ValueError, match="the block must bring the language model's norm, got non"):
        insert(vit, block, "end", generator=draws, final_norm="loaded")
    block.final_norm = None  # a model without one
    with pytest.raises(ValueError, match="the block must bring the language model's norm, got non"):
        auxiliary(vit, block, generator=draws, final_norm="loaded")


def test_a_stored_state_comes_back(make_vit, block):
    first = insert(make_vit(0), block, "end", generator=generator(0))
    second = insert(make_vit(1), block, "end", generator=generator(1))
    assert not torch.equal(first.eval()(PIXELS), second.eval()(PIXELS))
    load_trainable_state(second, trainable_state(first), "state")
    assert torch.equal(first.eval()(PIXELS), second.eval()(PIXELS))


def test_a_state_of_another_model_is_one_line_and_changes_nothing(inserted):
    state = {name: tensor + 1 for name, tensor in trainable_state(inserted).items()}
    before = [parameter.clone() for parameter in inserted.parameters()]
    bias = "trunk.vit.head.bias"
    missing = {name: tensor for name, tensor in state.items() if name != bias}
    with pytest.raises(ValueError, match=rf"^file: tensor {bias} must be \(5,\), got absent\. Tra"):
        load_trainable_state(inserted, missing, "file")
    with pytest.raises(ValueError, match=r"tensor extra must be absent, got \(1,\)"):
        load_trainable_state(inserted, {**state, "extra": torch.zeros(1)}, "file")
    with pytest.raises(ValueError, match=rf"tensor {bias} must be \(5,\), got \(6,\)"):
        load_trainable_state(inserted, {**state, bias: torch.zeros(6)}, "file")
    assert all(torch.equal(*pair) for pair in zip(before, inserted.parameters(), strict=True))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_adapters_of_a_seed_are_drawn_up_first_whatever_else_is_drawn(
    make_vit, block_file, seed
):
    numbers = generator(seed, "bridge")
    up = nn.init.trunc_normal_(torch.empty(HIDDEN, WIDTH), std=0.02, generator=numbers)
    down = nn.init.trunc_normal_(torch.empty(WIDTH, HIDDEN), std=0.02, generator=numbers)
    for variant, position in zip(
        ["insert", "residual", "auxiliary"], ["early", 3, "end"], strict=True
    ):
        torch.manual_seed(seed + 1)
        model = build(make_vit(), variant, block=block_file, position=position, seed=seed)
        assert torch.equal(model.bridge.up.weight, up)
        assert torch.equal(model.bridge.down.weight, down)


def test_build_gives_what_insert_and_auxiliary_give(make_vit, block_file, block):
    arguments = {"block": block_file, "final_norm": "loaded", "seed": 3}
    pairs = (
        (build(make_vit(), "insert", position="middle", **arguments),
         insert(make_vit(), block, 2, generator=generator(3, "bridge"), final_norm="loaded")),
        (build(make_vit(), "residual", position="early", **arguments),
         insert(make_vit(), block, 0, generator=generator(3, "bridge"), final_norm="loaded",
                residual=True)),
        (build(make_vit(), "auxiliary", position=None, **arguments),
         auxiliary(make_vit(), block, generator=generator(3, "bridge"), final_norm="loaded")),
    )  # fmt: skip
    for built, expected in pairs:
        assert built.state_dict().keys() == expected.state_dict().keys()
        for name, tensor in built.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name]), name
        left, right = built(PIXELS), expected(PIXELS)
        assert type(left) is type(right)
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_the_vanilla_model_is_the_trunk_alone(vit):
    trunk = build(vit, "vanilla", block=None, position=None, seed=0)
    assert isinstance(trunk, ViT)
    assert trunk.vit is vit
    assert trunk_of(trunk) is trunk
    assert torch.equal(trunk.eval()(PIXELS), vit.eval()(PIXELS))


def test_the_trunk_of_every_model_is_found(two_paths, inserted, vit):
    assert [trunk_of(model).vit for model in (two_paths, inserted, vit)] == [vit] * 3


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (
            "insert",
            {"block": None},
            "variant insert with control frozen must have a block, got non",
        ),
        ("insert", {"position": None}, r"early, middle, end or 0\.\.4, got None"),
        ("residual", {"block": None}, "variant residual with control frozen must have a block"),
        ("residual", {"position": "last"}, r"early, middle, end or 0\.\.4, got 'last'"),
        ("residual", {"control": "head"}, "head must be of variant auxiliary, got residual"),
        (
            "auxiliary",
            {"position": "middle"},
            "auxiliary path must start at the end, got position m",
        ),
        ("auxiliary", {"position": 3}, "must start at the end, got position 3"),
        ("auxiliary", {"position": "last"}, "position must be early, middle, end"),
    ],
)
def test_what_does_not_fit_a_variant_is_one_line(vit, block_file, variant, changes, message):
    with pytest.raises(ValueError, match=message) as got:
        build(vit, variant, **{"block": block_file, "position": "end", "seed": 0} | changes)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_timm_groups_the_parameters_of_the_vit_as_without_a_bridge(make_vit, block, layer_decay):
    def groups(model):
        names = {parameter: name for name, parameter in model.named_parameters()}
        optimizer = create_optimizer_v2(model, weight_decay=0.05, layer_decay=layer_decay)
        return {
            names[parameter].removeprefix("trunk.vit."): (
                group.get("lr_scale"),
                group["weight_decay"],
            )
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    full = (None if layer_decay is None else 1.0, 0.05)
    expected = groups(make_vit()) | {"bridge.up.weight": full, "bridge.down.weight": full}
    for build_model in (auxiliary, lambda *given, **named: insert(*given, "end", **named)):
        model = build_model(make_vit(), block, generator=generator(0))
        assert groups(model) == expected


def test_layer_decay_needs_a_trunk_with_groups(block):
    model = insert(ToyTrunk(), block, "end", generator=generator(0))
    assert create_optimizer_v2(model, weight_decay=0.05).param_groups
    with pytest.raises(ValueError, match="must have a trunk with group_matcher, got ToyTrunk"):
        create_optimizer_v2(model, weight_decay=0.05, layer_decay=0.5)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_skip_adds_the_tokens_where_some_are_padding(block, position):
    inputs, trunk = toy_inputs(), ToyTrunk()
    plain = insert(trunk, block, position, generator=generator(0))
    model = insert(trunk, block, position, generator=generator(0), residual=True)
    tokens = trunk.run(trunk.embed(inputs), 0, position)
    assert tokens.padding.any()
    expected = tokens.values + plain.bridge(tokens.values, tokens.padding)
    assert torch.equal(model.bridge(tokens.values, tokens.padding), expected)
    logits = trunk.decode(trunk.run(tokens._replace(values=expected), position, 2))["logits"]
    assert torch.equal(model(inputs)["logits"], logits)


def test_a_rectifier_of_zeros_behind_a_skip_is_the_trunk(make_vit, block, draws):
    model = insert(make_vit(), block, "middle", generator=draws, residual=True).eval()
    nn.init.zeros_(model.bridge.down.weight)
    assert torch.equal(model(PIXELS), make_vit().eval()(PIXELS))


class Mean(nn.Module):
    """A layer that adds to each token the mean of those that are there."""

    hidden = HIDDEN

    def forward(self, tokens, padding=None):
        if padding is None:
            return tokens + tokens.mean(1, keepdim=True)
        there = (~padding)[..., None].float()
        return tokens + (tokens * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", ["mean", "language model's"])
def test_a_trunk_that_is_no_vit_has_both_paths_with_its_padding_and_context(block, kind):
    inputs, trunk, layer = toy_inputs(), ToyTrunk(), Mean() if kind == "mean" else block
    second = {"words": inputs["words"][1:, :2], "offset": inputs["offset"][1:]}
    assert trunk(inputs)["logits"].shape == (2, 3)
    for position, residual in itertools.product((0, 1, 2), (False, True)):
        model = insert(trunk, layer, position, generator=generator(0), residual=residual)
        together, alone = model(inputs)["logits"], model(second)["logits"]
        torch.testing.assert_close(together[1:], alone)
        assert not torch.allclose(together, trunk(inputs)["logits"])
    model = auxiliary(trunk, layer, generator=generator(0))
    main, other = model.train()(inputs)
    assert torch.equal(main["logits"], trunk(inputs)["logits"])
    torch.testing.assert_close(other["logits"][1:], model(second)[1]["logits"])
    assert torch.equal(model.eval()(inputs)["logits"], main["logits"])
    assert export(model).keys() == trunk.state_dict().keys()
    assert model.bridge.up.weight.shape == (HIDDEN, DIM)


def test_a_layer_that_knows_no_padding_may_be_given_where_there_is_none(vit):
    layer = nn.Linear(HIDDEN, HIDDEN)
    layer.hidden = HIDDEN
    model = insert(vit, layer, "end", generator=generator(0)).eval()
    middle = layer(model.bridge.up(after_the_blocks(vit.eval())))
    expected = classified(vit, model.bridge.down(model.bridge.tokenwise(middle)))
    assert torch.equal(model(PIXELS), expected)


def test_an_exported_model_comes_back_in_a_trunk(make_vit, two_paths):
    for trunk in (ViT(make_vit(5)), make_vit(5)):
        load_trainable_state(trunk, export(two_paths), "file")
        assert torch.equal(trunk.eval()(PIXELS), two_paths.eval()(PIXELS))
        assert trainable_state(trunk).keys() == export(two_paths).keys()


def test_vit_small_with_a_llama_block_has_the_papers_size():
    with torch.device("meta"):
        vit = create_vit("vit_small_patch16_224", num_classes=1000, image_size=224)
        config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_attention_heads=32)
        block = LlamaDecoderLayer(config, 31).requires_grad_(False)
    assert sum(parameter.numel() for parameter in block.parameters()) == 202_383_360
    block.hidden = 4096
    model = insert(vit, block, "end", generator=generator(0))
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    assert sum(size for size, _ in sizes) == 227_579_752
    assert sum(size for size, trained in sizes if trained) == 25_196_392


@pytest.mark.parametrize("position", [0, "middle", "end", 3])
def test_without_generators_it_is_what_a_run_with_seed_0_has(make_vit, block, block_file, position):
    for control in ("frozen", "random"):
        found = insert(make_vit(), block, position, control=control)
        expected = build(make_vit(), "insert", control, block=block_file, position=position, seed=0)
        assert torch.equal(found(PIXELS), expected(PIXELS))
    found, expected = (
        auxiliary(make_vit(), block),
        build(make_vit(), "auxiliary", block=block_file, position=None, seed=0),
    )
    assert torch.equal(found.train()(PIXELS)[1], expected.train()(PIXELS)[1])
    head = auxiliary(make_vit(), None, control="head")
    assert head.bridge is None


class Own(nn.Module):
    """Somebody's layer, which does not say how wide it is."""

    def __init__(self, output=lambda tokens: tokens):
        super().__init__()
        self.linear, self.output = nn.Linear(HIDDEN, HIDDEN), output

    def forward(self, tokens):
        return self.output(self.linear(tokens))


def test_the_width_of_an_own_layer_is_an_argument_or_an_attribute(make_vit):
    own = Own()
    given = insert(make_vit(), own, "end", hidden=HIDDEN).eval()(PIXELS)
    wide = insert(make_vit(), own, "end", hidden=HIDDEN, control="mlp").bridge
    assert wide.up.out_features == wide.tokenwise[1].normalized_shape[0] == HIDDEN
    second = auxiliary(make_vit(), own, hidden=HIDDEN).train()(PIXELS)[1]
    for attribute in ("hidden", "hidden_size"):
        own = Own()
        setattr(own, attribute, HIDDEN)
        model = insert(make_vit(), own, "end").eval()
        tokens = model.bridge.up(after_the_blocks(model.trunk.vit))
        expected = model.bridge.down(model.bridge.tokenwise(own.linear(tokens)))
        assert torch.equal(model(PIXELS), classified(model.trunk.vit, expected))
    assert given.shape == second.shape


@pytest.mark.parametrize(
    ("hidden", "said", "message"),
    [
        (None, None, r"must be known, got none of Own\. Give the block the attribute hidden"),
        (HIDDEN, 7, "must be known, got 7 of Own and the argument 24"),
        (None, "wide", "must be known, got wide of Own"),
    ],
)
def test_a_layer_whose_width_is_not_known_is_one_line(vit, hidden, said, message):
    own = Own()
    if said is not None:
        own.hidden = said
    for use in (
        lambda: insert(vit, own, "end", hidden=hidden),
        lambda: auxiliary(vit, own, hidden=hidden),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda tokens: (tokens, None), "got tuple from Own"),
        (lambda tokens: tokens[:, 0], r"got \(4, 24\) from Own"),
        (lambda tokens: tokens[..., :8], r"got \(4, 5, 8\) from Own"),
    ],
)
def test_a_layer_that_returns_something_else_than_tokens_is_one_line(vit, output, got):
    model = insert(vit, Own(output), 1, hidden=HIDDEN)
    with pytest.raises(ValueError, match=rf"the tokens alone, \(4, 5, 24\), {got}") as caught:
        model(PIXELS)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_taken_apart_are_one_line(block):
    for model in (timm.create_model("resnet18"), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match=r"^trunk: .* no vision transformer that can be taken"):
            insert(model, block, "end")


@pytest.mark.parametrize("control", ["random", "scratch", "shuffled", "matched"])
def test_an_own_layer_cannot_be_drawn_anew(make_vit, control):
    uses = [
        lambda: insert(make_vit(), Own(), "end", hidden=HIDDEN, control=control),
        lambda: auxiliary(make_vit(), Own(), hidden=HIDDEN, control=control),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="must have a language model's, got Own") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("control", ["tuned", "adapter", "norm", "mlp"])
def test_an_own_layer_has_the_other_controls(make_vit, control):
    model = insert(make_vit(), Own(), "end", hidden=HIDDEN, control=control)
    assert model.eval()(PIXELS).shape == (4, 5)
