"""Questions in memory: what answers are worth, and the set as it is written."""

import dataclasses
from pathlib import Path

import pytest
import torch

from rectify.data.answers import accuracies, normalised, numbered, soft_targets, vocabulary
from rectify.data.manifests import label_order, read_listing
from rectify.data.questions import (
    KINDS,
    Asked,
    Question,
    QuestionSet,
    gathered,
    listing_of,
    load_questions,
    save_questions,
)
from rectify.data.sets import FileSet
from rectify.data.texts import PADDING
from rectify.demo.questions import questions
from rectify.results.provenance import provenance

DRAWN = questions(image_size=16, train_scenes=12, test_scenes=3)
ANSWERS = vocabulary((one.most for split in DRAWN.values() for one in split.questions), least=2)


def tokens(asked: Asked) -> list[list[int]]:
    return [[0, *range(4, 4 + n % 5), 2] for n in range(len(asked.questions))]


def sets() -> dict[str, QuestionSet]:
    return {split: gathered(one, ANSWERS, tokens(one)) for split, one in DRAWN.items()}


def write(folder: Path, made: dict[str, QuestionSet], files: Path | None = None) -> Path:
    folder.mkdir()
    save_questions(folder, made, listing_of(DRAWN, ANSWERS), files, provenance(0))
    return folder


def test_what_an_answer_is_worth_is_looked_up_question_by_question() -> None:
    made = sets()["train"]
    items = torch.tensor([7, 0, 31, 7])
    exact = {answer: number for number, answer in enumerate(ANSWERS)}
    for values, function, numbers in (
        (made.targets, soft_targets, exact),
        (made.accuracies, accuracies, numbered(ANSWERS)),
    ):
        dense = made.dense(values, items)
        for row, item in zip(dense.tolist(), items.tolist(), strict=True):
            worth = function(DRAWN["train"].questions[item].said, numbers)
            assert row == pytest.approx([worth.get(n, 0.0) for n in range(len(ANSWERS))])
    assert dense.max() > 0


def test_questions_without_an_answer_that_may_be_given_are_not_learned() -> None:
    kinds = ["yes/no", "other", "number"]
    said = [("yes",) * 10, ("teal",) * 10, ("4",) + ("many",) * 9]
    asked = Asked(
        [Question(n, "?", n, kinds[n], said[n][-1], said[n]) for n in range(3)], ["a", "b", "c"]
    )
    made = gathered(asked, ("yes", "4"), [[0, 2]] * 3)
    assert made.learnable.tolist() == [0, 2]
    assert made.kinds.tolist() == [KINDS.index(kind) for kind in kinds]
    assert made.dense(made.targets, torch.arange(3)).tolist() == [
        [1, 0], [0, 0], pytest.approx([0, 0.3])
    ]  # fmt: skip


def test_a_set_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = sets()
    folder = write(tmp_path / "set", made)
    for split in made:
        again = load_questions(folder, split)
        for name in ("words", "numbers", "kinds", "pictures", "given", "counts", "images"):
            assert torch.equal(getattr(again, name), getattr(made[split], name)), name
        assert torch.equal(again.targets, made[split].targets)
        assert torch.equal(again.accuracies, made[split].accuracies)
        assert again.answers == ANSWERS
    assert made["train"].words[0].tolist() == [0, 2, *[PADDING] * 4]
    listing, _ = read_listing(folder)
    for row, one in zip(
        listing.itertuples(), [q for split in DRAWN.values() for q in split.questions], strict=True
    ):
        answer = normalised(one.most)
        assert row.name == answer
        assert row.label == (ANSWERS.index(answer) if answer in ANSWERS else -1)


def test_images_in_files_are_those_of_the_questions(tmp_path: Path) -> None:
    made = sets()
    again = load_questions(write(tmp_path / "set", made, tmp_path), "test")
    assert isinstance(again.images, FileSet)
    assert again.images.sources == tuple(DRAWN["test"].pictures)
    assert again.pictures.tolist() == [n // 5 for n in range(15)]


def test_texts_are_kept_as_they_were_asked(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", sets())
    for split, asked in DRAWN.items():
        texts = load_questions(folder, split).texts
        assert texts == tuple(question.text for question in asked.questions)


def test_the_order_of_the_answers_is_that_of_the_labels(tmp_path: Path) -> None:
    """Also where the answers that training questions have most keep their numbers."""
    made = sets()
    orders = {label_order(write(tmp_path / "one", made)), label_order(write(tmp_path / "2", made))}
    assert len(orders) == 1
    swapped = (*ANSWERS[:-2], ANSWERS[-1], ANSWERS[-2])
    other = {split: gathered(one, swapped, tokens(one)) for split, one in DRAWN.items()}
    assert label_order(write(tmp_path / "swapped", other)) not in orders


def test_a_damaged_set_is_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", sets())
    with pytest.raises(ValueError, match="safetensors file with split dev, got") as caught:
        load_questions(folder, "dev")
    assert "\n" not in str(caught.value)
    tests = {split: sets()["test"] for split in DRAWN}
    shorter = {
        split: dataclasses.replace(one, images=one.images.clone()) for split, one in tests.items()
    }
    save_questions(folder, shorter, listing_of(DRAWN, ANSWERS), None, provenance(0))
    with pytest.raises(ValueError, match="list the same items of train, got 60 and 15"):
        load_questions(folder, "train")
