"""Karpathy's file of an image-caption set: which image is in which split, and its captions.

    {"images": [{"filename", "filepath"?, "split", "sentences": [{"raw", ...}, ...], ...}, ...]}

As in METER, training also takes what has no part in the test: ``val`` of Flickr30k, ``restval`` of
COCO. Nothing is chosen by ``val`` here.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rectify.results.files import read_json
from rectify.tasks.image_classification.folders import check_present

if TYPE_CHECKING:
    from rectify.data.captioned import Captioned

SPLITS = ("train", "restval", "val", "test")


def described(
    path: Path,
    images: Path | None,
    split_by_name: Mapping[str, Sequence[str]],
    source: str,
) -> "dict[str, Captioned]":
    """Return the images and captions of some splits, in the order of the file.

    Args:
        path: The file, in the folder of the set.
        images: Folder of all images, within that folder; None: each says its own, ``filepath``.
        split_by_name: The file's splits that make up each of ours.
        source: Where the set is from, for messages.

    Raises:
        ValueError: If the file is missing, damaged or not of this format.
    """
    from rectify.data.captioned import Captioned

    check_present(path.parent, [path], source)
    ours = {theirs: name for name, several in split_by_name.items() for theirs in several}
    found: dict[str, dict[str, list[str]]] = {name: {} for name in split_by_name}
    seen = set()
    for entry in _entries(path, images is None, source):
        place = f"{images or entry['filepath']}/{entry['filename']}"
        if ".." in PurePosixPath(place).parts or PurePosixPath(place).is_absolute():
            raise _wrong(path, "a file must be within the folder of the set", place, source)
        if place in seen:
            raise _wrong(path, "an image must be there once", f"{place} twice", source)
        seen.add(place)
        if entry["split"] in ours:
            found[ours[entry["split"]]][place] = _captions(path, entry, place, source)
    for name, several in split_by_name.items():
        if not found[name]:
            raise _wrong(path, f"it must have images of {' or '.join(several)}", "none", source)
    return {name: Captioned(list(own), list(own.values())) for name, own in found.items()}


def _entries(path: Path, has_place: bool, source: str) -> Iterator[dict]:
    """Give the entries of the file, each with the fields that are read."""
    content = read_json(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise _wrong(path, "it must have a list of images", "none", source)
    fields = {"filename": str, "split": str, "sentences": list}
    fields |= {"filepath": str} if has_place else {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _wrong(path, "each of its images must be a mapping", f"{entry!r:.40}", source)
        for name, kind in fields.items():
            if type(entry.get(name)) is not kind or not entry[name]:
                got = f"{entry.get(name)!r:.40} of image {number}"
                what = "a list" if kind is list else "a text"
                raise _wrong(path, f"{name} must be {what} that is not empty", got, source)
        if entry["split"] not in SPLITS:
            got = f"{entry['split']!r:.40} of image {number}"
            raise _wrong(path, f"split must be one of {', '.join(SPLITS)}", got, source)
        yield entry


def _captions(path: Path, entry: dict, place: str, source: str) -> list[str]:
    """Return the captions of an image, as they were written."""
    given = [one.get("raw") if isinstance(one, dict) else None for one in entry["sentences"]]
    for caption in given:
        if not isinstance(caption, str) or not caption.strip():
            got = f"{caption!r:.40} of {place}"
            raise _wrong(path, "raw must be a caption", got, source)
    return given


def _wrong(path: Path, rule: str, got: str, source: str) -> ValueError:
    return ValueError(f"{path}: {rule}, got {got}. Get {source} again.")
