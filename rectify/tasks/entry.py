"""A data set as the configuration names it: its keys, their rules, and what each of them decides.

``decides`` marks a field, and ``Entry.that_decides`` gives the fields with a mark. So a job gets
only what concerns it, and a change of anything else starts nothing again:

    items     which items there are: prepared once
    weights   the model, and what its training sees
    recipe    values of the recipe, for the set or for one of its trunks
    scores    how a trained model is tested
    masks     what its activations are compared with
    display   what tables and figures show
    source    where the files are downloaded from
"""

import re
from collections.abc import Mapping
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, no_type_check

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from rectify.tasks import readers
from rectify.typed import Closed, Name, one_line

DEFAULT_TASK = "image_classification"
RUN = "run"  # validation context of an entry that is not complete

Mark = Literal["items", "weights", "recipe", "scores", "masks", "display", "source"]
Text = Annotated[str, StringConstraints(min_length=1)]


def _written_out(text: str) -> str:
    """Refuse what a shell would replace, and a program would take for a folder of that name."""
    if re.match(r"~|.*\$[\w{]", text):
        raise ValueError(f"~ and variables must be written out, got {text!r}. Write the full path.")
    return text


Place = Annotated[Text, AfterValidator(_written_out)]
"""Path of a file or folder."""
Hub = Annotated[str, StringConstraints(pattern="^[^/ ]+/[^/ ]+$")]


class Metric(NamedTuple):
    """What a task is scored by; the first metric of a task is its headline."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    title: str
    is_floor: bool = False
    """Whether it is of the set alone, and so the same for every model."""


def decides(*marks: Mark, **field: Any) -> Any:
    """Return a field that is marked with what it decides; ``field`` is as for pydantic's."""
    return Field(json_schema_extra={"decides": list(marks)}, **field)


class TrunkChanges(Closed, strict=True):
    """What is different for one trunk when it learns this set."""

    family: Text | None = Field(None, description="Form of the trunk, as its task knows it.")
    start: Place | None = Field(
        None, description="Checkpoint that training starts from; random weights if null."
    )
    training: dict[str, object] = Field({}, description="Changed values of the recipe.")


class TrunkSettings(Closed):
    """The trunk of a run, as its task builds it."""

    name: str
    timm: str
    overrides: dict[str, object]
    family: str | None = None
    start: str | None = None


class Entry(Closed, strict=True):
    """Keys that the data sets of every task have.

    A task whose sets are read by modules names their package as ``READERS``.
    """

    READERS: ClassVar[str | None] = None

    title: str = decides("display", default="", description="Label; the set's name if empty.")
    task: Text = decides(
        "items", "weights", default=DEFAULT_TASK, description="Folder of tasks/, or a module."
    )
    reader: Text | None = decides(
        "items", default=None, description="How the files are read: docs/data.md."
    )
    folder: Place | None = decides(
        "items", "source", default=None, description="Where the files of the set are."
    )
    hub: Hub | None = decides("source", default=None, description="Repository: owner/name.")
    revision: Text | None = decides(
        "source", default=None, description="Commit, tag or branch; the default if null."
    )
    full: bool = decides(
        "items", default=False, description="The folder must hold the published counts."
    )
    sizes: dict[str, int | float | str] = decides(
        "items",
        default={},
        description="Arguments of the reader: how much is drawn, which seed, which column.",
    )
    training: dict[str, object] = decides(
        "recipe", default={}, description="Changed values of the recipe."
    )
    visions: dict[Name, TrunkChanges] = decides(
        "recipe", default={}, description="What is different for a trunk, by its name."
    )

    @classmethod
    def for_run(cls, fields: Mapping[str, object]) -> "Entry":
        """Return the entry as a run knows it: only what decides its weights and its scores.

        Raises:
            ValueError: One line that names the key, what must hold and what was got.
        """
        try:
            return cls.model_validate(dict(fields), context=RUN)
        except ValidationError as error:
            raise ValueError(one_line(error, cls, "data")) from None

    @model_validator(mode="after")
    def _is_downloaded_somewhere(self) -> "Entry":
        for key, needed in (("revision", "hub"), ("hub", "folder")):
            if getattr(self, key) is not None and getattr(self, needed) is None:
                raise ValueError(f"{key} must come with {needed}, got it alone. Add {needed}.")
        return self

    @model_validator(mode="after")
    @no_type_check  # pydantic's protocol cannot be checked when tests run
    def _suits_its_reader(self, info: ValidationInfo) -> "Entry":
        if self.READERS is not None and info.context is not RUN:
            readers.check(
                self.reader_module,
                folder=self.folder,
                full=self.full,
                sizes=self.sizes,
                shifts=bool(self.shift_names),
            )
        return self

    @property
    def reader_module(self) -> ModuleType:
        """The module that reads the set."""
        assert self.READERS is not None, type(self)
        return readers.find(self.READERS, self.reader or "")

    @property
    def in_memory(self) -> bool:
        """Whether the prepared set has its arrays in one file next to the manifest."""
        return self.READERS is not None and self.reader_module.IN_MEMORY

    @property
    def shift_names(self) -> tuple[str, ...]:
        """Shifted test sets that are prepared one by one, each from a folder of its own."""
        return ()

    @property
    def has_masks(self) -> bool:
        """Whether the objects in test items are known, pixel by pixel or point by point."""
        return False

    @property
    def mask_folders(self) -> tuple[str, ...]:
        """Folders that masks are read from, where they are not part of the set."""
        return ()

    def views_of(self, items: int) -> float:
        """Return how many inputs of the model each of the test items is, while one trains."""
        return 1.0

    def scored_views_of(self, items: int) -> float:
        """Return the same once it is trained, in all test sets that are made of these items."""
        return self.views_of(items)

    def that_decides(self, *marks: Mark) -> dict[str, object]:
        """Return the fields with one of the marks, ready for JSON, defaults included."""
        chosen = {name for name, field in type(self).model_fields.items() if _marks(field, marks)}
        return self.model_dump(mode="json", include=chosen)

    def preparation(self, shift: str | None = None) -> dict[str, object]:
        """Return what decides the items of the set, or of one of its shifted test sets."""
        assert shift is None or shift in self.shift_names, shift
        return self.that_decides("items")


def _marks(field: Any, marks: tuple[Mark, ...]) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and bool(set(marks) & set(extra.get("decides", ())))
