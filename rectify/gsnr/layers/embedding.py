"""Embeddings: a row's gradient in a sample is the sum of ``delta`` where the sample looks it up.

A batch looks up few of the rows, so squares are formed by pair of sample and row, of which there
are no more than tokens. How many there are is not asked: a device would be waited for.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from rectify.gsnr.contract import LayerType, Sums
from rectify.gsnr.links import Links


class Embedding(LayerType):
    """``weight`` of an embedding whose rows are looked up as they are.

    The first axis of the indices must be the samples. Positions that all samples share are not
    samples; they are refused for their number, unless that is the number of samples by chance.
    """

    modules = (nn.Embedding,)
    title = "Embedding (not sparse, without max_norm and scale_grad_by_freq)"
    parameters = ("weight",)
    is_only_way = True

    def accepts(self, module: nn.Embedding) -> bool:
        return not (module.sparse or module.max_norm is not None or module.scale_grad_by_freq)

    def sums(
        self,
        module: nn.Embedding,
        name: str,
        inputs: Int[Tensor, " samples *tokens"],
        delta: Float[Tensor, "samples *tokens dim"],
        links: Links | None,
    ) -> Sums:
        rows = inputs.reshape(len(inputs), -1).long()
        wide = torch.promote_types(module.weight.dtype, torch.float32)
        by_token = delta.reshape(*rows.shape, -1).to(wide)
        if module.padding_idx is not None:  # it gets no gradient
            by_token = by_token.masked_fill((rows == module.padding_idx)[..., None], 0)
        total = torch.zeros_like(module.weight, dtype=wide)
        total.index_add_(0, rows.flatten(), by_token.flatten(0, 1))
        squares = _squares(total, rows, by_token)
        if links is None:
            return Sums(total, squares)
        sets = (
            weight * _squares(total, *folded) for weight, folded in links.folded(rows, by_token)
        )
        return Sums(total, squares, sum(sets))


def _squares(
    weight: Float[Tensor, "rows dim"],
    rows: Int[Tensor, "samples tokens"],
    by_token: Float[Tensor, "samples tokens dim"],
) -> Float[Tensor, "rows dim"]:
    """Return the squares of each sample's gradient of ``weight``, summed over the samples."""
    sorted_rows, order = rows.sort(1)
    is_next = sorted_rows[:, 1:] != sorted_rows[:, :-1]  # another row than the token before
    pairs = pad(is_next.cumsum(1), (1, 0))[..., None].expand_as(by_token)  # from 0 in each sample
    of_sorted = by_token.take_along_dim(order[..., None], 1)
    gradients = torch.zeros_like(by_token).scatter_add_(1, pairs, of_sorted)
    row_of_pair = torch.zeros_like(rows).scatter_(1, pairs[..., 0], sorted_rows)  # 0 where none is
    squares = gradients.square().flatten(0, 1)
    return torch.zeros_like(weight).index_add_(0, row_of_pair.flatten(), squares)
