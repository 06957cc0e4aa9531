"""What must be known of a layer type to measure it: one subclass per file of ``layers/``.

The gradient of one sample follows from what went into the layer and from ``delta``, the gradient
of the loss by what came out. Both have the samples first. Between samples and features there may
be any number of tokens, over which a sample's gradient is summed.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectify.gsnr.kernels import Sums, gradient_sums
from rectify.gsnr.links import Links
from rectify.gsnr.tap import Gather, tapped


class LayerType(ABC):
    """How one type of layer is measured."""

    modules: ClassVar[tuple[type[nn.Module] | str, ...]]
    """Exact types, or full names of types of other packages: a subclass may differ."""
    title: ClassVar[str]
    """The type and the options that it must have, as error messages print them."""
    parameters: ClassVar[tuple[str, ...]]
    """Names of the parameters of which ``sums`` are known."""
    is_autocast: ClassVar[bool] = False
    """Whether autocast casts what goes into the layer."""
    can_compile: ClassVar[bool] = True
    """Whether the sums can be formed in a compiled pass, with nothing called on the way."""
    is_only_way: ClassVar[bool] = False
    """Whether a module that is not accepted cannot be measured by the generic way either."""

    def accepts(self, module: nn.Module) -> bool:
        """Return whether the options of the module leave its samples' gradients known."""
        return True

    @abstractmethod
    def sums(
        self,
        module: nn.Module,
        name: str,
        inputs: Tensor | None,
        delta: Float[Tensor, " samples *outputs"],
        links: Links | None,
    ) -> Sums:
        """Return the sums over the samples of the gradient of one parameter.

        Args:
            module: A layer of this type.
            name: One of ``parameters``.
            inputs: What went into the layer, samples first; None if ``tap`` does not keep it.
            delta: Gradient of the loss by what came out.
            links: Which samples share something; None if all are independent.
        """

    def all_sums(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Any,
        delta: Any,
        links: Links | None,
    ) -> dict[str, Sums]:
        """Return the sums of several parameters, by name."""
        return {name: self.sums(module, name, inputs, delta, links) for name in names}

    def samples(self, inputs: Any, delta: Any) -> int:
        """Return how many samples the layer saw."""
        return len(delta)

    def tap(self, module: nn.Module, gather: Gather) -> AbstractContextManager[None]:
        """Hand inputs and ``delta`` of each pass to ``gather``, which changes no gradient."""
        return tapped(module, gather, is_autocast=self.is_autocast)

    def can_replace(self, trainable: Sequence[str]) -> bool:
        """Return whether the sums can take the place of autograd's gradients of ``trainable``."""
        return False

    def replace(
        self, module: nn.Module, trainable: Sequence[str], gather: Gather
    ) -> AbstractContextManager[None]:
        """Train with the sums that ``gather`` returns; only where ``can_replace``."""
        raise NotImplementedError


class ChannelNorm(LayerType):
    """A norm with a ``weight`` and ``bias`` for each channel: a subclass says how it normalises."""

    parameters = ("weight", "bias")

    @abstractmethod
    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Return the inputs as the norm leaves them before ``weight`` and ``bias``.

        Args:
            module: A norm of this type.
            inputs: ``(samples, channels, *places)``, in float32 or wider.
        """

    def sums(
        self,
        module: nn.Module,
        name: str,
        inputs: Float[Tensor, "samples channels *places"],
        delta: Float[Tensor, "samples channels *places"],
        links: Links | None,
    ) -> Sums:
        if name == "bias":
            return sums_of_channels(delta, module.bias, links)
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        return sums_of_channels(self.normalised(module, wide) * delta, module.weight, links)


def sums_of_products(
    inputs: Float[Tensor, "samples *tokens dim_in"],
    delta: Float[Tensor, "samples *tokens dim_out"],
    weight: Float[Tensor, "dim_out ..."],
    links: Links | None,
) -> Sums:
    """Return the sums of a weight that is multiplied with each token."""
    by_token = (values.reshape(len(delta), -1, values.shape[-1]) for values in (inputs, delta))
    sums = gradient_sums(*by_token, links)
    return Sums(*(None if part is None else part.view_as(weight) for part in sums))


def sums_of_tokens(
    gradients: Float[Tensor, "samples ..."],
    parameter: Float[Tensor, "..."],
    links: Links | None,
) -> Sums:
    """Return the sums of a small parameter, from its gradients token by token."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    by_token = gradients.reshape(len(gradients), -1, *parameter.shape)
    by_sample = by_token.sum(1, dtype=wide)  # (samples, *parameter)
    return sums_of_samples(by_sample, links)


def sums_of_channels(
    gradients: Float[Tensor, "samples channels *places"],
    parameter: Float[Tensor, " channels"],
    links: Links | None,
) -> Sums:
    """Return the sums of a parameter that each channel has one of, over the channel's places."""
    return sums_of_tokens(gradients.reshape(*gradients.shape[:2], -1).mT, parameter, links)


def sums_of_samples(gradients: Float[Tensor, "samples ..."], links: Links | None) -> Sums:
    """Return the sums of a parameter whose gradients are all at hand."""
    total, squares = gradients.sum(0), gradients.square().sum(0)
    if links is None:
        return Sums(total, squares)
    sets = (weight * gradients[rows].sum(1).square().sum(0) for weight, rows in links.rows())
    return Sums(total, squares, sum(sets))
