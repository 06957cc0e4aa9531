"""The splits of sets that others have laid out: what they are called, and how one is divided.

Training and test are needed. A test is the split ``test``, else the validation split; a set
without splits, or with a single one, is divided class by class.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from rectify.tasks.readers import Row

ROLES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev"),
}
"""What the splits are called, in small letters."""
SHARE = 0.8
"""Of each class that is for training, where nothing else is said."""
_WORD = re.compile("(?:^|[^a-z])(" + "|".join(sum(ROLES.values(), ())) + ")(?:[^a-z]|$)")
Part = TypeVar("Part")


def role(name: str) -> str | None:
    """Return the role of a split that is called so; None for another word."""
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


def role_within(name: str) -> str | None:
    """Return the role that is named by a word of a file's name, as ``train-00000-of-00002``."""
    found = _WORD.search(name.lower())
    return found and role(found[1])


def both(where: object, parts: Mapping[str, Part]) -> tuple[Part, Part | None]:
    """Return the part for training and that for the test; None if one part is to be divided.

    Args:
        where: Of the set, for messages.
        parts: By role; ``""`` for a set without splits.

    Raises:
        ValueError: If there are parts, and none for training.
    """
    if len(parts) == 1:
        return next(iter(parts.values())), None
    if "train" not in parts:
        raise ValueError(
            f"{where}: must have a split train, got {', '.join(parts) or 'none'}. Add it, or leave "
            "a single one, which is divided."
        )
    return parts["train"], parts["test"] if "test" in parts else parts["validation"]


def divided(
    where: object, rows: Sequence[Row], seed: int | None, train_share: float | None
) -> list[Row]:
    """Return rows as training and test, split class by class.

    A class keeps its division whatever other classes there are, and has one of two items at least
    on each side.

    Args:
        where: Of the set, for messages.
        rows: Of any split.
        seed: Of the split; None is 0.
        train_share: Share of each class that is for training, 0 .. 1 without ends.

    Raises:
        ValueError: If the share is out of range.
    """
    import torch

    from rectify.runtime import generator

    share = SHARE if train_share is None else train_share
    if not 0 < share < 1:
        raise ValueError(
            f"{where}: train_share must lie between 0 and 1, got {share}. Correct it in sizes."
        )
    members: dict[int, list[Row]] = {}
    for row in rows:
        members.setdefault(row.label, []).append(row)
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    for _, items in sorted(members.items()):
        order = torch.randperm(len(items), generator=generator(seed or 0, "split", items[0].name))
        cut = min(max(round(share * len(items)), 1), max(len(items) - 1, 1))
        for split, places in (("train", order[:cut]), ("test", order[cut:])):
            kept = [items[place] for place in sorted(places.tolist())]
            parts[split] += [row._replace(split=split) for row in kept]
    return parts["train"] + parts["test"]


def check_not_divided(where: object, seed: int | None, train_share: float | None) -> None:
    """Check that nothing is said about a division that does not take place.

    Raises:
        ValueError: Names the key that would have no effect.
    """
    for key, value in (("seed", seed), ("train_share", train_share)):
        if value is not None:
            raise ValueError(
                f"{where}: {key} must not be given for a set with a test of its own, got {value}. "
                "Take it out of sizes."
            )
