"""When jobs end that share GPUs: against time that passes second by second, and every schedule."""

import itertools
import random

import pytest

from rectify.experiment.schedule import Length, span


def second_by_second(chains: list[list[Length]], gpus: int) -> int:
    """Let time pass: whenever GPUs are free, the longest chain starts whose next job fits."""
    left, running, now = [list(chain) for chain in chains], {}, 0
    while any(left) or running:
        for number in [number for number, end in running.items() if end == now]:
            running.pop(number)
            left[number].pop(0)
        order = sorted(
            range(len(left)), key=lambda number: -sum(one.seconds for one in left[number])
        )
        for number in order:
            used = sum(left[other][0].gpus for other in running)
            if left[number] and number not in running and used + left[number][0].gpus <= gpus:
                running[number] = now + left[number][0].seconds
        now += bool(running)
    return now


def shortest(seconds: list[int], places: int) -> int:
    """Try every way of giving jobs to places."""
    every = itertools.product(range(places), repeat=len(seconds))
    return min(
        max(
            sum(length for length, one in zip(seconds, chosen, strict=True) if one == place)
            for place in range(places)
        )
        for chosen in every
    )


@pytest.mark.parametrize("gpus", [1, 2, 3])
def test_the_longest_job_goes_first_and_no_schedule_is_much_shorter(gpus: int) -> None:
    draws = random.Random(gpus)
    for count in range(1, 7):
        lengths = [draws.randint(1, 20) for _ in range(count)]
        chains = [[Length(length)] for length in lengths]
        found, best = span(chains, gpus), shortest(lengths, gpus)
        assert found == second_by_second(chains, gpus)
        assert best <= found <= (4 / 3 - 1 / (3 * gpus)) * best + 1e-9


@pytest.mark.parametrize("gpus", [4, 5, 8])
def test_an_evaluation_follows_its_training_on_a_gpu_that_is_free(gpus: int) -> None:
    draws = random.Random(gpus)
    for count in range(1, 9):
        chains = [
            [Length(10 * draws.randint(1, 9) + number, 4), Length(draws.randint(1, 9))]
            for number in range(count)
        ]
        assert span(chains, gpus) == second_by_second(chains, gpus)
    assert span([[Length(5, 4), Length(2)], [Length(3)], []], 4) == 5 + 3
    assert span([[Length(5, 4), Length(2)], [Length(3)], []], 5) == 5 + 2


def test_no_jobs_take_no_time_and_too_few_gpus_are_none() -> None:
    assert span([], 3) == span([[]], 3) == 0
    assert span([[Length(1), Length(1, 4)]], 3) is None
