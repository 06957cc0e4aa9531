"""Files behind a page: those that fit are inside, byte by byte; the others are linked."""

import base64
from pathlib import Path

import pytest

from rectify.analysis.downloads import LIMIT, TABLE_SUFFIXES, downloads, family


def written(folder: Path, sizes: dict[str, int]) -> list[Path]:
    """Return files of these names and sizes, of bytes that are not the same everywhere."""
    paths = [folder / "results" / name for name in sizes]
    for path, size in zip(paths, sizes.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((bytes(range(251)) * (size // 251 + 1))[:size])
    return paths


def content(address: str) -> bytes:
    return base64.b64decode(address.partition(";base64,")[2], validate=True)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_a_file_inside_is_the_file(tmp_path: Path, size: int) -> None:
    (path,) = written(tmp_path, {"tables/one.csv": size})
    link = downloads([path], tmp_path)[path]
    assert (link.name, link.suffix, link.is_inside) == ("one.csv", "csv", True)
    assert content(link.address) == path.read_bytes()
    assert link.address.startswith("data:text/csv;charset=utf-8;base64,")


def test_small_files_are_inside_until_the_page_is_full(tmp_path: Path) -> None:
    sizes = {"a/big.csv": 1_900_000, "b/large.pdf": 1_500_000, "a/small.md": 2000}
    sizes |= {"b/shown.svg": 600_000, "b/middle.csv": 1_200_000}
    paths = written(tmp_path, sizes)
    links = downloads(paths, tmp_path / "results" / "report")
    inside = {path.name for path, link in links.items() if link.is_inside}
    room = LIMIT - len(base64.b64encode(bytes(600_000)))  # the picture is on the page already
    expected, files = set(), sorted((size, Path(n).name) for n, size in sizes.items())
    for size, name in files:
        room -= len(base64.b64encode(bytes(size))) if name != "shown.svg" else 0
        expected |= {name} if room >= 0 and name != "shown.svg" else set()
    assert inside == expected == {"small.md", "middle.csv", "large.pdf"}
    assert sum(len(link.address) for link in links.values()) <= LIMIT
    big = links[paths[0]]
    assert big.address == "../a/big.csv"
    assert (tmp_path / "results" / "report" / big.address).resolve() == paths[0]
    assert big.text == "a/big.csv, 1,900 kB"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (path, *_) = written(tmp_path, {"tables/one.csv": 3, "tables/one.tex": 3})
    with pytest.raises(ValueError, match=r"one\.md: must exist, got no file\. Make the table"):
        family(path, TABLE_SUFFIXES)


def test_what_a_page_has_already_leaves_less_room(tmp_path: Path) -> None:
    (path,) = written(tmp_path, {"tables/one.csv": 3000})
    assert downloads([path], tmp_path, taken=LIMIT - 4000)[path].is_inside
    assert not downloads([path], tmp_path, taken=LIMIT - 3999)[path].is_inside
