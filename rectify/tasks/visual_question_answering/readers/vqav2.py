"""VQAv2 (Goyal et al., CVPR 2017): questions and annotations as JSON, images of COCO.

    v2_OpenEnded_mscoco_{train2014,val2014}_questions.json   image_id, question, question_id
    v2_mscoco_{train2014,val2014}_annotations.json           multiple_choice_answer, answers, ...
    {train2014,val2014}/COCO_{train2014,val2014}_<image_id in 12 digits>.jpg

The answers to the test questions are not public, so the test split is the validation set, and no
question of it is left out. METER trains on its larger part as well, which is not done here. For the
benchmark's server all test questions can be read; test-dev is a part of them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.annotations import entries, paired
from rectify.tasks.image_classification.folders import check_present

if TYPE_CHECKING:
    from rectify.data.questions import Asked, Question

EMBEDDED, IN_MEMORY = False, False

SPLITS = {"train": "train2014", "test": "val2014"}
UNSCORED = "test2015"
SOURCE = "VQA v2.0 (https://visualqa.org/download.html) and the images of COCO 2014"
ASKED = {"question_id": int, "image_id": int, "question": str}
ANSWERED = {
    "question_id": int, "image_id": int, "multiple_choice_answer": str, "answer_type": str,
    "answers": list,
}  # fmt: skip
PEOPLE = 10
COMPLETE: dict[tuple[str, ...], int] = {("train",): 443_757, ("test",): 214_354}


def read(folder: Path) -> "dict[str, Asked]":
    """Return the questions of train and test.

    Args:
        folder: Holds the four JSON files, ``train2014`` and ``val2014``.

    Raises:
        ValueError: If a file is missing, damaged or not of this format.
    """
    names = [(_questions(one), _annotations(one), one) for one in SPLITS.values()]
    check_present(folder, [folder / name for files in names for name in files], SOURCE)
    return {split: _asked(folder, place) for split, place in SPLITS.items()}


def read_unscored(folder: Path) -> list[tuple[int, str, str]]:
    """Return number, text and image file of each public test question, which has no answers.

    Args:
        folder: Holds ``v2_OpenEnded_mscoco_test2015_questions.json`` and ``test2015``.

    Raises:
        ValueError: If the file is missing, damaged or not of this format.
    """
    path = folder / _questions(UNSCORED)
    check_present(folder, [path], SOURCE)
    return [
        (asked["question_id"], asked["question"], _picture(UNSCORED, asked))
        for asked in entries(path, "questions", ASKED, _wrong)
    ]


def write_submission(path: Path, numbers: Sequence[int], answers: Sequence[str]) -> None:
    """Write answers as the benchmark's server takes them: a list of numbers and answers.

    Args:
        path: Ends in ``.json``.
        numbers: ``question_id`` of each question.
        answers: To each.
    """
    rows = [
        {"question_id": number, "answer": answer}
        for number, answer in zip(numbers, answers, strict=True)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def _questions(place: str) -> str:
    return f"v2_OpenEnded_mscoco_{place}_questions.json"


def _annotations(place: str) -> str:
    return f"v2_mscoco_{place}_annotations.json"


def _picture(place: str, asked: dict) -> str:
    return f"{place}/COCO_{place}_{asked['image_id']:012}.jpg"


def _asked(folder: Path, place: str) -> "Asked":
    """Return one split, in the order of the file of questions."""
    from rectify.data.questions import Asked

    path = folder / _annotations(place)
    file = folder / _questions(place), ASKED
    pictures: dict[str, int] = {}
    questions = []
    for asked, answered in paired(file, (path, ANSWERED), _wrong):
        name = _picture(place, asked)
        picture = pictures.setdefault(name, len(pictures))
        questions.append(_question(path, asked, answered, picture))
    return Asked(questions, list(pictures))


def _question(path: Path, asked: dict, answered: dict, picture: int) -> "Question":
    """Return one question with its answers."""
    from rectify.data.questions import KINDS, Question

    number, kind = asked["question_id"], answered["answer_type"]
    if asked["image_id"] != answered["image_id"]:
        got = f"{answered['image_id']} and {asked['image_id']} of question {number}"
        raise _wrong(path, "image_id must be that of the question", got)
    if kind not in KINDS:
        raise _wrong(path, f"answer_type must be {', '.join(KINDS)}", f"{kind} of {number}")
    said = [one.get("answer") if isinstance(one, dict) else None for one in answered["answers"]]
    if len(said) != PEOPLE or not all(isinstance(one, str) for one in said):
        got = f"{sum(isinstance(one, str) for one in said)} of question {number}"
        raise _wrong(path, f"a question must have {PEOPLE} answers", got)
    most = answered["multiple_choice_answer"]
    return Question(number, asked["question"], picture, kind, most, tuple(said))


def _wrong(path: Path, rule: str, got: str) -> ValueError:
    return ValueError(f"{path}: {rule}, got {got}. Get {SOURCE} again.")
