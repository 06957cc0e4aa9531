import copy
import itertools

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from rectify import rectified
from rectify.recipes import optimizer_and_schedule, recipe
from rectify.rectified import (
    adapter,
    auxiliary,
    export,
    insert,
    insert_index,
    load_trainable_state,
    mlp,
    trainable_state,
    tuned,
)
from rectify.runtime import generator
from rectify.training import total_loss
from rectify.vision import classify, create_vit, embed

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


@pytest.fixture(params=["auxiliary", "insert"])
def with_block(request, vit, block, draws):
    if request.param == "auxiliary":
        return auxiliary(vit, block, generator=draws)
    return insert(vit, block, "middle", generator=draws)


def loss_of(model):
    logits = model(PIXELS)
    paths = logits if isinstance(logits, tuple) else (logits, None)
    losses = [None if path is None else cross_entropy(path, TARGETS) for path in paths]
    return total_loss(*losses, 0.3)


def bridge_by_hand(bridge, block, tokens):
    middle = block(tokens @ bridge.up.weight.T)
    middle = middle / (middle.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return middle @ bridge.down.weight.T


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def names_of_vit(make_vit):
    return {f"vit.{name}" for name, _ in make_vit().named_parameters()}


def test_at_test_the_auxiliary_model_is_the_plain_vit_bit_for_bit(make_vit, two_paths):
    assert torch.equal(two_paths.eval()(PIXELS), make_vit().eval()(PIXELS))


def test_while_training_the_main_path_is_the_plain_vit(make_vit, two_paths):
    main, second = two_paths.train()(PIXELS)
    assert torch.equal(main, make_vit().train()(PIXELS))
    assert not torch.allclose(main, second)


def test_the_second_path_equals_its_formula(two_paths, block):
    vit = two_paths.vit
    _, second = two_paths.train()(PIXELS)
    tokens = bridge_by_hand(two_paths.bridge, block, vit.blocks(embed(vit, PIXELS)))
    torch.testing.assert_close(second, classify(vit, tokens))


@pytest.mark.parametrize("position", ["early", "middle", "end", 1])
def test_an_inserted_model_equals_its_formula(vit, block, draws, position):
    model = insert(vit, block, position, generator=draws).eval()
    place = {"early": 0, "middle": DEPTH // 2, "end": DEPTH}.get(position, position)
    tokens = embed(vit, PIXELS)
    for index in range(DEPTH + 1):
        if index == place:
            tokens = bridge_by_hand(model.bridge, block, tokens)
        if index < DEPTH:
            tokens = vit.blocks[index](tokens)
    torch.testing.assert_close(model(PIXELS), classify(vit, tokens))


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


def test_positions_are_places_before_a_block():
    assert [insert_index(name, 12) for name in ("early", "middle", "end", 5)] == [0, 6, 12, 5]


@pytest.mark.parametrize("position", ["ende", 13, -1, ""])
def test_a_position_that_does_not_exist_is_one_line(position):
    with pytest.raises(ValueError, match=r"early, middle, end or 0\.\.12, got ") as caught:
        insert_index(position, 12)
    assert repr(position) in str(caught.value)


def test_the_trunk_runs_once_for_both_paths(two_paths):
    calls = []
    for part in (*two_paths.vit.blocks, two_paths.bridge, two_paths.vit.head):
        part.register_forward_hook(lambda module, inputs, output: calls.append(module))
    two_paths.train()(PIXELS)
    assert [calls.count(part) for part in two_paths.vit.blocks] == [1] * DEPTH
    assert calls.count(two_paths.bridge) == 1
    assert calls.count(two_paths.vit.head) == 2
    calls.clear()
    two_paths.eval()(PIXELS)
    assert calls.count(two_paths.bridge) == 0


@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
def test_the_gradient_is_the_weighted_sum_of_two_separate_passes(two_paths, weight):
    trained = {n: p for n, p in two_paths.named_parameters() if p.requires_grad}
    vit = two_paths.train().vit

    def gradients(loss):
        found = torch.autograd.grad(loss, trained.values(), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g
                for g, p in zip(found, trained.values(), strict=True)]  # fmt: skip

    main, second = two_paths(PIXELS)
    losses = cross_entropy(main, TARGETS), cross_entropy(second, TARGETS)
    together = gradients(total_loss(*losses, weight))
    first = gradients(cross_entropy(classify(vit, vit.blocks(embed(vit, PIXELS))), TARGETS))
    tokens = two_paths.bridge(vit.blocks(embed(vit, PIXELS)))
    other = gradients(cross_entropy(classify(vit, tokens), TARGETS))
    for name, total, one, two in zip(trained, together, first, other, strict=True):
        expected = (1 - weight) * one + weight * two
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-7, msg=name)


def test_export_loads_strictly_into_timm_and_gives_equal_logits(two_paths):
    vit = two_paths.vit
    sizes = {"embed_dim": WIDTH, "num_heads": 2, "depth": DEPTH, "patch_size": 8}
    plain = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=16, in_chans=1, **sizes
    )
    plain.load_state_dict(export(two_paths), strict=True)
    assert torch.equal(plain.eval()(PIXELS), two_paths.eval()(PIXELS))
    assert export(vit).keys() == export(two_paths).keys()
    assert not any(tensor.requires_grad for tensor in export(two_paths).values())


