"""A frozen language-model block in a vision transformer: inserted, or as a second loss path.

    insert     z -> blocks[:i] -> up -> frozen block -> norm -> down -> blocks[i:] -> head   (Eq. 6)
    auxiliary  z -> blocks -> head                                   the main path, kept at test
                         \\-> up -> frozen block -> norm -> down -> head   dropped at test  (Eq. 8)

Controls put something else between ``up`` and ``down``: nothing (adapter), a GELU (mlp), the
same block untrained (random) or trained along (tuned). The trunk runs once for both paths.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rectify.vision import classify, embed

VARIANTS = ("vanilla", "insert", "auxiliary", "adapter", "mlp", "random", "tuned")
FINAL_NORMS = ("unit", "none", "loaded")
NORM_EPSILON = 1e-6


class Bridge(nn.Module):
    """Up to the language model's width, through its block, and down again.

    Args:
        dim: Width of the ViT.
        inner: What runs at the language model's width.
        hidden: Width of the language model.
        generator: Draws the adapters: truncated normal, std 0.02, no bias.
    """

    def __init__(self, dim: int, inner: nn.Module, hidden: int, generator: torch.Generator):
        super().__init__()
        self.up = nn.Linear(dim, hidden, bias=False)
        self.inner = inner
        self.down = nn.Linear(hidden, dim, bias=False)
        for linear in (self.up, self.down):
            nn.init.trunc_normal_(linear.weight, std=0.02, generator=generator)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        return self.down(self.inner(self.up(tokens)))  # dim -> hidden -> hidden -> dim


class _Rectified(nn.Module):
    """A ViT and a bridge, and what timm's optimizers ask a model about its parameters."""

    def __init__(self, vit: VisionTransformer, bridge: Bridge):
        super().__init__()
        self.vit, self.bridge = vit, bridge

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, str | list]:
        """The ViT's layers for layer decay; what is in none, the bridge too, is the last."""
        inside = r"^vit\."
        groups = self.vit.group_matcher(coarse)
        blocks = [(pattern.replace("^", inside), order) for pattern, order in groups["blocks"]]
        return {"stem": f"{inside}(?:{groups['stem'].removeprefix('^')})", "blocks": blocks}


class InsertedViT(_Rectified):
    """A ViT with a bridge before block ``insert_at``; ``depth`` is after the last block."""

    def __init__(self, vit: VisionTransformer, bridge: Bridge, insert_at: int):
        super().__init__(vit, bridge)
        self.insert_at = insert_at

    def forward(self, images: Float[Tensor, " batch *pixels"]) -> Float[Tensor, "batch classes"]:
        tokens = self.vit.blocks[: self.insert_at](embed(self.vit, images))
        tokens = self.vit.blocks[self.insert_at :](self.bridge(tokens))
        return classify(self.vit, tokens)


class AuxiliaryViT(_Rectified):
    """A ViT with a second loss path through a bridge; the plain ViT at test."""

    def forward(
        self, images: Float[Tensor, " batch *pixels"]
    ) -> Float[Tensor, "batch classes"] | tuple[Tensor, Tensor]:
        """Return the logits; while training, those of the main and of the auxiliary path."""
        tokens = self.vit.blocks(embed(self.vit, images))
        main = classify(self.vit, tokens)
        return (main, classify(self.vit, self.bridge(tokens))) if self.training else main


def insert(
    vit: VisionTransformer,
    block: nn.Module,
    position: str | int,
    *,
    generator: torch.Generator,
    final_norm: str = "unit",
) -> InsertedViT:
    """Return the ViT with the frozen ``block`` in its forward path (Eq. 6).

    Args:
        vit: The vision transformer; used, not copied.
        block: A frozen decoder block with attribute ``hidden``, its width.
        position: ``early``, ``middle``, ``end``, or the number of ViT blocks before it.
        generator: Draws the two adapters.
        final_norm: Norm after the block: RMS with ``unit`` gain, the ``loaded`` one of the
            language model, frozen, or ``none``.

    Raises:
        ValueError: If the position or the norm is not one of these, or the block has no norm.
    """
    inner = nn.Sequential(block, *_norm(block, final_norm))
    return _inserted(vit, inner, block.hidden, position, generator)


