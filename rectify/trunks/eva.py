"""EVA, EVA-02 and DINOv3 of timm: positions may be rotations inside of each block."""

from jaxtyping import Float
from torch import Tensor

from rectify.trunks.timm_trunk import TimmTrunk
from rectify.trunks.trunk import Tokens


class Eva(TimmTrunk):
    """A model of timm's class ``Eva`` as a trunk; the context of its tokens is the rotations."""

    classes = ("timm.models.eva.Eva",)

    def embed(self, images: Float[Tensor, " batch *pixels"]) -> Tokens:
        """Return the tokens that enter block 0, and the rotations that each block applies."""
        values, rotations = self.vit._pos_embed(self.vit.patch_embed(images))
        return Tokens(self.vit.norm_pre(values), context=rotations)

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        values, rotations = tokens.values, tokens.context
        is_per_block = self.vit.rope_mixed and rotations is not None
        for index in range(start, stop):
            own = rotations[index] if is_per_block else rotations
            values = self.vit.blocks[index](values, rope=own)
        return tokens._replace(values=values)
