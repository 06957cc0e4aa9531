"""Write the settings of one run, checked.

Reads
    --settings  everything about the run, as JSON
Writes
    --output    config.json in the run's folder
"""

import argparse
import json
from pathlib import Path

from rectify.records import write_json
from rectify.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    Run.parse(args.settings["run"])
    write_json(args.output, args.settings)
