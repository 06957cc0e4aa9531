"""Something-Something-v2 as it is distributed, or as VideoMAE's lists name it.

    labels.json, train.json, validation.json    in the folder or in ``labels``; the clips are
                                                ``videos/<id>.webm``, ``.mp4`` or folders of frames
    train.csv, val.csv                          lines ``<path> <label>``, paths within the folder

Lists win where both are there, and take their classes' names from ``labels.json`` if they can.
The public test set has no labels: the split ``test`` is the validation list.
"""

import os
import re
from collections import Counter
from pathlib import Path

from rectify.results.files import read_json
from rectify.tasks.readers import Row, few

EMBEDDED = IN_MEMORY = False
COMPLETE = {("train",): 168_913, ("test",): 24_777}

SOURCE = "Something-Something v2 (https://www.qualcomm.com/developer/software)"
SPLITS = ("train", "test")
SUFFIXES = (".webm", ".mp4", "")  # the last for a folder of frames
LABEL = re.compile(r"\d{1,6}")


def read(folder: Path) -> list[Row]:
    """Return the clips of training and test.

    Args:
        folder: Holds the label files or the lists, and the clips.

    Raises:
        ValueError: If a file is missing or not of its format, a clip is missing, is listed twice
            or lies outside the folder, or a label is unknown.
    """
    listed = (folder / "train.csv").is_file()
    rows = _from_lists(folder) if listed else _from_labels(folder)
    _check_rows(folder, rows)
    return rows


def _from_labels(folder: Path) -> list[Row]:
    place = folder / "labels" if (folder / "labels").is_dir() else folder
    classes = _classes(place / "labels.json")
    labels = {name: label for label, name in enumerate(classes)}
    clips = _clips(folder / "videos")
    rows = []
    for split, name in (("train", "train.json"), ("test", "validation.json")):
        for entry in _entries(place / name):
            template = entry["template"].replace("[", "").replace("]", "")
            if template not in labels:
                raise ValueError(
                    f"{place / name}: each template must be among the {len(classes)} labels, got "
                    f"{entry['template']!r} for clip {entry['id']}. Get the label files again."
                )
            source = f"videos/{clips.get(entry['id'], entry['id'] + SUFFIXES[0])}"
            rows.append(Row(split, labels[template], template, source))
    return rows


def _from_lists(folder: Path) -> list[Row]:
    places = [place / "labels.json" for place in (folder, folder / "labels")]
    classes = next((_classes(place) for place in places if place.is_file()), None)
    rows = []
    for split, name in (("train", "train.csv"), ("test", "val.csv")):
        for number, line in enumerate(_lines(folder / name), 1):
            source, _, label = line.strip().rpartition(" ")  # a path may hold spaces
            known = LABEL.fullmatch(label) and (classes is None or int(label) < len(classes))
            if not source or not known:
                raise ValueError(
                    f"{folder / name}: each line must be a path and a known label, got {line!r} in "
                    f"line {number}. Correct the list."
                )
            title = classes[int(label)] if classes else label
            rows.append(Row(split, int(label), title, _relative(folder, source.strip())))
    return rows


def _classes(path: Path) -> list[str]:
    """Return the names of the classes in the order of their numbers, which are strings there."""
    numbers = read_json(_present(path))
    given = [*map(str, numbers.values())] if isinstance(numbers, dict) else None
    if given is None or sorted(given) != sorted(map(str, range(len(given)))):
        raise ValueError(
            f"{path}: must number the classes from 0 without a gap, got something else. "
            "Get the label files again."
        )
    return sorted(numbers, key=lambda name: int(numbers[name]))


def _entries(path: Path) -> list[dict[str, str]]:
    entries = read_json(_present(path))
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("id", "template"))
        and entry["id"].isprintable()
        for entry in entries
    ):
        raise ValueError(
            f"{path}: must be a list of clips with id and template, got something else. "
            "Get the label files again."
        )
    return entries


def _lines(path: Path) -> list[str]:
    try:
        text = _present(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8, got {error}. Correct the list.") from None
    return [line for line in text.splitlines() if line.strip()]


def _clips(folder: Path) -> dict[str, str]:
    """Return each clip's place by its id: folders of frames win over .mp4, and these over .webm."""
    clips: dict[str, str] = {}
    for name in sorted(os.listdir(_present(folder)), reverse=True):
        stem, suffix = os.path.splitext(name)
        if suffix in SUFFIXES:
            clips[stem] = name
    return clips


def _relative(folder: Path, source: str) -> str:
    """Return a path of a list as seen from the folder; links are not followed."""
    path = os.path.relpath(os.path.join(folder, source), folder)
    if path.split(os.sep)[0] == os.pardir:
        raise ValueError(
            f"{folder}: each clip must lie within the folder, got {source!r}. "
            "Move or link the clips there, and correct the list."
        )
    return path


def _present(path: Path) -> Path:
    if not path.exists():
        raise ValueError(
            f"{path.parent}: must hold the data set, got no {path.name}. Get {SOURCE} and put it "
            "there as docs/data.md says, or correct the folder in the config."
        )
    return path


def _check_rows(folder: Path, rows: list[Row]) -> None:
    sources = [_relative(folder, row.source) for row in rows]
    if len(set(sources)) < len(sources):
        twice = Counter(sources).most_common(1)[0][0]
        raise ValueError(
            f"{folder}: each clip must be listed once, got {twice} twice. Correct the lists."
        )
    classes = {split: {row.name for row in rows if row.split == split} for split in SPLITS}
    unlearnt = classes["test"] - classes["train"]
    if unlearnt:
        raise ValueError(
            f"{folder}: each class of the test clips must occur in training, got {min(unlearnt)!r} "
            "only there. Correct the lists."
        )
    missing = [name for name in sources if not os.path.exists(folder / name)]
    if missing:
        raise ValueError(
            f"{folder}: each listed clip must be there, got {len(missing)} of {len(sources)} "
            f"missing: {few(missing)}. Complete the clips."
        )
