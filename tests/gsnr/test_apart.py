"""Losses and layers that mix samples are refused, in the context and for a single batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    normalize,
)
from torch.utils.checkpoint import checkpoint

from rectify.gsnr.apart import Apart, Tapped, _reached
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from rectify.gsnr.observer import GsnrObserver
from tests.helpers.moments import BOTH_MODES, Pieces, assert_close, loop, per_sample

DRAWS = torch.Generator().manual_seed(5)
INPUTS = torch.randn(8, 5, generator=DRAWS, dtype=torch.float64)
TARGETS = torch.randn(8, 4, generator=DRAWS, dtype=torch.float64)
LABELS = torch.arange(8) % 4
MIXED = r"must treat each sample apart up to the loss, got a gradient from other samples' losses"


class Centred(nn.Module):
    """Takes the mean of the batch off."""

    def forward(self, values: Tensor) -> Tensor:
        return values - values.mean(0)


def network(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), *between, nn.Linear(6, 4)).double()


def of_pairs(similarity: Tensor) -> Tensor:
    own = torch.arange(len(similarity))
    return per_sample(similarity, own) + per_sample(similarity.T, own)


def clip(outputs: Tensor, _: Tensor) -> Tensor:
    """Both directions, against texts that are fixed: images still compete for a text."""
    return of_pairs(4 * normalize(outputs) @ normalize(TARGETS).T)


def simclr(outputs: Tensor, _: Tensor) -> Tensor:
    vectors = normalize(outputs)
    similarity = vectors @ vectors.T - 100 * torch.eye(8)
    return per_sample(similarity, torch.arange(8).roll(4))


def views(outputs: Tensor, _: Tensor) -> Tensor:
    """Only two samples each meet: those four apart."""
    return (outputs - outputs.roll(4, 0)).square().sum(1)


def neighbours(outputs: Tensor, _: Tensor) -> Tensor:
    return (outputs - outputs.unflatten(0, (4, 2)).flip(1).flatten(0, 1)).square().sum(1)


def one_way(outputs: Tensor, _: Tensor) -> Tensor:
    """Each image chooses among fixed texts."""
    return per_sample(normalize(outputs) @ normalize(TARGETS).T, torch.arange(8)[: len(outputs)])


@BOTH_MODES
@pytest.mark.parametrize("criterion", [clip, simclr, views, neighbours])
def test_losses_that_mix_samples_are_refused(criterion: Callable, mode: str) -> None:
    model = network(nn.Tanh())
    with pytest.raises(ValueError, match=MIXED):
        gradient_moments(model, INPUTS, LABELS, criterion, model)
    watched = GradientMoments(model, mode)
    for _ in range(2):  # also when tried again
        with pytest.raises(ValueError, match=f"2 {MIXED}"), watched:
            criterion(model(INPUTS), LABELS).mean().backward()
        assert model[0].weight.grad is None
    observer = GsnrObserver({"line": model[0]}, 1, mode=mode)
    with pytest.raises(ValueError, match=f"line {MIXED}"), observer.watch():
        criterion(model(INPUTS), LABELS).mean().backward()


@BOTH_MODES
@pytest.mark.parametrize("between", [Centred(), nn.BatchNorm1d(6, affine=False), nn.BatchNorm1d(6)])
def test_layers_that_mix_samples_are_refused(between: nn.Module, mode: str) -> None:
    model = network(between)
    is_norm = isinstance(between, nn.BatchNorm1d)
    with pytest.raises(ValueError, match="1 must treat each sample sep" if is_norm else MIXED):
        gradient_moments(model, INPUTS, LABELS, per_sample, model)
    for loss in (cross_entropy, lambda outputs, _: outputs[:, 0].mean()):  # also a linear one
        watched = GradientMoments({"first": model[0], "last": model[2]}, mode)
        with pytest.raises(ValueError, match=f"first {MIXED}"), watched:
            loss(model(INPUTS), LABELS).backward()


def test_a_layer_behind_one_that_mixes_is_refused_for_a_single_batch() -> None:
    """Its gradient depends on the other inputs, so it is not that of a sample alone."""
    model = network(Centred())
    with pytest.raises(ValueError, match=MIXED):
        gradient_moments(model, INPUTS, LABELS, per_sample, ["2"])


def test_layers_before_one_that_mixes_can_be_skipped() -> None:
    model = network(Centred())
    watched = GradientMoments(model, unsupported="skip")
    for _ in range(2):  # the second pass is not looked at, and skips them too
        with watched:
            cross_entropy(model(INPUTS), LABELS).backward()
        assert set(watched.moments()) == {"2.weight", "2.bias"}
        assert list(watched.skipped) == ["0"]


def test_a_loss_against_fixed_texts_is_measured() -> None:
    model = network(nn.Tanh())
    found = gradient_moments(model, INPUTS, LABELS, one_way, model)
    stacks: dict[str, list[Tensor]] = {}
    for i in range(8):
        gradients = torch.autograd.grad(one_way(model(INPUTS), LABELS)[i], list(model.parameters()))
        for (name, _), own in zip(model.named_parameters(), gradients, strict=True):
            stacks.setdefault(name, []).append(own)
    expected = {name: torch.stack(own) for name, own in stacks.items()}
    moments = {name: (own.mean(0), own.var(0, correction=0)) for name, own in expected.items()}
    assert_close(found, moments, 1e-10)


WEIGHT = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
OF_ONE_SAMPLE: dict[str, tuple[Callable, Callable]] = {
    "mean": (lambda y, t: cross_entropy(y, t), per_sample),
    "sum": (lambda y, t: cross_entropy(y, t, reduction="sum") / 8, per_sample),
    "smooth": (
        lambda y, t: cross_entropy(y, t, label_smoothing=0.1),
        lambda y, t: cross_entropy(y, t, label_smoothing=0.1, reduction="none"),
    ),
    "learned": (lambda y, t: WEIGHT.exp() * per_sample(y, t).mean(),
                lambda y, t: WEIGHT.exp() * per_sample(y, t)),
    "two": (lambda y, t: cross_entropy(y, t) + 0.1 * y.square().mean(),
            lambda y, t: per_sample(y, t) + 0.1 * y.square().mean(1)),
    "mse": (lambda y, t: mse_loss(y, nn.functional.one_hot(t, 4).double()),
            lambda y, t: (y - nn.functional.one_hot(t, 4)).square().mean(1)),
    "bce": (
        lambda y, t: binary_cross_entropy_with_logits(y, nn.functional.one_hot(t, 4).double()),
        lambda y, t: binary_cross_entropy_with_logits(
            y, nn.functional.one_hot(t, 4).double(), reduction="none"
        ).mean(1),
    ),
}  # fmt: skip


@BOTH_MODES
@pytest.mark.parametrize("kind", OF_ONE_SAMPLE)
def test_means_of_the_samples_losses_are_measured(kind: str, mode: str) -> None:
    model, (loss, losses) = network(nn.Tanh()), OF_ONE_SAMPLE[kind]
    watched = GradientMoments(model, mode)
    with watched:
        loss(model(INPUTS), LABELS).backward()
    assert_close(watched.moments(), loop(model, INPUTS, LABELS, losses, part=""), 1e-10)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda losses: losses.logsumexp(0), "LogsumexpBackward0"),
        (lambda losses: losses.mean().log(), "LogBackward0"),
        (lambda losses: losses.mean() * losses.sum(), "MulBackward0"),
        (lambda losses: losses.topk(3).values.mean(), None),  # the samples that it takes are less
    ],
)
def test_losses_that_are_no_mean_are_refused(loss: Callable, said: str | None) -> None:
    model = network(nn.Tanh())
    text = rf"the loss must be the mean of a loss for each of 8 samples, got {said or '.*'} of all"
    with pytest.raises(ValueError, match=text), GradientMoments(model):
        loss(per_sample(model(INPUTS), LABELS)).backward()


# --- tokens and folded batches ---

WORDS = torch.randn(8, 7, 5, generator=DRAWS, dtype=torch.float64)
NEXT = torch.randint(4, (8, 7), generator=DRAWS)


def of_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, 1), targets.flatten())


def test_a_mean_over_the_tokens_is_measured_per_sample() -> None:
    model = network(nn.Tanh())
    watched = GradientMoments(model)
    with watched:
        of_tokens(model(WORDS), NEXT).backward()

    def of_one(outputs: Tensor, targets: Tensor) -> Tensor:
        return per_sample(outputs.mT, targets).mean(1)

    assert_close(watched.moments(), loop(model, WORDS, NEXT, of_one, part=""), 1e-10)


def test_a_mean_over_tokens_of_samples_of_different_length_is_refused() -> None:
    model, targets = network(nn.Tanh()), NEXT.clone()
    targets[2, 4:] = -100
    with (
        pytest.raises(ValueError, match=r"the loss must weigh each sample the same, got a mean ov"),
        GradientMoments(model),
    ):
        of_tokens(model(WORDS), targets).backward()
    with pytest.raises(ValueError, match=r"criterion must return 8 losses.*tokens of a sample"):
        gradient_moments(model, WORDS, NEXT, of_tokens, model)


class Folding(nn.Module):
    """Makes a sample of each token, as if they were independent."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(nn.Tanh())

    def forward(self, words: Tensor) -> Tensor:
        return self.inner(words.flatten(0, 1))


