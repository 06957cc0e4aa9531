"""Visual question answering: METER on images and questions, as Pang et al. (2024), Sec. 4.5."""

import contextlib
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rectify.data.batches import Prepare, Reader
from rectify.data.draws import Draws, seeds
from rectify.data.questions import KINDS, QuestionSet, load_questions
from rectify.data.texts import cut
from rectify.rectified import trunk_of
from rectify.tasks import meters
from rectify.tasks.contract import Batch, Machine, Recipe, TestSet, Vision
from rectify.tasks.meters import normalised, starts_of, test_prepare, training_prepare
from rectify.tasks.visual_question_answering.measures import alone
from rectify.tasks.visual_question_answering.settings import METRICS, Settings
from rectify.trunks.activations import magnitude
from rectify.trunks.meter import Meter
from rectify.trunks.trunk import Tokens

NAME = "visual_question_answering"
SETS = {kind: kind.replace("/", "-") for kind in KINDS}
"""Names of the test sets of one kind of answers each."""


class QuestionSource:
    """Questions of one split, as batches of ``inputs``, ``targets`` and what a test needs.

    A training batch also has ``origins``, on the CPU, where two questions are about one image.
    """

    views = 1

    def __init__(
        self,
        questions: QuestionSet,
        chosen: Int64[Tensor, " items"],
        machine: Machine,
        prepare: Prepare | None,
        floor: Float[Tensor, " questions"] | None = None,
    ):
        """Start nothing yet.

        Args:
            questions: All of the split.
            chosen: Those that are items here.
            machine: Where batches are wanted.
            prepare: From one image in a file to the model's size.
            floor: What ``measures.alone`` returned for all of the split, where this is a test.
        """
        self._questions, self._chosen, self._device = questions, chosen, machine.device
        self._floor = floor
        self._reader = Reader(questions.images, prepare, machine.workers, machine.device)

    def __len__(self) -> int:
        return len(self._chosen)

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        own, asked = self._chosen[items], self._questions
        numbers = repeat(None) if draws is None else draws.split(batch_size)
        item_seeds = None if draws is None else seeds(draws)
        stored = self._reader.read(asked.pictures[own], batch_size, item_seeds)
        for pixels, batch, drawn in zip(stored, own.split(batch_size), numbers, strict=False):
            made = {"targets": asked.dense(asked.targets, batch)}
            if self._floor is not None:
                made["accuracies"] = asked.dense(asked.accuracies, batch)
                made["floor"] = self._floor[batch]
            pictures = asked.pictures[batch]
            shared = drawn is not None and len(pictures.unique()) < len(pictures)
            yield {
                "inputs": {
                    "images": normalised(pixels),
                    "words": cut(asked.words[batch]).to(self._device),
                },
                **{name: one.to(self._device) for name, one in made.items()},
                **({"origins": pictures[:, None]} if shared else {}),
            }


class VisualQuestionAnswering:
    """What is the answer to a question about an image?"""

    settings, metrics = Settings, METRICS

    def training_source(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> QuestionSource:
        """Return the training questions that have an answer which may be given."""
        questions = load_questions(folder, "train")
        prepare = training_prepare(NAME, recipe, questions.images, entry.image_size)
        return QuestionSource(questions, questions.learnable, machine, prepare)

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give all test questions, with those of each kind of answers as parts."""
        questions = load_questions(folder, "test")
        floor = alone(questions, load_questions(folder, "train"))
        prepare = test_prepare(questions.images, entry.image_size)
        everything = torch.arange(len(questions))
        parts = {
            name: everything[questions.kinds == KINDS.index(kind)] for kind, name in SETS.items()
        }
        source = QuestionSource(questions, everything, machine, prepare, floor)
        yield TestSet("test", "-", source, {name: one for name, one in parts.items() if len(one)})

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a METER, and where it starts from."""
        return meters.trunk_of(NAME, Meter, entry, vision, recipe, entry.answers)

    def starts(self, vision: Vision) -> list[Path]:
        """Return the files of CLIP and RoBERTa, if training starts from them."""
        return starts_of(vision)

    def example(
        self,
        entry: Settings,
        vision: Vision,
        batch_size: int,
        device: torch.device | str,
        *,
        tested: bool = False,
    ) -> Batch:
        """Return random images and questions: see ``rectify.tasks.contract.Exemplary``."""
        images = meters.example_images(entry, batch_size, device)
        words = meters.example_words(entry, batch_size, device=device)
        targets = torch.rand(batch_size, entry.answers, device=device)
        return {"inputs": {"images": images, "words": words}, "targets": targets}

    def losses(self, outputs: Float[Tensor, "batch answers"], batch: Batch) -> Tensor:
        """Return the sum over the answers of the binary cross entropy, of each question."""
        return binary_cross_entropy_with_logits(
            outputs.float(), batch["targets"], reduction="none"
        ).sum(1)

    def scores(self, outputs: Float[Tensor, "items answers"], batch: Batch) -> dict[str, Tensor]:
        """Return how right the likeliest answer is, and the loss, of each question."""
        chosen = outputs.argmax(1, keepdim=True)
        return {
            "vqa": batch["accuracies"].gather(1, chosen)[:, 0],
            "question_alone": batch["floor"],
            "loss": self.losses(outputs, batch),
        }

    def answers(self, outputs: Float[Tensor, "items answers"], batch: Batch) -> dict[str, Tensor]:
        """Return ``answer``, the number of the likeliest one, of each question."""
        return {"answer": outputs.argmax(1, keepdim=True)}

    @contextlib.contextmanager
    def watch(self, model: nn.Module) -> Iterator[Mapping[str, Float[Tensor, "items tokens"]]]:
        """Give ``activations``, how active the tokens of patches are that reach the head."""
        trunk, seen = trunk_of(model), {}

        def keep(head: nn.Module, inputs: tuple[Tokens]) -> None:
            seen["activations"] = magnitude(trunk.patches(*inputs).float()).flatten(1)

        hook = trunk.head.register_forward_pre_hook(keep)
        try:
            yield seen
        finally:
            hook.remove()


TASK = VisualQuestionAnswering()
