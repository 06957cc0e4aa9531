"""The keys of a set of traffic scenes, and what forecasts are scored by."""

from typing import ClassVar, Literal

from pydantic import PositiveInt

from rectify.tasks.entry import Entry, Metric, Text, decides

__all__ = ["METRICS", "SETTINGS", "Settings"]

METRICS = (
    Metric("min_ade", "m", "lower", "minADE"),
    Metric("min_fde", "m", "lower", "minFDE"),
    Metric("miss_rate", "share, 0..1", "lower", "MR"),
    Metric("brier_min_fde", "m", "lower", "brier-minFDE"),
    Metric("loss", "1", "lower", "test loss"),
)


class Settings(Entry):
    """A set of traffic scenes."""

    READERS: ClassVar[str] = "rectify.tasks.motion_forecasting.readers"

    task: Text = decides("items", "weights", default="motion_forecasting")
    loss_agents: Literal["all", "focal"] = decides(
        "weights",
        default="all",
        description="Whose forecasts are learned: those of all agents of a scene, whose losses "
        "are averaged, or those of the scored one alone.",
    )
    top_k: PositiveInt = decides(
        "scores", default=6, description="Most likely trajectories that may be right, besides 1."
    )


SETTINGS = Settings
