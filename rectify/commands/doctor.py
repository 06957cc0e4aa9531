"""Check a machine or a cluster before the first run: one line for each finding.

Reads
    --config   configuration files, one over the other, as given to snakemake
    --profile  profile files, likewise: partition, account, type of GPU
Writes
    nothing that stays; the exit status is 1 if something must be mended
"""

import argparse
import contextlib
import errno
import fcntl
import importlib.metadata
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rectify import config as experiment
from rectify import slurm

PACKAGES = ("torch", "timm", "transformers", "snakemake", "snakemake-executor-plugin-slurm")
NEEDED_BYTES = 20 * 2**30
CUDA = "import torch; print('cuda', torch.cuda.device_count())"
JOB = (
    'if [ -e "$2" ]; then echo shared; flock -nE 75 "$2" true; [ $? = 75 ] && echo locked; fi;'
    ' "$0" -c "$1"'
)
QUEUE_SECONDS, JOB_MINUTES = 600, 5
FULL = ("Requested nodes are busy", "Immediate execution impossible")
TRAIN_MINUTES = {True: 2_880, False: 60}
"""What the rule asks for with and without GPUs; so a profile's default does not count."""


class Finding(NamedTuple):
    """One line: whether it is well, what was looked at, what was found or must be done."""

    is_well: bool
    what: str
    found: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--profile", type=Path, nargs="*", default=[])


def run(args: argparse.Namespace) -> int:
    """Print the findings; return 1 if one is bad."""
    config = experiment.load(args.config)
    profile: dict[str, Any] = {}
    for path in args.profile:
        profile |= yaml.safe_load(path.read_text(encoding="utf-8"))
    is_bad = False
    for finding in _findings(config, profile):
        sys.stdout.write(f"{'ok ' if finding.is_well else 'BAD'} {finding.what}: {finding.found}\n")
        sys.stdout.flush()
        is_bad |= not finding.is_well
    return int(is_bad)


def _findings(config: experiment.Config, profile: dict[str, Any]) -> Iterator[Finding]:
    yield from _versions()
    yield from _disk(Path(config["results"]))
    yield from _data(config)
    yield from _checkpoints(config)
    if profile:
        yield from _cluster(config, profile)


def _versions() -> Iterator[Finding]:
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield Finding(True, "versions", found)


