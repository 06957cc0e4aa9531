"""From the files of finished runs to tidy frames: one row per run and seed.

Settings come from ``config.json``, titles from ``labels.json``, scores from ``scores.csv`` (a
shift with several corruptions and severities counts as their plain mean; mCE is next to it),
losses of the last epoch and the best of all epochs from ``history.csv``, and GSNR from
``gsnr.csv``, averaged over epochs (Eq. 7) and then over ViT blocks. Shares stay shares, 0 .. 1.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame, Series
from safetensors import SafetensorError
from safetensors.numpy import load_file

from rectify.analysis.checks import only
from rectify.analysis.robustness import mean_corruption_error
from rectify.analysis.scenes import Forecasts, read_forecasts
from rectify.data.rows import schema
from rectify.results.declared import (
    BEST,
    COST,
    ESTIMATORS,
    FILTERING,
    GSNR,
    HISTORY,
    LAST,
    SCORES,
    SIMILARITY,
)
from rectify.results.files import read_json
from rectify.results.tables import read_note, read_table
from rectify.tasks import metrics_of

Value = str | float | int | None

TEST = "test"  # the plain test set; every other set is a shift
PREDICTIONS = "predictions.parquet"
LOSSES = ("train_loss", "main_loss")  # of a history, taken from its last epoch
SETTINGS = (
    *("run", "task", "data", "data_title", "fraction"),
    *("vision", "vision_title", "variant", "control"),
    *("language", "language_title", "layer", "position", "insert_at", "depth", "lambda", "seed"),
)
FACTS = (
    *("pairs", "language", "language_parameters"),
    *("vision", "vision_parameters", "pretrained", "seed", "k", "items", "chance"),
)
SUMS = ("signal", "noise", "agreement")
MODELS = ("vision", "language")
SHOWN = ("language_title", "vision_title")


class Maps(NamedTuple):
    """What ``rectify.filtering.measure`` kept for pictures of one run: arrays by name."""

    run: Series
    """The settings, as a row of `Results.runs`."""
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Results:
    """What a table or figure is made of; a file is read when one of its frames is asked for."""

    folders: Sequence[Path] = ()
    """Run folders: config.json, labels.json and seed-<s>/{history,gsnr,scores}.csv."""
    seeds: Sequence[int] = ()
    """Seeds that every run must have finished."""
    similarity_files: Sequence[Path] = ()
    cost_files: Sequence[Path] = ()
    sets: Sequence[Path] = ()
    """Folders of prepared sets, each called as its set."""
    estimator: str = "plain"
    """The estimator of GSNR that is shown."""
    report: str = LAST
    """The epoch whose headline metric is shown: `REPORTS`."""
    order: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of ``data``, ``vision`` and ``language``, each as the configuration lists them."""
    titles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Titles of ``data``, ``vision`` and ``language`` by name."""

    def __post_init__(self) -> None:
        """Check that nothing counts twice: of one seed would be two.

        Raises:
            ValueError: If a run, a seed, or another file is given again.
        """
        for what, given in (
            ("run", [Path(folder).name for folder in self.folders]),
            ("seed", self.seeds),
            ("similarity table", [Path(file).resolve() for file in self.similarity_files]),
            ("cost table", [Path(file).resolve() for file in self.cost_files]),
        ):
            again = [one for one, times in Counter(given).items() if times > 1]
            if again:
                raise ValueError(
                    f"results: each {what} must be given once, got {again[0]} twice. Leave one out."
                )

    @cached_property
    def runs(self) -> DataFrame:
        """Settings and metrics, one row per run and seed.

        A metric has the columns ``<metric>`` (of the best answer where several may count),
        ``<metric>_topk`` (of the ``k`` best) and ``<metric>_<shift>``; the task's first metric has
        ``<metric>_last`` and ``<metric>_best``, and ``<metric>`` is the one that is reported. The
        others are ``test_loss``, ``train_loss``, ``main_loss``, ``corruption_error`` and
        ``gsnr_<estimator>``.

        Raises:
            ValueError: If a file is missing, or a run has not reached its last epoch.
        """
        rows = [
            {
                **settings,
                **self._reported(settings, _scores(place), history),
                **_last_losses(history),
                **_mean_gsnr(place),
            }
            for settings, place, history in self._places
        ]
        return DataFrame(rows) if rows else DataFrame(columns=list(SETTINGS))

    @cached_property
    def gsnr(self) -> DataFrame:
        """Layer-wise GSNR (Eq. 3), one row per run, seed, epoch, block and estimator.

        Each has the sums of its block, and the ``main_loss`` of the epoch.

        Raises:
            ValueError: If a file is missing, or a run has not reached its last epoch.
        """
        columns = ["epoch", "block", "estimator", "gsnr", *SUMS, "main_loss"]
        parts = [
            read_table(GSNR, place / "gsnr.csv")
            .join(_main_loss(history), "epoch")
            .assign(**settings)
            for settings, place, history in self._places
        ]
        return _stacked(parts, [*SETTINGS, *columns])

    @cached_property
    def history(self) -> DataFrame:
        """Losses and rates of the trainings, one row per run, seed, epoch and metric.

        Raises:
            ValueError: If a file is missing, or a run has not reached its last epoch.
        """
        parts = [history.assign(**settings) for settings, _, history in self._places]
        return _stacked(parts, [*SETTINGS, *HISTORY.names])

    def items(self, run: str, seed: int) -> DataFrame:
        """Return the scores of each item of the plain test set, as the last epoch's model has them.

        Raises:
            ValueError: If there is no such file.
        """
        path = self.predictions(run, seed)
        scores = [field.name for field in schema(path) if not field.type.num_fields]  # no lists
        return pd.read_parquet(path, columns=scores)

    def forecasts(self, run: str, seed: int) -> Forecasts:
        """Return the forecasts of each scene of the plain test set.

        Raises:
            ValueError: If there is no such file, or it has no forecasts.
        """
        return read_forecasts(self.predictions(run, seed))

    @cached_property
    def filtering(self) -> DataFrame:
        """How well activations outline objects, one row per run, seed, place and activation.

        Raises:
            ValueError: If a file is missing, or a run has not reached its last epoch.
        """
        parts = [
            read_table(FILTERING, place / "filtering.csv").assign(**settings)
            for settings, place, _ in self._places
        ]
        return _stacked(parts, [*SETTINGS, *FILTERING.names])

    @cached_property
    def maps(self) -> list[Maps]:
        """Activations of a few images, of each run with the first seed.

        Raises:
            ValueError: If a file is missing or damaged, or a run has not reached its last epoch.
        """
        return [
            Maps(Series(settings), _arrays(place / "maps.safetensors"))
            for settings, place, _ in self._places
            if settings["seed"] == self.seeds[0]
        ]

    @cached_property
    def similarity(self) -> DataFrame:
        """Similarity tables one below the other, each with the facts of its description.

        Raises:
            ValueError: If a file, its description or one of the facts is missing, or if models were
                compared on different image-caption pairs.
        """
        parts = [
            read_table(SIMILARITY, file).assign(**self._labelled(_facts(file, FACTS)))
            for file in map(Path, self.similarity_files)
        ]
        frame = _stacked(parts, [*FACTS, *SHOWN, *SIMILARITY.names])
        if parts:
            only(frame, "pairs", "similarity")
        return frame

    @cached_property
    def costs(self) -> DataFrame:
        """Cost tables one below the other, each with the titles of its two models.

        Raises:
            ValueError: If a file, its description or one of the facts is missing.
        """
        parts = []
        for file in map(Path, self.cost_files):
            facts = _facts(file, MODELS)
            titles = {f"{factor}_title": self.title(factor, facts[factor]) for factor in MODELS}
            parts.append(read_table(COST, file).assign(**titles))
        return _stacked(parts, ["vision_title", "language_title", *COST.names])

    @property
    def sources(self) -> dict[str, list[str]]:
        """Return the names of the ``runs``, and the ``devices`` that computed what is read."""
        folders, seeds = [Path(folder) for folder in self.folders], self.seeds
        trained = [folder / f"seed-{seed}" / "history.csv" for folder in folders for seed in seeds]
        files = [*trained, *map(Path, self.similarity_files), *map(Path, self.cost_files)]
        devices = {read_note(file)["provenance"]["device"] for file in files}
        return {"runs": [folder.name for folder in folders], "devices": sorted(devices)}

    def predictions(self, run: str, seed: int) -> Path:
        """Return the file with what is said of each item of the plain test set.

        Raises:
            ValueError: If there is no such file.
        """
        folder = next(folder for folder in map(Path, self.folders) if folder.name == run)
        path = folder / f"seed-{seed}" / PREDICTIONS
        if not path.is_file():
            raise ValueError(f"{path}: must exist, got no file. Evaluate the run again.")
        return path

    def prepared(self, data: str) -> Path:
        """Return the folder of a prepared set."""
        return next(folder for folder in map(Path, self.sets) if folder.name == data)

    def title(self, factor: str, name: str) -> str:
        """Return what is shown in place of a name of ``data``, ``vision`` or ``language``."""
        return self.titles.get(factor, {}).get(name, name)

    def _labelled(self, facts: dict[str, Value]) -> dict[str, Value]:
        """Return the facts of a similarity table, with the titles that are shown."""
        titles = {f"{factor}_title": self.title(factor, facts[factor]) for factor in MODELS}
        return {**facts, **titles}

    def _reported(
        self, settings: dict[str, Value], scores: dict[str, Value], history: DataFrame
    ) -> dict[str, Value]:
        """Return the scores with the task's first metric of the last epoch and of the best one."""
        first = metrics_of(f"{settings['task']}")[0]
        epochs = history.loc[history["metric"] == first.name, "value"]
        best = float(epochs.max() if first.better == "higher" else epochs.min())
        both = {f"{first.name}_{LAST}": scores[first.name], f"{first.name}_{BEST}": best}
        return {**scores, **both, first.name: both[f"{first.name}_{self.report}"]}

    @cached_property
    def _places(self) -> list[tuple[dict[str, Value], Path, DataFrame]]:
        """Settings, folder and history of each run and seed, all of them finished."""
        places = []
        for folder in map(Path, self.folders):
            settings, epochs = settings_of(folder)
            for seed in self.seeds:
                place = folder / f"seed-{seed}"
                history = read_table(HISTORY, place / "history.csv")
                _check_finished(history, epochs, place)
                places.append(({**settings, "seed": seed}, place, history))
        return places


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"{path}: must be an intact file of arrays, got {str(error).splitlines()[0]}. "
            "Delete it and make it again."
        ) from None


