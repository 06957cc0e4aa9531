"""Batch norms in eval mode, which scale each sample alike; in training they mix samples."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from rectify.gsnr.contract import LayerType, Sums, sums_of_channels
from rectify.gsnr.links import Links


class BatchNorm(LayerType):
    """``weight`` and ``bias`` of a norm by what it has seen; in training it is refused."""

    modules = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    title = "BatchNorm in eval mode"
    parameters = ("weight", "bias")

    def sums(
        self,
        module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d,
        name: str,
        inputs: Float[Tensor, "samples channels *places"],
        delta: Float[Tensor, "samples channels *places"],
        links: Links | None,
    ) -> Sums:
        if name == "bias":
            return sums_of_channels(delta, module.bias, links)
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        normalised = batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)
        return sums_of_channels(normalised * delta, module.weight, links)
