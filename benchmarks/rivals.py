"""Other ways to the mean and variance of every block parameter's per-sample gradients.

Each is a whole pass of training: it leaves the gradient of every trainable parameter in
``.grad``, and returns the moments of those of the ViT blocks. So the loop and vmap differentiate
by all trainable parameters and need no further pass; Opacus and BackPACK ride on the ordinary
one. BackPACK knows no LayerNorm: its moments are those of the linear layers only.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

Moments = dict[str, tuple[Tensor, Tensor]]  # by the parameter's name in the blocks: mean, variance
Backward = Callable[[Tensor, Tensor], Moments]  # of images and labels

VMAP_CHUNKS = (64, 16, 8, 4, 2)


def plain(model: nn.Module, blocks: nn.Module) -> Backward:
    """Measure nothing."""

    def backward(images: Tensor, labels: Tensor) -> Moments:
        cross_entropy(model(images), labels).backward()
        return {}

    return backward


def ours(mode: str, model: nn.Module, blocks: nn.Module, whole: Sequence[str] = ()) -> Backward:
    """Return what ``rectify`` does, in ``observe`` or ``replace`` mode.

    The first step, which looks whether samples are mixed, is not timed.
    """
    from rectify.gsnr.moments import GradientMoments

    watched = GradientMoments(blocks, mode=mode, whole=whole)

    def backward(images: Tensor, labels: Tensor) -> Moments:
        with watched:
            cross_entropy(model(images), labels).backward()
        return {name: (one.mean, one.variance) for name, one in watched.moments().items()}

    return backward


def norms(model: nn.Module, blocks: nn.Module) -> Backward:
    """Gather each sample's squared norm by block, enough for ``debiased``, and no moments."""
    from rectify.gsnr.norms import GradientNorms

    watched = GradientNorms({str(number): block for number, block in enumerate(blocks)})

    def backward(images: Tensor, labels: Tensor) -> Moments:
        with watched:
            cross_entropy(model(images), labels).backward()
        assert len(watched.norms()) == len(blocks)
        return {}

    return backward


def every_step(model: nn.Module, blocks: nn.Module, samples: int = 8) -> Backward:
    """Measure the noise of the step as a training does, by ``samples`` of its batch."""
    from rectify.gsnr.noise import NoiseObserver

    named = {str(number): block for number, block in enumerate(blocks)}
    observer, steps = NoiseObserver(named, samples), itertools.count()

    def backward(images: Tensor, labels: Tensor) -> Moments:
        with observer.watch():
            cross_entropy(model(images), labels).backward()
        observer.record(0, next(steps))
        return {}

    return backward


def loop(model: nn.Module, blocks: nn.Module) -> Backward:
    """Go through the samples one at a time; nothing is kept but the two sums."""
    parameters, own = _trainable(model), set(blocks.parameters())

    def backward(images: Tensor, labels: Tensor) -> Moments:
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        squares = [torch.zeros_like(parameter) for parameter in blocks.parameters()]
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            gradients = torch.autograd.grad(cross_entropy(model(image), label), parameters)
            torch._foreach_add_(sums, gradients)
            measured = [g for g, p in zip(gradients, parameters, strict=True) if p in own]
            torch._foreach_addcmul_(squares, measured, measured)
        return _finish(blocks, parameters, sums, squares, len(images))

    return backward


def vectorised(chunk: int, model: nn.Module, blocks: nn.Module) -> Backward:
    """Differentiate ``chunk`` samples at a time by ``torch.func``."""
    parameters, own = _trainable(model), set(blocks.parameters())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, (image[None],)), label[None])

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))

    def backward(images: Tensor, labels: Tensor) -> Moments:
        weights = dict(zip(names, (parameter.detach() for parameter in parameters), strict=True))
        sums = [torch.zeros_like(weight) for weight in weights.values()]
        squares = [torch.zeros_like(parameter) for parameter in blocks.parameters()]
        for some_images, some_labels in zip(images.split(chunk), labels.split(chunk), strict=True):
            gradients = per_sample(weights, some_images, some_labels)
            rest = iter(squares)
            for name, parameter, total in zip(names, parameters, sums, strict=True):
                stack = gradients.pop(name)  # (samples, *shape)
                total += stack.sum(0)
                if parameter in own:
                    next(rest).add_(stack.square_().sum(0))
        return _finish(blocks, parameters, sums, squares, len(images))

    return backward


def opacus(model: nn.Module, blocks: nn.Module) -> Backward:
    """Use Opacus' hooks on the blocks (around the whole ViT they would run it again)."""
    from opacus.grad_sample import GradSampleHooks

    GradSampleHooks(blocks, loss_reduction="mean")

    def backward(images: Tensor, labels: Tensor) -> Moments:
        cross_entropy(model(images), labels).backward()
        found = {}
        for name, parameter in blocks.named_parameters():
            squares = parameter.grad_sample.square_().sum(0)
            parameter.grad_sample = None
            found[name] = _moments(parameter.grad, squares.div_(len(images)))
        return found

    return backward


def backpack(kind: str, model: nn.Module, blocks: nn.Module) -> Backward:
    """Use BackPACK's ``SumGradSquared`` or ``BatchGrad`` on the blocks' linear layers."""
    import backpack
    import opt_einsum  # noqa: F401  without it torch contracts in an order 240 times slower
    from backpack import extensions

    linears = {name: one for name, one in blocks.named_modules() if type(one) is nn.Linear}
    for linear in linears.values():
        backpack.extend(linear)

    def backward(images: Tensor, labels: Tensor) -> Moments:
        with backpack.backpack(getattr(extensions, kind)()):
            cross_entropy(model(images), labels).backward()
        found = {}
        for name, parameter in _named(linears):
            if kind == "BatchGrad":
                squares = parameter.grad_batch.square_().sum(0)
                del parameter.grad_batch
            else:
                squares = parameter.sum_grad_squared
                del parameter.sum_grad_squared
            # of the mean loss: each sample's gradient carries 1 / samples
            found[name] = _moments(parameter.grad, squares.mul_(len(images)))
        return found

    return backward


METHODS: dict[str, Callable[[nn.Module, nn.Module], Backward]] = {
    "observe": partial(ours, "observe"),
    "replace": partial(ours, "replace"),
    "generic": partial(ours, "observe", whole=["?*"]),  # each block as one
    "loop": loop,
    **{f"vmap-{chunk}": partial(vectorised, chunk) for chunk in VMAP_CHUNKS},
    "opacus": opacus,
    "backpack-squares": partial(backpack, "SumGradSquared"),
    "backpack-batch": partial(backpack, "BatchGrad"),
}


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _named(modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in modules.items():
        yield from module.named_parameters(prefix=prefix)


def _finish(
    blocks: nn.Module,
    parameters: list[nn.Parameter],
    sums: list[Tensor],
    squares: list[Tensor],
    samples: int,
) -> Moments:
    """Leave the mean of the gradients where the optimizer finds it, and return the moments."""
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total.div_(samples)
    return {
        name: _moments(parameter.grad, square.div_(samples))
        for (name, parameter), square in zip(blocks.named_parameters(), squares, strict=True)
    }


def _moments(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    return mean, square.addcmul_(mean, mean, value=-1)
