"""Instance norms: a place's gradient is its normalised input times ``delta``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import batch_norm, instance_norm

from rectify.gsnr.contract import LayerType, Sums, sums_of_channels
from rectify.gsnr.links import Links


class InstanceNorm(LayerType):
    """``weight`` and ``bias`` of a norm over the places of each channel of a sample."""

    modules = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    title = "InstanceNorm"
    parameters = ("weight", "bias")

    def sums(
        self,
        module: nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d,
        name: str,
        inputs: Float[Tensor, "samples channels *places"],
        delta: Float[Tensor, "samples channels *places"],
        links: Links | None,
    ) -> Sums:
        if name == "bias":
            return sums_of_channels(delta, module.bias, links)
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        if module.training or module.running_mean is None:
            normalised = instance_norm(inputs, eps=module.eps)
        else:
            normalised = batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)
        return sums_of_channels(normalised * delta, module.weight, links)
