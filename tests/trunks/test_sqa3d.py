"""SQA3D's model: its counts, its layers written out, padding, its variants, its blocks' moments."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from rectify.data.situations import PADDING
from rectify.gsnr.moments import GradientMoments
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator
from rectify.trunks.kinds import as_trunk
from rectify.trunks.sqa3d import Sqa3d
from rectify.trunks.trunk import Trunk
from tests.helpers.moments import assert_close, of_single_samples

SIZES = {
    "dim": 8, "depth": 1, "heads": 2, "dropout": 0.0, "word_dropout": 0.0, "answer_dropout": 0.0,
    "embedding": 5, "pool_hidden": 6, "pool": 7, "width": 4, "sets": [14, 10, 7, 5],
    "radii": [0.8, 1.2, 1.6, 2.0], "group_sizes": [5, 4, 3, 3], "proposals": 6,
    "vote_radius": 1.0, "vote_group": 4,
}  # fmt: skip
ANSWERS, WORDS = 5, 12
REST = {"answers": ANSWERS, "points": 20, "features": 2}
WEIGHTS = dict[str, Tensor]


def make(words: int | None = WORDS, **changes: object) -> Sqa3d:
    torch.manual_seed(0)
    model = Sqa3d.of(SIZES | changes, words=words, **REST).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # ones and zeros hide mistakes
            if name != "words.weight":
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        shown = [drawn()[name] for name in ("points", "features")]
        scores = model.detector(*shown)[1]["objectness"]
        model.detector.verdict.bias[0] += (scores[..., 1] - scores[..., 0]).mean()
    return model


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return drawn()


def drawn() -> dict[str, Tensor]:
    draws = generator(1)
    made = {
        "points": torch.randn(3, 20, 3, generator=draws, dtype=torch.float64),
        "features": torch.randn(3, 20, 2, generator=draws, dtype=torch.float64),
        "situation": torch.randint(1, WORDS, (3, 6), generator=draws),
        "question": torch.randint(1, WORDS, (3, 4), generator=draws),
    }
    made["situation"][0, 4:] = made["question"][1, 2:] = PADDING
    return made


def count(*parts: nn.Module) -> int:
    return sum(one.numel() for part in parts for one in part.parameters())


@pytest.mark.parametrize(
    ("dim", "listener", "linears", "layers", "pool", "answer", "pose", "unused", "whole"),
    [
        (256, 571_392, 98_816, 7_372_800, 197_633, 574_914, 264_199, 395_266, 10_824_050),
        (768, 3_287_040, 689_664, 66_158_592, 590_849, 1_723_330, 792_583, 2_363_394, 77_740_914),
    ],
)
def test_the_published_sizes_have_the_published_parameters(
    dim: int, listener: int, linears: int, layers: int, pool: int, answer: int, pose: int,
    unused: int, whole: int,
) -> None:  # fmt: skip
    """The public code also builds two linears, a pooler and a classifier that it never calls."""
    sizes = {"answers": 706, "words": None, "points": 40_000, "features": 4}
    with torch.device("meta"):
        model = Sqa3d.of({"dim": dim}, **sizes)
        width, hidden, out = dim, 256, 512
        never = [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width),
                 nn.Linear(width, 1), nn.Linear(width, hidden), nn.Linear(hidden, 1),
                 nn.Linear(width, out)]  # fmt: skip
    head = model.head
    assert count(model.listener) == listener
    assert count(model.text_linear, model.object_linear) == linears
    assert count(model.situation_layers, model.question_layers, model.layers) == layers
    assert count(head.situation) == count(head.question) == count(head.objects) == pool
    assert count(head.hidden, head.output) == answer
    assert count(head.pose_hidden, head.pose) == pose
    assert count(*never) == unused
    assert count(model) == whole - unused


def test_it_is_a_trunk_and_runs_in_parts(inputs: dict[str, Tensor]) -> None:
    model = make()
    assert isinstance(model, Trunk)
    assert as_trunk(model) is model
    tokens = model.embed(inputs)
    assert tokens.values.shape == (3, 6, 8)
    assert tokens.padding is None
    for block in range(2):
        tokens = model.run(tokens, block, block + 1)
    outputs, whole = model.decode(tokens), model(inputs)
    assert all(torch.equal(outputs[name], whole[name]) for name in whole)
    assert outputs["answers"].shape == (3, ANSWERS)
    assert outputs["pose"].shape == (3, 7)
    assert model.representation(tokens).shape == (3, 21)


def straight(values: Tensor, w: WEIGHTS, name: str) -> Tensor:
    return linear(values, w[f"{name}.weight"], w[f"{name}.bias"])


def normed(values: Tensor, w: WEIGHTS, name: str) -> Tensor:
    rows = []
    for row in values:
        deviation = ((row - row.mean()).square().sum() / (len(row) - 1)).sqrt()
        rows.append((row - row.mean()) / (deviation + 1e-6))
    return w[f"{name}.weight"] * torch.stack(rows) + w[f"{name}.bias"]


def attended(own: Tensor, others: Tensor, w: WEIGHTS, name: str) -> Tensor:
    """Tokens ``(tokens, dim)`` after they attended to all of ``others``, head by head."""
    query = straight(own, w, f"{name}.query")
    key, value = (straight(others, w, f"{name}.{one}") for one in ("key", "value"))
    heads = []
    for q, k, v in zip(*(one.chunk(2, 1) for one in (query, key, value)), strict=True):
        heads.append((q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v)
    return straight(torch.cat(heads, 1), w, f"{name}.merge")


def layer_written_out(
    own: Tensor, shown: Tensor, words: Tensor | None, w: WEIGHTS, name: str
) -> Tensor:
    """A layer of one sample; tokens attend to those of their own that are shown."""
    own = normed(own + attended(own, own[shown], w, f"{name}.attentions.0"), w, f"{name}.norms.0")
    last = 1
    if words is not None:
        heard = attended(own, words, w, f"{name}.attentions.1")
        own, last = normed(own + heard, w, f"{name}.norms.1"), 2
    inner = straight(gelu(straight(own, w, f"{name}.hidden")), w, f"{name}.output")
    return normed(own + inner, w, f"{name}.norms.{last}")


def pooled(values: Tensor, w: WEIGHTS, name: str) -> Tensor:
    shares = straight(gelu(straight(values, w, f"{name}.hidden")), w, f"{name}.score").softmax(0)
    return straight((shares * values).sum(0), w, f"{name}.merge")


def listened(numbers: Tensor, w: WEIGHTS, name: str) -> Tensor:
    """A text without padding: an LSTM's steps, a linear, a layer of self-attention."""
    state = memory = torch.zeros(8, dtype=torch.float64)
    heard = []
    for number in numbers:
        gates = w["listener.weight_ih_l0"] @ w["words.weight"][number] + w["listener.bias_ih_l0"]
        gates = gates + w["listener.weight_hh_l0"] @ state + w["listener.bias_hh_l0"]
        into, forget, new, out = gates.chunk(4)
        memory = forget.sigmoid() * memory + into.sigmoid() * new.tanh()
        state = out.sigmoid() * memory.tanh()
        heard.append(state)
    values = gelu(straight(torch.stack(heard), w, "text_linear"))
    shown = torch.ones(len(values), dtype=torch.bool)
    return layer_written_out(values, shown, None, w, f"{name}_layers.0")


