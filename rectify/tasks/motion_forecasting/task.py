"""Motion forecasting from tracks and lanes, as Pang et al. (2024), Sec. 4.4."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rectify.data.draws import Draws
from rectify.data.forecasts import ForecastSet, load_scenes
from rectify.tasks import unchanged
from rectify.tasks.contract import NO_TIMM, Batch, Machine, Recipe, TestSet, Vision
from rectify.tasks.motion_forecasting import measures
from rectify.tasks.motion_forecasting.example import AGENTS, LANES, example
from rectify.tasks.motion_forecasting.settings import METRICS, Settings
from rectify.trunks.mmtransformer import MmTransformer
from rectify.trunks.vectornet import VectorNet
from rectify.typed import check_known

FAMILIES = {"vectornet": VectorNet, "mmtransformer": MmTransformer}
GIVEN = ("no_agent", "lanes", "flags", "no_lane")
"""What the model is called with besides the observed steps of the tracks."""


class SceneSource:
    """Scenes of one split, as batches of ``inputs``, ``future`` and ``future_seen``.

    A training batch also has ``origins``, on the CPU, where it has a scene twice.
    """

    views = 1

    def __init__(
        self,
        scenes: ForecastSet,
        entry: Settings,
        machine: Machine,
        more: dict[str, Tensor] | None = None,
    ):
        """Start nothing yet.

        Args:
            scenes: All of them.
            entry: Whose forecasts are learned.
            machine: Where batches are wanted.
            more: What the scores need besides, the same for each batch.
        """
        self._scenes, self._device, self._more = scenes, machine.device, dict(more or {})
        self._focal, self._observed = torch.tensor([entry.loss_agents == "focal"]), entry.observed

    def __len__(self) -> int:
        return len(self._scenes)

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        numbers = repeat(None) if draws is None else draws.split(batch_size)
        for batch, drawn in zip(items.split(batch_size), numbers, strict=False):
            made = {name: one.to(self._device) for name, one in self._scenes.batch(batch).items()}
            tracks, seen, now = made["tracks"], made["seen"], self._observed
            past = {"tracks": tracks[:, :, :now], "seen": seen[:, :, :now]}
            again = drawn is not None and len(batch.unique()) < len(batch)
            yield {
                "inputs": {name: made[name] for name in GIVEN} | past,
                "future": tracks[:, :, now:],
                "future_seen": seen[:, :, now:],
                "focal": self._focal,
                **({"origins": batch[:, None]} if again else {}),
                **self._more,
            }


class MotionForecasting:
    """Where does a car go?"""

    settings, metrics = Settings, METRICS

    def training_source(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> SceneSource:
        """Return the training split, nothing of which is changed."""
        unchanged.check("motion_forecasting", recipe, "pang-vectornet")
        return SceneSource(load_scenes(folder, "train"), entry, machine)

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give the test set."""
        least = torch.tensor([entry.min_ade == "least"])
        more = {"ks": torch.tensor([entry.top_k]), "least": least}
        yield TestSet("test", "-", SceneSource(load_scenes(folder, "test"), entry, machine, more))

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a trunk of the named family; a VectorNet, where none is named."""
        if vision.timm != NO_TIMM or vision.start is not None:
            raise ValueError(
                f"motion_forecasting: {vision.name} must have timm: {NO_TIMM} and no start, since "
                f"training starts from random weights, got {vision.timm} and "
                f"{vision.start or 'none'}. Correct it."
            )
        family = vision.family or "vectornet"
        where = f"motion_forecasting: family of {vision.name}"
        check_known(where, family, FAMILIES, "a known form of the trunk")
        agents = 1 if entry.loss_agents == "focal" else None  # whose forecasts anybody looks at
        return FAMILIES[family].of(vision.overrides, entry.observed, entry.future, agents)

    def starts(self, vision: Vision) -> list[Path]:
        """Return no file: training starts from random weights."""
        return []

    def example(
        self,
        entry: Settings,
        vision: Vision,
        batch_size: int,
        device: torch.device | str,
        *,
        tested: bool = False,
    ) -> Batch:
        """Return scenes of the usual size: see ``rectify.tasks.contract.Exemplary``."""
        steps = {"observed": entry.observed, "future": entry.future}
        focal = torch.tensor([entry.loss_agents == "focal"])
        made = example(batch_size, agents=AGENTS, lanes=LANES, **steps, device=device)
        return {**made, "focal": focal}

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> Float[Tensor, " batch"]:
        """Return the loss of each scene, whatever the others are."""
        focal = bool(batch["focal"].any())
        return measures.losses(outputs, batch["future"], batch["future_seen"], focal)

    def scores(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the benchmark's metrics of each scene, and its loss."""
        found, future = {}, batch["future"][:, 0]
        mean = "least" if "least" in batch and batch["least"].any() else "closest"
        for k in sorted({1, *batch["ks"].tolist()} if "ks" in batch else {1}):
            found |= measures.scores(outputs, future, k, mean)
        return {**found, "loss": self.losses(outputs, batch)}

    def answers(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the forecasts of the scored agent, the most likely first.

        Returns:
            ``trajectories`` (batch, modes x steps x 2), metres ahead of and to the left of its last
            observed position, and ``probabilities`` (batch, modes).
        """
        found, likely = measures.ranked(outputs)
        return {"trajectories": found.flatten(1), "probabilities": likely.softmax(1)}


TASK = MotionForecasting()
