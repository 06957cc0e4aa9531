"""Write the settings or the labels of one run.

Reads
    --settings  the record, as JSON; its run's name must follow the grammar
Writes
    --output    config.json or labels.json in the run's folder
"""

import argparse
import json
from pathlib import Path

from rectify.experiment.run import Run
from rectify.results.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the record as it was given."""
    Run.parse(args.settings["run"])
    write_json(args.output, args.settings)
