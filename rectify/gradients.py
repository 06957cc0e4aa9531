"""Mean and variance of a parameter's gradient over the samples of a batch (Eqs. 1 and 2).

They come from the same forward and backward pass that trains: a tap behind each layer passes the
gradient on as it is and, with what went into the layer, forms the samples' gradients. The taps
are autograd functions, so recomputation (gradient checkpointing) and autocast see ordinary
operations. Two modes:

    observe  every gradient of the step stays as it was, bit by bit
    replace  a linear layer returns the sum of its samples' gradients as its weight gradient,
             which saves autograd's own product; equal but for rounding
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm, LayerScale
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, unfold

from rectify.kernels import gradient_sums
from rectify.runtime import process, summed

MODES = ("observe", "replace")
WEIGHTS = ("weight", "bias")
MEASURED = {  # these types alone, since subclasses may differ, and these parameters of theirs
    nn.Linear: WEIGHTS,
    nn.LayerNorm: WEIGHTS,
    LayerNorm: WEIGHTS,
    LayerScale: ("gamma",),
    nn.Conv2d: WEIGHTS,
}
EMBEDDING = ("cls_token", "reg_token", "pos_embed")  # of a ViT itself


@dataclass(frozen=True)
class Moments:
    """Mean and population variance of one parameter's gradient over ``samples`` samples."""

    mean: Tensor
    variance: Tensor
    samples: int


class GradientMoments:
    """Context that gathers the moments of one forward and backward pass run inside it.

    The loss must be the mean of the samples' losses, times ``scale``. The means are summed from
    the samples' gradients of this pass, so gradients accumulated before do not enter them.
    """

    def __init__(
        self,
        modules: nn.Module | Mapping[str, nn.Module],
        mode: str = "observe",
        *,
        only: Iterable[str] = ("",),
        scale: float = 1.0,
    ):
        """Find the layers to watch.

        Args:
            modules: A module, or several by the names that their parameters' names start with.
            mode: One of ``MODES``.
            only: Names of submodules or parameters; the others are not watched.
            scale: What the mean loss is multiplied by before ``backward``, e.g. 1 / (number of
                accumulated batches); it is taken out of the moments.

        Raises:
            ValueError: If the mode is unknown, a module is compiled, a trainable parameter is
                shared or of an unknown layer, or none is there.
        """
        if mode not in MODES:
            raise ValueError(
                f"gradient_moments: mode must be one of {', '.join(MODES)}, got {mode!r}. "
                "Change gsnr.mode in the config."
            )
        named = modules if isinstance(modules, Mapping) else {"": modules}
        chosen = partial(_is_chosen, tuple(only))
        self._layers = [
            layer for key, module in named.items() for layer in _layers(key, module, chosen)
        ]
        self._mode, self._scale, self._gathers = mode, scale, True
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        count, distinct = len(self.parameters), len(set(self.parameters))
        if count == 0 or distinct < count:
            raise ValueError(
                "gradient_moments: modules must hold trainable parameters, each in one place, got "
                f"{count}, {distinct} of them distinct. Name other modules, each once."
            )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The measured parameters, in the order of ``moments``."""
        return [getattr(layer.module, name) for layer in self._layers for name in layer.trainable]

    def __enter__(self) -> "GradientMoments":
        self._gathers = True
        for layer in self._layers:
            layer.passes, layer.samples, layer.moments = 0, 0, {}
            gather = partial(self._gather, layer)
            if self._mode == "replace" and layer.is_replaceable:
                layer.replace_forward(gather)
            else:
                self._handles += layer.tap(gather)
        return self

    def __exit__(self, *exception: object) -> None:
        self._gathers = False
        while self._handles:
            self._handles.pop().remove()
        for layer in self._layers:
            layer.restore_forward()

    def measure(self, loss: Tensor) -> None:
        """Gather the moments of ``loss``, one part of a step's loss, in a pass of its own.

        The graph is kept for the step's own backward pass, which is not gathered any more.
        Only for ``observe``: ``replace`` measures the gradient that trains.
        """
        loss = self._scale * loss
        torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        self._gathers = False

    def moments(self, samples: int | None = None) -> dict[str, Moments]:
        """Return the moments by parameter name.

        Args:
            samples: How many each layer must have seen; by default as many as the one that saw
                the most.

        Raises:
            ValueError: If a layer did not run exactly once, forward and backward, on all samples.
        """
        samples = samples or max(layer.samples for layer in self._layers)
        for layer in self._layers:
            if layer.passes != 1 or layer.samples != samples:
                raise ValueError(
                    f"gradient_moments: {layer.name or 'the module'} must run once with gradients "
                    f"of all samples, got {layer.passes} runs and gradients of {layer.samples} of "
                    f"{samples}. Watch one step of an eager model; leave out what folds the batch."
                )
        return {
            f"{layer.name}.{name}" if layer.name else name: one
            for layer in self._layers
            for name, one in layer.moments.items()
        }

    def _gather(self, layer: "_Layer", inputs: Tensor | None, delta: Tensor) -> dict[str, Tensor]:
        """Keep a layer's moments; return the sums, which are the gradients of the loss."""
        if not self._gathers and self._mode == "observe":
            return {}
        with torch.autocast(delta.device.type, enabled=False):  # the caller's backward may be in it
            sums = {name: _sums(layer.module, name, inputs, delta) for name in layer.trainable}
        if self._gathers:
            layer.passes, layer.samples = layer.passes + 1, len(delta)
            layer.moments = {
                name: _moments(*own, len(delta), self._scale) for name, own in sums.items()
            }
        return {name: total for name, (total, _) in sums.items()}


