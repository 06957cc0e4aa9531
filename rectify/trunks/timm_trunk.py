"""What the vision transformers of timm have in common as trunks."""

import copy
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectify.trunks.trunk import Groups, Tokens, groups_within, permuted_

HEAD = ("norm", "fc_norm", "attn_pool", "head_drop", "head", "head_dist")
"""Parts of timm's models behind the last block."""


class TimmTrunk(nn.Module, ABC):
    """A model of timm as a trunk; a subclass says how its tokens begin and how they run."""

    classes: ClassVar[tuple[str, ...]]
    """Full names of the classes that it takes."""

    def __init__(self, vit: nn.Module):
        super().__init__()
        self.vit = vit
        self.dim = vit.num_features

    @property
    def plain(self) -> nn.Module:
        """timm's model, whose names an exported file has."""
        return self.vit

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The blocks by their index."""
        return {str(index): block for index, block in enumerate(self.vit.blocks)}

    @abstractmethod
    def embed(self, images: Float[Tensor, " batch *pixels"]) -> Tokens:
        """Return the tokens that enter block 0."""

    @abstractmethod
    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""

    @staticmethod
    def classify(vit: nn.Module, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        """Return the logits of a model of this kind, or of its copy without blocks."""
        return vit.forward_head(vit.norm(tokens.values))

    def representation(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return what the model classifies by, if these tokens left the last block.

        The class token, before the final norm, as in Huh et al. (2024); of a model that pools,
        what its pooling gives: a mean over patches, or attention, behind a norm that comes first.

        Raises:
            ValueError: If the model classifies each token by itself.
        """
        vit = self.vit
        if vit.global_pool == "token":
            return tokens.values[:, 0]
        if not vit.global_pool:
            raise ValueError(
                f"trunk: features must be one vector for each image, got {type(vit).__name__} with "
                "global_pool '', which has one for each token. Set global_pool."
            )
        return self._pooled(vit.norm(tokens.values))

    def _pooled(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """Return what the model's pooling gives."""
        return self.vit.pool(tokens)

    def decode(self, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        """Return the logits: final norm, pooling and head."""
        return self.classify(self.vit, tokens)

    def forward(self, images: Float[Tensor, " batch *pixels"]) -> Float[Tensor, "batch classes"]:
        return self.decode(self.run(self.embed(images), 0, len(self.blocks)))

    def second_head(self, generator: torch.Generator) -> "SecondHead":
        """Return another final norm and head, of the same distribution as this trunk's."""
        return SecondHead(self, generator)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> Groups:
        """The layers for layer decay; what is in none is the last."""
        return groups_within(r"vit\.", self.vit.group_matcher(coarse))


class SecondHead(nn.Module):
    """A final norm and head like a trunk's, with weights of their own.

    Args:
        trunk: Whose norm and head are copied.
        generator: Permutes the entries of each matrix, so that the copy is a draw from the same
            distribution, whatever scales the first head.
    """

    def __init__(self, trunk: TimmTrunk, generator: torch.Generator):
        super().__init__()
        vit = trunk.vit
        before = [part for name, part in vit.named_children() if name not in HEAD]
        self.vit = copy.deepcopy(vit, {id(part): nn.Identity() for part in before})
        own = (*vit.named_parameters(recurse=False), *vit.named_buffers(recurse=False))
        for name, _ in own:  # positions, class token: in front of the blocks
            setattr(self.vit, name, None)
        self._classify = trunk.classify
        permuted_(self.vit, generator)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch classes"]:
        return self._classify(self.vit, tokens)