@BOTH_MODES
def test_a_batch_that_the_model_folds_is_refused(mode: str) -> None:
    model, watched = Folding(), None
    for watched in (GradientMoments(model, mode), GradientMoments({"a": model}, mode)):
        with watched:
            cross_entropy(model(WORDS), NEXT.flatten()).backward()
        with pytest.raises(ValueError, match=r"inner\.0 must run once .* of 56 of 8.* folds the b"):
            watched.moments()
    with pytest.raises(ValueError, match=r"inner\.0 must run once .* gradients of 56 of 8"):
        gradient_moments(
            model, WORDS, NEXT,
            lambda y, t: per_sample(y, t.flatten()).unflatten(0, (8, 7)).mean(1), model,
        )  # fmt: skip


def test_a_part_that_is_folded_can_be_skipped_or_measured_as_one() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(5, 5), network(nn.Tanh()), nn.Linear(4, 4)

        def forward(self, words: Tensor) -> Tensor:
            tokens = self.first(words)
            return self.last(self.inner(tokens.flatten(0, 1)).unflatten(0, (-1, 7)).mean(1))

    model = Partly().double()
    expected = loop(model, WORDS, LABELS, per_sample, part="")
    watched = GradientMoments(model, unsupported="skip")
    for _ in range(2):
        with watched:
            cross_entropy(model(WORDS), LABELS).backward()
        outer = {name: own for name, own in expected.items() if "inner" not in name}
        assert_close(watched.moments(), outer, 1e-10)
        assert set(watched.skipped) == {"inner.0", "inner.2"}
    with GradientMoments(model, unsupported="skip") as skipping:
        clip(model(WORDS), LABELS).mean().backward()
    with pytest.raises(ValueError, match=f"first {MIXED}"):  # it was looked at all the same
        skipping.moments()
    found = gradient_moments(model, WORDS, LABELS, per_sample, "", whole=[""])
    assert_close(found, expected, 1e-10)
    with pytest.raises(ValueError, match=r"whole must name modules, or be patterns .* got 'inn'"):
        GradientMoments(model, whole=["inn"])


