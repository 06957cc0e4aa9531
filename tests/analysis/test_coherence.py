"""Gains at equal epoch and at equal loss, on curves whose truth is known; measures from sums."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame

from rectify.analysis.coherence import GAINS, MEASURES, at_equal_loss, gains, inverse
from rectify.gsnr.estimators import totals
from rectify.gsnr.moments import Moments

EPOCHS = 20


def curve(run: str, rate: float, value: Callable[[float], float], **settings: object) -> DataFrame:
    """A run whose loss falls from 4 towards 1, and whose GSNR depends on its loss."""
    losses = [1 + 3 * math.exp(-rate * epoch) for epoch in range(EPOCHS)]
    rows = [
        {"run": run, "seed": seed, "epoch": epoch, "block": block, "estimator": "plain",
         "gsnr": value(loss) * (1 + block), "main_loss": loss}
        for seed in (0, 1) for epoch, loss in enumerate(losses) for block in (0, 1)
    ]  # fmt: skip
    same = {"data": "a", "vision": "v", "variant": "vanilla"}
    return DataFrame(rows).assign(**same | settings)


def compared(*curves: DataFrame, by: tuple[str, ...] = ()) -> DataFrame:
    return gains(pd.concat(curves, ignore_index=True), by)


def test_what_only_slows_learning_gains_at_equal_epoch_alone() -> None:
    """Both runs have the same GSNR at the same loss, which here is a line, so nothing rounds."""
    vanilla = curve("a_v_vanilla", 0.3, lambda loss: 0.01 * loss)
    slow = curve("a_v_insert", 0.1, lambda loss: 0.01 * loss, variant="insert")
    found = compared(vanilla, slow)
    assert (found["equal_epoch"] > 0.004).all()
    assert found["equal_loss"].abs().max() < 1e-15
    assert found["relative_loss"].abs().max() < 1e-13


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_what_makes_gradients_agree_gains_at_equal_loss_however_fast_it_learns(rate: float) -> None:
    vanilla = curve("a_v_vanilla", 0.3, lambda loss: 0.01 * loss)
    better = curve("a_v_insert", rate, lambda loss: 0.012 * loss, variant="insert")
    found = compared(vanilla, better)
    assert found["relative_loss"].to_numpy() == pytest.approx(0.2, rel=1e-12)
    assert set(found["seed"]) == {0, 1}


def test_the_gain_at_equal_loss_is_that_of_a_loop_over_epochs() -> None:
    vanilla = curve("a_v_vanilla", 0.3, lambda loss: 0.01 * loss**2)
    other = curve("a_v_insert", 0.17, lambda loss: 0.02 + 0.001 * loss, variant="insert")
    row = compared(vanilla, other).iloc[0]
    own, base = (part[part["seed"] == 0].groupby("epoch") for part in (other, vanilla))
    points = sorted(zip(base["main_loss"].first(), base["gsnr"].mean(), strict=True))
    differences, bases = [], []
    for loss, value in zip(own["main_loss"].first(), own["gsnr"].mean(), strict=True):
        for (low, left), (high, right) in itertools.pairwise(points):
            if low <= loss <= high:
                there = left + (right - left) * (loss - low) / (high - low)
                differences.append(value - there)
                bases.append(there)
                break
    assert row["epochs"] == len(differences) == EPOCHS
    assert row["equal_loss"] == pytest.approx(sum(differences) / len(differences), rel=1e-12)
    assert row["relative_loss"] == pytest.approx(sum(differences) / sum(bases), rel=1e-12)
    mean = own["gsnr"].mean().mean() - base["gsnr"].mean().mean()
    assert row["equal_epoch"] == pytest.approx(mean, rel=1e-12)
    assert row["relative_epoch"] == pytest.approx(mean / base["gsnr"].mean().mean(), rel=1e-12)


def test_epochs_whose_loss_vanilla_never_has_are_left_out() -> None:
    ours = DataFrame({"loss": [5.0, 3.0, 2.5, 0.5], "value": [1.0, 2.0, 3.0, 4.0]})
    vanilla = DataFrame({"loss": [4.0, 2.0, 3.0, 2.0], "value": [8.0, 4.0, 6.0, 2.0]})
    found = at_equal_loss(ours, vanilla)
    assert found["loss"].tolist() == [3.0, 2.5]
    assert found["vanilla"].tolist() == [6.0, 4.5]  # the two values at 2.0 count as their mean, 3


def test_runs_without_a_common_loss_have_no_gain_there() -> None:
    vanilla = curve("a_v_vanilla", 0.3, lambda loss: 0.01)
    other = curve("a_v_insert", 0.3, lambda loss: 0.02, variant="insert")
    other["main_loss"] += 10
    found = compared(vanilla, other)
    assert found["equal_loss"].isna().all()
    assert found["relative_loss"].isna().all()
    assert found["epochs"].eq(0).all()
    assert found["equal_epoch"].to_numpy() == pytest.approx(0.015)


def test_blocks_may_be_kept_apart() -> None:
    vanilla = curve("a_v_vanilla", 0.3, lambda loss: 0.01 * loss)
    other = curve("a_v_insert", 0.2, lambda loss: 0.02 * loss, variant="insert")
    apart, together = compared(vanilla, other, by=("block",)), compared(vanilla, other)
    assert len(apart) == 2 * len(together) == 4
    for name in ("equal_epoch", "equal_loss"):
        means = apart.groupby("seed")[name].mean()
        assert together.set_index("seed")[name].to_dict() == pytest.approx(means.to_dict())
    assert apart["relative_loss"].to_numpy() == pytest.approx(1.0)


def test_a_noise_scale_is_that_of_the_mean_and_no_mean_of_noise_scales() -> None:
    """One block whose samples do not agree has a noise scale of -1e6, the other one of 20."""
    near_zero = {"a_v_vanilla": (0.05, -1e-6), "a_v_insert": (0.05, 0.03)}
    blocks = [
        curve(name, 0.3, lambda _: 1.0, variant=name[4:]).assign(
            gsnr=lambda rows, values=values: rows["block"].map(dict(enumerate(values)))
        )
        for name, values in near_zero.items()
    ]
    found = gains(pd.concat(blocks, ignore_index=True), (), inverse)
    expected = 1 / 0.04 - 1 / ((0.05 - 1e-6) / 2)
    assert found["equal_epoch"].to_numpy() == pytest.approx(expected, rel=1e-12)
    assert found["equal_loss"].to_numpy() == pytest.approx(expected, rel=1e-12)
    blocks[0]["gsnr"] = -blocks[0]["gsnr"]
    assert (
        gains(pd.concat(blocks, ignore_index=True), (), inverse)[list(GAINS)].isna().all(axis=None)
    )


def test_each_run_is_compared_with_vanilla_of_its_data_and_seed() -> None:
    runs = [
        curve(f"{data}_v_{name}", 0.2, lambda loss, s=scale: s * loss, data=data, variant=name)
        for data, name, scale in (
            ("a", "vanilla", 1.0), ("b", "vanilla", 5.0), ("a", "insert", 2.0), ("b", "insert", 6.0)
        )
    ]  # fmt: skip
    found = compared(*runs).groupby("run")["relative_epoch"].mean()
    assert found.to_dict() == pytest.approx({"a_v_insert": 1.0, "b_v_insert": 0.2})
    with pytest.raises(ValueError, match="one vanilla run of v on b, got 0"):
        compared(runs[0], runs[3])
    with pytest.raises(ValueError, match=r"same seeds, got \[0, 1\] and \[0\]"):
        compared(runs[0][runs[0]["seed"] == 0], runs[2])
    assert list(compared(runs[0]).columns) == ["run", "seed", "estimator", *GAINS, "epochs"]


def test_the_measures_are_those_of_a_loop_over_samples() -> None:
    draws = torch.Generator().manual_seed(0)
    g = torch.randn(9, 40, generator=draws, dtype=torch.float64) + 0.5
    sums = totals({"w": Moments(g.mean(0), g.var(0, correction=0), 9)}, 1e-8, "test")
    frame = DataFrame([{name: getattr(sums, name) for name in ("signal", "noise", "agreement")}])
    found = {name: one.of_mean(one.of_blocks(frame)[0]) for name, one in MEASURES.items()}
    rows = g.numpy()
    products = [rows[i] @ rows[j] for i in range(9) for j in range(9) if i != j]
    squares = [row @ row for row in rows]
    true_square = np.mean(products)
    trace = np.cov(rows.T).trace()
    assert found == pytest.approx(
        {
            "gradient norm": np.linalg.norm(rows.mean(0)),
            "noise scale": trace / true_square,
            "coherence": np.mean([a @ b for a in rows for b in rows]) / np.mean(squares),
            "cosine": true_square / np.mean(squares),
        },
        rel=1e-12,
    )
