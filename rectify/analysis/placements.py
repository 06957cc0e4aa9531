"""Runs with one language model's layers at places of one ViT: their gains, and their similarity."""

from pandas import DataFrame

from rectify.analysis.checks import check_some, only
from rectify.analysis.factors import FROZEN
from rectify.analysis.metrics import Metric
from rectify.analysis.statistics import with_gains


def with_placement_gains(runs: DataFrame, metric: Metric, target: str) -> DataFrame:
    """Return the runs with a pretrained layer inserted, with their ``gain`` over vanilla.

    Args:
        runs: Rows of `Results.runs`, with the vanilla run.
        metric: Whose gain is taken.
        target: Name of the table or figure, for errors.

    Raises:
        ValueError: If there is none, there are several data sets, ViTs, language models, variants
            or weights, or a run has no vanilla run.
    """
    gains = with_gains(runs, [metric])
    gains = gains[gains["control"] == FROZEN]
    check_some(gains, target, "runs of variant insert")
    for factor in ("data", "vision", "language", "variant", "lambda"):
        only(gains, factor, target)
    return gains.assign(gain=gains[metric.gain.name])


def placed(similarity: DataFrame, gains: DataFrame, target: str) -> DataFrame:
    """Return the similarity of the two models of some runs.

    Raises:
        ValueError: If there is none.
    """
    first = gains.iloc[0]
    same = similarity["vision"] == first["vision"]
    same &= similarity["language"] == first["language"]
    check_some(similarity[same], target, f"similarity of {first['language']}, {first['vision']}")
    return similarity[same]