def test_an_inserted_model_has_no_plain_form(inserted):
    with pytest.raises(ValueError, match="only a vanilla or auxiliary model has a plain ViT"):
        export(inserted)


def test_adapters_are_two_linears_without_bias_from_a_cut_normal(vit, block, draws):
    bridge = insert(vit, block, "end", generator=draws).bridge
    shapes = {name: tuple(p.shape) for name, p in bridge.named_parameters() if p.requires_grad}
    assert shapes == {"up.weight": (HIDDEN, WIDTH), "down.weight": (WIDTH, HIDDEN)}
    wide = rectified.Bridge(256, nn.Identity(), 512, generator(3))
    for weight in (wide.up.weight, wide.down.weight):
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
    block = with_block.bridge.inner[0]
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    others = [parameter.clone() for parameter in with_block.vit.parameters()]
    optimizer, _ = optimizer_and_schedule(with_block, recipe("deit", mixup=0, cutmix=0), 1)
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert held == {id(p) for p in with_block.parameters() if p.requires_grad}
    assert not held & {id(parameter) for parameter in block.parameters()}
    with_block.train()
    for _ in range(3):
        loss_of(with_block).backward()
        assert all(parameter.grad is None for parameter in block.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())
    pairs = zip(others, with_block.vit.parameters(), strict=True)
    changed = [not torch.equal(*pair) for pair in pairs]
    assert all(changed)


def test_the_frozen_block_is_out_of_the_optimizer_without_weight_decay_too(with_block):
    optimizer, _ = optimizer_and_schedule(with_block, recipe("deit", weight_decay=0), 1)
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    assert all(parameter.requires_grad for parameter in parameters)
    assert len(parameters) == len(trained_names(with_block))


def test_the_frozen_block_stays_in_evaluation_mode(with_block):
    with_block.train()
    assert with_block.vit.training
    assert not any(part.training for part in with_block.bridge.inner[0].modules())


def test_the_frozen_block_is_not_stored_again(make_vit, with_block):
    state = trainable_state(with_block)
    adapters = {"bridge.up.weight", "bridge.down.weight"}
    assert set(state) == names_of_vit(make_vit) | adapters == trained_names(with_block)


def test_each_control_trains_exactly_what_it_should(make_vit, block, draws):
    adapters = {"bridge.up.weight", "bridge.down.weight"}
    expected = names_of_vit(make_vit) | adapters
    for build in (adapter, mlp):
        model = build(make_vit(), HIDDEN, "end", generator=draws)
        assert trained_names(model) == {name for name, _ in model.named_parameters()} == expected
    model = tuned(make_vit(), block, "end", generator=draws)
    inside = {f"bridge.inner.0.{name}" for name, _ in block.named_parameters()}
    assert trained_names(model) == expected | inside
    assert set(trainable_state(model)) == expected | inside


