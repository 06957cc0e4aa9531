"""Vision transformers of timm, for images and for short clips.

Nothing of the ViT is copied: timm builds it, and a clip only changes how patches are
embedded (tubelets of neighbouring frames, as in VideoMAE).
"""

import copy
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
from torch import Tensor, nn

from rectify.trunks.trunk import Groups, Tokens, as_trunk, groups_within

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


class ViT(nn.Module):
    """A timm ViT, for images or clips, as a trunk."""

    def __init__(self, vit: VisionTransformer):
        super().__init__()
        self.vit = vit
        self.dim = vit.embed_dim

    @property
    def plain(self) -> VisionTransformer:
        """timm's model, whose names an exported file has."""
        return self.vit

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The blocks by their index."""
        return {str(index): block for index, block in enumerate(self.vit.blocks)}

    def embed(self, images: Float[Tensor, " batch *pixels"]) -> Tokens:
        """Return the tokens that enter block 0: patches, class token, positions."""
        vit = self.vit
        tokens = vit._pos_embed(vit.patch_embed(images))  # timm has no public name for this step
        return Tokens(vit.norm_pre(vit.patch_drop(tokens)))

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        return tokens._replace(values=self.vit.blocks[start:stop](tokens.values))

    def decode(self, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        """Return the logits: final norm and head."""
        return _classify(self.vit, tokens)

    def forward(self, images: Float[Tensor, " batch *pixels"]) -> Float[Tensor, "batch classes"]:
        return self.decode(self.run(self.embed(images), 0, len(self.vit.blocks)))

    def second_head(self, generator: torch.Generator) -> "SecondHead":
        """Return another final norm and head, of the same distribution as this trunk's."""
        return SecondHead(self.vit, generator)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> Groups:
        """The layers for layer decay; what is in none is the last."""
        return groups_within(r"vit\.", self.vit.group_matcher(coarse))


@as_trunk.register(VisionTransformer)
def _wrapped(vit: VisionTransformer) -> ViT:
    return ViT(vit)


class SecondHead(nn.Module):
    """A final norm and head like a ViT's, with weights of their own.

    Args:
        vit: Whose norm and head are copied.
        generator: Permutes the entries of each matrix, so that the copy is a draw from the same
            distribution, whatever scales the first head.
    """

    def __init__(self, vit: VisionTransformer, generator: torch.Generator):
        super().__init__()
        before = (vit.patch_embed, vit.norm_pre, vit.blocks)
        self.vit = copy.deepcopy(vit, {id(module): nn.Identity() for module in before})
        self.vit.pos_embed = self.vit.cls_token = self.vit.reg_token = None
        with torch.no_grad():
            for parameter in self.vit.parameters():
                if parameter.ndim > 1:
                    order = torch.randperm(parameter.numel(), generator=generator)
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        return _classify(self.vit, tokens)


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


def _classify(vit: VisionTransformer, tokens: Tokens) -> Float[Tensor, "batch classes"]:
    return vit.forward_head(vit.norm(tokens.values))


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