def merged(one: Mapping[str, Moments], other: Mapping[str, Moments]) -> dict[str, Moments]:
    """Return the moments over the samples of both, as of one batch (Chan et al., 1983)."""
    return {name: _merged(moments, other[name]) for name, moments in one.items()}


def across_ranks(moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """Return the moments over the samples of all processes of ``torch.distributed``.

    Every rank gets the same. Ranks must hold equally many samples: then the mean of their means
    and the mean of their variances, plus the variance of the means, are those of the whole batch.
    Without a process group, what was given.
    """
    if process()[1] == 1:
        return dict(moments)
    return {name: _across_ranks(one) for name, one in moments.items()}


def _merged(one: Moments, other: Moments) -> Moments:
    samples = one.samples + other.samples
    share = other.samples / samples
    apart = other.mean - one.mean
    mean = one.mean + share * apart
    within = torch.lerp(one.variance, other.variance, share)
    return Moments(mean, within + share * (1 - share) * apart.square(), samples)


def _across_ranks(one: Moments) -> Moments:
    _, ranks = process()
    mean = summed(one.mean.clone()) / ranks
    variance = summed(one.variance + (one.mean - mean).square()) / ranks
    return Moments(mean, variance, one.samples * ranks)


class _Tap(torch.autograd.Function):
    """The identity; hands a layer's inputs and the gradient by its output to ``gather``.

    It returns the output itself, no view, which an operation in place could not follow.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor | None, gather: Callable) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.gather = gather
        ctx.mark_dirty(output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple:
        ctx.gather(*ctx.saved_tensors, delta)
        return delta, None, None


class _Linear(torch.autograd.Function):
    """A linear layer whose weight and bias gradients are the sums that ``gather`` returns."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, layer: "_Layer", gather: Callable, *own: Tensor
    ) -> Tensor:
        ctx.save_for_backward(inputs, own[0])
        ctx.layer, ctx.gather = layer, gather
        return linear(inputs, layer.module.weight, layer.module.bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple:
        inputs, weight = ctx.saved_tensors
        sums = ctx.gather(inputs, delta)
        own = (sums[name].to(weight.dtype) for name in ctx.layer.trainable)
        before = delta @ weight.to(delta.dtype) if ctx.needs_input_grad[0] else None
        return before, None, None, *own


@dataclass
class _Layer:
    """A layer with trainable parameters of its own, and what its last pass gave."""

    name: str
    module: nn.Module
    trainable: list[str]
    passes: int = 0
    samples: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)

    @property
    def is_replaceable(self) -> bool:
        return isinstance(self.module, nn.Linear) and self.trainable[0] == "weight"

    def tap(self, gather: Callable) -> list[torch.utils.hooks.RemovableHandle]:
        """Hook a tap behind the layer, or where a ViT's own parameters have been added."""
        if isinstance(self.module, VisionTransformer):
            embedded = self.module.pos_drop.register_forward_pre_hook(
                lambda _, args: _Tap.apply(args[0], None, gather) if args[0].requires_grad else None
            )
            return [embedded]

        def behind(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            if output.requires_grad:
                return _Tap.apply(output, args[0].detach(), gather)
            return None

        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
            return (_inputs(module, *args, *kwargs.values()),), {}

        return [  # the tap before other hooks, which may change the output
            self.module.register_forward_hook(behind, prepend=True),
            self.module.register_forward_pre_hook(before, with_kwargs=True),
        ]

    def replace_forward(self, gather: Callable) -> None:
        """Let a linear layer return the samples' sums as its gradients."""
        own = [getattr(self.module, name) for name in self.trainable]

        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
            inputs = _inputs(self.module, *args, *kwargs.values())
            return _Linear.apply(inputs, self, gather, *own)

        self.module.forward = forward

    def restore_forward(self) -> None:
        self.module.__dict__.pop("forward", None)


def _inputs(module: nn.Module, inputs: Tensor) -> Tensor:
    """Cast as autocast is about to, so that autograd and the tap save one and the same tensor."""
    device, wide = inputs.device.type, inputs.dtype == torch.float64
    is_cast = isinstance(module, nn.Linear | nn.Conv2d) and torch.is_autocast_enabled(device)
    return inputs.to(torch.get_autocast_dtype(device)) if is_cast and not wide else inputs


def _moments(total: Tensor, squares: Tensor, samples: int, scale: float) -> Moments:
    """Return the moments, from sums over gradients that carry ``scale / samples``.

    A variance below the rounding of these sums is 0: identical samples have none.
    """
    signal = total.square()
    variance = squares.mul_(samples).sub_(signal)  # the mean of the squares, less that of the mean
    resolution = samples * torch.finfo(squares.dtype).eps
    variance.masked_fill_(variance <= signal.mul_(resolution), 0)
    if scale == 1:
        return Moments(total, variance, samples)
    return Moments(total / scale, variance / scale**2, samples)


def _sums(
    module: nn.Module, name: str, inputs: Tensor | None, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum one parameter's gradients over the samples, and their squares."""
    parameter = getattr(module, name)
    if isinstance(module, nn.Conv2d):
        inputs, delta = _patches(module, inputs), delta.flatten(2).mT
    if name == "weight" and isinstance(module, nn.Linear | nn.Conv2d):
        by_token = inputs.reshape(len(delta), -1, inputs.shape[-1])
        sums = gradient_sums(by_token, delta.reshape(len(delta), -1, delta.shape[-1]))
        return sums[0].view_as(parameter), sums[1].view_as(parameter)
    by_token = _by_token(module, name, inputs, delta)
    wide = torch.promote_types(parameter.dtype, torch.float32)
    gradients = by_token.reshape(len(delta), -1, *parameter.shape).sum(1, dtype=wide)
    return gradients.sum(0), gradients.square().sum(0)


def _by_token(module: nn.Module, name: str, inputs: Tensor | None, delta: Tensor) -> Tensor:
    """The gradient of a small parameter, token by token."""
    if isinstance(module, VisionTransformer):
        return delta[:, _embedded_tokens(module, name)]
    if name == "bias":
        return delta
    if isinstance(module, LayerScale):
        return inputs * delta
    wide = torch.promote_types(inputs.dtype, torch.float32)
    return layer_norm(inputs.to(wide), module.normalized_shape, eps=module.eps) * delta


def _embedded_tokens(vit: VisionTransformer, name: str) -> slice:
    """Where a parameter of the embedding lies among the tokens: class, registers, patches."""
    prefix = vit.num_prefix_tokens
    registers = vit.num_reg_tokens
    if name == "cls_token":
        return slice(0, 1)
    if name == "reg_token":
        return slice(prefix - registers, prefix)
    return slice(prefix if vit.no_embed_class else 0, None)


def _patches(module: nn.Conv2d, images: Tensor) -> Tensor:
    """What each output of a convolution sees: (samples, places, in)."""
    window = module.dilation, module.padding, module.stride
    return unfold(images, module.kernel_size, *window).mT


def _is_chosen(only: tuple[str, ...], name: str) -> bool:
    return any(one == "" or name == one or name.startswith(f"{one}.") for one in only)


def _layers(prefix: str, root: nn.Module, chosen: Callable[[str], bool]) -> Iterator[_Layer]:
    for name, module in root.named_modules(prefix=prefix):
        trainable = [
            key
            for key, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and chosen(f"{name}.{key}" if name else key)
        ]
        if module._compiled_call_impl is not None:  # hooks inside would silently not run
            raise ValueError(
                f"gradient_moments: {name or 'the module'} must be eager, got a compiled one. "
                "Keep the eager model and watch that one: both share their parameters."
            )
        if trainable and not _is_known(module, trainable):
            raise ValueError(
                f"gradient_moments: {name or 'the module'} must be a Linear, LayerNorm, "
                "LayerScale (not in place), Conv2d (one group, zero padding) or a ViT of fixed "
                f"size, got {type(module).__name__} with {', '.join(trainable)}. "
                "Freeze it or leave it out."
            )
        if trainable and "forward" in vars(module):
            raise ValueError(
                f"gradient_moments: {name or 'the module'} must run the forward of its class, got "
                "one that was put over it. Take it off, or leave the layer out."
            )
        if trainable:
            yield _Layer(name, module, trainable)


def _is_known(module: nn.Module, trainable: list[str]) -> bool:
    if isinstance(module, VisionTransformer):
        return not module.dynamic_img_size and set(trainable) <= set(EMBEDDING)
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and module.padding_mode == "zeros"
        if not plain or isinstance(module.padding, str):
            return False
    own = MEASURED.get(type(module), ())
    return set(trainable) <= set(own) and not getattr(module, "inplace", False)
