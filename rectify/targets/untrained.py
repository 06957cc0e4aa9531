"""Similarity of a pretrained language model against that of untrained ones of its shape."""

from typing import Literal

import pandas as pd
from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.draws import Difference, difference
from rectify.analysis.findings import Finding
from rectify.analysis.metrics import Metric
from rectify.analysis.printing import number, spread
from rectify.analysis.published import DIFFERENCE
from rectify.targets.contract import ComparedSettings, Pair, View, check_models
from rectify.typed import Name, Several

TITLE = "Similarity of a pretrained language model and of untrained ones"
SHOWS = ("table",)
SCORE = Metric("mutual_knn", "Mutual-KNN", "share")
MORE = Metric("difference", "difference", "share", kind=DIFFERENCE)


class Settings(ComparedSettings):
    """The pretrained language model, untrained ones of its shape, and the ViT."""

    kind: Literal["untrained"] = "untrained"
    vision: Name
    language: Name
    untrained: Several[Name]


def similarities(settings: Settings, _config: View) -> list[Pair]:
    """Return the ViT with each language model."""
    return [(name, settings.vision) for name in (settings.language, *settings.untrained)]


def check(settings: Settings, config: View, where: str) -> None:
    """Check that the models are known, and the untrained ones others with as many layers.

    Raises:
        ValueError: One line that begins with ``where``.
    """
    check_models(settings, config, where)
    layers = config.languages[settings.language].layers
    for name in settings.untrained:
        if name == settings.language:
            raise ValueError(
                f"{where}.untrained: must be other models than {name}, which they are compared "
                "with. Leave it out."
            )
        if config.languages[name].layers != layers:
            raise ValueError(
                f"{where}.untrained: must have the {layers} layers of {settings.language}, got "
                f"{name} with {config.languages[name].layers}. Name one of its shape."
            )


def table(results: Results, settings: Settings) -> DataFrame:
    """Return the best Mutual-KNN over layers, at the best block of the ViT and at its last.

    Each model has, with each ViT, its largest score over the same pairs of layers; untrained models
    are averaged. The interval of the difference is that of ``draws.difference``.

    Raises:
        ValueError: If there is no similarity, of several ViTs, or not of each model with each seed,
            or if two untrained models are the same.
    """
    similarity = results.similarity
    check_some(similarity, "untrained", "similarity files")
    only(similarity, "vision", "untrained")
    _check_complete(similarity, settings)
    _check_drawn_apart(similarity, settings)
    last = similarity[similarity["vision_block"] == similarity["vision_block"].max()]
    compared = {"best": _compared(similarity, settings), "last": _compared(last, settings)}
    frames = [frame.assign(place=place) for place, (frame, _) in compared.items()]
    title = similarity.loc[similarity["language"] == settings.language, "language_title"].iloc[0]
    columns = [
        ColumnSpec(title, (SCORE,), {"side": "pretrained"}),
        ColumnSpec(_count(len(settings.untrained), "untrained model"), (SCORE,), {"side": "draws"}),
        ColumnSpec("difference", (MORE,), {"side": "difference"}),
    ]
    vision = similarity["vision_title"].iloc[0]
    rows = [RowSpec(f"{place} block of {vision}", {"place": place}) for place in compared]
    cells = fill(TableSpec("untrained", rows, columns), pd.concat(frames, ignore_index=True))
    for index, (_, found) in enumerate(compared.values()):
        is_here = (cells["row_index"] == index) & (cells["kind"] == MORE.kind)
        cells.loc[is_here, ["low", "high"]] = found.low, found.high
    return cells


def _compared(rows: DataFrame, settings: Settings) -> tuple[DataFrame, Difference]:
    """Return the best scores, a row for each ViT and side, and the difference of the two sides."""
    best = rows.loc[rows.groupby(["language", "seed"])[SCORE.name].idxmax()]
    scores, errors = (
        best.pivot(index="language", columns="seed", values=name)
        for name in (SCORE.name, f"{SCORE.name}_error")
    )
    ours, theirs = settings.language, list(settings.untrained)
    sides = [one.loc[which].to_numpy() for one in (scores, errors) for which in (ours, theirs)]
    model, draws = scores.loc[ours], scores.loc[theirs].mean()
    parts = [
        DataFrame({SCORE.name: model, "side": "pretrained"}),
        DataFrame({SCORE.name: draws, "side": "draws"}),
        DataFrame({MORE.name: model - draws, "side": "difference"}),
    ]
    return pd.concat(parts, ignore_index=True), difference(*sides)


def _check_complete(similarity: DataFrame, settings: Settings) -> None:
    """Check that each model was compared once, layer by layer, with the ViT of each seed."""
    place = ["language_layer", "vision_block"]
    expected = similarity[place].drop_duplicates().sort_values(place).to_numpy().tolist()
    for name in (settings.language, *settings.untrained):
        for seed in similarity["seed"].unique():
            rows = similarity[(similarity["language"] == name) & (similarity["seed"] == seed)]
            if rows[place].sort_values(place).to_numpy().tolist() != expected:
                raise ValueError(
                    f"untrained: each model must have each of {len(expected)} pairs of layers once "
                    f"with each seed, got {len(rows)} of {name} with seed {seed}. Name models of "
                    "one shape, and no file twice."
                )


def _check_drawn_apart(similarity: DataFrame, settings: Settings) -> None:
    """Check that no two untrained models have the same weights, and so the same scores."""
    place = ["seed", "language_layer", "vision_block"]
    scores = similarity.pivot(index="language", columns=place, values=SCORE.name)
    same = scores.loc[list(settings.untrained)].duplicated(keep=False)
    if same.any():
        names = " and ".join(same[same].index)
        raise ValueError(
            f"untrained: untrained models must be drawn apart, got {names} with the same scores "
            "everywhere. Draw them with different seeds."
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return both scores and their difference at each place, and what its interval excludes."""
    texts = []
    for _, row in cells.groupby("row_index"):
        ours, theirs, more = (cell for _, cell in row.sort_values("column_index").iterrows())
        verdict = "no difference is seen"
        if more["low"] > 0:
            verdict = "more similar"
        elif more["high"] < 0:
            verdict = "less similar"
        scores = " against ".join(number(cell, "mean") for cell in (ours, theirs))
        texts.append(f"{more['row']}: {verdict}, {scores}, difference {spread(more)}")
    claim = f"Layers of {ours['column']} are more similar to a ViT's than untrained ones"
    behind = f"{_count(int(ours['seeds']), 'ViT')}, {theirs['column']}"
    return [Finding(claim, f"{'; '.join(texts)} ({behind}).")]
