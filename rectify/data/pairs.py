"""Image-caption pairs in one fixed order."""

from pathlib import Path

from rectify.data.manifests import read_listing

SPLIT = "pairs"


def captions(folder: Path) -> list[str]:
    """Return the captions of prepared pairs, in the order of their images.

    Raises:
        ValueError: If the folder holds no pairs, or its manifest was changed.
    """
    rows, _ = read_listing(folder)
    names = rows.loc[rows["split"] == SPLIT, "name"].tolist()
    if not names:
        raise ValueError(
            f"{folder}: must hold image-caption pairs, got splits "
            f"{', '.join(dict.fromkeys(rows['split']))}. Name a set of pairs."
        )
    return names


def identity(folder: Path) -> dict[str, str]:
    """Return the facts by which features of the same pairs in the same order are known.

    Raises:
        ValueError: As ``captions``.
    """
    _, facts = read_listing(folder)
    return {"pairs": Path(folder).name, "pairs_sha256": facts["sha256"]}
