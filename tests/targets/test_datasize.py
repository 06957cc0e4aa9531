"""Gain by size of the training set: each share against vanilla on the same share."""

from pathlib import Path

import pytest
from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.targets.datasize import Settings, figure, table
from tests.helpers import synthetic
from tests.helpers.printed import INSERTED, exactly
from tests.helpers.synthetic import VITS, Model, Run

ASKED = Settings(reads="little")
SHARES = {0.1: (20.0, 26.0, 21.0), 0.5: (50.0, 52.0, 49.0), 1.0: (70.0, 69.0, 68.0)}
"""By share: accuracies in percent of vanilla, the frozen block, a random one."""


def runs() -> list[Run]:
    made = []
    for share, (vanilla, frozen, random) in SHARES.items():
        data = Model(f"set-{share}", "Set" if share == 1 else f"Set, {share}", 0)
        made.append(Run(data, VITS["ViT-S"], **exactly({"test": vanilla}), fraction=share))
        for control, top1 in (("frozen", frozen), ("random", random)):
            settings = {**INSERTED, "control": control, "fraction": share}
            made.append(Run(data, VITS["ViT-S"], **exactly({"test": top1}), **settings))
    return made


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return synthetic.collected(tmp_path, runs(), (0, 1, 2))


def means(cells: DataFrame, kind: str) -> dict[tuple[str, str], float]:
    chosen = cells[cells["kind"] == kind]
    return chosen.set_index(["row", "column"])["mean"].to_dict()


@pytest.mark.slow
def test_each_share_is_compared_with_vanilla_on_the_same_share(results: Results) -> None:
    cells = table(results, ASKED)
    assert cells["column"].unique().tolist() == ["10 %", "50 %", "100 %"]
    assert cells["row"].unique().tolist() == [
        "vanilla", "frozen layer", "random frozen layer",
    ]  # fmt: skip
    gains = means(cells, "gain")
    assert len(gains) == 6
    assert gains["frozen layer", "10 %"] == pytest.approx(6.0)
    assert gains["random frozen layer", "100 %"] == pytest.approx(-2.0)
    assert means(cells, "value")["vanilla", "50 %"] == pytest.approx(50.0)


@pytest.mark.slow
def test_the_figure_shows_the_numbers_of_the_table(results: Results) -> None:
    drawn = figure(results, ASKED)
    cells = table(results, ASKED)
    for kind, axes in zip(("value", "gain"), drawn.figure.axes, strict=True):
        expected = means(cells, kind)
        lines = {line.get_label(): line for line in axes.get_lines() if len(line.get_xdata()) == 3}
        found = {
            (label, f"{100 * x:g} %"): y
            for label, line in lines.items() if not f"{label}".startswith("_")
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        }  # fmt: skip
        assert found == pytest.approx(expected)
    assert drawn.values["low"].notna().sum() == 6  # gains of three seeds
    assert len(drawn.values) == 9 + 6


def test_two_vits_at_once_are_an_error(tmp_path: Path) -> None:
    more = [
        Run(Model("set-1.0", "Set", 0), VITS["ViT-T"], **exactly({"test": 50.0}), **settings)
        for settings in ({}, INSERTED)
    ]
    with pytest.raises(ValueError, match="datasize: all runs must have the same vision, got"):
        table(synthetic.collected(tmp_path, [*runs(), *more]), ASKED)


def test_two_sets_of_the_same_share_are_an_error(tmp_path: Path) -> None:
    more = [
        Run(Model("other", "Other", 0), VITS["ViT-S"], **exactly({"test": 50.0}), **settings)
        for settings in ({}, INSERTED)
    ]
    with pytest.raises(ValueError, match="datasize: a cell must show one run, got"):
        table(synthetic.collected(tmp_path, [*runs(), *more]), ASKED)
