"""What must hold between the groups of a configuration: names that are known, places that exist."""

import itertools
from collections.abc import Iterator, Mapping

from rectify.experiment.depth import depth_of
from rectify.experiment.run import Run, place
from rectify.experiment.settings import Config, Experiment
from rectify.targets import module_of
from rectify.targets.contract import ComparedSettings
from rectify.training.recipes import Recipe, measured_samples
from rectify.typed import check_known, layers_of, nearest

PAIRS = "pairs"  # the task of sets of image-caption pairs
RULES = ("all", "report", "index", "fetch")  # names that the workflow itself has for targets


def check(config: Config) -> None:
    """Check the names and places that a configuration uses.

    Raises:
        ValueError: One line that names the key, what must hold and what was got.
    """
    for where, changes in _trainings(config):
        for key in changes:
            if key not in ("recipe", *Recipe.model_fields):
                hint = nearest(key, Recipe.model_fields)
                raise ValueError(f"config: every key must be known, got {key!r} at {where}. {hint}")
    for where, name, section in _references(config):
        known: Mapping[str, object] = getattr(config, section)
        check_known(f"config: {where}", name, known, f"a name under {section}")
    for name, experiment in config.experiments.items():
        where = f"config: experiments.{name}"
        _check_layers(config, experiment, where)
        _check_positions(config, experiment, where)
        _check_weights(config, experiment, where)
    for where, pairs in _pairs(config):
        task = config.data[pairs].task
        if task != PAIRS:
            raise ValueError(
                f"config: {where}: must be a data set of task {PAIRS}, got {pairs} of {task}. "
                "Name another."
            )
    _check_pages(config)
    for name, target in config.targets.items():
        where = f"config: targets.{name}"
        module_of(target.kind).check(target, config, where)
        if isinstance(target, ComparedSettings):
            _check_features(config, target, where)


def check_run(config: Config, run: Run, recipe: Recipe) -> None:
    """Check what a run's training would refuse: batches that are not of equal parts, and the like.

    Raises:
        ValueError: One line that names the key, what must hold and what was got.
    """
    samples = recipe.batch_size * recipe.augment_repeats
    nodes = f"device_nodes {config.device_nodes} times " if config.device_nodes > 1 else ""
    if samples % (config.processes * recipe.accumulate * (1 + recipe.mixes)):
        mixed = ", each even for Mixup" if recipe.mixes else ""
        raise ValueError(
            f"config: training.batch_size: a batch of {run.name} must divide into {nodes}"
            f"device_gpus {max(1, config.device_gpus)} times accumulate {recipe.accumulate} parts"
            f"{mixed}, got {samples} samples. Change one of them."
        )
    if config.gsnr.every_step is not None:
        measured_samples(config.gsnr.every_step.samples, recipe, config.processes)


def check_place(config: Config, run: Run, where: str) -> None:
    """Check that the language model and the ViT of a run have its layer and its position.

    Raises:
        ValueError: One line that begins with ``where``.
    """
    if run.language is not None and run.layer is not None:
        _check_layer(config, run.language, run.layer, where)
    if run.position is not None:
        depth = depth_of(config, run.data, run.vision)
        _check_position(depth, run.vision, run.position, where)


def _references(config: Config) -> Iterator[tuple[str, str, str]]:
    """Give each use of a name: where it is, the name, and the section that must have it."""
    for name, experiment in config.experiments.items():
        for factor, section in (("data", "data"), ("vision", "visions"), ("language", "languages")):
            for value in getattr(experiment, factor) or ():
                yield f"experiments.{name}.{factor}", value, section
    for name, entry in config.data.items():
        for vision in entry.visions:
            yield f"data.{name}.visions", vision, "visions"
    for name, target in config.targets.items():
        for experiment in target.reads:
            yield f"targets.{name}.reads", experiment, "experiments"
        if isinstance(target, ComparedSettings) and target.vision_data is not None:
            yield f"targets.{name}.vision_data", target.vision_data, "data"
    for where, pairs in _pairs(config):
        yield where, pairs, "data"
    for name, page in config.pages.items():
        for target in page.targets:
            yield f"pages.{name}.targets", target, "targets"
    if config.similarity is not None and config.similarity.data is not None:
        yield "similarity.data", config.similarity.data, "data"


