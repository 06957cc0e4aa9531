"""Templates, styles and scripts that lie next to this module."""

from importlib import resources


def packaged(name: str) -> str:
    """Return the text of a file."""
    return (resources.files("rectify.analysis") / name).read_text(encoding="utf-8")
