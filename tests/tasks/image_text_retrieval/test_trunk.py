"""METER on pairs: the same as each pair by itself, however often its parts are encoded."""

import pytest
import torch
from torch import Tensor

from rectify.data.texts import PADDING
from rectify.gsnr import gradient_moments
from rectify.language.block import Block
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator
from rectify.tasks.image_text_retrieval.trunk import PairMeter
from rectify.trunks.trunk import Trunk
from tests.helpers import question_trees
from tests.helpers.moments import assert_close

SIZES = {**question_trees.SIZES, "patch_size": 14, "dropout": 0.0}


@pytest.fixture(params=["image", "text", "both", "joint"])
def trunk(request: pytest.FixtureRequest) -> PairMeter:
    return made(request.param)


def made(stream: str = "image") -> PairMeter:
    torch.manual_seed(0)
    rest = {"answers": 1, "words": 20, "image_size": 28}
    return PairMeter.of({**SIZES, "stream": stream}, **rest).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 28, 28, generator=generator(0, "images"))


def texts(count: int) -> Tensor:
    words = torch.randint(2, 20, (count, 6), generator=generator(0, "texts"))
    words[0, 4:] = words[1, 2:] = PADDING
    return words


def one_by_one(trunk: PairMeter, pictures: Tensor, words: Tensor) -> Tensor:
    """Return the outputs of each image with each text: a batch of one pair, encoded for it."""
    alone = [
        [trunk({"images": one[None], "words": text[text != PADDING][None, None]}) for text in words]
        for one in pictures
    ]
    return torch.stack([torch.cat(row, 1)[0] for row in alone])  # (images, texts)


def test_it_is_a_trunk(trunk: PairMeter) -> None:
    assert isinstance(trunk, Trunk)
    assert trunk.whole == tuple(trunk.blocks) == ("0", "1")


def test_an_image_that_is_encoded_once_gives_what_one_gives_that_is_encoded_for_each_text(
    trunk: PairMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, words = images(2), texts(32).unflatten(0, (2, 16))
    encoded = []
    seen = trunk.seen
    monkeypatch.setattr(trunk, "seen", lambda given: (encoded.append(len(given)), seen(given))[1])
    once = trunk({"images": pictures, "words": words})
    assert encoded == [2]
    many = trunk({"images": pictures.repeat_interleave(16, 0), "words": words.reshape(32, 1, 6)})
    assert encoded == [2, 32]
    assert once.shape == (2, 16)
    torch.testing.assert_close(once, many.reshape(2, 16), rtol=1e-5, atol=1e-6)
    alone = [one_by_one(trunk, pictures[n : n + 1], words[n])[0] for n in range(2)]
    torch.testing.assert_close(once, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_an_image_that_is_encoded_for_each_text() -> None:
    trunk, pictures, words = made(), images(2), texts(8).unflatten(0, (2, 4))
    once = trunk({"images": pictures, "words": words}).square().sum()
    many = trunk({"images": pictures.repeat_interleave(4, 0), "words": words.reshape(8, 1, 6)})
    weights = [one for one in trunk.parameters() if one.requires_grad]
    both = (torch.autograd.grad(loss, weights) for loss in (once, many.square().sum()))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_what_all_share_gives_every_pair_and_is_encoded_once(
    trunk: PairMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, words = images(3), texts(5)
    expected = one_by_one(trunk, pictures, words)
    counts = {"seen": 0, "heard": 0}
    for name in counts:

        def counted(given: Tensor, name: str = name, encode: object = getattr(trunk, name)):
            counts[name] += len(given)
            return encode(given)

        monkeypatch.setattr(trunk, name, counted)
    with torch.inference_mode():
        found = torch.cat([trunk({"gallery": pictures, "words": one}) for one in words.split(2)])
        assert counts == {"seen": 3, "heard": 5}
        torch.testing.assert_close(found, expected.transpose(0, 1), rtol=1e-4, atol=1e-5)
        found = torch.cat([trunk({"images": one, "texts": words}) for one in pictures.split(2)])
        assert counts == {"seen": 6, "heard": 10}
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_was_shared_is_forgotten_when_weights_or_the_mode_change() -> None:
    trunk, inputs = made(), {"gallery": images(2), "words": texts(3)}
    with torch.no_grad():
        before = trunk(inputs)
        trunk.image_transform.weight.mul_(2)
        after = trunk(inputs)
        assert not torch.allclose(before, after)
        fresh = {"gallery": images(2), "words": texts(3)}
        assert torch.equal(after, trunk(fresh))
        assert len(trunk._shared) == 2
    assert trunk(inputs).requires_grad  # with gradients nothing is taken from there
    assert not trunk.train()._shared
    assert "_shared" not in trunk.state_dict()


def test_the_moments_of_its_blocks_are_those_of_single_samples(trunk: PairMeter) -> None:
    inputs = {"images": images(4), "words": texts(12).unflatten(0, (4, 3))}

    def losses(outputs: Tensor, _targets: object) -> Tensor:
        return outputs.square().sum(1)

    found = gradient_moments(trunk, inputs, None, losses, trunk.blocks, whole=trunk.whole)
    named = {
        f"{block}.{name}": weight
        for block, module in trunk.blocks.items()
        for name, weight in module.named_parameters()
    }
    rows = []
    for n in range(4):
        alone = {name: one[n : n + 1] for name, one in inputs.items()}
        loss = losses(trunk(alone), None).sum()
        rows.append(torch.autograd.grad(loss, list(named.values())))
    stacks = {
        name: torch.stack(own) for name, own in zip(named, zip(*rows, strict=True), strict=True)
    }
    oracle = {name: (own.mean(0), own.var(0, correction=0)) for name, own in stacks.items()}
    assert_close(found, oracle, 1e-4)


def test_a_frozen_layer_sees_each_pair_alone(trunk: PairMeter, block: Block) -> None:
    inputs = {"images": images(2), "words": texts(6).unflatten(0, (2, 3))}
    model = insert(trunk, block, "end", generator=generator(0)).eval()
    together = model(inputs)
    for n in range(2):
        for text in range(3):
            pair = {
                "images": inputs["images"][n : n + 1],
                "words": inputs["words"][n : n + 1, text : text + 1],
            }
            torch.testing.assert_close(model(pair)[0, 0], together[n, text], rtol=1e-4, atol=1e-5)
    second = auxiliary(made(trunk.stream), block, generator=generator(0)).train()
    assert [one.shape for one in second(inputs)] == 2 * [(2, 3)]
    head = auxiliary(made(trunk.stream), None, control="head", generator=generator(0)).train()
    assert [one.shape for one in head(inputs)] == 2 * [(2, 3)]


def test_the_published_model_has_as_many_parameters_as_its_parts() -> None:
    with torch.device("meta"):
        trunk = PairMeter.of({}, answers=1)
    assert sum(one.numel() for one in trunk.parameters()) == 320_209_921
