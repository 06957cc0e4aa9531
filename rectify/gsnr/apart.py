"""Whether samples stay apart from the layers to the loss: looked at once, before a backward pass.

From the loss back to the first tensors that have rows for the samples, only means and sums may
lie. From there on, the gradient of some samples' rows alone must not reach the rows of others in
any layer. Contrastive losses and norms over the batch do not pass. It takes up to three backward
passes without the parameters' gradients, draws no random number, and leaves the step as it was.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

AVERAGES = frozenset(
    {
        *("Mean", "Sum", "Mul", "Div", "Add", "Sub", "Rsub", "Neg", "Alias", "Clone", "ToCopy"),
        *("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Expand", "Permute"),
        *("Transpose", "T", "Stack", "Cat", "Select", "Slice", "Unbind", "NllLoss", "NllLoss2D"),
        *("MseLoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "SoftMarginLoss", "KlDiv"),
        *("BinaryCrossEntropy", "BinaryCrossEntropyWithLogits"),
    }
)
"""Operations that take rows to a loss, each row by itself but for a common factor."""
MOST_PASSES = 3
LEAK = 1e-6  # of the largest gradient; what is kept apart is exactly 0

COMPILED = "CompiledFunction"  # what a compiled model is in torch's graph

LOSS, INPUTS = "the loss", "the model"
EAGER = (
    "must be eager where it is watched, but for passes of which is_compiled says more, got a "
    "compiled one. Watch the eager model: both share their parameters"
)
MIXED = (
    "must treat each sample apart up to the loss, got a gradient from other samples' losses. Call "
    "eval() on norms over the batch; a contrastive loss has no gradient of one sample"
)


class Tapped(NamedTuple):
    """A tensor by sample, behind a layer or before it."""

    name: str
    edge: GradientEdge
    axis: int
    rows: int


class Apart:
    """Looks at the backward passes that reach the layers, until it has seen all of them.

    Attributes:
        seen: Names of layers that were looked at.
        entered: How many samples went into the watched modules; 0 if it is not known.
        is_sure: Whether every gradient was finite, so that a leak would have been seen.
    """

    def __init__(self, refuse: Callable[[str, str], None]):
        """Start without any tensor.

        Args:
            refuse: Called with the name of a layer, or ``LOSS``, and with what is wrong.
        """
        self._refuse, self._tapped = refuse, list[Tapped]()
        self.seen, self.is_sure, self._is_paused = set[str](), True, False
        self.entered = 0

    def note(self, name: str, values: Tensor, axis: int, rows: int | None = None) -> None:
        """Take note of a tensor with a gradient, of ``rows`` samples."""
        rows = values.shape[axis] if rows is None else rows
        self._tapped.append(Tapped(name, get_gradient_edge(values), axis, rows))

    def clear(self) -> None:
        """Let go of the graph."""
        self._tapped = []

    @property
    def is_paused(self) -> bool:
        """Whether the backward pass that runs is one of its own, or within a measurement."""
        return self._is_paused

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Look at no pass that is started within this context."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    @contextlib.contextmanager
    def before_backward(self) -> Iterator[None]:
        """Look before each backward pass that is started within the context.

        A loss is known only when its pass starts, so torch's two functions that start one are
        wrapped for as long.
        """
        backward, grad = torch.autograd.backward, torch.autograd.grad

        def looked_backward(tensors: object, grad_tensors: object = None, *args, **kwargs) -> None:
            self.look(tensors, grad_tensors, grad)
            return backward(tensors, grad_tensors, *args, **kwargs)

        def looked_grad(outputs: object, inputs: object, grad_outputs: object = None, *args, **kw):
            self.look(outputs, grad_outputs, grad)
            return grad(outputs, inputs, grad_outputs, *args, **kw)

        torch.autograd.backward, torch.autograd.grad = looked_backward, looked_grad
        try:
            yield
        finally:
            torch.autograd.backward, torch.autograd.grad = backward, grad

    def look(self, losses: object, gradients: object, grad: Callable) -> None:
        """Look at the layers below the losses that were not seen yet.

        Args:
            losses: What a backward pass starts from.
            gradients: With these; None for 1.
            grad: What computes gradients.
        """
        if self._is_paused or not self._tapped:
            return
        with self.paused():
            self._look(losses, gradients, grad)

    def _look(self, losses: object, gradients: object, grad: Callable) -> None:
        roots = [losses] if isinstance(losses, Tensor | GradientEdge) else list(losses)
        given = [gradients] if isinstance(gradients, Tensor) else list(gradients or [])
        given += [None] * (len(roots) - len(given))
        starts = [
            (root if isinstance(root, GradientEdge) else get_gradient_edge(root), own)
            for root, own in zip(roots, given, strict=True)
            if isinstance(root, GradientEdge) or root.requires_grad
        ]
        reaching = _reaching([start.node for start, _ in starts], self._tapped)
        if any(node.name().startswith(COMPILED) for node in reaching):
            self._refuse(INPUTS, EAGER)
        below = [one for one in self._tapped if one.edge.node in reaching]
        if not below:
            return
        samples = likely_samples([one.rows for one in below], self.entered)
        below = [one for one in below if one.rows == samples]  # others are refused for their number
        if below and samples > 1:
            self._check(starts, below, samples, reaching, grad)
        self.seen |= {one.name for one in below}

    def _check(
        self,
        starts: list[tuple[GradientEdge, Tensor | None]],
        below: list[Tapped],
        samples: int,
        reaching: set[Node],
        grad: Callable,
    ) -> None:
        axes = (1, 0) if any(one.axis for one in below) else (0,)
        edges, axes_of = _frontier([start for start, _ in starts], samples, axes, reaching,
                                   self._refuse)  # fmt: skip
        if not edges:
            return
        gradients = grad(
            [start for start, _ in starts], edges, [own for _, own in starts],
            retain_graph=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        leaks = set[str]()
        for chosen in _masks(samples):
            parts = [
                values * _along(chosen, values, axis)
                for values, axis in zip(gradients, axes_of, strict=True)
            ]
            for one, sizes in _reached(edges, parts, below, samples, grad):
                most, others = sizes.max().item(), sizes[~chosen.to(sizes.device)].max().item()
                self.is_sure &= most == most and most != float("inf")
                if others > LEAK * most:
                    leaks.add(one.name)
        names = dict.fromkeys(one.name for one in below[::-1] if one.name in leaks)
        for name in names if self.is_sure else ():
            self._refuse(name, MIXED)


def _reached(
    edges: Sequence[GradientEdge],
    parts: Sequence[Tensor],
    below: Sequence[Tapped],
    samples: int,
    grad: Callable,
) -> list[tuple[Tapped, Tensor]]:
    """Return the largest gradient of each sample, ``(samples,)``, at the tensors that one reaches.

    A gradient is looked at on its way and not kept, or all of them would take as much memory as
    the activations of the step.
    """
    sizes = dict[Tapped, Tensor]()
    reaching = _reaching([edge.node for edge in edges], below)

    def take(one: Tapped, values: Tensor | None) -> None:
        if values is not None:
            rows = values.detach().movedim(one.axis, 0).reshape(samples, -1)
            sizes[one] = rows.abs().amax(1)

    def leads_on(one: Tapped) -> bool:
        return any(node in reaching for node, _ in one.edge.node.next_functions)

    last = [one for one in below if not leads_on(one)]
    with contextlib.ExitStack() as hooks:
        for one in below:
            if leads_on(one):
                seen = one.edge.node.register_prehook(
                    lambda gradients, one=one: take(one, gradients[one.edge.output_nr])
                )
                hooks.callback(seen.remove)
        ends = [one.edge for one in last]
        gradients = grad(edges, ends, parts, retain_graph=True, allow_unused=True)
    for one, values in zip(last, gradients, strict=True):
        take(one, values)
    return [(one, sizes[one]) for one in below if one in sizes]


def likely_samples(rows: Sequence[int], entered: int) -> int:
    """Return how many samples there are, from the rows that layers see: the most of all.

    But where as many ``entered`` and some layer sees these, or several rows of each, they are it.
    """
    most = max(rows)
    is_known = entered in rows or (1 < entered < most and most % entered == 0)
    return entered if is_known else most


def _reaching(roots: Sequence[Node], tapped: Sequence[Tapped]) -> set[Node]:
    """Return the operations between the roots and the tapped tensors, with both.

    A reentrant checkpoint is an end: what it recomputes has a backward pass of its own.
    """
    users: defaultdict[Node, list[Node]] = defaultdict(list)
    seen, queue = set(roots), list(roots)
    while queue:
        node = queue.pop()
        for below, _ in () if node.name().startswith("CheckpointFunction") else node.next_functions:
            if below is not None:
                users[below].append(node)
                if below not in seen:
                    seen.add(below)
                    queue.append(below)
    queue = [one.edge.node for one in tapped if one.edge.node in seen]
    reaching = set(queue)
    while queue:
        for user in users[queue.pop()]:
            if user not in reaching:
                reaching.add(user)
                queue.append(user)
    return reaching


def _frontier(
    starts: Sequence[GradientEdge],
    samples: int,
    axes: Sequence[int],
    reaching: set[Node],
    refuse: Callable[[str, str], None],
) -> tuple[list[GradientEdge], list[int]]:
    """Return the first tensors with rows of samples that a loss is made from, with their axis.

    A row may be one of several of a sample, such as its tokens, if they lie together.
    """
    found: dict[tuple[Node, int], int] = {}
    queue, seen = [(start.node, start.output_nr) for start in starts], set()
    while queue:
        node, number = queue.pop()
        if (node, number) in seen or node not in reaching:
            continue
        seen.add((node, number))
        axis = _axis(tuple(node._input_metadata[number].shape), samples, axes)
        if axis is not None:
            found[node, number] = axis
            continue
        below = [edge for edge in node.next_functions if edge[0] in reaching]
        name = node.name().rstrip("0123456789").removesuffix("Backward")
        is_product = name in ("Mul", "Div") and len(below) > 1
        if name not in AVERAGES or is_product or _has_uneven_tokens(node, name, samples):
            refuse(LOSS, _said(node, name, samples))
            return [], []
        queue += below
    return [GradientEdge(*key) for key in found], list(found.values())


def _axis(shape: tuple[int, ...], samples: int, axes: Sequence[int]) -> int | None:
    for axis in axes:
        if axis == 1 and len(shape) > 1 and shape[1] == samples:
            return 1
        if axis == 0 and shape and shape[0] >= samples and shape[0] % samples == 0:
            return 0
    return None


def _has_uneven_tokens(node: Node, name: str, samples: int) -> bool:
    """Return whether a mean over the tokens of all samples has more of one than of another."""
    if name not in ("NllLoss", "NllLoss2D") or node._saved_target.numel() % samples:
        return False
    ignored = node._saved_ignore_index
    counts = node._saved_target.reshape(samples, -1).ne(ignored).sum(1)
    return bool((counts != counts[0]).any())


def _said(node: Node, name: str, samples: int) -> str:
    if name in ("NllLoss", "NllLoss2D"):
        return (
            "must weigh each sample the same, got a mean over all tokens of which samples "
            "have different numbers. Take each sample's mean, then the mean of these"
        )
    return (
        f"must be the mean of a loss for each of {samples} samples, got {node.name()} of "
        "all. Reduce one loss per sample by mean()"
    )


def _masks(samples: int) -> Iterator[Tensor]:
    """Give choices of samples; any two samples are told apart by one of them, most by several."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    for bit in range(min(MOST_PASSES, (samples - 1).bit_length())):
        yield (order >> bit & 1).bool()


def _along(chosen: Tensor, values: Tensor, axis: int) -> Tensor:
    """Return the choice as factors along an axis whose entries may be several per sample."""
    factors = chosen.repeat_interleave(values.shape[axis] // len(chosen)).to(values)
    return factors.reshape([-1 if at == axis else 1 for at in range(values.ndim)])
