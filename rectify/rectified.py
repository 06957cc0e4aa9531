"""A language model's frozen layer in a trunk: inserted, or as a second loss path::

    insert     embed -> blocks[:i] -> up -> layer -> norm -> down -> blocks[i:] -> decode   (Eq. 6)
    residual   the same, with a skip around the rectifier: z + down(norm(layer(up(z))))
    auxiliary  embed -> blocks -> decode                             the main path, kept at test
                              \\-> up -> layer -> norm -> down -> decode  dropped at test   (Eq. 8)

Controls (``rectify.controls``) put something else between ``up`` and ``down``. The trunk runs once
for both paths, and is anything that ``rectify.trunks.trunk`` describes.

Draws: the adapters come first, from ``generator(seed, "bridge")``; what a control draws comes from
``generator(seed, "control")``. So the adapters of a seed are the same whatever stands between them.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rectify import controls
from rectify.controls import FINAL_NORMS, INSERTED, Control, Inner, Place, insert_index
from rectify.language.block import Block, Stack, outline_block, read_block
from rectify.runtime import generator as seeded
from rectify.tensors import check_same_tensors
from rectify.trunks.kinds import as_trunk
from rectify.trunks.trunk import Groups, Inputs, Outputs, Tokens, Trunk, groups_within, width_at
from rectify.typed import check_known


class Bridge(nn.Module):
    """Up to the language model's width, through its layer, and down again.

    Args:
        up: From the trunk's width to the language model's.
        inner: What runs there.
        down: Back to the trunk's width.
        residual: Whether the tokens are added to what comes out.
    """

    def __init__(self, up: nn.Linear, inner: Inner, down: nn.Linear, residual: bool = False):
        super().__init__()
        self.residual = residual
        self.up = up
        self.layer = inner.layer
        self.tokenwise = nn.Sequential(*inner.tokenwise)
        self.down = down

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        padding: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        wide = self.up(tokens)  # (batch, tokens, hidden)
        if self.layer is not None:
            given = wide
            wide = self.layer(given) if padding is None else self.layer(given, padding)
            _check_tokens(wide, given, self.layer)
        update = self.down(self.tokenwise(wide))  # (batch, tokens, dim)
        return tokens + update if self.residual else update


def adapters(dim: int, hidden: int, generator: torch.Generator) -> tuple[nn.Linear, nn.Linear]:
    """Return the linears up to ``hidden`` and down to ``dim``: truncated normal, std 0.02, no bias.

    Args:
        dim: Width of the trunk.
        hidden: Width of the language model.
        generator: Draws the one up first.
    """
    up = nn.Linear(dim, hidden, bias=False)
    down = nn.Linear(hidden, dim, bias=False)
    for linear in (up, down):
        nn.init.trunc_normal_(linear.weight, std=0.02, generator=generator)
    return up, down


class _Rectified(nn.Module):
    """A trunk and a bridge, and what timm's optimizers ask a model about its parameters."""

    def __init__(self, trunk: nn.Module, bridge: Bridge | None):
        super().__init__()
        self.trunk, self.bridge = trunk, bridge

    def bridged(self, tokens: Tokens) -> Tokens:
        """Return the tokens after the bridge."""
        return tokens._replace(values=self.bridge(tokens.values, tokens.padding))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed."""
        names = self.trunk.no_weight_decay() if hasattr(self.trunk, "no_weight_decay") else ()
        return {f"trunk.{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> Groups:
        """The trunk's layers for layer decay; what is in none, the bridge too, is the last.

        Raises:
            ValueError: If the trunk has no ``group_matcher``.
        """
        if not hasattr(self.trunk, "group_matcher"):
            raise ValueError(
                f"rectified: layer_decay must have a trunk with group_matcher, got "
                f"{type(self.trunk).__name__} without. Set layer_decay to null."
            )
        return groups_within(r"trunk\.", self.trunk.group_matcher(coarse))


class InsertedModel(_Rectified):
    """A trunk with a bridge before block ``insert_at``; the depth is after the last block."""

    def __init__(self, trunk: nn.Module, bridge: Bridge, insert_at: int):
        super().__init__(trunk, bridge)
        self.insert_at = insert_at

    def forward(self, inputs: Inputs) -> Outputs:
        tokens = self.trunk.run(self.trunk.embed(inputs), 0, self.insert_at)
        tokens = self.bridged(tokens)
        return self.trunk.decode(self.trunk.run(tokens, self.insert_at, len(self.trunk.blocks)))


class AuxiliaryModel(_Rectified):
    """A trunk with a second loss path; the plain trunk at test.

    Args:
        trunk: The model that is kept.
        bridge: Between the last block and the trunk's ``decode`` in the second path.
        head: In place of bridge and ``decode``, where there is no bridge.
    """

    def __init__(self, trunk: nn.Module, bridge: Bridge | None, head: nn.Module | None = None):
        super().__init__(trunk, bridge)
        self.head = head

    def forward(self, inputs: Inputs) -> Outputs | tuple[Outputs, Outputs]:
        """Return the outputs; while training, those of the main and of the auxiliary path."""
        tokens = self.trunk.run(self.trunk.embed(inputs), 0, len(self.trunk.blocks))
        main = self.trunk.decode(tokens)
        return (main, self._second(tokens)) if self.training else main

    def _second(self, tokens: Tokens) -> Outputs:
        if self.head is not None:
            return self.head(tokens)
        return self.trunk.decode(self.bridged(tokens))


def insert(
    model: nn.Module,
    block: nn.Module,
    position: str | int | None,
    *,
    generator: torch.Generator | None = None,
    hidden: int | None = None,
    final_norm: str = "unit",
    control: str = "frozen",
    control_generator: torch.Generator | None = None,
    residual: bool = False,
) -> InsertedModel:
    """Return a trunk with the frozen ``block`` in its forward path (Eq. 6).

    Args:
        model: A trunk, or a model that ``as_trunk`` knows; used, not copied.
        block: A layer from ``rectify.language.load_block``; or any module that takes tokens
            ``(batch, tokens, hidden)`` and returns as many, with the attribute ``hidden``, or
            ``hidden_size``, or the argument. It stays as frozen, or not, as it is.
        position: ``early``, ``middle``, ``end``, or the number of the trunk's blocks before it.
        generator: Draws the two adapters; without one they are those of ``build`` with seed 0.
        hidden: Width of the block's tokens, where the block does not say it.
        final_norm: Norm after the layer: RMS with ``unit`` gain, the ``loaded`` one of the
            language model, frozen, or ``none``.
        control: What stands in place of ``block``, a key of ``rectify.controls.CONTROLS``.
        control_generator: For what the control draws; ``generator``, after the adapters, if None,
            and without that one of seed 0.
        residual: Whether a skip goes around the rectifier, which is not in the paper; all weights
            are the same with and without.

    Raises:
        ValueError: If the model is none that can be taken apart, the block's width is not known,
            the position, norm or control is not one of these, or there is no norm.
    """
    variant = "residual" if residual else "insert"
    trunk, chosen = as_trunk(model), controls.find(variant, control)
    insert_at = insert_index(position, len(trunk.blocks))
    draws, control_draws = _generators(generator, control_generator)
    place = Place(trunk, block, _width(block, hidden), final_norm, control_draws)
    bridge = _bridge(place, chosen, width_at(trunk, insert_at), draws, residual)
    return InsertedModel(trunk, bridge, insert_at)


def auxiliary(
    model: nn.Module,
    block: nn.Module | None,
    *,
    generator: torch.Generator | None = None,
    hidden: int | None = None,
    final_norm: str = "unit",
    control: str = "frozen",
    control_generator: torch.Generator | None = None,
) -> AuxiliaryModel:
    """Return a trunk with the frozen ``block`` in a second loss path only (Eq. 8).

    Arguments and errors are those of ``insert``; the control ``head`` needs no block.
    """
    trunk, chosen = as_trunk(model), controls.find("auxiliary", control)
    draws, control_draws = _generators(generator, control_generator)
    width = _width(block, hidden) if chosen.bridge else hidden
    place = Place(trunk, block, width, final_norm, control_draws)
    if not chosen.bridge:
        return AuxiliaryModel(trunk, None, chosen.build(place))
    return AuxiliaryModel(trunk, _bridge(place, chosen, trunk.dim, draws))


def build(
    model: nn.Module,
    variant: str,
    control: str = "frozen",
    *,
    block: Path | None,
    position: str | int | None,
    final_norm: str = "unit",
    seed: int,
) -> nn.Module:
    """Return the untrained model of a variant; ``vanilla`` is the trunk alone.

    Args:
        model: A trunk, or a model that ``as_trunk`` knows; used, not copied.
        variant: A key of ``rectify.controls.VARIANTS``.
        control: A key of ``rectify.controls.CONTROLS``.
        block: What ``extract_block`` wrote; None where the variant needs none.
        position: As in ``insert``; the auxiliary path starts at the end, None means that too.
        final_norm: As in ``insert``.
        seed: Of all draws.

    Raises:
        ValueError: As ``insert``, or if the block is missing or damaged.
    """
    trunk, chosen = as_trunk(model), controls.find(variant, control)
    if variant == "vanilla":
        return trunk
    layer = _layer(block, chosen, f"variant {variant} with control {control}")
    draws = {"generator": seeded(seed, "bridge"), "control_generator": seeded(seed, "control")}
    if variant in INSERTED:
        how = {"control": control, "residual": variant == "residual"}
        return insert(trunk, layer, position, final_norm=final_norm, **how, **draws)
    depth = len(trunk.blocks)
    if position is not None and insert_index(position, depth) != depth:
        raise ValueError(
            f"rectified: the auxiliary path must start at the end, got position {position}. "
            f"Set position to end, or choose variant {' or '.join(INSERTED)}."
        )
    return auxiliary(trunk, layer, final_norm=final_norm, control=control, **draws)


def trunk_of(model: nn.Module) -> Trunk:
    """Return the trunk inside of a model of any variant."""
    return model.trunk if isinstance(model, _Rectified) else as_trunk(model)


def export(model: nn.Module) -> dict[str, Tensor]:
    """Return the plain trunk's weights, as used at test; a ViT's under timm's names.

    Raises:
        ValueError: If the model needs its bridge at test and so has no plain form.
    """
    if isinstance(model, InsertedModel):
        raise ValueError(
            "rectified: only a vanilla or auxiliary model has a plain form, got an inserted one. "
            "Train the auxiliary variant, or save its trainable_state."
        )
    plain = _plain(trunk_of(model))
    return {name: tensor.detach() for name, tensor in plain.state_dict().items()}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that training changes: a frozen layer is never stored again.

    A trunk alone has the names that ``export`` gives it.
    """
    plain = _plain(model)
    frozen = {name for name, parameter in plain.named_parameters() if not parameter.requires_grad}
    return {
        name: tensor.detach() for name, tensor in plain.state_dict().items() if name not in frozen
    }


