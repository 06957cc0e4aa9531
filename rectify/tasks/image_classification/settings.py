"""The keys of a set of labelled images."""

from typing import ClassVar, Literal, no_type_check

from pydantic import ValidationInfo, model_validator

from rectify.tasks.entry import RUN, Place, decides
from rectify.tasks.labelled import METRICS, Labelled

__all__ = ["METRICS", "SETTINGS", "Settings"]


class Settings(Labelled):
    """A set of labelled images."""

    READERS: ClassVar[str] = "rectify.tasks.image_classification.readers"

    shifts: dict[Literal["c", "a", "sk", "r"], Place] = decides(
        "scores",
        default={},
        description="Folders of shifted test sets, as ImageNet-C, -A, -Sketch and -R.",
    )

    stored_side: int | None = decides(
        "items",
        "weights",
        default=None,
        ge=8,
        description="Resize larger images once, to a shorter side of so many pixels, and keep "
        "them in one file; read from their own files if null.",
    )

    masks: Place | None = decides(
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

    @model_validator(mode="after")
    @no_type_check  # pydantic's protocol cannot be checked when tests run
    def _stores_what_is_read_from_files(self, info: ValidationInfo) -> "Settings":
        side = self.stored_side
        if side is None:
            return self
        if side < self.image_size:
            raise ValueError(
                f"stored_side must be at least image_size, {self.image_size}, got {side}. Raise it."
            )
        if info.context is not RUN and self.reader_module.IN_MEMORY:
            raise ValueError(
                f"stored_side must be of images in files, got {side} for reader {self.reader}, "
                "whose images are kept in memory. Take the key away."
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
        """Return what decides the items: of a shifted set its folder, else no shift at all.

        The images of a shifted set stay in their files.
        """
        plain = super().preparation(shift)
        if shift is None:
            return plain
        return {**plain, "stored_side": None, "shifts": {shift: self.shifts[shift]}}


SETTINGS = Settings
