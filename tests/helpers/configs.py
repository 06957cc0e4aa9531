"""The project's own configurations as plain values, to change a key and see what follows."""

from pathlib import Path

import yaml

from rectify.typed import merge

ROOT = Path(__file__).resolve().parents[2]


def read_yaml(name: str) -> dict:
    """Return the values of a file of the project."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


PAPER = read_yaml("config.yaml")
DEMO = read_yaml("demo.yaml")
DEMO_PANG = read_yaml("demo-pang.yaml")
SMOKE = merge(DEMO, read_yaml("tests/smoke.yaml"))


def changed(values: dict, path: str, value: object) -> dict:
    """Return a copy of ``values`` with another value at a dotted path."""
    overlay: object = value
    for key in reversed(path.split(".")):
        overlay = {key: overlay}
    return merge(values, overlay)


def replaced(values: dict, path: str, value: object) -> dict:
    """Return a copy of ``values`` in which the value at a dotted path is replaced, not merged."""
    first, _, rest = path.partition(".")
    return {**values, first: replaced(values[first], rest, value) if rest else value}
