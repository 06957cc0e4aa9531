"""Controls: every one that the experiment has is a row, for either path."""

import pytest
from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.controls import CONTROLS
from rectify.targets.controls import Settings, table
from tests.helpers.synthetic import layers_of, results_of, seeded

ASKED = Settings(reads="controls")


def results(runs: DataFrame) -> Results:
    return results_of(runs=runs, gsnr=layers_of(runs))


def test_gain_and_gsnr_are_shown_in_a_fitting_power_of_ten() -> None:
    cells = table(results(seeded(vanilla=[0.5], insert=[0.6], random=[0.45])), ASKED)
    relative = cells[cells["kind"] == "relative gain"].set_index(["row", "column"])["mean"]
    assert relative[CONTROLS["random"].title].to_dict() == pytest.approx(
        {"GSNR": 10, "GSNR gain at equal loss": 10}
    )
    gains = cells[cells["kind"] == "gain"].set_index(["row", "column"])["mean"]
    assert gains[CONTROLS["random"].title, "acc@1"] == pytest.approx(-5)
    assert "vanilla" not in gains.index
    rows = cells[cells["kind"] == "value"].set_index(["row", "column"])
    gsnr = rows.loc[(CONTROLS["frozen"].title, "GSNR")]
    assert (gsnr["unit"], gsnr["scale"], gsnr["mean"]) == ("1", 1e-2, pytest.approx(1.23))
    assert cells["paper"].isna().all()


def test_every_control_is_a_row_in_the_order_of_the_registry() -> None:
    names = [name for name, control in CONTROLS.items() if "insert" in control.variants]
    runs = seeded(**{name: [0.5] for name in ("vanilla", *names[::-1])})
    assert table(results(runs), ASKED)["row"].unique().tolist() == [
        "vanilla", *(CONTROLS[name].title for name in names),
    ]  # fmt: skip


def test_controls_of_the_auxiliary_path_are_shown_likewise() -> None:
    runs = seeded(vanilla=[0.5], auxiliary=[0.6], head=[0.55], random=[0.5])
    runs.loc[runs["variant"] == "insert", "variant"] = "auxiliary"
    cells = table(results(runs), ASKED)
    assert cells["row"].unique().tolist() == [
        "vanilla", *(CONTROLS[name].title for name in ("frozen", "random", "head")),
    ]  # fmt: skip


def test_controls_of_several_variants_are_rows_that_say_which() -> None:
    runs = seeded(vanilla=[0.5], residual=[0.6], insert=[0.4], random=[0.3], adapter=[0.2])
    runs.loc[runs["run"] == "adapter", "variant"] = "residual"
    cells = table(results(runs), ASKED)
    assert cells["row"].unique().tolist() == [
        "vanilla",
        "inserted: frozen layer",
        "inserted: random frozen layer",
        "inserted with a skip: frozen layer",
        "inserted with a skip: adapters alone",
    ]
    values = cells[cells["kind"] == "value"].set_index(["row", "column"])["mean"]
    assert [values[row, "acc@1"] for row in cells["row"].unique()] == pytest.approx(
        [50, 40, 30, 60, 20]
    )
    alone = table(results(runs[runs["variant"].isin(["vanilla", "residual"])]), ASKED)
    assert alone["row"].unique().tolist() == ["vanilla", "frozen layer", "adapters alone"]


def test_a_control_that_is_not_registered_is_an_error() -> None:
    with pytest.raises(ValueError, match="control: must be a known control, got 'lora'"):
        table(results(seeded(vanilla=[0.5], lora=[0.6])), ASKED)
