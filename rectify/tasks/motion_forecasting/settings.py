"""The keys of a set of traffic scenes, and what forecasts are scored by."""

from typing import ClassVar, Literal, no_type_check

from pydantic import PositiveInt, ValidationInfo, model_validator

from rectify.tasks.entry import RUN, Entry, Metric, Text, decides

__all__ = ["METRICS", "SETTINGS", "Settings"]

METRICS = (
    Metric("min_ade", "m", "lower", "minADE"),
    Metric("min_fde", "m", "lower", "minFDE"),
    Metric("miss_rate", "share, 0..1", "lower", "MR"),
    Metric("brier_min_fde", "m", "lower", "brier-minFDE"),
    Metric("loss", "1", "lower", "test loss"),
)
MISSED = 2.0
"""Metres: a scene is missed if no trajectory ends within."""


class Settings(Entry):
    """A set of traffic scenes."""

    READERS: ClassVar[str] = "rectify.tasks.motion_forecasting.readers"

    task: Text = decides("items", "weights", default="motion_forecasting")
    observed: PositiveInt = decides(
        "weights",
        default=20,
        description="Steps of 0.1 s that a model sees, as its reader has them.",
    )
    future: PositiveInt = decides(
        "weights", default=30, description="Steps that it forecasts, as its reader has them."
    )
    loss_agents: Literal["all", "focal"] = decides(
        "weights",
        default="all",
        description="Whose forecasts are learned: those of all agents of a scene, whose losses "
        "are averaged, or those of the scored one alone.",
    )
    top_k: PositiveInt = decides(
        "scores", default=6, description="Most likely trajectories that may be right, besides 1."
    )
    min_ade: Literal["closest", "least"] = decides(
        "scores",
        default="closest",
        description="What minADE is: the mean error of the trajectory that ends closest, as of "
        "Argoverse 1, or the least mean error, as of Argoverse 2.",
    )

    @model_validator(mode="after")
    @no_type_check  # pydantic's protocol cannot be checked when tests run
    def _has_the_steps_of_its_reader(self, info: ValidationInfo) -> "Settings":
        if info.context is not RUN:
            for key, steps in self.reader_module.STEPS.items():
                if getattr(self, key) != steps:
                    raise ValueError(
                        f"{key} must be {steps} with reader {self.reader}, got "
                        f"{getattr(self, key)}. Correct it."
                    )
        return self


SETTINGS = Settings