def load_trainable_state(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Put back what ``trainable_state`` returned; every tensor must be there, and no other.

    A trunk alone takes what ``export`` returned, too.

    Raises:
        ValueError: If names or shapes differ; names the first that does.
    """
    expected = trainable_state(model)
    check_same_tensors(expected, state, where, "Train this run again.")
    for name, tensor in expected.items():
        tensor.copy_(state[name])


def _plain(model: nn.Module) -> nn.Module:
    """Return the model that a trunk wraps, if it wraps one."""
    return getattr(model, "plain", model)


def _layer(path: Path | None, control: Control, what: str) -> Block | Stack | None:
    """Return the frozen layer, or only its shape where the control needs no more."""
    if not control.bridge:
        return None
    if path is None:
        raise ValueError(f"rectified: {what} must have a block, got none. Give --block.")
    return read_block(path) if control.weights else outline_block(path)


def _bridge(
    place: Place, control: Control, dim: int, generator: torch.Generator, residual: bool = False
) -> Bridge:
    """Return the adapters, drawn first, with what the control has between them."""
    check_known("rectified: final_norm", place.final_norm, FINAL_NORMS, "a known norm")
    up, down = adapters(dim, place.hidden, generator)
    return Bridge(up, control.build(place), down, residual)


def _generators(
    generator: torch.Generator | None, control_generator: torch.Generator | None
) -> tuple[torch.Generator, torch.Generator]:
    """Return who draws the adapters, and who draws for a control; of seed 0 if nobody is given."""
    if generator is None:
        return seeded(0, "bridge"), control_generator or seeded(0, "control")
    return generator, control_generator or generator


def _width(block: nn.Module | None, hidden: int | None) -> int:
    """Return the width of a block's tokens: what it says, or what is said of it."""
    said = getattr(block, "hidden", getattr(block, "hidden_size", None))
    width = said if hidden is None else hidden
    if not isinstance(width, int) or said not in (None, width):
        got = f"{said or 'none'} of {type(block).__name__}"
        got += "" if hidden is None else f" and the argument {hidden}"
        raise ValueError(
            f"rectified: hidden, the width of the block's tokens, must be known, got {got}. "
            "Give the block the attribute hidden, or insert the argument."
        )
    return width


def _check_tokens(tokens: object, given: Tensor, layer: nn.Module) -> None:
    """Check that a layer returned its tokens: transformers' may return a tuple, for example."""
    if not isinstance(tokens, Tensor) or tokens.shape != given.shape:
        got = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(
            f"rectified: the block must return the tokens alone, {tuple(given.shape)}, got {got} "
            f"from {type(layer).__name__}. Wrap it in a module that does."
        )
