"""From the configuration to the runs: which trainings a table or figure needs."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from rectify.runs import Run

SCHEMA = Path(__file__).resolve().parents[1] / "workflow" / "schemas" / "config.schema.yaml"
TABLES = tuple(f"table{number}" for number in range(1, 7))
BEYOND = ("controls", "cost")  # tables that the paper does not have
FIGURES = tuple(f"figure{number}" for number in range(2, 6))
SOURCE = ("hub", "revision", "weights")  # where a folder comes from; decides no run

Config = dict[str, Any]


def check(config: Config) -> None:
    """Check a merged configuration as a whole, before any job.

    Raises:
        ValueError: One line that names the key, what must hold and what was got.
    """
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    errors = sorted(
        Draft202012Validator(schema).iter_errors(config),
        key=lambda error: (error.validator != "additionalProperties", list(map(str, error.path))),
    )
    if errors:
        raise ValueError(_message(errors[0]))
    _check_references(config)
    _check_gsnr(config["gsnr"])
    for run in all_runs(config):
        _check_run(config, run)


def load(paths: Sequence[Path]) -> Config:
    """Return the checked configuration of YAML files, each laid over the ones before.

    Raises:
        ValueError: If a file is missing or no YAML mapping, or the whole is not valid.
    """
    config: Config = {}
    for path in paths:
        try:
            overlay = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: must be a YAML file, got {reason}. Correct it.") from None
        if not isinstance(overlay, dict):
            raise ValueError(f"{path}: must hold keys and values, got {overlay!r}. Correct it.")
        config = merge(config, overlay)
    check(config)
    return config


def merge(base: Config, overlay: Mapping[str, Any]) -> Config:
    """Return ``base`` with ``overlay`` over it: mappings merged, everything else replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def runs_of(config: Config, target: str) -> list[Run]:
    """Return the runs that a table or figure is made of; Figure 4 needs no insertions."""
    found = dict.fromkeys(_RUNS[target](config))
    return list(found)


def all_runs(config: Config) -> list[Run]:
    """Return every run of the configuration, each once."""
    return list(dict.fromkeys(run for target in _RUNS for run in runs_of(config, target)))


