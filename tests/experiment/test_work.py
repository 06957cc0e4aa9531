"""What a training computes and stores: against one that is built, trained for a step and saved."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from rectify.cost import counts, of_images
from rectify.experiment import work
from rectify.experiment.speeds import Rates, load
from rectify.experiment.work import Flops, Subject, alone, count, known
from rectify.rectified import build, trainable_state
from rectify.training.models import save_model

SIZES = {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 8}
VIT = "vit_tiny_patch16_224"
PIXELS = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}")


def what(block_file: Path, variant: str, control: str) -> Subject:
    plain = alone(VIT, SIZES, PIXELS)
    if variant == "vanilla":
        return plain
    language = f"{block_file.parent / 'tiny'}"
    place = {"variant": variant, "control": control, "insert_at": 2}
    return plain._replace(language=language, **place)


@pytest.mark.parametrize(
    ("variant", "control"),
    [
        ("vanilla", "frozen"),
        ("insert", "frozen"),
        ("insert", "random"),
        ("insert", "tuned"),
        ("residual", "adapter"),
        ("auxiliary", "frozen"),
        ("auxiliary", "head"),
    ],
)
def test_bytes_are_those_of_a_training(
    variant: str, control: str, block_file: Path, tmp_path: Path
) -> None:
    found = count(what(block_file, variant, control))
    trunk = timm.create_model(VIT, img_size=PIXELS, num_classes=1000, **SIZES)
    block = None if variant == "vanilla" else block_file
    position = 2 if variant != "vanilla" else None
    model = build(trunk, variant, control, block=block, position=position, seed=0)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    outputs = model.train()(torch.rand(1, 3, PIXELS, PIXELS))
    sum(one.sum() for one in (outputs if isinstance(outputs, tuple) else [outputs])).backward()
    optimizer.step()
    save_model(model, {}, tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors").values()
    assert found.model_bytes == sum(tensor.nbytes for tensor in tensors)
    assert found.model_bytes == pytest.approx(
        (tmp_path / "model.safetensors").stat().st_size, rel=0.05
    )
    assert found.state_bytes == sum(one.nbytes for one in trainable_state(model).values())
    moments = [
        value for one in optimizer.state.values() for key, value in one.items() if "exp" in key
    ]
    assert found.optimizer_bytes == sum(value.nbytes for value in moments)
    assert found.layer_bytes == (0 if block is None else 2 * sum(
        tensor.numel() for name, tensor in load_file(block_file).items() if "final_norm" not in name
    ))  # fmt: skip
    assert (found.blocks, found.width) == (2, 16)


@pytest.mark.parametrize("variant", ["vanilla", "insert", "auxiliary"])
def test_flops_are_those_of_cost(variant: str, block_file: Path) -> None:
    language = f"{block_file.parent / 'tiny'}"
    design = of_images(VIT, language, image_size=PIXELS, overrides=SIZES)
    slow, plain = counts(design, variant), counts(design, "vanilla")
    assert count(what(block_file, variant, "frozen")).flops == Flops(
        slow.training_flops,
        plain.training_flops,
        slow.flops_matmuls_with_attention,
        plain.flops_matmuls_with_attention,
    )


@pytest.mark.slow
def test_a_layer_that_learns_costs_more_and_two_layers_twice_as_much(block_file: Path) -> None:
    frozen = what(block_file, "insert", "frozen")
    once, twice = count(frozen), count(frozen._replace(layers=2))
    learns = count(frozen._replace(control="scratch"))
    assert learns.flops.test == once.flops.test
    assert learns.flops.training > once.flops.training
    adapters = count(frozen._replace(control="adapter"))
    layer = once.flops.training - adapters.flops.training
    assert twice.flops.training - once.flops.training == layer
    assert twice.layer_bytes == 2 * once.layer_bytes


def test_what_was_counted_is_known_without_counting(
    block_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = what(block_file, "insert", "frozen")
    assert known(one) is None
    found = count(one)
    monkeypatch.setattr(work, "_count", lambda what: pytest.fail("it was counted again"))
    assert count(one) == known(one) == found
    assert known(one._replace(control="random")) is None


def test_a_language_model_that_is_not_known_yet_is_an_error_of_one_line(block_file: Path) -> None:
    one = what(block_file, "insert", "frozen")._replace(language="nowhere")
    with pytest.raises(ValueError, match="a known model, the folder of a checkpoint") as error:
        count(one)
    assert "\n" not in f"{error.value}"


def test_every_timed_step_has_the_time_that_was_seen() -> None:
    def small(what: Subject) -> work.Work:
        """Return FLOPs as if each pixel cost one, and a layer as much as six trunks."""
        trunk = what.entry["image_size"] ** 2
        total = 7 * trunk if what.language else trunk
        return work.Work(Flops(total, trunk, total, trunk), 0, 0, 0, 0, 0, 0)

    speeds = load(None)
    rates = Rates(speeds, "H100", small)
    for step, flops in rates.steps:
        found = rates.scaled(flops, step.compile)
        assert found.basis == "measured"
        assert found.item.training == pytest.approx(1 / step.items_per_second, rel=0.01)
    plain, layered = (Flops(n * 224**2, 224**2, 0, 0) for n in (1, 4))  # half of the layer
    half = 1 / 5170 + (1 / 1654 - 1 / 5170) / 2
    assert rates.scaled(layered, False).item.training == pytest.approx(half)
    assert rates.scaled(layered, False).basis == "scaled"
    other = Rates(speeds, "A40", small).scaled(plain, False)
    assert other.basis == "stated"
    assert other.item.training == pytest.approx(989 / 149.7 / 5170)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("cards: {mine: {title: M, source: S}}", "cards.mine must be complete, got no peak"),
        ("measured_on: A40", "measured_on must be a card with sustained, got A40"),
        ("steps: []", "steps must have one of a trunk alone"),
        ("items_per_second: {a: 0}", "greater than 0"),
        ("speed: {}", "speed"),
        ("- 1", "must hold keys and values"),
    ],
)
def test_a_mistake_in_a_file_of_speeds_is_one_line(text: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=error) as raised:
        load(file)
    assert "\n" not in f"{raised.value}"


def test_a_card_of_one_s_own_lies_over_ours_and_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("cards: {mine: {title: M, peak: 500, sustained: 383, source: measured}}")
    speeds = load(file)
    assert Rates(speeds, "mine", lambda what: count_of(7)).slower == pytest.approx(2)
    with pytest.raises(ValueError, match="plan: --card: must be") as raised:
        Rates(speeds, "H10", lambda what: count_of(7))
    assert "\n" not in f"{raised.value}"


def count_of(flops: int) -> work.Work:
    return work.Work(Flops(flops, flops, flops, flops), 0, 0, 0, 0, 0, 0)
