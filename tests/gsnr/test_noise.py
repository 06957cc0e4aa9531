"""The noise of every step, against a loop over samples, the moments, and the rows themselves."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr import GradientMoments, GsnrObserver, NoiseObserver, kernels
from rectify.gsnr.links import Links
from rectify.results.declared import NOISE, NOISE_QUANTITIES
from rectify.results.tables import read_table, write_table
from tests.helpers.moments import SAMPLES, gradients, per_sample, vit
from tests.helpers.moments import batch as drawn
from tests.helpers.waits import Waits

PARTNERS = torch.tensor([[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]])


def by_name(model: nn.Module) -> dict[str, nn.Module]:
    return {f"blocks.{number}": block for number, block in enumerate(model.blocks)}


def noise_of(model: nn.Module, samples: int = SAMPLES, steps: int = 1) -> NoiseObserver:
    return NoiseObserver(by_name(model), samples, steps)


def take_step(
    observer: NoiseObserver,
    model: nn.Module,
    step: int,
    batches: list[tuple[Tensor, Tensor]],
    origins: Tensor | None = None,
) -> None:
    """Watch the slices of a step, and leave no gradients behind."""
    for images, labels in batches:
        with observer.watch(1 / len(batches), origins):
            (cross_entropy(model(images), labels) / len(batches)).backward()
    observer.record(0, step)
    model.zero_grad()


def values_of(observer: NoiseObserver) -> dict[tuple[int, int], dict[str, float]]:
    """Return the quantities by first step and block."""
    values: dict[tuple[int, int], dict[str, float]] = {}
    for row in observer.rows():
        values.setdefault((row.step, row.block), {})[row.quantity] = row.value
    return values


def looped(model: nn.Module, slices: list[tuple[Tensor, Tensor]], block: int) -> list[Tensor]:
    """The slow oracle: each sample's gradient of a block, by slice."""
    flat = []
    for images, labels in slices:
        stacks = gradients(model, images, labels, per_sample, part=f"blocks.{block}.")
        flat.append(torch.cat([stack.flatten(1) for stack in stacks.values()], 1))
    return flat


def two_batches() -> list[tuple[Tensor, Tensor]]:
    images, labels = drawn(samples=2 * SAMPLES)
    return list(zip(images.split(SAMPLES), labels.split(SAMPLES), strict=True))


def test_a_row_is_the_mean_of_its_steps_before_any_ratio() -> None:
    model, batches = vit(), two_batches()
    observer = noise_of(model, steps=2)
    for step in range(3):
        take_step(observer, model, step, batches[step % 2 :][:1], PARTNERS)
    values = values_of(observer)
    assert list(values) == [(0, 0), (0, 1), (2, 0), (2, 1)]
    for block in range(2):
        sums = []
        for part in looped(model, batches, block):
            products = part @ part.T
            unlinked = ~((PARTNERS[:, None, :, None] == PARTNERS[None, :, None]).any(-1).any(-1))
            sums.append([products.diagonal().mean(), products.mean(), products[unlinked].mean()])
        square, mean, agreement = torch.tensor(sums).mean(0).tolist()
        assert values[0, block] == pytest.approx(
            {
                "square": square,
                "square_error": 0,
                "mean": mean,
                "agreement": agreement,
                "debiased": agreement / (square - agreement),
                "coherence": SAMPLES * mean / square,
                "cosine": math.sqrt(mean / square),
            },
            rel=1e-6,
        )
        assert values[2, block]["square"] == pytest.approx(float(sums[0][0]), rel=1e-9)
    assert list(values[0, 0]) == [key for key in NOISE_QUANTITIES if key in values[0, 0]]


def test_slices_are_measured_as_the_batch_that_they_are_parts_of() -> None:
    model, batches = vit(), two_batches()
    observer = noise_of(model)
    take_step(observer, model, 0, batches)
    whole = noise_of(model, 2 * SAMPLES)
    take_step(whole, model, 0, [tuple(torch.cat(part) for part in zip(*batches, strict=True))])
    for place, values in values_of(observer).items():
        assert values == pytest.approx(values_of(whole)[place], rel=1e-6)


def test_some_samples_stand_for_all_with_their_standard_error() -> None:
    model, batches, measured = vit(), two_batches(), 3
    observer = noise_of(model, measured)
    take_step(observer, model, 0, batches)
    for block in range(2):
        norms = [part[:measured].square().sum(1) for part in looped(model, batches, block)]
        values = values_of(observer)[0, block]
        assert values["square"] == pytest.approx(float(torch.cat(norms).mean()), rel=1e-9)
        left = 1 - measured / SAMPLES
        variance = sum(float(part.var()) / measured * left for part in norms) / len(norms) ** 2
        assert values["square_error"] == pytest.approx(math.sqrt(variance), rel=1e-9)
    exact = noise_of(model)
    take_step(exact, model, 0, batches)
    mean = values_of(exact)[0, 0]["mean"]
    assert values_of(observer)[0, 0]["mean"] == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("mode", ["observe", "replace"])
