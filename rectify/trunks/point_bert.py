"""Point-BERT's transformer (Yu et al., CVPR 2022) with timm's blocks, and its published checkpoint.

    cloud -> centres by farthest points, groups of nearest points -> a small PointNet for each group
          -> class token, groups -> blocks -> norm -> class token and the largest of groups -> head

What differs from a ViT: positions come from the centres' coordinates and are added again in front
of every block, so that something between two blocks sees tokens without them; the PointNet has
norms over the batch, all upstream of the blocks; the head has a hidden layer. With the published
sizes and 40 classes there are 22,065,960 parameters.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from pydantic import Field, PositiveInt
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import linear

from rectify.data.points import farthest_points, nearest_points, taken
from rectify.tensors import Tensors, check_same_tensors, load_pickle
from rectify.trunks.trunk import Tokens, check_heads, permuted_
from rectify.typed import Closed, parse

WRAPPED = "base_model"
"""Key under which ``Point-BERT.pth`` holds the tensors, next to the optimizer and the like."""
IGNORED = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
"""What such a file may hold besides: accuracies as NumPy's numbers."""
WITHIN = "transformer_q."
"""The transformer that is kept; the others only helped to train it."""
PRETRAINING = ("cls_head.", "mask_token", "lm_head.")
"""What only pretraining has."""
NAMES = (
    (r"^encoder\.first_conv\.0\.", "tokenizer.inner.0."),
    (r"^encoder\.first_conv\.1\.", "tokenizer.inner_norm."),
    (r"^encoder\.first_conv\.3\.", "tokenizer.inner.1."),
    (r"^encoder\.second_conv\.0\.", "tokenizer.outer.0."),
    (r"^encoder\.second_conv\.1\.", "tokenizer.outer_norm."),
    (r"^encoder\.second_conv\.3\.", "tokenizer.outer.1."),
    (r"^reduce_dim\.", "reduce."),
    (r"^pos_embed\.", "positions."),
    (r"^cls_pos$", "cls_position"),
    (r"^blocks\.blocks\.", "layers."),
    (r"^norm\.", "head.norm."),
)
"""From the published names to ours."""


class Sizes(Closed, strict=True):
    """``overrides`` of a Point-BERT."""

    dim: PositiveInt = 384
    depth: PositiveInt = 12
    heads: PositiveInt = 6
    groups: PositiveInt | None = None
    """A sixteenth of a cloud's points unless given, as published for 1,024, 4,096 and 8,192."""
    group_size: PositiveInt = 32
    """Points of a group."""
    width: PositiveInt = 128
    """Of the PointNet's first layer; the others are two and four times as wide."""
    head_dropout: float = Field(0.5, ge=0, lt=1)


