"""Squared norms of the samples' gradients: what ``debiased`` needs, cheap enough for every step.

With ``B`` samples, ``m`` the mean of their squared gradient norms and ``n`` the squared norm of
their mean gradient, the true gradient's squared norm is estimated without bias by
``(B n - m) / (B - 1)`` and the trace of the gradients' covariance by ``B (m - n) / (B - 1)``. The
latter over the former is the simple noise scale of McCandlish et al. (2018, Appendix A.1, with
batches of 1 and of ``B``), and the estimator ``debiased`` of the GSNR is its inverse.

The elementwise moments need each sample's gradient; these norms do not: those of a linear layer
follow from products of its tokens with each other, and the mean gradient is autograd's own. Where
some samples stand for all, ``m`` is the mean of theirs: ``agreement`` stays unbiased, since it is
linear in ``m``, and ``error`` says how far ``m`` may be off.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rectify.gsnr.squares import SquaredNorms, by_block, check_finite


@dataclass(frozen=True)
class Norms:
    """Squared norms of the gradients of some parameters, taken together, over two samples or more.

    >>> import torch
    >>> from rectify.gsnr import Norms
    >>> norms = Norms(squares=torch.tensor([5.0, 5.0]), mean=4.0)  # of (2, 1) and (2, -1)
    >>> norms.agreement, norms.variance, norms.noise_scale, norms.debiased
    (3.0, 2.0, 0.6666666666666666, 1.5)

    Attributes:
        squares: Of the gradient of each sample that was measured: of all, or of a random part.
        mean: Of the mean gradient of all samples.
        samples: How many there are; by default those that were measured.
        linked: Sum over the ordered pairs of samples that share something, as partners of Mixup
            do, of the products of their gradients, each sample with itself among them; None where
            all samples are independent.
        pairs: How many such pairs there are.
    """

    squares: Float[Tensor, " measured"]
    mean: float
    samples: int = 0
    linked: float | None = None
    pairs: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", self.samples or len(self.squares))
        if self.linked is None:
            object.__setattr__(self, "linked", self.samples * self.square)
            object.__setattr__(self, "pairs", self.samples)

    @property
    def square(self) -> float:
        """The mean over the samples of their gradients' squared norms."""
        return float(self.squares.double().mean())

    @property
    def error(self) -> float:
        """The standard error of ``square`` as the mean of all samples; 0 where all are measured."""
        measured = len(self.squares)
        left = 1 - measured / self.samples
        return math.sqrt(float(self.squares.double().var()) / measured * left) if left else 0.0

    @property
    def agreement(self) -> float:
        """The mean product of two independent samples' gradients.

        It is the true gradient's square, unbiased.
        """
        return (self.samples**2 * self.mean - self.linked) / (self.samples**2 - self.pairs)

    @property
    def variance(self) -> float:
        """The trace of the covariance of a sample's gradient, unbiased."""
        return self.square - self.agreement

    @property
    def debiased(self) -> float:
        """The GSNR by the estimator ``debiased``, of this batch."""
        return self.agreement / self.variance

    @property
    def noise_scale(self) -> float:
        """The simple noise scale, in samples; negative where noise hides the gradient."""
        return self.variance / self.agreement

    @property
    def coherence(self) -> float:
        """m-coherence (Chatterjee and Zielinski, 2020), in 0 .. samples.

        It is ``samples`` if all gradients are equal and 1 if they are orthogonal.
        """
        return self.samples * self.mean / self.square

    @property
    def cosine(self) -> float:
        """Root of the mean product of a sample's gradient with the mean one, over their sizes.

        The sizes are root mean squares, so it is the cosine where all gradients are of one size;
        ``1 / sqrt(samples)`` if they are orthogonal.
        """
        return math.sqrt(self.mean / self.square)


