"""Variants, positions and controls: a control takes the place of the pretrained frozen layer.

A control is in any rectified model (``insert``, ``residual``, ``auxiliary``) and differs from it in
one thing: adapters, trunk, norm and batches of a seed are the same. To add one, decorate a function
that gives what runs between the two adapters::

    @control("frozen layer of zeros", "#117733")
    def zeros(place: Place) -> Inner:
        ...
        return Inner(layer, place.norm())

Torch is imported inside of the functions only, so that whoever needs names, titles and colours
(experiments, targets, analyses) starts without it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rectify.typed import check_known

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rectify.language.block import Block, Stack
    from rectify.trunks.trunk import Trunk

FINAL_NORMS = ("unit", "none", "loaded")
NORM_EPSILON = 1e-6


class Variant(NamedTuple):
    """One way of training a trunk: its name in tables, its colour in figures."""

    title: str
    colour: str


VARIANTS = {
    "vanilla": Variant("vanilla", "#4d4d4d"),
    "insert": Variant("inserted", "#0072b2"),
    "residual": Variant("inserted with a skip", "#117733"),
    "auxiliary": Variant("auxiliary path", "#d55e00"),
}
INSERTED = ("insert", "residual")
"""Variants with the rectifier in the only path, at a position, while training and at test."""
RECTIFIED = (*INSERTED, "auxiliary")


class Inner(NamedTuple):
    """What runs at the language model's width, between the two adapters.

    Attributes:
        layer: Mixes the tokens, and takes ``(tokens, padding)`` where tokens are padded.
        tokenwise: Modules that run on each token alone, after the layer.
    """

    layer: "nn.Module | None" = None
    tokenwise: "tuple[nn.Module, ...]" = ()


@dataclass(frozen=True)
class Place:
    """What a control may use.

    Attributes:
        trunk: The model that is trained.
        block: The pretrained frozen layer; for controls without ``weights`` perhaps its shape
            alone, for those without a ``bridge`` perhaps None.
        hidden: Width of the layer's tokens; None where there is no layer.
        final_norm: Norm after the layer: RMS with ``unit`` gain, the ``loaded`` one of the
            language model, frozen, or ``none``.
        generator: For whatever the control draws.
    """

    trunk: "Trunk"
    block: "nn.Module | None"
    hidden: int | None
    final_norm: str
    generator: "torch.Generator"

    def layer(self) -> "Block | Stack":
        """Return the block for a control that draws or moves its tensors, so must know them.

        Raises:
            ValueError: If it is not a language model's.
        """
        from rectify.language.block import Block, Stack

        if not isinstance(self.block, Block | Stack):
            raise ValueError(
                f"rectified: a control that draws the block anew must have a language model's, got "
                f"{type(self.block).__name__}. Choose control frozen, tuned, adapter, norm or mlp."
            )
        return self.block

    def norm(self) -> "tuple[nn.Module, ...]":
        """Return the norm that ``insert`` has after its layer, if it has one.

        Raises:
            ValueError: If it is the language model's, which has none.
        """
        from torch import nn

        if self.final_norm == "none":
            return ()
        if self.final_norm == "unit":
            return (nn.RMSNorm(self.hidden, eps=NORM_EPSILON, elementwise_affine=False),)
        norm = getattr(self.block, "final_norm", None)
        if norm is None:
            raise ValueError(
                "rectified: with final_norm loaded the block must bring the language model's norm, "
                "got none. Set final_norm to unit or none."
            )
        return (norm,)


Build = Callable[[Place], "Inner | nn.Module"]


@dataclass(frozen=True)
class Control:
    """What stands in place of the frozen layer.

    Attributes:
        title: Its name in tables.
        colour: Its colour in figures.
        build: Returns what runs between the adapters; without a ``bridge`` the rest of the
            auxiliary path, a module from ``Tokens`` to outputs.
        weights: Whether it needs the pretrained weights; else the layer's shape is enough.
        bridge: Whether it stands between two adapters.
    """

    title: str
    colour: str
    build: Build
    weights: bool = True
    bridge: bool = True

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that have this control."""
        return RECTIFIED if self.bridge else ("auxiliary",)


CONTROLS: dict[str, Control] = {}


def control(
    title: str, colour: str, *, weights: bool = True, bridge: bool = True
) -> Callable[[Build], Build]:
    """Register the decorated function as the control of its name; arguments as in ``Control``.

    Raises:
        ValueError: If there is a control of this name.
    """

    def register(build: Build) -> Build:
        if build.__name__ in CONTROLS:
            raise ValueError(
                f"controls: a control's name must be new, got {build.__name__} again. Rename it."
            )
        CONTROLS[build.__name__] = Control(title, colour, build, weights, bridge)
        return build

    return register


