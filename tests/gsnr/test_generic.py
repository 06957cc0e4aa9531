"""The generic way: any module that treats samples apart, against a loop over samples."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rectify.gsnr import calls
from rectify.gsnr.links import Links
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import (
    BOTH_MODES,
    SAMPLES,
    assert_agreement,
    assert_close,
    gradients,
    loop,
    numbers,
    per_sample,
)

LABELS = torch.arange(SAMPLES) % 3


class Run(nn.Module):
    """A layer called in some way; the outputs are means of squares over all but the samples."""

    def __init__(self, layer: nn.Module, run: Callable | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.run = layer, run or (lambda layer, values: layer(values))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn_like(parameter) / 2)
        self.double()

    def forward(self, values: Tensor) -> Tensor:
        outputs = self.run(self.layer, values).flatten(1)
        return torch.stack([part.square().mean(1) for part in outputs.chunk(3, 1)], 1)


class Scaled(nn.Module):
    """Parameters of its own beside a layer's, a token for all, and an input that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.token = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(1, 1, 8))
        self.line = nn.Linear(8, 8)

    def forward(self, values: Tensor, *, shift: Tensor) -> dict[str, Tensor | str]:
        tokens = torch.cat([self.token.expand(len(values), -1, -1), values], 1)
        outputs = self.line(tokens * self.scale + shift).tanh()
        return {
            "kind": "dict",
            "tokens": outputs,
            "unused": outputs.detach(),
            "first": tokens[:, 0],
        }


def first(layer: nn.Module, values: Tensor) -> Tensor:
    return layer(values)[0]


def sequence_first(layer: nn.Module, values: Tensor) -> Tensor:
    outputs = layer(values.transpose(0, 1))
    return (outputs[0] if isinstance(outputs, tuple) else outputs).transpose(0, 1)


def attended(layer: nn.Module, values: Tensor) -> Tensor:
    """Six tokens for six samples: the mask must not be taken for one row per sample."""
    values = torch.cat([values, values[:, :1]], 1)
    causal = torch.ones(SAMPLES, SAMPLES).triu(1).bool()
    if not layer.batch_first:
        values = values.transpose(0, 1)
    outputs, _ = layer(values, values, values, attn_mask=causal, need_weights=False)
    return outputs if layer.batch_first else outputs.transpose(0, 1)


def padded(layer: nn.Module, values: Tensor) -> Tensor:
    """The padding follows from the values, so that it is each sample's own."""
    padding = values[:, :, 0] > 1
    padding[:, 0] = False
    if not layer.self_attn.batch_first:
        return layer(values.transpose(0, 1), src_key_padding_mask=padding).transpose(0, 1)
    return layer(values, src_key_padding_mask=padding)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "prelu": lambda: Run(nn.PReLU(5)),
    "bilinear": lambda: Run(nn.Bilinear(8, 8, 4), lambda layer, x: layer(x, x.tanh())),
    "transposed convolution": lambda: Run(nn.ConvTranspose1d(5, 4, 3, stride=2, groups=1)),
    "grouped transposed convolution": lambda: Run(nn.ConvTranspose1d(5, 10, 3, groups=5)),
    "weight norm": lambda: Run(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))),
    "attention": lambda: Run(nn.MultiheadAttention(8, 2, batch_first=True), attended),
    "attention, tokens first": lambda: Run(nn.MultiheadAttention(8, 2), attended),
    "attention with weights": lambda: Run(
        nn.MultiheadAttention(8, 2, batch_first=True, bias=False),
        lambda layer, x: torch.cat([part.flatten(1) for part in layer(x, x, x)], 1),
    ),
    "attention with weights, tokens first": lambda: Run(
        nn.MultiheadAttention(8, 2, add_bias_kv=True),
        lambda layer, x: layer(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1),
    ),
    "encoder layer": lambda: Run(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), padded
    ),
    "encoder layer, tokens first": lambda: Run(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), padded
    ),
    "encoder layer in eval mode": lambda: Run(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), padded
    ).eval(),
    "encoder, tokens first": lambda: Run(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16), 2, nn.LayerNorm(8), enable_nested_tensor=False
        ),
        sequence_first,
    ).eval(),
    "transformer": lambda: Run(
        nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True),
        lambda layer, x: layer(x, x[:, 1:]),
    ),
    "lstm": lambda: Run(nn.LSTM(8, 4, 2, batch_first=True), first),
    "lstm, tokens first": lambda: Run(nn.LSTM(8, 4, proj_size=2), sequence_first),
    "last state of an lstm": lambda: Run(
        nn.LSTM(8, 6, batch_first=True), lambda layer, x: layer(x)[1][1].transpose(0, 1)
    ),
    "gru": lambda: Run(nn.GRU(8, 4, bidirectional=True), sequence_first),
    "own parameters": lambda: Run(
        Scaled(),
        lambda layer, x: torch.cat(
            [layer(x, shift=torch.ones(1, 6, 8))[key].flatten(1) for key in ("tokens",)], 1
        ),
    ),
    "own parameters, two outputs": lambda: Run(
        Scaled(), lambda layer, x: (lambda y: y["tokens"][:, 1:] + y["first"][:, None])(
            layer(x, shift=torch.ones(6, 8))
        )
    ),
}  # fmt: skip


