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
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rectify.gsnr.kernels import Sums, gradient_sums, squared_norms
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

    def norms(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Any,
        delta: Any,
        rows: Int64[Tensor, "sets size"],
    ) -> Float[Tensor, " sets"]:
        """Return the squared norm of the sum of each set's gradients, over several parameters.

        Args:
            module: A layer of this type.
            names: Some of ``parameters``.
            inputs: What went into the layer.
            delta: Gradient of the loss by what came out.
            rows: The samples of each set, on the layer's device.
        """
        samples = rows.flatten()
        chosen = (None if values is None else values[samples] for values in (inputs, delta))
        return self.norms_of_sets(module, names, *chosen, rows.shape[1])

    def norms_of_first(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Any,
        delta: Any,
        samples: int,
    ) -> Float[Tensor, " samples"]:
        """Return ``norms`` of each of the first samples, without a copy of them."""
        first = (None if values is None else values[:samples] for values in (inputs, delta))
        return self.norms_of_sets(module, names, *first, 1)

    def norms_of_sets(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Any,
        delta: Any,
        size: int,
    ) -> Float[Tensor, " sets"]:
        """Return ``norms`` of sets of ``size`` samples in a row; here one set after the other."""
        by_set = [
            sum(self.sums(module, name, *of_set, None).total.square().sum() for name in names)
            for of_set in zip(inputs.split(size), delta.split(size), strict=True)
        ]
        return torch.stack(by_set)

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


class TokenWise(LayerType):
    """A layer whose parameters are small: a subclass gives their gradients token by token."""

    @abstractmethod
    def by_token(
        self,
        module: nn.Module,
        name: str,
        inputs: Tensor | None,
        delta: Float[Tensor, " samples *outputs"],
    ) -> Float[Tensor, " samples *tokens_and_parameter"]:
        """Return the gradients of one parameter, which are summed over the tokens.

        Args:
            module: A layer of this type.
            name: One of ``parameters``.
            inputs: What went into the layer, samples first; None if ``tap`` does not keep it.
            delta: Gradient of the loss by what came out.
        """

    def sums(
        self,
        module: nn.Module,
        name: str,
        inputs: Tensor | None,
        delta: Float[Tensor, " samples *outputs"],
        links: Links | None,
    ) -> Sums:
        by_token = self.by_token(module, name, inputs, delta)
        return sums_of_tokens(by_token, getattr(module, name), links)

    def norms_of_sets(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Tensor | None,
        delta: Float[Tensor, " samples *outputs"],
        size: int,
    ) -> Float[Tensor, " sets"]:
        by_token = {name: self.by_token(module, name, inputs, delta) for name in names}
        return sum(
            norms_of_tokens(own, getattr(module, name), size) for name, own in by_token.items()
        )


class ChannelNorm(TokenWise):
    """A norm with a ``weight`` and ``bias`` for each channel: a subclass says how it normalises."""

    parameters = ("weight", "bias")

    @abstractmethod
    def normalised(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Return the inputs as the norm leaves them before ``weight`` and ``bias``.

        Args:
            module: A norm of this type.
            inputs: ``(samples, channels, *places)``, in float32 or wider.
        """

    def by_token(
        self,
        module: nn.Module,
        name: str,
        inputs: Float[Tensor, "samples channels *places"],
        delta: Float[Tensor, "samples channels *places"],
    ) -> Float[Tensor, "samples places channels"]:
        if name == "weight":
            wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
            delta = self.normalised(module, wide) * delta
        return delta.reshape(*delta.shape[:2], -1).mT


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
    return sums_of_samples(_by_sample(gradients, parameter), links)


def norms_of_products(
    inputs: Float[Tensor, "samples *tokens dim_in"],
    delta: Float[Tensor, "samples *tokens dim_out"],
    size: int,
    has_bias: bool = False,
) -> Float[Tensor, " sets"]:
    """Return the squared norms of a weight's gradients that is multiplied with each token.

    Args:
        inputs: What went into the layer.
        delta: Gradient by what came out.
        size: Samples in a row whose gradients are added up: as those of one that has all tokens.
        has_bias: Whether they are those of the weight and the bias together.
    """
    sets = len(delta) // size
    by_token = (values.reshape(sets, -1, values.shape[-1]) for values in (inputs, delta))
    return squared_norms(*by_token, has_bias)


def norms_of_tokens(
    gradients: Float[Tensor, "samples ..."], parameter: Float[Tensor, "..."], size: int
) -> Float[Tensor, " sets"]:
    """Return the squared norms of a small parameter's gradients, given token by token."""
    of_sets = gradients.reshape(len(gradients) // size, -1)
    return _by_sample(of_sets, parameter).flatten(1).square().sum(1)


def _by_sample(
    gradients: Float[Tensor, "samples ..."], parameter: Float[Tensor, "..."]
) -> Float[Tensor, "samples ..."]:
    wide = torch.promote_types(parameter.dtype, torch.float32)
    by_token = gradients.reshape(len(gradients), -1, *parameter.shape)
    return by_token.sum(1, dtype=wide)  # (samples, *parameter)


def sums_of_samples(gradients: Float[Tensor, "samples ..."], links: Links | None) -> Sums:
    """Return the sums of a parameter whose gradients are all at hand."""
    total, squares = gradients.sum(0), gradients.square().sum(0)
    if links is None:
        return Sums(total, squares)
    sets = (weight * gradients[rows].sum(1).square().sum(0) for weight, rows in links.rows())
    return Sums(total, squares, sum(sets))
