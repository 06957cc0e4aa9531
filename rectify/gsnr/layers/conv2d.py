"""Convolutions of images: a linear layer over the patches that each output sees."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import unfold

from rectify.gsnr.contract import LayerType, Sums, sums_of_products, sums_of_tokens
from rectify.gsnr.links import Links


class Conv2d(LayerType):
    """``weight`` and ``bias`` of a convolution with one group; any kernel, stride and dilation."""

    modules = (nn.Conv2d,)
    title = "Conv2d (one group, zero padding in numbers)"
    parameters = ("weight", "bias")
    is_autocast = True

    def accepts(self, module: nn.Conv1d | nn.Conv2d) -> bool:
        is_padded_by_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return module.groups == 1 and is_padded_by_zeros

    def sums(
        self,
        module: nn.Conv1d | nn.Conv2d,
        name: str,
        inputs: Float[Tensor, "samples channels_in *pixels"],
        delta: Float[Tensor, "samples channels_out *places"],
        links: Links | None,
    ) -> Sums:
        by_place = delta.flatten(2).mT  # (samples, places, channels_out)
        if name == "bias":
            return sums_of_tokens(by_place, module.bias, links)
        return sums_of_products(self.patches(module, inputs), by_place, module.weight, links)

    def patches(
        self, module: nn.Conv2d, inputs: Float[Tensor, "samples channels height width"]
    ) -> Float[Tensor, "samples places inputs_of_kernel"]:
        """Return what each output of the convolution sees, in the order of its weight."""
        window = module.dilation, module.padding, module.stride
        return unfold(inputs, module.kernel_size, *window).mT
