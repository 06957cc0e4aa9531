"""BEiT of timm: attention has a bias by relative position, of each block or of all."""

import torch
from jaxtyping import Float
from torch import Tensor

from rectify.trunks.timm_trunk import TimmTrunk
from rectify.trunks.trunk import Tokens


class Beit(TimmTrunk):
    """A model of timm's class ``Beit`` as a trunk; the context is the bias that blocks share."""

    classes = ("timm.models.beit.Beit",)

    def embed(self, images: Float[Tensor, " batch *pixels"]) -> Tokens:
        """Return the tokens that enter block 0, and the shared bias if there is one."""
        vit = self.vit
        values = vit.patch_embed(images)
        values = torch.cat([vit.cls_token.expand(len(values), -1, -1), values], dim=1)
        if vit.pos_embed is not None:
            values = values + vit.pos_embed
        bias = None if vit.rel_pos_bias is None else vit.rel_pos_bias()
        return Tokens(vit.pos_drop(values), context=bias)

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        values = tokens.values
        for index in range(start, stop):
            values = self.vit.blocks[index](values, shared_rel_pos_bias=tokens.context)
        return tokens._replace(values=values)

    def _pooled(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Return the mean over patches: timm's BEiT has no function for it."""
        return tokens[:, self.vit.num_prefix_tokens :].mean(1)
