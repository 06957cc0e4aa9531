"""Layer norms: a token's gradient is its normalised input times ``delta``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from rectify.gsnr.contract import LayerType, Sums, sums_of_tokens
from rectify.gsnr.links import Links


class LayerNorm(LayerType):
    """``weight`` and ``bias`` of torch's layer norm, and of timm's."""

    modules = (nn.LayerNorm, "timm.layers.norm.LayerNorm")
    title = "LayerNorm"
    parameters = ("weight", "bias")

    def sums(
        self,
        module: nn.LayerNorm,
        name: str,
        inputs: Float[Tensor, " samples *features"],
        delta: Float[Tensor, " samples *features"],
        links: Links | None,
    ) -> Sums:
        if name == "bias":
            return sums_of_tokens(delta, module.bias, links)
        wide = torch.promote_types(inputs.dtype, torch.float32)
        normalised = layer_norm(inputs.to(wide), module.normalized_shape, eps=module.eps)
        return sums_of_tokens(normalised * delta, module.weight, links)
