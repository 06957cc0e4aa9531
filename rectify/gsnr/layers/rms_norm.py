"""RMS norms: a token's gradient is its scaled input times ``delta``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from rectify.gsnr.contract import TokenWise

FAMILIES = {
    "llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral", "phi3": "Phi3",
    "qwen2": "Qwen2", "qwen3": "Qwen3",
}  # fmt: skip


class RmsNorm(TokenWise):
    """``weight`` of torch's RMS norm."""

    modules = (nn.RMSNorm,)
    title = "RMSNorm"
    parameters = ("weight",)

    def by_token(
        self,
        module: nn.RMSNorm,
        name: str,
        inputs: Float[Tensor, " samples *features"],
        delta: Float[Tensor, " samples *features"],
    ) -> Float[Tensor, " samples *features"]:
        wide = torch.promote_types(inputs.dtype, torch.float32)
        scaled = rms_norm(inputs.to(wide), module.normalized_shape, eps=module.eps)
        return scaled * delta


class TransformersRmsNorm(TokenWise):
    """``weight`` of the RMS norm of Hugging Face's language models, which scales in float32."""

    modules = tuple(
        f"transformers.models.{family}.modeling_{family}.{name}RMSNorm"
        for family, name in FAMILIES.items()
    )
    title = "RMSNorm of transformers"
    parameters = ("weight",)

    def by_token(
        self,
        module: nn.Module,
        name: str,
        inputs: Float[Tensor, " samples *features"],
        delta: Float[Tensor, " samples *features"],
    ) -> Float[Tensor, " samples *features"]:
        narrow = inputs.to(torch.float32)
        square = narrow.pow(2).mean(-1, keepdim=True)
        scaled = narrow * torch.rsqrt(square + module.variance_epsilon)
        return scaled.to(inputs.dtype) * delta
