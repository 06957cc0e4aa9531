"""Scenes of some size, to count and time a forecaster without any set."""

import torch
from torch import Tensor

from rectify.data.forecasts import FLAGS, POINTS
from rectify.tasks.contract import Batch

AGENTS, LANES = 12, 40
"""Of a scene where nothing else is said: a small one, for what a training takes at least."""


def example(
    batch_size: int,
    *,
    agents: int,
    lanes: int,
    observed: int,
    future: int,
    device: torch.device | str,
) -> Batch:
    """Return scenes as a training batch has them, all of one size, with random places.

    Args:
        batch_size: Scenes.
        agents: Of a scene, each seen at every step.
        lanes: Of a scene.
        observed: Steps that a model sees.
        future: Steps that it forecasts.
        device: Where they are wanted; ``meta`` for shapes alone.
    """

    def places(*shape: int) -> Tensor:
        return torch.rand(batch_size, *shape, 2, device=device)

    def flags(*shape: int, value: bool) -> Tensor:
        return torch.full((batch_size, *shape), value, device=device)

    return {
        "inputs": {
            "tracks": places(agents, observed),
            "seen": flags(agents, observed, value=True),
            "no_agent": flags(agents, value=False),
            "lanes": places(lanes, POINTS),
            "flags": torch.zeros(batch_size, lanes, FLAGS, device=device),
            "no_lane": flags(lanes, value=False),
        },
        "future": places(agents, future),
        "future_seen": flags(agents, future, value=True),
    }