def _pairs(config: Config) -> Iterator[tuple[str, str]]:
    """Give each use of a set of image-caption pairs: where it is, and the set."""
    if config.similarity is not None:
        yield "similarity.pairs", config.similarity.pairs
    for name, target in config.targets.items():
        if isinstance(target, ComparedSettings) and target.pairs is not None:
            yield f"targets.{name}.pairs", target.pairs


def _trainings(config: Config) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Give each group of changed values of a recipe, and where it is."""
    for name, language in config.languages.items():
        yield f"languages.{name}.training", language.training
    for name, entry in config.data.items():
        yield f"data.{name}.training", entry.training
        for vision, special in entry.visions.items():
            yield f"data.{name}.visions.{vision}.training", special.training


def _check_pages(config: Config) -> None:
    taken = {*config.targets, *config.experiments, *RULES}
    for name, page in config.pages.items():
        if name in taken:
            raise ValueError(
                f"config: pages.{name}: a page must have a name of its own, got that of another "
                "target, experiment or rule. Rename it."
            )
        for other, second in config.pages.items():
            both = set(page.targets) & set(second.targets)
            if other != name and both:
                raise ValueError(
                    f"config: pages.{name}.targets: a target must be on one page, got {min(both)} "
                    f"on {other} too. Take it out of one."
                )


def _check_layers(config: Config, experiment: Experiment, where: str) -> None:
    for language in experiment.language or ():
        for layer in experiment.layer or ():
            _check_layer(config, language, layer, f"{where}.layer")


def _check_layer(config: Config, language: str, layer: int | str, where: str) -> None:
    layers = config.languages[language].layers
    if max(layers_of(layer)) >= layers:
        raise ValueError(
            f"{where}: a layer of {language} must lie in 0..{layers - 1}, got {layer}. Correct it."
        )


def _check_position(depth: int, vision: str, position: str, where: str) -> None:
    if position.isdecimal() and int(position) > depth:
        raise ValueError(
            f"{where}: a position in {vision} must lie in 0..{depth}, got {position}. Correct it."
        )


def _check_positions(config: Config, experiment: Experiment, where: str) -> None:
    for data, vision in itertools.product(experiment.data, experiment.vision):
        depth = depth_of(config, data, vision)
        places: dict[int, str] = {}
        for position in experiment.position or ():
            _check_position(depth, vision, position, f"{where}.position")
            same = places.setdefault(place(position, depth), position)
            if same != position:
                raise ValueError(
                    f"{where}.position: each place in {vision} must be named once, got {same} and "
                    f"{position}. Delete one of them."
                )


def _check_features(config: Config, target: ComparedSettings, where: str) -> None:
    """Check that it is known of which ViTs a target shows similarities."""
    if config.similarity is None:
        raise ValueError(
            f"{where}: a target that shows similarities must have pairs of images and captions, "
            "got no similarity. Add similarity.pairs."
        )
    kind, data = target.vision_features or config.similarity.vision, target.vision_data
    if kind == "pretrained" and data is not None:
        raise ValueError(
            f"{where}.vision_data: must go with trained ViTs, got {data} with pretrained ones. "
            "Add vision_features: trained."
        )
    if kind == "trained" and data is None and config.similarity.data is None:
        raise ValueError(
            f"{where}.vision_data: must name what the trained ViTs learn, got none. Add it."
        )


def _check_weights(config: Config, experiment: Experiment, where: str) -> None:
    floor = config.auxiliary.lambda_floor
    for weight in experiment.weights or ():
        if 0 < weight < floor:
            raise ValueError(
                f"{where}.lambda: a first weight must be 0 or at least auxiliary.lambda_floor, "
                f"{floor}, got {weight}. Lower auxiliary.lambda_floor to train with it."
            )
