"""Where a training keeps its states: not among its results, so that they survive a failed job."""

from pathlib import Path

STATES = "states"


def states_folder(results: Path, run: str, seed: int) -> Path:
    """Return the folder of a training's states."""
    return results / STATES / run / f"seed-{seed}"


def remove_states(results: Path) -> None:
    """Remove the states of all trainings whose results are in the folder."""
    for summary in results.glob("runs/*/seed-*/summary.json"):
        run, seed = summary.parts[-3:-1]
        for state in (results / STATES / run / seed).glob("*.pt"):
            state.unlink()
