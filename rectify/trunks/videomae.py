"""VideoMAE's vision transformer (Tong et al., 2022) in timm's, and its published checkpoints.

What differs from an image ViT: tubelets of two frames, no class token, positions fixed at sines
and cosines, the mean of the tokens before the final norm, and no bias of the keys (softmax would
ignore it). Query, key and value are three linears here, so that the parameters are VideoMAE's to
the last one: 21,946,926 (S) and 86,361,006 (B) with 174 classes at 16 x 224 x 224.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rectify.tensors import Tensors, check_same_tensors, load_pickle, mapped_tensors
from rectify.trunks.vit import create_vit

WRAPPED = ("model", "module")
"""Keys under which a ``.pth`` file holds the tensors, next to the optimizer and the like."""

IGNORED = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",  # its name since NumPy 2
)
"""What such a file holds besides: VideoMAE's command line, the optimizer's rates as NumPy's."""

NAMES = (
    (r"^videomae\.", ""),  # Hugging Face's
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.", ".attn.qkv."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^(encoder|backbone)\.", ""),  # VideoMAE's own
    (r"\.attn\.(q|v)_bias$", r".attn.qkv.\1_bias"),
    (r"\.q_bias$", ".query.bias"),  # both
    (r"\.v_bias$", ".value.bias"),
)
"""From the names of either format to ours, applied one after the other."""

PRETRAINING = ("decoder.", "encoder_to_decoder.", "mask_token", "norm.")
"""What only pretraining has; its final norm is before the decoder, not after the mean."""


def create_videomae(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    frames: int,
    channels: int = 3,
    drop_path: float = 0.0,
    overrides: Mapping[str, Any] | None = None,
) -> VisionTransformer:
    """Return a timm ViT with VideoMAE's parameters for clips ``(batch, frames, channels, h, w)``.

    Args:
        name: The timm model that has its sizes, e.g. ``vit_small_patch16_224``.
        num_classes: Outputs of the head.
        image_size: Height and width in pixels.
        frames: Frames of a clip, an even number.
        channels: Channels of a frame.
        drop_path: Stochastic depth rate of the last block, rising linearly from 0.
        overrides: Further timm arguments, e.g. ``embed_dim``, ``depth``, ``num_heads``.

    Raises:
        ValueError: If timm has no such ViT, or the sizes don't fit each other.
    """
    own = {"class_token": False, "global_pool": "avg", "attn_layer": _Attention}
    vit = create_vit(
        name,
        num_classes=num_classes,
        image_size=image_size,
        channels=channels,
        frames=frames,
        drop_path=drop_path,
        overrides={**own, "pos_embed": "none", **(overrides or {})},
    )
    del vit.pos_embed  # None: a buffer of this name moves with the model and is no parameter
    positions = sine_positions(vit.patch_embed.num_patches, vit.embed_dim)
    vit.register_buffer("pos_embed", positions, persistent=False)
    return vit


def sine_positions(tokens: int, dim: int) -> Float[Tensor, "1 tokens dim"]:
    """Return fixed positions: sin(p w) and cos(p w) in turn, w = 10000^(-2 floor(i / 2) / dim)."""
    exponents = 2 * (torch.arange(dim, dtype=torch.float64) // 2) / dim
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] / 10000**exponents
    even = torch.arange(dim) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos()).float()[None]


def load_start(vit: VisionTransformer, checkpoint: Path) -> None:
    """Load a published checkpoint into ``vit``; the head stays as it is.

    So does the norm after the mean, where the checkpoint is of pretraining and has none.

    Args:
        vit: What ``create_videomae`` returned.
        checkpoint: VideoMAE's ``.pth`` file, or a folder in Hugging Face format.

    Raises:
        ValueError: If the file is missing or damaged, or a tensor is missing, surplus or of
            another shape; names the first.
    """
    tensors = videomae_tensors(_read(checkpoint))
    has_norm = any(name.startswith("fc_norm.") for name in tensors)
    kept = ("head.",) if has_norm else ("head.", "fc_norm.")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    tensors |= {name: own for name, own in vit.state_dict().items() if name.startswith(kept)}
    advice = "Get a VideoMAE checkpoint of the same size."
    check_same_tensors(vit.state_dict(), tensors, checkpoint, advice)
    vit.load_state_dict(tensors, strict=True)


def start_file(checkpoint: Path) -> Path:
    """Return the file that holds a checkpoint's tensors.

    Raises:
        ValueError: If the checkpoint is a folder without such a file.
    """
    if not checkpoint.is_dir():
        return checkpoint
    files = [checkpoint / name for name in ("model.safetensors", "pytorch_model.bin")]
    present = [file for file in files if file.is_file()]
    if not present:
        raise ValueError(
            f"{checkpoint}: must hold model.safetensors or pytorch_model.bin, got neither. "
            "Get the checkpoint, or correct the set's start checkpoint in the config."
        )
    return present[0]


def videomae_tensors(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return tensors of VideoMAE's or Hugging Face's format under our names and in our shapes."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if name.startswith(PRETRAINING):
            continue
        if name.endswith("attn.qkv.weight"):
            for kind, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[name.replace("weight", f"{kind}.weight")] = chunk
        elif name == "patch_embed.proj.weight" and tensor.ndim == 5:
            renamed[name] = tensor.transpose(1, 2).flatten(1, 2)  # (dim, frames * channels, h, w)
        else:
            renamed[name] = tensor
    return renamed


class _Attention(Attention):
    """timm's attention with query, key and value as three linears, the key's without bias."""

    def __init__(self, dim: int, **arguments: Any):
        super().__init__(dim, **arguments)
        self.qkv = _QueryKeyValue(dim, self.attn_dim)


class _QueryKeyValue(nn.Module):
    def __init__(self, dim: int, width: int):
        super().__init__()
        self.query = nn.Linear(dim, width)
        self.key = nn.Linear(dim, width, bias=False)
        self.value = nn.Linear(dim, width)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens _"]:
        return torch.cat([self.query(tokens), self.key(tokens), self.value(tokens)], dim=-1)


def _read(checkpoint: Path) -> Tensors:
    file = start_file(checkpoint)
    if file.suffix != ".pth":
        return mapped_tensors(file)
    content = load_pickle(file, IGNORED)
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPED if key in content), content)
    if not isinstance(content, dict) or not all(isinstance(w, Tensor) for w in content.values()):
        raise ValueError(
            f"{checkpoint}: must hold named tensors, alone or under {' or '.join(WRAPPED)}, got "
            "something else. Get VideoMAE's file again."
        )
    return content
