"""How long an item takes on a GPU: from training steps that were timed, by FLOPs.

*Scaled*, of images and clips in bfloat16, which were timed. A trunk takes the time for a FLOP of
that timed trunk whose FLOPs are nearest, since small ones wait for the processor. What a rectifier
adds takes the time for a FLOP that it adds to the timed one:

    seconds = FLOPs of the trunk / its rate + further FLOPs / rate of the layer

A pass over few items takes no less than the shortest that was timed, which waits for the processor
and not for the GPU. Other GPUs are slower by the ratio of their matrix products, which is the
coarsest part.

*Counted*, of all else: what it takes at least. Products run at the largest share of the GPU's limit
that a timed step reached, and a pass is no shorter than it takes to start its operators:

    seconds of a pass = max(FLOPs / (share * limit), operators * seconds of a launch)
"""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from rectify.experiment.work import Flops, Launches, Subject, Work, alone
from rectify.results.files import read_yaml
from rectify.typed import Closed, check_known, merge, parse

SHIPPED = Path(__file__).with_name("speeds.yaml")
SAME = 0.01  # of the FLOPs: heads of 100 and of 1,000 classes differ by less

TERA = 1e12

Basis = Literal["own run", "given", "measured", "scaled", "stated", "counted", "unknown"]


class Card(Closed):
    """A GPU's dense matrix products, in TFLOP/s."""

    title: str
    peak: PositiveFloat = Field(description="In bfloat16, stated by its maker, without sparsity.")
    sustained: PositiveFloat | None = Field(None, description="Measured; null if it was not.")
    float32: PositiveFloat | None = Field(
        None, description="Stated by its maker, without TF32; null: not known."
    )
    source: str


class Step(Closed):
    """A training step that was timed."""

    timm: str
    overrides: dict[str, object] = Field({})
    image_size: PositiveInt
    variant: str = "vanilla"
    language: str | None = Field(None, description="A name in rectify/language/sizes.yaml.")
    compile: bool
    batch_size: PositiveInt = 256
    items_per_second: PositiveFloat

    def subject(self) -> Subject:
        """Return what is counted of it."""
        plain = alone(self.timm, self.overrides, self.image_size)
        if self.language is None:
            return plain
        how = {"variant": self.variant, "language": self.language, "insert_at": "end"}
        return plain._replace(**how)


class Ratios(Closed):
    """Time of a step that measures GSNR, in steps of the trunk that do not, by ``gsnr.mode``."""

    observe: Annotated[float, Field(ge=1)]
    replace: Annotated[float, Field(ge=1)]


class MeasuredStep(Closed):
    """The same, compiled and eager."""

    compiled: Ratios
    eager: Ratios


class Speeds(Closed):
    """What is known of GPUs."""

    cards: dict[str, Card]
    measured_on: str = Field(description="The card on which `steps` were timed.")
    steps: list[Step]
    measured_step: MeasuredStep
    launch_seconds: PositiveFloat = Field(description="To start an operator, at least.")
    items_per_second: dict[str, PositiveFloat] = Field(
        {}, description="Of trainings on one GPU, by patterns of their runs' names, as argoverse_*."
    )

    @model_validator(mode="after")
    def _knows_its_card(self) -> "Speeds":
        card = self.cards.get(self.measured_on)
        if card is None or card.sustained is None:
            raise ValueError(
                f"measured_on must be a card with sustained, got {self.measured_on}. Correct it."
            )
        for is_compiled in (True, False):
            how = [one for one in self.steps if one.compile == is_compiled]
            if len({one.variant == "vanilla" for one in how}) < 2:
                raise ValueError(
                    "steps must have one of a trunk alone and one with a language model's layer, "
                    f"each with compile true and with false, got {len(how)} with "
                    f"{str(is_compiled).lower()}. Add them."
                )
        return self


def load(path: Path | None) -> Speeds:
    """Return what ships with the package, with a file laid over it.

    Raises:
        ValueError: If the file is missing, or a key or value is not as it must be.
    """
    values = read_yaml(SHIPPED)
    return parse(Speeds, values if path is None else merge(values, read_yaml(path)), "--speed")


class Parts(NamedTuple):
    """Seconds of what a training consists of."""

    training: float
    trunk: float
    """Of training the trunk alone."""
    test: float


class Seconds(NamedTuple):
    """Time on one GPU."""

    item: Parts
    """At least, of one item."""
    shortest: Parts
    """At least, of one pass, however few items it has."""
    basis: Basis

    def of_pass(self, items: int | float) -> Parts:
        """Return the time of passes of so many items."""
        both = zip(self.item, self.shortest, strict=True)
        return Parts(*(max(items * item, least) for item, least in both))


