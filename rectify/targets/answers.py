"""A few test questions: the picture, what each model answers, and where its tokens are active."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pandas import DataFrame, Series
from pydantic import Field, NonNegativeInt

from rectify.analysis import activations, drawing, style
from rectify.analysis.asked import Question, Questions, read_answers
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings, View, check_task, each_variant
from rectify.typed import Listed, Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Answers to a few questions"
SHOWS = ("figure",)
VALUES = Table(
    "answers",
    "The questions and answers that are shown, and the maps of activations, token by token.",
    ("item", "run", "row", "column"),
    (
        Column("item", "int64", "-", "place of the question in the test set, from 0"),
        Column("question", "str", "-", "as it was asked"),
        Column("truth", "str", "-", "what people answered most"),
        Column("run", "str", "-", "name of the run"),
        Column("answer", "str", "-", "the run's likeliest"),
        Column("accuracy", "float64", "share, 0..1", "VQA accuracy of this answer"),
        Column("row", "int64", "-", "of the token, from the top"),
        Column("column", "int64", "-", "of the token, from the left"),
        Column("value", "float64", "-", "activation of the token, 0..1 in each image"),
    ),
)
TASK = "visual_question_answering"
SHOWN = 5  # questions
LETTERS = 20  # of a question, in a line
RIGHT, WRONG = "#007a59", "#c04a00"
STRETCH = 1.12  # of a row: its answer is below the picture
VEIL = 0.6  # opacity of a map over its picture
draws_items = True
needs = each_variant


class Settings(TargetSettings):
    """The experiments that are shown, of which the last run of each variant answers."""

    kind: Literal["answers"] = "answers"
    reads: Several[Name]
    items: Listed[NonNegativeInt] = Field(
        (),
        description="Places of questions in the test set, from 0; unless given, from all of it, "
        "evenly.",
    )


class Panel(NamedTuple):
    """A question, and what a run says of it."""

    item: int
    question: Question
    run: Series
    answer: str
    accuracy: float
    """VQA accuracy of the answer, 0..1."""
    activations: np.ndarray
    """Of the image's tokens, 0..1 (rows, columns)."""


def check(settings: TargetSettings, config: View, where: str) -> None:
    """Check that every data set is one of questions."""
    check_task(settings, config, where, TASK)


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw each question in a column: the picture, and below it what each run makes of it.

    The runs are those of the first seed.

    Raises:
        ValueError: If there is no run, runs on several sets, or no question of a number.
    """
    runs = results.runs[results.runs["seed"] == results.runs["seed"].min()]
    check_some(runs, "answers", "runs on a set of questions")
    shown = list(_panels(results, runs, settings.items))
    count, height = len(shown) // len(runs), len(runs) + 1
    with style.look():
        size = style.PAGE / count
        drawn, places = drawing.panels(
            style.PAGE, size * height * STRETCH + 0.6, count * height, False, count
        )
        for axes, panel in zip(places[:count], shown, strict=False):
            _draw_picture(axes, panel.question)
            axes.set_title(textwrap.fill(panel.question.text, LETTERS))
            axes.set_xlabel(panel.question.truth, weight="bold")
        places[0].set_ylabel("people")
        for number, (axes, panel) in enumerate(zip(places[count:], shown, strict=True)):
            _draw_answer(axes, panel)
            if number % count == 0:
                title = textwrap.fill(activations.run_title(panel.run, runs), LETTERS)
                axes.set_ylabel(title, color=activations.run_colour(panel.run))
        drawn.suptitle(f"{drawing.common(runs)}, seed {runs['seed'].iloc[0]}", fontsize=8.5)
    return Drawn(drawn, _values(shown))


def _panels(results: Results, runs: DataFrame, items: Sequence[int]) -> Iterator[Panel]:
    """Give what each run says of the questions that are shown, run by run."""
    questions = Questions(results.prepared(only(runs, "data", "answers")))
    count = len(questions)
    if missing := [item for item in items if item >= count]:
        raise ValueError(
            f"answers: items must be below {count}, the number of test questions, got "
            f"{missing[0]}. Name others."
        )
    evenly = (np.arange(SHOWN) + 0.5) / SHOWN * count
    asked = {item: questions[item] for item in items or evenly.astype(int).tolist()}
    for _, run in runs.iterrows():
        answers, accuracies, maps = read_answers(results.predictions(run["run"], run["seed"]))
        for item, question in asked.items():
            answer = questions.answers[answers[item]]
            yield Panel(item, question, run, answer, round(float(accuracies[item]), 2), maps[item])


def _draw_picture(axes: "Axes", question: Question) -> None:
    drawing.bare(axes)
    axes.imshow(question.picture, cmap="gray", vmin=0, vmax=255)


def _draw_answer(axes: "Axes", panel: Panel) -> None:
    """Draw the picture under the map of a run, and write its answer below."""
    _draw_picture(axes, panel.question)
    height, width = panel.question.picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    scale = {"vmin": 0, "vmax": 1}
    axes.imshow(panel.activations, cmap=style.HEAT, alpha=VEIL, extent=extent, **scale)
    mark = {0.0: " ✗", 1.0: " ✓"}.get(panel.accuracy, f" ({panel.accuracy:.1f})")
    axes.set_xlabel(panel.answer + mark, color=RIGHT if panel.accuracy >= 0.5 else WRONG)


def _values(panels: Sequence[Panel]) -> DataFrame:
    rows = [
        (panel.item, panel.question.text, panel.question.truth, panel.run["run"], panel.answer,
         panel.accuracy, row, column, float(value))
        for panel in panels
        for (row, column), value in np.ndenumerate(panel.activations)
    ]  # fmt: skip
    return DataFrame(rows, columns=VALUES.names)
