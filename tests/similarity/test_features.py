"""What features may be, for every measure: any real numbers in any container; what is refused."""

import doctest
import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import rectify.similarity
from rectify.runtime import generator
from rectify.similarity import (
    alignment,
    calibrated,
    chance_level,
    cknna,
    mutual_knn,
    mutual_knn_matrix,
    scores,
    unbiased_cka,
)
from rectify.similarity.calibration import calibrated_matrix
from rectify.similarity.compare import compare
from rectify.similarity.features import as_features, as_tensor
from rectify.similarity.neighbours import neighbours
from tests.helpers.feature_spaces import features

LEFT = features(30, 4)
RIGHT = LEFT @ features(4, 7, seed=1) + features(30, 7, seed=2) / 2


def compared(lefts: object, rights: object, **options: object) -> dict[str, Tensor]:
    return compare(lefts, rights, 5, 39, lambda name: generator(0, name), **options)


MEASURES: dict[str, Callable] = {
    "mutual_knn": lambda left, right: mutual_knn(left, right, 5),
    "mutual_knn_matrix": lambda left, right: mutual_knn_matrix([left], [right], 5).item(),
    "calibrated": lambda left, right: calibrated([left], [right], 5, 39).score.item(),
    "unbiased_cka": unbiased_cka,
    "cknna": lambda left, right: cknna(left, right, 5),
}
ALL = MEASURES | {"compare": lambda left, right: compared([left], [right])["cknna"].item()}

