"""The loss of each scene, and the metrics of Argoverse 1 (``eval_forecasting.py`` of its API)."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from rectify.data.forecasts import OBSERVED

MISSED = 2.0
"""Metres: a scene is missed if no trajectory ends within."""


def losses(
    outputs: Mapping[str, Tensor],
    future: Float[Tensor, "batch agents steps 2"],
    seen: Bool[Tensor, "batch agents steps"],
    focal: bool,
) -> Float[Tensor, " batch"]:
    """Return the mean over a scene's own agents of three losses, one value for each scene.

    They are the smooth L1 distance, summed over the steps that were seen, of the trajectory that
    ends closest to the last of them, and of the single one; and the cross entropy of the first's
    score. The published code divides by the agents of the whole batch, so that a scene's gradient
    depends on the others of its batch.

    Args:
        outputs: Of ``rectify.trunks.vectornet.Decoder``.
        future: Where agents were.
        seen: At which steps; an agent without any counts for nothing.
        focal: Whether only the first agent counts.
    """
    if focal:
        outputs = {name: one[:, :1] for name, one in outputs.items()}
        future, seen = future[:, :1], seen[:, :1]
    found, scores, single = (outputs[name].float() for name in ("trajectories", "scores", "single"))
    counts = seen.any(2)
    last = seen.shape[2] - 1 - seen.flip(2).long().argmax(2)  # (batch, agents)
    closest = _distances(found.detach(), future, last).argmin(2)
    chosen = found.gather(2, _at(closest, found))[:, :, 0]
    apart = sum(
        smooth_l1_loss(one, future, reduction="none").sum(3) for one in (chosen, single)
    )  # (batch, agents, steps)
    likely = cross_entropy(scores.flatten(0, 1), closest.flatten(), reduction="none")
    each = (apart * seen).sum(2) + likely.unflatten(0, closest.shape)
    return (each * counts).sum(1) / counts.sum(1).clamp(min=1)


def scores(
    outputs: Mapping[str, Tensor],
    future: Float[Tensor, "batch steps 2"],
    k: int,
    mean: str = "closest",
) -> dict[str, Float[Tensor, " batch"]]:
    """Return the benchmark's metrics of the first agent's ``k`` most likely trajectories.

    The trajectory that counts is the one that ends closest. Of fewer than ``k`` all count.

    Args:
        outputs: Of ``rectify.trunks.vectornet.Decoder``.
        future: Where the first agent was, all steps of it.
        k: How many trajectories may be right.
        mean: What minADE is: ``closest``, the mean distance of the trajectory that ends closest, as
            of Argoverse 1, or ``least``, the least of the mean distances, as of Argoverse 2.
    """
    found, likely = (one[:, :k] for one in ranked(outputs))
    shares = likely.softmax(1)
    apart = (found - future[:, None]).norm(dim=3)  # (batch, k, steps)
    best = apart[:, :, -1].argmin(1, keepdim=True)
    final = apart[:, :, -1].gather(1, best)[:, 0]
    means = apart.mean(2)
    return {
        f"min_ade@{k}": means.amin(1) if mean == "least" else means.gather(1, best)[:, 0],
        f"min_fde@{k}": final,
        f"miss_rate@{k}": (final > MISSED).float(),
        f"brier_min_fde@{k}": final + (1 - shares.gather(1, best)[:, 0]).square(),
    }


def ranked(
    outputs: Mapping[str, Tensor],
) -> tuple[Float[Tensor, "batch modes steps 2"], Float[Tensor, "batch modes"]]:
    """Return the first agent's trajectories and their scores, the most likely first."""
    found, likely = outputs["trajectories"][:, 0].float(), outputs["scores"][:, 0].float()
    order = likely.argsort(dim=1, descending=True, stable=True)
    found = found.gather(1, order[..., None, None].expand(-1, -1, *found.shape[2:]))
    return found, likely.gather(1, order)


def constant_velocity(
    tracks: Float[Tensor, "batch agents steps 2"],
    observed: int = OBSERVED,
) -> Float[Tensor, "batch agents future 2"]:
    """Return how agents go on with the mean velocity of the last second: the least that one asks.

    The mean is over ten steps, since one step has the noise of two positions.
    """
    now = tracks[:, :, observed - 1]
    step = (now - tracks[:, :, observed - 11]) / 10
    ahead = torch.arange(1, tracks.shape[2] - observed + 1, device=tracks.device)
    return now[:, :, None] + step[:, :, None] * ahead[:, None]


def _distances(
    found: Float[Tensor, "batch agents modes steps 2"],
    future: Float[Tensor, "batch agents steps 2"],
    last: Tensor,
) -> Float[Tensor, "batch agents modes"]:
    """Return how far each trajectory is off at each agent's last step."""
    apart = (found - future[:, :, None]).norm(dim=4)
    return apart.gather(3, last[..., None, None].expand(*apart.shape[:3], 1))[..., 0]


def _at(chosen: Tensor, found: Tensor) -> Tensor:
    """Return the indices that gather one trajectory of each agent."""
    return chosen[..., None, None, None].expand(-1, -1, 1, *found.shape[3:])
