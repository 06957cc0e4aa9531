"""Paired tests over items: against counting by hand, McNemar's test, and simulations."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rectify.analysis.items import item_p, with_comparisons
from rectify.analysis.metrics import ACCURACY, Metric
from tests.helpers import synthetic
from tests.helpers.printed import CIFAR, INSERTED, exactly
from tests.helpers.synthetic import VITS, Run

TOP5 = Metric("accuracy_topk", "acc@5")
LOSS = Metric("test_loss", "test loss", "nats", better="lower")


def by_all_exchanges(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The share of all exchanges of the two models, item by item, with as large a difference."""
    totals = (ours - theirs).sum(0)
    sums = [abs(np.dot(signs, totals)) for signs in itertools.product((-1, 1), repeat=len(totals))]
    return float(np.mean(np.array(sums) >= abs(totals.sum())))


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("draw", range(4))
def test_it_is_the_share_of_all_exchanges(seeds: int, draw: int) -> None:
    rng = np.random.default_rng(draw)
    ours, theirs = ((rng.random((seeds, 9)) < share).astype(float) for share in (0.8, 0.4))
    assert item_p(ours, theirs) == pytest.approx(by_all_exchanges(ours, theirs), abs=1e-12)


def test_with_one_seed_it_is_mcnemars_exact_test() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (rng.random((2, 1, 2000)) < 0.5).astype(float)
    ours[0, :80] = 1.0
    only_ours, only_theirs = int((ours > theirs).sum()), int((ours < theirs).sum())
    expected = stats.binomtest(only_ours, only_ours + only_theirs).pvalue
    assert 0.001 < expected < 0.5
    assert item_p(ours, theirs) == pytest.approx(expected, rel=1e-9)


def test_no_p_value_is_zero() -> None:
    """That of 300 items, each right in one model alone, is 1e-90, which rounding hides."""
    p = item_p(np.ones((1, 300)), np.zeros((1, 300)))
    assert 0 < p < 1e-12


def test_equal_scores_differ_by_nothing() -> None:
    scores = np.ones((2, 5))
    assert item_p(scores, scores) == 1.0
    assert item_p(0.5 * scores, 0.5 * scores) == 1.0


def test_equally_good_models_are_told_apart_in_one_of_twenty_draws_at_most() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random((400, 1, 300))  # items are more or less hard, for both alike
    right = rng.random((2, 400, 2, 300)) < easy
    values = [item_p(*draw) for draw in right.astype(float).swapaxes(0, 1)]
    assert np.mean(np.array(values) < 0.05) < 0.08


def test_scores_of_any_size_are_compared_by_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.random((2, 500))
    values = []
    for _ in range(100):
        ours = theirs + rng.normal(0, 0.3, theirs.shape)
        values.append(item_p(ours, theirs))
    expected = stats.ttest_1samp((ours - theirs).sum(0), 0).pvalue
    assert values[-1] == pytest.approx(expected, abs=0.05)
    assert np.mean(np.array(values) < 0.05) < 0.13
    assert item_p(theirs + 0.2, theirs) == 2.0**-499


def test_a_small_p_value_is_that_of_the_differences_over_their_error() -> None:
    """A bootstrap alone ends at two of its resamples: at 1 after Holm, for a thousand tests."""
    differences = np.random.default_rng(3).normal(0.3, 1, (1, 400))
    p = item_p(differences, np.zeros((1, 400)))
    z = differences.mean() / (differences.std(ddof=1) / 20)
    assert stats.norm.isf(p / 2) == pytest.approx(z, rel=0.05)
    assert p < 1e-7
    weak = item_p(differences - 0.25, np.zeros((1, 400)))
    assert weak == pytest.approx(stats.ttest_1samp(differences[0] - 0.25, 0).pvalue, abs=0.02)
    assert weak > 0.011


def two_runs(folder: Path, **labels: object) -> synthetic.Results:
    runs = [
        Run(CIFAR, VITS["ViT-S"], **exactly({"test": 60.0, "k": 90.0})),
        Run(CIFAR, VITS["ViT-S"], **exactly({"test": 70.0, "k": 91.0}), **INSERTED),
    ]
    return synthetic.collected(folder, runs, seeds=(0, 1), **labels)


def test_every_seed_of_a_run_has_its_gain_and_the_p_value_of_all_seeds(tmp_path: Path) -> None:
    results = two_runs(tmp_path)
    compared = with_comparisons(results.runs, results, [ACCURACY, TOP5, LOSS])
    vanilla, ours = (compared[compared["variant"] == name] for name in ("vanilla", "insert"))
    assert ours["gain_accuracy"].tolist() == pytest.approx([0.1, 0.1])
    # ten items are right in both seeds with the block only, one of them among five
    assert ours["items_accuracy"].tolist() == pytest.approx([2 * 0.5**10] * 2)
    assert ours["items_accuracy_topk"].tolist() == pytest.approx([1.0] * 2)
    assert ours["items_test_loss"].tolist() == [2.0**-99] * 2
    assert vanilla["items_accuracy"].isna().all()


def test_the_best_epoch_has_no_items_and_shifts_have_none(tmp_path: Path) -> None:
    results = two_runs(tmp_path, report="best")
    compared = with_comparisons(results.runs, results, [ACCURACY])
    assert compared["items_accuracy"].isna().all()
    shifted = results.runs.assign(accuracy_c=0.5)
    assert (
        with_comparisons(shifted, results, [Metric("accuracy_c", "-C")])["items_accuracy_c"]
        .isna()
        .all()
    )


def test_other_items_and_missing_ones_are_errors_of_one_line(tmp_path: Path) -> None:
    results = two_runs(tmp_path)
    path = Path(results.folders[1]) / "seed-1" / "predictions.parquet"
    pd.read_parquet(path).head(50).to_parquet(path)
    with pytest.raises(ValueError, match="the same test items, got 50 and 100 of them"):
        with_comparisons(results.runs, results, [ACCURACY])
    path.unlink()
    with pytest.raises(ValueError, match=r"predictions\.parquet: must exist, got no file"):
        with_comparisons(results.runs, results, [ACCURACY])
