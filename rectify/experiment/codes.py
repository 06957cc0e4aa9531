"""Which code decides what the jobs of a rule write: the modules that its digest begins with."""

import functools
from collections.abc import Callable
from importlib import metadata

from rectify.results.provenance import source_digest
from rectify.tasks import module_of

LIBRARIES = ("timm", "torch", "transformers")
CODE = {
    "pretrain": (
        "rectify.demo.language_models",
        "rectify.demo.pairs",
        "rectify.demo.pretraining",
    ),
    "extract_block": ("rectify.language.block",),
    "language_features": (
        "rectify.language.captions",
        "rectify.trunks.features",
        "rectify.data.pairs",
        "rectify.runtime",
    ),
    "similarity": (
        "rectify.similarity.compare",
        "rectify.trunks.own_features",
        "rectify.runtime",
    ),
    "page": (
        "rectify.targets.entries",
        "rectify.analysis.page",
        "rectify/analysis/page.html.j2",
        "rectify/analysis/page.css",
        "rectify/analysis/page.js",
        "rectify/analysis/run.html.j2",
        "rectify/analysis/charts.js",
    ),
}
"""By rule: the modules whose code, with what they import, decides what its jobs write."""

TASK_CODE = {
    "train": ("rectify.training.run",),
    "outlined_train": ("rectify.training.run", "rectify.filtering.measure"),
    "evaluate": ("rectify.training.scoring",),
    "filtering": ("rectify.filtering.measure", "rectify.training.models"),
    "vision_features": (
        "rectify.trunks.features",
        "rectify.training.models",
        "rectify.tasks.pairs.images",
    ),
    "cost": ("rectify.speed", "rectify/language/sizes.yaml", "rectify.runtime"),
    "pretrained_features": ("rectify.trunks.features", "rectify.tasks.pairs.images"),
}
"""The same, where the code of a task is added."""


def modules(rule: str, task: str | None = None) -> tuple[str, ...]:
    """Return the modules and data files that a rule's digest begins with.

    Args:
        rule: Of ``CODE``, or with a task of ``TASK_CODE``.
        task: Whose code is added.
    """
    return CODE[rule] if task is None else (*TASK_CODE[rule], module_of(task))


@functools.cache
def digest(rule: str, task: str | None = None) -> str:
    """Return the digest of the code that decides what a rule's jobs write."""
    return source_digest(*modules(rule, task))


def digest_when_asked(rule: str, task: str | None = None) -> Callable[[object], str]:
    """Return a function of wildcards that returns ``digest(rule, task)``.

    So a process that runs one job computes the digest of its rule, and not those of all.
    """

    def of_any(wildcards: object) -> str:
        return digest(rule, task)

    return of_any


@functools.cache
def code_of(task: str | None, *modules: str) -> tuple[str, ...]:
    """Return what stands for the code: a digest of modules, and of a task; and the libraries."""
    every = modules if task is None else (module_of(task), *modules)
    return (source_digest(*every), *map(metadata.version, LIBRARIES))
