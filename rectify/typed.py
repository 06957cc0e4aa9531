"""Typed settings: closed models whose mistakes are told in one line.

A value is checked where it is parsed, by the rule at its field, and is typed from there on. An
unknown key is an error that names the nearest right spelling.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

NAME = r"[a-z0-9]+([.-][a-z0-9]+)*"
TARGET = r"[a-z0-9]+([._-][a-z0-9]+)*"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
"""Small letters and digits, with single points or hyphens between them: a field of a run's name."""
TargetName = Annotated[str, StringConstraints(pattern=f"^{TARGET}$")]
"""The same, with underscores too: the name of a table or figure."""


def layers_of(layer: int | str) -> tuple[int, ...]:
    """Return the decoder layers that one index, or ``30-31`` for some in a row, names."""
    if isinstance(layer, int):
        return (layer,)
    first, _, last = layer.partition("-")
    return tuple(range(int(first), int(last or first) + 1))


def layer_by(text: str) -> int | str:
    """Return the layer that a text names: an index, or some in a row.

    Raises:
        ValueError: If it names none.
    """
    if re.fullmatch(INDEX, text):
        return int(text)
    if not re.fullmatch(f"{INDEX}-{INDEX}", text) or len(layers_of(text)) < 2:
        raise ValueError(
            f"a layer must be an index from 0 on, or some in a row as 30-31, got {text}. "
            "Correct it."
        )
    return text


def _layer(value: object) -> object:
    return layer_by(f"{value}") if isinstance(value, int | str) else value


INDEX = r"(?:0|[1-9]\d*)"
Layer = Annotated[
    int | str,
    BeforeValidator(_layer),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": f"^{INDEX}-{INDEX}$"},
            ]
        }
    ),
]
"""A decoder layer by its index, counted from 0, or some in a row: ``30-31``."""


Item = TypeVar("Item")


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must name each once")
    return values


def _each_once(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if not values or len(set(values)) < len(values):
        raise ValueError("must name at least one, each once")
    return values


class _OneOrMore:
    """The JSON schema of a list of distinct values that may be written as its only one."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = {**handler(core), "uniqueItems": True}
        return {"anyOf": [schema["items"], schema]}


Listed = Annotated[
    tuple[Item, ...], BeforeValidator(_listed), AfterValidator(_distinct), _OneOrMore()
]
"""One value, or a list of distinct ones, which may be empty."""
Several = Annotated[
    tuple[Item, ...], BeforeValidator(_listed), AfterValidator(_each_once), _OneOrMore()
]
"""One value, or a list of distinct ones."""


def _not_a_count(value: object) -> object:
    if type(value) is int:
        first = list(range(min(max(value, 1), 5)))
        raise ValueError(f"must be a list, as {first}, got {value}. Write [{value}] for that one.")
    return value


Seeds = Annotated[
    Several[Annotated[int, Field(ge=0)]],
    BeforeValidator(_not_a_count),
    WithJsonSchema(
        {
            "items": {"minimum": 0, "type": "integer"},
            "minItems": 1,
            "type": "array",
            "uniqueItems": True,
        }
    ),
]
"""A list of distinct seeds; a number would be one of them, and is often meant as their count."""


class Closed(BaseModel):
    """A frozen group of settings without any other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], value: object, where: str) -> Model:
    """Return ``value`` as a model.

    Args:
        model: Type of the settings.
        value: What a YAML or JSON file holds.
        where: Path of the value in the configuration, e.g. ``data.cifar100``; may be empty.

    Raises:
        ValueError: One line that names the key, what must hold and what was got.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(one_line(error, model, where)) from None


def one_line(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """Return the first mistake as one line; an unknown key comes before all others."""
    mistakes = error.errors(include_url=False)
    first = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
    nested = first.get("ctx", {}).get("error")
    if nested is not None and f"{nested}".startswith("config: "):
        return f"{nested}"  # told by the validator of a group inside
    path = [str(key) for key in first["loc"] if key != "[key]"]
    place = ".".join([*([where] if where else []), *path]) or "top level"
    if first["type"] == "extra_forbidden":
        parent = ".".join(place.split(".")[:-1]) or "top level"
        hint = nearest(path[-1], _fields(model, path[:-1]))
        return f"config: every key must be known, got {path[-1]!r} at {parent}. {hint}"
    if first["type"] == "missing":
        parent = ".".join(place.split(".")[:-1]) or "top level"
        return f"config: {parent} must be complete, got no {path[-1]}. Add the key."
    if ", got " in f"{nested}":
        return f"config: {place}: {nested}"
    shown = f"{first['input']!r}"[:80]
    got = "" if isinstance(first["input"], dict) else f", got {shown}"
    rule = f"{nested or first['msg']}".removeprefix("Value error, ").rstrip(".")
    rule = rule[:1].lower() + rule[1:]
    return f"config: {place} must follow its rule, {rule}{got}. Correct {place}."


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest right spelling, or all of them."""
    names = [f"{one}" for one in known]
    near = difflib.get_close_matches(f"{name}", names, 1)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names) or 'none'}."


def check_known(where: str, name: object, known: Iterable[str], what: str) -> None:
    """Check that a name is one of those that are known.

    Raises:
        ValueError: One line with the nearest right spelling.
    """
    names = list(known)
    if name not in names:
        raise ValueError(f"{where}: must be {what}, got {name!r}. {nearest(name, names)}")


def _fields(model: object, path: list[str]) -> list[str]:
    """Return the keys that are known at a path below a model, as far as annotations tell."""
    for key in path:
        fields = getattr(model, "model_fields", {})
        if key in fields:
            model = fields[key].annotation
        model = _model_in(model)
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]


def _model_in(annotation: object) -> object:
    """Return the first model inside an annotation such as ``dict[str, Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in inner if model is not None), None)


def merge(base: Mapping, overlay: Mapping) -> dict:
    """Return ``base`` with ``overlay`` over it: mappings merged, everything else replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
