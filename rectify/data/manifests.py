"""The manifest of a prepared set: every item with its split, label and origin, in a fixed order.

The note next to ``manifest.csv`` holds the digest of the file, which freezes the split.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from pandas import DataFrame

from rectify.results.declared import MANIFEST
from rectify.results.tables import read_note, read_table, write_table

LISTING = "manifest.csv"
ARRAYS = "arrays.safetensors"
"""Next to it, the items themselves, where a set fits into memory."""
NOTES = "notes"
"""Entry of its metadata: what texts and answers are called, as JSON."""
CLASSES = "classes_sha256"
"""Key of a note's facts: digest of the names of all classes, where no item need be of each."""


def manifest(rows: Iterable[tuple[str, int, str, str]]) -> DataFrame:
    """Return rows of split, label, name and source as a manifest, in their order."""
    return DataFrame([(item, *row) for item, row in enumerate(rows)], columns=MANIFEST.names)


def without(listing: DataFrame, left_out: Iterable[str]) -> DataFrame:
    """Return a manifest without some sources; no other item takes their place."""
    kept = listing[~listing["source"].isin(list(left_out))].reset_index(drop=True)
    return kept.assign(item=range(len(kept)))


def counts(listing: DataFrame) -> dict[str, int]:
    """Return the number of items by split, all conditions of a shift together."""
    kinds = listing["split"].str.partition("/")[0]
    return {kind: int((kinds == kind).sum()) for kind in dict.fromkeys(kinds)}


def class_names(listing: DataFrame) -> list[str]:
    """Return the names of the classes in the order of their labels."""
    labelled = listing[listing["label"] >= 0].drop_duplicates("label").sort_values("label")
    return labelled["name"].tolist()


def write_listing(folder: Path, listing: DataFrame, provenance: dict) -> None:
    """Write a manifest, and the digest of the file into its note."""
    text = listing.to_csv(index=False, lineterminator="\n")
    facts = {**provenance["facts"], "sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_table(MANIFEST, listing, Path(folder) / LISTING, {**provenance, "facts": facts})


def read_listing(folder: Path) -> tuple[DataFrame, dict]:
    """Return the manifest and the facts of its note.

    Raises:
        ValueError: If one is missing, or the two don't belong together.
    """
    path = Path(folder) / LISTING
    listing, facts = read_table(MANIFEST, path), read_note(path)["provenance"]["facts"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != facts.get("sha256"):
        raise ValueError(
            f"{path}: the frozen split must have the SHA-256 of its note, {facts.get('sha256')}, "
            f"got {digest}. Prepare the data set again."
        )
    return listing, facts


def splits(folder: Path) -> list[str]:
    """Return the names of a prepared set's splits, in their order."""
    return list(dict.fromkeys(read_table(MANIFEST, Path(folder) / LISTING)["split"]))


def label_order(folder: Path) -> str:
    """Return a digest of which class has which number in the training split, or in all of a set."""
    listing, facts = read_listing(folder)
    pairs = sorted(_numbered(listing[listing["split"] == "train"]))
    return facts.get(CLASSES) or hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def check_same_labels(folder: Path, shifted: Path) -> None:
    """Check that a shifted test set numbers its classes as the training set does.

    Raises:
        ValueError: If a class has another number there, or training does not have it.
    """
    listings = [read_table(MANIFEST, Path(path) / LISTING) for path in (folder, shifted)]
    known, others = (_numbered(listing) for listing in listings)
    if others - known:
        label, name = min(others - known)
        raise ValueError(
            f"{shifted}: each class must have the number that it has in {folder}, got {label} for "
            f"{name}. Prepare the shifted set again."
        )


def _numbered(listing: DataFrame) -> set[tuple[int, str]]:
    pairs = listing[["label", "name"]].drop_duplicates()
    return set(pairs.itertuples(index=False, name=None))
