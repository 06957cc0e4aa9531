"""timm's LayerScale: a token's gradient is its input times ``delta``."""

from jaxtyping import Float
from torch import Tensor, nn

from rectify.gsnr.contract import TokenWise


class LayerScale(TokenWise):
    """``gamma``; a scale in place overwrites the input that its gradient needs."""

    modules = ("timm.layers.layer_scale.LayerScale",)
    title = "LayerScale (not in place)"
    parameters = ("gamma",)
    is_only_way = True

    def accepts(self, module: nn.Module) -> bool:
        return not module.inplace

    def by_token(
        self,
        module: nn.Module,
        name: str,
        inputs: Float[Tensor, " samples *features"],
        delta: Float[Tensor, " samples *features"],
    ) -> Float[Tensor, " samples *features"]:
        return inputs * delta
