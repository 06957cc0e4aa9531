"""How active each token of an image is, as one number in 0..1 (Pang et al., 2024, Sec. 6.1, A.3).

Tokens lie on the grid of their patches; those without a patch, as the class token, are left out.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "images rows columns dim"]
Maps = Float[Tensor, "images rows columns"]
Center = Literal["image", "column"]


def magnitude(tokens: Tokens, center: Center = "image") -> Maps:
    """Return the length of each token less the mean token, scaled to 0..1 in each image.

    Args:
        tokens: Of some images.
        center: Tokens that the mean is of: all of the image, or those of the same column.
    """
    return scaled(_centered(tokens, center).norm(dim=-1))


def frequency(tokens: Tokens, center: Center = "image") -> Maps:
    """Return the same for the phases of each token's spectrum along its channels.

    Angles are in (-pi, pi], and their mean is the plain one, as in the paper's pseudo-code.
    Arguments as in ``magnitude``.
    """
    return scaled(_centered(torch.fft.fft(tokens).angle(), center).norm(dim=-1))


def scaled(maps: Maps) -> Maps:
    """Return maps with the least value of each image at 0 and the largest at 1; flat ones are 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


def pixel_tokens(
    images: Float[Tensor, "images channels height width"], grid: tuple[int, int]
) -> Tokens:
    """Return the pixels of each patch as a token: a patch embedding without weights.

    Args:
        images: As the model takes them.
        grid: Rows and columns of patches.
    """
    rows, columns = grid
    cells = images.unflatten(2, (rows, -1)).unflatten(4, (columns, -1))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3)  # from (images, channels, r, h, c, w)


def _centered(tokens: Tokens, center: Center) -> Tokens:
    axes = (1, 2) if center == "image" else (1,)
    return tokens - tokens.mean(axes, keepdim=True)
