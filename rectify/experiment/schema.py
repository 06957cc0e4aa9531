"""The configuration's JSON schema, for editors that complete and check YAML."""

from pydantic import TypeAdapter

from rectify import targets, tasks
from rectify.experiment import grid
from rectify.experiment.settings import Config


def json_schema() -> dict[str, object]:
    """Return the JSON schema of a configuration, with the keys of every task and target."""
    schema = Config.model_json_schema()
    groups = {
        "data": [tasks.settings_of(name) for name in tasks.names()],
        "targets": [targets.settings_of(name) for name in targets.kinds()],
    }
    for section, models in groups.items():
        choices = []
        for model in models:
            found = TypeAdapter(model).json_schema(ref_template="#/$defs/{model}")
            schema["$defs"] |= found.pop("$defs", {})
            choices.append(found)
        (pattern,) = schema["properties"][section]["patternProperties"]  # of the names
        group = {key: schema["properties"][section][key] for key in ("title", "description")}
        named = {"type": "object", "patternProperties": {pattern: {"anyOf": choices}}}
        schema["properties"][section] = {**group, **named, "additionalProperties": False}
    for section in grid.NAMED:  # null takes a name of an earlier file out
        for pattern, one in schema["properties"][section]["patternProperties"].items():
            choices = one.get("anyOf", [one])
            schema["properties"][section]["patternProperties"][pattern] = {
                "anyOf": [*choices, {"type": "null"}]
            }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
