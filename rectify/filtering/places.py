"""Where activations are read inside of a model, by hooks that change nothing of its outputs.

    block-<n>  tokens that leave block n of the ViT
    F_E        tokens that the ViT encoded: what enters the linear up; what leaves the last block
               where nothing is inserted
    F_L1       after the linear up
    F_A        after the frozen layer's attention
    F_F        after its MLP: what leaves the layer, before any norm
    F_L2       after the linear down
    F_S        after the skip around the rectifier, where it has one: what goes on in the ViT

The names ``F_*`` but ``F_S`` are those of Pang et al. (2024), Sec. 6.1. Controls have the places
that they have modules for. Attention is that of the class token on the patches: of the ViT's last
block, under the block's name, and of the frozen layer, under ``F_A``.
The tokens of a cloud have the same places; between two blocks they are without their positions,
which every block adds anew.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from timm.layers import Attention
from torch import Tensor, nn

from rectify.filtering.layout import layout_of
from rectify.language.block import Block
from rectify.language.families import FAMILIES, eager_attention
from rectify.rectified import InsertedModel

ENCODED, UP, ATTENDED, TRANSFORMED, DOWN = "F_E", "F_L1", "F_A", "F_F", "F_L2"
SKIPPED = "F_S"

Heads = Float[Tensor, "images heads rows columns"]
Sequence = Float[Tensor, "images tokens dim"]


@dataclass
class Recorded:
    """What a forward pass left at each place."""

    features: dict[str, Float[Tensor, "images rows columns dim"]] = field(default_factory=dict)
    """Tokens of the patches, by place."""
    attention: dict[str, Heads] = field(default_factory=dict)
    """Attention of the class token on the patches, by place and head; none without that token."""


@contextlib.contextmanager
def recording(
    model: nn.Module, after_attention: Literal["stream", "update"] = "stream"
) -> Iterator[Recorded]:
    """Give what the next forward pass leaves at each place; a further pass replaces it.

    Args:
        model: As it is used at test: a trunk, or one with an inserted layer.
        after_attention: Whether ``F_A`` is the residual stream or only what attention adds to it.

    Raises:
        ValueError: If the tokens of the trunk are neither patches nor groups of points.
    """
    recorded, hooks = Recorded(), []
    layout = layout_of(model)
    blocks, has_class_token = layout.blocks, layout.has_class_token
    keep = _Keeper(recorded, layout.grid, layout.prefix)
    last = len(blocks) - 1

    def after(module: nn.Module, read: Callable[..., None]) -> None:
        hooks.append(module.register_forward_hook(read, with_kwargs=True))

    for index, block in enumerate(blocks):
        after(block, keep.output(f"block-{index}"))
    if has_class_token:
        after(blocks[last].attn, keep.vit_attention(f"block-{last}"))
    if isinstance(model, InsertedModel):
        bridge = model.bridge
        after(bridge.up, keep.input(ENCODED))
        after(bridge.up, keep.output(UP))
        after(bridge.down, keep.output(DOWN))
        if bridge.residual:
            after(bridge, keep.output(SKIPPED))
        if bridge.layer is not None:
            after(bridge.layer, keep.output(TRANSFORMED))
        if isinstance(bridge.layer, Block):
            attention = FAMILIES[bridge.layer.family].attention
            module = bridge.layer.decoder.get_submodule(attention)
            after(module, keep.layer_attention(bridge.layer, has_class_token))
            after(bridge.layer, keep.attended(after_attention))
    else:
        after(blocks[last], keep.output(ENCODED))
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def vit_attention(attention: Attention, tokens: Sequence) -> Float[Tensor, "images heads to from"]:
    """Return the weights of timm's attention, which its fused kernel does not give.

    Args:
        attention: Of a ViT's block.
        tokens: What enters it, after the norm.
    """
    images, count, _ = tokens.shape
    split = attention.qkv(tokens).reshape(images, count, 3, attention.num_heads, -1)
    query, key, _ = split.permute(2, 0, 3, 1, 4)  # each (images, heads, tokens, dim)
    query, key = attention.q_norm(query), attention.k_norm(key)
    return (query * attention.scale @ key.transpose(-2, -1)).softmax(-1)


class _Keeper:
    """Hooks that lay the tokens of patches on their grid, and keep them."""

    def __init__(self, recorded: Recorded, grid: tuple[int, int], prefix: int):
        self.recorded, self.grid, self.prefix = recorded, grid, prefix
        self._attended: tuple[Tensor | None, Tensor] | None = None

    def output(self, place: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: self._keep(place, output)

    def input(self, place: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: self._keep(place, args[0])

    def vit_attention(self, place: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: self._attend(
            place, vit_attention(module, args[0])
        )

    def layer_attention(self, layer: Block, has_class_token: bool) -> Callable[..., None]:
        """Keep what the layer's attention gives, and its weights."""
        adds, norm = FAMILIES[layer.family].attention_adds, FAMILIES[layer.family].attention_norm
        normed = layer.decoder.get_submodule(norm) if norm else nn.Identity()

        def read(module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
            given = normed(output[0])  # with what it is added to, if the attention adds it
            self._attended = (given, given - args[1]) if adds else (None, given)
            if has_class_token:
                self._attend(ATTENDED, eager_attention(module, args, kwargs))

        return read

    def attended(self, after_attention: str) -> Callable[..., None]:
        """Keep the tokens after the layer's attention, of which the layer knows the stream."""

        def read(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            stream, update = self._attended
            stream = args[0] + update if stream is None else stream
            self._keep(ATTENDED, stream if after_attention == "stream" else update)

        return read

    def _keep(self, place: str, tokens: Sequence) -> None:
        patches = tokens[:, self.prefix :].detach().float()
        self.recorded.features[place] = patches.unflatten(1, self.grid)

    def _attend(self, place: str, weights: Float[Tensor, "images heads to from"]) -> None:
        row = weights[:, :, 0, self.prefix :].detach().float()  # of the class token
        self.recorded.attention[place] = row.unflatten(2, self.grid)
