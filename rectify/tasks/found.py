"""Tasks by name: a folder of ``rectify.tasks``, or a module from outside the package.

A folder has ``settings.py`` (``SETTINGS`` and ``METRICS``, without torch), ``prepare.py``
(``prepare``) and ``task.py`` (``TASK``; not where nothing is trained), ``prepare_masks.py`` where
test images may have masks, and ``submission.py`` (``public``) where a benchmark's server scores
answers to its public test set. A name with a dot is a module whose attribute ``TASK`` has all but
the last two.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rectify.tasks.entry import Entry, Metric
from rectify.typed import check_known

if TYPE_CHECKING:
    from pandas import DataFrame

    from rectify.tasks.contract import Prepared, Task

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the package's own tasks."""
    return sorted(path.parent.name for path in FOLDER.glob("*/settings.py"))


def find(name: str) -> "Task":
    """Return a task by its name; imports torch.

    Raises:
        ValueError: If there is no such task.
    """
    return _outside(name).TASK if "." in name else _import(name, "task").TASK


def preparation_of(name: str) -> Callable[..., "Prepared"]:
    """Return the function that prepares a task's sets: ``rectify.tasks.contract.Preparer``.

    Raises:
        ValueError: If there is no such task.
    """
    return _outside(name).TASK.prepare if "." in name else _import(name, "prepare").prepare


def settings_of(name: str) -> type[Entry]:
    """Return the type of a task's settings, without torch for the package's own tasks.

    Raises:
        ValueError: If there is no such task.
    """
    return _outside(name).TASK.settings if "." in name else _import(name, "settings").SETTINGS


def metrics_of(name: str) -> tuple[Metric, ...]:
    """Return what a task is scored by, the headline first; without torch for our own tasks.

    Raises:
        ValueError: If there is no such task.
    """
    return _outside(name).TASK.metrics if "." in name else _import(name, "settings").METRICS


def metrics_module(name: str) -> str:
    """Return the module that says what a task is scored by, and what is better.

    Raises:
        ValueError: If there is no such task.
    """
    return name if "." in name else _module(name, "settings")


def module_of(name: str) -> str:
    """Return the module whose code, with its imports, decides how a task trains and scores.

    Raises:
        ValueError: If there is no such task, or nothing is trained on its sets.
    """
    return name if "." in name else _module(name, "task")


def preparation_modules(name: str, entry: Entry) -> tuple[str, ...]:
    """Return the modules whose code, with its imports, decides the items of a set.

    Raises:
        ValueError: If there is no such task.
    """
    if "." in name:
        return (name,)
    return (_module(name, "prepare"), f"{entry.READERS}.{entry.reader}")


def submission_of(name: str) -> ModuleType:
    """Return the module with ``public``, a benchmark's public test set of a task.

    Raises:
        ValueError: If there is no such task, or no server for it.
    """
    if not (FOLDER / name / "submission.py").is_file():
        known = sorted(path.parent.name for path in FOLDER.glob("*/submission.py"))
        raise ValueError(
            f"submit: the run's task must be one of {', '.join(known)}, got {name}. Name another."
        )
    return _import(name, "submission")


def masks_preparation_of(name: str) -> Callable[..., "DataFrame"]:
    """Return the function that lists the masks of a set's test images, and draws them if need be.

    Raises:
        ValueError: If there is no such task, or its sets have no masks.
    """
    return importlib.import_module(_masks_module(name)).prepare


def masks_modules(name: str, entry: Entry) -> tuple[str, ...]:
    """Return the modules whose code, with its imports, decides the masks of a set.

    Raises:
        ValueError: If there is no such task, or its sets have no masks.
    """
    return (_masks_module(name), f"{entry.READERS}.{entry.reader}")


def _masks_module(name: str) -> str:
    module = FOLDER / name / "prepare_masks.py"
    if not module.is_file():
        known = [path.parent.name for path in FOLDER.glob("*/prepare_masks.py")]
        raise ValueError(
            f"config: task must be one whose sets may have masks, {', '.join(known)}, got {name}. "
            "Choose another set."
        )
    return f"{__package__}.{name}.prepare_masks"


def _import(name: str, file: str) -> ModuleType:
    return importlib.import_module(_module(name, file))


def _module(name: str, file: str) -> str:
    """Return the name of a module of one of the package's own tasks."""
    check_known("config: task", name, names(), "a task of rectify/tasks, or a dotted module")
    if not (FOLDER / name / f"{file}.py").is_file():
        raise ValueError(
            f"config: task must be one that trains a model, got {name}, on whose sets models are "
            "only compared. Choose another set."
        )
    return f"{__package__}.{name}.{file}"


def _outside(name: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise ValueError(
            f"config: task {name} must be a module that Python finds, got none. "
            "Correct the name, or put its folder into PYTHONPATH."
        ) from None
    if not hasattr(module, "TASK"):
        raise ValueError(
            f"config: task {name} must be a module with the attribute TASK, got none. Add it."
        )
    return module