class PointBert(nn.Module):
    """Point-BERT as a trunk: see ``rectify.trunks.trunk``."""

    @classmethod
    def of(
        cls,
        overrides: Mapping[str, object],
        *,
        classes: int,
        points: int,
        drop_path: float = 0.0,
        skip_origin: bool = False,
    ) -> "PointBert":
        """Return a Point-BERT with random weights.

        Args:
            overrides: Sizes that differ from the published ones, by the names of ``Sizes``.
            classes: Outputs of the head.
            points: Of a cloud.
            drop_path: Stochastic depth rate of the last block, rising linearly from 0.
            skip_origin: As in ``rectify.data.points.farthest_points``.

        Raises:
            ValueError: If a size is unknown or cannot be right.
        """
        sizes = parse(Sizes, dict(overrides), "visions.overrides")
        check_heads("a Point-BERT", sizes.dim, sizes.heads)
        if sizes.groups is None:
            sizes = sizes.model_copy(update={"groups": max(1, points // 16)})
        if max(sizes.groups, sizes.group_size) > points:
            raise ValueError(
                f"vision: groups and group_size of a Point-BERT must not exceed the {points} "
                f"points of a cloud, got {sizes.groups} and {sizes.group_size}. Correct overrides."
            )
        return cls(sizes, classes, drop_path, skip_origin)

    def __init__(self, sizes: Sizes, classes: int, drop_path: float, skip_origin: bool):
        super().__init__()
        dim, depth = sizes.dim, sizes.depth
        self.dim, self.groups, self.group_size = dim, sizes.groups, sizes.group_size
        self.skip_origin = skip_origin
        self.tokenizer = Tokenizer(sizes.width)
        self.reduce = nn.Linear(2 * sizes.width, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls_position = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))
        rates = [drop_path * block / max(1, depth - 1) for block in range(depth)]
        self.layers = nn.ModuleList(
            Block(dim, sizes.heads, qkv_bias=False, drop_path=rate) for rate in rates
        )
        self.head = Head(dim, classes, sizes.head_dropout)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The blocks by their index."""
        return {f"{index}": block for index, block in enumerate(self.layers)}

    def embed(self, clouds: Float[Tensor, "batch points 3"]) -> Tokens:
        """Return the tokens of class and groups; their positions are the context."""
        centres, near = self.grouped(clouds)
        groups = self.reduce(self.tokenizer(taken(clouds, near) - centres[:, :, None]))
        first = [one.expand(len(clouds), -1, -1) for one in (self.cls_token, self.cls_position)]
        values = torch.cat([first[0], groups], 1)
        return Tokens(values, context=torch.cat([first[1], self.positions(centres)], 1))

    def grouped(
        self, clouds: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch groups 3"], Int64[Tensor, "batch groups size"]]:
        """Return the centre of each group, and which points are in it, the nearest first."""
        chosen = farthest_points(clouds, self.groups, skip_origin=self.skip_origin)
        centres = taken(clouds, chosen)
        return centres, nearest_points(clouds, centres, self.group_size)

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        values = tokens.values
        for block in self.layers[start:stop]:
            values = block(values + tokens.context)
        return tokens._replace(values=values)

    def decode(self, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        return self.head(tokens)

    def representation(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return the class token and the largest of the groups, behind the final norm."""
        return self.head.pooled(tokens)

    def forward(self, clouds: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch classes"]:
        return self.decode(self.run(self.embed(clouds), 0, len(self.layers)))

    def second_head(self, generator: torch.Generator) -> "Head":
        """Return another head with its final norm, of the same distribution as this trunk's."""
        return permuted_(copy.deepcopy(self.head), generator)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed."""
        return {"cls_token"}


class Tokenizer(nn.Module):
    """A small PointNet: what a group of points looks like, whatever their order."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(3, width), nn.Linear(width, 2 * width)])
        self.outer = nn.ModuleList(
            [nn.Linear(4 * width, 4 * width), nn.Linear(4 * width, 2 * width)]
        )
        self.inner_norm, self.outer_norm = nn.BatchNorm1d(width), nn.BatchNorm1d(4 * width)

    def forward(
        self, groups: Float[Tensor, "batch groups points 3"]
    ) -> Float[Tensor, "batch groups channels"]:
        points = groups.shape[:-1]
        local = self.inner_norm(self.inner[0](groups.flatten(0, 2))).relu()
        local = self.inner[1](local).unflatten(0, points)  # (batch, groups, points, channels)
        of_whole, of_local = self.outer[0].weight.chunk(2, 1)  # of both, side by side
        whole = linear(local.amax(2), of_whole)[:, :, None]  # once for a group, not for each point
        both = (linear(local, of_local, self.outer[0].bias) + whole).flatten(0, 2)
        return self.outer[1](self.outer_norm(both).relu()).unflatten(0, points).amax(2)


class Head(nn.Module):
    """The final norm, class token and largest group, and two linears."""

    def __init__(self, dim: int, classes: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden, self.output = nn.Linear(2 * dim, 256), nn.Linear(256, classes)
        self.dropout = nn.Dropout(dropout)

    def pooled(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        values = self.norm(tokens.values)
        return torch.cat([values[:, 0], values[:, 1:].amax(1)], 1)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        return self.output(self.dropout(self.hidden(self.pooled(tokens)).relu()))


def load_start(trunk: PointBert, checkpoint: Path) -> None:
    """Load Point-BERT's published checkpoint into ``trunk``; its two linears stay as they are.

    Args:
        trunk: Of the published sizes.
        checkpoint: ``Point-BERT.pth``.

    Raises:
        ValueError: If the file is missing or damaged, holds other objects, or a tensor is missing,
            surplus or of another shape; names the first.
    """
    tensors = point_bert_tensors(_read(checkpoint))
    own = trunk.state_dict()
    kept = ("head.hidden.", "head.output.")
    tensors |= {name: tensor for name, tensor in own.items() if name.startswith(kept)}
    advice = "Get Point-BERT.pth again, or take away the overrides of its sizes."
    check_same_tensors(own, tensors, checkpoint, advice)
    trunk.load_state_dict(tensors, strict=True)


def point_bert_tensors(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the transformer's tensors under our names and in our shapes."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        name = name.replace("module.", "")
        if not name.startswith(WITHIN) or name.removeprefix(WITHIN).startswith(PRETRAINING):
            continue
        name = name.removeprefix(WITHIN)
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        is_convolution = name.startswith("tokenizer.") and tensor.ndim == 3
        renamed[name] = tensor.squeeze(2) if is_convolution else tensor
    return renamed


def _read(checkpoint: Path) -> Mapping[str, Tensor]:
    content = load_pickle(checkpoint, IGNORED)
    tensors = content.get(WRAPPED) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(w, Tensor) for w in tensors.values()):
        raise ValueError(
            f"{checkpoint}: must hold named tensors under {WRAPPED}, got something else. Get "
            "Point-BERT.pth again."
        )
    return tensors