def test_the_adapter_control_is_two_matrices_and_the_mlp_has_a_gelu(make_vit, draws):
    vit = make_vit().eval()
    tokens = torch.rand(2, 5, WIDTH)
    plain = adapter(vit, HIDDEN, "end", generator=draws).bridge
    expected = tokens @ plain.up.weight.T @ plain.down.weight.T
    torch.testing.assert_close(plain(tokens), expected)
    bent = mlp(vit, HIDDEN, "end", generator=draws).bridge
    middle = nn.functional.gelu(tokens @ bent.up.weight.T)
    torch.testing.assert_close(bent(tokens), middle @ bent.down.weight.T)


def test_the_norm_after_the_block_has_unit_gain_or_is_left_out(vit, block, draws):
    unit = auxiliary(vit, block, generator=draws, final_norm="unit").bridge.inner
    tokens = torch.rand(2, 5, HIDDEN)
    size = unit(tokens).square().mean(-1)
    torch.testing.assert_close(size, torch.ones_like(size), rtol=1e-4, atol=0)
    bare = auxiliary(vit, block, generator=draws, final_norm="none").bridge.inner
    assert torch.equal(bare(tokens), block(tokens))


@pytest.fixture
def models_with_the_loaded_norm(make_vit, block, draws):
    arguments = {"generator": draws, "final_norm": "loaded"}
    return [
        auxiliary(make_vit(), block, **arguments),
        insert(make_vit(), block, "end", **arguments),
        tuned(make_vit(), copy.deepcopy(block), "end", **arguments),
    ]


def test_the_loaded_norm_runs_after_the_block_with_its_own_gain(make_vit, block, draws):
    block.final_norm.weight.data += torch.rand(HIDDEN)
    tokens = torch.rand(2, 5, HIDDEN)
    inner = auxiliary(make_vit(), block, generator=draws, final_norm="loaded").bridge.inner
    unit = auxiliary(make_vit(), block, generator=draws, final_norm="unit").bridge.inner
    torch.testing.assert_close(inner(tokens), unit(tokens) * block.final_norm.weight)


def test_the_loaded_norm_is_frozen_and_never_stored(make_vit, models_with_the_loaded_norm):
    adapters = {"bridge.up.weight", "bridge.down.weight"}
    for model in models_with_the_loaded_norm:
        block, norm = model.bridge.inner
        inside = {f"bridge.inner.0.{n}" for n, p in block.named_parameters() if p.requires_grad}
        assert not norm.weight.requires_grad
        assert trained_names(model) == names_of_vit(make_vit) | adapters | inside
        assert set(trainable_state(model)) == trained_names(model)
        others = set(model.state_dict()) - names_of_vit(make_vit) - adapters
        beside = {name for name in others if not name.startswith("bridge.inner.0.decoder.")}
        assert beside == {"bridge.inner.1.weight"}
    assert inside  # tuned: the block, not its norm


def test_the_loaded_norm_is_counted_in_a_model_that_uses_it_alone(make_vit, block, draws):
    def size(final_norm):
        model = auxiliary(make_vit(), block, generator=draws, final_norm=final_norm)
        return sum(parameter.numel() for parameter in model.parameters())

    assert size("none") == size("unit") == size("loaded") - HIDDEN


def test_a_norm_that_is_unknown_or_not_there_is_one_line(vit, draws):
    block = nn.Identity()
    block.hidden = HIDDEN
    with pytest.raises(ValueError, match="must be one of unit, none, loaded, got 'llama'"):
        auxiliary(vit, block, generator=draws, final_norm="llama")
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
    missing = {name: tensor for name, tensor in state.items() if name != "vit.head.bias"}
    with pytest.raises(ValueError, match=r"^file: .* first vit\.head\.bias \(missing\)"):
        load_trainable_state(inserted, missing, "file")
    with pytest.raises(ValueError, match=r"got 1 that differ, first extra \(unexpected\)"):
        load_trainable_state(inserted, {**state, "extra": torch.zeros(1)}, "file")
    with pytest.raises(ValueError, match=r"head\.bias must have shape \(5,\), got \(6,\)"):
        load_trainable_state(inserted, {**state, "vit.head.bias": torch.zeros(6)}, "file")
    assert all(torch.equal(*pair) for pair in zip(before, inserted.parameters(), strict=True))


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
