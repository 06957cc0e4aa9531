"""Answers to a few questions: what is written above and below the pictures, and the maps."""

import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pandas import DataFrame

from rectify.analysis.asked import Questions, read_answers
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.targets.answers import LETTERS, RIGHT, SHOWN, WRONG, Settings, check, figure
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

NAMES = ("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl_layer-7_end",
         "glyphs_vit-s_auxiliary_llama-xl_layer-7_end_lambda-0.35")  # fmt: skip
ITEMS = (11, 3, 19, 0)


@pytest.fixture(scope="module")
def results(demo: synthetic.Made, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folders = [folder for name in NAMES for folder in demo.runs if folder.name == name]
    runs = synthetic.Results(folders, [0, 1]).runs
    return results_of(runs=runs, **synthetic.questions(tmp_path_factory.mktemp("questions")))


@pytest.fixture(scope="module")
def drawn(results: Results) -> Drawn:
    return figure(results, Settings(reads="questions", items=ITEMS))


def test_a_column_is_a_question_and_a_row_below_its_picture_a_run(
    drawn: Drawn, results: Results
) -> None:
    axes, asked = drawn.figure.axes, Questions(results.prepared("glyphs"))
    labels = [one.get_ylabel() for one in axes]
    assert labels[::4] == ["people", "vanilla", "inserted", "auxiliary path"]
    assert sum(map(bool, labels)) == 4
    for column, item in enumerate(ITEMS):
        question = asked[item]
        assert axes[column].get_title() == textwrap.fill(question.text, LETTERS)
        assert axes[column].get_xlabel() == question.truth
        for row in range(4):
            picture = axes[4 * row + column].get_images()[0]
            assert np.array_equal(picture.get_array(), question.picture)


def test_a_map_lies_over_the_picture_and_the_answer_is_below(
    drawn: Drawn, results: Results
) -> None:
    known, seen = Questions(results.prepared("glyphs")).answers, set()
    for row, name in enumerate(NAMES):
        answers, accuracies, maps = read_answers(results.predictions(name, 0))
        for column, item in enumerate(ITEMS):
            axes = drawn.figure.axes[4 * (1 + row) + column]
            picture, layer = axes.get_images()
            assert np.array_equal(layer.get_array(), maps[item])
            assert layer.get_extent() == picture.get_extent()
            assert 0 < layer.get_alpha() < 1
            right = accuracies[item]
            mark = "✓" if right == 1 else "✗" if right == 0 else f"({right:.1f})"
            assert axes.get_xlabel() == f"{known[answers[item]]} {mark}"
            assert axes.xaxis.label.get_color() == (RIGHT if right >= 0.5 else WRONG)
            seen.add(mark)
    assert "✗" in seen
    assert len(seen) > 1


def test_the_values_are_what_is_drawn(drawn: Drawn, results: Results) -> None:
    values = drawn.values.set_index(["item", "run", "row", "column"])
    assert len(values) == len(ITEMS) * len(NAMES) * 4
    answers, accuracies, maps = read_answers(results.predictions(NAMES[2], 0))
    questions = Questions(results.prepared("glyphs"))
    row = values.loc[19, NAMES[2], 1, 0]
    assert row["value"] == maps[19, 1, 0]
    assert row["answer"] == questions.answers[answers[19]]
    assert row["accuracy"] == pytest.approx(accuracies[19])
    assert (row["question"], row["truth"]) == questions[19][:2]


def test_questions_are_from_all_of_the_set_unless_they_are_named(results: Results) -> None:
    values = figure(results, Settings(reads="questions")).values
    expected = [int((2 * n + 1) * 20 / (2 * SHOWN)) for n in range(SHOWN)]
    assert values["item"].unique().tolist() == expected


def test_a_question_that_is_not_there_is_one_line(results: Results) -> None:
    with pytest.raises(ValueError, match=r"items must be below 20, .* got 20"):
        figure(results, Settings(reads="questions", items=(1, 20)))


def test_nothing_to_draw_is_one_line() -> None:
    with pytest.raises(ValueError, match="answers: there must be runs on a set of questions"):
        figure(results_of(runs=DataFrame(columns=["run", "seed"])), Settings(reads="questions"))


def test_another_task_is_refused() -> None:
    task = SimpleNamespace(task="image_text_retrieval")
    experiments = {"captions": SimpleNamespace(data=("captions",))}
    config = SimpleNamespace(
        data={"captions": task}, experiments=experiments, visions={}, languages={}
    )
    with pytest.raises(ValueError, match="must be of task visual_question_answering, got captions"):
        check(Settings(reads="captions"), config, "targets.answers")


def test_files_without_answers_are_one_line(demo: synthetic.Made, tmp_path: Path) -> None:
    results = synthetic.Results(demo.runs, [0])
    with pytest.raises(ValueError, match=r"predictions\.parquet: must have answer, got none"):
        read_answers(results.predictions(NAMES[0], 0))
    with pytest.raises(ValueError, match=r"manifest\.csv"):
        Questions(tmp_path)