@BOTH_MODES
@pytest.mark.parametrize("name", MODELS)
def test_a_module_is_measured_exactly(name: str, mode: str) -> None:
    model, inputs = MODELS[name](), numbers(5, 8)
    expected = loop(model, inputs, LABELS, per_sample, part="")
    watched = GradientMoments(model, mode)
    assert watched.generic
    with watched:
        per_sample(model(inputs), LABELS).mean().backward()
    assert_close(found := watched.moments(), expected, 1e-9)
    assert {own.samples for own in found.values()} == {SAMPLES}
    trained = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    per_sample(model(inputs), LABELS).mean().backward()
    for name, parameter in model.named_parameters():
        difference = (parameter.grad - trained[name]).abs().max()
        assert difference <= (0 if mode == "observe" else 1e-12), name


@pytest.mark.parametrize("origins", [[[0, 5], [1, 4], [2, 3]] * 2, [[0], [0], [0], [1], [1], [2]]])
@pytest.mark.parametrize("name", ["prelu", "own parameters", "lstm, tokens first"])
def test_the_agreement_of_linked_samples(name: str, origins: list[list[int]]) -> None:
    model, inputs, made_from = MODELS[name](), numbers(5, 8), torch.tensor(origins)
    stacks = gradients(model, inputs, LABELS, per_sample, "")
    found = gradient_moments(model, inputs, LABELS, per_sample, model, made_from)
    assert_agreement(found, stacks, made_from, 1e-9)


def test_small_chunks_and_a_plain_loop_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = MODELS["own parameters"](), numbers(5, 8)
    expected = loop(model, inputs, LABELS, per_sample, part="")
    monkeypatch.setattr("rectify.gsnr.generic.SCRATCH_BYTES", 1)
    assert_close(gradient_moments(model, inputs, LABELS, per_sample, model), expected, 1e-10)

    def cannot(*_: object, **__: object) -> None:
        raise RuntimeError("cannot be mapped")

    monkeypatch.setattr(calls, "vmap", cannot)
    assert_close(gradient_moments(model, inputs, LABELS, per_sample, model), expected, 1e-10)


class Recomputed(Scaled):
    """Recomputes what is inside of it."""

    def forward(self, values: Tensor, *, shift: Tensor) -> Tensor:
        def run(values: Tensor) -> Tensor:
            return self.line(values * self.scale).tanh()

        return checkpoint(run, values + self.token + shift, use_reentrant=False)


def recomputed(layer: nn.Module, values: Tensor) -> Tensor:
    def run(values: Tensor) -> Tensor:
        return layer(values, shift=torch.ones(8))["tokens"]

    return checkpoint(run, values, use_reentrant=False)


def test_modules_that_are_recomputed_or_recompute_are_measured() -> None:
    inside = Run(Recomputed(), lambda layer, x: layer(x, shift=torch.ones(8)))
    for model in (Run(Scaled(), recomputed), inside):
        expected = loop(model, numbers(5, 8), LABELS, per_sample, part="")
        found = gradient_moments(model, numbers(5, 8), LABELS, per_sample, model)
        assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("links", [None, torch.tensor([[0], [0], [1], [2], [3], [3]])])
