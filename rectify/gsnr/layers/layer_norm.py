"""Layer norms: a token's gradient is its normalised input times ``delta``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from rectify.gsnr.contract import TokenWise


class LayerNorm(TokenWise):
    """``weight`` and ``bias`` of torch's layer norm, and of timm's."""

    modules = (nn.LayerNorm, "timm.layers.norm.LayerNorm")
    title = "LayerNorm"
    parameters = ("weight", "bias")

    def by_token(
        self,
        module: nn.LayerNorm,
        name: str,
        inputs: Float[Tensor, " samples *features"],
        delta: Float[Tensor, " samples *features"],
    ) -> Float[Tensor, " samples *features"]:
        if name == "bias":
            return delta
        wide = torch.promote_types(inputs.dtype, torch.float32)
        normalised = layer_norm(inputs.to(wide), module.normalized_shape, eps=module.eps)
        return normalised * delta
