"""The interval of a difference: its formula by loops, and how often it holds the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from rectify.analysis.draws import difference


def slowly(model: list, draws: list, model_error: list, draws_error: list) -> tuple:
    """Return mean, error, low and high by sums over single values."""
    vits, count = len(model), len(draws)
    cells = [[model[v] - draws[d][v] for v in range(vits)] for d in range(count)]
    mean = sum(map(sum, cells)) / (vits * count)
    by_draw = [sum(row) / vits for row in cells]
    by_vit = [sum(row[v] for row in cells) / count for v in range(vits)]
    variance = (sum(model_error) / vits) ** 2
    variance += (sum(map(sum, draws_error)) / (vits * count)) ** 2
    below = 0.0
    for means in (by_draw, by_vit):
        n = len(means)
        if n >= 2:
            part = sum((one - mean) ** 2 for one in means) / (n - 1) / n
            variance += part
            below += part**2 / (n - 1)
    if below:
        half = math.sqrt(variance) * stats.t.isf(0.025, variance**2 / below)
    else:
        half = math.sqrt(variance) * stats.norm.isf(0.025)
    return mean, math.sqrt(variance), mean - half, mean + half


@pytest.mark.parametrize(("count", "vits"), [(3, 2), (1, 2), (3, 1), (1, 1), (4, 5)])
def test_it_is_what_loops_give(count: int, vits: int) -> None:
    rng = np.random.default_rng(count * 10 + vits)
    scores = [rng.random(shape) for shape in (vits, (count, vits)) * 2]
    assert difference(*scores) == pytest.approx(slowly(*(one.tolist() for one in scores)))


def test_one_draw_with_one_vit_has_the_error_over_items_alone() -> None:
    found = difference(*map(np.array, ([0.5], [[0.2]], [0.03], [[0.04]])))
    assert found[:2] == pytest.approx((0.3, 0.05))
    assert found[2:] == pytest.approx((0.3 - 1.959964 * 0.05, 0.3 + 1.959964 * 0.05))


def test_errors_over_the_same_items_do_not_average_out() -> None:
    few, many = (
        difference(
            np.full(vits, 0.5), np.full((count, vits), 0.2),
            np.full(vits, 0.03), np.full((count, vits), 0.04),
        )
        for vits, count in ((1, 1), (8, 9))
    )  # fmt: skip
    assert many == pytest.approx(few)


@pytest.mark.slow
@pytest.mark.parametrize("together", [0.0, 1.0])
@pytest.mark.parametrize(("count", "vits"), [(4, 4), (3, 2)])
def test_it_holds_the_truth_as_often_as_it_says(count: int, vits: int, together: float) -> None:
    """Items, draws and ViTs vary; with ``together`` the items raise both sides alike."""
    rng, truth, error, spread, times = np.random.default_rng(1), 0.1, 1, 1, 3000
    held = 0
    for _ in range(times):
        items = rng.normal(0, error, 2)
        items[1] = together * items[0] + (1 - together) * items[1]
        model = truth + items[0] + rng.normal(0, spread, vits)
        draws = items[1] + rng.normal(0, spread, count)[:, None] + np.zeros((count, vits))
        found = difference(model, draws, np.full(vits, error), np.full((count, vits), error))
        held += found.low <= truth <= found.high
    share = held / times
    assert share > 0.97 if together else 0.94 < share < 0.97
