"""Point clouds with captions as Cap3D (Luo et al., 2023) publishes them.

    captions.csv           lines of id and caption, without a line of names: a choice of the
                           published lines
    Cap3D_pcs_pt/<id>.pt   a tensor (6, 16384): coordinates and colours of each point

Colours are left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.pairs.readers.captions import Line, lines, same_ends

if TYPE_CHECKING:
    from jaxtyping import Float32
    from torch import Tensor

    from rectify.data.clouds import CloudSet

EMBEDDED, IN_MEMORY, CLOUDS = False, True, True
LISTING, CLOUD_FOLDER = "captions.csv", "Cap3D_pcs_pt"
SOURCE = "Cap3D's captions and PointCloud_pt_zips (https://huggingface.co/datasets/tiange/Cap3D)"


def read(folder: Path) -> "dict[str, CloudSet]":
    """Return the pairs in the order of the list.

    Raises:
        ValueError: If there is no list, a line of it is no id and caption, an id is there twice, or
            a cloud is missing, damaged, not finite or of another number of points.
    """
    import torch

    from rectify.data.clouds import CloudSet
    from rectify.data.pairs import SPLIT

    path = Path(folder) / LISTING
    if not path.is_file():
        raise ValueError(
            f"{path}: must list ids and captions, got no file. Choose lines of {SOURCE}."
        )
    captions = dict(_checked(path))
    if not captions:
        raise ValueError(f"{path}: must list ids and captions, got no line. Choose some.")
    files = [f"{CLOUD_FOLDER}/{name}.pt" for name in captions]
    clouds = [_cloud(Path(folder) / file) for file in files]
    for file, cloud in zip(files, clouds, strict=True):
        if len(cloud) != len(clouds[0]):
            raise ValueError(
                f"{Path(folder) / file}: each cloud must have the {len(clouds[0])} points of the "
                f"first, got {len(cloud)}. Get {SOURCE} again."
            )
    labels = torch.full((len(clouds),), -1)
    texts = tuple(captions.values())
    return {SPLIT: CloudSet(torch.stack(clouds), labels, (), tuple(files), None, texts)}


def _checked(path: Path) -> Iterator[tuple[str, str]]:
    """Give id and caption of each line."""
    numbers: dict[str, int] = {}
    for line in lines(path):
        name, caption = _cells(path, line)
        if name in numbers:
            raise ValueError(
                f"{path}: each cloud must have one caption, got {name} in lines {numbers[name]} "
                f"and {line.number}. Keep one: copies are each other's neighbours."
            )
        numbers[name] = line.number
        yield name, caption


def _cells(path: Path, line: Line) -> tuple[str, str]:
    cells = [same_ends(cell).strip() for cell in line.cells]
    if len(cells) != 2 or not all(cells) or Path(cells[0]).name != cells[0]:
        raise ValueError(
            f"{path}: each line must be an id and a caption, got {', '.join(cells) or 'none'} in "
            f"line {line.number}. Put a caption with commas between quotes."
        )
    return cells[0], cells[1]


def _cloud(path: Path) -> 'Float32[Tensor, "points 3"]':
    import torch

    from rectify.tensors import load_pickle

    values = load_pickle(path)
    is_cloud = isinstance(values, torch.Tensor) and values.ndim == 2 and values.is_floating_point()
    if not is_cloud or len(values) < 3 or not values[:3].isfinite().all():
        got = f"one of shape {tuple(values.shape)}" if is_cloud else type(values).__name__
        raise ValueError(
            f"{path}: must be a tensor (6, points) of finite coordinates and colours, got {got}. "
            f"Get {SOURCE} again."
        )
    return values[:3].T.float().contiguous()
