"""Figure 4: similarity of each layer of a language model with each block of a ViT."""

import json
import textwrap
from typing import Literal

from rectify.analysis import charts, drawing, style
from rectify.analysis.charts import Shown, Spec
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.results.declared import SCORES_OF_LAYERS
from rectify.results.tables import Column, Table
from rectify.targets import untrained
from rectify.targets.contract import (
    ComparedSettings,
    Pair,
    Score,
    TargetSettings,
    View,
    check_models,
)
from rectify.typed import Name, Several

TITLE = "Figure 4: similarity of all layers"
SHOWS = ("figure",)
VALUES = Table(
    "figure4",
    "Similarity of each pair of layers, means over seeds.",
    ("language", "language_layer", "vision_block"),
    (
        Column("language", "str", "-", "name of the language model"),
        Column("language_layer", "int64", "-", "layer of the model, from 0; -1: embedding"),
        Column("vision_block", "int64", "-", "ViT block, counted from 0"),
        Column("mutual_knn", "float64", "share, 0..1", "mean share of common neighbours"),
        Column("mutual_knn_calibrated", "float64", "share, 0..1", "0 = best of permuted items"),
        Column("cka", "float64", "-1..1", "unbiased CKA", True),
        Column("cknna", "float64", "-1..1", "CKA over common neighbours", True),
        Column("chance", "float64", "share, 0..1", "expected for unrelated features"),
        Column("seeds", "int64", "1", "seeds behind the mean"),
    ),
)
LETTERS = 100  # of the panels' titles side by side, in a line


class Settings(ComparedSettings):
    """The models whose similarity is shown: language models side by side, one ViT.

    With ``untrained``, models of the shape of the first that were never trained, a table compares
    them with it. They have no panel unless they are among the others, too.
    """

    kind: Literal["figure4"] = "figure4"
    vision: Name
    languages: Several[Name]
    score: Score = "mutual_knn"
    untrained: Several[Name] | None = None


def similarities(settings: Settings, _config: View) -> list[Pair]:
    """Return the ViT with each language model."""
    return [(language, settings.vision) for language in settings.languages]


def derived(settings: Settings) -> dict[str, TargetSettings]:
    """Return the table of the first language model against untrained ones, if some are named."""
    if settings.untrained is None:
        return {}
    kept = {name: getattr(settings, name) for name in ComparedSettings.model_fields}
    asked = {"kind": "untrained", "language": settings.languages[0]}
    models = {"vision": settings.vision, "untrained": settings.untrained}
    return {"untrained": untrained.Settings(**kept | models | asked)}


def check(settings: Settings, config: View, where: str) -> None:
    """Check that the models are known, and the untrained ones of the shape of the first.

    Raises:
        ValueError: One line that begins with ``where``.
    """
    check_models(settings, config, where)
    for table in derived(settings).values():
        untrained.check(table, config, where)


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw the similarity between all layers of a language model and all blocks of a ViT.

    Several language models are side by side, with the same colours for the same values.

    Raises:
        ValueError: If there are no rows, or rows of more than one ViT.
    """
    similarity = results.similarity
    check_some(similarity, "figure4", "a similarity file")
    only(similarity, "vision", "figure4")
    measured = similarity.groupby(["language", "language_layer", "vision_block"], as_index=False)
    values = measured[[*SCORES_OF_LAYERS, "chance"]].mean()
    values["seeds"] = measured["seed"].nunique()["seed"]
    titles = dict(zip(similarity["language"], similarity["language_title"], strict=True))
    languages = [name for name in settings.languages if name in titles]
    scale = drawing.shades(values[[settings.score]])
    with style.look():
        width = style.COLUMN if len(languages) == 1 else style.PAGE
        drawn, panels = drawing.panels(width, 3.1, len(languages), sharey=False)
        for axes, language in zip(panels, languages, strict=True):
            rows = values[values["language"] == language]
            grid = rows.pivot(index="language_layer", columns="vision_block", values=settings.score)
            image = drawing.heat_map(axes, grid, scale, lower=True)
            low, high = grid.index[[0, -1]]  # -1: the embedding, where it counts
            image.set_extent((-0.5, grid.shape[1] - 0.5, low - 0.5, high + 0.5))
            axes.set(xlabel=f"block of {similarity['vision_title'].iloc[0]}", ylabel="layer")
            axes.set_title(textwrap.fill(titles[language], LETTERS // len(languages)))
            drawing.whole_numbers(axes, "x")
            drawing.whole_numbers(axes, "y")
        label = SCORES_OF_LAYERS[settings.score]
        if settings.score == "mutual_knn":  # chance is 0 for the others
            label += f" (chance {values['chance'].mean():.4f})"
        drawn.colorbar(image, ax=panels, pad=0.02, label=label)
        pairs = results.title("data", similarity["pairs"].iloc[0])
        drawn.suptitle(f"{pairs}; {drawing.seeds(similarity)}", fontsize=8.5)
    return Drawn(drawn, values[VALUES.names])


def chart(shown: Shown) -> Spec:
    """Return the grid of one language model for a reader, who chooses model and score.

    All models have the same colours for the same values of a score.
    """
    values, scores = shown.values, [*SCORES_OF_LAYERS]
    models = list(values["language"].unique())
    ends = {name: [values[name].min(), values[name].max()] for name in scores}
    shades = {"domain": {"expr": f"({json.dumps(ends)})[score]"}}
    layer = {"field": "language_layer", "type": "ordinal", "title": "layer", "sort": "descending"}
    names = {"language_layer": "layer", "vision_block": "block", **SCORES_OF_LAYERS}
    return charts.heat_map(
        values,
        {
            "field": "vision_block",
            "type": "ordinal",
            "title": "ViT block",
            "axis": {"labelAngle": 0},
        },
        layer,
        {"field": "shown", "title": None, "scale": shades},
        charts.hover(
            {"language": "model", **names, "chance": "chance of Mutual-KNN", "seeds": "seeds"},
            dict.fromkeys((*scores, "chance"), ".4f"),
        ),
        step=16,
        transform=[
            {"filter": "datum.language == language"},
            {"calculate": "datum[score]", "as": "shown"},
        ],
        params=[
            charts.select("language", models, models[0], "model", models),
            charts.select("score", scores, scores[0], "score", [*SCORES_OF_LAYERS.values()]),
        ],
    )
