"""Questions and annotations in published JSON: lists of mappings, each with a number of its own."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rectify.results.files import read_json

NUMBER = "question_id"
Wrong = Callable[[Path, str, str], ValueError]
"""From a file, what must hold and what was got to the error."""


def entries(
    path: Path, key: str, fields: Mapping[str, type], wrong: Wrong
) -> Iterator[dict[str, Any]]:
    """Give the entries of a list in a file, each checked.

    Args:
        path: The file.
        key: Of its list.
        fields: Those that each entry has, and their types; ``question_id`` is among them.
        wrong: Makes an error.

    Raises:
        ValueError: If the file is damaged, has no such list, or an entry is not as it must be.
    """
    content = read_json(path)
    listed = content.get(key) if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise wrong(path, f"it must have a list of {key}", "none")
    seen = set()
    for place, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise wrong(path, f"each of its {key} must be a mapping", f"{entry!r:.40}")
        for name, kind in fields.items():
            if type(entry.get(name)) is not kind:
                got = f"{entry.get(name)!r:.40} of entry {place}"
                raise wrong(path, f"{name} must be a {kind.__name__}", got)
        if entry[NUMBER] in seen:
            raise wrong(path, f"a {NUMBER} must be there once", f"{entry[NUMBER]} twice")
        seen.add(entry[NUMBER])
        yield entry


def paired(
    questions: tuple[Path, Mapping[str, type]],
    annotations: tuple[Path, Mapping[str, type]],
    wrong: Wrong,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give each question with its annotation, in the order of the file of questions.

    Args:
        questions: The file, and the fields of an entry: as of ``entries``.
        annotations: The same of the annotations.
        wrong: Makes an error.

    Raises:
        ValueError: If a file is not as it must be, or one has an entry that the other has not.
    """
    path, fields = annotations
    answered = {entry[NUMBER]: entry for entry in entries(path, "annotations", fields, wrong)}
    for asked in entries(questions[0], "questions", questions[1], wrong):
        number = asked[NUMBER]
        if number not in answered:
            raise wrong(path, "each question must have an annotation", f"none of {number}")
        yield asked, answered.pop(number)
    if answered:
        got = f"one of {next(iter(answered))}"
        raise wrong(path, "each annotation must be of a question that is asked", got)
