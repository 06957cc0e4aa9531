"""How many items a set has: as it was prepared, was published, or will be drawn.

Only small files are read, and nothing that takes torch.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path

from rectify.experiment.plan import Plan
from rectify.results.files import read_json
from rectify.tasks import Entry


class Unknown(ValueError):
    """Why nobody can tell yet how much a job has to do."""


def items_of(plan: Plan, name: str, split: str) -> int | None:
    """Return the items of a split of a set: as it was prepared, was published, or will be drawn.

    None where only the preparation can tell.
    """
    entry, prepared = plan.config.data[name], _prepared(plan, name)
    if prepared is not None:
        return prepared.get(split)
    complete = _published(entry)
    if entry.full and getattr(entry, "fraction", 1) == 1 and (split,) in complete:
        return complete[split,]
    items = entry.sizes.get("items")
    return items if split == "pairs" and isinstance(items, int) else None


def items_about(plan: Plan, name: str, split: str) -> int | None:
    """Return the items of ``train`` or ``test``, within a few where only a share of them is kept.

    None where only the preparation of the set can tell.
    """
    exact = items_of(plan, name, split)
    if exact is not None:
        return exact
    entry = plan.config.data[name]
    complete = _published(entry) if entry.full else {}
    count = complete.get((split,))
    if count is None and ("train", "test") in complete:
        default = inspect.signature(entry.reader_module.read).parameters["train_share"].default
        share = entry.sizes.get("train_share", default)
        count = complete["train", "test"] * (share if split == "train" else 1 - share)
    fraction = getattr(entry, "fraction", 1.0) if split == "train" else 1.0
    return None if count is None else round(count * fraction)


def inputs_tested(plan: Plan, name: str) -> float | None:
    """Return how many inputs of a model its test after each epoch is; None as of `items_about`."""
    items = items_about(plan, name, "test")
    return None if items is None else items * plan.config.data[name].views_of(items)


def inputs_scored(plan: Plan, name: str) -> float:
    """Return how many inputs of a trained model all test sets are that it is scored on.

    Raises:
        Unknown: Says which items only a preparation can count.
    """
    entry, items = plan.config.data[name], items_about(plan, name, "test")
    if items is None:
        raise Unknown(f"the items of {name} are counted by prepare_data")
    counts = [items * entry.scored_views_of(items)]
    embedded = _prepared(plan, name) or {}
    counts += [count for split, count in embedded.items() if split.startswith("test-")]
    for shift in entry.shift_names:
        prepared = _prepared(plan, name, shift)
        count = _published(entry).get((f"test-{shift}",)) if entry.full else None
        if prepared is None and count is None:
            raise Unknown(f"the items of shift {shift} of {name} are counted by prepare_shift")
        counts.append(count if prepared is None else sum(prepared.values()))
    return sum(counts)


def items_masked(plan: Plan, name: str) -> int:
    """Return how many test items of a set have a mask: as was prepared, or at least.

    Raises:
        Unknown: Says which items only a preparation can count.
    """
    entry, note = plan.config.data[name], Path(f"{plan.results}/data/{name}/masks/masks.csv.json")
    if note.is_file():
        table = read_json(note)
        if table["provenance"]["facts"]["settings"] == entry.that_decides("items", "masks"):
            return table["rows"]
    known = items_about(plan, name, "test")
    if entry.mask_folders:
        published = getattr(entry.reader_module, "MASKS", {}) if entry.full else {}
        known = min(published.values(), default=None)
    if known is None:
        raise Unknown(f"the masks of {name} are counted by prepare_masks")
    return known


def _prepared(plan: Plan, name: str, shift: str | None = None) -> Mapping[str, int] | None:
    """Return the items of each split of a set, or of a shifted version, if it is prepared."""
    entry = plan.config.data[name]
    manifests = {None: plan.prepared(name)}
    manifests |= zip(entry.shift_names, plan.shifted(name), strict=True)
    note = Path(f"{manifests[shift]}.json")
    if not note.is_file():
        return None
    facts = read_json(note)["provenance"]["facts"]
    return facts["items"] if facts["settings"] == entry.preparation(shift) else None


def _published(entry: Entry) -> Mapping[tuple[str, ...], int]:
    """Return the published numbers of items of a set, by the splits that they are in."""
    if not entry.READERS:
        return {}
    reader = entry.reader_module
    if hasattr(reader, "complete"):
        return reader.complete(**entry.sizes)
    return getattr(reader, "COMPLETE", {})