def _stacked(parts: list[DataFrame], columns: list[str]) -> DataFrame:
    return pd.concat(parts, ignore_index=True)[columns] if parts else DataFrame(columns=columns)


def settings_of(folder: Path) -> tuple[dict[str, Value], int]:
    """Return what distinguishes a run and how it is called, and its number of epochs."""
    config, labels = read_json(folder / "config.json"), read_json(folder / "labels.json")
    data, vision, language = labels["data"], labels["vision"], labels["language"] or {}
    settings = {
        "run": config["run"],
        "task": config["task"],
        "data": data["name"],
        "data_title": data["title"],
        "fraction": float(config["data"].get("fraction", 1.0)),
        "vision": vision["name"],
        "vision_title": vision["title"],
        "variant": config["variant"],
        "control": None if config["variant"] == "vanilla" else config["control"],
        "language": language.get("name"),
        "language_title": language.get("title"),
        "layer": _layer(config["layer"]),
        "position": config["position"],
        "insert_at": _number(config["insert_at"]),
        "depth": int(config["vision"]["depth"]),
        "lambda": float(config["lambda_init"]),
    }
    return settings, int(config["recipe"]["epochs"])


def _number(value: int | None) -> float:
    return float("nan") if value is None else float(value)


def _layer(value: int | str | None) -> float | str:
    return value if isinstance(value, str) else _number(value)