@pytest.mark.parametrize("hides", [True, False])
def test_texts_layers_and_heads_are_those_written_out(
    inputs: dict[str, Tensor], hides: bool
) -> None:
    """Of each sample without its padding."""
    model = make(hides=hides)
    w, outputs, tokens = model.state_dict(), model(inputs), model.embed(inputs)
    is_object = outputs["objectness"][..., 1] > outputs["objectness"][..., 0]
    assert 0 < is_object.float().mean() < 1
    for sample in range(3):
        texts = [
            listened(inputs[name][sample][inputs[name][sample] != PADDING], w, name)
            for name in ("situation", "question")
        ]
        shown = is_object[sample] if hides else torch.ones(6, dtype=torch.bool)
        assert shown.any()
        values = tokens.values[sample]
        for layer, words in enumerate(texts):
            values = layer_written_out(values, shown, words, w, f"layers.{layer}")
        situation, question = (
            pooled(one, w, f"head.{name}")
            for one, name in zip(texts, ("situation", "question"), strict=True)
        )
        objects = pooled(values[shown], w, "head.objects")
        answer = gelu(straight(torch.cat([situation, question, objects]), w, "head.hidden"))
        pose = gelu(straight(torch.cat([situation, objects]), w, "head.pose_hidden"))
        torch.testing.assert_close(outputs["answers"][sample], straight(answer, w, "head.output"))
        torch.testing.assert_close(outputs["pose"][sample], straight(pose, w, "head.pose"))