def auxiliary(
    vit: VisionTransformer,
    block: nn.Module,
    *,
    generator: torch.Generator,
    final_norm: str = "unit",
) -> AuxiliaryViT:
    """Return the ViT with the frozen ``block`` in a second loss path only (Eq. 8)."""
    inner = nn.Sequential(block, *_norm(block, final_norm))
    return AuxiliaryViT(vit, Bridge(vit.embed_dim, inner, block.hidden, generator))


def adapter(
    vit: VisionTransformer, hidden: int, position: str | int, *, generator: torch.Generator
) -> InsertedViT:
    """Return the control with the two linears and no block between them."""
    return _inserted(vit, nn.Identity(), hidden, position, generator)


def mlp(
    vit: VisionTransformer, hidden: int, position: str | int, *, generator: torch.Generator
) -> InsertedViT:
    """Return the control with a GELU between the two linears: ViT-S-MLP of Pang et al."""
    return _inserted(vit, nn.GELU(), hidden, position, generator)


def tuned(
    vit: VisionTransformer,
    block: nn.Module,
    position: str | int,
    *,
    generator: torch.Generator,
    final_norm: str = "unit",
) -> InsertedViT:
    """Return the control whose block is trained along with the ViT."""
    model = insert(vit, block, position, generator=generator, final_norm=final_norm)
    block.float().requires_grad_(True)  # trained weights need the precision of small steps
    return model


def insert_index(position: str | int, depth: int) -> int:
    """Return how many ViT blocks stand before a position.

    Raises:
        ValueError: If the position is misspelt or lies outside 0 .. depth.
    """
    places = {"early": 0, "middle": depth // 2, "end": depth}
    if position in places:
        return places[position]
    if not isinstance(position, int) or not 0 <= position <= depth:
        raise ValueError(
            f"rectified: position must be early, middle, end or 0..{depth}, got {position!r}. "
            "Correct the run's position."
        )
    return position


def export(model: nn.Module) -> dict[str, Tensor]:
    """Return the plain ViT's weights under timm's names, as used at test.

    Raises:
        ValueError: If the model needs its bridge at test and so has no plain form.
    """
    if isinstance(model, InsertedViT):
        raise ValueError(
            "rectified: only a vanilla or auxiliary model has a plain ViT, got an inserted one. "
            "Train the auxiliary variant, or save its trainable_state."
        )
    vit = model.vit if isinstance(model, AuxiliaryViT) else model
    return {name: tensor.detach() for name, tensor in vit.state_dict().items()}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes: a frozen block is never stored again."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {
        name: tensor.detach() for name, tensor in model.state_dict().items() if name not in frozen
    }


def load_trainable_state(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Put back what ``trainable_state`` returned; every tensor must be there, and no other.

    Raises:
        ValueError: If names or shapes differ; names the first that does.
    """
    own = trainable_state(model)
    _check_names(set(own), set(state), where)
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f"{where}: {name} must have shape {tuple(tensor.shape)}, got "
                f"{tuple(state[name].shape)}. Train this run again."
            )
    for name, tensor in own.items():
        tensor.copy_(state[name])


def _check_names(wanted: Iterable[str], found: Iterable[str], where: str) -> None:
    wrong = sorted(set(wanted) ^ set(found))
    if wrong:
        kind = "missing" if wrong[0] in wanted else "unexpected"
        raise ValueError(
            f"{where}: must hold exactly the model's tensors, got {len(wrong)} that differ, "
            f"first {wrong[0]} ({kind}). Train this run again."
        )


def _inserted(
    vit: VisionTransformer,
    inner: nn.Module,
    hidden: int,
    position: str | int,
    generator: torch.Generator,
) -> InsertedViT:
    place = insert_index(position, len(vit.blocks))
    return InsertedViT(vit, Bridge(vit.embed_dim, inner, hidden, generator), place)


def _norm(block: nn.Module, final_norm: str) -> list[nn.Module]:
    if final_norm not in FINAL_NORMS:
        raise ValueError(
            f"rectified: final_norm must be one of {', '.join(FINAL_NORMS)}, got {final_norm!r}. "
            "Change rectifier.final_norm in the config."
        )
    if final_norm == "loaded":
        if getattr(block, "final_norm", None) is None:
            raise ValueError(
                "rectified: with final_norm loaded the block must bring the language model's norm, "
                "got none. Set rectifier.final_norm to unit or none."
            )
        return [block.final_norm]
    unit = nn.RMSNorm(block.hidden, eps=NORM_EPSILON, elementwise_affine=False)
    return [unit] if final_norm == "unit" else []