def settings(config: Config, run: Run) -> dict[str, Any]:
    """Return everything about one run: what goes to ``runs/<run>/config.json``."""
    data, own = config["data"][run.data], _own(config, run)
    vision = {**config["visions"][run.vision], **_without(own, "training")}
    language = config["languages"].get(run.language)
    places = {"early": 0, "middle": vision["depth"] // 2, "end": vision["depth"]}
    return {
        "run": run.name,
        "data": {
            "name": run.data,
            "channels": 3,
            "frames": 1,
            **_without(data, "training", "sizes", "full", "visions", *SOURCE),
        },
        "vision": {"name": run.vision, "overrides": {}, **_without(vision, *SOURCE)},
        "variant": run.variant,
        "language": language
        and {"name": run.language, **_without(language, "pretraining", *SOURCE)},
        "layer": run.layer,
        "position": run.position,
        "insert_at": places.get(run.position),
        "lambda_init": run.lambda_init,
        "final_norm": config["rectifier"]["final_norm"],
        "recipe": _recipe(config["training"], data.get("training", {}), own.get("training", {})),
        "gsnr": config["gsnr"],
    }


def repositories(config: Config) -> dict[str, dict[str, str | None]]:
    """Return the folders that are fetched from a hub: its id, what kind it is, the revision."""
    places = (
        ("data", "folder", "dataset"),
        ("visions", "weights", "model"),
        ("languages", "checkpoint", "model"),
    )
    return {
        item[key]: {"hub": item["hub"], "kind": kind, "revision": item.get("revision")}
        for section, key, kind in places
        for item in config[section].values()
        if "hub" in item
    }


def is_filled_by_hand(folder: Path) -> bool:
    """Say whether a folder has files, but not from a hub, whole or in part."""
    fetched = (folder / "fetched.json").is_file() or (folder / ".cache").is_dir()
    return folder.is_dir() and any(folder.iterdir()) and not fetched


def cost_settings(config: Config, vision: str, language: str) -> dict[str, Any]:
    """Return everything that decides the cost of a ViT with a block of a language model."""
    table, model = config["tables"]["cost"], config["visions"][vision]
    data = config["data"][table["data"]]
    sizes = {name: data[name] for name in ("image_size", "classes")}
    own_norm = config["rectifier"]["final_norm"] == "loaded"  # weights it has; costs the same
    return {
        "vision": {key: model[key] for key in ("title", "timm", "overrides") if key in model},
        "language": {"name": language, "title": config["languages"][language]["title"]},
        "data": {"channels": data.get("channels", 3), **sizes},
        "batch_size": table["batch_size"],
        "training": {**config["training"], **data.get("training", {})},
        "final_norm": "unit" if own_norm else config["rectifier"]["final_norm"],
    }


def data_settings(config: Config, name: str) -> dict[str, Any]:
    """Return what decides the items of a data set; titles and training values don't."""
    data = config["data"][name]
    kept = _without(data, "training", "title", "top_k", "sizes", "views", "visions", *SOURCE)
    return {"name": name, "folder": None, "channels": 3, "seed": 0, **kept, **data.get("sizes", {})}


def _own(config: Config, run: Run) -> dict[str, Any]:
    """Return what a data set says about one of its vision transformers."""
    return config["data"][run.data].get("visions", {}).get(run.vision, {})


def _recipe(*sections: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over each other; a named recipe starts anew, without values for another one."""
    values: dict[str, Any] = {}
    for section in sections:
        values = {**({} if "recipe" in section else values), **section}
    return values


def _block(config: Config, language: str, layer: int | None = None) -> dict[str, Any]:
    last = config["languages"][language]["layers"] - 1
    return {"language": language, "layer": last if layer is None else layer}


def _auxiliary(config: Config, data: str, vision: str, language: str, weight: int | float) -> Run:
    if weight == 0:
        return Run(data, vision)
    block = _block(config, language)
    return Run(data, vision, "auxiliary", position="end", lambda_init=float(weight), **block)


def _pair(config: Config, data: str, vision: str, language: str) -> Iterator[Run]:
    yield Run(data, vision)
    weight = config["auxiliary"]["lambda_init"]
    yield _auxiliary(config, data, vision, language, weight)


def _seen(config: Config, visions: list[str]) -> Iterator[Run]:
    if config["similarity"]["vision"] == "trained":
        for vision in visions:
            yield Run(config["similarity"]["data"], vision)


def _table1(config: Config) -> Iterator[Run]:
    yield from _seen(config, config["tables"]["table1"]["visions"])


def _table2(config: Config) -> Iterator[Run]:
    table = config["tables"]["table2"]
    yield Run(table["data"], table["vision"])
    for language in table["languages"]:
        block = _block(config, language)
        yield Run(table["data"], table["vision"], "insert", position="end", **block)


def _table3(config: Config) -> Iterator[Run]:
    table = config["tables"]["table3"]
    yield Run(table["data"], table["vision"])
    for layer in table["layers"]:
        for position in table["positions"]:
            block = _block(config, table["language"], layer)
            yield Run(table["data"], table["vision"], "insert", position=position, **block)


def _table4(config: Config) -> Iterator[Run]:
    table = config["tables"]["table4"]
    for data in (table["data"], table["video"]):
        for vision in table["visions"]:
            yield from _pair(config, data, vision, table["language"])


def _table5(config: Config) -> Iterator[Run]:
    table = config["tables"]["table5"]
    for data in table["data"]:
        for vision in table["visions"]:
            yield from _pair(config, data, vision, table["language"])


def _table6(config: Config) -> Iterator[Run]:
    table = config["tables"]["table6"]
    for data in table["data"]:
        for weight in table["lambdas"]:
            yield _auxiliary(config, data, table["vision"], table["language"], weight)


def _last_layer(config: Config) -> Iterator[Run]:
    last = max(config["tables"]["table3"]["layers"])
    for run in _table3(config):
        if run.variant == "vanilla" or run.layer == last:
            yield run


def _figure2(config: Config) -> Iterator[Run]:
    for run in _last_layer(config):
        if run.position in (None, "end"):
            yield run


def _figure4(config: Config) -> Iterator[Run]:
    yield from _seen(config, [config["tables"]["figure4"]["vision"]])


def _controls(config: Config) -> Iterator[Run]:
    table = config["tables"]["controls"]
    block = _block(config, table["language"])
    for variant in ("insert", *table["variants"]):
        yield Run(table["data"], table["vision"], variant, position="end", **block)
    yield Run(table["data"], table["vision"])


_RUNS = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": _table4,
    "table5": _table5,
    "table6": _table6,
    "figure2": _figure2,
    "figure3": _last_layer,
    "figure4": _figure4,
    "figure5": _table3,
    "controls": _controls,
}


def _message(error: ValidationError) -> str:
    where = ".".join(map(str, error.path)) or "top level"
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        near = difflib.get_close_matches(str(unknown), known, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(known)}."
        return f"config: every key must be known, got {unknown!r} at {where}. {hint}"
    if error.validator == "required":
        return f"config: {where} must be complete, got {error.message}. Add the key."
    rule = error.schema.get("description", "see workflow/schemas/config.schema.yaml")
    if error.validator == "uniqueItems":
        return f"config: {where} must name each once, got {error.instance}. Delete the repetition."
    return f"config: {where} must follow its rule, {error.message}. {rule}"


def _check_references(config: Config) -> None:
    for target, table in config["tables"].items():
        for keys, section in (
            (("data", "video"), "data"),
            (("vision", "visions"), "visions"),
            (("language", "languages"), "languages"),
        ):
            for key in keys:
                for name in _listed(table.get(key)):
                    _check_name(f"tables.{target}.{key}", name, config[section], section)
    for name, data in config["data"].items():
        for vision in data.get("visions", {}):
            _check_name(f"data.{name}.visions", vision, config["visions"], "visions")
    _check_name("similarity.pairs", config["similarity"]["pairs"], config["data"], "data")
    if config["similarity"]["vision"] == "trained":
        _check_name("similarity.data", config["similarity"].get("data"), config["data"], "data")


def _check_gsnr(gsnr: Mapping[str, Any]) -> None:
    if gsnr["mode"] == "replace" and gsnr["loss"] != "total":
        raise ValueError(
            f"config: gsnr.loss must be total where gsnr.mode is replace, got {gsnr['loss']}. "
            "Set gsnr.mode to observe."
        )


def _check_name(where: str, name: Any, known: Mapping[str, Any], section: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
        raise ValueError(f"config: {where} must be a name under {section}, got {name!r}. {hint}")


def _check_run(config: Config, run: Run) -> None:
    if run.language is None:
        return
    layers = config["languages"][run.language]["layers"]
    if not 0 <= run.layer < layers:
        raise ValueError(
            f"config: a layer of {run.language} must lie in 0..{layers - 1}, got {run.layer}. "
            "Change tables.table3.layers."
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
