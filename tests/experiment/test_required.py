"""The folders that jobs read: of sets, their shifts, and their masks where these are compared."""

from rectify.experiment.grid import read
from rectify.experiment.plan import Plan
from rectify.experiment.required import data_folders
from tests.helpers.configs import PAPER


def test_masks_are_required_where_a_figure_reads_them() -> None:
    folders = data_folders(Plan(read(PAPER)))
    assert folders["imagenet-pang"][0] == "data/imagenet"
    assert folders["imagenet-pang"][-1] == "data/imagenet-s-50"
    assert folders["cifar100"] == ["data/cifar-100-python"]
    assert folders["scanobjectnn-bg"] == ["data/scanobjectnn"]  # its files have the masks
    assert folders["cap3d"] == ["data/cap3d"]
    names = ("pang_figure3", "pang_figure4")
    without = {**PAPER, "targets": {n: t for n, t in PAPER["targets"].items() if n not in names}}
    del without["pages"]
    assert "data/imagenet-s-50" not in data_folders(Plan(read(without)))["imagenet-pang"]
