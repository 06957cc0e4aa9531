"""The command line: its mistakes in one line, types of arguments that commands share, and the
variables by which a workflow tells its jobs what they are.
"""

import argparse
import json
from pathlib import Path
from typing import NoReturn

JOB = "RECTIFY_JOB"
"""Variable that is set in the jobs of a workflow, whose logs tell if another attempt can help."""
COMMAND = "RECTIFY_COMMAND"
"""Variable that holds the command line of the workflow, which its page shows."""
GPUS = "RECTIFY_GPUS"
"""Variable that names the GPUs of this machine which jobs share."""
PLANNED = "RECTIFY_PLANNED"
"""Variable that names the file into which a workflow writes the jobs that it plans."""
FINAL = "rectify.mistake no further attempt can help:"
"""In the log of a job, the line above a mistake that only a user can mend."""

CONFIGS = (Path("config.yaml"), Path("config/config.yaml"))
"""Configurations that are read unless one is named: of a clone, of a project with the workflow as a
module."""


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, and what to do about it."""

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def add_configs(parser: argparse.ArgumentParser) -> None:
    """Declare the configuration files, one over the other, as for snakemake."""
    default = next((path for path in CONFIGS if path.is_file()), CONFIGS[0])
    parser.add_argument("--config", type=Path, nargs="+", default=[default])


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Declare what a command that computes asks of its machine."""
    parser.add_argument("--threads", type=positive, required=True)
    add_gpus(parser)


def add_gpus(parser: argparse.ArgumentParser) -> None:
    """Declare how many GPUs a command must have."""
    parser.add_argument(
        "--gpus", type=natural, default=0, help="that must be usable; 0: the CPU may do"
    )


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Return a whole number from 0 on."""
    return _whole(text, 0)


def share(text: str) -> float:
    """Return a number above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 1, got {text!r}")
    return value


def json_object(text: str) -> dict[str, object]:
    """Return what a JSON object holds."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f"must be JSON, as '{{\"name\": 1}}', got {_short(text)}: {error}"
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"must be a JSON object, as '{{\"name\": 1}}', got {_short(text)}"
        )
    return value


def table_path(text: str) -> Path:
    """Return the path of a table that is written."""
    return _ending(text, ".csv")


def tensors_path(text: str) -> Path:
    """Return the path of tensors that are written."""
    return _ending(text, ".safetensors")


def picture_path(text: str) -> Path:
    """Return the path of a picture that a page can show."""
    return _ending(text, ".png")


def _whole(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} on, got {text!r}")
    return int(text)


def _ending(text: str, suffix: str) -> Path:
    if Path(text).suffix != suffix:
        raise argparse.ArgumentTypeError(f"must be a {suffix} file, got {_short(text)}")
    return Path(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
