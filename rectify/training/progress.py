"""What a training knows about its epochs, and how far it is."""

import math
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from rectify.runtime import Later


@dataclass(frozen=True)
class EpochRow:
    """What is known about an epoch."""

    epoch: int
    """Epochs done before this one."""
    train_loss: float
    main_loss: float
    auxiliary_loss: float | None
    """None without a second path."""
    weight: float
    """Of the auxiliary loss: lambda."""
    lr: float
    """Highest rate of any tensor, at the end of the epoch."""
    train_seconds: float
    items_per_second: float
    test: dict[str, float] = field(default_factory=dict)
    """After the epoch: ``test_loss`` and the task's headline metric."""
    outlines: dict[str, float] = field(default_factory=dict)
    """After the epoch: IoU of activations with masks, if that is measured."""

    def metrics(self) -> dict[str, float]:
        """Return each metric by its name in a history."""
        values = {name: value for name, value in asdict(self).items() if name != "epoch"}
        after = values.pop("test") | values.pop("outlines")
        values = {("lambda" if name == "weight" else name): value for name, value in values.items()}
        return {name: value for name, value in (values | after).items() if value is not None}


@dataclass
class Progress:
    """How far a training is; all of it is saved."""

    rows: list[EpochRow] = field(default_factory=list)
    """Of the epochs that are done."""
    step: int = 0
    """Steps that are done of the next epoch, and what they add up to."""
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Sums of the total, main and auxiliary loss."""
    seconds: float = 0.0


class Step(NamedTuple):
    """A step that was started, and may not have ended yet."""

    epoch: int
    number: int
    """Of the epoch, counted from 0."""
    values: Later
    """Over all its samples, in all processes: the mean total, main and auxiliary loss, and
    whether any process was asked to stop."""

    def read(self) -> tuple[list[float], bool]:
        """Return the losses, and whether to stop; wait for the step, if it has not ended.

        Raises:
            ValueError: If the loss is not finite.
        """
        *losses, is_asked = self.values.tolist()
        if not math.isfinite(losses[0]):
            raise ValueError(
                f"training: the loss must be finite, got {losses[0]} in epoch {self.epoch}, step "
                f"{self.number}. Lower training.lr; the state of the epoch before is kept."
            )
        return losses, is_asked > 0
