"""ModelNet40 (Wu et al., 2015), resampled with normals, in either of its usual forms.

    modelnet40_shape_names.txt, modelnet40_{train,test}.txt      classes; items, as night_stand_0001
    modelnet40_{train,test}_8192pts_fps.dat                      pickles of clouds and labels, or
    <class>/<item>.txt                                           lines of x,y,z and a normal

The first form wins. Of the second, 8,192 points of each cloud are taken by farthest point sampling
from its first one; the pickles that go around were made from random ones, so both forms differ in
the points. Normals are not read.
"""

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.image_classification.folders import check_present, read_text
from rectify.tasks.readers import few

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rectify.data.clouds import CloudSet

EMBEDDED, IN_MEMORY = False, True
COMPLETE = {("train",): 9_843, ("test",): 2_468}

NAMES = "modelnet40_shape_names.txt"
SPLITS = ("train", "test")
STORED, LINES = 8192, 10_000  # points of a cloud that are taken, and that its text has
SOURCE = "ModelNet40, modelnet40_normal_resampled (https://modelnet.cs.princeton.edu)"
AT_ONCE = 64  # clouds that are sampled together


def read(folder: Path) -> "dict[str, CloudSet]":
    """Return train and test.

    Raises:
        ValueError: If a file is missing, damaged or not of this format, or an item is unknown.
    """
    lists = [NAMES, *(f"modelnet40_{split}.txt" for split in SPLITS)]
    check_present(folder, [folder / name for name in lists], SOURCE)
    classes = _lines(folder / NAMES)
    return {split: _split(folder, split, classes) for split in SPLITS}


def _split(folder: Path, split: str, classes: list[str]) -> "CloudSet":
    import torch

    from rectify.data.clouds import CloudSet

    path = folder / f"modelnet40_{split}.txt"
    items = _lines(path)
    labels = [_label(path, item, classes) for item in items]
    stored = folder / f"modelnet40_{split}_{STORED}pts_fps.dat"
    if stored.is_file():
        points = _from_pickle(stored, labels)
        sources = [f"{stored.name}:{number} {item}" for number, item in enumerate(items)]
    else:
        sources = [f"{item.rpartition('_')[0]}/{item}.txt" for item in items]
        check_present(folder, [folder / source for source in sources], SOURCE)
        points = _from_texts([folder / source for source in sources])
    return CloudSet(points, torch.tensor(labels), tuple(classes), tuple(sources))


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    copies = [line for line, count in Counter(lines).items() if count > 1]
    if copies or not lines:
        raise ValueError(
            f"{path}: must have a name in each line, each once, got {few(copies) or 'none'}. "
            f"Get {SOURCE} again."
        )
    return lines


def _label(path: Path, item: str, classes: list[str]) -> int:
    name = item.rpartition("_")[0]  # of night_stand_0001 night_stand
    if name not in classes:
        raise ValueError(
            f"{path}: each item must be <class>_<number> of a class of {NAMES}, got {item!r}. "
            f"Get {SOURCE} again."
        )
    return classes.index(name)


def _from_pickle(path: Path, labels: list[int]) -> "Tensor":
    import numpy as np
    import torch

    from rectify.data.pickles import unpickled

    content = unpickled(path)
    is_pair = isinstance(content, list | tuple) and len(content) == 2
    if not is_pair or not all(isinstance(part, list) for part in content):
        raise ValueError(
            f"{path}: must hold a list of clouds and a list of labels, got something else. "
            f"Get {SOURCE} again."
        )
    clouds, classes = content
    numbers = [int(one.flat[0]) if _is_number(one) else None for one in classes]
    if len(clouds) != len(labels) or numbers != labels:
        raise ValueError(
            f"{path}: must hold the {len(labels)} items of its list in their order, each with its "
            f"class, got {len(clouds)} clouds and {len(numbers)} labels that do not fit it. "
            f"Get {SOURCE} again."
        )
    points = np.empty((len(clouds), STORED, 3), np.float32)
    for number, cloud in enumerate(clouds):
        _check_cloud(f"{path}: cloud {number}", cloud, STORED)
        points[number] = cloud[:, :3]
    return torch.from_numpy(points)


def _from_texts(paths: list[Path]) -> "Tensor":
    """Return the clouds of text files, each sampled to ``STORED`` points."""
    import torch

    from rectify.data.points import farthest_points, taken

    sampled = []
    for first in range(0, len(paths), AT_ONCE):
        read = [torch.from_numpy(_from_text(path)) for path in paths[first : first + AT_ONCE]]
        clouds = torch.stack(read)
        sampled.append(taken(clouds, farthest_points(clouds, STORED)))
    return torch.cat(sampled)


def _from_text(path: Path) -> "np.ndarray":
    import numpy as np

    try:
        with warnings.catch_warnings(action="error"):  # of a file without any line
            values = np.loadtxt(path, np.float32, delimiter=",", usecols=(0, 1, 2), ndmin=2)
    except (ValueError, UserWarning) as error:
        raise ValueError(
            f"{path}: each line must be x,y,z and a normal, got {str(error).splitlines()[0]}. "
            f"Get {SOURCE} again."
        ) from None
    _check_cloud(f"{path}", values, LINES)
    return values


def _check_cloud(where: str, cloud: object, points: int) -> None:
    """Check that a cloud has just so many points, with finite coordinates."""
    import numpy as np

    is_array = isinstance(cloud, np.ndarray) and cloud.ndim == 2 and cloud.dtype.kind == "f"
    if not is_array or cloud.shape[0] != points or cloud.shape[1] < 3:
        got = cloud.shape if isinstance(cloud, np.ndarray) else type(cloud).__name__
        raise ValueError(
            f"{where}: must have x, y and z of {points} points, got {got}. Get {SOURCE} again."
        )
    if not np.isfinite(cloud[:, :3]).all():
        raise ValueError(
            f"{where}: each coordinate must be finite, got another. Get {SOURCE} again."
        )


def _is_number(value: object) -> bool:
    import numpy as np

    return isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iu"
