"""Point-BERT: against a forward pass written out, its published counts, its checkpoint, GSNR."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy, gelu, layer_norm, linear, softmax

from rectify.gsnr import GsnrObserver, gradient_moments
from rectify.rectified import auxiliary, insert, load_trainable_state, trainable_state
from rectify.runtime import generator
from rectify.trunks.kinds import as_trunk
from rectify.trunks.point_bert import PointBert, load_start, point_bert_tensors
from rectify.trunks.trunk import Trunk
from tests.helpers.moments import assert_close
from tests.helpers.point_bert import checkpoint, published_names

SIZES = {"dim": 12, "depth": 3, "heads": 2, "groups": 5, "group_size": 4, "width": 4}
CLASSES, POINTS = 4, 30


def make(**changes: object) -> PointBert:
    torch.manual_seed(0)
    overrides = {**SIZES, **changes.pop("overrides", {})}
    model = PointBert.of(overrides, classes=CLASSES, points=POINTS, **changes)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name and tensor.is_floating_point():  # ones and zeros hide mistakes
                tensor.add_(0.3 * torch.rand_like(tensor))
    return model


def clouds(batch: int = 3) -> Tensor:
    return torch.randn(batch, POINTS, 3, generator=generator(0, "clouds"))


def attention(tokens: Tensor, weights: dict[str, Tensor], heads: int) -> Tensor:
    batch, count, dim = tokens.shape
    query, key, value = linear(tokens, weights["attn.qkv.weight"]).view(
        batch, count, 3, heads, dim // heads
    ).unbind(2)  # fmt: skip
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / (dim // heads) ** 0.5
    mixed = torch.einsum("bhqk,bkhd->bqhd", softmax(scores, -1), value).reshape(batch, count, dim)
    return linear(mixed, weights["attn.proj.weight"], weights["attn.proj.bias"])


def written_out(w: dict[str, Tensor], cloud: Tensor, head: nn.Module, skip: bool = False) -> Tensor:
    """Return the logits of one cloud, step by step, from tensors as they are published."""
    chosen, numbers = [0], range(len(cloud))
    allowed = [n for n in numbers if not (skip and cloud[n].square().sum() <= 1e-3)]
    while len(chosen) < SIZES["groups"]:
        chosen.append(
            max(allowed, key=lambda n: min((cloud[n] - cloud[m]).norm().item() for m in chosen))
        )
    tokens, positions = [w["cls_token"][0, 0]], [w["cls_pos"][0, 0]]
    for centre in cloud[chosen]:
        near = sorted(numbers, key=lambda n: (cloud[n] - centre).norm().item())
        group = (cloud[near[: SIZES["group_size"]]] - centre).T[None]  # (1, 3, points)

        def convolved(values: Tensor, name: str) -> Tensor:
            return nn.functional.conv1d(
                values, w[f"encoder.{name}.weight"], w[f"encoder.{name}.bias"]
            )

        def normed(values: Tensor, name: str) -> Tensor:
            own = [
                w[f"encoder.{name}.{key}"]
                for key in ("running_mean", "running_var", "weight", "bias")
            ]
            return batch_norm(values, *own).relu()

        local = convolved(normed(convolved(group, "first_conv.0"), "first_conv.1"), "first_conv.3")
        both = torch.cat([local.amax(2, keepdim=True).expand_as(local), local], 1)
        both = convolved(normed(convolved(both, "second_conv.0"), "second_conv.1"), "second_conv.3")
        tokens.append(linear(both.amax(2)[0], w["reduce_dim.weight"], w["reduce_dim.bias"]))
        hidden = gelu(linear(centre, w["pos_embed.0.weight"], w["pos_embed.0.bias"]))
        positions.append(linear(hidden, w["pos_embed.2.weight"], w["pos_embed.2.bias"]))
    x, place = torch.stack(tokens)[None], torch.stack(positions)[None]
    for block in range(SIZES["depth"]):
        start = f"blocks.blocks.{block}."
        own = {name.removeprefix(start): one for name, one in w.items() if name.startswith(start)}

        def norm(values: Tensor, name: str, own: dict[str, Tensor] = own) -> Tensor:
            return layer_norm(
                values, values.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"], 1e-5
            )

        x = x + place  # again in front of every block
        x = x + attention(norm(x, "norm1"), own, SIZES["heads"])
        hidden = gelu(linear(norm(x, "norm2"), own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        x = x + linear(hidden, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    x = layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-5)[0]
    features = torch.cat([x[0], x[1:].amax(0)])
    return head.output(head.hidden(features).relu())


@pytest.mark.parametrize("skip", [False, True])
def test_it_is_the_published_model_written_out(skip: bool) -> None:
    model = make(skip_origin=skip).eval()
    given = clouds() * 0.1
    expected = [written_out(published_names(model), cloud, model.head, skip) for cloud in given]
    torch.testing.assert_close(model(given), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_it_is_a_trunk_and_runs_in_parts() -> None:
    model, given = make().eval(), clouds()
    assert isinstance(model, Trunk)
    assert as_trunk(model) is model
    tokens = model.embed(given)
    assert tokens.values.shape == tokens.context.shape == (3, 1 + 5, 12)
    for block in range(3):
        tokens = model.run(tokens, block, block + 1)
    assert torch.equal(model.decode(tokens), model(given))
    assert model.representation(tokens).shape == (3, 2 * 12)


def test_the_rest_of_a_cloud_may_come_in_any_order() -> None:
    model, given = make().eval(), clouds()
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(POINTS - 1)])
    torch.testing.assert_close(model(given[:, order]), model(given))


def test_half_precision_groups_the_same_points() -> None:
    model, given = make().eval(), clouds() * 0.01 + 1  # bfloat16 cannot tell these points apart
    whole = model.embed(given).values
    with torch.autocast("cpu", torch.bfloat16):
        half = model.embed(given).values
    torch.testing.assert_close(half.float(), whole, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(("classes", "count"), [(40, 22_065_960), (15, 22_059_535)])
def test_the_published_sizes_have_the_published_parameters(classes: int, count: int) -> None:
    with torch.device("meta"):
        model = PointBert.of({}, classes=classes, points=1024)
    counted = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert sum(p.numel() for p in model.parameters()) == count
    assert counted["tokenizer"] == 428_800
    assert sum(p.numel() for p in model.blocks["0"].parameters()) == 1_773_312


@pytest.mark.parametrize(("points", "groups"), [(1024, 64), (4096, 256), (8192, 512)])
def test_more_points_have_more_groups_and_no_more_parameters(points: int, groups: int) -> None:
    with torch.device("meta"):
        model = PointBert.of({}, classes=40, points=points)
    assert (model.groups, model.group_size) == (groups, 32)
    assert sum(p.numel() for p in model.parameters()) == 22_065_960


def test_a_rectifier_adds_the_published_parameters() -> None:
    """Two bias-free linears to LLaMA-7B's width and a norm of unit gain: 3,145,728 are trained."""
    with torch.device("meta"):
        model = PointBert.of({}, classes=40, points=1024)
        layer = nn.Identity()
        layer.hidden = 4096
        rectified = insert(model, layer, "end", generator=torch.Generator())
    trained = sum(p.numel() for p in rectified.parameters() if p.requires_grad)
    assert trained == 25_211_688
    llama = 4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096
    assert trained + llama == 227_595_048


