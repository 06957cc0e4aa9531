"""Clouds of solids written as the published sets are, and read back by their readers in tests."""

import csv
import pickle
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from rectify.data.clouds import CloudSet
from rectify.demo.solids import solids
from rectify.tasks.point_classification.readers import scanobjectnn

SPLITS = {"train": "training", "test": "test"}


def drawn(points: int, variant: str = "bg", train: int = 2, test: int = 1) -> dict[str, CloudSet]:
    return solids(points=points, seed=0, variant=variant, train_items=train, test_items=test)


def write_scanobjectnn(
    folder: Path, variant: str, sets: dict[str, CloudSet], *, column: bool = False
) -> Path:
    """Write HDF5 files in the published layout; labels as a column, or in a row."""
    place, end = scanobjectnn.VARIANTS[variant]
    for split, clouds in sets.items():
        path = folder / place / f"{SPLITS[split]}_objectdataset{end}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = clouds.labels.numpy().astype("int32")
        with h5py.File(path, "w") as file:
            file["data"] = clouds.points.numpy()
            file["label"] = labels[:, None] if column else labels
            file["mask"] = np.where(clouds.objects.numpy(), 7, -1).astype("int16")
            file["parts"] = np.zeros(3)  # what is there besides does not matter
    return folder


def items_of(split: str, clouds: CloudSet) -> list[str]:
    """Return names as ModelNet40 has them: night_stand_0001, each in one split."""
    first = {"train": 0, "test": 5000}[split]
    labels = enumerate(clouds.labels.tolist(), first)
    return [f"{clouds.classes[label]}_{number:04d}" for number, label in labels]


def write_lists(folder: Path, sets: dict[str, CloudSet]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    classes = next(iter(sets.values())).classes
    (folder / "modelnet40_shape_names.txt").write_text("\n".join(classes) + "\n")
    for split, clouds in sets.items():
        (folder / f"modelnet40_{split}.txt").write_text("\n".join(items_of(split, clouds)) + "\n")
    return folder


def with_normals(points: Tensor) -> np.ndarray:
    return np.concatenate([points.numpy(), np.full_like(points.numpy(), 9.0)], -1)


def write_dat(folder: Path, sets: dict[str, CloudSet], points: int) -> Path:
    """Write the pickles that go around: a list of clouds with normals, a list of labels."""
    write_lists(folder, sets)
    for split, clouds in sets.items():
        labels = [np.array([label], np.int32) for label in clouds.labels.tolist()]
        content = [[with_normals(cloud) for cloud in clouds.points], labels]
        with (folder / f"modelnet40_{split}_{points}pts_fps.dat").open("wb") as file:
            pickle.dump(content, file)
    return folder


def write_texts(folder: Path, sets: dict[str, CloudSet]) -> Path:
    """Write one file of numbers for each cloud, in a folder of its class."""
    write_lists(folder, sets)
    for split, clouds in sets.items():
        for item, cloud in zip(items_of(split, clouds), clouds.points, strict=True):
            path = folder / item.rpartition("_")[0] / f"{item}.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, with_normals(cloud), fmt="%.6f", delimiter=",")
    return folder


def write_cap3d(folder: Path, pairs: CloudSet) -> Path:
    """Write captions without a line of names, and each cloud with colours as a file of torch."""
    (folder / "Cap3D_pcs_pt").mkdir(parents=True)
    names = [f"{number:032x}" for number in range(len(pairs))]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(zip(names, pairs.captions, strict=True))
    for name, cloud in zip(names, pairs.points, strict=True):
        coloured = torch.cat([cloud.T, torch.full_like(cloud.T, 0.5)])
        torch.save(coloured, folder / "Cap3D_pcs_pt" / f"{name}.pt")
    return folder
