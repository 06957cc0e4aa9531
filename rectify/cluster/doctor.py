"""Whether a machine and a cluster have what the workflow needs: one finding after the other."""

import contextlib
import errno
import fcntl
import importlib.metadata
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rectify.cluster import slurm
from rectify.results.files import is_pointer, read_yaml

PACKAGES = ("torch", "timm", "transformers", "snakemake", "snakemake-executor-plugin-slurm")
WEIGHTS = (".safetensors", ".bin", ".pth", ".gguf")  # what files of weights end in
NEEDED_BYTES = 20 * 2**30
CUDA = "import torch; print('cuda', torch.cuda.device_count())"
JOB = (
    'if [ -e "$2" ]; then echo shared; flock -nE 75 "$2" true; [ $? = 75 ] && echo locked; fi;'
    ' "$0" -c "$1"'
)
QUEUE_SECONDS, JOB_MINUTES = 600, 5
UP = ("idle", "mix", "alloc", "comp", "plnd", "resv")
"""States in which a node runs jobs, now or later, as sinfo shortens them."""
FAULTS = "*$"
"""Marks behind a state: the node does not answer, or is in maintenance."""
FULL = ("Requested nodes are busy", "Immediate execution impossible")


class Finding(NamedTuple):
    """Whether something is well, what was looked at, and what it is or what must be done."""

    is_well: bool
    what: str
    text: str

    def line(self) -> str:
        """Return the finding in one line."""
        return f"{'ok ' if self.is_well else 'BAD'} {self.what}: {self.text}"


@dataclass(frozen=True)
class Request:
    """What a profile asks of SLURM for a training."""

    partition: str
    account: str | None
    gpu_model: str | None
    runtime: int | str | None
    """Minutes, or with a unit; None where the rule's own value holds."""
    others: tuple[str, ...] = ()
    """Partitions of other rules."""


def request(profiles: Sequence[Path]) -> Request:
    """Read profiles of Snakemake, a later one replacing whole keys of the ones before.

    Raises:
        ValueError: If a file is missing or no profile: names it, and the line.
    """
    merged: dict[str, object] = {}
    for path in profiles:
        merged |= read_yaml(path)
    rules = _resources(merged, "set-resources")
    named = [_resources(rules, rule).get("slurm_partition") for rule in rules if rule != "train"]
    train = _resources(rules, "train")
    both = {**_resources(merged, "default-resources"), **train}
    return Request(
        partition=both.get("slurm_partition", ""),
        account=both.get("slurm_account"),
        gpu_model=both.get("gpu_model"),
        runtime=train.get("runtime"),  # a default does not replace what the rule asks for
        others=tuple(sorted({partition for partition in named if partition})),
    )


