"""The loss of each scene, and the metrics of Argoverse 1 (``eval_forecasting.py`` of its API)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, smooth_l1_loss

from rectify.tasks.motion_forecasting.settings import MISSED


def losses(
    outputs: Mapping[str, Tensor],
    future: Float[Tensor, "batch agents steps 2"],
    seen: Bool[Tensor, "batch agents steps"],
    focal: bool,
) -> Float[Tensor, " batch"]:
    """Return the mean over a scene's own agents of their losses, one value for each scene.

    What an agent's trajectories are learned from is the one that ends closest to the last step at
    which it was seen. The published code divides by the agents of the whole batch, so that a
    scene's gradient depends on the others of its batch.

    Args:
        outputs: Of the ``Decoder`` of ``rectify.trunks.vectornet`` or of ``mmtransformer``, whose
            own losses are taken.
        future: Where agents were.
        seen: At which steps; an agent without any counts for nothing.
        focal: Whether only the first agent counts.
    """
    if focal:
        outputs = {name: one[:, :1] for name, one in outputs.items()}
        future, seen = future[:, :1], seen[:, :1]
    found, counts = outputs["trajectories"].float(), seen.any(2)
    last = seen.shape[2] - 1 - seen.flip(2).long().argmax(2)  # (batch, agents)
    apart = _distances(found.detach(), future, last)
    chosen = found.gather(2, _at(apart.argmin(2), found))[:, :, 0]
    scores = outputs["scores"].float()
    if "single" in outputs:
        each = _of_places([chosen, outputs["single"].float()], future, seen)
        each = each + _of_the_closest(scores, apart)
    else:
        each = _of_steps(chosen, future, seen) + _of_all(scores, apart)
    return (each * counts).sum(1) / counts.sum(1).clamp(min=1)


def _of_places(
    ways: Sequence[Float[Tensor, "batch agents steps 2"]], future: Tensor, seen: Tensor
) -> Float[Tensor, "batch agents"]:
    """Return VectorNet's smooth L1 distance, summed over the steps that were seen, of some ways."""
    apart = sum(smooth_l1_loss(one, future, reduction="none").sum(3) for one in ways)
    return (apart * seen).sum(2)


def _of_steps(
    way: Float[Tensor, "batch agents steps 2"], future: Tensor, seen: Tensor
) -> Float[Tensor, "batch agents"]:
    """Return mmTransformer's Huber loss of each step's displacement where both ends were seen.

    The first step is from the last observed position, which is common to both.
    """
    off = way - future
    moves = torch.cat([off[:, :, :1], off[:, :, 1:] - off[:, :, :-1]], 2)
    both = torch.cat([seen[:, :, :1], seen[:, :, 1:] & seen[:, :, :-1]], 2)
    apart = smooth_l1_loss(moves, torch.zeros_like(moves), reduction="none").sum(3)
    return (apart * both).sum(2)


def _of_the_closest(
    scores: Float[Tensor, "batch agents modes"], apart: Float[Tensor, "batch agents modes"]
) -> Float[Tensor, "batch agents"]:
    """Return VectorNet's cross entropy of the score of the trajectory that ends closest."""
    closest = apart.argmin(2)
    likely = cross_entropy(scores.flatten(0, 1), closest.flatten(), reduction="none")
    return likely.unflatten(0, closest.shape)


def _of_all(
    scores: Float[Tensor, "batch agents modes"], apart: Float[Tensor, "batch agents modes"]
) -> Float[Tensor, "batch agents"]:
    """Return mmTransformer's divergence of the scores from what the ends' distances say."""
    wanted = (-apart).log_softmax(2)
    return kl_div(scores.log_softmax(2), wanted, reduction="none", log_target=True).sum(2)


def scores(
    outputs: Mapping[str, Tensor],
    future: Float[Tensor, "batch steps 2"],
    k: int,
    mean: str = "closest",
) -> dict[str, Float[Tensor, " batch"]]:
    """Return the benchmark's metrics of the first agent's ``k`` most likely trajectories.

    The trajectory that counts is the one that ends closest. Of fewer than ``k`` all count.
    One alone is sure, so that its ``brier_min_fde`` would be its ``min_fde`` again.

    Args:
        outputs: Of ``rectify.trunks.vectornet.Decoder``.
        future: Where the first agent was, all steps of it.
        k: How many trajectories may be right.
        mean: What minADE is: ``closest``, the mean distance of the trajectory that ends closest, as
            of Argoverse 1, or ``least``, the least of the mean distances, as of Argoverse 2.
    """
    ways, likely = (one[:, :k] for one in ranked(outputs))
    shares = likely.softmax(1)
    apart = (ways - future[:, None]).norm(dim=3)  # (batch, k, steps)
    best = apart[:, :, -1].argmin(1, keepdim=True)
    final = apart[:, :, -1].gather(1, best)[:, 0]
    means = apart.mean(2)
    found = {
        f"min_ade@{k}": means.amin(1) if mean == "least" else means.gather(1, best)[:, 0],
        f"min_fde@{k}": final,
        f"miss_rate@{k}": (final > MISSED).float(),
    }
    if k > 1:
        found[f"brier_min_fde@{k}"] = final + (1 - shares.gather(1, best)[:, 0]).square()
    return found


def ranked(
    outputs: Mapping[str, Tensor],
) -> tuple[Float[Tensor, "batch modes steps 2"], Float[Tensor, "batch modes"]]:
    """Return the first agent's trajectories and their scores, the most likely first."""
    found, likely = outputs["trajectories"][:, 0].float(), outputs["scores"][:, 0].float()
    order = likely.argsort(dim=1, descending=True, stable=True)
    found = found.gather(1, order[..., None, None].expand(-1, -1, *found.shape[2:]))
    return found, likely.gather(1, order)


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
