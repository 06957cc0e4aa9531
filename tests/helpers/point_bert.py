"""Point-BERT's checkpoint as its authors publish it, of any size."""

from pathlib import Path

import torch
from torch import Tensor

from rectify.trunks.point_bert import PointBert


def published_names(model: PointBert) -> dict[str, Tensor]:
    """Return a model's tensors as the published checkpoint names and shapes them, written out."""
    state = model.state_dict()
    names = {"cls_token": "cls_token", "cls_position": "cls_pos"}
    for kind in ("weight", "bias"):
        names |= {f"reduce.{kind}": f"reduce_dim.{kind}", f"head.norm.{kind}": f"norm.{kind}"}
        for part in (0, 2):
            names[f"positions.{part}.{kind}"] = f"pos_embed.{part}.{kind}"
        for ours, theirs in (("inner", "first_conv"), ("outer", "second_conv")):
            names[f"tokenizer.{ours}.0.{kind}"] = f"encoder.{theirs}.0.{kind}"
            names[f"tokenizer.{ours}.1.{kind}"] = f"encoder.{theirs}.3.{kind}"
            for stat in (kind, "running_mean", "running_var", "num_batches_tracked"):
                names[f"tokenizer.{ours}_norm.{stat}"] = f"encoder.{theirs}.1.{stat}"
    layers = [name for name in state if name.startswith("layers.")]
    names |= {name: f"blocks.blocks.{name.removeprefix('layers.')}" for name in layers}
    tensors = {theirs: state[ours].clone() for ours, theirs in names.items()}
    convolutions = [
        f"encoder.{part}_conv.{n}.weight" for part in ("first", "second") for n in (0, 3)
    ]
    return {k: t[..., None] if k in convolutions else t for k, t in tensors.items()}


def checkpoint(model: PointBert, path: Path, **changes: object) -> Path:
    """Write a model as ``Point-BERT.pth``, with all that is next to it there."""
    own = {f"module.transformer_q.{name}": one for name, one in published_names(model).items()}
    more = ("cls_head.0.weight", "mask_token", "lm_head.weight", "lm_head.bias")
    own |= {f"module.transformer_q.{name}": torch.ones(2) for name in more}
    own |= {"module.transformer_k.cls_token": torch.ones(1), "module.dvae.encoder.w": torch.ones(1)}
    content = {"base_model": own | changes, "optimizer": {"lr": 1e-3}, "epoch": 299}
    torch.save(content, path)
    return path
