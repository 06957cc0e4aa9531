"""Image-caption pairs in one fixed order."""

from pathlib import Path

from rectify.data.manifests import LISTING
from rectify.results.declared import MANIFEST
from rectify.results.tables import read_table

SPLIT = "pairs"


def captions(folder: Path) -> list[str]:
    """Return the captions of prepared pairs, in the order of their images.

    Raises:
        ValueError: If the folder holds no pairs.
    """
    rows = read_table(MANIFEST, Path(folder) / LISTING)
    names = rows.loc[rows["split"] == SPLIT, "name"].tolist()
    if not names:
        raise ValueError(
            f"{folder}: must hold image-caption pairs, got splits "
            f"{', '.join(dict.fromkeys(rows['split']))}. Name a set of pairs."
        )
    return names
