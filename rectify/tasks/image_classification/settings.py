"""The keys of a set of labelled images."""

from typing import ClassVar, Literal

from rectify.tasks.entry import Text, decides
from rectify.tasks.labelled import METRICS, Labelled

__all__ = ["METRICS", "SETTINGS", "Settings"]


class Settings(Labelled):
    """A set of labelled images."""

    READERS: ClassVar[str] = "rectify.tasks.image_classification.readers"

    shifts: dict[Literal["c", "a", "sk", "r"], Text] = decides(
        "scores",
        default={},
        description="Folders of shifted test sets, as ImageNet-C, -A, -Sketch and -R.",
    )

    @property
    def shift_names(self) -> tuple[str, ...]:
        return tuple(self.shifts)

    def preparation(self, shift: str | None = None) -> dict[str, object]:
        """Return what decides the items: of a shifted set its folder, else no shift at all."""
        plain = super().preparation(shift)
        return plain if shift is None else {**plain, "shifts": {shift: self.shifts[shift]}}


SETTINGS = Settings
