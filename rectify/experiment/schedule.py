"""When the last of some jobs ends that share GPUs, and some of which follow others."""

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
    waiting = [list(chain) for chain in chains if chain]
    if any(job.gpus > gpus for chain in waiting for job in chain):
        return None
    running: list[tuple[float, int, int, list[Length]]] = []  # the number only breaks ties
    free, now, number = gpus, 0.0, 0
    while waiting or running:
        waiting.sort(key=lambda chain: -sum(job.seconds for job in chain))
        left = []
        for place, chain in enumerate(waiting):
            if free == 0:
                left += waiting[place:]
                break
            job, *rest = chain
            if job.gpus > free:
                left.append(chain)
                continue
            free, number = free - job.gpus, number + 1
            heapq.heappush(running, (now + job.seconds, number, job.gpus, rest))
        now, _, width, rest = heapq.heappop(running)
        free += width
        waiting = left + [rest] * bool(rest)
    return now
