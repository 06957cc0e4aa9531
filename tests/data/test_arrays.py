"""The arrays of a set: only what is asked for is read, and damage is one line."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rectify.data.arrays import opened
from rectify.data.manifests import ARRAYS


@pytest.mark.parametrize("framework", ["pt", "numpy"])
def test_both_frameworks_give_the_same(tmp_path: Path, framework: str) -> None:
    written = np.arange(6, dtype=np.int64).reshape(2, 3)
    save_file({"test.numbers": written}, tmp_path / ARRAYS, {"notes": "[1]"})
    with opened(tmp_path, "test", framework) as file:
        assert file.get_tensor("test.numbers").tolist() == written.tolist()
        assert file.metadata() == {"notes": "[1]"}
    with (
        pytest.raises(ValueError, match="must be an intact safetensors file with split train") as e,
        opened(tmp_path, "train", framework) as file,
    ):
        file.get_tensor("train.numbers")
    assert "\n" not in f"{e.value}"


@pytest.mark.parametrize("content", [None, b"", b"\x08\x00"])
def test_a_file_that_is_missing_or_damaged_is_one_line(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / ARRAYS).write_bytes(content)
    with pytest.raises(ValueError, match=r"arrays\.safetensors: must be an intact") as e:
        opened(tmp_path, "test").__enter__()
    assert "\n" not in f"{e.value}"
