"""Pang et al.'s Table 5a: recall both ways, gains, and the sampling error of one number."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
from pandas import DataFrame

from rectify.analysis.cells import NO_RUN
from rectify.targets import pang_table5a_retrieval as target
from tests.helpers import synthetic
from tests.helpers.printed import INSERTED, retrieving

NAME = "pang_table5a_retrieval"
IMAGES, TEXTS = (("IR@1", "IR@5", "IR@10"), ("TR@1", "TR@5", "TR@10"))


def table(root: Path, seeds: tuple[int, ...] = (0, 1)) -> DataFrame:
    runs = [retrieving(NAME, "METER"), retrieving(NAME, "METER +LLaMA", **INSERTED)]
    texts = {("recall_at_1", 0): 0.625, ("recall_at_5", 0): 0.75, ("recall_at_10", 0): 0.875}
    runs[1] = dataclasses.replace(runs[1], parts={"texts": texts})
    results = synthetic.collected(root, runs, seeds)
    return target.table(results, target.Settings(reads="any"))


def test_columns_are_recalls_both_ways_and_texts_are_compared_with_nothing(tmp_path: Path) -> None:
    cells = table(tmp_path)
    heads = cells.drop_duplicates("column_index").sort_values("column_index")
    assert tuple(heads["column"]) == (*IMAGES, *TEXTS)
    assert set(heads["group"]) == {"Flickr30k"}
    gains = cells[cells["kind"] == "gain"].set_index("column")["mean"]
    assert gains.to_dict() == pytest.approx(
        dict(zip((*IMAGES, *TEXTS), (0.56, 1.4, 0.6, 12.5, 25, 37.5), strict=True))
    )
    assert cells[cells["column"].isin(TEXTS)]["paper"].isna().all()
    (found,) = target.findings(cells, None)
    assert found.found.startswith("3 of 3 gain, from +0.56 (METER +LLaMA-7B, Flickr30k, IR@1)")


def test_the_last_row_is_the_standard_error_over_captions(tmp_path: Path) -> None:
    cells = table(tmp_path)
    last = cells[cells["row"] == target.ERROR]
    assert last["row_index"].nunique() == 1
    assert (last["row_index"] > cells.loc[cells["row"] != target.ERROR, "row_index"].max()).all()
    assert tuple(last["column"]) == IMAGES
    assert set(last["run"]) == {NO_RUN}
    for (_, row), percent in zip(last.iterrows(), (49.66, 80.86, 89.48), strict=True):
        share = percent / 100
        items = pd.Series([1.0] * round(10_000 * share) + [0.0] * round(10_000 * (1 - share)))
        slow = 100 * items.std(ddof=0) / math.sqrt(100)  # the made-up runs have 100 captions
        assert row["mean"] == pytest.approx(slow, rel=1e-6)
        assert math.isnan(row["paper"])
