"""VectorNet: against a forward pass written out, its counts, its parts."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from rectify.rectified import insert
from rectify.runtime import generator
from rectify.trunks.kinds import as_trunk
from rectify.trunks.trunk import Trunk
from rectify.trunks.vectornet import VectorNet, steps_of
from tests.helpers.forecasters import observed, roughened

SIZES = {"width": 4, "layers": 2, "modes": 3}


def make() -> VectorNet:
    torch.manual_seed(0)
    return roughened(VectorNet.of(SIZES).eval())


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return observed()  # what was before the gap does not count


def test_the_published_sizes_have_the_published_parameters() -> None:
    with torch.device("meta"):
        model = VectorNet.of({})

    def count(part: torch.nn.Module) -> int:
        return sum(one.numel() for one in part.parameters())

    assert count(model) == 1_780_933
    assert (count(model.subgraphs.agents), count(model.subgraphs.lanes)) == (43_520, 43_552)
    assert (count(model.graph), count(model.decoder)) == (330_496, 1_363_365)
    layer = torch.nn.Identity()
    layer.hidden = 4096
    rectified = insert(model, layer, "end", generator=torch.Generator())
    assert count(rectified.bridge) == 2_097_152


def test_it_sees_and_forecasts_as_many_steps_as_it_is_told() -> None:
    model = VectorNet.of(SIZES, observed=50, future=60)
    tracks, lines = torch.randn(2, 3, 50, 2), torch.randn(2, 4, 10, 2)
    inputs = {"tracks": tracks, "seen": torch.ones(2, 3, 50, dtype=torch.bool), "lanes": lines,
              "flags": torch.zeros(2, 4, 3), "no_agent": torch.zeros(2, 3, dtype=torch.bool),
              "no_lane": torch.zeros(2, 4, dtype=torch.bool)}  # fmt: skip
    before = model(inputs)
    assert before["trajectories"].shape == (2, 3, 3, 60, 2)
    assert before["single"].shape == (2, 3, 60, 2)
    inputs["tracks"] = tracks.clone()
    inputs["tracks"][:, :, 0] += 1  # the first of all steps counts
    assert not torch.equal(model(inputs)["single"], before["single"])
    (linear,) = [one for one in model.decoder.single if isinstance(one, torch.nn.Linear)]
    assert linear.out_features == 2 * 60


def test_it_is_a_trunk_and_runs_in_parts(inputs: dict[str, Tensor]) -> None:
    model = make()
    assert isinstance(model, Trunk)
    assert as_trunk(model) is model
    tokens = model.embed(inputs)
    for block, width in enumerate(model.widths):
        assert tokens.values.shape[2] == width
        tokens = model.run(tokens, block, block + 1)
    for name, values in model.decode(tokens).items():
        assert torch.equal(values, model(inputs)[name])


def vectors_of(track: list, seen: list) -> list:
    """One agent's vectors, step by step; None where a step does not count."""
    first = 19
    while first > 0 and seen[first - 1]:
        first -= 1
    made = []
    for step in range(1, 20):
        x, y = track[step]
        before = track[step - 1] if step - 1 >= first else track[step]
        counts = step >= first
        made.append([x, y, x - before[0], y - before[1], 1.0, step * 0.1] if counts else None)
    return made


def test_only_the_unbroken_track_up_to_now_counts(inputs: dict[str, Tensor]) -> None:
    vectors, counts = steps_of(inputs["tracks"], inputs["seen"])
    for scene in range(4):
        for agent in range(int((~inputs["no_agent"][scene]).sum())):
            track = inputs["tracks"][scene, agent].tolist()
            expected = vectors_of(track, inputs["seen"][scene, agent].tolist())
            assert counts[scene, agent].tolist() == [one is not None for one in expected]
            for found, wanted in zip(vectors[scene, agent].tolist(), expected, strict=True):
                assert found == pytest.approx(wanted or [0.0] * 6, abs=1e-5)
    assert counts[0, 0].tolist() == [step >= 12 for step in range(1, 20)]


