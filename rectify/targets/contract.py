"""What every table and figure has: settings, a title, what it reads, and how it is made.

A target is a module of this folder, named as in a configuration, with

    Settings    its keys under ``targets.<name>``, a `TargetSettings`
    TITLE       heading on the page, one line
    SHOWS       what it makes: ``("table",)``, ``("figure",)`` or both
    table       (results, settings) -> rows of a `CELLS` table, where it shows a table
    figure      (results, settings) -> `Drawn`, where it shows a figure
    VALUES      the declared table of the values that its figure shows

and, where the defaults of `Target` do not hold, ``needs``, ``similarities``, ``costs``, ``check``,
``files``, ``draws_items``, ``derived``, ``findings`` and ``chart``. Its caption is
``captions/<name>.rst``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeVar, runtime_checkable

from pandas import DataFrame
from pydantic import Field, StringConstraints

from rectify.analysis.charts import Shown, Spec
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import FROZEN
from rectify.analysis.findings import Finding
from rectify.controls import VARIANTS
from rectify.results.tables import Table
from rectify.typed import Closed, Listed, Name, check_known, layers_of

Note = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\n]*$")]


class TargetSettings(Closed):
    """What every target may be asked: its kind, the experiments that it reads, a note."""

    kind: str
    reads: Listed[Name] = ()
    note: Note | None = Field(
        None, description="One line that is shown behind the caption: what a reader must know."
    )


Score = Literal["mutual_knn", "mutual_knn_calibrated", "cka", "cknna"]
"""A column of a similarity table by which layers are compared."""


class ComparedSettings(TargetSettings):
    """What a target that shows similarities may be asked: on which pairs, and of which ViTs."""

    pairs: Name | None = Field(
        None, description="Data set of image-caption pairs; similarity.pairs unless given."
    )

    vision_features: Literal["pretrained", "trained"] | None = Field(
        None, description="Of timm's pretrained ViTs or of vanilla runs; as under similarity."
    )
    vision_data: Name | None = Field(
        None, description="With `trained`: what those runs learn; as under similarity."
    )


@runtime_checkable
class Placed(Protocol):
    """A run, as far as a target chooses by it."""

    variant: str
    control: str
    layer: int | str | None
    position: str | None


@runtime_checkable
class Factors(Protocol):
    """An experiment's factors, as far as a target asks for them."""

    data: tuple[str, ...]
    vision: tuple[str, ...]
    variant: tuple[str, ...]
    control: tuple[str, ...] | None
    language: tuple[str, ...] | None
    layer: tuple[int | str, ...] | None
    position: tuple[str, ...] | None
    weights: tuple[float, ...] | None


@runtime_checkable
class DataSet(Protocol):
    """A data set, as far as a target asks for it."""

    task: str
    has_masks: bool


@runtime_checkable
class LanguageModel(Protocol):
    """A language model, as far as a target asks for it."""

    layers: int


@runtime_checkable
class View(Protocol):
    """The configuration, as far as a target asks for it."""

    experiments: Mapping[str, Factors]
    data: Mapping[str, DataSet]
    visions: Mapping[str, object]
    languages: Mapping[str, LanguageModel]


Run = TypeVar("Run", bound=Placed)
Pair = tuple[str, str]


def _every_run(_settings: TargetSettings, runs: Sequence[Run]) -> list[Run]:
    return list(runs)


def _no_pairs(_settings: TargetSettings, _config: View) -> list[Pair]:
    return []


def _no_costs(_settings: TargetSettings) -> list[Pair]:
    return []


def _no_check(_settings: TargetSettings, _config: View, _where: str) -> None:
    return


def _no_findings(_cells: DataFrame | None, _values: DataFrame | None) -> list[Finding]:
    return []


def _none_derived(_settings: TargetSettings) -> dict[str, TargetSettings]:
    return {}


def last_layer(runs: Sequence[Run]) -> list[Run]:
    """Return the vanilla runs, and those with the last of the layers that are inserted."""
    layers = [run.layer for run in runs if run.layer is not None]
    last = max(layers, key=lambda layer: layers_of(layer)[::-1], default=None)
    return [run for run in runs if run.layer in (None, last)]


def each_variant(_settings: TargetSettings, runs: Sequence[Run]) -> list[Run]:
    """Return the last run of each variant with a frozen layer, and the vanilla run next to them."""
    frozen = [run for run in runs if run.variant == "vanilla" or run.control == FROZEN]
    place = {(run.data, run.vision) for run in frozen[-1:]}
    beside = {run.variant: run for run in frozen if (run.data, run.vision) in place}
    return sorted(beside.values(), key=lambda run: list(VARIANTS).index(run.variant))