class Rates:
    """The speed of one card.

    Args:
        speeds: What is known.
        card: A key of its ``cards``.
        count: Returns the work of a subject.

    Raises:
        ValueError: If there is no such card.
    """

    def __init__(self, speeds: Speeds, card: str, count: Callable[[Subject], Work]):
        check_known("plan: --card", card, speeds.cards, "a card of rectify/experiment/speeds.yaml")
        own, timed = speeds.cards[card], speeds.cards[speeds.measured_on]
        share = timed.sustained / timed.peak
        limit = own.sustained or own.peak * share
        self.limits = {
            "bfloat16": TERA * limit,
            "float32": own.float32 and TERA * own.float32 * limit / own.peak,
        }
        """FLOP/s that matrix products can reach, by precision; None where it is not known."""
        self.slower = timed.sustained / limit
        self.is_timed = card == speeds.measured_on
        self._speeds, self._count = speeds, count

    @cached_property
    def steps(self) -> list[tuple[Step, Flops]]:
        """The timed steps, and the FLOPs of an item."""
        return [(one, self._count(one.subject()).flops) for one in self._speeds.steps]

    @cached_property
    def share(self) -> float:
        """The largest share of its card's limit that a timed step reached."""
        limit = TERA * self._speeds.cards[self._speeds.measured_on].sustained
        return max(step.items_per_second * one.training for step, one in self.steps) / limit

    def counted(
        self, flops: Flops, launches: Launches, precision: str, is_compiled: bool
    ) -> Seconds | None:
        """Return what is needed at least; None where the card's limit is not known.

        Args:
            flops: Of an item.
            launches: Of a pass.
            precision: Of the training.
            is_compiled: Whether the training compiles its model, which starts fewer operators.
        """
        limit = self.limits[precision]
        if limit is None:
            return None
        products = (flops.training, flops.training_trunk, flops.test)
        launch = 0.0 if is_compiled else self._speeds.launch_seconds
        return Seconds(
            Parts(*(count / (self.share * limit) for count in products)),
            Parts(*(launch * count for count in launches)),
            "counted",
        )

    def scaled(self, flops: Flops, is_compiled: bool) -> Seconds:
        """Return the time of images or clips in bfloat16.

        Args:
            flops: Of the item.
            is_compiled: Whether the training compiles its model.
        """
        trunk = self._trunk(flops.training_trunk, is_compiled)
        layer = self._layer(is_compiled)
        training = trunk * flops.training_trunk + layer * (flops.training - flops.training_trunk)
        test = trunk * flops.test_trunk + layer * (flops.test - flops.test_trunk)
        timed = [
            1 / step.items_per_second
            for step, one in self.steps
            if step.compile == is_compiled
            and math.isclose(one.training, flops.training, rel_tol=SAME)
            and math.isclose(one.training_trunk, flops.training_trunk, rel_tol=SAME)
        ]
        basis = ("measured" if timed else "scaled") if self.is_timed else "stated"
        training = timed[0] if timed else training
        times = (training, trunk * flops.training_trunk, test)
        least = self._shortest_pass(is_compiled)
        item = Parts(*(self.slower * value for value in times))
        return Seconds(item, Parts(least, least, 0.0), basis)

    def _shortest_pass(self, is_compiled: bool) -> float:
        """Return the seconds of the shortest pass that was timed, forward and backward."""
        return min(
            step.batch_size / step.items_per_second
            for step, _ in self.steps
            if step.compile == is_compiled
        )

    def _trunk(self, flops: int, is_compiled: bool) -> float:
        """Return the seconds of a trunk's FLOP: of the timed trunk that is nearest in size."""
        alone = [
            (abs(math.log(one.training / flops)), 1 / (step.items_per_second * one.training))
            for step, one in self.steps
            if step.compile == is_compiled and step.variant == "vanilla"
        ]
        return min(alone)[1]

    def _layer(self, is_compiled: bool) -> float:
        """Return the seconds of a further FLOP: the mean over the timed steps with a layer."""
        further = [
            (1 / step.items_per_second - self._trunk(one.training_trunk, is_compiled) *
             one.training_trunk) / (one.training - one.training_trunk)
            for step, one in self.steps
            if step.compile == is_compiled and step.variant != "vanilla"
        ]  # fmt: skip
        return sum(further) / len(further)
