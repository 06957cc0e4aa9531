"""The tests run with checked annotations."""

import pytest
import torch
from jaxtyping import TypeCheckError

from rectify.similarity import mutual_knn
from tests.helpers.annotations import checked


def test_a_function_refuses_what_its_annotations_do_not_allow() -> None:
    with pytest.raises(TypeCheckError, match="typechecking parameter"):
        mutual_knn(torch.rand(6, 2), torch.rand(6, 2), k="two")


def test_a_function_within_another_is_as_it_was() -> None:
    def within(number: int) -> int:
        return number

    assert checked(within) is within
