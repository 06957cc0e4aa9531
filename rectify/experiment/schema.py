"""The configuration's JSON schema, for editors that complete and check YAML."""

from pydantic import TypeAdapter

from rectify import targets, tasks
from rectify.experiment.settings import Config
from rectify.typed import NAME, TARGET


def json_schema() -> dict[str, object]:
    """Return the JSON schema of a configuration, with the keys of every task and target."""
    schema = Config.model_json_schema()
    groups = {
        ("data", NAME): [tasks.settings_of(name) for name in tasks.names()],
        ("targets", TARGET): [targets.settings_of(name) for name in targets.kinds()],
    }
    for (section, pattern), models in groups.items():
        choices = []
        for model in models:
            found = TypeAdapter(model).json_schema(ref_template="#/$defs/{model}")
            schema["$defs"] |= found.pop("$defs", {})
            choices.append(found)
        group = {key: schema["properties"][section][key] for key in ("title", "description")}
        named = {"type": "object", "patternProperties": {f"^{pattern}$": {"anyOf": choices}}}
        schema["properties"][section] = {**group, **named, "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