def test_a_step_measured_by_its_moments_gives_the_same(mode: str) -> None:
    model, slices = vit(), two_batches()
    watched, taken = noise_of(model), noise_of(model)
    take_step(watched, model, 0, slices, PARTNERS)
    observer = GsnrObserver(by_name(model), 1, mode=mode, noise=taken)
    for images, labels in slices:
        with observer.watch(0.5, PARTNERS):
            (cross_entropy(model(images), labels) / 2).backward()
    taken.record(0, 0)
    for place, values in values_of(watched).items():
        assert values_of(taken)[place] == pytest.approx(values, rel=1e-6)


def test_a_pass_apart_from_training_is_not_taken() -> None:
    model, noise = vit(), noise_of(vit())
    observer = GsnrObserver(by_name(model), 1, model="eval", noise=noise)
    images, labels = drawn()
    with observer.watch():
        cross_entropy(model(images), labels).backward()
    with pytest.raises(ValueError, match="must have a watched pass before it is recorded"):
        noise.record(0, 0)


def test_the_gradients_that_train_stay_as_they_were_bit_by_bit() -> None:
    model, (images, labels) = vit(torch.float32), drawn(torch.float32)
    plain = copy.deepcopy(model)
    cross_entropy(plain(images), labels).backward()
    observer = noise_of(model, 2)
    for step in range(2):  # the first pass is looked at
        model.zero_grad()
        with observer.watch():
            cross_entropy(model(images), labels).backward()
        observer.record(0, step)
    for own, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, expected.grad)


def test_ratios_are_left_out_where_there_is_no_gradient(tmp_path: Path) -> None:
    model, batches = vit(), two_batches()
    nn.init.zeros_(model.head.weight)
    observer = noise_of(model)
    take_step(observer, model, 0, batches)
    nothing = {"square": 0, "square_error": 0, "mean": 0, "agreement": 0}
    assert values_of(observer) == {(0, 0): nothing, (0, 1): nothing}
    write_table(NOISE, observer.rows(), tmp_path / "noise.csv", {})
    assert len(read_table(NOISE, tmp_path / "noise.csv")) == 8


def test_it_resumes_within_a_row_and_refuses_another_state() -> None:
    model, batches = vit(), two_batches()
    whole, first, second = (noise_of(model, 2, steps=2) for _ in range(3))
    for step in range(3):
        take_step(whole, model, step, batches[:1])
    take_step(first, model, 0, batches[:1])
    second.load_state_dict(first.state_dict())
    for step in (1, 2):
        take_step(second, model, step, batches[:1])
    assert second.rows() == whole.rows()
    with pytest.raises(ValueError, match=r"the state must have .*'samples': 3.* got .*2.* Train"):
        noise_of(model, 3, steps=2).load_state_dict(first.state_dict())


@pytest.mark.parametrize("origins", [None, PARTNERS])
def test_steps_after_the_first_wait_for_the_device_once_in_an_epoch(
    monkeypatch: pytest.MonkeyPatch, origins: Tensor | None
) -> None:
    monkeypatch.setattr(kernels, "_without_idle_tokens", lambda *both: both)  # CPUs only
    model, batches = vit(), two_batches()
    observer, waits = noise_of(model, 3, steps=2), Waits()
    take_step(observer, model, 0, batches, origins)  # is looked at
    moments = GradientMoments(by_name(model), links=None if origins is None else Links(origins))
    with moments:
        cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    measured = moments.moments()
    with waits:
        for step in (1, 2):
            take_step(observer, model, step, batches, origins)
        observer.take(measured)
    assert waits.calls == ([] if origins is None else 4 * ["tolist"])  # of origins, on the CPU
    with waits:
        observer.state_dict()
    assert waits.calls.count("cpu") == 1


def test_what_was_read_on_the_way_is_what_is_read_at_the_end() -> None:
    model, batches = vit(), two_batches()
    often, once = noise_of(model, 3, steps=2), noise_of(model, 3, steps=2)
    for epoch in range(3):
        for step in range(3):
            for observer in (often, once):
                with observer.watch():
                    cross_entropy(model(batches[step % 2][0]), batches[step % 2][1]).backward()
                observer.record(epoch, step)
                model.zero_grad()
            often.state_dict()
    assert often.rows() == once.rows()
    places = [(row.epoch, row.step, row.block) for row in once.rows() if row.quantity == "mean"]
    assert places == [(e, s, b) for e in range(3) for s in (0, 2) for b in range(2)]


@pytest.mark.parametrize(("steps", "named"), [(1, "step 2"), (2, "steps 2 to 3")])
def test_gradients_that_are_not_finite_are_one_line_when_they_are_read(
    steps: int, named: str
) -> None:
    model, batches = vit(), two_batches()
    observer = noise_of(model, steps=steps)
    for step, scale in enumerate((1, 1, math.inf)):
        with observer.watch():
            (scale * cross_entropy(model(batches[0][0]), batches[0][1])).backward()
        observer.record(4, step)
    said = rf"^gsnr: epoch 4, {named}, block blocks\.0: gradients must be finite, .* training.lr\.$"
    with pytest.raises(ValueError, match=said):
        observer.state_dict()
    with pytest.raises(ValueError, match=said):
        observer.rows()


def test_a_block_without_anything_to_train_is_refused() -> None:
    model = vit()
    model.blocks[1].requires_grad_(False)
    with pytest.raises(ValueError, match=r"block blocks\.1 must have trainable parameters"):
        noise_of(model)
