"""Files of tensors: what is read, what is refused, and in which words."""

import argparse
import re

import pytest
import torch
from safetensors.torch import save_file

from rectify.tensors import check_same_tensors, load_pickle, mapped_tensors, read_safetensors


@pytest.fixture
def tensors():
    return {"a": torch.arange(6.0).view(2, 3), "b.c": torch.ones(4, dtype=torch.bfloat16)}


def test_tensors_and_metadata_come_back(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors", {"facts": "1"})
    found, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert metadata == {"facts": "1"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_file_without_metadata_has_none(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    assert read_safetensors(tmp_path / "x.safetensors")[1] == {}


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "pth"])
def test_every_format_gives_the_same_tensors(tmp_path, tensors, suffix):
    path = tmp_path / f"x.{suffix}"
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    found = mapped_tensors(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_cut_short_is_named_in_one_line(tmp_path, tensors, suffix, kept):
    path = tmp_path / f"x.{suffix}"
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:kept])
    message = (
        f"{re.escape(str(path))}: must be an intact file of tensors, got .* Get the file again"
    )
    with pytest.raises(ValueError, match=message) as caught:
        mapped_tensors(path)
    assert "\n" not in str(caught.value)


def test_the_caller_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"got No such file.*x\.safetensors\. Train it again\.$"):
        read_safetensors(tmp_path / "x.safetensors", "Train it again.")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([1], "one of type list"),
        ({"a": 1}, "a, of type int"),
        ({"a": torch.ones(1), "steps": 3}, "steps, of type int"),
        ({"a": [torch.ones(1)]}, "a, of type list"),
        ({"model": {"a": torch.ones(1)}, "module": {"a": torch.ones(1)}}, "model, of type dict"),
        ({"model": {"a": {"b": torch.ones(1)}}}, "a, of type dict"),
        (torch.ones(2), "one of type Tensor"),
    ],
)
def test_a_pickle_of_other_things_holds_no_tensors_by_name(tmp_path, content, got):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(ValueError, match=rf"got {got}\. Save its tensors alone"):
        mapped_tensors(tmp_path / "x.bin")


@pytest.mark.parametrize("wrapper", ["state_dict", "module", "model"])
def test_tensors_are_found_under_the_name_that_a_training_script_gives(tmp_path, wrapper):
    notes = {"steps": 3, "optimizer": {"lr": 0.1}}
    torch.save({wrapper: {"a": torch.ones(2)}, **notes}, tmp_path / "x.bin")
    assert {n: t.tolist() for n, t in mapped_tensors(tmp_path / "x.bin").items()} == {"a": [1, 1]}


def test_only_objects_that_are_named_are_left_out(tmp_path):
    content = {"a": torch.ones(2), "options": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"got other objects too, first argparse\.Namespace"):
        load_pickle(tmp_path / "x.pth")
    found = load_pickle(tmp_path / "x.pth", ["argparse.Namespace"])
    assert found["a"].tolist() == [1, 1]
    assert vars(found["options"]) == {}


def test_the_same_tensors_pass_whatever_their_values_and_devices(tensors):
    with torch.device("meta"):
        shapes = {name: torch.empty(tensor.shape) for name, tensor in tensors.items()}
    check_same_tensors(shapes, tensors, "here", "Fix it.")
    check_same_tensors(tensors, shapes, "here", "Fix it.")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"a": None}, "here: tensor a must be (2, 3), got absent. Fix it."),
        ({"0": torch.ones(2)}, "here: tensor 0 must be absent, got (2,). Fix it."),
        ({"a": torch.ones(3, 2)}, "here: tensor a must be (2, 3), got (3, 2). Fix it."),
        ({"a": torch.ones(())}, "here: tensor a must be (2, 3), got (). Fix it."),
        (
            {"a": None, "b.c": None, "d": torch.ones(1)},
            "here: tensor a must be (2, 3), got absent (3 tensors differ). Fix it.",
        ),
    ],
)
def test_the_first_tensor_that_differs_is_named(tensors, changes, expected):
    got = {name: t for name, t in {**tensors, **changes}.items() if t is not None}
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_same_tensors(tensors, got, "here", "Fix it.")