def test_padding_of_texts_changes_nothing(inputs: dict[str, Tensor]) -> None:
    model = make()
    whole = model(inputs)
    for sample in range(3):
        alone = {name: values[sample, None] for name, values in inputs.items()}
        for name in ("situation", "question"):
            alone[name] = alone[name][alone[name] != PADDING][None]
        found = model(alone)
        for name, values in whole.items():
            torch.testing.assert_close(found[name][0], values[sample])


def test_given_vectors_are_heard_as_learned_ones(inputs: dict[str, Tensor]) -> None:
    model, deaf = make(), make(words=None)
    weights = model.state_dict()
    vectors = weights.pop("words.weight")
    deaf.load_state_dict(weights)
    given = {name: vectors[inputs[name]] for name in ("situation", "question")}
    torch.testing.assert_close(deaf(inputs | given)["answers"], model(inputs)["answers"])


class Mixed(nn.Module):
    """A layer in which each token sees the mean of those that are not hidden."""

    hidden = 8

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        shown = torch.ones_like(tokens[:, :, :1]) if padding is None else (~padding)[..., None]
        return tokens.square() + 3 * (tokens * shown).sum(1, keepdim=True)


@pytest.mark.parametrize("mask", ["none", "objects"])
def test_the_layer_sees_the_proposals_after_the_question_has_guided_them(
    inputs: dict[str, Tensor], mask: str
) -> None:
    plain, layer = make(mask=mask), Mixed()
    model = insert(make(mask=mask), layer, "end", generator=generator(0), final_norm="none")
    model = model.double().eval()
    tokens = plain.run(plain.embed(inputs), 0, 2)
    hidden = tokens.context.hidden if mask == "objects" else torch.zeros_like(tokens.context.hidden)
    wide = model.bridge.up(tokens.values)
    seen = wide.square() + 3 * torch.stack(
        [own[~none].sum(0, keepdim=True) for own, none in zip(wide, hidden, strict=True)]
    )
    bridged = tokens._replace(values=model.bridge.down(seen))
    expected, found = plain.decode(bridged), model(inputs)
    torch.testing.assert_close(found["answers"], expected["answers"])
    assert not torch.equal(found["answers"], plain(inputs)["answers"])
    assert torch.equal(found["centres"], plain(inputs)["centres"])  # the detector is before it


def test_the_auxiliary_model_is_the_plain_one_at_test(inputs: dict[str, Tensor]) -> None:
    second = auxiliary(make(), Mixed(), generator=generator(0)).double()
    assert torch.equal(second.eval()(inputs)["answers"], make()(inputs)["answers"])
    main, other = second.train()(inputs)
    assert main["answers"].shape == other["answers"].shape == (3, ANSWERS)


def test_the_moments_of_its_blocks_are_those_of_single_samples(inputs: dict[str, Tensor]) -> None:
    model = make()
    scales = torch.rand(3, ANSWERS, generator=generator(2), dtype=torch.float64)

    def losses(chosen: slice) -> Tensor:
        outputs = model({name: values[chosen] for name, values in inputs.items()})
        return (outputs["answers"] * scales[chosen]).sum(1) + outputs["pose"].square().sum(1)

    watched = GradientMoments({"blocks": model.layers})
    with watched:
        losses(slice(None)).mean().backward()
    expected = of_single_samples(losses, model.layers, 3)
    assert_close(watched.moments(), expected, 1e-7)  # its queries' gradients are tiny


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 3}, "dim of SQA3D's model must be a multiple of heads 3, got 8"),
        ({"sets": [10, 14, 7, 5]}, "must fall from at most the 20 points of a room to at least 3"),
        ({"sets": [21, 10, 7, 5]}, "must fall from at most the 20 points"),
        ({"sets": [14, 10, 7]}, "sets"),
        ({"group_sizes": [5, 4, 11, 3]}, "must not exceed the points that they are taken from"),
        ({"proposals": 11}, "must not exceed the points that they are taken from, 20, 14, 10, 7"),
        ({"width_of": 3}, "width_of"),
    ],
)
def test_sizes_that_cannot_be_right_are_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)
