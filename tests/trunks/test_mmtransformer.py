"""mmTransformer: against a forward pass written out agent by agent, its counts, its parts."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from rectify.rectified import insert
from rectify.trunks.kinds import as_trunk
from rectify.trunks.mmtransformer import MmTransformer, moves_of
from rectify.trunks.trunk import Trunk, width_at
from tests.helpers.forecasters import observed, roughened

SIZES = {"dim": 8, "lane_width": 4, "modes": 3}
HEADS, DIM, MODES = 2, 8, 3
Weights = dict[str, Tensor]


def make(**more: object) -> MmTransformer:
    torch.manual_seed(0)
    return roughened(MmTransformer.of(SIZES | more).eval())


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return observed()


def test_the_published_sizes_have_the_published_parameters() -> None:
    """Those of the released model without what it never calls: a decoder, and a linear."""
    with torch.device("meta"):
        model = MmTransformer.of({})

    def count(part: torch.nn.Module) -> int:
        return sum(one.numel() for one in part.parameters())

    encoder, decoder = (part.layers[0] for part in (model.motion.encoder, model.motion.decoder))
    assert (count(encoder), count(decoder)) == (132_480, 198_784)
    uncalled = 2 * count(decoder) + 2 * 128 + (2 * 128 + 128)
    assert uncalled == 398_208
    assert count(model) == 2_607_197 - uncalled
    layer = torch.nn.Identity()
    layer.hidden = 4096
    rectified = insert(model, layer, "end", generator=torch.Generator())
    assert count(rectified.bridge) == 1_048_576


def test_it_is_a_trunk_and_runs_in_parts(inputs: dict[str, Tensor]) -> None:
    model = make()
    assert isinstance(model, Trunk)
    assert as_trunk(model) is model
    tokens = model.embed(inputs)
    for block in range(3):
        assert tokens.values.shape[2] == width_at(model, block)
        tokens = model.run(tokens, block, block + 1)
    assert tokens.values.shape[2] == width_at(model, 3) == model.dim
    for name, values in model.decode(tokens).items():
        assert torch.equal(values, model(inputs)[name])


def test_proposals_are_what_the_decoder_takes_and_alone_change_nothing(
    inputs: dict[str, Tensor],
) -> None:
    plain, other = make(), make(tokens="proposals")
    assert [tuple(one.shape) for one in plain.state_dict().values()] == [
        tuple(one.shape) for one in other.state_dict().values()
    ]
    for name, values in plain(inputs).items():
        assert torch.equal(values, other(inputs)[name])
    expected, found = (model.run(model.embed(inputs), 0, 3) for model in (plain, other))
    count = inputs["no_agent"].shape[1]
    assert found.values.shape[1:] == (count * MODES, other.dim) == (count * MODES, 2 * DIM)
    for scene, agent, mode in itertools.product(range(4), range(count), range(MODES)):
        parts = expected.values[scene, agent], expected.context.proposals[scene, agent, mode]
        place = agent * MODES + mode
        assert torch.equal(found.values[scene, place], torch.cat(parts))
        assert found.padding[scene, place] == inputs["no_agent"][scene, agent]
    layer = torch.nn.Identity()
    layer.hidden = 4
    bridge = insert(other, layer, "end", generator=torch.Generator()).bridge
    assert (bridge.up.in_features, bridge.down.out_features) == (2 * DIM, 2 * DIM)


def test_moves_are_between_two_steps_that_were_seen(inputs: dict[str, Tensor]) -> None:
    found = moves_of(inputs["tracks"], inputs["seen"])
    for scene in range(4):
        for agent in range(int((~inputs["no_agent"][scene]).sum())):
            track, seen = inputs["tracks"][scene, agent], inputs["seen"][scene, agent]
            assert found[scene, agent].tolist() == [
                pytest.approx(one, abs=1e-5) for one in moves(track.tolist(), seen.tolist())
            ]
    assert found[0, 0, :, 3].tolist() == [float(step not in (10, 11)) for step in range(19)]


def moves(track: list, seen: list) -> list[list[float]]:
    made = []
    for step in range(1, len(track)):
        both = seen[step] and seen[step - 1]
        moved = [a - b if both else 0.0 for a, b in zip(track[step], track[step - 1], strict=True)]
        made.append([*moved, 0.1 * step - 0.05, float(both)])
    return made


def straight(values: Tensor, w: Weights, name: str) -> Tensor:
    return linear(values, w[f"{name}.weight"], w[f"{name}.bias"])


def normed(values: Tensor, w: Weights, name: str) -> Tensor:
    return layer_norm(values, values.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def fused(values: Tensor, w: Weights, name: str) -> Tensor:
    inner = normed(straight(values, w, f"{name}.0"), w, f"{name}.1").relu()
    return straight(inner, w, f"{name}.3")


def attended(tokens: Tensor, memory: Tensor, w: Weights, name: str) -> Tensor:
    """Token by token and head by head; nothing is padded."""
    size, found = DIM // HEADS, []
    for token in tokens:
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            query = straight(token, w, f"{name}.query")[part]
            keys = [straight(other, w, f"{name}.key")[part] for other in memory]
            values = [straight(other, w, f"{name}.value")[part] for other in memory]
            shares = torch.stack([query @ key / math.sqrt(size) for key in keys]).softmax(0)
            heads.append(sum(share * value for share, value in zip(shares, values, strict=True)))
        found.append(straight(torch.cat(heads), w, f"{name}.out"))
    return torch.stack(found)


def layers(tokens: Tensor, memory: Tensor | None, w: Weights, name: str) -> Tensor:
    for layer in (f"{name}.layers.{number}" for number in range(2)):
        own = normed(tokens, w, f"{layer}.own_norm")
        tokens = tokens + attended(own, own, w, f"{layer}.own")
        if memory is not None:
            asked = normed(tokens, w, f"{layer}.memory_norm")
            tokens = tokens + attended(asked, memory, w, f"{layer}.memory")
        inner = straight(normed(tokens, w, f"{layer}.norm"), w, f"{layer}.mlp.0").relu()
        tokens = tokens + straight(inner, w, f"{layer}.mlp.2")
    return normed(tokens, w, f"{name}.norm")


def wave(place: int) -> list[float]:
    rates = [10_000 ** (-(2 * number) / DIM) for number in range(DIM // 2)]
    return [f(place * rate) for rate in rates for f in (math.sin, math.cos)]


def lane_token(line: Tensor, flags: Tensor, w: Weights) -> Tensor:
    pieces = [torch.cat([line[n], line[n + 1], flags]) for n in range(len(line) - 1)]
    for layer in range(2):
        name = f"lanes.pieces.{layer}"
        pieces = [normed(straight(one, w, f"{name}.0"), w, f"{name}.1").relu() for one in pieces]
        top = torch.stack(pieces).max(0).values
        pieces = [torch.cat([one, top]) for one in pieces]
    return straight(torch.stack(pieces).max(0).values, w, "lanes.lane") * math.sqrt(DIM)


def written_out(w: Weights, scene: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return trajectories and scores of each agent of one scene without padding."""
    lines = [lane_token(*one, w) for one in zip(scene["lanes"], scene["flags"], strict=True)]
    map_memory = layers(torch.stack(lines), None, w, "lanes.encoder")
    proposals, tokens = [], []
    for track, seen in zip(scene["tracks"], scene["seen"], strict=True):
        steps = torch.tensor(moves(track.tolist(), seen.tolist()))
        steps = straight(steps, w, "motion.move") * math.sqrt(DIM)
        steps = steps + torch.tensor([wave(place) for place in range(len(steps))])
        memory = layers(steps, None, w, "motion.encoder")
        found = layers(w["motion.queries.weight"], memory, w, "motion.decoder")
        where = fused(track[-1], w, "motion.where")
        found = torch.stack([fused(torch.cat([where, one]), w, "motion.joint") for one in found])
        found = layers(found, map_memory, w, "lanes.decoder")
        together = fused(torch.cat(list(found)), w, "lanes.together")
        tokens.append(fused(torch.cat([where, together]), w, "lanes.joint"))
        proposals.append(found)
    social = layers(torch.stack(tokens), None, w, "social.encoder")
    made = []
    for token, own, track in zip(social, proposals, scene["tracks"], strict=True):
        ways, scores = [], []
        for proposal in own:
            both = torch.cat([token, proposal])
            inner = normed(straight(both, w, "decoder.steps.0"), w, "decoder.steps.1").relu()
            steps = straight(straight(inner, w, "decoder.steps.3"), w, "decoder.steps.4")
            place, way = track[-1], []
            for step in steps.view(30, 2):
                place = place + step
                way.append(place)
            ways.append(torch.stack(way))
            inner = straight(both, w, "decoder.score.0").relu()
            for number in (2, 3, 4):
                inner = straight(inner, w, f"decoder.score.{number}")
            scores.append(inner[0])
        made.append((torch.stack(ways), torch.stack(scores)))
    return made


