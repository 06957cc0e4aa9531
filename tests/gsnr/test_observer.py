"""The observer of a training: against single batches, and across an interruption."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr import statistics
from rectify.gsnr.estimators import ESTIMATORS, gsnr, totals
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.observer import GsnrObserver, GsnrRow
from rectify.results.declared import GSNR
from rectify.results.tables import read_table, write_table
from tests.helpers.moments import (
    BOTH_MODES,
    SAMPLES,
    batch,
    loop,
    per_sample,
    run_two_processes,
    vit,
)

QKV = "attn.qkv.bias"


def as_json(state: dict) -> dict:
    return json.loads(json.dumps(state))


def as_torch(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def observed(observer: GsnrObserver, model: nn.Module, epoch: int, shift: int) -> None:
    images, labels = batch()
    with observer.watch():
        cross_entropy(model(images.roll(shift, -1)), labels).backward()
    observer.record(epoch, len(images))


def test_the_observer_averages_over_its_batches() -> None:
    model, (images, labels) = vit(), batch()
    observer = GsnrObserver(model.blocks, batches=2, xi=1e-6)
    observed(observer, model, epoch=3, shift=0)
    observed(observer, model, epoch=3, shift=1)
    rows = observer.rows(3)
    assert [row[:3] for row in rows] == [(3, b, e) for b in (0, 1) for e in ESTIMATORS]
    for row in rows:
        part = [f"blocks.{row.block}"]
        views = [images.roll(shift, -1) for shift in (0, 1)]
        batches = [gradient_moments(model, view, labels, per_sample, part) for view in views]
        expected = sum(float(gsnr(moments, row.estimator, 1e-6)) for moments in batches) / 2
        sums = [totals(moments, 1e-6, "test") for moments in batches]
        product = sum(of_batch.agreement for of_batch in sums)
        if row.estimator == "debiased":  # summed before it divides
            squares = sum(of_batch.signal + of_batch.noise for of_batch in sums)
            expected = product / (squares - product)
        assert row.gsnr == pytest.approx(expected, rel=1e-9)
        assert row.agreement == pytest.approx(product / 2, rel=1e-9)
        entries = sum(parameter.numel() for parameter in model.blocks[row.block].parameters())
        assert (row.parameters, row.dropped) == (entries - 16, 0)  # less the key bias


def test_signal_and_noise_are_means_over_the_batches_of_a_loop_over_samples() -> None:
    model, (images, labels) = vit(), batch()
    observer = GsnrObserver(model.blocks, batches=2)
    for shift in (0, 1):
        observed(observer, model, epoch=0, shift=shift)
    for row in observer.rows(0):
        signals, noises = [], []
        for shift in (0, 1):
            part = f"blocks.{row.block}"
            moments = loop(model, images.roll(shift, -1), labels, per_sample, part=part)
            both = (values.chunk(3) for values in moments.pop(f"{part}.{QKV}"))
            query, _, value = zip(*both, strict=True)
            sums = [(m.square().sum(), v.sum()) for m, v in [*moments.values(), query, value]]
            signals.append(sum(signal for signal, _ in sums).item())
            noises.append(sum(noise for _, noise in sums).item())
        assert row.signal == pytest.approx(math.fsum(signals) / 2, rel=1e-9)
        assert row.noise == pytest.approx(math.fsum(noises) / 2, rel=1e-9)


def test_the_debiased_estimate_of_a_batch_follows_from_its_signal_and_noise() -> None:
    model = vit()
    observer = GsnrObserver(model.blocks, batches=1)
    observed(observer, model, epoch=0, shift=0)
    for row in observer.rows(0):
        if row.estimator == "debiased":
            sample_variance = row.noise * SAMPLES / (SAMPLES - 1)
            assert row.gsnr == pytest.approx(row.signal / sample_variance - 1 / SAMPLES, rel=1e-12)


def test_the_rows_fill_the_declared_table(tmp_path: Path) -> None:
    assert list(GsnrRow._fields) == GSNR.names
    model = vit()
    observer = GsnrObserver(model.blocks, batches=1)
    observed(observer, model, epoch=0, shift=0)
    write_table(GSNR, observer.rows(0), tmp_path / "gsnr.csv", {})
    table = read_table(GSNR, tmp_path / "gsnr.csv").set_index(["block", "estimator"])
    for row in observer.rows(0):
        for name in ("gsnr", "signal", "noise"):
            read = table.loc[(row.block, row.estimator), name]
            assert read == pytest.approx(getattr(row, name), rel=1e-8)


@pytest.mark.parametrize("container", [dict, nn.ModuleDict])
def test_blocks_may_have_names_and_are_numbered_in_their_order(container: Callable) -> None:
    model = vit()
    plain = GsnrObserver(model.blocks, batches=1)
    observed(plain, model, epoch=0, shift=0)
    named = GsnrObserver(container({"second": model.blocks[1], "first": model.blocks[0]}), 1)
    observed(named, model, epoch=0, shift=0)
    expected = [row._replace(block=1 - row.block) for row in plain.rows(0)]
    assert sorted(named.rows(0)) == sorted(expected)
    with named.watch():
        loss = cross_entropy(model(batch()[0]), batch()[1])
        loss.backward(torch.tensor(torch.nan, dtype=loss.dtype))
    named.record(1, SAMPLES)  # does not wait for it
    with pytest.raises(ValueError, match="gsnr: epoch 1, block second: gradients must be finite"):
        named.rows(1)


def test_a_block_that_cannot_be_measured_is_refused_at_once_and_by_name() -> None:
    blocks = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(ValueError, match=r"block 1 must have trainable .* got none in ReLU\."):
        GsnrObserver(blocks, batches=1)
    table = nn.Embedding(3, 2, sparse=True)
    with pytest.raises(ValueError, match=r"table must be .* got Embedding with weight"):
        GsnrObserver({"line": blocks[0], "table": table}, batches=1)
    with pytest.raises(ValueError, match=r"block table must keep .* skipped or excluded"):
        GsnrObserver({"line": blocks[0], "table": table}, batches=1, unsupported="skip")
    with pytest.raises(ValueError, match=r"block 1 must keep .* skipped or excluded"):
        GsnrObserver([nn.Linear(2, 2), nn.Linear(2, 2)], batches=1, exclude=["1"])
    with pytest.raises(ValueError, match="mode must be one of observe, replace, got 'both'"):
        GsnrObserver(blocks[:1], batches=1, mode="both")


def test_what_is_frozen_during_training_is_measured_no_more() -> None:
    model = vit()
    observer = GsnrObserver(model.blocks, batches=1)
    observed(observer, model, epoch=0, shift=0)
    model.blocks[1].mlp.requires_grad_(False)
    observed(observer, model, epoch=1, shift=0)
    frozen = sum(parameter.numel() for parameter in model.blocks[1].mlp.parameters())
    before, after = (observer.rows(epoch)[-1].parameters for epoch in (0, 1))
    assert before - after == frozen


@pytest.mark.parametrize("stored", [as_json, as_torch])
def test_the_observer_resumes_from_its_state(stored: Callable) -> None:
    model = vit()
    through, first = GsnrObserver(model.blocks, 2), GsnrObserver(model.blocks, 2)
    for observer in (through, first):
        observed(observer, model, epoch=0, shift=0)
    second = GsnrObserver(model.blocks, 2)
    second.load_state_dict(stored(first.state_dict()))
    for observer in (through, second):
        observed(observer, model, epoch=0, shift=1)
    assert second.rows(0) == through.rows(0)
    with pytest.raises(ValueError, match=r"epoch 0 must have 2 measured batches, got 1\."):
        first.rows(0)
    with pytest.raises(ValueError, match=r"the state must have .*'batches': 3"):
        GsnrObserver(model.blocks, 3).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match=r"the state must have .*'blocks': \['last'\]"):
        GsnrObserver({"last": model.blocks[1]}, 2).load_state_dict(first.state_dict())


def test_loading_a_state_forgets_what_was_recorded_before() -> None:
    model = vit()
    observer = GsnrObserver(model.blocks, 1)
    state = observer.state_dict()
    observed(observer, model, epoch=0, shift=0)
    observer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"epoch 0 must have 1 measured batches, got 0\."):
        observer.rows(0)


def test_measured_steps_are_spread_evenly() -> None:
    blocks = vit().blocks
    assert GsnrObserver(blocks, 1).measured_steps(9) == {4}
    assert GsnrObserver(blocks, 5).measured_steps(100) == {10, 30, 50, 70, 90}
    for steps in range(7, 40):
        measured = GsnrObserver(blocks, 7).measured_steps(steps)
        assert len(measured) == 7
        assert measured <= set(range(steps))
    with pytest.raises(ValueError, match=r"batches must lie in 1\.\.6, .* got 7"):
        GsnrObserver(blocks, 7).measured_steps(6)


def test_a_record_needs_its_own_watched_batch() -> None:
    model = vit()
    observer = GsnrObserver(model.blocks, 1)
    with pytest.raises(ValueError, match="watched batch of 6 samples, got none"):
        observer.record(0, SAMPLES)
    observed(observer, model, 0, 0)
    with pytest.raises(ValueError, match="got none"):
        observer.record(0, SAMPLES)
    with observer.watch():
        cross_entropy(model(batch()[0]), batch()[1]).backward()
    with pytest.raises(ValueError, match="watched batch of 7 samples, got 6"):
        observer.record(0, 7)


def test_the_observer_takes_a_batch_in_parts() -> None:
    model, (images, labels) = vit(), batch(samples=8)
    whole, parts = GsnrObserver(model.blocks, 1), GsnrObserver(model.blocks, 1)
    observed_part(whole, model, images, labels, 1.0)
    for items in (slice(0, 3), slice(3, 8)):
        observed_part(parts, model, images[items], labels[items], len(labels[items]) / 8)
    for observer in (whole, parts):
        observer.record(0, 8)
    for row, of_parts in zip(whole.rows(0), parts.rows(0), strict=True):
        assert row.gsnr == pytest.approx(of_parts.gsnr, rel=1e-9)
        assert row[6:] == pytest.approx(of_parts[6:], rel=1e-9)  # signal and noise
        assert (row[:3], row[4:6]) == (of_parts[:3], of_parts[4:6])


def observed_part(
    observer: GsnrObserver, model: nn.Module, images: Tensor, labels: Tensor, scale: float
) -> None:
    with observer.watch(scale):
        (scale * cross_entropy(model(images), labels)).backward()


@pytest.mark.parametrize("mode", ["observe", "replace"])
def test_both_modes_record_the_same(mode: str) -> None:
    model, (images, labels) = vit(), batch()
    observer = GsnrObserver(model.blocks, 1, mode=mode)
    observed(observer, model, epoch=0, shift=0)
    for row in observer.rows(0):
        moments = gradient_moments(model, images, labels, per_sample, [f"blocks.{row.block}"])
        assert row.gsnr == pytest.approx(float(gsnr(moments, row.estimator)), rel=1e-9)


def test_the_observer_measures_the_loss_that_it_is_asked_for() -> None:
    model, (images, labels) = vit(), batch()

    def losses() -> tuple[Tensor, Tensor]:
        outputs = model(images)
        return cross_entropy(outputs, labels), outputs.square().mean(1).mean()

    def alone(loss: str) -> float:
        criterion = {
            "main": per_sample,
            "auxiliary": lambda outputs, _: outputs.square().mean(1),
            "total": lambda outputs, targets: (
                per_sample(outputs, targets) + outputs.square().mean(1)
            ),
        }[loss]
        moments = gradient_moments(model, images, labels, criterion, ["blocks.1"])
        return float(gsnr(moments, "xi"))

    for loss in ("total", "main", "auxiliary"):
        observer = GsnrObserver(model.blocks, 1, loss=loss)
        with observer.watch():
            main, auxiliary = losses()
            observer.losses(main, auxiliary)
            (main + auxiliary).backward()
        observer.record(0, SAMPLES)
        (value,) = (row.gsnr for row in observer.rows(0) if row[1:3] == (1, "xi"))
        assert value == pytest.approx(alone(loss), rel=1e-9)
        with observer.watch():  # one path: its loss, whatever is asked for
            main, _ = losses()
            observer.losses(main, None)
            main.backward()
        observer.record(1, SAMPLES)
        (value,) = (row.gsnr for row in observer.rows(1) if row[1:3] == (1, "xi"))
        assert value == pytest.approx(alone("main"), rel=1e-9)


@pytest.mark.parametrize("loss", ["total", "main", "auxiliary"])
def test_each_loss_of_a_batch_in_parts_is_that_of_the_whole(loss: str) -> None:
    model, (images, labels) = vit(), batch(samples=8)

    def rows(parts: int) -> list[GsnrRow]:
        observer = GsnrObserver(model.blocks, 1, loss=loss)
        for images_, labels_ in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with observer.watch(1 / parts):
                outputs = model(images_)
                main, auxiliary = cross_entropy(outputs, labels_), outputs.square().mean()
                observer.losses(main, auxiliary)
                ((main + auxiliary) / parts).backward()
        observer.record(0, 8)
        return observer.rows(0)

    for row, of_parts in zip(rows(1), rows(4), strict=True):
        assert row[:3] == of_parts[:3]
        assert row.gsnr == pytest.approx(of_parts.gsnr, rel=1e-9)


def test_losses_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss must be one of total, main, auxiliary.*got 'aux'"):
        GsnrObserver(vit().blocks, 1, loss="aux")


# --- what is measured ---


def rows_of(observer: GsnrObserver, model: nn.Module, parts: int = 1) -> dict:
    """Measure one batch in so many slices; return the values by block and estimator."""
    images, labels = batch()
    for own, targets in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        with observer.watch(1 / parts):
            (cross_entropy(model(own), targets) / parts).backward()
    observer.record(0, len(images))
    return {(row.block, row.estimator): row for row in observer.rows(0)}


def test_slices_that_are_groups_are_averaged() -> None:
    model, (images, labels) = vit(), batch()
    found = rows_of(GsnrObserver(model.blocks, 1, group="slice"), model, parts=2)
    for (block, estimator), row in found.items():
        part = [f"blocks.{block}"]
        sums = [
            totals(gradient_moments(model, own, targets, per_sample, part), 1e-8, "test")
            for own, targets in zip(images.chunk(2), labels.chunk(2), strict=True)
        ]
        assert row.gsnr == pytest.approx(ESTIMATORS[estimator](sums), rel=1e-9)
        assert row.noise == pytest.approx((sums[0].noise + sums[1].noise) / 2, rel=1e-9)
    whole = rows_of(GsnrObserver(model.blocks, 1, group="process"), model, parts=2)
    batch_of_one = rows_of(GsnrObserver(model.blocks, 1), model, parts=2)
    assert whole == batch_of_one  # one process
    assert whole[0, "plain"].gsnr != found[0, "plain"].gsnr


def test_weights_alone_are_tensors_of_two_axes() -> None:
    model, (images, labels) = vit(init_values=0.3), batch()
    found = rows_of(GsnrObserver(model.blocks, 1, parameters="weights"), model)
    moments = gradient_moments(model, images, labels, per_sample, ["blocks.1"])
    weights = {
        name: own for name, own in moments.items()
        if name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
    }  # fmt: skip
    assert len(weights) == 4
    for estimator in ESTIMATORS:
        expected = gsnr(weights, estimator)
        row = found[1, estimator]
        assert row.gsnr == pytest.approx(float(expected), rel=1e-9)
        assert (
            row.parameters == expected.parameters == sum(w.mean.numel() for w in weights.values())
        )


def test_a_group_smaller_than_the_batch_resumes_from_its_state() -> None:
    model = vit()
    observer = GsnrObserver(model.blocks, 1, group="slice")
    expected = rows_of(observer, model, parts=3)
    other = GsnrObserver(model.blocks, 1, group="slice")
    other.load_state_dict(as_torch(as_json(observer.state_dict())))
    assert {(row.block, row.estimator): row for row in other.rows(0)} == expected
    with pytest.raises(ValueError, match="gsnr: the state must have"):
        GsnrObserver(model.blocks, 1).load_state_dict(observer.state_dict())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "gpu"}, "group must be one of batch, process, slice where mode is observe"),
        ({"model": "test"}, "model must be one of train, eval where mode is observe, got 'test'"),
        ({"parameters": "bias"}, "parameters must be one of all, weights where mode is observe"),
        ({"labels": "mild"}, "labels must be one of soft, hard where mode is observe, got 'mild'"),
        ({"mode": "replace", "labels": "hard"}, "labels must be one of soft where mode is replace"),
        ({"mode": "replace", "model": "eval"}, "model must be one of train where mode is replace"),
        ({"mode": "replace", "loss": "main"}, "loss must be one of total where mode is replace"),
    ],
)
def test_choices_that_are_unknown_or_do_not_go_together_are_refused(
    options: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=f"gsnr: {said}"):
        GsnrObserver(vit().blocks, 1, **options)


RANKS = """
import sys
import torch
from torch.distributed import TCPStore, init_process_group, destroy_process_group
from torch.nn.functional import cross_entropy
from rectify.gsnr.estimators import ESTIMATORS, totals
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.observer import GsnrObserver
from tests.helpers.moments import batch, per_sample, vit

