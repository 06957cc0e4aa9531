"""Swin transformers of timm: stages of blocks, between which patches are merged and widen.

A position is a number of blocks, over all stages. At the border of two stages it is before the
merging, so ``middle`` of Swin-T is inside of the third stage. What is inserted at a position has
the width of the tokens there (``widths``).
"""

from jaxtyping import Float
from torch import Tensor, nn

from rectify.trunks.timm_trunk import TimmTrunk
from rectify.trunks.trunk import Tokens


class Swin(TimmTrunk):
    """A model of timm's class ``SwinTransformer`` as a trunk; the context is the tokens' grid."""

    classes = ("timm.models.swin_transformer.SwinTransformer",)

    def __init__(self, vit: nn.Module):
        super().__init__(vit)
        places = [(stage, n) for stage, part in enumerate(vit.layers) for n in range(part.depth)]
        self._places = places
        self.widths = (
            vit.layers[0].blocks[0].dim,
            *(vit.layers[s].blocks[n].dim for s, n in places),
        )

    @property
    def whole(self) -> tuple[str, ...]:
        """All blocks: their attention sees windows, not samples."""
        return tuple(self.blocks)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The blocks of all stages by their index; merging is in none of them."""
        return {str(i): self.vit.layers[s].blocks[n] for i, (s, n) in enumerate(self._places)}

    def embed(self, images: Float[Tensor, " batch *pixels"]) -> Tokens:
        """Return the tokens that enter block 0, and how many there are from top to bottom."""
        return _listed(self.vit.patch_embed(images))

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        for index in range(start, stop):
            stage, number = self._places[index]
            values = tokens.values.unflatten(1, tokens.context)  # (batch, rows, columns, dim)
            if number == 0:
                values = self.vit.layers[stage].downsample(values)
            tokens = _listed(self.vit.layers[stage].blocks[number](values))
        return tokens

    @staticmethod
    def classify(vit: nn.Module, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        """Return the logits of a model of this kind, or of its copy without blocks."""
        return vit.forward_head(vit.norm(tokens.values.unflatten(1, tokens.context)))

    def representation(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Refuse: blocks of different stages have different widths.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"trunk: features of all blocks must have one width, got {self.widths[1:]} of Swin's "
            "stages. Choose a vision transformer without stages."
        )


def _listed(values: Float[Tensor, "batch rows columns dim"]) -> Tokens:
    return Tokens(values.flatten(1, 2), context=tuple(values.shape[1:3]))
