"""What is it worth to choose layer and position by similarity? Gains and regrets of choices."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd
from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding
from rectify.analysis.metrics import headline
from rectify.analysis.placements import placed, with_placement_gains
from rectify.analysis.printing import spread
from rectify.analysis.published import REGRET
from rectify.analysis.selection import (
    Choice,
    best_choice,
    last_at_the_end,
    outcome,
    placement_similarity,
    predicted_choice,
)
from rectify.results.declared import SCORES_OF_LAYERS
from rectify.targets.contract import ComparedSettings, Score, pairs_of_experiments
from rectify.typed import Name, Several

TITLE = "Choosing layer and position by similarity"
SHOWS = ("table",)


class Settings(ComparedSettings):
    """The experiments whose placements can be chosen, and the scores that choose."""

    kind: Literal["selection"] = "selection"
    reads: Several[Name]
    score: Several[Score] = ("mutual_knn", "cka", "cknna")


similarities = pairs_of_experiments


def table(results: Results, settings: Settings) -> DataFrame:
    """Return gain and regret of what each score would choose, and of choices without similarity.

    Raises:
        ValueError: If a placement has no similarity or lacks a seed, or a run no vanilla run.
    """
    metric = headline(results.runs)
    gains = with_placement_gains(results.runs, metric, "selection")
    choices = _choices(gains, placed(results.similarity, gains, "selection"), settings.score)
    frames = []
    for name, options in choices.items():
        gain, regret = outcome(gains, options)
        frames.append(DataFrame({"choice": name, "gain": gain, "regret": regret}))
    gain = replace(metric.gain, name="gain")
    regret = replace(gain, name="regret", label="regret", kind=REGRET)
    columns = [ColumnSpec(f"gain in {metric.label}", (gain,)), ColumnSpec("regret", (regret,))]
    spec = TableSpec("selection", [RowSpec(name, {"choice": name}) for name in choices], columns)
    return fill(spec, pd.concat(frames, ignore_index=True))


def _choices(
    gains: DataFrame, similarity: DataFrame, scores: Sequence[str]
) -> dict[str, list[Choice]]:
    """Return the placements that each way to choose may choose, by its label."""
    chosen = {
        f"highest {SCORES_OF_LAYERS[score]}": predicted_choice(
            placement_similarity(similarity, gains, score)
        )
        for score in scores
    }
    if usual := last_at_the_end(gains):
        chosen["last layer at the end"] = usual
    places = gains[["layer", "position"]].drop_duplicates().itertuples(index=False)
    every = [Choice(int(layer), position) for layer, position in places]
    best = best_choice(gains)
    return {
        **{_label(name, choice): [choice] for name, choice in chosen.items()},
        f"any of the {len(every)}, at random: expected": every,
        _label("best", best): [best],
    }


def _label(name: str, choice: Choice) -> str:
    at = f"after {choice.position}" if choice.position.isdecimal() else choice.position
    return f"{name} (layer {choice.layer}, {at})"


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return what each choice gains less than the best."""
    regrets = cells[cells["kind"] == REGRET]
    texts = [f"{cell['row']}: {spread(cell)}" for _, cell in regrets.iloc[:-1].iterrows()]
    claim = "Similarity says which layer to insert where"
    unit = regrets["unit"].iloc[0]
    return [Finding(claim, f"Regret in {unit}, to the best placement: {'; '.join(texts)}.")]
