"""Write the JSON schema of the configuration, for editors.

Reads
    nothing
Writes
    --output  the schema, JSON
"""

import argparse
from pathlib import Path

from rectify.experiment.schema import json_schema
from rectify.results.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the schema."""
    write_json(args.output, json_schema())
