"""Rows that come part by part: against one array of all, also when the file is closed."""

import numpy as np
import pytest
import torch

from rectify.data.spool import Spool


@pytest.mark.parametrize(("kind", "row"), [("float32", (5, 2)), ("bool", (3,)), ("int64", ())])
def test_parts_lie_one_behind_the_other(kind: str, row: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    parts = [random.integers(0, 2, (count, *row)).astype(kind) for count in (3, 0, 1, 40)]
    with Spool() as spool:
        for part in parts:
            spool.add(np.asfortranarray(part))
        rows = spool.tensor()
    assert torch.equal(rows, torch.from_numpy(np.concatenate(parts)))


def test_no_rows_keep_their_type_and_shape() -> None:
    with Spool() as spool:
        spool.add(np.empty((0, 10, 2), np.float32))
        rows = spool.tensor()
    assert (rows.shape, rows.dtype) == ((0, 10, 2), torch.float32)