def test_it_equals_a_forward_pass_that_is_written_out(inputs: dict[str, Tensor]) -> None:
    model = make()
    weights = {name: one.detach() for name, one in model.named_parameters()}
    outputs = model(inputs)
    for scene in (0, 2):
        agents, around = ~inputs["no_agent"][scene], ~inputs["no_lane"][scene]
        alone = {name: inputs[name][scene][agents] for name in ("tracks", "seen")}
        alone |= {name: inputs[name][scene][around] for name in ("lanes", "flags")}
        for agent, (ways, scores) in enumerate(written_out(weights, alone)):
            for name, expected in (("trajectories", ways), ("scores", scores)):
                found = outputs[name][scene, agent]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_a_scene_without_lanes_is_forecast(inputs: dict[str, Tensor]) -> None:
    """And whatever lies in the padding."""
    none = {**inputs, "no_lane": torch.ones_like(inputs["no_lane"])}
    junk = {**none, "lanes": none["lanes"] + 5}
    model = make()
    for name, values in model(none).items():
        assert torch.isfinite(values).all()
        assert torch.equal(values[:, 0], model(junk)[name][:, 0])


def test_places_are_in_the_unit_and_moves_in_metres(inputs: dict[str, Tensor]) -> None:
    """In tens of metres, agents that move as before at places ten times as far are the same."""
    small, large = (MmTransformer.of({**SIZES, "unit": unit}) for unit in (1.0, 10.0))
    large.load_state_dict(small.state_dict())
    centres = inputs["tracks"][:, :, -1:]
    further = {"tracks": inputs["tracks"] + 9 * centres, "lanes": 10 * inputs["lanes"]}
    one, other = small(inputs), large({**inputs, **further})
    ways = one["trajectories"] + 9 * centres[:, :, None]
    torch.testing.assert_close(ways, other["trajectories"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-3, atol=1e-3)


def test_a_second_head_is_another_draw_of_the_same_weights() -> None:
    model = make()
    other = model.second_head(torch.Generator().manual_seed(1))
    for name, own in model.decoder.named_parameters():
        matrix = other.get_parameter(name)
        assert torch.equal(matrix.flatten().sort().values, own.flatten().sort().values)
        assert torch.equal(matrix, own) == (own.ndim == 1)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"dim": 10}, "dim must be a multiple of twice the heads"),
        ({"width": 10}, "width"),
        ({"layers": 0}, "layers"),
    ],
)
def test_sizes_that_cannot_be_right_are_refused(sizes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        MmTransformer.of(sizes)
    assert "\n" not in f"{told.value}"
