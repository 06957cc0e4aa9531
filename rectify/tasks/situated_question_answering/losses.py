"""What SQA3D's model learns: votes, objects, boxes, their kinds, the pose, and the answer.

    10 (vote + objectness / 2 + box + kind / 10 + pose / 10 + answer / 10)

as published, but that each term is a mean over what is in one room, not over the whole batch, so
that every sample has a loss of its own; and that places without a box, which are filled up with
zeros there, attract no proposal.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    mse_loss,
)

from rectify.tasks.contract import Batch

NEAR, FAR = 0.3, 0.6
"""Metres to an object's centre: a proposal nearer is an object, one further is none."""
OBJECTNESS = (0.2, 0.8)
"""Weights of proposals that are none, and of those that are one."""
WEIGHTS = {"vote": 1.0, "objectness": 0.5, "box": 1.0, "kind": 0.1, "pose": 0.1, "answer": 0.1}
SCALE = 10.0
TINY = 1e-6


def losses(
    outputs: Mapping[str, Tensor], batch: Batch, *, detection: bool, pose: bool
) -> Float[Tensor, " batch"]:
    """Return the loss of each sample.

    Args:
        outputs: Of ``rectify.trunks.sqa3d``.
        batch: As `tasks.situated_question_answering.task` makes it.
        detection: Whether the four losses of the detector count.
        pose: Whether the loss of the pose counts.
    """
    found = {name: one.float() if one.is_floating_point() else one for name, one in outputs.items()}
    terms = {"answer": answer_loss(found["answers"], batch["answers"], batch["worths"])}
    if detection:
        terms |= detection_losses(found, batch)
    if pose:
        place, rotation = (
            mse_loss(found["pose"][:, part], batch["pose"][:, part], reduction="none").mean(1)
            for part in (slice(0, 3), slice(3, 7))
        )
        terms["pose"] = place + rotation
    return SCALE * sum(WEIGHTS[name] * term for name, term in terms.items())


def answer_loss(
    scores: Float[Tensor, "batch answers"],
    right: Int64[Tensor, " batch"],
    worths: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return the sum over the answers of the binary cross entropy."""
    targets = torch.zeros_like(scores).scatter(1, right[:, None], worths[:, None])
    return binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(1)


def detection_losses(
    found: Mapping[str, Tensor], batch: Batch
) -> dict[str, Float[Tensor, " batch"]]:
    """Return the losses of votes, objectness, boxes and kinds."""
    has_box = batch["has_box"]
    gaps = _squared_gaps(found["proposals"], batch["centres"], has_box)
    nearest, own = gaps.min(2)
    distances = (nearest + TINY).sqrt()
    is_object = (distances < NEAR).float()
    is_clear = is_object + (distances > FAR)
    kinds = batch["kinds"].gather(1, own)  # (batch, proposals)
    return {
        "vote": _vote_loss(found, batch),
        "objectness": _mean(
            _cross_entropy(found["objectness"], is_object.long(), OBJECTNESS), is_clear
        ),
        "box": _box_loss(found, batch, is_object, own, kinds),
        "kind": _mean(_cross_entropy(found["kinds"], kinds), is_object),
    }


def _vote_loss(found: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Return how far the votes of the points of objects are from their middles, along the axes."""
    seeds = found["seed_numbers"]
    wanted = batch["ways"].gather(1, seeds[..., None].expand(-1, -1, 3))
    gaps = (found["votes"] - found["seeds"] - wanted).abs().sum(2)
    return _mean(gaps, batch["has_way"].gather(1, seeds))


def _box_loss(
    found: Mapping[str, Tensor],
    batch: Batch,
    is_object: Tensor,
    own: Int64[Tensor, "batch proposals"],
    kinds: Int64[Tensor, "batch proposals"],
) -> Tensor:
    """Return the losses of centre, heading and size; a box along the axes has heading 0."""
    has_box = batch["has_box"]
    gaps = _squared_gaps(found["centres"], batch["centres"], has_box)
    nearest_proposal = gaps.masked_fill(has_box[:, None] == 0, 0).amin(1)  # (batch, boxes)
    centre = _mean(gaps.amin(2), is_object) + _mean(nearest_proposal, has_box)
    turned = found["heading"]
    heading = _mean(huber_loss(turned, torch.zeros_like(turned), reduction="none"), is_object)
    choice = _mean(_cross_entropy(found["size_scores"], kinds), is_object)
    every = own[..., None].expand(-1, -1, 3)
    wanted = batch["relative_sizes"].gather(1, every)
    of_kind = kinds[..., None, None].expand(-1, -1, 1, 3)
    sizes = found["relative_sizes"].gather(2, of_kind)[:, :, 0]
    size = _mean(huber_loss(sizes, wanted, reduction="none").mean(2), is_object)
    return centre + heading + 0.1 * choice + size


def _squared_gaps(
    points: Float[Tensor, "batch proposals 3"],
    centres: Float[Tensor, "batch boxes 3"],
    has_box: Float[Tensor, "batch boxes"],
) -> Float[Tensor, "batch proposals boxes"]:
    """Return squared distances; to a box that is none, a very large one."""
    gaps = (points[:, :, None] - centres[:, None]).square().sum(3)
    return gaps.masked_fill(has_box[:, None] == 0, 1e9)


def _cross_entropy(
    scores: Float[Tensor, "batch items kinds"],
    kinds: Int64[Tensor, "batch items"],
    weights: tuple[float, ...] | None = None,
) -> Float[Tensor, "batch items"]:
    weight = None if weights is None else scores.new_tensor(weights)
    return cross_entropy(scores.transpose(1, 2), kinds, weight, reduction="none")


def _mean(values: Float[Tensor, "batch items"], counts: Float[Tensor, "batch items"]) -> Tensor:
    """Return the mean of each sample's values that count; 0 where none does."""
    return (values * counts).sum(1) / (counts.sum(1) + TINY)
