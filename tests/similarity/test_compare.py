"""All measures between two models: each is that of its own function, on clamped features."""

import pytest
import torch

from rectify.runtime import generator
from rectify.similarity import mutual_knn
from rectify.similarity.alignment import cknna, unbiased_cka
from rectify.similarity.compare import compare
from rectify.similarity.scores import clamp_outliers
from tests.helpers.feature_spaces import features

SHARED = features(50, 4)
LEFTS = torch.stack([SHARED + features(50, 4, seed=seed) for seed in (1, 2)])
RIGHTS = torch.stack([SHARED + features(50, 4, seed=seed) / 2 for seed in (3, 4, 5)])


def found(**changes) -> dict[str, torch.Tensor]:
    options = {"k": 5, "permutations": 40, "draws": lambda name: generator(0, name)} | changes
    return compare(LEFTS, RIGHTS, **options)


@pytest.mark.parametrize("clamp", ["global", "per_layer", "per_sample"])
def test_each_measure_is_that_of_clamped_features(clamp: str) -> None:
    measures = found(quantile=0.8, clamp=clamp)
    lefts, rights = (clamp_outliers(side, 0.8, clamp) for side in (LEFTS, RIGHTS))
    for i, left in enumerate(lefts):
        for j, right in enumerate(rights):
            values = {name: one[i, j].item() for name, one in measures.items()}
            assert values["mutual_knn"] == mutual_knn(left, right, 5)
            assert values["cka"] == pytest.approx(unbiased_cka(left, right))
            assert values["cknna"] == pytest.approx(cknna(left, right, 5))
            assert 0 <= values["mutual_knn_calibrated"] < values["mutual_knn"]
            assert 1 / 41 <= values["p"] <= values["p_maximum"] <= 1
            for name in ("mutual_knn", "cka", "cknna"):
                assert 0 < values[f"{name}_error"] < 0.2


def test_another_clamp_gives_other_scores() -> None:
    clamps = [found(quantile=0.8, clamp=name) for name in ("global", "per_layer", "per_sample")]
    scores = [measures["cka"] for measures in clamps]
    assert not torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_the_same_call_gives_the_same_numbers() -> None:
    first, second = found(), found()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_too_few_items_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.49 for 50 items, got 50"):
        found(k=50)
