"""A trained run on all its test sets: the means for the table, the items of the plain set."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pandas import DataFrame
from torch import Tensor, nn

from rectify.results.files import atomic_path
from rectify.tasks import find, module_of
from rectify.tasks.contract import Answering, Batch, Machine, Task, Watching
from rectify.training.evaluation import Scores, Values, item_values, means, metric_and_k
from rectify.training.models import RunSettings, check_labels, entry_of, trained
from rectify.trunks.trunk import Outputs

CODE = ("rectify.training.scoring",)
"""Modules that decide the scores, next to that of the task (``rectify.tasks.module_of``)."""
PLAIN = ("test", "-")


class Scored(NamedTuple):
    """Scores of each item, by name and group of its test set, and answers."""

    sets: dict[tuple[str, str], Scores]
    answers: Values
    """To the items of the plain test set, of a task that keeps them."""

    @property
    def plain(self) -> Values:
        """Scores of the plain test set, then answers."""
        return {**self.sets[PLAIN], **self.answers}

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
    """Return the scores of a trained run, and its answers where the task keeps them.

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
    entry, machine = entry_of(settings, task, evaluation), Machine.of(device, threads)
    options = {"batch_size": recipe.batch_size, "device": device, "precision": recipe.precision}
    sets, answers = {}, {}
    with _scores_and_answers(task, model) as values_of:
        for name, group, source, parts in task.test_sets(entry, data, recipe, machine):
            values = item_values(model, values_of, source, **options)
            scores = {key: one for key, one in values.items() if one.ndim == 1}
            sets[name, group] = scores
            for part, items in parts.items():
                sets[part, group] = {key: one[items] for key, one in scores.items()}
            if (name, group) == PLAIN:
                answers = {key: one for key, one in values.items() if one.ndim > 1}
    return Scored(sets, answers)


@contextlib.contextmanager
def _scores_and_answers(
    task: Task, model: nn.Module
) -> Iterator[Callable[[Outputs, Batch], dict[str, Tensor]]]:
    """Give what returns the scores of items, and whatever the task keeps next to them."""
    if not isinstance(task, Answering):
        yield task.scores
        return
    watching = task.watch(model) if isinstance(task, Watching) else contextlib.nullcontext({})
    with watching as seen:
        yield lambda *one: {**task.scores(*one), **task.answers(*one), **seen}


def write_predictions(values: Values, path: Path) -> None:
    """Write what is said of each item, ``item`` first, as a parquet file, atomically.

    Several numbers of an item are a list.
    """
    arrays = {name: one.float().numpy() for name, one in values.items()}
    columns = {name: one if one.ndim == 1 else list(one) for name, one in arrays.items()}
    frame = DataFrame({"item": range(len(next(iter(columns.values())))), **columns})
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)
