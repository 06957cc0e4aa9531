"""Table 4 of Pang et al.: forecasts without and with a frozen block, and what others reach.

The last row is what needs no model: constant velocity.
"""

from typing import Literal

from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen, with_floor
from rectify.analysis.scenes import Scenes
from rectify.targets.contract import TargetSettings
from rectify.tasks.motion_forecasting.settings import MISSED
from rectify.typed import Name, Several

TITLE = "Pang, Table 4: motion forecasting"
SHOWS = ("table",)
PUBLIC = "pang_table4_public"
"""Of ``published.csv``: numbers of public codes."""
FLOOR = "constant velocity"
draws_items = True  # its errors are those of the test scenes


class Settings(TargetSettings):
    """The experiments that are shown: insertions, on sets of traffic scenes."""

    kind: Literal["pang_table4"] = "pang_table4"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return the benchmark's metrics, and GSNR; behind ours are public models without a block.

    Constant velocity is shown where the prepared sets are given.
    """
    cells = inserted_table("pang_table4", results, quoted=PUBLIC, has_gsnr=True)
    if not results.sets:
        return cells
    runs = results.runs.drop_duplicates("data").set_index("data_title")
    floors = {title: _floor(results, run) for title, run in runs.iterrows()}
    return with_floor(cells, FLOOR, lambda c: floors[c["group"]].get(c["column"].split(",")[0]))


def _floor(results: Results, run: Series) -> dict[str, float]:
    """Return the metrics of constant velocity on the test scenes of a run, by their titles.

    It is a single trajectory, which is sure, however many may be right.
    """
    future = results.forecasts(run["run"], run["seed"]).trajectories.shape[2]
    scenes = Scenes(results.prepared(run["data"]))
    apart = scenes.from_constant_velocity(scenes[0].tracks.shape[1] - future)
    final = apart[:, -1].mean()
    missed = 100 * (apart[:, -1] > MISSED).mean()
    return {"minADE": apart.mean(), "minFDE": final, "MR": missed, "brier-minFDE": final}


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return in how many metrics the errors are less."""
    claim = "It helps to forecast motion"
    return [Finding(claim, count_gains(of_frozen(cells), first_columns_only=False))]
