"""Charts: drawn by Vega, each point against the means that pandas takes of the figure's file."""

import html
import io
import re

import numpy as np
import pandas as pd
import pytest
import vl_convert

from rectify.analysis.charts import Shown, Spec, library
from rectify.analysis.collect import Results
from rectify.analysis.runs import Runs
from rectify.targets import module_of
from tests.helpers import synthetic
from tests.helpers.synthetic import LLAMA, VITS, Model, Run

SEEDS = (0, 1)
SHAPE = (4, 3)  # layers, blocks


LINE = re.compile(r'aria-roledescription="line mark"[^>]*stroke-width="([^"]*)"')
MARK = re.compile(r'aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="(\w+)')


def svg(spec: Spec, **chosen: object) -> str:
    """Return what Vega draws with what a reader chose."""
    params = [
        {**one, "value": chosen.get(one["name"], one["value"])} for one in spec.get("params", ())
    ]
    return vl_convert.vegalite_to_svg({**spec, "params": params})


def points(spec: Spec, **chosen: object) -> list[dict[str, str]]:
    """Return what each point or cell says of itself, by its titles."""
    return [
        dict(part.split(": ", 1) for part in html.unescape(text).split("; "))
        for text, kind in MARK.findall(svg(spec, **chosen))
        if kind in ("point", "rect")
    ]


def lines(spec: Spec, **chosen: object) -> int:
    """Return how many lines there are."""
    return len([width for width in LINE.findall(svg(spec, **chosen)) if float(width)])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    """Return what five figures show, of a vanilla run and inserted layers."""
    root, rng = tmp_path_factory.mktemp("results"), np.random.default_rng(0)
    table = rng.random((2, 3, 3, 20))
    given = {
        "accuracy": lambda seed, name: float(rng.random()),
        "gsnr": lambda seed, epoch, block, name: table[seed, epoch, block, len(name)],
        "depth": 3,
        "epochs": 3,
    }
    data, vision = Model("glyphs", "Glyphs", 1), VITS["ViT-S"]
    every = [Run(data, vision, **given)]
    for layer in (1, 3):
        for position in ("early", "end"):
            places = {"language": LLAMA, "layer": layer, "position": position}
            every.append(Run(data, vision, **given, variant="insert", **places))
    folders = [synthetic.write_run(root, run, SEEDS) for run in every]
    similar = [
        synthetic.write_similarity(root, LLAMA, vision, seed, rng.random(SHAPE)) for seed in SEEDS
    ]
    settings, found = Runs(folders, SEEDS).settings, {}
    asked = {"figure4": {"vision": vision.name, "languages": [LLAMA.name]}}
    for kind in ("figure2", "figure2b", "table3", "figure4", "figure5"):
        target = module_of(kind)
        own = folders[::2][:2] if kind.startswith("figure2") else folders  # vanilla and layer 1
        keys = asked.get(kind, {"reads": ["any"]})
        drawn = target.figure(Results(own, SEEDS, similar), target.Settings(**keys))
        runs = settings.loc[[folder.name for folder in own]]
        found[kind] = Shown(drawn.values, runs, "plain")
    return found


@pytest.mark.parametrize("kind", ["figure2", "figure2b", "table3", "figure4", "figure5"])
def test_a_chart_has_every_number_of_its_figure_digit_by_digit(
    shown: dict[str, Shown], kind: str
) -> None:
    spec, values = module_of(kind).chart(shown[kind]), shown[kind].values
    there = pd.read_csv(io.StringIO(spec["data"]["values"]))
    for name in set(values.columns) - {"label"}:
        written = values[name].map("{:.9g}".format) if values[name].dtype == float else values[name]
        read = there[name].map("{:.9g}".format) if values[name].dtype == float else there[name]
        assert list(read.astype("str")) == list(written.astype("str")), name


@pytest.mark.parametrize(("kind", "estimator"), [("figure2", "plain"), ("figure2b", "debiased")])
def test_points_of_curves_are_the_means_over_seeds(
    shown: dict[str, Shown], kind: str, estimator: str
) -> None:
    of = shown[kind]
    spec = module_of(kind).chart(of)
    said = points(spec, estimator=estimator)
    rows = of.values[of.values["estimator"] == estimator]
    means = rows.groupby(["label", "epoch"], as_index=False)[["gsnr", "main_loss"]].mean()
    drawn = {
        (one["run"], int(one["epoch"])): (float(one["GSNR"]), float(one["training loss (nats)"]))
        for one in said
    }
    assert len(drawn) == len(said) == len(means) == 2 * 3
    for _, row in means.iterrows():
        gsnr, loss = drawn[(row["label"], row["epoch"])]
        assert gsnr == pytest.approx(row["gsnr"], rel=1e-6)
        assert loss == pytest.approx(row["main_loss"], abs=1e-4)
    assert {point["seeds"] for point in said} == {"2"}


def test_a_reader_switches_seeds_estimator_and_abscissa(shown: dict[str, Shown]) -> None:
    spec = module_of("figure2").chart(shown["figure2"])
    assert lines(spec) == 2 + 2 * 2  # means, and each seed
    assert lines(spec, seeds=False) == 2
    drawn = {over: svg(spec, over=over) for over in ("epoch", "main_loss")}
    assert ">training loss (nats)<" not in drawn["epoch"]
    assert ">training loss (nats)<" in drawn["main_loss"]


def test_cells_of_table_3_say_what_the_table_says(shown: dict[str, Shown]) -> None:
    of = shown["table3"]
    cells = points(module_of("table3").chart(of))
    said = {(cell["position"], cell["layer"]): cell["acc@1 (%) over seeds"] for cell in cells}
    expected = {
        (row["position"].capitalize(), f"{row['layer']}"): f"{row['mean']:.2f} ± {row['std']:.2f}"
        for _, row in of.values.iterrows()
    }
    assert said == expected


def test_cells_of_figure_4_are_those_of_the_chosen_score(shown: dict[str, Shown]) -> None:
    of = shown["figure4"]
    said = points(module_of("figure4").chart(of), score="cka")
    assert len(said) == SHAPE[0] * SHAPE[1]
    for cell in said:
        here = of.values.query(
            f"language_layer == {cell['layer']} and vision_block == {cell['block']}"
        )
        assert cell["CKA"] == f"{here['cka'].item():.4f}"


def test_points_of_figure_5_are_its_placements(shown: dict[str, Shown]) -> None:
    of = shown["figure5"]
    said = points(module_of("figure5").chart(of))
    expected = {
        (f"{row['layer']}", row["position"], f"{row['similarity']:.4f}")
        for _, row in of.values.iterrows()
    }
    assert {(p["layer"], p["position"], p["similarity"]) for p in said} == expected


@pytest.mark.slow
def test_what_draws_is_one_text_that_can_be_in_a_page() -> None:
    assert "</script" not in library()
    assert 500_000 < len(library()) < 1_500_000
