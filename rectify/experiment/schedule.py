"""When the last of some jobs ends that share GPUs, and some of which follow others."""

import bisect
import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Length(NamedTuple):
    """How long a job takes, and on how many GPUs at a time."""

    seconds: float
    gpus: int = 1


def span(chains: Iterable[Sequence[Length]], gpus: int) -> float | None:
    """Return when the last job ends, whatever fits started at once, the longest chain first.

    Of single jobs on one GPU each, that is at most 4/3 - 1/(3 GPUs) times the shortest that is
    possible (Graham, 1969).

    Args:
        chains: Jobs, each of which starts when the one before it has ended.
        gpus: That there are.

    Returns:
        Seconds; None where the GPUs are too few for one of the jobs.
    """
    every = [list(chain) for chain in chains if chain]
    if any(job.gpus > gpus for chain in every for job in chain):
        return None
    waiting = sorted((_rank(chain), number, chain) for number, chain in enumerate(every))
    running: list[tuple[float, int, int, list[Length]]] = []  # the number only breaks ties
    free, now = gpus, 0.0
    while waiting or running:
        left = []
        for place, chain in enumerate(waiting):
            if free == 0:
                left += waiting[place:]
                break
            _, number, (job, *rest) = chain
            if job.gpus > free:
                left.append(chain)
                continue
            free -= job.gpus
            heapq.heappush(running, (now + job.seconds, number, job.gpus, rest))
        now, number, width, rest = heapq.heappop(running)
        free, waiting = free + width, left
        if rest:
            bisect.insort(waiting, (_rank(rest), number, rest))
    return now


def _rank(chain: Sequence[Length]) -> float:
    """Return what sorts the longest chain first."""
    return -sum((job.seconds for job in chain), 0.0)