# --- how it looks ---


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    looks: list[int] = []
    look = Apart._look

    def counted(self: Apart, *args: object) -> None:
        looks.append(1)
        look(self, *args)

    monkeypatch.setattr(Apart, "_look", counted)
    return looks


def test_it_looks_once_and_puts_torch_back(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, model = counting(monkeypatch), network(nn.Tanh())
    before = torch.autograd.backward, torch.autograd.grad
    watched = GradientMoments(model)
    for _ in range(3):
        with watched:
            cross_entropy(model(INPUTS), LABELS).backward()
        watched.moments()
        assert (torch.autograd.backward, torch.autograd.grad) == before
    assert len(looks) == 1
    with pytest.raises(KeyError), GradientMoments(model):
        raise KeyError
    assert (torch.autograd.backward, torch.autograd.grad) == before


def test_a_gradient_that_is_not_finite_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, model = counting(monkeypatch), network(nn.Tanh())
    watched = GradientMoments(model)
    for factor in (torch.inf, 1.0, 1.0):
        with watched:
            (factor * cross_entropy(model(INPUTS), LABELS)).backward()
        watched.moments()
    assert len(looks) == 2


STARTS: list[Callable[[Tensor, nn.Module], object]] = [
    lambda loss, model: loss.backward(),
    lambda loss, model: torch.autograd.backward([loss]),
    lambda loss, model: loss.backward(torch.ones_like(loss)),
    lambda loss, model: torch.autograd.grad(loss, list(model.parameters())),
]


@pytest.mark.parametrize("start", STARTS)
def test_a_backward_pass_is_seen_however_it_starts(start: Callable) -> None:
    model = network(nn.Tanh())
    watched = GradientMoments(model)
    with watched:
        start(cross_entropy(model(INPUTS), LABELS), model)
    assert_close(watched.moments(), loop(model, INPUTS, LABELS, per_sample, part=""), 1e-10)
    with pytest.raises(ValueError, match=MIXED), GradientMoments(model):
        start(clip(model(INPUTS), LABELS).mean(), model)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_layers_are_seen(reentrant: bool) -> None:
    def run(first: nn.Module, second: nn.Module, values: Tensor) -> Tensor:
        part = nn.Sequential(first, Centred(), second)
        return checkpoint(part, values, use_reentrant=reentrant)

    model, values = Pieces(run), INPUTS.clone().requires_grad_()
    with pytest.raises(ValueError, match=f"first {MIXED}"), GradientMoments(model):
        cross_entropy(model(values), LABELS).backward()


def test_a_layer_before_a_reentrant_checkpoint_is_refused() -> None:
    model = Pieces(lambda first, second, x: checkpoint(second, first(x), use_reentrant=True))
    watched = GradientMoments(model)
    with watched:
        cross_entropy(model(INPUTS), LABELS).backward()
    with pytest.raises(ValueError, match=r"first must be reached by .* use_reentrant=False"):
        watched.moments()


def test_several_backward_passes_in_one_context_are_refused_in_words() -> None:
    model = network(nn.Tanh())
    watched = GradientMoments(model)
    with watched:
        for inputs, labels in zip(INPUTS.chunk(2), LABELS.chunk(2), strict=True):
            (cross_entropy(model(inputs), labels) / 2).backward()
    with pytest.raises(ValueError, match=r"one backward pass at a time, got 2\. Enter .*merged\."):
        watched.moments()


def test_what_reaches_the_layers_is_looked_at_without_being_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients at all layers at once would take as much memory as the activations again."""
    asked, before = [], torch.autograd.grad

    def counted(outputs: object, inputs: object, *args: object, **kwargs: object) -> tuple:
        asked.append(len(inputs))
        return before(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    model = network(*(layer for _ in range(5) for layer in (nn.Tanh(), nn.Linear(6, 6))))
    watched = GradientMoments(model)
    with watched:
        cross_entropy(model(INPUTS), LABELS).backward()
    watched.moments()
    assert asked
    assert set(asked) == {1}


def test_the_size_of_each_gradient_is_that_of_all_gradients_at_once() -> None:
    """Where layers run one after the other and next to each other."""
    torch.manual_seed(0)
    first, left, right, last = (nn.Linear(5, 5).double() for _ in range(4))
    start = first(INPUTS)
    sides = left(start), right(start).tanh()
    outputs = [start, *sides, last(sides[0] * sides[1] + start)]
    below = [Tapped(f"{n}", get_gradient_edge(one), 0, 8) for n, one in enumerate(outputs)]
    edge, part = get_gradient_edge(outputs[-1].square()), torch.randn(8, 5, dtype=torch.float64)
    exact = torch.autograd.grad([edge], outputs, [part], retain_graph=True)
    found = _reached([edge], [part], below, 8, torch.autograd.grad)
    assert [one.name for one, _ in found] == ["0", "1", "2", "3"]
    for (_, sizes), gradient in zip(found, exact, strict=True):
        assert torch.equal(sizes, gradient.abs().amax(1))
