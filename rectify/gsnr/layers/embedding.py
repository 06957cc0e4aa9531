"""Embeddings: a row's gradient in a sample is the sum of ``delta`` where the sample looks it up.

A batch looks up few of the rows, so sums are formed by pair of sample and row, of which there are
no more than tokens.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rectify.gsnr.contract import LayerType, Sums


class Embedding(LayerType):
    """``weight`` of an embedding whose rows are looked up as they are.

    The first axis of the indices must be the samples. Positions that all samples share are not
    samples; they are refused for their number, unless that is the number of samples by chance.
    """

    modules = (nn.Embedding,)
    title = "Embedding (not sparse, without max_norm and scale_grad_by_freq)"
    parameters = ("weight",)

    def accepts(self, module: nn.Embedding) -> bool:
        return not (module.sparse or module.max_norm is not None or module.scale_grad_by_freq)

    def sums(
        self,
        module: nn.Embedding,
        name: str,
        inputs: Int[Tensor, " samples *tokens"],
        delta: Float[Tensor, "samples *tokens dim"],
    ) -> Sums:
        weight, rows = module.weight, inputs.flatten().long()
        samples = torch.arange(len(inputs), device=rows.device).repeat_interleave(
            len(rows) // len(inputs)
        )
        pairs, pair_of_token = torch.unique(samples * len(weight) + rows, return_inverse=True)
        wide = torch.promote_types(weight.dtype, torch.float32)
        gradients = torch.zeros(len(pairs), weight.shape[1], dtype=wide, device=rows.device)
        gradients.index_add_(0, pair_of_token, delta.reshape(len(rows), -1).to(wide))
        row_of_pair = pairs % len(weight)
        if module.padding_idx is not None:  # it gets no gradient
            gradients[row_of_pair == module.padding_idx] = 0
        total, squares = torch.zeros(2, *weight.shape, dtype=wide, device=rows.device)
        total.index_add_(0, row_of_pair, gradients)
        squares.index_add_(0, row_of_pair, gradients.square())
        return Sums(total, squares)
