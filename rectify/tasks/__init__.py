"""Tasks: data, trunk, loss and metrics; each is a folder, found by its name."""

from rectify.tasks.entry import DEFAULT_TASK, Entry, Metric
from rectify.tasks.found import (
    find,
    masks_modules,
    masks_preparation_of,
    metrics_module,
    metrics_of,
    module_of,
    names,
    preparation_modules,
    preparation_of,
    settings_of,
    submission_of,
)

__all__ = [
    "DEFAULT_TASK",
    "Entry",
    "Metric",
    "find",
    "masks_modules",
    "masks_preparation_of",
    "metrics_module",
    "metrics_of",
    "module_of",
    "names",
    "preparation_modules",
    "preparation_of",
    "settings_of",
    "submission_of",
]
