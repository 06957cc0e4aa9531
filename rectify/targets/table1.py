"""Table 1: the best Mutual-KNN of two models, by the size of each."""

from collections.abc import Mapping
from typing import Literal

import pandas as pd
from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Results
from rectify.analysis.factors import models
from rectify.analysis.findings import LEVEL, Finding
from rectify.analysis.metrics import Metric
from rectify.analysis.printing import spread
from rectify.analysis.published import NOTHING, Label, match_sizes, printed
from rectify.results.declared import SCORES_OF_LAYERS
from rectify.targets.contract import ComparedSettings, Pair, Score, View, check_models
from rectify.typed import Name, Several

TITLE = "Table 1: similarity by model size"
SHOWS = ("table",)
SCORE = Metric("mutual_knn", "Mutual-KNN", "share")
CALIBRATED = Metric("mutual_knn_calibrated", "calibrated", "share", kind="calibrated")
P = Metric("p_maximum", "p", "-", kind="p")
CHANCE = Metric("chance", "chance", "share", kind="chance")
SHOWN = {
    "mutual_knn": {"": (SCORE, CHANCE), ", calibrated": (CALIBRATED, P)},
    "mutual_knn_calibrated": {", calibrated": (CALIBRATED, P)},
    **{
        name: {f", {SCORES_OF_LAYERS[name]}": (Metric(name, name, "alignment", is_printed=False),)}
        for name in ("cka", "cknna")
    },
}
"""By score: the rows of each ViT, with what is put behind its name, and their metrics."""
PAIRS = "WIT-1024"  # the title of the pairs that the paper compares its models on
NO_LANGUAGE = "-"  # the language model of a chance level
VISIONS = {Label("vit@5.7M"): 5.7e6, Label("vit@22M"): 22e6, Label("vit@86M"): 86e6}
LANGUAGES = {
    Label("LLM@560M"): 560e6,
    Label("LLM@1.1B"): 1.1e9,
    Label("LLM@3B"): 3e9,
    Label("LLM@7B"): 7e9,
}


class Settings(ComparedSettings):
    """The models whose similarity is shown."""

    kind: Literal["table1"] = "table1"
    visions: Several[Name]
    languages: Several[Name]
    score: Score = "mutual_knn"


def similarities(settings: Settings, _config: View) -> list[Pair]:
    """Return every pair of language model and ViT."""
    return [(language, vision) for language in settings.languages for vision in settings.visions]


check = check_models


def table(results: Results, settings: Settings) -> DataFrame:
    """Return the best score over all pairs of layers, by size of ViT and language model.

    Below Mutual-KNN is the calibrated score of the two models, with its p value: both against
    the best pair of layers of permuted items. At the end of the row is the chance level.

    Raises:
        ValueError: If there is no similarity, or two of the same models and seed.
    """
    similarity = results.similarity
    check_some(similarity, "table1", "similarity files")
    visions = _sized(similarity, "vision", VISIONS)
    languages = _sized(similarity, "language", LANGUAGES)
    shown = SHOWN[settings.score]
    rows = [
        RowSpec(f"{label}{suffix}", {"vision": name}, theirs, shows)
        for name, label, theirs in visions
        for suffix, shows in shown.items()
    ]
    metrics = [metric for shows in shown.values() for metric in shows if metric != CHANCE]
    columns = [
        ColumnSpec(label, metrics, {"language": name}, printed=theirs)
        for name, label, theirs in languages
    ]
    if settings.score == SCORE.name:
        columns.append(ColumnSpec("chance", (CHANCE,), {"language": NO_LANGUAGE}))
    pairs = {results.title("data", name) for name in similarity["pairs"]}
    theirs = printed("table1") if pairs == {PAIRS} else NOTHING
    return fill(TableSpec("table1", rows, columns, theirs), _best(similarity))


def _best(similarity: DataFrame) -> DataFrame:
    """Return the highest scores of each pair of models and seed, and each ViT's chance level.

    The p value of two models is that of their best pair of layers, the largest of the seeds'.
    """
    pairs = similarity.groupby(["vision", "language", "seed"], sort=False)
    copies = pairs.size() / pairs[["language_layer", "vision_block"]].nunique().prod(axis=1)
    if (copies > 1).any():
        models = ", ".join(f"{name}" for name in copies.index[copies > 1][0])
        raise ValueError(
            f"table1: each pair of models must be compared once per seed, got {models} twice. "
            "Leave one of the two files out."
        )
    best = pairs[[*SCORES_OF_LAYERS, CHANCE.name]].max()
    best = best.join(pairs[P.name].min()).reset_index()
    best[P.name] = best.groupby(["vision", "language"])[P.name].transform("max")  # over seeds
    chance = best.groupby(["vision", "seed"], as_index=False)[CHANCE.name].max()
    return pd.concat([best, chance.assign(language=NO_LANGUAGE)], ignore_index=True)


def _sized(
    frame: DataFrame, factor: str, theirs: Mapping[Label, float]
) -> list[tuple[str, str, Label | None]]:
    """Return name, title with size, and the paper's model of that size, from the smallest."""
    titles = models(frame, factor)
    parameters = frame.drop_duplicates(factor).set_index(factor)[f"{factor}_parameters"]
    sizes = {name: float(parameters[name]) for name in titles}
    unknown = [name for name, size in sizes.items() if not size > 0]
    if unknown:
        raise ValueError(
            f"table1: each {factor} model must come with its number of parameters, got none of "
            f"{unknown[0]}. Make its features again."
        )
    matched = match_sizes(sizes, theirs)
    return [
        (name, f"{title} ({_size_text(sizes[name])})", matched[name])
        for name, title in titles.items()
    ]


def _size_text(parameters: float) -> str:
    """Return a number of parameters as people say it: 6.7B, 22M, 85k."""
    for factor, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= factor:
            scaled = parameters / factor
            return f"{scaled:.0f}{letter}" if scaled >= 10 else f"{scaled:.2g}{letter}"
    return f"{parameters:.0f}"


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return the similarity of the smallest and largest models, and how many are above chance."""
    values = cells[cells["kind"] == "value"].sort_values(["row_index", "column_index"])
    ends = [values.iloc[0], values.iloc[-1]]
    texts = [f"{cell['row']} with {cell['column']}: {spread(cell)}" for cell in ends]
    p = cells.loc[cells["kind"] == P.kind, "mean"]
    if len(p):
        texts.append(f"above chance with p < {LEVEL} for {(p < LEVEL).sum()} of {len(p)} pairs")
    claim = "Features of vision and language models are the more alike, the larger the models"
    return [Finding(claim, f"{'; '.join(texts)}.")]
