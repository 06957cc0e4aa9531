"""Group norms: a place's gradient is its normalised input times ``delta``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import group_norm

from rectify.gsnr.contract import LayerType, Sums, sums_of_channels
from rectify.gsnr.links import Links


class GroupNorm(LayerType):
    """``weight`` and ``bias`` of a norm over groups of a sample's channels."""

    modules = (nn.GroupNorm,)
    title = "GroupNorm"
    parameters = ("weight", "bias")

    def sums(
        self,
        module: nn.GroupNorm,
        name: str,
        inputs: Float[Tensor, "samples channels *places"],
        delta: Float[Tensor, "samples channels *places"],
        links: Links | None,
    ) -> Sums:
        if name == "bias":
            return sums_of_channels(delta, module.bias, links)
        wide = torch.promote_types(inputs.dtype, torch.float32)
        normalised = group_norm(inputs.to(wide), module.num_groups, eps=module.eps)
        return sums_of_channels(normalised * delta, module.weight, links)
