"""A pretrained language model against untrained ones: its cells by loops, its findings, errors."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rectify import targets
from rectify.analysis.collect import Results
from rectify.analysis.printing import to_markdown
from rectify.results.declared import CELLS
from rectify.targets.figure4 import Settings as Figure4
from rectify.targets.figure4 import check, derived
from rectify.targets.untrained import Settings, findings, similarities, table
from tests.analysis.test_draws import slowly
from tests.helpers import synthetic
from tests.helpers.synthetic import VITS, Model

SMOL = Model("smol", "SmolLM2", 1.3e8)
DRAWS = [Model(f"draw-{n}", f"Untrained {n}", 1.3e8) for n in range(3)]
ASKED = Settings(vision="vit-s", language="smol", untrained=[model.name for model in DRAWS])


def results(folder: Path, level: float, seeds: int = 2, draws: int = 3) -> Results:
    """Return made-up similarity of 5 layers with 4 blocks; that of the pretrained is higher."""
    rng = np.random.default_rng(3)
    files = []
    for model in (SMOL, *DRAWS[:draws]):
        for seed in range(seeds):
            grid = rng.uniform(0.02, 0.05, (5, 4)) + (level if model is SMOL else 0)
            files.append(synthetic.write_similarity(folder, model, VITS["ViT-S"], seed, grid))
    frame = synthetic.compared(files).similarity
    frame["mutual_knn_error"] = rng.uniform(0.001, 0.003, len(frame))
    return synthetic.results_of(similarity=frame)


def slow_row(frame: pd.DataFrame, blocks: set[int], draws: int, seeds: int) -> tuple:
    """Return the model's mean, the draws' mean, and the difference with its interval."""
    best: dict[tuple[str, int], tuple[float, float]] = {}
    for row in frame.itertuples():
        place = (row.language, row.seed)
        if row.vision_block in blocks and row.mutual_knn > best.get(place, (0.0,))[0]:
            best[place] = (row.mutual_knn, row.mutual_knn_error)
    model = [best["smol", seed] for seed in range(seeds)]
    others = [[best[f"draw-{n}", seed] for seed in range(seeds)] for n in range(draws)]
    found = slowly(
        [score for score, _ in model],
        [[score for score, _ in one] for one in others],
        [error for _, error in model],
        [[error for _, error in one] for one in others],
    )
    ours = sum(score for score, _ in model) / seeds
    return ours, ours - found[0], found[0], found[2], found[3]


@pytest.mark.parametrize(("draws", "seeds"), [(3, 2), (1, 1), (2, 3)])
def test_the_cells_are_those_of_loops_over_the_rows(tmp_path: Path, draws: int, seeds: int) -> None:
    given = results(tmp_path, 0.03, seeds, draws)
    asked = ASKED.model_copy(update={"untrained": ASKED.untrained[:draws]})
    cells = table(given, asked)
    assert cells["row"].unique().tolist() == ["best block of ViT-S", "last block of ViT-S"]
    untrained = f"{draws} untrained model" + "s" * (draws > 1)
    assert cells["column"].unique().tolist() == ["SmolLM2", untrained, "difference"]
    for index, blocks in enumerate(({0, 1, 2, 3}, {3})):
        row = cells[cells["row_index"] == index].sort_values("column_index")
        expected = slow_row(given.similarity, blocks, draws, seeds)
        assert row["mean"].tolist() == pytest.approx(expected[:3])
        assert row.iloc[2][["low", "high"]].tolist() == pytest.approx(expected[3:])
        assert row["kind"].tolist() == ["value", "value", "difference"]
        assert set(row["seeds"]) == {seeds}
    assert cells["low"].notna().sum() == 2


def test_the_table_says_of_what_its_intervals_are(tmp_path: Path) -> None:
    cells = table(results(tmp_path, 0.03), ASKED)
    text = to_markdown(cells)
    assert "differences with 95 % intervals over items, and over models and seeds" in text
    assert "vanilla" not in text
    assert f"[{cells['low'].iloc[2]:+.4f}, {cells['high'].iloc[2]:+.4f}]" in text


@pytest.mark.parametrize(
    ("level", "verdict"),
    [(0.03, "more similar"), (0.0, "no difference is seen"), (-0.018, "less similar")],
)
def test_findings_say_what_the_interval_excludes(
    tmp_path: Path, level: float, verdict: str
) -> None:
    cells = table(results(tmp_path, level), ASKED)
    (finding,) = findings(cells, None)
    assert finding.claim == "Layers of SmolLM2 are more similar to a ViT's than untrained ones"
    texts = []
    for place in ("best", "last"):
        row = cells[cells["row"] == f"{place} block of ViT-S"]
        ours, theirs, more = row["mean"]
        low, high = row[["low", "high"]].iloc[2]
        texts.append(
            f"{place} block of ViT-S: {verdict}, {ours:.4f} against {theirs:.4f}, difference "
            f"{more:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
    assert finding.found == f"{'; '.join(texts)} (2 ViTs, 3 untrained models)."


def config() -> SimpleNamespace:
    """Return a configuration with three language models, as far as a target asks for it."""
    layers = {"smol": 5, "draw-0": 5, "small": 4}
    return SimpleNamespace(
        experiments={},
        data={},
        visions={"vit-s": None},
        languages={name: SimpleNamespace(layers=count) for name, count in layers.items()},
    )


def test_figure_4_brings_the_table_where_untrained_models_are_named() -> None:
    names = {"vision": "vit-s", "languages": ["smol", "other"], "pairs": "emoji", "note": "Seen."}
    assert derived(Figure4(**names)) == {}
    (found,) = derived(Figure4(**names, untrained=["a", "b"], vision_features="trained")).items()
    expected = Settings(
        vision="vit-s", language="smol", untrained=["a", "b"], pairs="emoji", note="Seen.",
        vision_features="trained",
    )  # fmt: skip
    assert found == ("untrained", expected)
    assert similarities(expected, config()) == [("smol", "vit-s"), ("a", "vit-s"), ("b", "vit-s")]


@pytest.mark.parametrize(
    ("untrained", "message"),
    [
        ("smol", "must be other models than smol"),
        ("small", "must have the 5 layers of smol, got small with 4"),
        ("draw", "must be a name under languages, got 'draw'. Did you mean draw-0"),
    ],
)
def test_untrained_models_of_another_shape_are_one_line(untrained: str, message: str) -> None:
    asked = Figure4(vision="vit-s", languages="smol", untrained=untrained)
    with pytest.raises(ValueError, match=rf"^targets\.f\.untrained: {message}") as caught:
        check(asked, config(), "targets.f")
    assert "\n" not in f"{caught.value}"
    check(asked.model_copy(update={"untrained": ("draw-0",)}), config(), "targets.f")


def test_a_model_without_a_seed_is_one_line(tmp_path: Path) -> None:
    frame = results(tmp_path, 0.03).similarity
    rows = frame[(frame["language"] != "draw-1") | (frame["seed"] != 1)]
    message = "untrained: each model must have each of 20 pairs of layers once .* got 0 of draw-1"
    for wrong in (rows, frame[frame["language"] != "smol"], pd.concat([frame, frame])):
        with pytest.raises(ValueError, match="untrained: each model must have each of 20"):
            table(synthetic.results_of(similarity=wrong), ASKED)
    with pytest.raises(ValueError, match=message):
        table(synthetic.results_of(similarity=rows), ASKED)
    with pytest.raises(ValueError, match="untrained: there must be similarity files, got none"):
        table(Results(), ASKED)


def test_the_same_draw_twice_is_one_line(tmp_path: Path) -> None:
    frame = results(tmp_path, 0.03).similarity
    rows = [frame[frame["language"] == name] for name in ("smol", "draw-0", "draw-1")]
    rows.append(rows[1].assign(language="draw-2"))
    message = "^untrained: untrained models must be drawn apart, got draw-0 and draw-2 with"
    with pytest.raises(ValueError, match=message) as caught:
        table(synthetic.results_of(similarity=pd.concat(rows, ignore_index=True)), ASKED)
    assert "\n" not in f"{caught.value}"


def test_its_cells_are_a_table_of_cells(tmp_path: Path) -> None:
    cells = table(results(tmp_path, 0.03), ASKED)
    assert cells.columns.tolist() == CELLS.names
    assert targets.module_of("untrained").SHOWS == ("table",)
