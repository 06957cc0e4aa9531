"""Situated question answering: SQA3D's model, as Pang et al. (2024), Sec. 4.5 and Table 5b."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from rectify.data.draws import Draws, seeds
from rectify.data.situations import SituationSet, load_situations
from rectify.runtime import seed_for
from rectify.tasks import unchanged
from rectify.tasks.contract import NO_TIMM, Batch, Machine, Recipe, TestSet, Vision
from rectify.tasks.situated_question_answering.example import example
from rectify.tasks.situated_question_answering.losses import losses
from rectify.tasks.situated_question_answering.measures import (
    OTHERS,
    TYPES,
    exact_matches,
    floors,
    types,
)
from rectify.tasks.situated_question_answering.rooms import (
    FEATURES,
    Change,
    mean_sizes,
    seen_room,
    stacked,
)
from rectify.tasks.situated_question_answering.settings import METRICS, Settings
from rectify.trunks.sqa3d import Sqa3d, length_of_words


class SituationSource:
    """Questions of one split, as batches of ``inputs``, the answer, and what is in the room.

    A training batch also has ``origins``, on the CPU, where two questions are about one room.
    """

    views = 1

    def __init__(
        self,
        asked: SituationSet,
        chosen: Int64[Tensor, " items"],
        entry: Settings,
        machine: Machine,
        sizes: Float32[Tensor, "kinds 3"],
        *,
        change: Change | None = None,
        more: dict[str, Tensor] | None = None,
    ):
        """Start nothing yet.

        Args:
            asked: All questions of the split.
            chosen: Those that are items here.
            entry: Says what a model sees and learns.
            machine: Where batches are wanted.
            sizes: Mean sizes of the kinds of objects.
            change: How training rooms are changed.
            more: Values of each question of the split that the scores need besides.
        """
        self._asked, self._chosen, self._entry = asked, chosen, entry
        self._device, self._change, self._more = machine.device, change, dict(more or {})
        self._sizes = sizes
        flags = {"detection": entry.detection, "pose_counts": entry.pose}
        self._same = {name: torch.tensor([flag]) for name, flag in flags.items()}
        self._same["ks"] = torch.tensor([1, entry.top_k]).unique()

    def __len__(self) -> int:
        return len(self._chosen)

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        own, asked = self._chosen[items], self._asked
        numbers = repeat(None) if draws is None else draws.split(batch_size)
        for batch, drawn in zip(own.split(batch_size), numbers, strict=False):
            trained = None if drawn is None else seeds(drawn).tolist()
            room_seeds = trained or [seed_for(0, "test", item) for item in batch.tolist()]
            made = self._rooms(batch, room_seeds)
            made |= {"answers": asked.answers[batch], "worths": asked.worths[batch], **self._same}
            made |= {name: values[batch] for name, values in self._more.items()}
            inputs = {name: made.pop(name) for name in ("points", "features")}
            inputs |= {
                "situation": self._words(asked.situations[batch]),
                "question": self._words(asked.questions[batch]),
            }
            rooms = asked.rooms[batch]
            shared = drawn is not None and len(rooms.unique()) < len(rooms)
            yield {
                "inputs": {name: one.to(self._device) for name, one in inputs.items()},
                **{name: one.to(self._device) for name, one in made.items()},
                **({"origins": rooms[:, None]} if shared else {}),
            }

    def _rooms(self, batch: Int64[Tensor, " batch"], room_seeds: list[int]) -> dict[str, Tensor]:
        """Return the rooms of the items, the sizes of boxes relative to the mean of their kind."""
        entry = self._entry
        made = stacked(
            [
                seen_room(
                    self._asked,
                    item,
                    entry.points,
                    seed,
                    self._change,
                    erased=entry.erased_colours,
                    detection=entry.detection,
                )
                for item, seed in zip(batch.tolist(), room_seeds, strict=True)
            ]
        )
        if entry.detection:
            means = self._sizes[made["kinds"]]
            made["relative_sizes"] = (made.pop("sizes") - means) / means
        return made

    def _words(self, rows: Tensor) -> Tensor:
        """Return the words of the texts without what is padding in all; or their vectors."""
        longest = max(1, int((rows != 0).sum(1).max()))
        numbers = rows[:, :longest].long()
        vectors = self._asked.vectors
        return vectors[numbers] if vectors.shape[1] else numbers


class SituatedQuestionAnswering:
    """What is the answer to a question that somebody asks from a place in a room?"""

    settings, metrics = Settings, METRICS

    def training_source(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> SituationSource:
        """Return the training split; each item has its own points, mirror, turns and shift."""
        unchanged.check("situated_question_answering", recipe, "sqa3d")
        asked = load_situations(folder, "train")
        change = Change(entry.flips == "published", entry.turn, recipe.cloud_shift)
        change = change if any(change) else None
        everything = torch.arange(len(asked))
        return SituationSource(asked, everything, entry, machine, mean_sizes(asked), change=change)

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give all test questions, with those of each type as parts."""
        known, asked = (load_situations(folder, split) for split in ("train", "test"))
        more, sizes = floors(asked, known), mean_sizes(known)
        kinds = types(asked)
        parts = {
            kind: torch.tensor([item for item, own in enumerate(kinds) if own == kind])
            for kind in (*TYPES, OTHERS)
            if kind in kinds
        }
        everything = torch.arange(len(asked))
        source = SituationSource(asked, everything, entry, machine, sizes, more=more)
        yield TestSet("test", "-", source, parts)

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return SQA3D's model."""
        if vision.timm != NO_TIMM or vision.family is not None or vision.start is not None:
            raise ValueError(
                f"situated_question_answering: {vision.name} must have timm: {NO_TIMM}, no family "
                f"and no start, since the trunk is SQA3D's, got {vision.timm}, "
                f"{vision.family or 'none'} and {vision.start or 'none'}. Correct it."
            )
        return Sqa3d.of(
            vision.overrides,
            answers=entry.answers,
            words=None if entry.vectors is not None else entry.words,
            points=entry.points,
            features=FEATURES,
        )

    def starts(self, vision: Vision) -> list[Path]:
        """Return no files: a training starts from drawn weights."""
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
        """Return random rooms and texts: see ``rectify.tasks.contract.Exemplary``."""
        flags = {"detection": entry.detection, "pose_counts": entry.pose}
        vectors = None if entry.vectors is None else length_of_words(vision.overrides)
        made = example(batch_size, entry.points, vectors, device)
        return {**made, **{name: torch.tensor([flag]) for name, flag in flags.items()}}

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> Float[Tensor, " batch"]:
        """Return what each sample's detector, pose and answer lose."""
        flags = {"detection": bool(batch["detection"]), "pose": bool(batch["pose_counts"])}
        return losses(outputs, batch, **flags)

    def scores(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return whether the answer is among the best, what never looking gives, and the loss."""
        ks = batch["ks"].tolist()
        matches = {f"em@{k}": exact_matches(outputs["answers"], batch["answers"], k) for k in ks}
        never = {name: batch[name] for name in ("one_answer", "by_type", "question_alone")}
        return {**matches, **never, "loss": self.losses(outputs, batch)}


TASK = SituatedQuestionAnswering()
