"""Vision transformers of timm, for images and for short clips.

Nothing of the ViT is copied: timm builds it, and a clip only changes how patches are
embedded (tubelets of neighbouring frames, as in VideoMAE).
"""

import difflib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
from jaxtyping import Float
from timm.layers import PatchEmbed
from torch import Tensor, nn

from rectify.trunks.timm_trunk import TimmTrunk
from rectify.trunks.trunk import Tokens

TUBELET = 2  # frames per token, as in VideoMAE
MODULES = (
    *("vision_transformer", "vision_transformer_hybrid", "deit"),
    *("eva", "beit", "swin_transformer"),
)
"""Modules of timm whose models are trunks: ``rectify.trunks.kinds``."""


def create_vit(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    channels: int = 3,
    frames: int = 1,
    drop_path: float = 0.0,
    overrides: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a vision transformer of timm with random weights, as timm has it.

    Args:
        name: A timm model name, e.g. ``vit_small_patch16_224``; a tag behind it changes nothing
            but how the model wants its images.
        num_classes: Outputs of the head; 0 leaves the head out.
        image_size: Height and width in pixels.
        channels: Channels of an image, or of a frame.
        frames: Frames of a clip; 1 for images.
        drop_path: Stochastic depth rate of the last block, rising linearly from 0.
        overrides: Further timm arguments, e.g. ``embed_dim``, ``depth``, ``num_heads``.

    Raises:
        ValueError: If timm has no such model, it is none that can be taken apart, or it does not
            take these sizes and arguments.
    """
    check_name(name)
    extra = dict(overrides or {})
    _check_sizes(name, image_size, frames, extra)
    if frames > 1:
        extra["embed_layer"] = partial(TubeletEmbed, frames=frames)
    try:
        return timm.create_model(
            name,
            num_classes=num_classes,
            img_size=image_size,
            in_chans=channels,
            drop_path_rate=drop_path,
            **extra,
        )
    except (TypeError, AssertionError) as error:  # of timm's constructors
        reason = str(error).partition("\n")[0].rstrip(".") or "sizes that do not fit"
        raise ValueError(
            f"vision: timm must be able to build {name} for images of {image_size}, got {reason}. "
            "Correct overrides, or the size."
        ) from None


class ViT(TimmTrunk):
    """A timm ViT, for images or clips, as a trunk."""

    classes = ("timm.models.vision_transformer.VisionTransformer",)

    def embed(self, images: Float[Tensor, " batch *pixels"]) -> Tokens:
        """Return the tokens that enter block 0: patches, class token, positions."""
        vit = self.vit
        tokens = vit._pos_embed(vit.patch_embed(images))  # timm has no public name for this step
        return Tokens(vit.norm_pre(vit.patch_drop(tokens)))

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        return tokens._replace(values=self.vit.blocks[start:stop](tokens.values))


class Distilled(ViT):
    """A distilled DeiT of timm, which classifies by the mean of two tokens' logits."""

    classes = ("timm.models.deit.VisionTransformerDistilled",)

    def representation(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return the mean of the class token and the distillation token, behind the final norm."""
        return self.vit.norm(tokens.values[:, :2]).mean(1)


class TubeletEmbed(PatchEmbed):
    """Embed clips: one token per patch and per pair of neighbouring frames."""

    def __init__(self, *, frames: int, in_chans: int, **arguments: Any):
        super().__init__(in_chans=TUBELET * in_chans, **arguments)
        self.tubelets = frames // TUBELET
        self.num_patches *= self.tubelets

    def forward(
        self, clips: Float[Tensor, "batch frames channels height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        batch = len(clips)
        pairs = clips.reshape(batch * self.tubelets, -1, *clips.shape[-2:])
        tokens = super().forward(pairs)  # (batch * tubelets, patches, dim)
        return tokens.reshape(batch, -1, tokens.shape[-1])


def check_name(name: str) -> None:
    """Check that a name, with or without a tag, is of a model of timm that can be taken apart.

    Raises:
        ValueError: If timm does not know it, or it is no vision transformer of a known kind.
    """
    known = timm.list_models(module=MODULES)
    architecture = name.partition(".")[0]
    if architecture in known:
        return
    if timm.is_model(architecture):
        raise ValueError(
            f"vision: the model must be one that can be taken apart, got {name}, which is no "
            f"vision transformer of timm's {', '.join(MODULES)}. Choose one of these."
        )
    near = difflib.get_close_matches(name, known, 3)
    raise ValueError(
        f"vision: timm must know the vision transformer, got {name!r}. "
        f"Near names: {', '.join(near) or '-'}."
    )


def _check_sizes(name: str, image_size: int, frames: int, extra: Mapping[str, Any]) -> None:
    named = re.search(r"patch(\d+)", name)
    patch = extra.get("patch_size", int(named[1]) if named else 1)
    if not isinstance(patch, int) or patch < 1:
        raise ValueError(
            f"vision: patch_size must be a whole number from 1 on, got {patch!r}. Correct the "
            f"overrides of {name}."
        )
    if image_size % patch:
        raise ValueError(
            f"vision: image_size must be a multiple of patch_size {patch}, got {image_size}. "
            f"Change one of them for {name}."
        )
    if frames > 1 and frames % TUBELET:
        raise ValueError(
            f"vision: frames must be a multiple of {TUBELET}, got {frames}. Change the data set."
        )
