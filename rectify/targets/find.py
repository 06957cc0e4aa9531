"""Tables and figures by name: a kind of target is a module of this folder."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

from pydantic import Field, ValidationError

from rectify.results.provenance import source_digest
from rectify.targets.contract import Target, TargetSettings
from rectify.tasks import metrics_module
from rectify.typed import Closed, check_known, one_line, parse

PACKAGE = "rectify.targets"
HELPERS = ("contract", "entries", "find")  # modules of this folder that are no target
GENERIC = "grid"


class Request(Closed):
    """What ``--settings`` asks a command for: a kind of target, and how it is to be shown."""

    kind: str
    settings: dict[str, object]
    estimator: str = Field("plain", description="The estimator of GSNR that is shown.")
    report: str = Field("last", description="The epoch whose headline metric is shown.")
    paper: bool = Field(True, description="Whether the papers' numbers are shown.")
    order: dict[str, tuple[str, ...]] = Field({}, description="Names by factor, as configured.")
    titles: dict[str, dict[str, str]] = Field({}, description="Titles by factor and name.")

    @property
    def labels(self) -> dict[str, object]:
        """What is only shown, as `Results` takes it."""
        return {name: getattr(self, name) for name in ("estimator", "report", "order", "titles")}


class Requested(NamedTuple):
    """A request, checked, with the target and the settings that it names."""

    request: Request
    target: Target
    settings: TargetSettings


@functools.cache
def kinds() -> tuple[str, ...]:
    """Return the kinds of target that there are."""
    modules = pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)
    return tuple(module.name for module in modules if module.name not in HELPERS)


def kind_of(name: object, kind: object = None) -> str:
    """Return the kind of a target: the one that is asked for, that of its name, or ``grid``.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind is None:
        return name if name in kinds() else GENERIC
    check_known(f"config: targets.{name}.kind", kind, kinds(), "a kind of target")
    return kind


def module_of(kind: str) -> Target:
    """Return a kind of target, with defaults for what its module does not define.

    Raises:
        ValueError: If there is no such kind.
    """
    check_known("target", kind, kinds(), "a kind of target")
    module = vars(importlib.import_module(module_name(kind)))
    names = [field.name for field in dataclasses.fields(Target) if field.name in module]
    return Target(**{name: module[name] for name in names})


def module_name(kind: str) -> str:
    """Return the module of a kind of target."""
    return f"{PACKAGE}.{kind}"


def settings_of(kind: str) -> type[TargetSettings]:
    """Return the settings of a kind of target."""
    return module_of(kind).Settings


def requested(text: str, name: str, shows: str) -> Requested:
    """Return what is asked for by the JSON of a `Request`.

    Args:
        text: The JSON.
        name: Name of the target, for errors.
        shows: ``table`` or ``figure``, which the target must show.

    Raises:
        ValueError: If there is no such target, it does not show that, or a setting is wrong.
    """
    try:
        request = Request.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(one_line(error, Request, f"targets.{name}")) from None
    target = module_of(request.kind)
    check_known(f"target {name}", shows, target.SHOWS, f"what {request.kind} shows")
    settings = parse(target.Settings, request.settings, f"targets.{name}")
    return Requested(request, target, settings)


def titles(name: str, kind: str) -> tuple[str, str]:
    """Return the title of a target, and a short one for a list of contents."""
    title = module_of(kind).TITLE
    if name != kind:
        return f"{title} ({name})", _spoken(name)
    return title, title.partition(":")[0] if ":" in title else name.capitalize()  # table3: Table 3


def _spoken(name: str) -> str:
    """Return a name as words: my-grid is My grid, figure4-untrained is Figure 4, untrained."""
    first, _, rest = name.partition("-")
    if rest and first in kinds():
        return f"{titles(first, first)[1]}, {rest.replace('-', ' ')}"
    words = name.replace("-", " ").replace("_", " ")
    return words[0].upper() + words[1:]


def caption(kind: str, note: str | None = None) -> str:
    """Return the caption of a kind of target, and a note behind it: one plain paragraph."""
    text = (resources.files(PACKAGE) / "captions" / f"{kind}.rst").read_text(encoding="utf-8")
    return " ".join([*text.split(), *([note] if note else [])])


def code_modules(kind: str, tasks: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the modules and data files that decide what a kind of target shows.

    Args:
        kind: Of the target.
        tasks: Of the runs that it reads: they say what is better.
    """
    shown = (module_name(kind), "rectify.analysis.latex", "rectify/targets/published.csv")
    return (*shown, *map(metrics_module, tasks))


def code(kind: str, tasks: Iterable[str] = ()) -> str:
    """Return hexadecimal digits that change when the code or data of ``code_modules`` do."""
    return source_digest(*code_modules(kind, tasks))