class GradientNorms:
    """Context that gathers, by block, the norms of a forward and backward pass run inside it.

    As ``GradientMoments`` in mode ``observe``, but for what it gathers: no gradient changes, the
    loss must be the mean of the samples' losses, times ``scale``, and the first pass is looked at.
    Gradients of earlier passes do not enter. The key's bias, which ``gsnr`` leaves out, is in the
    sums; its gradient is rounding noise and adds nothing to them.

    >>> import torch
    >>> from rectify.gsnr import GradientNorms
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> model, inputs, labels = torch.nn.Linear(5, 3), torch.randn(8, 5), torch.arange(8) % 3
    >>> watched = GradientNorms({"head": model})
    >>> with watched:
    ...     torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    >>> norms = watched.norms()["head"]
    >>> norms.samples, round(norms.debiased * norms.noise_scale, 6)
    (8, 1.0)
    """

    def __init__(
        self,
        modules: nn.Module | Mapping[str, nn.Module],
        *,
        only: Iterable[str] = ("",),
        exclude: Iterable[str] = (),
        whole: Iterable[str] = (),
        unsupported: str = "raise",
        scale: float = 1.0,
        samples: int | None = None,
        compiled: bool = False,
    ):
        """Find the layers to watch.

        Args:
            modules: Blocks by name; or a single module, whose name is empty.
            only: As of ``GradientMoments``, and so the others.
            exclude: Names of submodules or parameters, or patterns, that are not watched.
            whole: Names of modules, or patterns, that are measured as one in the generic way.
            unsupported: ``raise`` refuses what cannot be measured, ``skip`` leaves it out.
            scale: What the mean loss is multiplied by before ``backward``.
            samples: How many of a pass's samples are measured, the first ones, which must be a
                random part of them; at least 2. All by default, and at most.
            compiled: Whether the passes of which ``is_compiled`` says so may run the model as
                ``rectify.runtime.compiled`` returns it.

        Raises:
            ValueError: As of ``GradientMoments``.
        """
        options = {"only": only, "exclude": exclude, "whole": whole, "unsupported": unsupported}
        self._watched = SquaredNorms(modules, samples, scale=scale, compiled=compiled, **options)
        self._hooks = ExitStack()

    def of_pass(
        self, scale: float = 1.0, origins: Int64[Tensor, "samples origins"] | None = None
    ) -> "GradientNorms":
        """Take note of what the next passes are, and return itself to be entered.

        Args:
            scale: What the mean loss is multiplied by before ``backward``.
            origins: Numbers of what each sample was made from: samples that have one in common
                are linked. None if all are independent.
        """
        self._watched.of_pass(scale, origins)
        return self

    @property
    def names(self) -> list[str]:
        """Names of the measured parameters."""
        return self._watched.names

    @property
    def is_compiled(self) -> bool:
        """Whether the watched model may be a compiled one in the pass that is entered.

        Never in the first one, which is looked at, nor where a layer is measured the generic way
        or left out; of linked samples where these are sets of one size, as partners of Mixup.
        """
        return self._watched.is_compiled

    @property
    def generic(self) -> list[str]:
        """Names of the layers that are run again sample by sample: exact, but slower."""
        return self._watched.generic

    @property
    def skipped(self) -> Mapping[str, str]:
        """Why a layer was left out, by its name; only with ``unsupported="skip"``."""
        return self._watched.skipped

    def __enter__(self) -> "GradientNorms":
        self._hooks.enter_context(self._watched)
        self._means = dict[str, Tensor]()  # squared, by layer
        for layer, parameters in self._watched.by_layer.items():
            for parameter in parameters:
                self._hooks.enter_context(parameter.register_hook(partial(self._note_mean, layer)))
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()

    def norms(self, samples: int | None = None) -> dict[str, Norms]:
        """Return the norms by block; a block of which nothing is measured has none.

        Args:
            samples: As of ``GradientMoments.moments``.

        Raises:
            ValueError: As of ``GradientMoments.moments``; if there are fewer than two samples, or
                a gradient was not finite.
        """
        layers, squares, count, linked, pairs = self._watched.squares(samples)
        names, counts = chain(*layers.values()), [*map(len, layers.values())]
        means = by_block(torch.stack([self._means[name] for name in names]), counts)
        table, norms = torch.stack([means, linked], 1).tolist(), dict[str, Norms]()
        for block, of_samples, (mean, products) in zip(layers, squares, table, strict=True):
            where = f"gradient_norms: {block or 'the module'}"
            check_finite(where, bool(of_samples.isfinite().all()))
            norms[block] = Norms(of_samples, mean, count, products, pairs)
        return norms

    def _note_mean(self, layer: str, gradient: Tensor) -> None:
        """Add the square of a parameter's gradient, before it is added to earlier passes' ones."""
        if not self._watched.is_paused:
            wide = torch.promote_types(gradient.dtype, torch.float32)
            norm = torch.linalg.vector_norm(gradient, dtype=wide) / self._watched.scale
            self._means[layer] = self._means.get(layer, 0) + norm.square()
