"""What distinguishes one training from another, and the name that says so.

A run's name can be read back:

    glyphs_vit-64_vanilla
    glyphs_vit-64_insert_llama-7b_layer-31_end
    glyphs_vit-64_insert-random_llama-7b_layer-31_5
    glyphs_vit-64_insert_llama-7b_layer-30-31_end
    glyphs_vit-64_residual-adapter_llama-7b_layer-31_end
    glyphs_vit-64_auxiliary_llama-7b_layer-31_end_lambda-0.35
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, SerializeAsAny

from rectify.controls import CONTROLS, VARIANTS, insert_index
from rectify.filtering.settings import Filtering
from rectify.results.files import read_json
from rectify.tasks.entry import TrunkSettings
from rectify.training.recipes import Recipe
from rectify.typed import NAME, Closed, Layer, layer_by, parse

FROZEN = "frozen"  # the pretrained layer itself: no control
POSITIONS = ("early", "middle", "end")  # from the image towards the head; or a number of blocks


@dataclass(frozen=True)
class Run:
    """What distinguishes one training from another, apart from its seed."""

    data: str
    vision: str
    variant: str = "vanilla"
    control: str = FROZEN
    language: str | None = None
    layer: int | str | None = None
    position: str | None = None
    lambda_init: float = 0.0

    @property
    def name(self) -> str:
        """The run's name, from which ``parse`` gives back the run."""
        control = "" if self.control == FROZEN else f"-{self.control}"
        fields = [self.data, self.vision, f"{self.variant}{control}"]
        if self.language is not None:
            fields += [self.language, f"layer-{self.layer}", f"{self.position}"]
        if self.variant == "auxiliary":
            fields.append(f"lambda-{self.lambda_init}")
        return "_".join(fields)

    @classmethod
    def parse(cls, name: str) -> "Run":
        """Return the run that a name means.

        Raises:
            ValueError: If the name does not follow the grammar.
        """
        fields = name.split("_")
        try:
            variant, _, control = fields[2].partition("-")
            run = cls(*fields[:2], variant, control or FROZEN, *_parse_layer(fields[3:]))
        except (ValueError, IndexError, TypeError):
            run = None
        if run is None or run.name != name or not run._is_valid:
            raise ValueError(
                f"config: a run must be named <data>_<vision>_<variant>[-<control>][_<language>_"
                f"layer-<n>_<position>[_lambda-<x>]], got {name!r}. "
                "Ask for one that `snakemake -n` lists."
            )
        return run

    @property
    def _is_valid(self) -> bool:
        names = (self.data, self.vision, self.language or "none")
        placed = self.position in POSITIONS or re.fullmatch(r"\d+", self.position or "")
        bare = (self.variant == "vanilla", self.language is None, not placed)
        return (
            all(re.fullmatch(NAME, name) for name in names)
            and self.variant in VARIANTS
            and self.control in CONTROLS
            and (self.control == FROZEN or self.variant in CONTROLS[self.control].variants)
            and len(set(bare)) == 1
            and (0 < self.lambda_init <= 1 or self.variant != "auxiliary")
        )


def place(position: str, depth: int) -> int:
    """Return how many blocks of the trunk come before a position, 0 .. depth."""
    return insert_index(int(position) if position.isdecimal() else position, depth)


class EveryStep(Closed):
    """How the noise of every step is measured."""

    samples: Annotated[int, Field(ge=2)] = Field(
        8,
        description="Of each step, whose gradients' norms stand for all of its batch: a step's "
        "standard error falls with their root, and is written, too.",
    )
    steps: PositiveInt = Field(
        10, description="In a row, whose mean is one row of each quantity in noise.csv."
    )


class GsnrSettings(Closed):
    """What is measured while training; the shown estimator is a label."""

    batches: int
    xi: float
    mode: str
    loss: str
    group: str
    model: str
    labels: str
    parameters: str
    every_step: EveryStep | None


class VisionSettings(TrunkSettings):
    """The same, with what was read from the trunk."""

    depth: int


class RunSettings(Closed):
    """What decides a run's weights and what is measured on the way: ``config.json``.

    ``data`` is the task's own group, reduced to the fields that decide the weights, with the
    set's name and task.
    """

    run: str
    task: str
    data: SerializeAsAny[dict[str, object]]
    vision: VisionSettings
    variant: str
    control: str
    language: str | None
    layer: Layer | None
    position: str | None
    insert_at: int | None
    lambda_init: float
    lambda_floor: float
    final_norm: Literal["unit", "none", "loaded"]
    recipe: Recipe
    gsnr: GsnrSettings
    filtering: Filtering | None = None


class Label(Closed):
    """A name and what people read in its place."""

    name: str
    title: str


class RunLabels(Closed):
    """What is only shown: ``labels.json``. No change in it trains or evaluates anything."""

    run: str
    data: Label
    vision: Label
    language: Label | None
    estimator: str


def _parse_layer(fields: list[str]) -> tuple:
    if not fields:
        return ()
    language, layer, position, *weight = fields
    parsed = language, layer_by(layer.removeprefix("layer-")), position
    return (*parsed, float(weight[0].removeprefix("lambda-"))) if weight else parsed


def read_run(path: Path) -> RunSettings:
    """Return the settings in a run's ``config.json``.

    Raises:
        ValueError: If the file does not hold them.
    """
    return parse(RunSettings, read_json(path), f"{path}")
