"""The GPUs of one machine, shared among its jobs: each job sees devices of its own.

A workflow that runs its jobs on this machine names the devices in ``RECTIFY_GPUS``. A job holds
a lock on each of those that it takes, which the kernel drops with the process; so two workflows
of one user share them too.
"""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from rectify.arguments import GPUS

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT_SECONDS, QUERY_SECONDS = 1.0, 60
NOT_A_NAME = re.compile(r"[^\w.-]")
DEVICE = re.compile(r"^\s*(?P<kind>GPU|MIG) .*\(UUID: (?P<name>[^)]+)\)", re.MULTILINE)


def visible() -> list[str]:
    """Return the devices that a process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Those of the variable where it is set, else all that `nvidia-smi` lists; none without it.
    """
    if (named := os.environ.get(VISIBLE)) is not None:
        words = (word.strip() for word in named.split(","))
        return list(itertools.takewhile(lambda word: word not in ("", "-1"), words))
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        command = ("nvidia-smi", "-L")
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=QUERY_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:  # a driver that hangs has no device
        return []
    return listed(said.stdout) if said.returncode == 0 else []


def listed(said: str) -> list[str]:
    """Return the devices that `nvidia-smi -L` lists; in place of a GPU the parts it is cut into."""
    devices: list[tuple[str, list[str]]] = []
    for match in DEVICE.finditer(said):
        if match["kind"] == "GPU":
            devices.append((match["name"], []))
        elif devices:
            devices[-1][1].append(match["name"])
    return [name for gpu, parts in devices for name in parts or [gpu]]


def share(devices: Sequence[str], wanted: int) -> None:
    """Have the jobs that this process starts share some devices; none where none is wanted.

    Args:
        devices: What they share.
        wanted: GPUs of a training; 0 where everything is computed by the CPU.
    """
    if wanted:
        os.environ[GPUS] = ",".join(devices)
    else:
        os.environ[VISIBLE] = ""


@contextlib.contextmanager
def taken(count: int) -> Iterator[None]:
    """Let this process, and what it starts, see ``count`` of the shared devices and no other.

    It waits until so many are free. Where nothing is shared, nothing changes.

    Raises:
        ValueError: If there are fewer.
    """
    shared = os.environ.pop(GPUS, None)
    if shared is None:
        yield
        return
    devices = [name for name in shared.split(",") if name]
    if count > len(devices):
        raise ValueError(
            f"gpu: this machine must show as many GPUs as a job computes on, {count}, got "
            f"{len(devices)}. Set device_gpus: 0 to compute on the CPU, or see what "
            "`nvidia-smi -L` says."
        )
    with contextlib.ExitStack() as held:
        while True:
            mine = _free(devices, count, held)
            if len(mine) == count:
                break
            held.close()  # so that two that wait for two do not keep one each
            time.sleep(WAIT_SECONDS)
        os.environ[VISIBLE] = ",".join(mine)
        yield


def _free(devices: Sequence[str], count: int, held: contextlib.ExitStack) -> list[str]:
    """Return up to ``count`` devices that no other job holds; hold them."""
    folder = Path(tempfile.gettempdir()) / f"rectify-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    mine: list[str] = []
    for name in devices:
        if len(mine) < count:
            lock = FileLock(folder / NOT_A_NAME.sub("-", name))
            with contextlib.suppress(Timeout):
                held.enter_context(lock.acquire(blocking=False))
                mine.append(name)
    return mine
