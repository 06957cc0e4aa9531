"""Linear layers of GPT-2, whose weight is stored the other way round."""

from jaxtyping import Float
from torch import Tensor, nn

from rectify.gsnr.contract import LayerType, Sums, sums_of_products, sums_of_tokens
from rectify.gsnr.layers.linear import Linear
from rectify.gsnr.links import Links


class TransposedLinear(LayerType):
    """``weight``, (dim_in, dim_out), and ``bias`` of the ``Conv1D`` of transformers."""

    modules = ("transformers.pytorch_utils.Conv1D",)
    title = "Conv1D of transformers"
    parameters = ("weight", "bias")
    is_autocast = True

    def sums(
        self,
        module: nn.Module,
        name: str,
        inputs: Float[Tensor, "samples *tokens dim_in"],
        delta: Float[Tensor, "samples *tokens dim_out"],
        links: Links | None,
    ) -> Sums:
        if name == "bias":
            return sums_of_tokens(delta, module.bias, links)
        return sums_of_products(delta, inputs.to(delta.dtype), module.weight, links)

    norms_of_sets = Linear.norms_of_sets
