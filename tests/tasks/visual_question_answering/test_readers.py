"""VQAv2 as it is published, from drawn scenes; and one line for each damage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pandas import DataFrame

from rectify.demo.questions import questions
from rectify.tasks.readers import check_complete
from rectify.tasks.visual_question_answering.readers import vqav2
from rectify.tasks.visual_question_answering.readers.vqav2 import read
from tests.helpers import question_trees
from tests.helpers.damages import refused

SIZES = {"seed": 0, "train_scenes": 6, "test_scenes": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return question_trees.write(tmp_path_factory.mktemp("vqa"), questions(**SIZES))


def test_the_files_give_the_questions_that_were_written(source: Path) -> None:
    found = read(source)
    for split, place in (("train", "train2014"), ("test", "val2014")):
        expected = questions(**SIZES)[split]
        assert found[split].questions == expected.questions
        names = [f"{place}/COCO_{place}_{7 * n:012}.jpg" for n in range(len(expected.pictures))]
        assert found[split].pictures == names
        assert all((source / name).is_file() for name in names)
        assert found[split].images is None


ASKED, SAID = "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"
Change = Callable[[list], object]


def set_to(key: str, value: object, place: int = 3) -> Change:
    return lambda entries: entries[place].__setitem__(key, value)


DAMAGES = {
    "no list": (ASKED, lambda entries: entries.clear(), "must have a list of questions, got none"),
    "a number": (ASKED, lambda entries: entries.append(7), "questions must be a mapping, got 7"),
    "text": (ASKED, set_to("question", None), "question must be a str, got None of entry 3"),
    "id": (ASKED, set_to("question_id", "9"), "question_id must be a int, got '9' of entry 3"),
    "image": (ASKED, set_to("image_id", True), "image_id must be a int, got True of entry 3"),
    "twice": (ASKED, lambda e: e.append(e[0]), "a question_id must be there once, got 0 twice"),
    "kind": (SAID, set_to("answer_type", "word", -1),
             "answer_type must be yes/no, number, other, got word of 0"),
    "most": (SAID, lambda e: e[3].pop("multiple_choice_answer"),
             "multiple_choice_answer must be a str, got None of entry 3"),
    "nine": (SAID, lambda e: e[-1]["answers"].pop(), "must have 10 answers, got 9 of question 0"),
    "no answer": (SAID, lambda e: e[-1]["answers"][2].pop("answer"), "10 answers, got 9 of"),
    "another image": (SAID, set_to("image_id", 8, -1),
                      "must be that of the question, got 8 and 0 of question 0"),
    "not annotated": (SAID, lambda e: e.pop(), "must have an annotation, got none of 0"),
    "not asked": (SAID, lambda e: e.append({**e[0], "question_id": 999}),
                  "be of a question that is asked, got one of 999"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_one_line(source: Path, damage: str) -> None:
    file, change, said = DAMAGES[damage]
    path, before = source / file, (source / file).read_text()
    content = json.loads(before)
    change(content["questions" if file == ASKED else "annotations"])
    assert json.dumps(content) != before
    with refused(path, said):
        path.write_text(json.dumps(content))
        read(source)


def test_a_file_that_is_cut_off_and_one_of_another_form_are_one_line(source: Path) -> None:
    path, before = source / SAID, (source / SAID).read_text()
    for text, said in ((before[:99], "must be JSON"), ("[]", "must have a list of annotations")):
        with refused(path, said):
            path.write_text(text)
            read(source)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=ASKED) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_full_set_has_the_published_counts() -> None:
    rows = [("train", n) for n in range(443_757)] + [("test", n) for n in range(214_354)]
    listing = DataFrame(rows, columns=["split", "source"])
    check_complete("vqav2", vqav2, listing)
    with pytest.raises(ValueError, match="214,354 items in test, got 214353"):
        check_complete("vqav2", vqav2, listing[:-1])
