"""How many bytes the results of planned jobs take: models, states, layers, features, predictions.

Tables, figures and the listings of sets are small next to them and not counted; what
``prepare_data`` writes of a set in memory is as large as the set.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from rectify.experiment.forecast import EVALUATE, Expected, Jobs
from rectify.experiment.items import items_about, items_of
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.work import Subject, Work, alone, subject
from rectify.tasks import metrics_of

FLOAT, INDEX = 4, 8  # bytes
STATES = 2  # kept of a training that runs


class Storage(NamedTuple):
    """Bytes of results, by their kind."""

    models: int
    predictions: int
    """At most: they are compressed."""
    layers: int
    features: int
    last_states: int
    """Of finished trainings, which stay until Snakemake ends."""
    running_states: int
    """Of the training with the largest, while it runs."""


def storage(
    plan: Plan, jobs: Jobs, trainings: Iterable[Expected], count: Callable[[Subject], Work]
) -> Storage:
    """Return what the results of jobs take.

    Args:
        plan: Of the configuration.
        jobs: That are to be run.
        trainings: Those among them, as they were forecast.
        count: Returns the work of a subject.
    """
    works = [one.work for one in trainings if one.work is not None]
    scored = [Run.parse(words["run"]) for rule, words in jobs if rule == EVALUATE]
    return Storage(
        models=sum(work.model_bytes for work in works),
        predictions=sum(_predictions(plan, run) for run in scored),
        layers=_layers(jobs, trainings),
        features=sum(_features(plan, rule, words, count) for rule, words in jobs),
        last_states=sum(work.state_bytes for work in works),
        running_states=STATES
        * max((work.state_bytes + work.optimizer_bytes for work in works), default=0),
    )


def _predictions(plan: Plan, run: Run) -> int:
    """Return the bytes of a run's predictions: a number for each score of each item."""
    entry = plan.config.data[run.data]
    scores = len(metrics_of(entry.task)) + (getattr(entry, "top_k", 1) > 1)
    return (INDEX + FLOAT * scores) * (items_about(plan, run.data, "test") or 0)


def _layers(jobs: Jobs, trainings: Iterable[Expected]) -> int:
    """Return the bytes of extracted layers, each of which many trainings read."""
    sizes = {
        (one.run.language, f"{one.run.layer}"): one.work.layer_bytes
        for one in trainings
        if one.work is not None
    }
    return sum(
        sizes.get((words["language"], words["layer"]), 0)
        for rule, words in jobs
        if rule == "extract_block"
    )


def _features(
    plan: Plan, rule: str, words: Mapping[str, str], count: Callable[[Subject], Work]
) -> int:
    """Return the bytes of the features that a job writes: of each layer and pair; 0 of others."""
    if rule not in ("language_features", "vision_features", "pretrained_features"):
        return 0
    config, pairs = plan.config, items_of(plan, words["pairs"], "pairs") or 0
    if rule == "language_features":
        layers = config.languages[words["language"]].layers
        layers += bool(config.similarity and config.similarity.procedure.embedding)
        return FLOAT * pairs * layers * _language_width(plan, words["language"])
    if rule == "vision_features":
        work = count(subject(plan, Run.parse(words["run"])))
    else:
        vision = config.visions[words["vision"]]
        work = count(alone(vision.timm, vision.overrides))
    return FLOAT * pairs * work.blocks * work.width


def _language_width(plan: Plan, name: str) -> int:
    """Return the width of a language model; 0 where it is not known before it is made."""
    from rectify.cost import known_languages, language_config

    checkpoint = Path(plan.checkpoint(SimpleNamespace(language=name)))
    if not checkpoint.exists() and name not in known_languages():
        return 0
    return language_config(f"{checkpoint}" if checkpoint.exists() else name).hidden_size
