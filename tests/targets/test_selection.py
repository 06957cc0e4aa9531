"""Selection: gains and regrets of choices on made-up results whose regrets are known."""

import pandas as pd
import pytest
from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.printing import to_markdown
from rectify.targets.selection import Settings, figure, table
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="grid")
LAYERS, PLACES = (0, 2), {"early": 0.0, "end": 6.0}
ACCURACY = {  # of seeds 0, 1, 2; vanilla has 0.50, 0.60, 0.40
    (0, "early"): [0.50, 0.60, 0.40],
    (2, "early"): [0.56, 0.65, 0.44],
    (0, "end"): [0.51, 0.59, 0.43],
    (2, "end"): [0.53, 0.62, 0.41],
}
BLOCK = {"early": 0, "end": 5}
SCORES = {  # the highest of each is at another place
    "mutual_knn": {(0, "end"): 0.3},
    "mutual_knn_calibrated": {(2, "early"): 0.3},
    "cka": {(2, "early"): 0.9},
    "cknna": {(0, "early"): 0.2},
}


def made(seeds: int = 3) -> Results:
    """Return the runs with these accuracies, and similarities with these highest scores."""
    both = {"vanilla": [0.5, 0.6, 0.4][:seeds], "frozen": [0.0] * seeds}
    runs = synthetic.seeded(**both)
    frozen = runs[runs["variant"] == "insert"]
    parts = [runs[runs["variant"] == "vanilla"]]
    for (layer, position), values in ACCURACY.items():
        parts.append(
            frozen.assign(
                run=f"{layer}-{position}", layer=float(layer), position=position,
                insert_at=PLACES[position], accuracy=values[:seeds],
            )
        )  # fmt: skip
    rows = [
        {"vision": "vit-s", "language": "llama", "seed": 0, "language_layer": layer,
         "vision_block": block,
         **{score: next((value for (chosen, place), value in best.items()
                         if (chosen, BLOCK[place]) == (layer, block)), 0.1)
            for score, best in SCORES.items()}}
        for layer in range(3) for block in range(6)
    ]  # fmt: skip
    return results_of(runs=pd.concat(parts, ignore_index=True), similarity=DataFrame(rows))


def test_each_choice_has_its_gain_and_its_regret() -> None:
    cells = table(made(), ASKED)
    found = cells.pivot(index="row", columns="kind", values="mean")
    expected = {  # in points; the best gains 5
        "highest Mutual-KNN (layer 0, end)": (1.0, 4.0),
        "highest CKA (layer 2, early)": (5.0, 0.0),
        "highest CKNNA (layer 0, early)": (0.0, 5.0),
        "last layer at the end (layer 2, end)": (2.0, 3.0),
        "any of the 4, at random: expected": (2.0, 3.0),
        "best (layer 2, early)": (5.0, 0.0),
    }
    assert cells["row"].unique().tolist() == list(expected)
    for row, (gain, regret) in expected.items():
        assert found.loc[row, "gain"] == pytest.approx(gain)
        assert found.loc[row, "regret"] == pytest.approx(regret)


def test_regrets_are_paired_by_seed_and_have_an_interval_from_three_seeds() -> None:
    row = table(made(), ASKED).query("row.str.startswith('last') and kind == 'regret'").iloc[0]
    assert (row["std"], row["seeds"]) == (pytest.approx(0.0, abs=1e-9), 3)  # 3, 3, 3 points
    row = table(made(), ASKED).query("row.str.startswith('highest M') and kind == 'regret'")
    row = row.iloc[0]  # 5, 6, 1 points
    half = 4.302653 * 7**0.5 / 3**0.5
    assert (row["mean"], row["std"]) == (pytest.approx(4.0), pytest.approx(7**0.5))
    assert (row["low"], row["high"]) == pytest.approx((4 - half, 4 + half), rel=1e-5)
    two = table(made(2), ASKED)
    assert two["low"].isna().all()
    assert (two["seeds"] == 2).all()


def test_a_random_choice_gains_the_mean_of_all_seed_by_seed() -> None:
    row = table(made(), ASKED).query("row.str.startswith('any') and kind == 'gain'").iloc[0]
    by_seed = [2.5, 1.5, 2.0]  # in points: means of the four placements
    assert row["std"] == pytest.approx(pd.Series(by_seed).std())


def test_the_figure_shows_the_gains_and_regrets_of_the_table() -> None:
    drawn, cells = figure(made(), ASKED), table(made(), ASKED)
    (axes,) = drawn.figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == cells["row"].unique().tolist()
    big = [line for line in axes.get_lines() if line.get_markersize() == 6]
    gains = cells[cells["kind"] == "gain"]
    assert [line.get_xdata()[0] for line in big] == pytest.approx(gains["mean"].tolist())
    assert [line.get_ydata()[0] for line in big] == [0, 1, 2, 3, 4, 5]
    texts = [text.get_text() for text in axes.texts]
    assert [text for text in texts if text.startswith("+4.00")] == ["+4.00 [-2.57, +10.57]"]
    small = [line.get_xdata() for line in axes.get_lines() if line.get_markersize() == 2.5]
    assert sorted(small[1]) == pytest.approx([4.0, 5.0, 6.0])  # seeds of (2, early)
    assert sorted(small[4]) == pytest.approx([0.0, 1.0, 2.0, 5.0])  # placements, chosen at random
    means = drawn.values.groupby(["choice", "seed"])[["gain", "regret"]].mean().groupby("choice")
    for kind in ("gain", "regret"):
        of_kind = cells[cells["kind"] == kind].set_index("row")["mean"]
        assert means[kind].mean().to_dict() == pytest.approx(of_kind.to_dict())


def test_only_the_scores_that_are_asked_for_choose() -> None:
    cells = table(made(), Settings(reads="grid", score="mutual_knn_calibrated"))
    assert cells["row"].unique().tolist()[:2] == [
        "highest calibrated Mutual-KNN (layer 2, early)", "last layer at the end (layer 2, end)",
    ]  # fmt: skip
    assert "+5.00 [" in to_markdown(cells)


def test_without_the_last_layer_at_the_end_there_is_no_such_row() -> None:
    results = made()
    runs = results.runs[results.runs["run"] != "2-end"]
    cells = table(results_of(runs=runs, similarity=results.similarity), ASKED)
    assert not cells["row"].str.startswith("last").any()
    assert "any of the 3, at random: expected" in set(cells["row"])


def test_what_cannot_be_chosen_is_an_error() -> None:
    results = made()
    vanilla = results.runs[results.runs["variant"] == "vanilla"]
    with pytest.raises(ValueError, match="selection: there must be runs of variant insert"):
        table(results_of(runs=vanilla, similarity=results.similarity), ASKED)
    other = results.similarity.assign(vision="vit-b")
    with pytest.raises(ValueError, match="selection: there must be similarity of llama, vit-s"):
        table(results_of(runs=results.runs, similarity=other), ASKED)
