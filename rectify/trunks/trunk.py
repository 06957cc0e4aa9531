"""A trunk: the model that a task trains, as ``embed -> blocks -> decode``.

    inputs -> embed -> Tokens -> run(0, depth) -> Tokens -> decode -> outputs

Whoever puts something between two blocks (``rectify.rectified``), watches the blocks (GSNR) or
reads what leaves them (``features``) needs these parts alone, so every task has all of it.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Inputs = Tensor | Mapping[str, Tensor]
Outputs = Tensor | Mapping[str, Tensor]
Groups = dict[str, str | list]
"""timm's patterns of parameter names by depth: the stem's, and (pattern, order) of the blocks."""

Module = TypeVar("Module", bound=nn.Module)


class Tokens(NamedTuple):
    """What runs through the blocks.

    Attributes:
        values: The tokens.
        padding: True where there is no token; None where all are tokens.
        context: What ``decode`` or the blocks need besides: positions, the text stream, ...
    """

    values: Float[Tensor, "batch tokens dim"]
    padding: Bool[Tensor, "batch tokens"] | None = None
    context: object = None


@runtime_checkable
class Trunk(Protocol):
    """An ``nn.Module`` in three parts; called, it is ``decode(run(embed(inputs), 0, depth))``.

    A trunk may offer more: ``no_weight_decay()`` and ``group_matcher(coarse)``, which timm's
    optimizers ask for; ``plain``, the model that it wraps, whose names an exported file has;
    ``second_head(generator)``, a module from ``Tokens`` to outputs like ``decode`` with weights of
    its own; ``representation(tokens)``, ``(batch, features)``, what it would judge by if these
    tokens had left the last block; ``widths``, of the tokens at each position, 0 ... depth, where
    they are not all ``dim``; ``whole``, names of blocks that GSNR must measure as one, since they
    fold the batch; and of a cloud ``grouped(inputs)``, the points that each token is made of, their
    number ``groups``, with one more token, the class, in front of them.

    Attributes:
        dim: Width of the tokens, those that leave the last block.
        blocks: What GSNR watches, in order.
    """

    dim: int

    @property
    def blocks(self) -> Mapping[str, nn.Module]: ...

    def embed(self, inputs: Inputs) -> Tokens:
        """Return the tokens that enter block 0."""

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""

    def decode(self, tokens: Tokens) -> Outputs:
        """Return the outputs for tokens that left the last block."""


def width_at(trunk: Trunk, position: int) -> int:
    """Return the width of the tokens after ``position`` of a trunk's blocks."""
    return trunk.widths[position] if hasattr(trunk, "widths") else trunk.dim


def permuted_(module: Module, generator: torch.Generator) -> Module:
    """Permute the entries of each matrix of a module, which is returned.

    What comes out is a draw from the same distribution, whatever scaled the matrices.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return module


def groups_within(prefix: str, groups: Groups) -> Groups:
    """Return a model's groups as those of a model that holds it under ``prefix``."""

    def within(pattern: str) -> str:
        return f"^{prefix}(?:{pattern.removeprefix('^')})"

    blocks = [(within(pattern), order) for pattern, order in groups["blocks"]]
    return {"stem": within(groups["stem"]), "blocks": blocks}


def check_heads(what: str, dim: int, heads: int, part: str = "") -> None:
    """Check that each head of a trunk's attention gets as much of its width.

    Args:
        what: The trunk, for messages.
        dim: The width.
        heads: How many there are.
        part: What the names of both begin with in ``overrides``.

    Raises:
        ValueError: If the heads do not divide the width.
    """
    if dim % heads:
        raise ValueError(
            f"vision: {part}dim of {what} must be a multiple of {part}heads {heads}, got {dim}. "
            "Correct overrides."
        )