CONTAINERS: dict[str, Callable[[Tensor], object]] = {
    "array": lambda values: values.numpy(),
    "double array": lambda values: values.double().numpy(),
    "long double array": lambda values: values.numpy().astype(np.longdouble),
    "array of the other byte order": lambda values: values.numpy().astype(">f4"),
    "array without stride": lambda values: np.asfortranarray(values.numpy())[:, ::1],
    "list of lists": lambda values: values.tolist(),
    "tuple of tensors": lambda values: tuple(values),
    "list of arrays": lambda values: [*values.numpy()],
    "list of both": lambda values: [*values[:3], *values[3:].numpy()],
    "with a gradient": lambda values: values.clone().requires_grad_(),
    "parameter": lambda values: torch.nn.Parameter(values.clone()),
    "result of a layer": lambda values: torch.nn.Identity()(values.clone().requires_grad_()) * 1,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_number_of_the_tensor(measure: str, container: str) -> None:
    expected = MEASURES[measure](LEFT, RIGHT)
    found = MEASURES[measure](CONTAINERS[container](LEFT), CONTAINERS[container](RIGHT))
    assert found == pytest.approx(expected, abs=1e-6)
    assert expected > 0.05


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "dtype",
    ["float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "uint16"],
)
def test_every_real_type_gives_the_number_of_the_same_values(measure: str, dtype: str) -> None:
    kind = getattr(torch, dtype)
    left, right = ((40 * side + 128).clamp(0, 127).to(kind) for side in (LEFT, RIGHT))
    expected = MEASURES[measure](left.double(), right.double())
    assert MEASURES[measure](left, right) == pytest.approx(expected, abs=1e-6)
    if dtype != "bfloat16":
        found = MEASURES[measure](left.numpy(), right.numpy())
        assert found == pytest.approx(expected, abs=1e-6)


def test_all_measures_together_take_arrays_and_lists() -> None:
    expected = compared([LEFT], [RIGHT])
    for lefts, rights in (
        (LEFT[None].numpy(), [RIGHT.clone().requires_grad_()]),
        ([LEFT.tolist()], RIGHT[None].double()),
    ):
        for name, value in compared(lefts, rights).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


def test_layers_may_be_a_list_of_lists_or_one_array() -> None:
    both = torch.stack([LEFT, LEFT + 1])
    expected = mutual_knn_matrix([LEFT, LEFT + 1], [RIGHT], 5)
    for layers in (both, both.numpy(), both.tolist(), [LEFT.numpy(), (LEFT + 1).tolist()]):
        assert torch.equal(mutual_knn_matrix(layers, [RIGHT], 5), expected)
        assert torch.equal(calibrated(layers, [RIGHT], 5, 39).p, calibrated(both, [RIGHT], 5, 39).p)


COLLAPSED = {
    "constant": torch.full((30, 6), 2.5),
    "one vector": features(1, 6).expand(30, -1),
    "one direction": features(1, 6) * torch.arange(1, 31)[:, None],
    "constant but for rounding": torch.ones(30, 6, dtype=torch.float64)
    + 1e-9 * features(30, 6).double(),
    "zeros": torch.zeros(30, 6),
    "one-hot": torch.eye(30),
}


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("kind", COLLAPSED)
def test_collapsed_features_are_refused_on_either_side(measure: str, kind: str) -> None:
    for left, right, name in (
        (COLLAPSED[kind], RIGHT, "left"),
        (RIGHT, COLLAPSED[kind], "right"),
        (COLLAPSED[kind], COLLAPSED[kind], "left"),
    ):
        with pytest.raises(ValueError, match=rf"the features of {name}\S* must differ, got") as got:
            ALL[measure](left, right)
        assert "\n" not in str(got.value)


def slow_spread(values: Tensor) -> float:
    """By how much cosines of any two different items differ, with the matrix written out."""
    unit = torch.nn.functional.normalize(values.double())
    cosines = (unit @ unit.T)[~torch.eye(len(values), dtype=torch.bool)]
    return (cosines.max() - cosines.min()).item()


@pytest.mark.parametrize(
    "values",
    [
        torch.cat([torch.ones(149, 6), features(1, 6)]),  # the last item alone differs
        torch.cat([torch.zeros(1, 6), features(1, 6), torch.zeros(148, 6)]),
        torch.cat([torch.zeros(100, 6), features(50, 6)]),  # the first rows are all zero
        features(150, 48) * 1e-4 + 1000,
        features(150, 48, seed=3).double() * 1e-6 + 1,
        *COLLAPSED.values(),
    ],
)
def test_collapsed_are_those_whose_cosines_do_not_differ(values: Tensor) -> None:
    collapsed = slow_spread(values) <= 1e-12
    try:
        as_features(values, "here", "x")
    except ValueError:
        assert collapsed
    else:
        assert not collapsed


def test_a_layer_that_the_clamp_collapses_is_refused_by_its_number() -> None:
    sparse = torch.zeros(30, 6)
    sparse[:2] = features(2, 6)
    layers = torch.stack([LEFT @ features(4, 6), sparse])
    mutual_knn_matrix(layers, [RIGHT], 5)
    with pytest.raises(ValueError, match=r"similarity: the features of lefts\[1\] must differ"):
        compared(layers, [RIGHT], quantile=0.9, clamp="per_layer")


BROKEN = LEFT.clone()
BROKEN[3, 1] = math.inf


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            lambda: mutual_knn(LEFT[0], RIGHT, 5),
            r"mutual_knn: left must have the shape \(items, di",
        ),
        (
            lambda: mutual_knn(LEFT, RIGHT[None], 5),
            r"right must .*, got \(1, 30, 7\)\. Give one la",
        ),
        (
            lambda: unbiased_cka(LEFT, 3 * [1.0]),
            r"unbiased_cka: right must .*got \(3,\)\. Give one v",
        ),
        (
            lambda: cknna([], RIGHT, 5),
            r"cknna: left must have the shape \(items, dim\), got \(0,\)",
        ),
        (lambda: mutual_knn(LEFT[:, :0], RIGHT, 5), r"left must have the shape .*, got \(30, 0\)"),
        (
            lambda: mutual_knn_matrix(LEFT, [RIGHT], 5),
            r"lefts must be a list of layers .*\[lefts\]",
        ),
        (lambda: calibrated([LEFT], RIGHT, 5), r"calibrated: rights must be a list .*\[rights\]"),
        (lambda: mutual_knn_matrix([LEFT], [], 5), r"rights must have layers, got none"),
        (
            lambda: mutual_knn_matrix([LEFT, LEFT[:9]], [RIGHT], 5),
            "must have the same items, got 30 a",
        ),
        (lambda: mutual_knn([[1.0, 2.0], [1.0]], RIGHT, 5), "features must be real numbers, vec"),
        (lambda: mutual_knn([["a", "b"]], RIGHT, 5), "features must be real numbers, .*type <U1"),
        (lambda: mutual_knn(LEFT + 1j, RIGHT, 5), r"real numbers, .*type torch\.complex64"),
        (lambda: mutual_knn(LEFT.numpy() + 1j, RIGHT, 5), "real numbers, .*type complex64"),
        (lambda: mutual_knn(np.array([[object()]]), RIGHT, 5), "real numbers, .*type object"),
        (lambda: cknna(BROKEN, RIGHT, 5), "cknna: features must be finite, got inf or nan in left"),
        (lambda: calibrated([LEFT, BROKEN], [RIGHT], 5), r"got inf or nan in lefts\[1\]"),
        (
            lambda: mutual_knn(LEFT, RIGHT, 0),
            r"k must lie in 1\.\.29 for 30 items, got 0\. Raise k",
        ),
        (lambda: mutual_knn(LEFT, RIGHT, -3), r"got -3\. Raise k\."),
        (
            lambda: mutual_knn_matrix([LEFT], [RIGHT], 30),
            r"mutual_knn_matrix: k .* 30\. Lower k, or",
        ),
        (lambda: calibrated([LEFT], [RIGHT], 99), r"calibrated: k must lie .* got 99\. Lower k"),
        (
            lambda: calibrated([LEFT], [RIGHT], 29),
            "calibrated: k must lie below 29, since all other",
        ),
        (lambda: cknna(LEFT, RIGHT, 30), r"cknna: k must lie in 1\.\.29"),
        (lambda: neighbours(LEFT, 30), r"neighbours: k must lie in 1\.\.29"),
        (lambda: chance_level(30, 30), r"chance_level: k must lie in 1\.\.29"),
        (
            lambda: calibrated([LEFT], [RIGHT], 5, 3),
            r"permutations must be at least 19, .* Raise perm",
        ),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(action: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert "config" not in str(caught.value)


def test_k_may_be_a_number_of_numpy_and_no_fraction() -> None:
    assert mutual_knn(LEFT, RIGHT, np.int64(5)) == mutual_knn(LEFT, RIGHT, 5)
    with pytest.raises(ValueError, match=r"mutual_knn: k must be a whole number, got 2\.5\."):
        mutual_knn.__wrapped__(LEFT, RIGHT, 2.5)


def test_features_in_place_of_lists_are_named() -> None:
    with pytest.raises(ValueError, match=r"must be lists of neighbours, .* Give features to calib"):
        calibrated_matrix.__wrapped__([LEFT], [RIGHT], 19, torch.Generator())


def test_calibrated_is_the_calibration_of_the_lists() -> None:
    lists = [[neighbours(LEFT, 5)], [neighbours(RIGHT, 5), neighbours(LEFT, 5)]]
    expected = calibrated_matrix(*lists, 99, generator(3, "permutations"))
    found = calibrated([LEFT], [RIGHT, LEFT], 5, 99, seed=3)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_finite_features_whose_sum_is_not_are_compared() -> None:
    large = 8e37 * LEFT.abs()
    assert large.sum().isinf()
    assert mutual_knn(large, RIGHT, 5) == mutual_knn(LEFT.abs(), RIGHT, 5)
    half = (3e4 * LEFT.abs()).clamp(max=6e4).half()
    assert half.sum().isinf()
    assert mutual_knn(half, RIGHT, 5) == mutual_knn(half.double(), RIGHT, 5)


def test_features_are_never_changed() -> None:
    left, right = LEFT.clone(), RIGHT.clone().requires_grad_()
    for measure in ALL.values():
        measure(left, right)
    assert torch.equal(left, LEFT)
    assert torch.equal(right.detach(), RIGHT)
    assert as_tensor(LEFT).data_ptr() == LEFT.data_ptr()


PUBLIC = [getattr(rectify.similarity, name) for name in rectify.similarity.__all__]


@pytest.mark.parametrize("function", [*PUBLIC, compare, neighbours], ids=lambda one: one.__name__)
def test_the_example_of_each_public_function_is_right(function: Callable) -> None:
    module = sys.modules[function.__module__]
    runner = doctest.DocTestRunner()
    (example,) = doctest.DocTestFinder(recurse=False).find(
        function, function.__name__, globs=vars(module).copy()
    )
    assert example.examples
    said: list[str] = []
    runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.slow
def test_it_is_imported_without_what_only_models_and_the_workflow_need() -> None:
    code = (
        "import sys, rectify.similarity\n"
        "heavy = {'timm', 'transformers', 'snakemake', 'torchvision', 'pandas', 'sklearn'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_modules_of_the_measures_are_public_by_one_name() -> None:
    assert rectify.similarity.mutual_knn is scores.mutual_knn
    assert rectify.similarity.unbiased_cka is alignment.unbiased_cka
