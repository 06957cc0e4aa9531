"""Signs of life that end with their process: file locks of the kernel, not files left behind.

A Snakemake that is killed leaves its lock on the folder and its jobs on the cluster; a
training that is killed leaves nothing that tells whether another one still writes to its
checkpoints. An open file with a lock (flock) tells: the kernel drops it with the process,
also on network file systems, whatever ended it.
"""

import contextlib
import fcntl
import logging
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

WAIT_SECONDS = 2.0
PROGRESS = "progress.json"
"""Beside the states of an unfinished training: epochs done, epochs, seconds per epoch."""


class Presence:
    """This process is present in ``folder`` until it, or this object, ends; several may be.

    On a file system without locks nobody is ever known to be alone.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / "present", os.O_RDWR | os.O_CREAT, 0o666)
        self._lock(fcntl.LOCK_SH)
        weakref.finalize(self, os.close, self._file)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Say whether no other process is present; while true, none can come."""
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


def unlock(present: Presence, folder: Path) -> bool:
    """Remove the locks of a Snakemake that is gone from ``.snakemake``; say if there were any."""
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
    with path.open("a+") as file:
        if not _held(file.fileno(), path):
            file.seek(0)
            holder = file.read().strip() or "another process"
            log.info("waiting for %s, which trains the same run", holder)
            while not _held(file.fileno(), path):
                time.sleep(WAIT_SECONDS)
        file.truncate(0)
        file.write(f"{description()}\n")
        file.flush()
        yield


def is_held(path: Path) -> bool:
    """Say whether a process has the lease at ``path``, by a shared lock that is gone at once."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
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


def _held(file: int, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ValueError(
            f"{path}: its file system must have locks (flock), got {error.strerror}. Mount it with "
            "them (Lustre: -o flock), or set `results` to a folder that has them."
        ) from None
    return True
