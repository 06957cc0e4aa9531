"""A command line that needs nothing and writes one small file: the labels of a run."""

import json


def labels(run: str) -> dict[str, object]:
    """Return complete labels of a run."""
    named = {"name": "digits", "title": "Digits"}
    return {"run": run, "data": named, "vision": named, "language": None, "estimator": "plain"}


def resolve(run: str, output: object = "config.json") -> tuple[str, ...]:
    """Return the words of a command that writes them."""
    settings = json.dumps(labels(run))
    return ("resolve", "--labels", "--settings", settings, "--output", f"{output}")