def insert_index(position: str | int | None, depth: int) -> int:
    """Return how many of a trunk's blocks are before a position: ``early``, ``middle``, ``end``.

    Raises:
        ValueError: If the position is misspelt or lies outside 0 .. depth.
    """
    places = {"early": 0, "middle": depth // 2, "end": depth}
    index = places.get(position, position)
    if not isinstance(index, int) or not 0 <= index <= depth:
        raise ValueError(
            f"rectified: position must be early, middle, end or 0..{depth}, got {position!r}. "
            "Correct the run's position."
        )
    return index


def find(variant: str, name: str = "frozen") -> Control:
    """Return a variant's control; ``frozen``, the pretrained frozen layer, is the default.

    Raises:
        ValueError: If there is no such variant or control, or the control is not for the variant.
    """
    check_known("rectified: variant", variant, VARIANTS, "a known variant")
    check_known("rectified: control", name, CONTROLS, "a known control")
    chosen = CONTROLS[name]
    if variant == "vanilla" and name != "frozen":
        raise ValueError(
            f"rectified: vanilla has nothing that a control could replace, got control {name}. "
            f"Leave the control out, or choose variant {' or '.join(RECTIFIED)}."
        )
    if variant != "vanilla" and variant not in chosen.variants:
        raise ValueError(
            f"rectified: control {name} must be of variant {' or '.join(chosen.variants)}, got "
            f"{variant}. Change one of them."
        )
    return chosen


@control("frozen layer", "#0072b2")
def frozen(place: Place) -> Inner:
    """The pretrained layer, frozen: not a control, but what all of them are compared with."""
    return Inner(place.block, place.norm())


@control("random frozen layer", "#56b4e9")
def random(place: Place) -> Inner:
    """A layer of the same shape as it is before any training, frozen."""
    from rectify.language.untrained import redrawn

    return Inner(redrawn(place.layer(), place.generator), place.norm())


@control("random layer, trained", "#aa4477")
def scratch(place: Place) -> Inner:
    """The random layer, trained along: "Random LLM" of Pang et al. (2024), App. B.2."""
    from rectify.language.untrained import redrawn

    return Inner(_trained(redrawn(place.layer(), place.generator)), place.norm())


@control("pretrained layer, trained", "#009e73")
def tuned(place: Place) -> Inner:
    """The pretrained layer, trained along: "LLaMA-FT" of Pang et al. (2024), Table 6."""
    return Inner(_trained(copy.deepcopy(place.block)), place.norm())


@control("shuffled frozen layer", "#44aa99")
def shuffled(place: Place) -> Inner:
    """The pretrained layer with the entries of each tensor permuted, frozen."""
    from rectify.language import untrained

    return Inner(untrained.shuffled(place.layer(), place.generator), place.norm())


@control("moment-matched frozen layer", "#999933")
def matched(place: Place) -> Inner:
    """A layer drawn with the mean and the deviation of each pretrained tensor, frozen."""
    from rectify.language.untrained import moment_matched

    return Inner(moment_matched(place.layer(), place.generator), place.norm())


@control("adapters alone", "#e69f00", weights=False)
def adapter(place: Place) -> Inner:
    """Nothing between the two linears, not even a norm."""
    return Inner()


@control("adapters and norm", "#ddcc77", weights=False)
def norm(place: Place) -> Inner:
    """The norm alone between the two linears."""
    modules = place.norm()
    if not modules:
        raise ValueError(
            "rectified: control norm must have a norm, got final_norm none. Set final_norm to unit "
            "or loaded, or choose control adapter."
        )
    return Inner(None, modules)


@control("MLP of the adapters' size", "#cc79a7", weights=False)
def mlp(place: Place) -> Inner:
    """GELU and LayerNorm between the two linears: "ViT-S-MLP" of Pang et al. (2024), Sec. 5.1."""
    from torch import nn

    return Inner(None, (nn.GELU(), nn.LayerNorm(place.hidden)))


@control("second head", "#7060c8", weights=False, bridge=False)
def head(place: Place) -> "nn.Module":
    """A second head on the trunk's tokens without anything between: deep supervision alone."""
    if not hasattr(place.trunk, "second_head"):
        raise ValueError(
            f"rectified: control head must have a trunk with second_head, got "
            f"{type(place.trunk).__name__} without. Give it one, or choose another control."
        )
    return place.trunk.second_head(place.generator)


@control("main gradient scaled", "#bbbbbb", weights=False, bridge=False)
def scale(place: Place) -> "nn.Module":
    """No second path at all: its loss is the main one's value, without any gradient.

    What is left of Eq. 10 is the main gradient times 1 - lambda: does its size alone matter?
    """
    import torch
    from torch import nn

    class Detached(nn.Module):
        """The trunk's own outputs; the trunk is no part of the module."""

        def forward(self, tokens: object) -> object:
            with torch.no_grad():
                return place.trunk.decode(tokens)

    return Detached()


def _trained(block: "nn.Module") -> "nn.Module":
    """Return the block with float32 weights, the precision that small steps need, trained."""
    return block.float().requires_grad_(True)