def _check_finished(history: DataFrame, epochs: int, place: Path) -> None:
    done = history["epoch"].nunique()
    if done != epochs:
        raise ValueError(
            f"{place}: a finished run must have {epochs} epochs, got {done}. "
            "Ask snakemake for this run, it resumes after the last epoch."
        )


def _scores(place: Path) -> dict[str, Value]:
    scores = read_table(SCORES, place / "scores.csv")
    if TEST not in set(scores["set"]):
        raise ValueError(
            f"{place / 'scores.csv'}: there must be rows of the set {TEST}, got none. "
            "Evaluate the run again."
        )
    row: dict[str, Value] = {"k": 1}
    means = scores.groupby(["set", "metric", "k"])["value"].mean()  # over the groups of a set
    for (name, metric, k), mean in means.items():
        column = "test_loss" if (name, metric) == (TEST, "loss") else metric
        if name != TEST:
            row.setdefault(f"{metric}_{name}", float(mean))
        elif column not in row:  # the smallest k
            row[column] = float(mean)
        else:
            row[f"{metric}_topk"], row["k"] = float(mean), int(k)
    return {**row, "corruption_error": mean_corruption_error(scores)}


def _main_loss(history: DataFrame) -> Series:
    rows = history[history["metric"] == "main_loss"]
    return rows.set_index("epoch")["value"].rename("main_loss")


def _last_losses(history: DataFrame) -> dict[str, Value]:
    last = history[history["epoch"] == history["epoch"].max()].set_index("metric")["value"]
    return {name: float(last[name]) for name in LOSSES if name in last.index}


def _mean_gsnr(place: Path) -> dict[str, Value]:
    layers = read_table(GSNR, place / "gsnr.csv")
    by_block = layers.groupby(["estimator", "block"])["gsnr"].mean()  # Eq. 7
    means = by_block.groupby("estimator").mean()
    return {f"gsnr_{name}": float(means.get(name, float("nan"))) for name in ESTIMATORS}


def _facts(file: Path, names: Sequence[str]) -> dict[str, Value]:
    facts = read_note(file)["provenance"].get("facts", {})
    missing = [name for name in names if name not in facts]
    if missing:
        raise ValueError(
            f"{file}.json: the facts must name {', '.join(missing)}, got "
            f"{', '.join(facts) or 'none'}. Make the file again with this version."
        )
    return {name: facts[name] for name in names}
