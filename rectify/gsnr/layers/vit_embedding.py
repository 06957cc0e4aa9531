"""What timm's ViT itself adds to its tokens: class token, registers, positions.

Where all of them have been added, ``delta`` at a parameter's tokens is the parameter's gradient.
"""

import contextlib
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from rectify.gsnr.contract import TokenWise
from rectify.gsnr.tap import Gather, tap


class VitEmbedding(TokenWise):
    """The parameters that a ``VisionTransformer`` holds outside of its layers."""

    modules = ("timm.models.vision_transformer.VisionTransformer",)
    title = "a ViT of fixed size"
    parameters = ("cls_token", "reg_token", "pos_embed")

    def accepts(self, module: nn.Module) -> bool:
        return not module.dynamic_img_size

    @contextlib.contextmanager
    def tap(self, module: nn.Module, gather: Gather) -> Iterator[None]:
        def embedded(dropout: object, args: tuple[Tensor]) -> Tensor | None:
            return tap(args[0], None, gather)

        with module.pos_drop.register_forward_pre_hook(embedded):
            yield

    def by_token(
        self,
        module: nn.Module,
        name: str,
        inputs: None,
        delta: Float[Tensor, "samples tokens dim"],
    ) -> Float[Tensor, "samples tokens_of_parameter dim"]:
        return delta[:, _tokens(module, name)]


def _tokens(vit: nn.Module, name: str) -> slice:
    """Return which tokens a parameter is added to; their order: class, registers, patches."""
    prefix = vit.num_prefix_tokens
    if name == "cls_token":
        return slice(0, 1)
    if name == "reg_token":
        return slice(prefix - vit.num_reg_tokens, prefix)
    return slice(prefix if vit.no_embed_class else 0, None)