def test_the_checkpoint_is_loaded_strictly(tmp_path: Path) -> None:
    trained, model = make(), make()
    with torch.no_grad():
        for tensor in trained.state_dict().values():
            tensor.copy_(
                torch.rand(tensor.shape) if tensor.is_floating_point() else torch.tensor(7)
            )
    head = {name: one.clone() for name, one in model.head.named_parameters()}
    load_start(model, checkpoint(trained, tmp_path / "Point-BERT.pth"))
    state = model.state_dict()
    for name, tensor in trained.state_dict().items():
        kept = name.startswith(("head.hidden", "head.output"))
        assert torch.equal(state[name], head[name.removeprefix("head.")] if kept else tensor), name


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("module.transformer_q.reduce_dim.weight", torch.ones(3, 3), "reduce.weight"),
        ("module.transformer_q.blocks.blocks.9.norm1.weight", torch.ones(12), r"layers\.9\.norm1"),
        ("module.transformer_q.new", torch.ones(1), "new"),
        ("module.transformer_q.new", "text", "must hold named tensors under base_model"),
    ],
)
def test_another_checkpoint_is_one_line(
    tmp_path: Path, name: str, value: object, said: str
) -> None:
    path = checkpoint(make(), tmp_path / "Point-BERT.pth", **{name: value})
    with pytest.raises(ValueError, match=said) as caught:
        load_start(make(), path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    path = checkpoint(make(), tmp_path / "Point-BERT.pth")
    content = torch.load(path, weights_only=True)
    del content["base_model"]["module.transformer_q.norm.weight"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"head\.norm\.weight"):
        load_start(make(), path)
    assert "head.norm.weight" not in point_bert_tensors(content["base_model"])


class Runs:
    """What a pickle could do if it was let."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"base_model": {}, "metrics": Runs()}, tmp_path / "Point-BERT.pth")
    with pytest.raises(ValueError, match="other objects too"):
        load_start(make(), tmp_path / "Point-BERT.pth")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Runs()))
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"heads": 5}, "dim of a Point-BERT must be a multiple of heads 5, got 12"),
        ({"groups": 31}, "must not exceed the 30 points of a cloud, got 31 and 4"),
        ({"layers": 3}, "every key must be known, got 'layers'"),
        ({"depth": 0}, "depth must follow its rule"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(overrides: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make(overrides=overrides)
    assert "\n" not in str(caught.value)


def test_a_second_head_is_another_draw_of_the_same_head() -> None:
    model = make().eval()
    tokens = model.run(model.embed(clouds()), 0, 3)
    head = model.second_head(generator(0))
    assert not torch.equal(head.output.weight, model.head.output.weight)
    ours, own = (torch.sort(one.hidden.weight.flatten()).values for one in (head, model.head))
    assert torch.equal(ours, own)
    head.load_state_dict(model.head.state_dict())
    assert torch.equal(head(tokens), model.decode(tokens))


def test_statistics_of_its_norms_are_saved_with_the_weights() -> None:
    model, other = make().train(), make()
    model(clouds())
    load_trainable_state(other, trainable_state(model), "here")
    given = clouds(2)
    assert torch.equal(other.eval()(given), model.eval()(given))
    assert int(model.tokenizer.inner_norm.num_batches_tracked) == 1


def losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(outputs, labels, reduction="none")


def by_single_clouds(model: PointBert, given: Tensor, labels: Tensor) -> dict:
    """Return mean and variance of the gradients of clouds alone, their tokens held fixed.

    The tokens are those of the whole batch, whose norms have seen all of it.
    """
    with torch.no_grad():
        tokens = model.embed(given)
    parameters = {
        f"{block}.{name}": one
        for block, part in model.blocks.items()
        for name, one in part.named_parameters()
    }
    found = []
    for cloud in range(len(given)):
        one = tokens._replace(
            values=tokens.values[cloud : cloud + 1], context=tokens.context[cloud : cloud + 1]
        )
        loss = losses(model.decode(model.run(one, 0, 3)), labels[cloud : cloud + 1]).sum()
        found.append(torch.autograd.grad(loss, list(parameters.values())))
    stacks = {
        name: torch.stack(own)
        for name, own in zip(parameters, zip(*found, strict=True), strict=True)
    }
    return {name: (own.mean(0), own.var(0, correction=0)) for name, own in stacks.items()}


def test_gsnr_is_that_of_single_clouds_with_their_tokens_held_fixed() -> None:
    """With the norms of the tokenizer in training mode: they are upstream of the blocks."""
    model = make(overrides={"head_dropout": 0.0}).double().train()
    given, labels = clouds(6).double(), torch.arange(6) % CLASSES
    expected = by_single_clouds(model, given, labels)
    moments = gradient_moments(model, given, labels, losses, model.blocks)
    assert_close(moments, expected, 1e-9)
    named = gradient_moments(model, given, labels, losses, ["layers"])
    assert_close({name.removeprefix("layers."): own for name, own in named.items()}, expected, 1e-9)
    observer = GsnrObserver(model.blocks, batches=1)
    with observer.watch():
        losses(model(given), labels).mean().backward()
    observer.record(0, 6)
    assert len(observer.rows(0)) == 3 * 4


def test_gsnr_refuses_the_tokenizer_itself_and_norms_behind_the_blocks() -> None:
    given, labels = clouds(6), torch.arange(6) % CLASSES
    model = make().train()
    with pytest.raises(
        ValueError, match=r"tokenizer\.inner_norm must treat each sample separately"
    ):
        gradient_moments(model, given, labels, losses, [""])
    with pytest.raises(ValueError, match=r"inner_norm must treat each sample separately"):
        gradient_moments(model, given, labels, losses, ["tokenizer"])
    model.head.hidden = nn.Sequential(model.head.hidden, nn.BatchNorm1d(256))  # as Point-MAE's
    with pytest.raises(ValueError, match=r"head\.hidden\.1 must treat each sample separately"):
        gradient_moments(model, given, labels, losses, model.blocks)
    observer = GsnrObserver(model.blocks, batches=1)
    with (
        pytest.raises(ValueError, match="must treat each sample apart up to the loss"),
        observer.watch(),
    ):
        losses(model(given), labels).mean().backward()
    moments = gradient_moments(model.eval(), given, labels, losses, model.blocks)
    assert moments.keys() == by_single_clouds(model, given, labels).keys()


@pytest.mark.parametrize("position", ["early", "middle", "end"])
def test_what_is_inserted_sees_tokens_without_positions(block: nn.Module, position: str) -> None:
    """The next block adds them again, so the second half equals a pass from the bridge on."""
    model = make().eval()
    rectified = insert(model, block, position, generator=generator(0)).eval()
    given, at = clouds(), rectified.insert_at
    seen = []
    rectified.bridge.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0], output))
    )
    logits = rectified(given)
    tokens = model.run(model.embed(given), 0, at)
    assert torch.equal(seen[0][0], tokens.values)
    again = model.decode(model.run(tokens._replace(values=seen[0][1]), at, 3))
    assert torch.equal(again, logits)
    second = auxiliary(make(), block, generator=generator(0)).train()
    assert len(second(given)) == 2
