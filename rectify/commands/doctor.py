"""Check a machine or a cluster before the first run: one line for each finding.

Reads
    --config   configuration files, one over the other, as given to snakemake
    --profile  profile files, likewise: partition, account, type of GPU
Writes
    nothing that stays; the exit status is 1 if something must be mended
"""

import argparse
import errno
import fcntl
import importlib.metadata
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
PROBE = "import torch; print('cuda', torch.cuda.device_count())"
JOB_SECONDS = 600


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
    missing = [place for place in places if not Path(place).exists()]
    if missing:
        return Finding(False, what, f"nothing at {', '.join(missing)}: {hint}")
    return Finding(True, what, ", ".join(places))


def _cluster(config: experiment.Config, profile: dict[str, Any]) -> Iterator[Finding]:
    if shutil.which("squeue") is None:
        yield Finding(False, "slurm", "no squeue here: run this on a login node")
        return
    defaults = profile.get("default-resources", {})
    train = {**defaults, **profile.get("set-resources", {}).get("train", {})}
    partition = train.get("slurm_partition", "")
    rows = slurm.ask("sinfo", "--noheader", "--format=%R").split()
    if partition not in rows:
        known = ", ".join(sorted(set(rows)))
        yield Finding(False, "partition", f"no partition {partition}; there are: {known}")
        return
    limits = slurm.ask("sinfo", "-h", "-p", partition, "--format=%D nodes, %G, at most %l")
    yield Finding(True, "partition", f"{partition}: {'; '.join(limits.splitlines())}")
    yield from _job(config, partition, train)


def _job(config: experiment.Config, partition: str, train: dict[str, Any]) -> Iterator[Finding]:
    """Start a job that sees what a training would see."""
    options = [f"--partition={partition}", "--ntasks=1", "--time=5", "--mem=4000"]
    options += [f"--account={train['slurm_account']}"] if "slurm_account" in train else []
    if config["device_gpus"]:
        model = f"{train['gpu_model']}:" if "gpu_model" in train else ""
        options.append(f"--gpus={model}{config['device_gpus']}")
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".doctor-") as seen:
        script = f"test -e {Path(seen.name).name} && echo shared; echo gpus $CUDA_VISIBLE_DEVICES;"
        command = [*options, "bash", "-c", f'{script} "$0" -c "$1"', sys.executable, PROBE]
        try:
            said = slurm.ask("env", "-u", "SLURM_CONF", "srun", *command, seconds=JOB_SECONDS)
        except ValueError as error:
            yield Finding(False, "job", str(error))
            return
    yield Finding("shared" in said, "shared files", f"a job sees {Path.cwd()}: {'shared' in said}")
    yield Finding("cuda" in said, "environment", f"a job runs {sys.executable}")
    if config["device_gpus"]:
        counted = next((line for line in said.splitlines() if line.startswith("cuda")), "cuda 0")
        yield Finding(not counted.startswith("cuda 0"), "GPU", f"a job sees {counted.split()[1]}")
