"""ScanObjectNN (Uy et al., 2019) in its HDF5 files, one of its three usual variants.

    main_split/{training,test}_objectdataset.h5                         bg: as scanned
    main_split_nobg/{training,test}_objectdataset.h5                    only: without background
    main_split/{training,test}_objectdataset_augmentedrot_scale75.h5    hardest: PB_T50_RS

Each file has ``data`` (clouds, 2048, 3), ``label`` (clouds) and perhaps ``mask`` (clouds, 2048),
where -1 is a point of the background. Coordinates are taken as they are.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.image_classification.folders import check_present
from rectify.tasks.readers import check_count
from rectify.typed import check_known

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

    from rectify.data.clouds import CloudSet

EMBEDDED, IN_MEMORY = False, True

CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table"),
    *("bed", "pillow", "sink", "sofa", "toilet"),
)
"""In the order of their labels."""
STORED = 2048  # points of a cloud
AUGMENTED = "_augmentedrot_scale75"
VARIANTS = {
    "bg": ("main_split", ""),
    "only": ("main_split_nobg", ""),
    "hardest": ("main_split", AUGMENTED),
}
"""Folder, and the end of the files' names, by variant."""
MASKED = ("bg", "hardest")
SPLITS = {"train": "training", "test": "test"}
BACKGROUND = -1
SOURCE = "ScanObjectNN's h5_files (https://hkust-vgd.github.io/scanobjectnn)"
COMPLETE: dict[tuple[str, ...], int] = {}  # by variant: `complete`
COUNTS = {"": (2_309, 581), AUGMENTED: (11_416, 2_882)}
"""Of training and test, by the end of the files' names."""


def read(folder: Path, *, variant: str = "hardest") -> "dict[str, CloudSet]":
    """Return train and test of a variant.

    Args:
        folder: Holds ``main_split`` and ``main_split_nobg``.
        variant: ``bg``, ``only`` or ``hardest``.

    Raises:
        ValueError: If a file is missing, damaged or not of this format.
    """
    check_known(f"{folder}: variant", variant, VARIANTS, "a variant of ScanObjectNN")
    place, end = VARIANTS[variant]
    files = {split: f"{place}/{name}_objectdataset{end}.h5" for split, name in SPLITS.items()}
    check_present(folder, [folder / file for file in files.values()], SOURCE)
    return {split: _read(folder, file) for split, file in files.items()}


def complete(*, variant: str = "hardest") -> dict[tuple[str, ...], int]:
    """Return the published numbers of clouds of a variant, by split."""
    _, end = VARIANTS[variant]
    return dict(zip([(split,) for split in SPLITS], COUNTS[end], strict=True))


def check(data: str, listing: "DataFrame") -> None:
    """Check the number of clouds of each split, which depends on the variant.

    Raises:
        ValueError: If a split has another number.
    """
    end = AUGMENTED if AUGMENTED in listing["source"].iloc[0] else ""
    for split, expected in zip(SPLITS, COUNTS[end], strict=True):
        clouds = int((listing["split"] == split).sum())
        check_count(data, f"{expected:,} clouds in {split}", clouds, expected)


def _read(folder: Path, file: str) -> "CloudSet":
    import torch

    from rectify.data.clouds import CloudSet

    points, labels, mask = _arrays(folder / file)
    return CloudSet(
        torch.from_numpy(points),
        torch.from_numpy(labels),
        CLASSES,
        tuple(f"{file}:{number}" for number in range(len(labels))),
        None if mask is None else torch.from_numpy(mask != BACKGROUND),
    )


def _arrays(path: Path) -> "tuple[np.ndarray, np.ndarray, np.ndarray | None]":
    """Return coordinates, labels and, where there is one, the mask of a file's clouds."""
    import numpy as np

    arrays = _datasets(path)
    missing = [name for name in ("data", "label") if name not in arrays]
    if missing:
        raise ValueError(
            f"{path}: must hold data and label, got no {missing[0]}. Get {SOURCE} again."
        )
    data, labels, mask = arrays["data"], arrays["label"], arrays.get("mask")
    clouds = len(data) if data.ndim else 0
    if labels.shape == (clouds, 1):
        labels = labels[:, 0]
    _check_shape(path, "data", data, (clouds, STORED, 3), "iuf")
    _check_shape(path, "label", labels, (clouds,), "iu")
    if mask is not None:
        _check_shape(path, "mask", mask, (clouds, STORED), "iuf")
    _check_values(path, data, labels)
    return data.astype(np.float32), labels.astype(np.int64), mask


def _datasets(path: Path) -> "dict[str, np.ndarray]":
    """Return the arrays of a file that are read, by name."""
    import h5py
    import numpy as np

    try:
        with h5py.File(path) as file:
            found = {name: file.get(name) for name in ("data", "label", "mask")}
            return {
                name: np.asarray(one)
                for name, one in found.items()
                if isinstance(one, h5py.Dataset)
            }
    except OSError as error:
        raise ValueError(
            f"{path}: must be an intact HDF5 file, got {str(error).splitlines()[0]}. Get {SOURCE} "
            "again."
        ) from None


def _check_shape(
    path: Path, name: str, values: "np.ndarray", shape: tuple[int, ...], kinds: str
) -> None:
    if values.shape != shape or values.dtype.kind not in kinds or not len(values):
        numbers = "integers" if "f" not in kinds else "numbers"
        wanted = ", ".join(["clouds", *map(str, shape[1:])])
        raise ValueError(
            f"{path}: {name} must be {numbers} of shape ({wanted}), got {values.dtype} of shape "
            f"{values.shape}. Get {SOURCE} again."
        )


def _check_values(path: Path, data: "np.ndarray", labels: "np.ndarray") -> None:
    import numpy as np

    bad = ~np.isfinite(data).all((1, 2))
    if bad.any():
        raise ValueError(
            f"{path}: each coordinate must be finite, got another in cloud {int(bad.argmax())}. "
            f"Get {SOURCE} again."
        )
    wrong = (labels < 0) | (labels >= len(CLASSES))
    if wrong.any():
        raise ValueError(
            f"{path}: each label must lie in 0..{len(CLASSES) - 1}, got "
            f"{int(labels[wrong.argmax()])} in cloud {int(wrong.argmax())}. Get {SOURCE} again."
        )
