"""A trained run on all its test sets: the means for the table, the items of the plain set."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pandas import DataFrame

from rectify.results.files import atomic_path
from rectify.tasks import find, module_of
from rectify.tasks.contract import Machine
from rectify.training.evaluation import Scores, item_scores, means, metric_and_k
from rectify.training.models import RunSettings, check_labels, entry_of, trained

CODE = ("rectify.training.scoring",)
"""Modules that decide the scores, next to that of the task (``rectify.tasks.module_of``)."""
PLAIN = ("test", "-")


class Scored(NamedTuple):
    """Scores of each item, by name and group of its test set."""

    sets: dict[tuple[str, str], Scores]

    @property
    def plain(self) -> Scores:
        """Scores of the plain test set."""
        return self.sets[PLAIN]

    def rows(self) -> list[tuple[str, str, str, int, int, float]]:
        """Return the rows of a table ``SCORES``."""
        return [
            (*place, *metric_and_k(name), len(scores[name]), value)
            for place, scores in self.sets.items()
            for name, value in means(scores).items()
        ]


def code(task: str) -> tuple[str, ...]:
    """Return the modules whose code, with its imports, decides the scores."""
    return (*CODE, module_of(task))


def score(
    settings: RunSettings,
    evaluation: Mapping[str, object],
    *,
    block: Path | None,
    seed: int,
    weights: Path,
    data: Path,
    device: torch.device,
    threads: int,
) -> Scored:
    """Return the scores of a trained run.

    Args:
        settings: Of the run.
        evaluation: How it is scored: what decides ``scores`` of the set's entry.
        block: The frozen layer, where the model keeps it.
        seed: The run's.
        weights: What training wrote.
        data: Folder of the prepared set.
        device: Where the model runs.
        threads: Of this job.

    Raises:
        ValueError: If a file is damaged or of something else, or classes are numbered differently.
    """
    task, recipe = find(settings.task), settings.recipe
    model = trained(settings, task, block, seed, weights).to(device)
    check_labels(weights, data)
    sets = task.test_sets(
        entry_of(settings, task, evaluation), data, recipe, Machine.of(device, threads)
    )
    options = {"batch_size": recipe.batch_size, "device": device, "precision": recipe.precision}
    return Scored(
        {(name, group): item_scores(model, task, source, **options) for name, group, source in sets}
    )


def write_predictions(scores: Scores, path: Path) -> None:
    """Write the scores of each item, ``item`` first, as a parquet file, atomically."""
    columns = {name: values.float().numpy() for name, values in scores.items()}
    frame = DataFrame({"item": range(len(next(iter(columns.values())))), **columns})
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)
