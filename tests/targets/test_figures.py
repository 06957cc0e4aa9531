"""All figures: the same bytes every time, declared values, any number of seeds."""

import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.text import Text
from pandas import DataFrame

from rectify import targets
from rectify.analysis import style
from rectify.analysis.drawing import Drawn
from rectify.results.tables import read_table, write_table
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

KINDS = [kind for kind in targets.kinds() if "figure" in targets.module_of(kind).SHOWS]
SETTINGS = {"figure4": {"vision": "vit-s", "languages": ["llama-xl", "llama-untrained"]}}


@pytest.fixture(scope="module")
def frames(demo: synthetic.Made) -> dict[str, DataFrame]:
    """Return what the figures read: one language model in one ViT, on one data set."""
    grid = [
        folder for folder in demo.runs
        if folder.name.startswith(("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl"))
    ]  # fmt: skip
    files = [file for file in demo.similarity if "--vit-s--" in file.name]
    results = synthetic.compared(files, grid)
    names = ("runs", "gsnr", "history", "similarity")
    return {name: getattr(results, name) for name in names}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Callable]]:
    """Items of the sets that some kinds of figures show."""
    return {
        "forecasts": synthetic.traffic(tmp_path_factory.mktemp("traffic")),
        "answers": synthetic.questions(tmp_path_factory.mktemp("questions")),
    }


def draw(kind: str, frames: dict[str, DataFrame], items: dict[str, dict[str, Callable]]) -> Drawn:
    """Draw a kind of figure from frames that hold what all of them need, and more."""
    gsnr = frames["gsnr"]
    needed = gsnr["layer"].isna() | (gsnr["layer"] == 7) | (kind == "coherence")
    if kind in ("figure2", "figure2b"):
        needed &= gsnr["position"].isna() | (gsnr["position"] == "end")
    if kind in ("datasize", "pang_figure2", "pang_figure_f"):  # at one place
        runs = frames["runs"]
        is_one = (runs["layer"] == 7) & (runs["position"] == "end")
        chosen = runs[runs["layer"].isna() | is_one]
        history = frames["history"]
        history = history[history["run"].isin(chosen["run"])]
        frames = {**frames, "runs": chosen, "history": history}
    if kind in ("pang_figure3", "pang_figure4", *items):
        runs = frames["runs"]
        shown = runs[runs["layer"].isna() | ((runs["layer"] == 7) & (runs["position"] == "end"))]
        made = {"filtering": synthetic.filtering_of(shown), "maps": synthetic.maps_of(shown)}
        made |= {"runs": shown, **items.get(kind, {})}
        target = targets.module_of(kind)
        return target.figure(results_of(**made), target.Settings(reads="grid"))
    if kind == "filtering_epochs":
        shown = frames["runs"][frames["runs"]["run"].isin(gsnr[needed]["run"])]
        frames = {
            **frames,
            "history": synthetic.outlined(frames["history"]),
            "filtering": synthetic.filtering_of(shown),
        }
    target = targets.module_of(kind)
    settings = target.Settings(**SETTINGS.get(kind, {"reads": "grid"}))
    return target.figure(results_of(**{**frames, "gsnr": gsnr[needed]}), settings)


def with_seeds(frame: DataFrame, seeds: list[int]) -> DataFrame:
    third = frame[frame["seed"] == 0].assign(seed=2)
    more = pd.concat([frame, third], ignore_index=True)
    return more[more["seed"].isin(seeds)]


def check_count(kind: str, drawn: Drawn, seeds: int) -> None:
    """Check that a figure shows of how many seeds it is."""
    texts = [text.get_text() for text in drawn.figure.findobj(Text)]
    shown = {"figure5": "n = 15"}  # placements
    shown |= dict.fromkeys(("pang_figure3", "forecasts", "answers"), "seed 0")  # one seed alone
    count = shown.get(kind, f"n = {seeds} seed")
    assert any(count in text for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_of_three_seeds_is_the_same_every_time_and_its_values_are_its_declared_table(
    kind: str,
    frames: dict[str, DataFrame],
    items: dict[str, dict[str, Callable]],
    tmp_path: Path,
) -> None:
    seeded = {name: with_seeds(frame, [0, 1, 2]) for name, frame in frames.items()}
    drawn, again = (draw(kind, seeded, items) for _ in range(2))
    first, second = io.BytesIO(), io.BytesIO()  # PDF has all that is drawn, as text and paths
    with style.look():
        for figure, file in ((drawn.figure, first), (again.figure, second)):
            figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    assert first.getvalue() == second.getvalue()
    check_count(kind, drawn, 3)
    table = targets.module_of(kind).VALUES
    write_table(table, drawn.values, tmp_path / "values.csv", synthetic.SOURCE)
    assert len(read_table(table, tmp_path / "values.csv")) == len(drawn.values) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_drawn_for_one_seed(
    kind: str, frames: dict[str, DataFrame], items: dict[str, dict[str, Callable]]
) -> None:
    seeded = {name: with_seeds(frame, [0]) for name, frame in frames.items()}
    drawn = draw(kind, seeded, items)
    drawn.figure.draw_without_rendering()
    check_count(kind, drawn, 1)
