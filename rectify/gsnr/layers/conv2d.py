"""Convolutions of images: a linear layer over the patches that each output sees."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

from rectify.gsnr.contract import (
    LayerType,
    Sums,
    norms_of_products,
    norms_of_tokens,
    sums_of_products,
    sums_of_samples,
    sums_of_tokens,
)
from rectify.gsnr.links import Links

AT_HAND_BYTES = 2**26  # of all samples' gradients of a layer with groups


class Conv2d(LayerType):
    """``weight`` and ``bias`` of a convolution with any options."""

    modules = (nn.Conv2d,)
    title = "Conv2d"
    parameters = ("weight", "bias")
    is_autocast = True

    def sums(
        self,
        module: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        name: str,
        inputs: Float[Tensor, "samples channels_in *pixels"],
        delta: Float[Tensor, "samples channels_out *places"],
        links: Links | None,
    ) -> Sums:
        by_place = delta.flatten(2).mT  # (samples, places, channels_out)
        if name == "bias":
            return sums_of_tokens(by_place, module.bias, links)
        seen = self._seen(module, inputs)
        if module.groups == 1:
            return sums_of_products(seen, by_place, module.weight, links)
        return _sums_by_group(module, seen, by_place, links)

    def norms_of_sets(
        self,
        module: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        names: Sequence[str],
        inputs: Float[Tensor, "samples channels_in *pixels"],
        delta: Float[Tensor, "samples channels_out *places"],
        size: int,
    ) -> Float[Tensor, " sets"]:
        by_place = delta.flatten(2).mT
        norms = norms_of_tokens(by_place, module.bias, size) if "bias" in names else 0
        if "weight" in names:
            seen = self._seen(module, inputs)
            of_groups = (values.chunk(module.groups, dim=2) for values in (seen, by_place))
            norms += sum(norms_of_products(*own, size) for own in zip(*of_groups, strict=True))
        return norms

    def _seen(
        self,
        module: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        inputs: Float[Tensor, "samples channels_in *pixels"],
    ) -> Float[Tensor, "samples places inputs_of_kernel"]:
        is_padded_by_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        patches = self.patches if is_padded_by_zeros else _padded_patches
        return patches(module, inputs)

    def patches(
        self, module: nn.Conv2d, inputs: Float[Tensor, "samples channels height width"]
    ) -> Float[Tensor, "samples places inputs_of_kernel"]:
        """Return what each output of the convolution sees, in the order of its weight."""
        window = module.dilation, module.padding, module.stride
        return unfold(inputs, module.kernel_size, *window).mT


def windows(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d,
    inputs: Float[Tensor, "samples channels *padded"],
) -> Float[Tensor, "samples places inputs_of_kernel"]:
    """Return what each output sees of inputs that are padded already, of any number of axes."""
    sizes = zip(module.kernel_size, module.dilation, module.stride, strict=True)
    for axis, (kernel, dilation, stride) in enumerate(sizes, start=2):
        inputs = inputs.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    axes = len(module.kernel_size)
    kernels = range(2 + axes, 2 + 2 * axes)
    seen = inputs.permute(0, *range(2, 2 + axes), 1, *kernels)  # samples, places, channels, kernel
    return seen.flatten(1 + axes).flatten(1, axes)


def _padded_patches(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Float[Tensor, "samples channels *pixels"]
) -> Float[Tensor, "samples places inputs_of_kernel"]:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return windows(module, pad(inputs, module._reversed_padding_repeated_twice, mode))


def _sums_by_group(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d,
    seen: Float[Tensor, "samples places inputs_of_kernel"],
    by_place: Float[Tensor, "samples places channels_out"],
    links: Links | None,
) -> Sums:
    """Return the sums of a weight whose groups each see their own channels."""
    weight, groups = module.weight, module.groups
    seen, by_place = (x.unflatten(2, (groups, -1)) for x in (seen, by_place))
    wide = torch.promote_types(weight.dtype, torch.float32)
    if len(seen) * weight.numel() * wide.itemsize <= AT_HAND_BYTES:
        gradients = torch.einsum("bpgo,bpgi->bgoi", by_place.to(wide), seen.to(wide))
        return sums_of_samples(gradients.reshape(-1, *weight.shape), links)
    parts = [
        sums_of_products(seen[:, :, group], by_place[:, :, group], own, links)
        for group, own in enumerate(weight.chunk(groups))
    ]
    totals, squares, linked = zip(*parts, strict=True)
    return Sums(torch.cat(totals), torch.cat(squares), None if links is None else torch.cat(linked))
