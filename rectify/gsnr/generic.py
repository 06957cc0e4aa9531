"""The generic way: samples' gradients of any module, by differentiating it sample by sample.

What went into the module and the gradient by what came out are kept. The module then runs again
on samples of their own (``torch.func``: many at a time, each as a batch of one), and its vector-
Jacobian product is that sample's gradient of every parameter inside. It is exact, and costs
about another forward and backward pass of the module. What came out the second time must equal
what came out the first: where it does not, the module mixes samples, and is refused.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils._pytree import tree_leaves

from rectify.gsnr.calls import Call, Random, samples_axis, versions
from rectify.gsnr.contract import LayerType, sums_of_samples
from rectify.gsnr.kernels import Sums
from rectify.gsnr.links import Links
from rectify.gsnr.tap import Gather

SCRATCH_BYTES = 2**26  # of the gradients that are at hand at once
MOST_AT_ONCE = 16


def is_one_unit(module: nn.Module) -> bool:
    """Return whether a module must be measured with all that is inside of it.

    Attention of torch uses its projection's parameters without running it; and where tokens come
    before samples, the layers inside cannot be told which axis is which.
    """
    return isinstance(module, nn.MultiheadAttention) or samples_axis(module) != 0


class Generic(LayerType):
    """Any module that treats samples apart, with the parameters of all its parts."""

    modules = ()
    title = "any module that treats samples apart"
    parameters = ()
    can_compile = False

    @contextlib.contextmanager
    def tap(self, module: nn.Module, gather: Gather) -> Iterator[None]:
        starts: list[tuple[Random, list[int]]] = []

        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            leaves = tree_leaves((args, kwargs))
            starts.append((Random.now([*leaves, *module.parameters()]), versions(leaves)))

        def behind(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            draw, before = starts.pop()
            leaves = tree_leaves(output)
            places = [
                place
                for place, leaf in enumerate(leaves)
                if isinstance(leaf, Tensor) and leaf.requires_grad
            ]
            if not places:
                return
            call = Call(module, args, kwargs, leaves, places, draw, before)
            for values, axis in call.take_differentiable():
                gather.note(values, axis)
            register_multi_grad_hook([leaves[place] for place in places], partial(gather, call))

        with (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(behind, prepend=True, with_kwargs=True),
        ):
            yield

    def samples(self, inputs: Call, delta: Sequence[Tensor | None]) -> int:
        return inputs.samples

    def sums(
        self,
        module: nn.Module,
        name: str,
        inputs: Call,
        delta: Sequence[Tensor | None],
        links: Links | None,
    ) -> Sums:
        return self.all_sums(module, (name,), inputs, delta, links)[name]

    def all_sums(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Call,
        delta: Sequence[Tensor | None],
        links: Links | None,
    ) -> dict[str, Sums]:
        """Return the sums of all parameters, from one more pass of the module.

        Raises:
            UnmeasurableError: If the module mixes samples, or gives something else when run again.
        """
        alone = torch.arange(inputs.samples)[:, None]
        inputs.check(delta)
        chunk = _chunk(module, names, inputs)
        if inputs.is_random:
            (gradients,) = _gradients(module, names, inputs, delta, alone, chunk)
            return {name: sums_of_samples(own, links) for name, own in gradients.items()}
        totals, squares = _sums(_gradients(module, names, inputs, delta, alone, chunk))
        linked = {}
        for weight, rows in links.rows() if links is not None else ():
            of_sets = _sums(_gradients(module, names, inputs, delta, rows, chunk))[1]
            for name, own in of_sets.items():
                linked[name] = linked.get(name, 0) + weight * own
        return {name: Sums(totals[name], squares[name], linked.get(name)) for name in names}

    def norms(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Call,
        delta: Sequence[Tensor | None],
        rows: Int64[Tensor, "sets size"],
    ) -> Float[Tensor, " sets"]:
        """Return the squared norms of sets of samples, from one more pass of the module.

        Raises:
            UnmeasurableError: If the module mixes samples, or gives something else when run again.
        """
        inputs.check(delta)
        chunk = _chunk(module, names, inputs)
        if inputs.is_random:
            alone = torch.arange(inputs.samples)[:, None]
            (gradients,) = _gradients(module, names, inputs, delta, alone, chunk)
            parts = iter([{name: own[rows].sum(1) for name, own in gradients.items()}])
        else:
            parts = _gradients(module, names, inputs, delta, rows, chunk)
        return torch.cat(
            [sum(own.flatten(1).square().sum(1) for own in part.values()) for part in parts]
        )

    def norms_of_first(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Call,
        delta: Sequence[Tensor | None],
        samples: int,
    ) -> Float[Tensor, " samples"]:
        return self.norms(module, names, inputs, delta, torch.arange(samples)[:, None])


GENERIC = Generic()


def _chunk(module: nn.Module, names: Sequence[str], call: Call) -> int:
    """Return how many samples run at once; where they draw, all must, to draw the same."""
    if call.is_random:
        return call.samples
    numbers = sum(module.get_parameter(name).numel() for name in names)
    return max(1, min(MOST_AT_ONCE, SCRATCH_BYTES // (4 * numbers)))


def _sums(parts: Iterator[dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    totals: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    for gradients in parts:
        for name, own in gradients.items():
            totals[name] = totals.get(name, 0) + own.sum(0)
            squares[name] = squares.get(name, 0) + own.square().sum(0)
    return totals, squares


def _gradients(
    module: nn.Module,
    names: Sequence[str],
    call: Call,
    delta: Sequence[Tensor | None],
    sets: Tensor,
    chunk: int,
) -> Iterator[dict[str, Tensor]]:
    """Give, for so many sets of samples at a time, each one's gradient, ``(sets, *parameter)``.

    Args:
        sets: Rows of the batch, ``(sets, size)``: the gradient of a set is its samples' sum.
    """
    for rows in sets.split(chunk):
        yield call.again(module, names, delta, rows).gradients