def normed(values: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return layer_norm(values, values.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def straight(values: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return linear(values, w[f"{name}.weight"], w.get(f"{name}.bias"))


def residual(values: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    inner = normed(straight(values, w, f"{name}.first"), w, f"{name}.first_norm").relu()
    return (normed(straight(inner, w, f"{name}.second"), w, f"{name}.second_norm") + values).relu()


def polyline(vectors: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """Return the token of one polyline, of the vectors that count."""
    for layer in range(SIZES["layers"]):
        for linear_at, norm_at in ((0, 1), (3, 4)):
            vectors = straight(vectors, w, f"{name}.layers.{layer}.{linear_at}")
            vectors = normed(vectors, w, f"{name}.layers.{layer}.{norm_at}").relu()
        top = vectors.max(0).values
        vectors = torch.stack([torch.cat([one, top]) for one in vectors])
    return vectors.max(0).values


def written_out(w: dict[str, Tensor], scene: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
    """Return the forecasts of each agent of one scene without padding, step by step."""
    tokens = []
    for track, seen in zip(scene["tracks"], scene["seen"], strict=True):
        counted = [one for one in vectors_of(track.tolist(), seen.tolist()) if one is not None]
        tokens.append(polyline(torch.tensor(counted), w, "subgraphs.agents"))
    for line, flags in zip(scene["lanes"], scene["flags"], strict=True):
        pieces = [torch.cat([end, end - start, flags]) for start, end in itertools.pairwise(line)]
        tokens.append(polyline(torch.stack(pieces), w, "subgraphs.lanes"))
    agents, dim = len(scene["tracks"]), len(tokens[0])
    mixed = []
    for token in tokens:
        query = straight(token, w, "graph.query")
        scores = torch.stack([query @ straight(o, w, "graph.key") / dim**0.5 for o in tokens])
        shares = scores.softmax(0)
        heard = sum(s * straight(o, w, "graph.value") for s, o in zip(shares, tokens, strict=True))
        heard = straight(normed(heard, w, "graph.attended.0").relu(), w, "graph.attended.2")
        beside = normed(straight(token, w, "graph.beside.0"), w, "graph.beside.1")
        mixed.append(beside + normed(heard, w, "graph.attended.3"))
    found = []
    for token, track in zip(mixed[:agents], scene["tracks"], strict=True):
        ways, scores = [], []
        for name in [
            *(f"decoder.modes.{mode}" for mode in range(SIZES["modes"])),
            "decoder.single",
        ]:
            flat = straight(residual(token, w, f"{name}.0"), w, f"{name}.1")
            ways.append(flat.view(30, 2) + track[-1])
        for way in ways[:-1]:
            offset = straight(track[-1] - way[-1], w, "decoder.offset.0").relu()
            offset = normed(straight(offset, w, "decoder.offset.2"), w, "decoder.offset.3").relu()
            joint = straight(torch.cat([offset, token]), w, "decoder.joint.0")
            joint = normed(joint, w, "decoder.joint.1").relu()
            scores.append(straight(residual(joint, w, "decoder.score.0"), w, "decoder.score.1"))
        found.append((torch.stack(ways[:-1]), torch.cat(scores), ways[-1]))
    return found


def test_it_is_the_published_model_written_out(inputs: dict[str, Tensor]) -> None:
    model = make()
    outputs, weights = model(inputs), model.state_dict()
    for scene in range(4):
        agents, there = ~inputs["no_agent"][scene], ~inputs["no_lane"][scene]
        alone = {
            **{name: inputs[name][scene][agents] for name in ("tracks", "seen")},
            **{name: inputs[name][scene][there] for name in ("lanes", "flags")},
        }
        for agent, expected in enumerate(written_out(weights, alone)):
            for name, wanted in zip(("trajectories", "scores", "single"), expected, strict=True):
                found = outputs[name][scene, agent]
                torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_second_decoder_is_another_draw_of_the_same(inputs: dict[str, Tensor]) -> None:
    model = make()
    other, own = model.second_head(generator(0)), model.decoder
    assert not torch.equal(other.single[1].weight, own.single[1].weight)
    ours, theirs = (torch.sort(one.single[1].weight.flatten()).values for one in (other, own))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [({"depth": 3}, "every key must be known, got 'depth'"), ({"modes": 0}, "modes must follow")],
)
def test_sizes_that_cannot_be_are_one_line(overrides: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        VectorNet.of(overrides)
    assert "\n" not in str(caught.value)
