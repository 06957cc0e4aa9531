"""`rectify <command>`, the same as `python -m rectify <command>`.

Only the chosen command is imported, so `rectify --help` and `rectify table` start without
torch. A mistake of the user ends with one line and exit status 2.
"""

import argparse
import errno
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from rectify.arguments import FINAL, GPUS, JOB, Parser
from rectify.errors import PassingError

COMMANDS = {
    "resolve": "write the settings or the labels of one run",
    "schema": "write the JSON schema of the configuration, for editors",
    "prepare-data": "check, count and freeze a data set",
    "prepare-masks": "list, check or draw the masks of a set's test images",
    "convert-scans": "ScanNet's scans as the arrays that SQA3D's reader reads",
    "fetch": "get a published model or data set from the hub",
    "pretrain": "pretrain a small language model on Unicode names",
    "extract-block": "take one decoder block out of a checkpoint",
    "train": "train one run with one seed, measuring GSNR",
    "evaluate": "accuracy of a trained run on the test sets",
    "export": "a trained run as a folder that plain timm loads, with a model card",
    "export-results": "a folder of results as a data set of Parquet files, with a card",
    "filtering": "activations of a trained run's tokens against masks of objects",
    "submit": "forecasts of a benchmark's public test set, as its server takes them",
    "language-features": "features of the captions in every layer of a language model",
    "vision-features": "features of the images in every block of a ViT",
    "similarity": "Mutual-KNN, CKA and CKNNA between two models' features",
    "select": "which layer to insert where, as similarity predicts",
    "table": "one table of the paper, from the runs' results",
    "figure": "one figure of the paper, from the runs' results",
    "report": "one page with all tables and figures",
    "cost": "parameters, FLOPs, and with --time speed and memory, without weights",
    "speeds": "items per second of trainings on this machine, for `rectify plan --speed`",
    "doctor": "check a machine or a cluster before the first run",
    "plan": "what targets take before anything is submitted: jobs, GPU-hours, bytes",
    "status": "how far each run is: epochs, expected end, failures",
    "warm": "run a command (snakemake) whose rectify jobs start at once",
}
COLD = {"warm", "fetch"}
"""Never run in a warm process. All others never use the network."""
PACKAGE_OF = {
    "fontTools": "matplotlib",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
}
"""What must be installed for imports that are called otherwise, or come with another package."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, in the warm process if there is one; return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if _command(arguments) not in COLD and os.environ.get("RECTIFY_WARM"):
        return _one_line(lambda: _request(arguments))
    return run(arguments)


def run(arguments: Sequence[str]) -> int:
    """Run the command line in this process and return the exit status."""
    if _command(arguments) not in COLD:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before a library reads it
    logging.basicConfig(level=logging.INFO, format="rectify.%(module)s %(message)s", force=True)
    for library in ("httpx", "httpx2", "timm", "matplotlib", "fontTools"):
        logging.getLogger(library).setLevel(logging.WARNING)
    return _one_line(lambda: _run(*_parse(arguments)), is_final=_command(arguments) not in COLD)


def _run(module: ModuleType, parsed: argparse.Namespace) -> int:
    """Run a command; one that computes on GPUs says by ``gpus`` on how many."""
    if GPUS not in os.environ:
        return module.run(parsed) or 0
    from rectify.cluster.devices import taken

    with taken(module.gpus(parsed) if hasattr(module, "gpus") else 0):
        return module.run(parsed) or 0


def _command(arguments: Sequence[str]) -> str:
    """Return the name of the command, which comes before any option; empty if there is none."""
    return arguments[0] if arguments else ""


def _one_line(work: Callable[[], int], is_final: bool = False) -> int:
    """Return the exit status of ``work``; what the user can fix becomes one line and status 2."""
    try:
        return work()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("RECTIFY_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.errno not in FULL and error.filename is None:
            raise
        if isinstance(error, ModuleNotFoundError) and not _extra(error):
            raise
        text = _text(error)
        is_final = is_final and not isinstance(error, PassingError)
        final = f"{FINAL}\n" if is_final and os.environ.get(JOB) else ""
        sys.stderr.write(f"{final}{' '.join(map(str.strip, text.splitlines()))}\n")
        return 2


def _of_file(error: OSError) -> str:
    place, reason = error.filename or "rectify", error.strerror
    if error.errno in FULL:
        return (
            f"{place}: the file system must take what is written and give what is read, got "
            f"{reason}. Make room or set the rights, then give the same command again."
        )
    return f"{place}: must be a path that can be read or written, got {reason}. Correct the path."


def _text(error: ValueError | OSError | ModuleNotFoundError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return _extra(error)
    return _of_file(error) if isinstance(error, OSError) else f"{error}"


def _extra(error: ModuleNotFoundError) -> str:
    """Return what to install where a package of an extra is missing; else nothing."""
    import importlib.metadata

    name = (error.name or "").partition(".")[0]
    package = PACKAGE_OF.get(name, name.replace("_", "-"))
    try:
        lines = importlib.metadata.requires("rectify-vit") or []
    except importlib.metadata.PackageNotFoundError:  # a working tree on the path
        return ""
    for line in lines:
        if found := re.fullmatch(rf"{package}\b(?!-).*extra == ['\"](\w+)['\"]", line):
            return (
                f"rectify: this command needs the package {package}, got an environment without "
                f"it. Install rectify-vit[{found[1]}]."
            )
    return ""


def _request(arguments: Sequence[str]) -> int:
    from rectify.cluster.warm import request

    return request(os.environ["RECTIFY_WARM"], arguments)


def _parse(arguments: Sequence[str]) -> tuple[ModuleType | None, argparse.Namespace]:
    """Return the command's module, the only one that is imported, and its parsed arguments."""
    parser = Parser(
        prog="rectify", description="Frozen language-model blocks in vision transformers."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    module = None
    for name, help_text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_text)
        if name == _command(arguments):
            module = importlib.import_module(f"rectify.commands.{name.replace('-', '_')}")
            subparser.description = module.__doc__
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(subparser)
    return module, parser.parse_args(arguments)  # which ends the process if there is no command


if __name__ == "__main__":
    sys.exit(main())
