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
import torch
from jaxtyping import Float
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

TUBELET = 2  # frames per token, as in VideoMAE
MODULES = ("vision_transformer", "deit")  # of timm; DeiT's distilled models are of another class


def create_vit(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    channels: int = 3,
    frames: int = 1,
    drop_path: float = 0.0,
    pretrained: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> VisionTransformer:
    """Return a timm ViT whose blocks, final norm and head are exposed as in timm.

    Args:
        name: A timm model name, e.g. ``vit_small_patch16_224``.
        num_classes: Outputs of the head; 0 leaves the head out.
        image_size: Height and width in pixels.
        channels: Channels of an image, or of a frame.
        frames: Frames of a clip; 1 for images.
        drop_path: Stochastic depth rate of the last block, rising linearly from 0.
        pretrained: Load timm's published weights.
        overrides: Further timm arguments, e.g. ``embed_dim``, ``depth``, ``num_heads``.

    Raises:
        ValueError: If timm has no such ViT, or the sizes don't fit each other.
    """
    _check_name(name)
    extra = dict(overrides or {})
    _check_sizes(name, image_size, frames, extra)
    if frames > 1:
        extra["embed_layer"] = partial(TubeletEmbed, frames=frames)
    return timm.create_model(
        name,
        pretrained=pretrained,
        num_classes=num_classes,
        img_size=image_size,
        in_chans=channels,
        drop_path_rate=drop_path,
        **extra,
    )


def embed(
    vit: VisionTransformer, images: Float[Tensor, " batch *pixels"]
) -> Float[Tensor, "batch tokens dim"]:
    """Return the tokens that enter block 0: patches, class token, positions."""
    tokens = vit._pos_embed(vit.patch_embed(images))  # timm has no public name for this step
    return vit.norm_pre(vit.patch_drop(tokens))


def classify(
    vit: VisionTransformer, tokens: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, "batch classes"]:
    """Return the logits of tokens that left the last block: final norm and head."""
    return vit.forward_head(vit.norm(tokens))


def block_features(
    vit: VisionTransformer, images: Float[Tensor, " batch *pixels"]
) -> Float[Tensor, "layers batch dim"]:
    """Return the class token after each block, before the final norm (Huh et al., 2024)."""
    tokens, layers = embed(vit, images), []
    for block in vit.blocks:
        tokens = block(tokens)
        layers.append(tokens[:, 0])
    return torch.stack(layers)


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


def _check_name(name: str) -> None:
    known = timm.list_models(module=MODULES, exclude_filters="*_distilled_*")
    if name.partition(".")[0] not in known:
        near = difflib.get_close_matches(name, known, 3)
        raise ValueError(
            f"vision: timm must know the vision transformer, got {name!r}. "
            f"Near names: {', '.join(near) or '-'}."
        )


def _check_sizes(name: str, image_size: int, frames: int, extra: Mapping[str, Any]) -> None:
    named = re.search(r"patch(\d+)", name)
    patch = extra.get("patch_size", int(named[1]) if named else 1)
    if image_size % patch:
        raise ValueError(
            f"vision: image_size must be a multiple of patch_size {patch}, got {image_size}. "
            f"Change one of them for {name}."
        )
    if frames > 1 and frames % TUBELET:
        raise ValueError(
            f"vision: frames must be a multiple of {TUBELET}, got {frames}. Change the data set."
        )
