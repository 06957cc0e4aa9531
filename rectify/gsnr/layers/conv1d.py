"""Convolutions of sequences: those of images that are one pixel wide."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import unfold

from rectify.gsnr.layers.conv2d import Conv2d


class Conv1d(Conv2d):
    """``weight`` and ``bias`` of a convolution with any options."""

    modules = (nn.Conv1d,)
    title = "Conv1d"

    def patches(
        self, module: nn.Conv1d, inputs: Float[Tensor, "samples channels length"]
    ) -> Float[Tensor, "samples places inputs_of_kernel"]:
        kernel, dilation, padding, stride = (
            (*along, across)
            for along, across in (
                (module.kernel_size, 1),
                (module.dilation, 1),
                (module.padding, 0),
                (module.stride, 1),
            )
        )
        return unfold(inputs[..., None], kernel, dilation, padding, stride).mT
