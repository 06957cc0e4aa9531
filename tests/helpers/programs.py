"""Small programs in the place of those that a machine does not have."""

from pathlib import Path


def write_programs(folder: Path, **scripts: str) -> None:
    """Write shell scripts that can be run, each under the name of its argument."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
