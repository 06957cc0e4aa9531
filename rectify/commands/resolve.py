"""Write the settings or the labels of one run.

Reads
    --settings  the record, as JSON, complete; its run's name must follow the grammar
Writes
    --output    config.json or, with --labels, labels.json in the run's folder
"""

import argparse
from pathlib import Path

from rectify.arguments import json_object
from rectify.experiment.run import Run, RunLabels, RunSettings
from rectify.results.files import write_json
from rectify.typed import parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--settings", type=json_object, required=True, metavar="JSON")
    parser.add_argument("--labels", action="store_true", help="what is only shown of the run")
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the record as it was given."""
    record = parse(RunLabels if args.labels else RunSettings, args.settings, "settings")
    Run.parse(record.run)
    write_json(args.output, args.settings)
