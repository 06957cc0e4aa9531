"""Blocks of the shape of a pretrained one that were never trained, or whose entries are moved.

What is drawn comes from a generator; all of them are frozen, as the pretrained block is.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from rectify.language.block import Block, Stack
from rectify.language.families import FAMILIES
from rectify.language.weights import initial


def redrawn(block: Block | Stack, generator: torch.Generator) -> Block | Stack:
    """Return a new frozen block of the same shape that was never trained.

    Matrices are drawn from a normal distribution with standard deviation 0.02 (timm's truncated
    normal, as in Pang et al.), in the precision that the block's have; norms, the final one too,
    multiply by one, and biases are zero.
    """
    unit = FAMILIES[block.family].unit
    return _changed(block, partial(initial, unit=unit, generator=generator))


def shuffled(block: Block | Stack, generator: torch.Generator) -> Block | Stack:
    """Return a new frozen block in which the entries of each tensor are permuted.

    Biases, norms and the final norm too; a constant tensor remains as it is.
    """
    return _changed(block, partial(_permuted, generator=generator))


def moment_matched(block: Block | Stack, generator: torch.Generator) -> Block | Stack:
    """Return a new frozen block whose tensors are normal with the block's mean and deviation.

    Each tensor, biases, norms and the final norm too, is drawn, then scaled and moved, so that
    its mean and its (population) standard deviation are those of the block's tensor but for
    rounding; a constant tensor remains as it is.
    """
    return _changed(block, partial(_matched, generator=generator))


def _changed(block: Block | Stack, change: Callable[[str, Tensor], Tensor]) -> Block | Stack:
    """Return a new block of changed tensors: the layer's by name, then those of the final norm."""
    if isinstance(block, Stack):
        return Stack([_changed(one, change) for one in block.blocks])
    has_norm = block.final_norm is not None
    states = (block.decoder, block.final_norm if has_norm else nn.Identity())
    layer, norm = (
        {name: change(name, tensor) for name, tensor in sorted(module.state_dict().items())}
        for module in states
    )
    own = partial(dict, norm) if has_norm else None
    return Block(block._config, block.language, block.layer, layer, own)


def _permuted(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].view(tensor.shape)


def _matched(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.amin() == tensor.amax():
        return tensor.clone()
    variance, mean = torch.var_mean(tensor.double(), correction=0)
    drawn = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
    drawn_variance, drawn_mean = torch.var_mean(drawn, correction=0)
    scale = (variance.to(drawn) / drawn_variance).sqrt()
    return drawn.sub_(drawn_mean).mul_(scale).add_(mean.to(drawn)).to(tensor)
