"""Convolutions of videos and volumes."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from rectify.gsnr.layers.conv2d import Conv2d, windows


class Conv3d(Conv2d):
    """``weight`` and ``bias`` of a convolution with any options."""

    modules = (nn.Conv3d,)
    title = "Conv3d"

    def patches(
        self, module: nn.Conv3d, inputs: Float[Tensor, "samples channels frames height width"]
    ) -> Float[Tensor, "samples places inputs_of_kernel"]:
        around = [size for size in reversed(module.padding) for _ in range(2)]
        return windows(module, pad(inputs, around))
