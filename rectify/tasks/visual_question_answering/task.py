"""Visual question answering: METER on images and questions, as Pang et al. (2024), Sec. 4.5."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from timm.data.auto_augment import rand_augment_transform
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.transforms import Compose

from rectify.data.batches import Prepare, Reader
from rectify.data.draws import Draws, seeds
from rectify.data.questions import KINDS, PADDING, QuestionSet, load_questions
from rectify.data.sets import FileSet
from rectify.tasks import unchanged
from rectify.tasks.contract import Batch, Machine, Recipe, TestSet, Vision
from rectify.tasks.image_classification.augment import evaluation_transform, normalise
from rectify.tasks.visual_question_answering.measures import alone
from rectify.tasks.visual_question_answering.settings import METRICS, Settings
from rectify.trunks.meter import Meter
from rectify.trunks.meter_starts import load_start, start_files

NO_TIMM = "none"
SETS = {kind: kind.replace("/", "-") for kind in KINDS}
"""Names of the test sets of one kind of answers each."""
OPERATIONS = (
    *("AutoContrast", "Equalize", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color"),
    *("Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
"""METER's, of timm's: an inverted picture has other colours than those that are asked for."""


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
            words = asked.words[batch].long()
            longest = int((words != PADDING).sum(1).max())
            made = {"targets": asked.dense(asked.targets, batch)}
            if self._floor is not None:
                made["accuracies"] = asked.dense(asked.accuracies, batch)
                made["floor"] = self._floor[batch]
            pictures = asked.pictures[batch]
            shared = drawn is not None and len(pictures.unique()) < len(pictures)
            yield {
                "inputs": {
                    "images": _normalised(pixels),
                    "words": words[:, :longest].to(self._device),
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
        questions, values = load_questions(folder, "train"), dict(unchanged.OF_IMAGES)
        prepare = None
        if isinstance(questions.images, FileSet):
            values["crop"] = "centre"
            del values["auto_augment"]
            prepare = training_transform(entry.image_size, recipe.auto_augment)
        unchanged.check("visual_question_answering", recipe, "meter", values)
        return QuestionSource(questions, questions.learnable, machine, prepare)

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give all test questions, then those of each kind of answers."""
        questions = load_questions(folder, "test")
        floor = alone(questions, load_questions(folder, "train"))
        in_files = isinstance(questions.images, FileSet)
        prepare = evaluation_transform(entry.image_size, 1.0) if in_files else None
        everything = torch.arange(len(questions))
        parts = {"test": everything} | {
            name: everything[questions.kinds == KINDS.index(kind)] for kind, name in SETS.items()
        }
        for name, chosen in parts.items():
            if len(chosen):
                yield TestSet(name, "-", QuestionSource(questions, chosen, machine, prepare, floor))

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a METER, and where it starts from."""
        if vision.timm != NO_TIMM or vision.family is not None:
            raise ValueError(
                f"visual_question_answering: {vision.name} must have timm: {NO_TIMM} and no "
                f"family, since the trunk is METER, got {vision.timm} and "
                f"{vision.family or 'none'}. Correct it."
            )
        trunk = Meter.of(
            vision.overrides, answers=entry.answers, words=entry.words, image_size=entry.image_size
        )
        if recipe is not None and vision.start is not None:
            load_start(trunk, Path(vision.start))
        return trunk

    def starts(self, vision: Vision) -> list[Path]:
        """Return the files of CLIP and RoBERTa, if training starts from them."""
        return [] if vision.start is None else start_files(Path(vision.start))

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


def training_transform(image_size: int, operations: str | None) -> Compose:
    """Return what a training image goes through: RandAugment, then what test images do."""
    test = evaluation_transform(image_size, 1.0)
    if operations is None:
        return test
    return Compose([rand_augment_transform(operations, {}, list(OPERATIONS)), *test.transforms])


def _normalised(pixels: Tensor) -> Float[Tensor, "batch 3 height width"]:
    """Return images as the model takes them: colours as CLIP's, drawn greys three times."""
    if pixels.shape[1] == 3:
        return normalise(pixels, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    return normalise(pixels).expand(-1, 3, -1, -1)


TASK = VisualQuestionAnswering()