def pairs_of_experiments(settings: TargetSettings, config: View) -> list[Pair]:
    """Return every pair of language model and ViT of the experiments that a target reads."""
    experiments = [config.experiments[name] for name in settings.reads]
    pairs = [
        (language, vision)
        for experiment in experiments
        for language in experiment.language or ()
        for vision in experiment.vision
    ]
    return list(dict.fromkeys(pairs))


def check_models(settings: TargetSettings, config: View, where: str) -> None:
    """Check the data set and the models that settings name, where they name some.

    Raises:
        ValueError: One line with the nearest right spelling.
    """
    for key, section in (
        ("data", "data"),
        ("vision", "visions"),
        ("visions", "visions"),
        ("language", "languages"),
        ("languages", "languages"),
        ("untrained", "languages"),
    ):
        names = getattr(settings, key, ())
        known: Mapping[str, object] = getattr(config, section)
        for name in (names,) if isinstance(names, str) else names or ():
            check_known(f"{where}.{key}", name, known, f"a name under {section}")


def one_each(*factors: str) -> Callable[[TargetSettings, View, str], None]:
    """Return a check that all runs which a target reads agree in some factors."""

    def check(settings: TargetSettings, config: View, where: str) -> None:
        read = [config.experiments[name] for name in settings.reads]
        for factor in factors:
            values = {value for one in read for value in getattr(one, factor) or ()} - {"vanilla"}
            if len(values) > 1:
                raise ValueError(
                    f"{where}.reads: all runs must have the same {factor}, got "
                    f"{', '.join(sorted(map(str, values)))}. Read an experiment for each, in a "
                    "target of its own."
                )

    return check


def check_masks(settings: TargetSettings, config: View, where: str) -> None:
    """Check that the objects in the test items of every data set are known.

    Raises:
        ValueError: Names the first set without masks.
    """
    for name in settings.reads:
        for data in config.experiments[name].data:
            if not config.data[data].has_masks:
                raise ValueError(
                    f"{where}.reads: the sets of {name} must have masks, got {data} without. "
                    f"Name a folder as data.{data}.masks, if it has images, or read another "
                    "experiment."
                )


def check_task(settings: TargetSettings, config: View, where: str, task: str) -> None:
    """Check that every data set is of a task.

    Raises:
        ValueError: Names the first that is not.
    """
    for name in settings.reads:
        for data in config.experiments[name].data:
            if config.data[data].task != task:
                raise ValueError(
                    f"{where}.reads: the sets of {name} must be of task {task}, got {data} of "
                    f"{config.data[data].task}. Read another experiment."
                )


@dataclass(frozen=True)
class Target:
    """A module of this folder, with defaults for what it does not define."""

    TITLE: str
    SHOWS: tuple[str, ...]
    Settings: type[TargetSettings]
    table: Callable[[Results, TargetSettings], DataFrame] | None = None
    figure: Callable[[Results, TargetSettings], Drawn] | None = None
    VALUES: Table | None = None
    needs: Callable[[TargetSettings, Sequence[Placed]], list[Placed]] = _every_run
    """Those of the experiments' runs that it shows."""
    similarities: Callable[[TargetSettings, View], list[Pair]] = _no_pairs
    """Pairs of language model and ViT whose similarity it reads."""
    costs: Callable[[TargetSettings], list[Pair]] = _no_costs
    """Pairs of ViT and language model whose cost it reads."""
    check: Callable[[TargetSettings, View, str], None] = _no_check
    """Raise a `ValueError` of one line, which begins with the last argument, for wrong settings."""
    files: tuple[str, ...] = ()
    """Further files of each run and seed that it reads."""
    draws_items: bool = False
    """Whether it shows items of the prepared sets of its runs, or numbers of them."""
    derived: Callable[[TargetSettings], dict[str, TargetSettings]] = _none_derived
    """Further targets that come with it, by what is put behind its name and a hyphen."""
    findings: Callable[[DataFrame | None, DataFrame | None], list[Finding]] = _no_findings
    """What its cells, and the values of its figure, say of the papers' claims."""
    chart: Callable[[Shown], Spec] | None = None
    """The figure for a reader of the page, from its values, where it gains by that."""
