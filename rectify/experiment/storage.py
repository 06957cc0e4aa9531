"""How many bytes the results of planned jobs take: models, states, layers, features, predictions.

Tables, figures and the listings of sets are small next to them and not counted; what
``prepare_data`` writes of a set in memory is as large as the set.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from rectify.experiment.clock import EVALUATE
from rectify.experiment.forecast import Expected, Jobs
from rectify.experiment.items import items_about, items_of
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.work import Reader, Subject, Work, alone, reader, subject
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
    plan: Plan,
    jobs: Jobs,
    trainings: Iterable[Expected],
    count: Callable[[Subject | Reader], Work],
) -> Storage:
    """Return what the results of jobs take.

    Args:
        plan: Of the configuration.
        jobs: That are to be run.
        trainings: Those among them, as they were forecast.
        count: Returns the work of a model.
    """
    works = [one.time.work for one in trainings if one.time.work is not None]
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
        (one.run.language, f"{one.run.layer}"): one.time.work.layer_bytes
        for one in trainings
        if one.time.work is not None
    }
    return sum(
        sizes.get((words["language"], words["layer"]), 0)
        for rule, words in jobs
        if rule == "extract_block"
    )


def _features(
    plan: Plan, rule: str, words: Mapping[str, str], count: Callable[[Subject | Reader], Work]
) -> int:
    """Return the bytes of the features that a job writes: of each layer and pair; 0 of others."""
    further, config = 0, plan.config
    try:
        if rule == "language_features":
            what = reader(plan, words["language"])
            further = int(config.similarity.procedure.embedding)
        elif rule == "vision_features":
            what = subject(plan, Run.parse(words["run"]))
        elif rule == "pretrained_features":
            vision = config.visions[words["vision"]]
            what = alone(vision.timm, vision.overrides)
        else:
            return 0
        work = count(what)
    except ValueError:  # a model that is not known before it is made
        return 0
    pairs = items_of(plan, words["pairs"], "pairs") or 0
    return FLOAT * pairs * (work.blocks + further) * work.width
