"""Rows and columns of any runs: found, named, or refused with the factor that is in the way."""

import math

import pytest
from pandas import DataFrame

from rectify.analysis.layout import Layout, comparable, layout_of, shown_runs, spec_of
from rectify.analysis.metrics import ACCURACY, Metric

GSNR = Metric("gsnr_plain", "GSNR", "1", 1e-2)


def run(variant: str = "insert", **factors: object) -> dict[str, object]:
    """Return one run; factors that are not given are the usual ones."""
    usual = {
        "data": "a", "vision": "v", "language": "l", "variant": variant, "control": "frozen",
        "lambda": 0.35 if variant == "auxiliary" else 0.0, "position": "end", "layer": 7.0,
        "insert_at": 12.0, "seed": 0, "accuracy": 0.5,
    }  # fmt: skip
    row = {**usual, **factors}
    name = "_".join(f"{row[factor]}" for factor in list(usual)[:8])
    titles = {f"{name}_title": f"{row[name]}".upper() for name in ("data", "vision", "language")}
    return {"run": name, **titles, **row}


def runs(*rows: dict[str, object]) -> DataFrame:
    vanilla = run("vanilla", language=None, position=None, layer=math.nan, insert_at=math.nan)
    return comparable(DataFrame([vanilla, *rows]))


def treated(*rows: dict[str, object]) -> DataFrame:
    frame = runs(*rows)
    return frame[frame["variant"] != "vanilla"]


GRID = [run(position=p, layer=n) for p in ("early", "end") for n in (0.0, 7.0)]
CONTROLS = [run(control=control) for control in ("frozen", "random")]


def test_the_last_factor_that_varies_gives_the_columns() -> None:
    assert layout_of(treated(*GRID), None, None) == Layout(("position",), ("layer",))
    both = [run(**{**row, "control": c}) for row in GRID for c in ("frozen", "random")]
    assert layout_of(treated(*both), None, None) == Layout(("control", "position"), ("layer",))


def test_a_single_factor_gives_the_rows_and_none_gives_one_row() -> None:
    assert layout_of(treated(*CONTROLS), None, None) == Layout(("control",), ())
    assert layout_of(treated(run()), None, None) == Layout(("data",), ())
    assert layout_of(treated(run()), None, ("data",)) == Layout(("vision",), ("data",))


def test_what_is_not_named_follows_where_it_can() -> None:
    assert layout_of(treated(*GRID), ("layer",), None) == Layout(("layer",), ("position",))
    assert layout_of(treated(*GRID), None, ("position",)) == Layout(("layer",), ("position",))


def test_a_factor_in_neither_rows_nor_columns_is_named() -> None:
    with pytest.raises(ValueError, match="must be in rows or columns, got layer in neither") as e:
        shown_runs(runs(*GRID), Layout(("position",)))
    assert "\n" not in f"{e.value}"


def test_a_factor_that_no_run_has_is_named() -> None:
    with pytest.raises(ValueError, match="one that the experiment has, got layer"):
        shown_runs(runs(), Layout(("layer",)))
    with pytest.raises(ValueError, match="one that the experiment has, got lambda"):
        shown_runs(treated(run()), Layout(("layer",), ("lambda",)))


def test_a_factor_that_another_one_decides_need_not_be_named() -> None:
    frame = runs(run(), run("auxiliary"))
    assert len(shown_runs(frame, Layout(("variant",)))) == 3  # lambda differs, with the variant


def test_vanilla_runs_are_shown_only_where_a_factor_names_them() -> None:
    frame = runs(*CONTROLS)
    assert set(shown_runs(frame, Layout(("control",)))["variant"]) == {"insert"}
    weights = [run("auxiliary", **{"lambda": weight}) for weight in (0.15, 0.35)]
    frame = runs(*weights)
    spec = spec_of(shown_runs(frame, Layout(("lambda",))), Layout(("lambda",)), [ACCURACY], {})
    assert [row.label for row in spec.rows] == ["λ = 0", "λ = 0.15", "λ = 0.35"]


def test_an_experiment_of_vanilla_runs_shows_them() -> None:
    frame = runs(run("vanilla", data="b", language=None, position=None, layer=math.nan))
    layout = layout_of(frame, None, None)
    assert layout == Layout(("data",), ())
    assert len(shown_runs(frame, layout)) == 2


def test_columns_are_grouped_by_metric_and_rows_are_combinations() -> None:
    frame = runs(*GRID, run(position="5", insert_at=5.0, layer=0.0))
    layout = Layout(("position",), ("layer",))
    spec = spec_of(shown_runs(frame, layout), layout, [ACCURACY, GSNR], {})
    assert [row.label for row in spec.rows] == ["early", "after 5", "end"]
    assert [(c.group, c.label) for c in spec.columns] == [
        ("acc@1 (%)", "layer 0"), ("acc@1 (%)", "layer 7"),
        ("GSNR", "layer 0"), ("GSNR", "layer 7"),
    ]  # fmt: skip
    assert [metric.kind for metric in spec.columns[0].shows] == ["value", "gain", "item test"]


def test_without_a_factor_the_columns_are_the_metrics() -> None:
    frame = runs(*CONTROLS)
    layout = Layout(("control",))
    spec = spec_of(shown_runs(frame, layout), layout, [ACCURACY, ACCURACY.gain], {})
    assert [(c.group, c.label) for c in spec.columns] == [("", "acc@1 (%)"), ("", "gain (points)")]
    assert [len(column.shows) for column in spec.columns] == [3, 1]


def test_combinations_that_no_run_has_are_left_out() -> None:
    frame = runs(run(), run("auxiliary"), run(control="random"))
    layout = Layout(("variant", "control"))
    spec = spec_of(shown_runs(frame, layout), layout, [ACCURACY], {})
    wheres = [(row.where["variant"], row.where["control"]) for row in spec.rows]
    assert wheres == [("insert", "frozen"), ("insert", "random"), ("auxiliary", "frozen")]


def test_a_skip_is_a_row_of_its_own_and_has_no_weight() -> None:
    frame = runs(run(), run("residual"), run("auxiliary"))
    layout = layout_of(frame[frame["variant"] != "vanilla"], None, None)
    assert layout == Layout(("variant",), ())
    spec = spec_of(shown_runs(frame, layout), layout, [ACCURACY], {})
    labels = ["vanilla", "inserted", "inserted with a skip", "auxiliary path"]
    assert [row.label for row in spec.rows] == labels
    inserted = frame["variant"].isin(["insert", "residual"])
    assert frame[inserted]["lambda"].isna().all()
    with pytest.raises(ValueError, match="must be in rows or columns, got variant in neither"):
        shown_runs(frame, Layout(("position",)))


def test_a_run_without_a_cell_is_named() -> None:
    frame = runs(run(), run("auxiliary"))
    layout = Layout(("lambda",), ("variant",))
    with pytest.raises(ValueError, match="every run must have a cell, got none for a_v_l_insert"):
        spec_of(shown_runs(frame, layout), layout, [ACCURACY], {})
