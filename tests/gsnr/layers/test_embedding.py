"""Embeddings: against a loop over samples."""

import pytest
import torch
from torch import nn

from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import BOTH_MODES, SAMPLES, Means, assert_close, loop, per_sample

LABELS = torch.arange(SAMPLES) % 3


def drawn_rows(*tokens: int) -> torch.Tensor:
    return torch.randint(7, (SAMPLES, *tokens), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("tokens", [(), (1,), (20,), (2, 9)])  # 20 of 7 rows: some twice
@pytest.mark.parametrize("options", [{}, {"padding_idx": 4}])
def test_embeddings_are_measured(tokens: tuple[int, ...], options: dict) -> None:
    model, rows = Means(nn.Embedding(9, 3, **options)), drawn_rows(*tokens)
    moments = gradient_moments(model, rows, LABELS, per_sample, model)
    assert_close(moments, loop(model, rows, LABELS, per_sample, part=""), 1e-10)
    assert moments["layer.weight"].variance[7:].eq(0).all()  # looked up by no sample


@BOTH_MODES
def test_half_precision_rows_of_32_bit_numbers_are_summed_in_float32(mode: str) -> None:
    model, rows = Means(nn.Embedding(9, 3)), drawn_rows(20).int()
    model.bfloat16().double()  # the same weights
    expected = loop(model, rows, LABELS, per_sample, part="")
    watched = GradientMoments(model.bfloat16(), mode)
    with watched:
        per_sample(model(rows).double(), LABELS).mean().backward()
    assert watched.moments()["layer.weight"].mean.dtype == torch.float32
    assert_close(watched.moments(), expected, 0.02)


@pytest.mark.parametrize("options", [{"sparse": True}, {"max_norm": 1}, {"scale_grad_by_freq": 1}])
def test_other_embeddings_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"Embedding \(not sparse.*got Embedding with weight"):
        GradientMoments(nn.Embedding(9, 3, **options))
