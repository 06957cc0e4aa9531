"""What a training needs to compare activations with masks after every epoch."""

from functools import partial
from pathlib import Path

from rectify.experiment.codes import TASK_CODE
from rectify.experiment.run import RunSettings
from rectify.tasks import find
from rectify.training.models import entry_of


def outlining(settings: RunSettings, data: Path, masks: Path | None) -> dict[str, object]:
    """Return the arguments of a ``Training`` that compares activations with masks; or none.

    Args:
        settings: Of the run; without ``filtering`` nothing is compared.
        data: Folder of its prepared set.
        masks: Folder of the set's prepared masks.

    Raises:
        ValueError: If there are no masks.
    """
    if not settings.filtering:
        return {}
    from rectify.filtering.measure import outlines  # other trainings must not depend on it

    if masks is None:
        raise ValueError(
            f"train: {settings.run} compares activations with masks, got none. Give --masks, the "
            "folder that prepare-masks wrote."
        )
    task = find(settings.task)
    read = task.masks(entry_of(settings, task), data, masks, settings.recipe)
    outline = partial(outlines, masks=read, settings=settings.filtering)
    return {"outline": outline, "code": TASK_CODE["outlined_train"]}
