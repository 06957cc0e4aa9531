"""A task from outside the package, as small as one can be: is a point inside of a circle?

Nothing in `rectify` knows it; a config names the module as its `task`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from pandas import DataFrame
from safetensors.torch import load_file, save_file
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rectify.data.manifests import manifest, write_listing
from rectify.tasks import Entry, Metric
from rectify.tasks.contract import Batch, Machine, TestSet
from rectify.tasks.entry import decides
from rectify.trunks.trunk import Tokens


class Settings(Entry):
    """Points in a square."""

    points: int = decides("items", default=64, description="Points of each split.")
    radius: float = decides("items", "weights", default=0.8, description="Of the circle.")
    tokens: int = decides("weights", default=3, description="Times that the model sees a point.")


@dataclass(frozen=True)
class Points:
    """A prepared set."""

    listing: DataFrame
    arrays: Mapping[str, Tensor]
    left_out: tuple[str, ...] = ()

    def write(self, folder: Path, provenance: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.arrays), folder / "arrays.safetensors")
        write_listing(folder, self.listing, provenance)


class Source:
    """Points as batches: a mapping of inputs, and whether each point is inside."""

    views = 1

    def __init__(self, points: Tensor, entry: Settings, device: torch.device):
        self.points, self.entry, self.device = points.to(device), entry, device

    def __len__(self) -> int:
        return len(self.points)

    def read(self, items: Tensor, batch_size: int, draws: Tensor | None = None) -> Iterator[Batch]:
        numbers = [None] * len(items) if draws is None else draws.split(batch_size)
        for chosen, own in zip(items.split(batch_size), numbers, strict=False):
            points = self.points[chosen]
            inside = (points.norm(dim=1) < self.entry.radius).float()
            if own is not None:  # a circle may be turned
                points = torch.where(own[:, :1].to(points) < 0.5, points, points.flip(1))
            seen = points[:, None].expand(-1, self.entry.tokens, -1)
            yield {"inputs": {"points": seen}, "inside": inside}


class Trunk(nn.Module):
    """Two blocks on tokens of 8 numbers; the mean token says how likely a point is inside."""

    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(2, self.dim), nn.Linear(self.dim, 1)
        self.layers = nn.ModuleList(Mlp(self.dim) for _ in range(2))

    @property
    def blocks(self) -> dict[str, nn.Module]:
        return {str(index): block for index, block in enumerate(self.layers)}

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:
        return Tokens(self.stem(inputs["points"]))

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        values = tokens.values
        for block in self.layers[start:stop]:
            values = values + block(values)
        return tokens._replace(values=values)

    def decode(self, tokens: Tokens) -> Tensor:
        return self.head(tokens.values.mean(1))[:, 0]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.decode(self.run(self.embed(inputs), 0, len(self.layers)))


class Circle:
    """The task."""

    settings = Settings
    metrics = (Metric("error", "share, 0..1", "lower", "error rate"),)

    def prepare(self, name: str, entry: Settings, shift: str | None, threads: int) -> Points:
        draws = torch.Generator().manual_seed(0)
        arrays = {
            split: 2 * torch.rand(entry.points, 2, generator=draws) - 1
            for split in ("train", "test")
        }
        rows = [(split, -1, "point", f"{item}") for split in arrays for item in range(entry.points)]
        return Points(manifest(rows), arrays)

    def training_source(
        self, entry: Settings, folder: Path, recipe: object, machine: Machine
    ) -> Source:
        arrays = load_file(folder / "arrays.safetensors")
        return Source(arrays["train"], entry, machine.device)

    def test_sets(
        self, entry: Settings, folder: Path, recipe: object, machine: Machine
    ) -> Iterator[TestSet]:
        arrays = load_file(folder / "arrays.safetensors")
        yield TestSet("test", "-", Source(arrays["test"], entry, machine.device))

    def trunk(self, entry: Settings, vision: object, recipe: object | None) -> Trunk:
        return Trunk()

    def starts(self, vision: object) -> list[Path]:
        return []

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return binary_cross_entropy_with_logits(outputs, batch["inside"], reduction="none")

    def scores(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        wrong = (outputs > 0) != batch["inside"].bool()
        return {"error": wrong.float(), "loss": self.losses(outputs, batch)}


TASK = Circle()
VISION = SimpleNamespace(name="mlp", timm="none", overrides={}, family=None, start=None)
