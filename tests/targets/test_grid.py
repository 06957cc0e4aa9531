"""Any experiment: values and paired gains by its factors, its heat maps, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rectify.analysis.coherence import gains
from rectify.analysis.collect import Results
from rectify.analysis.published import HOLM
from rectify.controls import CONTROLS
from rectify.targets.figure5 import Settings as SimilaritySettings
from rectify.targets.grid import Settings, check, derived, figure, table
from tests.helpers import synthetic
from tests.helpers.printed import INSERTED
from tests.helpers.synthetic import Model, Run

ROOMS = Model("rooms", "Rooms", 0)


def results(demo: synthetic.Made, *starts: str, without: str = "opt", **labels: object) -> Results:
    """Return the glyph runs of the small ViT, vanilla and those that start so."""
    folders = [
        folder for folder in demo.runs
        if folder.name.removeprefix("glyphs_vit-s_").startswith(("vanilla", *starts))
        and without not in folder.name
    ]  # fmt: skip
    return Results(folders, [0, 1], **labels)


@pytest.fixture(scope="module")
def grid(demo: synthetic.Made) -> Results:
    """Return the vanilla run and insertions of all layers and positions."""
    return results(demo, "insert_llama")


@pytest.fixture(scope="module")
def weights(demo: synthetic.Made) -> Results:
    """Return the vanilla run and auxiliary training with all weights."""
    return results(demo, "auxiliary")


def by_hand(demo_results: Results, run: str, column: str) -> tuple[float, float]:
    """Return the mean of a run and its mean gain over vanilla."""
    values = demo_results.runs.set_index(["run", "seed"])[column]
    ours = [values[run, seed] for seed in (0, 1)]
    theirs = [values["glyphs_vit-s_vanilla", seed] for seed in (0, 1)]
    return sum(ours) / 2, sum(a - b for a, b in zip(ours, theirs, strict=True)) / 2


@pytest.mark.slow
def test_each_cell_has_the_value_and_the_gain_of_its_run(grid: Results) -> None:
    cells = table(grid, Settings(reads="grid")).set_index(["row", "column", "kind"])
    assert len(cells) == 4 * 15  # values, gains, tests, and these after Holm
    for position, layer in (("early", 0), ("middle", 5), ("end", 7)):
        run = f"glyphs_vit-s_insert_llama-xl_layer-{layer}_{position}"
        mean, gain = by_hand(grid, run, "accuracy")
        place = (position, f"layer {layer}")
        assert cells.loc[(*place, "value"), "mean"] == pytest.approx(100 * mean)
        assert cells.loc[(*place, "gain"), "mean"] == pytest.approx(100 * gain)
        assert cells.loc[(*place, "gain"), "unit"] == "points"


def test_rows_and_columns_can_be_turned(grid: Results) -> None:
    turned = table(grid, Settings(reads="grid", rows="layer"))
    assert turned["row"].unique().tolist() == [f"layer {n}" for n in (0, 2, 3, 5, 7)]
    assert turned["column"].unique().tolist() == ["early", "middle", "end"]
    plain = table(grid, Settings(reads="grid")).set_index(["column", "row", "kind"])["mean"]
    assert plain.sort_index().tolist() == (
        turned.set_index(["row", "column", "kind"])["mean"].sort_index().tolist()
    )


def test_several_metrics_are_groups_of_columns(demo: synthetic.Made) -> None:
    settings = Settings(reads="grid", metric=["gsnr", "accuracy", "test_loss"])
    grid = results(demo, "insert_llama", estimator="debiased")
    cells = table(grid, settings)
    groups = cells.sort_values("column_index")["group"].unique().tolist()
    at_loss = "GSNR gain at equal loss"
    assert groups == ["GSNR", f"{at_loss} (%)", "acc@1 (%)", "test loss (nats)"]
    gsnr = cells[(cells["group"] == "GSNR") & (cells["kind"] == "value")]
    place = gsnr.set_index(["row", "column"]).loc[("end", "layer 7")]
    mean, _ = by_hand(grid, "glyphs_vit-s_insert_llama-xl_layer-7_end", "gsnr_debiased")
    assert place["mean"] * place["scale"] == pytest.approx(mean)
    own = gains(grid.gsnr).groupby(["run", "estimator"])["relative_loss"].mean()
    shown = cells[cells["group"].str.startswith(at_loss)].set_index(["row", "column"])
    expected = own["glyphs_vit-s_insert_llama-xl_layer-7_end", "debiased"]
    assert shown.loc[("end", "layer 7"), "mean"] == pytest.approx(100 * expected)
    assert set(shown["kind"]) == {"relative gain"}


@pytest.mark.slow
def test_the_gain_at_equal_loss_can_be_shown_alone(grid: Results) -> None:
    asked = Settings(reads="grid", metric="gsnr_at_equal_loss")
    cells = table(grid, asked)
    assert cells["group"].unique().tolist() == ["GSNR gain at equal loss (%)"]
    (values,) = (axes.get_images()[0].get_array() for axes in figure(grid, asked).figure.axes[:1])
    assert np.array_equal(values.ravel(), cells["mean"])


def test_vanilla_runs_alone_have_no_gain_at_any_loss(demo: synthetic.Made) -> None:
    cells = table(results(demo), Settings(reads="grid", metric="gsnr"))
    assert cells["kind"].tolist() == ["value"]


def test_a_gain_in_a_loss_is_positive_where_the_loss_is_lower(grid: Results) -> None:
    cells = table(grid, Settings(reads="grid", metric="test_loss"))
    run = "glyphs_vit-s_insert_llama-xl_layer-7_end"
    _, difference = by_hand(grid, run, "test_loss")
    gain = cells[cells["kind"] == "gain"].set_index(["row", "column"])["mean"]
    assert gain["end", "layer 7"] == pytest.approx(-difference)
    assert difference < 0


def test_controls_are_rows_and_metrics_are_columns(demo: synthetic.Made) -> None:
    controls = results(demo, "insert_llama-xl_layer-7_end", "insert-")
    cells = table(controls, Settings(reads="c", metric=["accuracy", "gain"]))
    names = [name for name in CONTROLS if name in ("frozen", "random", "tuned", "adapter", "mlp")]
    assert cells["row"].unique().tolist() == [CONTROLS[name].title for name in names]
    assert cells["column"].unique().tolist() == ["acc@1 (%)", "gain (points)"]
    gains = cells[cells["kind"] == "gain"].pivot(index="row", columns="column", values="mean")
    assert gains["acc@1 (%)"].tolist() == gains["gain (points)"].tolist()


def test_vanilla_is_a_row_where_variants_are(demo: synthetic.Made) -> None:
    settings = Settings(reads="v", rows="variant", columns="data")
    folders = [f for f in demo.runs if "vit-b" in f.name]
    cells = table(Results(folders, [0, 1]), settings)
    assert cells["row"].unique().tolist() == ["vanilla", cells["row"].iloc[-1]]
    assert set(cells[cells["row"] == "vanilla"]["kind"]) == {"value"}


def test_weights_have_the_vanilla_run_as_zero(weights: Results) -> None:
    cells = table(weights, Settings(reads="w"))
    assert cells["row"].unique().tolist() == [
        f"λ = {w}" for w in ("0", "0.15", "0.25", "0.35", "0.45")
    ]


def test_a_factor_in_neither_rows_nor_columns_is_named_in_one_line(grid: Results) -> None:
    settings = Settings(reads="g", rows="position", columns="control")
    with pytest.raises(ValueError, match="got layer in neither") as error:
        table(grid, settings)
    assert "\n" not in f"{error.value}"


def test_a_metric_that_no_run_has_is_named(grid: Results) -> None:
    with pytest.raises(ValueError, match="that the runs have, got 'corruption_error'"):
        table(grid, Settings(reads="g", metric="corruption_error"))


def test_no_runs_are_an_error() -> None:
    with pytest.raises(ValueError, match="grid: there must be runs, got none"):
        table(Results(), Settings(reads="g"))


def test_the_heat_maps_show_the_first_metric_and_its_gain(grid: Results) -> None:
    drawn = figure(grid, Settings(reads="g", metric=["accuracy", "gsnr"]))
    values, gains = (axes.get_images()[0].get_array() for axes in drawn.figure.axes[:2])
    means = drawn.values.pivot(index=["row_index", "column_index"], columns="kind", values="mean")
    assert np.array_equal(values.ravel(), means["value"])
    assert np.array_equal(gains.ravel(), means["gain"])
    low, high = drawn.figure.axes[1].get_images()[0].get_clim()
    assert low == -high
    vanilla = grid.runs[grid.runs["variant"] == "vanilla"]["accuracy"].mean()
    title = f"LLaMA 8x128, ViT-64, Glyphs-100; vanilla {100 * vanilla:.2f}; n = 2 seeds"
    assert drawn.figure.get_suptitle() == title


def test_the_values_of_the_heat_maps_are_those_that_are_drawn(grid: Results) -> None:
    drawn = figure(grid, Settings(reads="g", metric=["accuracy", "gsnr"]))
    assert set(drawn.values["kind"]) == {"value", "gain"}  # p values are corrected in the table


def test_what_no_model_has_a_part_in_is_neither_a_gain_nor_tested(tmp_path: Path) -> None:
    def run(share: float, **settings: object) -> Run:
        scores = {("em", 1): share, ("by_type", 0): 0.25, ("question_alone", 0): 0.4}
        return Run(
            ROOMS, Model("sqa3d", "SQA3D", 1e6), lambda *_: 0.0, lambda *_: 1e-3,
            task="situated_question_answering", scores=scores, **settings,
        )  # fmt: skip

    auxiliary = INSERTED | {"variant": "auxiliary", "lambda_init": 0.35}
    runs = [run(0.5), run(0.6, **INSERTED), run(0.4, **auxiliary)]
    asked = Settings(reads="r", rows="variant", metric=["em", "question_alone", "by_type"])
    cells = table(synthetic.collected(tmp_path, runs, seeds=(0, 1)), asked)
    kinds = cells.groupby("column")["kind"].agg(set).to_dict()
    compared = {"value", "gain", "item test", HOLM}
    assert kinds == {
        "exact match (%)": compared, "question alone (%)": {"value"},
        "one answer per type (%)": {"value"},
    }  # fmt: skip
    tests, corrected = (cells[cells["kind"] == kind]["mean"] for kind in ("item test", HOLM))
    assert len(tests) == len(corrected) == 2
    assert corrected.tolist() == pytest.approx((2 * tests).tolist())


def test_a_row_without_gains_keeps_its_place_in_the_heat_map(weights: Results) -> None:
    drawn = figure(weights, Settings(reads="w"))
    values, gains = (axes.get_images()[0].get_array() for axes in drawn.figure.axes[:2])
    assert values.shape == gains.shape == (5, 1)
    assert np.isnan(np.ma.filled(gains, np.nan)[0, 0])
    names = [tick.get_text() for tick in drawn.figure.axes[0].get_yticklabels()]
    assert names[0] == "λ = 0"


def test_wide_heat_maps_are_stacked(grid: Results) -> None:
    wide = figure(grid, Settings(reads="g", columns=["position", "layer"]))
    tops = [axes.get_subplotspec().rowspan.start for axes in wide.figure.axes[:2]]
    assert tops == [0, 1]


def test_its_similarity_is_a_figure_of_its_own_where_it_is_asked_for() -> None:
    assert derived(Settings(reads="g")) == {}
    asked = Settings(reads="g", similarity=True)
    assert derived(asked) == {"similarity": SimilaritySettings(reads="g")}


def experiment(**factors: object) -> SimpleNamespace:
    usual = {
        "data": ("a",), "vision": ("v",), "variant": ("insert",), "language": ("l",),
        "control": None, "layer": (0, 7), "position": ("early", "5"), "weights": None,
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **factors})


def checked(settings: Settings, **experiments: SimpleNamespace) -> None:
    data = {"a": SimpleNamespace(task="image_classification")}
    config = SimpleNamespace(experiments=experiments, data=data, visions={}, languages={})
    check(settings, config, "config: targets.mine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": "layer", "columns": "control"}, "got position in neither. Add it"),
        ({"rows": "lambda"}, "must be factors that the experiments have, got lambda"),
        (
            {"metric": ["acuracy"]},
            r"mine.metric: .* got 'acuracy'. Did you mean accuracy\?",
        ),
    ],
)
def test_what_cannot_be_shown_is_told_before_any_job(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        checked(Settings(reads="x", **settings), x=experiment())
    assert f"{error.value}".startswith("config: targets.mine")


def test_what_can_be_shown_passes() -> None:
    checked(Settings(reads="x"), x=experiment())
    checked(Settings(reads="x", rows="layer", columns="position"), x=experiment())
    checked(
        Settings(reads="x", metric=["accuracy_c", "accuracy_topk", "gsnr", "gain"]), x=experiment()
    )
    weights = experiment(variant=("auxiliary",), weights=(0.0, 0.35), layer=None, position=None)
    checked(Settings(reads="x", rows="data", columns="vision"), x=weights)  # 0 is the vanilla run
