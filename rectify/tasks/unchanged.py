"""What a task asks of a recipe whose items are no images: nothing that changes images."""

from collections.abc import Mapping

from rectify.tasks.contract import Recipe

OF_IMAGES = {
    "mixup": 0, "cutmix": 0, "auto_augment": None, "augment_on": "worker", "crop": "none",
    "flip": 0, "random_erasing": 0,
}  # fmt: skip
"""Values of a recipe that change images, and what they must be for other items."""


def check(
    task: str, recipe: Recipe, instead: str, values: Mapping[str, object] = OF_IMAGES
) -> None:
    """Check that a recipe changes no images, or only as a task allows.

    Args:
        task: Its name, for the message.
        recipe: What it is trained with.
        instead: A recipe that suits it.
        values: What they must be.

    Raises:
        ValueError: Names the value.
    """
    for name, off in values.items():
        value = getattr(recipe, name)
        if value != off:
            raise ValueError(
                f"{task}: training.{name} must be {'null' if off is None else off}, "
                f"since it changes images, got {value}. Change it, or take recipe {instead}."
            )