def _disk(results: Path) -> Iterator[Finding]:
    place = next(path for path in (results, *results.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    size = f"{free / 2**30:.0f} GiB free at {place}"
    yield Finding(free >= NEEDED_BYTES, "space", f"{size}, {NEEDED_BYTES / 2**30:.0f} are needed")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        what = "must have locks (flock)" if error.errno == errno.ENOSYS else "must be writable"
        yield Finding(False, "results", f"{place} {what}, got {error.strerror}")
    else:
        yield Finding(True, "results", f"{place} can be written, and has locks")


def _data(config: experiment.Config) -> Iterator[Finding]:
    used = {run.data for run in experiment.all_runs(config)} | {config["similarity"]["pairs"]}
    for name, data in config["data"].items():
        if name in used and not data.get("embedded"):
            places = [data["folder"], *(data.get("shifts") or {}).values()]
            yield _present(f"data {name}", places, "docs/data.md says what to put there")


def _checkpoints(config: experiment.Config) -> Iterator[Finding]:
    for what, place in sorted(_models(config).items()):
        yield _present(what, [place], "see docs/data.md")


def _models(config: experiment.Config) -> dict[str, str]:
    """Return the published models that jobs read, by what they are for."""
    tables, found = config["tables"], {}
    for table in tables.values():
        for name in {table.get("language"), *table.get("languages", ())} - {None}:
            if "pretraining" not in config["languages"][name]:
                found[f"checkpoint {name}"] = config["languages"][name]["checkpoint"]
    for run in experiment.all_runs(config):
        if start := experiment.settings(config, run)["vision"].get("start"):
            found[f"start of {run.vision} on {run.data}"] = start
    if config["similarity"]["vision"] == "pretrained":
        others = {tables["table3"]["vision"], tables["figure4"]["vision"]}
        for name in {*tables["table1"]["visions"], *others}:
            if weights := config["visions"][name].get("weights"):
                found[f"weights of {name}"] = weights
    return found


def _present(what: str, places: list[str], hint: str) -> Finding:
    missing = [place for place in places if not _has_something(Path(place))]
    if missing:
        return Finding(False, what, f"nothing at {', '.join(missing)}: {hint}")
    return Finding(True, what, ", ".join(places))


def _has_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _cluster(config: experiment.Config, profile: dict[str, Any]) -> Iterator[Finding]:
    if shutil.which("squeue") is None:
        yield Finding(False, "slurm", "no squeue here: run this on a login node")
        return
    own = profile.get("set-resources", {}).get("train", {})
    train = {**profile.get("default-resources", {}), **own}
    partition = train.get("slurm_partition", "")
    rows = slurm.ask("sinfo", "--noheader", "--format=%R").split()
    if partition not in rows:
        known = ", ".join(sorted(set(rows)))
        yield Finding(False, "partition", f"no partition {partition}; there are: {known}")
        return
    limits = slurm.ask("sinfo", "-h", "-p", partition, "--format=%D nodes, %G, at most %l")
    yield Finding(True, "partition", f"{partition}: {'; '.join(limits.splitlines())}")
    yield _time_limit(partition, own.get("runtime", TRAIN_MINUTES[config["device_gpus"] > 0]))
    yield from _job(partition, train, config["device_gpus"])


def _time_limit(partition: str, runtime: int | str) -> Finding:
    """Compare what a training asks for, as a profile may write it, with the partition's limit."""
    from snakemake.resources import Resource

    asked = Resource("runtime", runtime).value
    most = _minutes(slurm.ask("sinfo", "-h", "-p", partition, "--format=%l").split()[0])
    found = f"a training asks for {asked} minutes, {partition} gives at most {most}"
    hint = f": write `runtime: {most}` under `train` in slurm/profile.yaml"
    return Finding(asked <= most, "time limit", found + (hint if asked > most else ""))


def _minutes(limit: str) -> int | float:
    """Return a limit that sinfo prints as ``infinite`` or ``[days-][hours:]minutes:seconds``."""
    if limit == "infinite":
        return math.inf
    days, _, clock = limit.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return 24 * 60 * int(days or 0) + seconds // 60


def _job(partition: str, train: dict[str, Any], gpus: int) -> Iterator[Finding]:
    """Start a job that sees what a training would see, and a file that this process locks."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".doctor-") as probe:
        with contextlib.suppress(OSError):  # no locks here: the job finds none either
            fcntl.flock(probe, fcntl.LOCK_EX)
        words = ("bash", "-c", JOB, sys.executable, CUDA, Path(probe.name).name)
        command = ("env", "-u", "SLURM_CONF", "srun", *_options(partition, train, gpus), *words)
        try:
            said = slurm.ask(*command, seconds=QUEUE_SECONDS + 60 * (JOB_MINUTES + 1))
        except ValueError as error:
            long = f"none started within {QUEUE_SECONDS} s: the queue is long, try again later"
            is_full = any(words in str(error) for words in FULL)
            yield Finding(False, "job", long if is_full else str(error))
            return
    yield from _seen(said, gpus)


def _options(partition: str, train: dict[str, Any], gpus: int) -> list[str]:
    options = [f"--partition={partition}", "--nodes=1", "--ntasks=1", "--mem=4000"]
    options += [f"--time={JOB_MINUTES}", f"--immediate={QUEUE_SECONDS}"]
    if "slurm_account" in train:
        options.append(f"--account={train['slurm_account']}")
    if gpus:
        model = f"{train['gpu_model']}:" if "gpu_model" in train else ""
        options.append(f"--gpus={model}{gpus}")
    return options


def _seen(said: str, gpus: int) -> Iterator[Finding]:
    """Judge what the job printed."""
    lines, folder = said.splitlines(), Path.cwd()
    yield Finding("shared" in lines, "shared files", f"a job sees {folder}: {'shared' in lines}")
    if "locked" in lines:
        yield Finding(True, "locks", f"a job sees the locks of this machine in {folder}")
    elif "shared" in lines:
        hint = "mount with -o flock, on NFS without nolock"
        yield Finding(False, "locks", f"a job sees no lock of this machine in {folder}: {hint}")
    cuda = re.search(r"^cuda (\d+)$", said, re.MULTILINE)
    yield Finding(cuda is not None, "environment", f"a job runs {sys.executable}")
    if gpus:
        count = int(cuda[1]) if cuda else 0
        yield Finding(count >= gpus, "GPU", f"a job sees {count} of {gpus}")
