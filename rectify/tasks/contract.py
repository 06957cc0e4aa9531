"""What a task is: data, trunk, losses and scores, behind one contract.

A batch is a mapping of tensors: ``inputs`` is what the model is called with, and the rest is
whatever the task's losses and scores need (``labels``, ...). At test ``inputs`` may be a list, a
part of what each item is compared with in each: the model is called with each, and the outputs are
joined along their second axis. Where samples of a training batch
share something, as the partners of Mixup do, ``origins`` has the numbers of what each was made
from, so that GSNR does not take them for independent. Training, evaluation and GSNR know nothing
else about a task, but whether it keeps its answers (`Answering`). To add one, give these methods to
a class, and its instance the name ``TASK``: ``rectify.tasks.found``.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from pandas import DataFrame
from torch import Tensor, nn

from rectify.data.draws import Draws
from rectify.runtime import own_threads
from rectify.tasks.entry import Entry, Metric
from rectify.trunks.trunk import Inputs, Outputs

Batch = Mapping[str, Inputs | list[Inputs]]


@dataclass(frozen=True)
class Machine:
    """Where batches are wanted, and who reads them."""

    device: torch.device
    workers: int = 0
    """Processes that read and prepare items ahead; 0 does it when a batch is due."""

    @classmethod
    def of(cls, device: torch.device, threads: int) -> "Machine":
        """Return a device with this process's share of the job's threads as workers.

        On a CPU there is none: the model needs the threads.
        """
        return cls(device, own_threads(threads) if device.type == "cuda" else 0)


NO_TIMM = "none"
"""``Vision.timm`` of a trunk that is not timm's."""


@runtime_checkable
class Vision(Protocol):
    """Which trunk a run trains, as ``config.json`` says it."""

    name: str
    timm: str
    overrides: dict[str, object]
    family: str | None
    start: str | None


@runtime_checkable
class Recipe(Protocol):
    """What a task may read of a recipe (``rectify.training.recipes``): all but its optimizer."""

    batch_size: int
    drop_path: float
    head_scale: float
    label_smoothing: float
    mixup: float
    cutmix: float
    mixup_prob: float
    mixup_switch_prob: float
    mixup_mode: str
    mixes: bool
    auto_augment: str | None
    augment_on: str
    crop: str
    crop_scale: float
    pad: int
    flip: float
    random_erasing: float
    cloud_scale: float
    cloud_shift: float


@runtime_checkable
class Source(Protocol):
    """The items of one split, as batches on the device.

    Attributes:
        views: Inputs of an item, those of an item one after the other.
    """

    views: int

    def __len__(self) -> int:
        """Return the number of items."""

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order, ``batch_size`` at a time; the last batch may be smaller.

        Args:
            items: Item numbers.
            batch_size: Items at a time.
            draws: While training, the random numbers of each item's place in its epoch.
        """


class TestSet(NamedTuple):
    """One set on which a trained model is scored."""

    name: str
    """``test`` for the plain test set, else the shift, ``c``, ``a``, ...."""
    group: str
    """``<condition>/<severity>``, or ``-`` for a complete set."""
    source: Source
    parts: Mapping[str, Int64[Tensor, " items"]] = MappingProxyType({})
    """Places of items that are also scored as a set of their own, by its name."""


@runtime_checkable
class Prepared(Protocol):
    """A set that was read and checked, and is not written yet.

    Attributes:
        listing: The manifest.
        left_out: Items that cannot be read, and may be missing.
    """

    listing: DataFrame
    left_out: tuple[str, ...]

    def write(self, folder: Path, provenance: dict[str, object]) -> None:
        """Write the set into its folder, the manifest last."""


@runtime_checkable
class Preparer(Protocol):
    """Whatever prepares a task's sets: its ``prepare.py``, or the task itself from outside.

    It is apart from the rest, so that a change of it trains nothing again.
    """

    def prepare(self, name: str, entry: Entry, shift: str | None, threads: int) -> Prepared:
        """Read or draw a set, or one of its shifted test sets; check and count it.

        Args:
            name: Of the set in the configuration, for messages.
            entry: Its settings.
            shift: Name of a shifted test set, or None for the set itself.
            threads: That look at the items.

        Raises:
            ValueError: If an item, a class or a count is not as it must be.
        """


@runtime_checkable
class Task(Protocol):
    """A task that trains a model.

    Attributes:
        settings: The keys of its sets; others are errors.
        metrics: What it is scored by; the first is the headline.
    """

    settings: type[Entry]
    metrics: tuple[Metric, ...]

    def training_source(
        self, entry: Entry, folder: Path, recipe: Recipe, machine: Machine
    ) -> Source:
        """Return the training split of a prepared set, as a recipe augments it."""

    def test_sets(
        self, entry: Entry, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give the test sets that ``entry`` names, the plain one first."""

    def trunk(self, entry: Entry, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a trunk, drawn from the global generators.

        Args:
            entry: Of the set that it learns.
            vision: Which trunk.
            recipe: How its training starts; None for a trunk that gets trained weights.
        """

    def starts(self, vision: Vision) -> list[Path]:
        """Return the files of weights that a training starts from."""

    def losses(self, outputs: Outputs, batch: Batch) -> Float[Tensor, " batch"]:
        """Return one loss per sample: GSNR is measured on exactly these."""

    def scores(self, outputs: Outputs, batch: Batch) -> dict[str, Float[Tensor, " items"]]:
        """Return one value per item: ``loss``, and each metric as ``<name>`` or ``<name>@<k>``."""


@runtime_checkable
class Exemplary(Protocol):
    """A task whose items have a size before there are any: its models can be counted and timed."""

    def example(
        self,
        entry: Entry,
        vision: Vision,
        batch_size: int,
        device: torch.device | str,
        *,
        tested: bool = False,
    ) -> Batch:
        """Return random items of a usual size, with what their losses need.

        Args:
            entry: Of the set that they could be of.
            vision: Which trunk sees them.
            batch_size: Items of a training.
            device: Where they are wanted; ``meta`` for shapes alone.
            tested: Whether they are as a test shows them: of one view each.
        """


@runtime_checkable
class Answering(Protocol):
    """A task whose answers are kept next to the scores of the test items, as for pictures."""

    def answers(self, outputs: Outputs, batch: Batch) -> dict[str, Float[Tensor, "items numbers"]]:
        """Return what the model says of each item, as numbers by name."""


@runtime_checkable
class Watching(Answering, Protocol):
    """A task that keeps what goes on in its models with these answers, too."""

    def watch(
        self, model: nn.Module
    ) -> AbstractContextManager[Mapping[str, Float[Tensor, "items numbers"]]]:
        """Give numbers by name, which are of the items that went through the model last."""
