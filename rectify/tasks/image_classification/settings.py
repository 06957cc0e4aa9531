"""The keys of a set of labelled images."""

from typing import ClassVar, Literal, no_type_check

from pydantic import ValidationInfo, model_validator

from rectify.tasks.entry import RUN, Text, decides
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

    masks: Text | None = decides(
        "masks", default=None, description="Folder of masks of test images, as ImageNet-S."
    )

    @model_validator(mode="after")
    @no_type_check  # pydantic's protocol cannot be checked when tests run
    def _has_no_masks_without_files(self, info: ValidationInfo) -> "Settings":
        if info.context is not RUN and self.masks is not None and self.reader_module.EMBEDDED:
            raise ValueError(
                f"masks must be of images in files, got some for reader {self.reader}, which "
                "draws its own or has none. Take the key masks away."
            )
        return self

    @property
    def has_masks(self) -> bool:
        return self.masks is not None or hasattr(self.reader_module, "draw_masks")

    @property
    def mask_folders(self) -> tuple[str, ...]:
        return () if self.masks is None else (self.masks,)

    @property
    def shift_names(self) -> tuple[str, ...]:
        return tuple(self.shifts)

    def preparation(self, shift: str | None = None) -> dict[str, object]:
        """Return what decides the items: of a shifted set its folder, else no shift at all."""
        plain = super().preparation(shift)
        return plain if shift is None else {**plain, "shifts": {shift: self.shifts[shift]}}


SETTINGS = Settings
