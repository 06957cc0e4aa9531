"""`rectify <command>`, the same as `python -m rectify <command>`.

Only the chosen command is imported, so `rectify --help` and `rectify table` start without
torch. A mistake of the user ends with one line and exit status 2.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

COMMANDS = {
    "resolve": "write the settings of one run",
    "prepare-data": "check, count and freeze a data set",
    "fetch": "get a published model or data set from the hub",
    "pretrain": "pretrain a small language model on Unicode names",
    "extract-block": "take one decoder block out of a checkpoint",
    "train": "train one run with one seed, measuring GSNR",
    "evaluate": "accuracy of a trained run on the test sets",
    "language-features": "features of the captions in every layer of a language model",
    "vision-features": "features of the images in every block of a ViT",
    "similarity": "Mutual-KNN between two models' features",
    "table": "one table of the paper, from the runs' results",
    "figure": "one figure of the paper, from the runs' results",
    "report": "one page with all tables and figures",
    "cost": "parameters, FLOPs and speed of a model, without weights",
    "measure": "parameters, FLOPs, speed and memory of a model in each variant",
    "warm": "run a command (snakemake) whose rectify jobs start at once",
}

AT_ONCE = (["warm"], ["fetch"])  # never run in a warm process; all others never use the network


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] not in AT_ONCE and os.environ.get("RECTIFY_WARM"):
        return _one_line(lambda: _request(arguments))
    return run(arguments)


def run(arguments: Sequence[str]) -> int:
    """Run the command line in this process and return the exit status."""
    if list(arguments[:1]) not in AT_ONCE:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before a library reads it
    logging.basicConfig(level=logging.INFO, format="rectify.%(module)s %(message)s", force=True)
    for library in ("httpx", "httpx2", "timm", "matplotlib", "fontTools"):
        logging.getLogger(library).setLevel(logging.WARNING)
    command, parsed = _parse(list(arguments))
    return _one_line(lambda: command.run(parsed) or 0)


def _one_line(work: Callable[[], int]) -> int:
    """Return the exit status of ``work``; a mistake of the user becomes one line and status 2."""
    try:
        return work()
    except ValueError as error:
        if os.environ.get("RECTIFY_TRACEBACK"):
            raise
        sys.stderr.write(f"{error}\n")
        return 2


def _request(arguments: list[str]) -> int:
    from rectify.warm import request

    return request(os.environ["RECTIFY_WARM"], arguments)


def _parse(arguments: list[str]) -> tuple:
    name = next((word for word in arguments if word in COMMANDS), None)
    parser = argparse.ArgumentParser(
        prog="rectify", description="Frozen language-model blocks in vision transformers."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    module = None
    for known, help_text in COMMANDS.items():
        subparser = subparsers.add_parser(known, help=help_text)
        if known == name:
            module = importlib.import_module(f"rectify.commands.{known.replace('-', '_')}")
            subparser.description = module.__doc__
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(subparser)
    return module, parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
