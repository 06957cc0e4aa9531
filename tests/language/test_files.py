"""What a checkpoint's folder holds, by name; whole checkpoints are in test_block.py."""

import json
import re

import torch
from safetensors.torch import save_file

from rectify.language.files import read_revision, read_settings, read_tensors, tensor_shapes
from tests.helpers.tiny_checkpoints import error_of


def test_tensors_are_given_by_the_group_of_their_names(tmp_path):
    save_file({"a.x": torch.ones(2), "b.x": torch.ones(3)}, tmp_path / "model.safetensors")
    assert tensor_shapes(tmp_path) == {"a.x": (2,), "b.x": (3,)}
    found = read_tensors(tmp_path, re.compile(r"^a\.(.+)$"))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"x": [1, 1]}


def test_what_is_read_is_a_copy(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a.x": torch.ones(2)}, path)
    found = read_tensors(tmp_path, re.compile(r"^a\.(.+)$"))
    with path.open("r+b") as file:
        file.seek(-8, 2)
        file.write(bytes(8))
    assert found["x"].tolist() == [1, 1]
    assert read_tensors(tmp_path, re.compile(r"^a\.(.+)$"))["x"].tolist() == [0, 0]


def test_a_checkpoint_is_of_the_commit_that_was_fetched(tmp_path):
    assert read_revision(tmp_path) is None
    (tmp_path / "fetched.json").write_text(json.dumps({"commit": "0123abcd"}))
    assert read_revision(tmp_path) == "0123abcd"


def test_a_folder_without_settings_is_refused(tmp_path):
    assert "got no config.json or params.json" in error_of(read_settings, tmp_path)


def test_a_place_in_an_index_that_is_no_name_is_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": 5}}))
    assert "its parts must be next to it, got 5" in error_of(tensor_shapes, tmp_path)
