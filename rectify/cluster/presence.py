"""Signs of life that end with their process: locks of the kernel, not files left behind.

A Snakemake that is killed leaves its lock on the folder and its jobs on the cluster; a
training that is killed leaves nothing that tells whether another one still writes to its
states. A lock on an open file (flock) tells: the kernel drops it with the process, however
that ends, also on network file systems that have locks.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

WAIT_SECONDS = 2.0
STATES = "states"
"""Folder of the results with the states of unfinished trainings: states/<run>/seed-<seed>/."""
LEASE = "lease"
"""File next to the states; the process that writes them holds it."""
CLAIMS = ".made-from"
"""Folder of the results with a file for each folder from which a Snakemake makes them."""
PROGRESS = "progress.json"
"""File next to the states: epochs done, epochs, seconds per epoch."""


class Presence:
    """This process is present in ``folder`` until it, or this object, ends; several may be.

    On a file system without locks no process is ever known to be alone.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / "present", os.O_RDWR | os.O_CREAT, 0o666)
        self._lock(fcntl.LOCK_SH)
        weakref.finalize(self, os.close, self._file)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Give whether no other process is present; while that is true, none can join."""
        is_alone = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield is_alone
        finally:
            self._lock(fcntl.LOCK_SH)

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind)
        except OSError:  # BlockingIOError, or a file system without locks
            return False
        return True


@functools.cache
def of_this_process(folder: Path) -> Presence:
    """Return the presence of this process in ``folder``; two of its own would not be alone."""
    return Presence(folder)


@functools.cache
def claim(results: Path) -> None:
    """Keep Snakemakes of other folders from making these results, as long as this process lives.

    Snakemake keeps those of one folder apart, by the files that they make, but knows of no other
    folder, and removes files of a job before it starts it, also those that another one just made.

    Raises:
        ValueError: If one of another folder makes them.
    """
    folder, here = results / CLAIMS, f"{Path.cwd().resolve()}"
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / hashlib.sha256(here.encode()).hexdigest()[:16]
    with own.open("a+", encoding="utf-8") as file:
        descriptor = os.dup(file.fileno())  # open until the process ends
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    own.write_text(f"{here}, {description()}\n", encoding="utf-8")
    for other in folder.iterdir():
        if other != own and is_held(other, fcntl.LOCK_EX):
            raise ValueError(
                f"results: {results} must be made from one folder at a time, got a snakemake in "
                f"{other.read_text(encoding='utf-8').strip()}. Wait for its end, or change results."
            )


def unlock(present: Presence, folder: Path) -> bool:
    """Remove what a Snakemake that is gone left locked in ``.snakemake``; return if it did."""
    with present.alone() as is_alone:
        stale = list((folder / "locks").glob("*.lock")) if is_alone else []
        for lock in stale:
            lock.unlink()
        return bool(stale)


@contextlib.contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold ``path`` for this process alone; wait for another one that does.

    Raises:
        ValueError: If the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
        if not lock.is_locked:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            log.info("waiting for %s, which trains the same run", holder)
            lock.acquire(poll_interval=WAIT_SECONDS)
    except OSError as error:
        raise ValueError(
            f"{path}: its file system must have locks (flock), got {error.strerror}. Mount it with "
            "them (Lustre: -o flock), or set `results` to a folder that has them."
        ) from None
    try:
        path.write_text(f"{description()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def is_held(path: Path, kind: int = fcntl.LOCK_SH) -> bool:
    """Return whether another process has a lock at ``path``: a lease, or of any kind by LOCK_EX.

    It is asked for by a lock of that kind, which is gone at once.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no file, or a file system without locks, on which there are no leases
        return False
    return False


def description() -> str:
    """Return who this process is: its number, its machine, and its job on a cluster."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (
        f", SLURM job {job}" if job else ""
    )
