"""A prepared set of clouds: written, read back, damaged."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rectify.data.clouds import CloudSet, load_clouds, save_clouds
from rectify.results.provenance import provenance
from rectify.runtime import generator


def clouds(items: int, *, known: bool = True) -> CloudSet:
    draws = generator(0, "clouds", items)
    points = torch.randn(items, 5, 3, generator=draws)
    objects = torch.rand(items, 5, generator=draws) < 0.5 if known else None
    sources = tuple(f"file:{n}" for n in range(items))
    return CloudSet(points, torch.arange(items) % 3, ("cup", "jug", "vase, old"), sources, objects)


@pytest.mark.parametrize("known", [True, False])
def test_what_is_written_is_read_back(tmp_path: Path, known: bool) -> None:
    sets = {"train": clouds(7), "test": clouds(4, known=known)}
    save_clouds(tmp_path, sets, provenance(0))
    for split, expected in sets.items():
        found = load_clouds(tmp_path, split)
        assert torch.equal(found.points, expected.points)
        assert torch.equal(found.labels, expected.labels)
        assert (found.classes, found.sources) == (expected.classes, expected.sources)
        if expected.objects is None:
            assert found.objects is None
        else:
            assert torch.equal(found.objects, expected.objects)


def test_a_part_of_a_split_keeps_what_belongs_together() -> None:
    whole = clouds(7)
    part = whole.only(torch.tensor([False, True, False, False, True, True, False]))
    for place, item in enumerate((1, 4, 5)):
        assert torch.equal(part.points[place], whole.points[item])
        assert torch.equal(part.objects[place], whole.objects[item])
        assert (part.labels[place], part.sources[place]) == (item % 3, f"file:{item}")


def test_another_split_is_one_line(tmp_path: Path) -> None:
    save_clouds(tmp_path, {"train": clouds(7)}, provenance(0))
    with pytest.raises(ValueError, match="intact safetensors file with split test, got") as caught:
        load_clouds(tmp_path, "test")
    assert "\n" not in str(caught.value)


def test_arrays_of_another_set_are_refused(tmp_path: Path) -> None:
    save_clouds(tmp_path, {"train": clouds(7)}, provenance(0))
    path = tmp_path / "arrays.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"train.labels": tensors["train.labels"].flip(0)}, path, {"classes": "[]"})
    with pytest.raises(ValueError, match="must list the same items of train, got others"):
        load_clouds(tmp_path, "train")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="must be an intact safetensors file"):
        load_clouds(tmp_path, "train")
    path.unlink()
    with pytest.raises(ValueError, match="must be an intact safetensors file"):
        load_clouds(tmp_path, "train")
