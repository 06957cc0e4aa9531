"""Files that appear complete or not at all.

A file is written under a temporary name in the same folder, flushed to disk and renamed.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

POINTER = b"version https://git-lfs.github.com/spec/"  # how git-lfs's note of a file begins


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: If there is no such file, it is not JSON, or it is git-lfs's note of one.
    """
    check_no_pointer(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: must exist, got no file. Make it first.") from None
    except OSError as error:
        raise ValueError(
            f"{path}: must be a file, got {error.strerror}. Correct the path."
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or too deep
        raise ValueError(f"{path}: must be JSON, got {error}. Make it again.") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Raises:
        ValueError: If there is no such file, or it is no YAML mapping: names the file and the line.
    """
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path}: must be a YAML file, got {error.strerror}. Correct the path."
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise ValueError(f"{where}: must be YAML, got {error.problem}. Correct the line.") from None
    except (
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ) as error:  # no UTF-8, no such date, too deep
        reason = f"{error}".splitlines()[0]
        raise ValueError(f"{path}: must be YAML, got {reason}. Correct the file.") from None
    if not isinstance(value, dict):
        got = "nothing" if value is None else f"{value!r}"[:80]
        raise ValueError(f"{path}: must hold keys and values, got {got}. Correct the file.")
    return value


def is_pointer(path: Path) -> bool:
    """Return whether there is git-lfs's note of a file in place of the file itself."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def check_no_pointer(path: Path) -> None:
    """Check that a file is not git-lfs's note of one.

    Raises:
        ValueError: If it is.
    """
    if is_pointer(path):
        raise ValueError(
            f"{path}: must be the file itself, got git-lfs's pointer to it. Run `git lfs pull` in "
            "its folder."
        )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` if the block ends well.

    Who may read it is as of any new file there: some writers, safetensors' for one, keep all others
    from theirs, and so a group from what it shares.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        temporary.unlink()
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Flush a folder's names to disk, so that a renamed file survives a power failure."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
