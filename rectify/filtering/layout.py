"""Where the tokens of a trunk are: patches on the grid of an image, or groups of a cloud's points.

What follows knows images alone. A cloud is unrolled into one: a row for each group, its points from
left to right, the nearest to the centre first. So its tokens are the patches of a single column,
and a point that is in several groups, or in none, counts as often.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rectify.data.points import nearest_points, taken
from rectify.rectified import trunk_of
from rectify.trunks.trunk import Trunk


@runtime_checkable
class Layout(Protocol):
    """How the tokens of a model lie in what it takes.

    Attributes:
        grid: Rows and columns of tokens.
        prefix: Tokens in front of them.
        has_class_token: Whether the first of those is the class token.
        blocks: Of the trunk, each with timm's attention as ``attn``.
    """

    grid: tuple[int, int]
    prefix: int
    has_class_token: bool
    blocks: Sequence[nn.Module]

    def numbers(
        self, numbers: Int64[Tensor, " items *places"], inputs: Float[Tensor, " items *values"]
    ) -> Int64[Tensor, "items height width"]:
        """Return what a mask says of each pixel or point, as an image."""

    def pixels(
        self, inputs: Float[Tensor, " items *values"]
    ) -> Float[Tensor, "items channels height width"]:
        """Return what the tokens are made of, as an image."""

    def shown(self, inputs: Float[Tensor, " items *values"]) -> dict[str, Tensor]:
        """Return what a picture of each input needs, by name."""


def layout_of(model: nn.Module) -> Layout:
    """Return how the tokens of a model of any variant lie.

    Raises:
        ValueError: If its trunk is neither a ViT of timm nor one whose tokens are groups of points.
    """
    trunk = trunk_of(model)
    plain = getattr(trunk, "plain", trunk)
    if isinstance(plain, VisionTransformer):
        return Patches(plain)
    if hasattr(trunk, "grouped"):
        return Groups(trunk)
    raise ValueError(
        "filtering: activations must be those of timm's ViT or of a trunk whose tokens are groups "
        f"of points, got {type(plain).__name__}. Ask for a run with another trunk."
    )


class Patches:
    """Of a ViT: see `Layout`."""

    def __init__(self, vit: VisionTransformer):
        self.grid, self.prefix = vit.patch_embed.grid_size, vit.num_prefix_tokens
        self.has_class_token, self.blocks = vit.has_class_token, vit.blocks

    def numbers(self, numbers: Tensor, inputs: Tensor) -> Tensor:
        return numbers

    def pixels(self, inputs: Tensor) -> Tensor:
        return inputs

    def shown(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return images as bytes, from the darkest value of each to the brightest."""
        flat = inputs.flatten(1)
        low, high = (edge(flat, 1).view(-1, 1, 1, 1) for edge in (torch.amin, torch.amax))
        levels = (inputs - low) / (high - low).clamp(min=1e-12) * 255
        return {"image": levels.round().to(torch.uint8)}


class Groups:
    """Of a trunk whose tokens are groups of points: see `Layout`."""

    def __init__(self, trunk: Trunk):
        self.grid, self.prefix, self.has_class_token = (trunk.groups, 1), 1, True
        self.blocks, self._grouped = list(trunk.blocks.values()), trunk.grouped

    def numbers(self, numbers: Tensor, inputs: Tensor) -> Tensor:
        _, near = self._grouped(inputs)
        return numbers.gather(1, near.flatten(1)).view_as(near)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Return where each point of a group is, as seen from the centre of the group."""
        centres, near = self._grouped(inputs)
        return (taken(inputs, near) - centres[:, :, None]).permute(0, 3, 1, 2)

    def shown(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the points, and of each the group whose centre is nearest."""
        centres, _ = self._grouped(inputs)
        return {"points": inputs, "nearest": nearest_points(centres, inputs, 1)[..., 0]}
