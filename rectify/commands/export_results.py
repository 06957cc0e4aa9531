"""Export a folder of results as a data set: Parquet files and a card that the hub reads.

    datasets.load_dataset("FOLDER", "gsnr", split="train")

Reads
    --results  folder of results: runs/, and where they are there similarity/ and tables/
Writes
    --output   folder: data/<table>.parquet for each kind of table, README.md
"""

import argparse
import logging
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--title", required=True, help="what was run, and on which data")
    parser.add_argument("--licence", required=True, help="of the data set, as the hub calls it")
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the folder, the card last."""
    from rectify.analysis.dataset import dataset_card, parts
    from rectify.results.files import atomic_path

    made = parts(args.results)
    text = dataset_card(args.results, made, title=args.title, licence=args.licence)
    for part in made:
        with atomic_path(args.output / part.file) as temporary:
            part.rows.to_parquet(temporary, index=False)
    with atomic_path(args.output / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    names = ", ".join(part.name for part in made)
    logging.getLogger(__name__).info("wrote %s: %s", args.output, names)
