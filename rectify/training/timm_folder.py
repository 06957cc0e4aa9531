"""A trained run as a folder that plain timm loads, from a disk or from the hub.

    config.json        timm's: architecture, its arguments, names of the classes, preprocessing
    model.safetensors  the weights under timm's names

Only what is a plain vision transformer at test has this form: the trunk alone, and that of a run
with a second loss path.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, runtime_checkable

from timm.models import save_for_hf

from rectify.controls import INSERTED
from rectify.data.manifests import class_names, read_listing
from rectify.results.files import atomic_path
from rectify.tasks import find
from rectify.tasks.contract import Recipe, Task
from rectify.tasks.entry import Entry
from rectify.training.models import RunSettings, check_labels, entry_of, trained


@runtime_checkable
class PlainTask(Task, Protocol):
    """A task whose plain models timm builds, and whose items it can prepare."""

    def preprocessing(self, entry: Entry, folder: Path, recipe: Recipe) -> dict[str, object]:
        """Return what is done to a test item, as timm's ``data_config`` says it."""


def write_timm_folder(
    settings: RunSettings,
    task: PlainTask,
    seed: int,
    *,
    weights: Path,
    data: Path,
    licence: str,
    folder: Path,
) -> None:
    """Write ``config.json`` and ``model.safetensors``; timm alone gives the same outputs with them.

    Args:
        settings: Of the run.
        task: What ``plain_task`` returned.
        seed: The run's.
        weights: What training wrote.
        data: Folder of the prepared set that it learnt.
        licence: Of the weights, as the hub calls it.
        folder: Gets both files.

    Raises:
        ValueError: If a file is damaged or of something else.
    """
    check_labels(weights, data)
    model = trained(settings, task, None, seed, weights)
    names = class_names(read_listing(data)[0])
    with TemporaryDirectory() as temporary:
        save_for_hf(
            model,
            temporary,
            model_config={
                "label_names": names,
                "pretrained_cfg": {"tag": settings.run, "license": licence},
            },
            safe_serialization=True,
            data_config=task.preprocessing(entry_of(settings, task), data, settings.recipe),
        )
        for file in sorted(Path(temporary).iterdir()):
            with atomic_path(folder / file.name) as path:
                shutil.copyfile(file, path)


def plain_task(settings: RunSettings) -> PlainTask:
    """Return the task of a run whose model timm can build.

    Raises:
        ValueError: If it has none at test.
    """
    if settings.variant in INSERTED:
        raise ValueError(
            f"export: {settings.run} must be a plain vision transformer at test, got variant "
            f"{settings.variant}, which needs the language model's layer. Export a vanilla or an "
            "auxiliary run."
        )
    task = find(settings.task)
    if not isinstance(task, PlainTask):
        raise ValueError(
            f"export: {settings.run} must be of a task whose models plain timm can build, got "
            f"{settings.task}. Export a run of image_classification."
        )
    return task