def _resources(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the values below a key of a profile; none where the key is missing or empty."""
    found = values.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(
            f"profile: {key} must hold keys and values, got {found!r}. Write them as in "
            "slurm/profile.yaml."
        )
    return found or {}


def machine(results: Path) -> Iterator[Finding]:
    """Look at the packages, and at the space and the locks where the results go."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield Finding(True, "versions", versions)
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


def present(what: str, places: Sequence[str], hint: str) -> Finding:
    """Look for files, or folders that are not empty."""
    missing = [place for place in places if not _has_content(Path(place))]
    if missing:
        return Finding(False, what, f"nothing at {', '.join(missing)}: {hint}")
    noted = [place for place in places if _has_pointers(Path(place))]
    if noted:
        text = f"git-lfs's pointers alone at {', '.join(noted)}: run `git lfs pull` there"
        return Finding(False, what, text)
    return Finding(True, what, ", ".join(places))


def cluster(asked: Request, gpus: int, nodes: int) -> Iterator[Finding]:
    """Look at the partition, its nodes and its time limit, and at what a training's job sees there.

    Args:
        asked: What the profile asks for.
        gpus: GPUs of a training, on each of its nodes.
        nodes: Nodes of a training.
    """
    if shutil.which("squeue") is None:
        yield Finding(False, "slurm", "no squeue here: run this on a login node")
        return
    try:
        yield from _partition(asked, gpus, nodes)
    except ValueError as error:  # SLURM does not answer
        yield Finding(False, "slurm", f"{error}".removeprefix("slurm: "))


def _partition(asked: Request, gpus: int, nodes: int) -> Iterator[Finding]:
    """Do so where there is SLURM; raise ``ValueError`` if it does not answer."""
    partition, existing = asked.partition, slurm.ask("sinfo", "--noheader", "--format=%R").split()
    for missing in sorted({partition, *asked.others} - set(existing)):
        known = ", ".join(sorted(set(existing)))
        yield Finding(False, "partition", f"no partition {missing}; there are: {known}")
    if partition not in existing:
        return
    limits = slurm.ask("sinfo", "-h", "-p", partition, "--format=%D nodes, %G, at most %l")
    yield Finding(True, "partition", f"{partition}: {'; '.join(limits.splitlines())}")
    yield _time_limit(partition, asked.runtime or slurm.training_minutes(gpus))
    found = _nodes(asked, gpus, nodes)
    yield found
    if found.is_well:  # no job would start
        yield from _job(asked, gpus)


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _has_pointers(path: Path) -> bool:
    """Return whether the weights at a path, if there are any, are not downloaded."""
    files = [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix in WEIGHTS]
    return bool(files) and all(map(is_pointer, files))


def _nodes(asked: Request, gpus: int, nodes: int) -> Finding:
    """Look for as many nodes that run jobs, and have the GPUs, as a training takes."""
    answer = slurm.ask("sinfo", "-h", "-N", "-p", asked.partition, "--format=%t %G")
    every = [line.partition(" ")[::2] for line in answer.splitlines()]
    up = [devices for state, devices in every if is_up(state)]
    said = f"{len(up)} of the {len(every)} nodes of {asked.partition} are up"
    if len(up) < nodes:
        states = ", ".join(sorted({state for state, _ in every})) or "none"
        hint = "name another partition, or ask the site"
        return Finding(False, "nodes", f"{said}, a training takes {nodes}: {hint} ({states})")
    if not gpus:
        return Finding(True, "nodes", said)
    fitting = sum(gpus_of(devices, asked.gpu_model) >= gpus for devices in up)
    kind = f" of type {asked.gpu_model}" if asked.gpu_model else ""
    said = f"{said}, {fitting} of them with {gpus} or more GPUs{kind}"
    if fitting < nodes:
        there = "; ".join(sorted(set(up)))
        hint = "correct gpu_model in slurm/profile.yaml, or device_gpus"
        said = f"{said}, a training takes {nodes}: {hint} (there are {there})"
    return Finding(fitting >= nodes, "nodes", said)


def is_up(state: str) -> bool:
    """Return whether a node in a state, as sinfo shortens it, runs jobs, now or later."""
    return state.rstrip("~#!%@^-+*$") in UP and not set(FAULTS) & set(state)


def gpus_of(devices: str, model: str | None) -> int:
    """Return the GPUs of a type, or of any, in what sinfo says: ``gpu:a100:4(S:0-1),gpu:2``."""
    found = re.findall(r"(?:^|,)gpu(?::([^:(,]+))?:(\d+)", devices)
    return sum(int(count) for kind, count in found if model in (None, kind))


def _time_limit(partition: str, runtime: int | str) -> Finding:
    """Compare what a training asks for, as a profile may write it, with the partition's limit."""
    from snakemake.exceptions import WorkflowError
    from snakemake.resources import Resource

    try:
        asked = Resource("runtime", runtime).value
    except WorkflowError:
        hint = "minutes, or a text as 24h or 2d: correct it in slurm/profile.yaml"
        return Finding(False, "time limit", f"runtime is {runtime!r}, and must be {hint}")
    most = _minutes(slurm.ask("sinfo", "-h", "-p", partition, "--format=%l").split()[0])
    text = f"a training asks for {asked} minutes, {partition} gives at most {most}"
    hint = f": write `runtime: {most}` under `train` in slurm/profile.yaml"
    return Finding(asked <= most, "time limit", text + (hint if asked > most else ""))


def _minutes(limit: str) -> int | float:
    """Return a limit that sinfo prints as ``infinite`` or ``[days-][hours:]minutes:seconds``."""
    if limit == "infinite":
        return math.inf
    days, _, clock = limit.rpartition("-")
    seconds = 0
    for number in clock.split(":"):
        seconds = 60 * seconds + int(number)
    return 24 * 60 * int(days or 0) + seconds // 60


def _job(asked: Request, gpus: int) -> Iterator[Finding]:
    """Start a job that sees what a training would see, and a file that this process locks."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".doctor-") as probe:
        with contextlib.suppress(OSError):  # no locks here: the job sees none either
            fcntl.flock(probe, fcntl.LOCK_EX)
        words = ("bash", "-c", JOB, sys.executable, CUDA, Path(probe.name).name)
        command = ("env", "-u", "SLURM_CONF", "srun", *_options(asked, gpus), *words)
        try:
            output = slurm.ask(*command, seconds=QUEUE_SECONDS + 60 * (JOB_MINUTES + 1))
        except ValueError as error:
            long = f"none started within {QUEUE_SECONDS} s: the queue is long, try again later"
            is_full = any(text in str(error) for text in FULL)
            yield Finding(False, "job", long if is_full else str(error))
            return
    yield from _seen(output, gpus)


def _options(asked: Request, gpus: int) -> list[str]:
    options = [f"--partition={asked.partition}", "--nodes=1", "--ntasks=1", "--mem=4000"]
    options += [f"--time={JOB_MINUTES}", f"--immediate={QUEUE_SECONDS}"]
    if asked.account:
        options.append(f"--account={asked.account}")
    if gpus:
        model = f"{asked.gpu_model}:" if asked.gpu_model else ""
        options.append(f"--gpus={model}{gpus}")
    return options


def _seen(output: str, gpus: int) -> Iterator[Finding]:
    """Judge what the job printed."""
    lines, folder = output.splitlines(), Path.cwd()
    yield Finding("shared" in lines, "shared files", f"a job sees {folder}: {'shared' in lines}")
    if "locked" in lines:
        yield Finding(True, "locks", f"a job sees the locks of this machine in {folder}")
    elif "shared" in lines:
        hint = "mount with -o flock, on NFS without nolock"
        yield Finding(False, "locks", f"a job sees no lock of this machine in {folder}: {hint}")
    cuda = re.search(r"^cuda (\d+)$", output, re.MULTILINE)
    yield Finding(cuda is not None, "environment", f"a job runs {sys.executable}")
    if gpus:
        count = int(cuda[1]) if cuda else 0
        yield Finding(count >= gpus, "GPU", f"a job sees {count} of {gpus}")
