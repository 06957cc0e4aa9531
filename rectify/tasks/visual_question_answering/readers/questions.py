"""Questions about drawn scenes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.questions import Asked

EMBEDDED = IN_MEMORY = True


def read(
    *, image_size: int = 56, seed: int = 0, train_scenes: int = 1500, test_scenes: int = 300
) -> "dict[str, Asked]":
    """Return train and test: see ``rectify.demo.questions.questions``."""
    from rectify.demo.questions import questions

    return questions(
        image_size=image_size, seed=seed, train_scenes=train_scenes, test_scenes=test_scenes
    )
