"""The check of annotations that the tests run with: see ``--jaxtyping-packages``."""

from collections.abc import Callable

from beartype import beartype


def checked(function: Callable) -> Callable:
    """Return a function that checks its arguments and its result, unless it is within another.

    Such a one is made anew at each call, and so would be its check, which takes milliseconds.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
