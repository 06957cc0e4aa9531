"""From the configuration to the runs: which trainings an experiment, a table or a figure needs."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rectify.controls import CONTROLS, INSERTED
from rectify.experiment.check import check, check_run
from rectify.experiment.depth import depth_of, trunk_settings
from rectify.experiment.run import (
    FROZEN,
    GsnrSettings,
    Label,
    Run,
    RunLabels,
    RunSettings,
    VisionSettings,
    place,
)
from rectify.experiment.settings import Config, Experiment, recipe_from
from rectify.results.files import read_yaml
from rectify.targets import module_of
from rectify.targets.contract import ComparedSettings, TargetSettings
from rectify.training.recipes import Recipe
from rectify.typed import check_known, merge, parse

MAIN_PAGE = "index"  # its file, as web servers expect it
MAIN_NAMES = ("all", "report")  # what asks for it
RUN_FILES = ("history.csv", "gsnr.csv", "scores.csv")
NAMED = ("data", "visions", "languages", "experiments", "targets", "pages")
"""Sections of names, of which one that is null is removed."""
"""Keys of a set that say what a model takes, where the set has them."""
HOW = ("precision", "compile")  # of a training; a recipe named later keeps these


def load(paths: Sequence[Path]) -> Config:
    """Return the checked configuration of YAML files, each laid over the ones before.

    Raises:
        ValueError: If a file is missing or no YAML mapping, or the whole is not valid.
    """
    values: dict[str, object] = {}
    for path in paths:
        values = merge(values, read_yaml(path))
    return read(values)


def read(values: Mapping[str, object]) -> Config:
    """Return merged values as a configuration, checked before any job.

    A name of a section that is null is taken out: so a later file removes what an earlier one has.

    Raises:
        ValueError: One line that names the key, what must hold and what was got.
    """
    config = parse(Config, {key: _without_nulls(key, part) for key, part in values.items()}, "")
    check(config)
    runs = all_runs(config)
    for run in runs:
        check_run(config, run, recipe_of(config, run))
    used = {run.language for run in runs}
    for name, language in config.languages.items():
        if language.training and name not in used:
            raise ValueError(
                f"config: languages.{name}.training must have an effect, got no run with {name}. "
                "Name it in an experiment, or leave the key out."
            )
    return config


def _without_nulls(key: str, part: object) -> object:
    if key not in NAMED or not isinstance(part, Mapping):
        return part
    return {name: value for name, value in part.items() if value is not None}


def asked(config: Config, names: Sequence[str]) -> Config:
    """Return a configuration with no more than what is asked for, and the experiments behind it.

    Args:
        config: The whole.
        names: Tables, figures, experiments (which stand for all that reads them), pages, ``all``
            or ``report``; none for the whole.

    Raises:
        ValueError: If there is no such name.
    """
    every, of_page = targets(config), pages(config)
    of_page |= dict.fromkeys(MAIN_NAMES, of_page[MAIN_PAGE])
    wanted: set[str] = set()
    for name in names:
        check_known("target", name, [*every, *config.experiments, *of_page], "what can be made")
        readers = [other for other, target in every.items() if name in target.reads]
        named = [name] if name in every else readers if name in config.experiments else []
        wanted |= {*named, *readers, *of_page.get(name, ())}
    own = {
        name: target
        for name, target in config.targets.items()
        if wanted & {name, *(f"{name}-{one}" for one in module_of(target.kind).derived(target))}
    }
    read = {name for target in own.values() for name in target.reads}
    unread = wanted & {*config.experiments} - {*config.targets}
    experiments = {n: one for n, one in config.experiments.items() if n in read | unread}
    changes = {"targets": own, "experiments": experiments, "pages": {}}
    return config.model_copy(update=changes) if names else config


def expand(config: Config, experiment: Experiment) -> list[Run]:
    """Return the runs of an experiment: the product of its factors, and their vanilla runs."""
    runs = (
        run
        for data, vision in itertools.product(experiment.data, experiment.vision)
        for run in _of_pair(config, experiment, data, vision)
    )
    return list(dict.fromkeys(runs))


def targets(config: Config) -> dict[str, TargetSettings]:
    """Return every table and figure by name, in the order of the page.

    An experiment that no target reads has one of its own name; a target that shows the
    similarity of its placements has one for that.
    """
    read_by = {name for target in config.targets.values() for name in target.reads}
    unread = {
        name: module_of("grid").Settings(reads=(name,))
        for name in config.experiments
        if name not in read_by
    }
    every: dict[str, TargetSettings] = {}
    for name, target in {**config.targets, **unread}.items():
        every[name] = target
        for suffix, derived in module_of(target.kind).derived(target).items():
            every[f"{name}-{suffix}"] = derived
    return every


def run_files(
    folders: Iterable[str], seeds: Iterable[int], further: Iterable[str] = ()
) -> Iterator[str]:
    """Yield what tables, figures and the pages of runs read of runs.

    Args:
        folders: Of the runs.
        seeds: Of each.
        further: Names of further files of each seed.
    """
    names = (*RUN_FILES, *further)
    of_seeds = [f"seed-{seed}/{name}" for seed in seeds for name in names]
    for folder in folders:
        yield from (f"{folder}/{name}" for name in ("config.json", "labels.json", *of_seeds))


def pages(config: Config) -> dict[str, list[str]]:
    """Return the targets of each page by its name, in order; the main page is ``index``.

    What comes with a target (``derived``) is on its page.
    """
    page_of = {target: name for name, page in config.pages.items() for target in page.targets}
    found: dict[str, list[str]] = {MAIN_PAGE: [], **{name: [] for name in config.pages}}
    for name, target in config.targets.items():
        with_it = [f"{name}-{suffix}" for suffix in module_of(target.kind).derived(target)]
        found[page_of.get(name, MAIN_PAGE)] += [name, *with_it]
    placed = {name for names in found.values() for name in names}
    found[MAIN_PAGE] += [name for name in targets(config) if name not in placed]
    return found


def runs_of(config: Config, target: TargetSettings) -> list[Run]:
    """Return the runs that a table or figure is made of."""
    runs = (run for name in target.reads for run in expand(config, config.experiments[name]))
    return module_of(target.kind).needs(target, list(dict.fromkeys(runs)))


def all_runs(config: Config) -> list[Run]:
    """Return every run of the configuration, each once."""
    every = [run for target in targets(config).values() for run in runs_of(config, target)]
    return list(dict.fromkeys([*every, *similarity_runs(config)]))


def similarity_runs(config: Config) -> list[Run]:
    """Return the runs whose features similarities are computed of."""
    runs = (
        Run(data, vision)
        for target in targets(config).values()
        if (data := learnt(config, target)) is not None
        for _, vision in module_of(target.kind).similarities(target, config)
    )
    return list(dict.fromkeys(runs))


def learnt(config: Config, target: TargetSettings) -> str | None:
    """Return what the vanilla runs learn whose similarities a target shows.

    None if they are those of pretrained ViTs, or it shows none.
    """
    if not isinstance(target, ComparedSettings) or config.similarity is None:
        return None
    if (target.vision_features or config.similarity.vision) == "pretrained":
        return None
    return target.vision_data or config.similarity.data


def pairs_of(config: Config, target: TargetSettings) -> str | None:
    """Return the set of image-caption pairs on which a target compares models, if it does."""
    if not isinstance(target, ComparedSettings) or config.similarity is None:
        return None
    return target.pairs or config.similarity.pairs


def run_settings(config: Config, run: Run) -> RunSettings:
    """Return what decides one run: what goes to ``runs/<run>/config.json``."""
    data, vision = config.data[run.data], trunk_settings(config, run.data, run.vision)
    depth = depth_of(config, run.data, run.vision)
    return RunSettings(
        run=run.name,
        task=data.task,
        data={"name": run.data, **data.that_decides("weights")},
        vision=VisionSettings(**vision.model_dump(), depth=depth),
        variant=run.variant,
        control=run.control,
        language=run.language,
        layer=run.layer,
        position=run.position,
        insert_at=None if run.position is None else place(run.position, depth),
        lambda_init=run.lambda_init,
        lambda_floor=config.auxiliary.lambda_floor,
        final_norm=config.rectifier.final_norm,
        recipe=recipe_of(config, run),
        gsnr=GsnrSettings(**config.gsnr.model_dump(exclude={"estimator"})),
        filtering=config.filtering.comparison if is_outlined(config, run) else None,
    )


def is_outlined(config: Config, run: Run) -> bool:
    """Whether a training compares activations with masks after every epoch."""
    return config.filtering.over_epochs and config.data[run.data].has_masks


def run_labels(config: Config, run: Run) -> RunLabels:
    """Return what is only shown of one run: what goes to ``runs/<run>/labels.json``."""
    vision = config.visions[run.vision]
    language = None if run.language is None else config.languages[run.language]
    return RunLabels(
        run=run.name,
        data=Label(name=run.data, title=config.data[run.data].title),
        vision=Label(name=run.vision, title=vision.title),
        language=language and Label(name=run.language, title=language.title),
        estimator=config.gsnr.estimator,
    )


def recipe_of(config: Config, run: Run) -> Recipe:
    """Return the complete recipe of a run; a recipe named later starts anew, but for ``HOW``.

    Raises:
        ValueError: If a value is unknown or cannot be right.
    """
    data = config.data[run.data]
    special = data.visions.get(run.vision)
    values: dict[str, object] = {}
    own = config.languages[run.language].training if run.language else {}
    for changes in (config.training, data.training, special.training if special else {}, own):
        kept = HOW if "recipe" in changes else values
        values = {**{key: value for key, value in values.items() if key in kept}, **changes}
    return recipe_from(values)


def cost_settings(config: Config, vision: str, language: str) -> dict[str, object]:
    """Return everything that decides the cost of a ViT with a layer of a language model."""
    table = cost_table(config)
    own_norm = config.rectifier.final_norm == "loaded"  # weights it has; costs the same
    return {
        "vision": vision,
        **learner(config, table.data, vision),
        "language": language,
        "batch_size": table.batch_size,
        "precision": recipe_of(config, Run(table.data, vision)).precision,
        "final_norm": "unit" if own_norm else config.rectifier.final_norm,
    }


def cost_table(config: Config) -> TargetSettings:
    """Return the settings of the table of costs, which must be there."""
    return next(target for target in targets(config).values() if target.kind == "cost")


def learner(config: Config, data: str, vision: str) -> dict[str, object]:
    """Return everything that decides the trunk that learns a set, but its weights.

    Raises:
        ValueError: If the configuration has no such set or vision.
    """
    check_known("cost: --data", data, config.data, "a set of the configuration")
    check_known("cost: --vision", vision, config.visions, "a vision of the configuration")
    entry, trunk = config.data[data], trunk_settings(config, data, vision)
    settings = trunk.model_copy(update={"start": None}).model_dump()
    return {"task": entry.task, "entry": entry.that_decides("weights"), "trunk": settings}


def _of_pair(config: Config, experiment: Experiment, data: str, vision: str) -> Iterator[Run]:
    """Give the runs on one data set in one ViT, the vanilla run first."""
    yield Run(data, vision)
    variants = [variant for variant in experiment.variant if variant != "vanilla"]
    for variant, language in itertools.product(variants, experiment.language or ()):
        last = config.languages[language].layers - 1
        factors = itertools.product(
            [control for control in experiment.control or (FROZEN,) if _exists(control, variant)],
            experiment.layer or (last,),
            (experiment.position or ("end",)) if variant in INSERTED else ("end",),
            (experiment.weights or ()) if variant == "auxiliary" else (0.0,),
        )
        for control, layer, position, weight in factors:
            if variant == "auxiliary" and weight == 0:
                continue  # no second path: the vanilla run
            yield Run(data, vision, variant, control, language, layer, position, weight)


def _exists(control: str, variant: str) -> bool:
    return control == FROZEN or variant in CONTROLS[control].variants
