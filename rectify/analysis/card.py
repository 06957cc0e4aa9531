"""The model card of an exported run, for the hub: what it is, how it scores, where it comes from.

Every number is read from the run's files. The interval of the exported weights is over test items,
that of the mean is over seeds: the first speaks of further items, the second of further trainings.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from pandas import DataFrame, Series

from rectify.analysis.collect import TEST, Results
from rectify.analysis.packaged import packaged
from rectify.analysis.statistics import interval, summary
from rectify.controls import CONTROLS, VARIANTS
from rectify.results.declared import ESTIMATORS, SCORES
from rectify.results.files import read_json
from rectify.results.tables import read_note, read_table
from rectify.tasks import metrics_of

COMPLETE = "-"  # group of a set that is scored as one


class Score(NamedTuple):
    """A metric on one test set: of the exported weights, and over the seeds."""

    test_set: str
    label: str
    metric: str
    k: int
    unit: str
    value: float
    items: tuple[float, float] | None
    """95 % interval over test items, of a share over a complete set."""
    mean: float
    seeds: tuple[float, float] | None
    """95 % interval over seeds, from three on."""


def card(results: Results, *, licence: str, language_licence: str | None) -> str:
    """Return the card of one run, in the hub's Markdown with YAML in front.

    Args:
        results: Of this run alone; the first of its seeds is that of the exported weights.
        licence: Of the weights, as the hub calls it.
        language_licence: Of the language model whose layer took part in the training.

    Raises:
        ValueError: If a file is missing, the run is not finished, or a licence is missing or
            of a language model that took no part.
    """
    (folder,) = results.folders
    config, run = read_json(Path(folder) / "config.json"), results.runs.iloc[0]
    _check_licence(config, language_licence)
    rows = list(scores(results))
    title = _title(run)
    data = ModelCardData(
        license=licence,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "rectify"],
        model_name=title,
        eval_results=[_evaluation(row, run) for row in rows if row.test_set == TEST and row.k],
    )
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters |= {"percent": _percent, "ends": _ends}
    template = packaged("card.md.j2")
    return environment.from_string(template).render(
        front=data.to_yaml(),
        title=title,
        run=run,
        config=config,
        control=CONTROLS[config["control"]].title,
        provenance=read_note(Path(folder) / f"seed-{run['seed']}" / "history.csv")["provenance"],
        seeds=list(results.seeds),
        scores=rows,
        gsnr=list(_gsnr(results.runs)),
        licence=licence,
        language_licence=language_licence,
    )


def scores(results: Results) -> Iterator[Score]:
    """Yield each metric on each test set; a shift of several conditions is their plain mean."""
    (folder,) = results.folders
    tables = [
        read_table(SCORES, Path(folder) / f"seed-{seed}/scores.csv") for seed in results.seeds
    ]
    metrics = {one.name: one for one in metrics_of(results.runs["task"].iloc[0])}
    for (name, metric, k), rows in tables[0].groupby(["set", "metric", "k"]):
        means = [_mean(table, (name, metric, k)) for table in tables]
        unit, items = metrics[metric].unit, None
        if unit.startswith("share") and rows["group"].tolist() == [COMPLETE]:
            items = wilson(means[0], int(rows["items"].iloc[0]))
        label = f"{metric}@{k}" if k else metric
        mean = summary(means).mean
        yield Score(name, label, metric, k, unit, means[0], items, mean, interval(means))


def wilson(share: float, items: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of independent items."""
    from scipy import stats

    test = stats.binomtest(round(share * items), items)
    low, high = test.proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def _mean(table: DataFrame, key: tuple[str, str, int]) -> float:
    chosen = (table["set"] == key[0]) & (table["metric"] == key[1]) & (table["k"] == key[2])
    return float(table.loc[chosen, "value"].mean())


def _gsnr(runs: DataFrame) -> Iterator[tuple[str, str, float, float, tuple[float, float] | None]]:
    """Yield estimator, meaning, the value of the exported run, mean and interval over seeds."""
    for name, meaning in ESTIMATORS.items():
        values = runs[f"gsnr_{name}"]
        yield name, meaning, float(values.iloc[0]), summary(values).mean, interval(values)


def _title(run: Series) -> str:
    return f"{run['vision_title']} on {run['data_title']}, {VARIANTS[run['variant']].title}"


def _evaluation(score: Score, run: Series) -> EvalResult:
    return EvalResult(
        task_type="image-classification",
        dataset_type=run["data"],
        dataset_name=run["data_title"],
        dataset_split=score.test_set,
        metric_type=score.metric,
        metric_name=score.label,
        metric_value=score.value,
    )


def _check_licence(config: dict, language_licence: str | None) -> None:
    """Check that the licence of a language model is given where its weights took part."""
    takes_part = config["language"] is not None and CONTROLS[config["control"]].weights
    if takes_part != bool(language_licence):
        whose = f"the licence of {config['language']}" if takes_part else "no licence of a model"
        change = "Give" if takes_part else "Leave out"
        raise ValueError(
            f"export: {config['run']} must come with {whose}, got {language_licence or 'none'}. "
            f"{change} --language-licence."
        )


def _percent(value: float, unit: str) -> str:
    return f"{100 * value:.2f} %" if unit.startswith("share") else f"{value:.4f}"


def _ends(pair: tuple[float, float] | None, unit: str) -> str:
    return "–" if pair is None else f"{_percent(pair[0], unit)} to {_percent(pair[1], unit)}"
