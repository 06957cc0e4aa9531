"""How well maps of tokens agree with masks, and what maps that know nothing reach.

A map is compared as the set of its tokens above a threshold. The threshold that is best for each
image (Pang et al., 2024, A.3) is chosen with the mask in hand, so any map scores more than nothing;
the floors say how much.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rectify.tasks.image_classification.masks import IGNORED

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))

Maps = Float[Tensor, "images tokens"]


class TokenMasks(NamedTuple):
    """Masks at the resolution of tokens."""

    inside: Bool[Tensor, "images tokens"]
    """Whether a token shows the object."""
    known: Bool[Tensor, "images tokens"]
    """Whether the mask says anything about it; other tokens count on neither side."""

    def of(self, images: Bool[Tensor, " all"] | Int64[Tensor, " some"]) -> "TokenMasks":
        """Return the masks of some of the images."""
        return TokenMasks(self.inside[images], self.known[images])


def token_masks(
    pixels: Int64[Tensor, "images height width"],
    objects: Int64[Tensor, " images"],
    grid: tuple[int, int],
    cover: float,
) -> TokenMasks:
    """Return which tokens show the object of each image.

    Args:
        pixels: Number of what each pixel shows; `IGNORED` where nobody knows.
        objects: Number of each image's own object.
        grid: Rows and columns of tokens.
        cover: Share of a token's known pixels that must be of the object; 0 asks for any pixel.
    """
    rows, columns = grid

    def counted(chosen: Tensor) -> Tensor:
        cells = chosen.unflatten(1, (rows, -1)).unflatten(3, (columns, -1))
        return cells.sum((2, 4)).flatten(1)  # (images, tokens)

    known = counted(pixels != IGNORED)
    covered = counted(pixels == objects[:, None, None])
    inside = (covered > 0) & (covered >= cover * known)
    return TokenMasks(inside, known > 0)


def ious(maps: Maps, masks: TokenMasks) -> Float[Tensor, "images thresholds"]:
    """Return the intersection over union of each mask and the tokens above each threshold.

    Every mask must have a token.
    """
    thresholds = torch.tensor(THRESHOLDS, dtype=maps.dtype, device=maps.device)
    above = (maps[:, None] > thresholds[:, None]) & masks.known[:, None]
    inside = masks.inside[:, None]
    return (above & inside).sum(-1) / (above | inside).sum(-1)


def auc(maps: Maps, masks: TokenMasks) -> Float[Tensor, " images"]:
    """Return how often a token inside has a larger value than one outside; ties count half.

    It needs no threshold. Images without a token outside have none: nan.
    """
    inside, outside = masks.inside, masks.known & ~masks.inside
    pairs = inside[:, :, None] & outside[:, None]
    difference = maps[:, :, None] - maps[:, None]  # (images, tokens, tokens)
    wins = (difference > 0).to(maps) + 0.5 * (difference == 0)
    return (wins * pairs).sum((1, 2)) / pairs.sum((1, 2))


def shares(masks: TokenMasks) -> Float[Tensor, " images"]:
    """Return the intersection over union of each mask and all tokens: the object's share."""
    return masks.inside.sum(1) / masks.known.sum(1)


def permuted(maps: Maps, masks: TokenMasks, generator: torch.Generator) -> Maps:
    """Return maps whose values changed places at random, among the known tokens of each image."""
    keys = torch.rand(maps.shape, generator=generator).to(maps.device)
    drawn = keys.masked_fill(~masks.known, 2.0).argsort(1)  # the known ones first, in any order
    places = masks.known.int().argsort(dim=1, descending=True, stable=True)  # first too, in theirs
    return torch.empty_like(maps).scatter_(1, places, maps.gather(1, drawn))