def test_dropout_is_measured_with_the_masks_that_were_drawn(links: Tensor | None) -> None:
    """One graph for all samples is the oracle: each keeps its mask."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.3)
    model, inputs = Run(layer).train(), numbers(5, 8)

    def losses() -> Tensor:
        torch.manual_seed(3)
        return per_sample(model(inputs), LABELS)

    named = dict(model.named_parameters())
    stacks = {name: [] for name in named}
    for i in range(SAMPLES):
        own = torch.autograd.grad(losses()[i], list(named.values()))
        for name, gradient in zip(named, own, strict=True):
            stacks[name].append(gradient)
    watched = GradientMoments(model, links=None if links is None else Links(links))
    with watched:
        losses().mean().backward()
    after = torch.rand(1)
    expected = {name: torch.stack(own) for name, own in stacks.items()}
    assert_close(
        watched.moments(), {n: (g.mean(0), g.var(0, correction=0)) for n, g in expected.items()},
        1e-10,
    )  # fmt: skip
    if links is not None:
        assert_agreement(watched.moments(), expected, links, 1e-10)
    losses()
    assert torch.equal(after, torch.rand(1))  # measuring draws nothing


def test_masks_that_cannot_be_drawn_again_are_refused_by_name() -> None:
    model = Run(nn.GRU(8, 8, 2, dropout=0.4), sequence_first)
    watched = GradientMoments(model)
    with watched:
        per_sample(model(numbers(5, 8)), LABELS).mean().backward()
    with pytest.raises(ValueError, match=r"layer must give .* random numbers .* Call eval\(\)"):
        watched.moments()
    model.eval()
    assert gradient_moments(model, numbers(5, 8), LABELS, per_sample, model)


class Odd(nn.Module):
    """A scale, and something that is not right."""

    def __init__(self, run: Callable) -> None:
        super().__init__()
        self.scale, self.run = nn.Parameter(torch.ones(8)), run

    def forward(self, values: Tensor) -> Tensor:
        return self.run(values, self.scale)


REFUSED: dict[str, tuple[Callable, str]] = {
    "mean": (lambda x, s: (x - x.mean(0)) * s, "it mixes samples"),
    "order": (lambda x, s: x.flip(0) * s, "it mixes samples"),
    "sum": (lambda x, s: (x * s).sum(), r"an entry for each, got 6 in and \(\) out"),
    "folds": (lambda x, s: x.flatten(0, 1) * s, r"an entry for each, got 6 in and \(30, 8\) out"),
    "in place": (lambda x, s: x.mul_(s), "an input that was changed in place"),
    "draws": (lambda x, s: x * s * torch.rand(1), "random numbers that cannot be repeated"),
    "counts": (lambda x, s: (x * s).view(6, 5, 8), "on one sample alone, got: shape '.6, 5, 8.' "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_repeated_sample_by_sample_is_refused(name: str) -> None:
    run, said = REFUSED[name]
    model = Odd(run).double()
    watched = GradientMoments({"odd": model})
    with watched:
        model(numbers(5, 8)).square().mean().backward()
    with pytest.raises(ValueError, match=f"gradient_moments: odd must .*{said}"):
        watched.moments()


def test_what_is_refused_can_be_skipped() -> None:
    model = nn.Sequential(Odd(REFUSED["order"][0]), nn.Linear(8, 3)).double()
    watched = GradientMoments(model, unsupported="skip")
    for _ in range(2):
        with watched:
            model(numbers(5, 8)).square().mean().backward()
        assert set(watched.moments()) == {"1.weight", "1.bias"}
        assert list(watched.skipped) == ["0"]
        assert "it mixes samples" in watched.skipped["0"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    model, inputs = MODELS["own parameters"](), numbers(5, 8).to(dtype)
    model.to(dtype).double()
    expected = loop(model, inputs.double(), LABELS, per_sample, part="")
    model.to(dtype)
    model.run = lambda layer, x: layer(x, shift=torch.ones(8, dtype=dtype))["tokens"]
    found = gradient_moments(model, inputs, LABELS, lambda y, t: per_sample(y.double(), t), model)
    assert {own.mean.dtype for own in found.values()} == {torch.float32}
    for name, (mean, variance) in expected.items():
        assert (found[name].mean - mean).norm() <= 0.1 * mean.norm() + 1e-3, name
        assert (found[name].variance - variance).norm() <= 0.15 * variance.norm() + 1e-6, name


def test_autocast_measures_the_gradient_that_it_trains_with() -> None:
    model = MODELS["encoder layer"]().float()
    watched = GradientMoments(model)
    with watched:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = per_sample(model(numbers(5, 8).float()), LABELS)
        losses.mean().backward()
    for name, parameter in model.named_parameters():
        own = watched.moments()[name]
        assert (own.mean - parameter.grad).norm() <= 0.03 * parameter.grad.norm() + 1e-4, name