rank, port = int(sys.argv[1]), int(sys.argv[2])
store = TCPStore("127.0.0.1", port, 2, rank == 0)
init_process_group("gloo", store=store, rank=rank, world_size=2)
model, (images, labels) = vit(), batch(samples=8)
for group, parts in (("process", 2), ("slice", 4)):
    observer = GsnrObserver(model.blocks, 1, group=group)
    mine = images[4 * rank : 4 * rank + 4], labels[4 * rank : 4 * rank + 4]
    for own, targets in zip(mine[0].chunk(2), mine[1].chunk(2)):
        with observer.watch(0.5):
            (cross_entropy(model(own), targets) / 2).backward()
    observer.record(0, 8)
    pairs = list(zip(images.chunk(parts), labels.chunk(parts)))
    for row in observer.rows(0):
        part = [f"blocks.{row.block}"]
        sums = [totals(gradient_moments(model, *own, per_sample, part), 1e-8, "") for own in pairs]
        expected = ESTIMATORS[row.estimator](sums)
        assert abs(row.gsnr - expected) <= 1e-9 * abs(expected), (group, row)
destroy_process_group()
print("equal")
"""


@pytest.mark.slow
def test_the_parts_of_two_processes_are_groups_too() -> None:
    run_two_processes(RANKS)


@BOTH_MODES
@pytest.mark.parametrize("origins", [None, torch.arange(SAMPLES)[:, None] // 2])
def test_all_parameters_together_as_on_a_gpu_give_what_each_gives_alone(
    mode: str, origins: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (images, labels) = vit(torch.float32, qkv_bias=True), batch()
    images = images.float()

    def rows() -> list[GsnrRow]:
        observer = GsnrObserver(model.blocks, batches=1, mode=mode)
        with observer.watch(0.5, origins):
            (0.5 * cross_entropy(model(images), labels)).backward()
        observer.record(0, SAMPLES)
        return observer.rows(0)

    alone = rows()
    joined = Mock(side_effect=statistics.joined)
    monkeypatch.setattr(statistics, "joined", joined)
    monkeypatch.setattr(statistics, "is_slow_to_start", lambda values: True)
    together = rows()
    assert joined.call_count == len(model.blocks)
    for row, other in zip(alone, together, strict=True):
        numbers = [name for name in row._fields if name != "estimator"]
        for name in numbers:
            expected = pytest.approx(getattr(row, name), rel=1e-5, abs=1e-12)
            assert getattr(other, name) == expected, (row, other)
