"""Ratios that a busy machine does not spoil, and peak memory of a process of its own.

Each call of a method is timed between two calls of the plain version and divided by their mean,
so what slows the machine for a while slows both sides. The median over the rounds is the
result, the smallest and the largest ratio its range.
"""

import concurrent.futures
import gc
import logging
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

Work = Callable[[], object]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the command line asks of every benchmark."""

    rounds: int
    threads: int
    only: tuple[str, ...] = ()
    minutes: float = 9.0

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` that ``only`` lists; all if it lists none of them."""
        return [name for name in names if name in self.only] or list(names)


@dataclass(frozen=True)
class Table:
    """A result: column heads, rows, and what was counted."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str

    def __str__(self) -> str:
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"{self.note}\n\n{body}\n"


@dataclass(frozen=True)
class Timing:
    """Seconds of the plain version, and each method's ratios to it, one per round."""

    plain: list[float]
    ratios: dict[str, list[float]]


def paired(
    plain: Work,
    methods: Mapping[str, Work],
    rounds: int,
    clock: Callable[[], float] | None = None,
) -> Timing:
    """Time each method between two plain calls, ``rounds`` times, after one call that is not.

    The clock is the processor time of this process where it has one thread, which neighbours on
    the machine disturb less, and the time of day where it has several.
    """
    clock = clock or _clock()
    for work in (plain, *methods.values()):
        work()
    gc.collect()
    times, ratios = [], {name: [] for name in methods}
    for number in range(rounds):
        times.append(_seconds(plain, clock))
        for name, work in methods.items():
            taken = _seconds(work, clock)
            times.append(_seconds(plain, clock))
            ratios[name].append(2 * taken / (times[-2] + times[-1]))
            log.info("round %d of %d: %s %.2f", number + 1, rounds, name, ratios[name][-1])
    return Timing(times, ratios)


def _clock() -> Callable[[], float]:
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _seconds(work: Work, clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median and the range, as ``1.10 [1.08..1.33]``."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} [{least:.{digits}f}..{most:.{digits}f}]"


def peak_memory(build: Callable[..., Work], *arguments: Any, threads: int) -> float:
    """Return the peak memory of ``fresh``, in MiB, of what lives at a time.

    Freed blocks of 128 KiB or more go back to the system at once, which takes time. By default
    glibc keeps more and more of them, so peaks of equal steps differed by a third.
    """
    with mock.patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_=str(2**17)):  # read at a start
        return fresh(build, *arguments, threads=threads)[0]


def fresh(
    build: Callable[..., Work], *arguments: Any, threads: int, calls: int = 2
) -> tuple[float, float]:
    """Call ``build(*arguments)()`` in a fresh process; return its peak memory and its seconds.

    The peak is in MiB above what is resident before the first call; the seconds are those of the
    last. Linux only: the kernel's VmHWM and VmRSS are read.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_fresh, build, arguments, threads, calls).result()


def _fresh(
    build: Callable[..., Work], arguments: tuple, threads: int, calls: int
) -> tuple[float, float]:
    torch.set_num_threads(threads)
    work = build(*arguments)
    gc.collect()
    resting = status_kibibytes("VmRSS")
    taken = [_seconds(work, _clock()) for _ in range(calls)]
    return (status_kibibytes("VmHWM") - resting) / 1024, taken[-1]


def status_kibibytes(key: str) -> int:
    """Return one entry of this process's ``/proc/self/status``."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found, f"the kernel gives no {key}"
    return int(found[1])


def machine(threads: int) -> str:
    """Return the processor, its cores, and the threads that were used."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    features = "AVX-512" if "avx512f" in text else "no AVX-512"
    name = model[1] if model else "unknown processor"
    return f"{name} ({features}), {os.cpu_count()} cores, {threads} thread(s)"
