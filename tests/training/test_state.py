"""The two states of an unfinished training: intact, damaged, foreign, unwritable."""

import errno
import io
import pickle
import subprocess

import pytest
import torch

from rectify.training.state import States, _write, identity


def state(number):
    return {"rows": [[number, None, 0.5]], "model": {"weight": torch.full((3, 2), float(number))}}


def saved(folder, *numbers):
    for number in numbers:
        States(folder, "mine").save(state(number))
    return sorted(path for path in folder.iterdir())


def loaded(folder):
    found = States(folder, "mine").load()
    return found and found["rows"][0][0]


def test_the_last_two_are_kept_and_the_last_is_loaded(tmp_path):
    assert loaded(tmp_path / "new") is None
    files = saved(tmp_path, 1, 2, 3)
    assert [path.name[:9] for path in files] == ["00000001-", "00000002-"]
    found = States(tmp_path, "mine").load()
    assert torch.equal(found["model"]["weight"], state(3)["model"]["weight"])
    assert found["rows"] == state(3)["rows"]


def test_numbers_continue_after_an_interruption(tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert saved(tmp_path, 4)[-1].name.startswith("00000003-")
    assert loaded(tmp_path) == 4


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b + b"x"])
def test_a_damaged_state_is_passed_over_and_the_one_before_used(tmp_path, damage, caplog):
    last = saved(tmp_path, 1, 2)[-1]
    last.write_bytes(damage(last.read_bytes()))
    with caplog.at_level("INFO"):
        assert loaded(tmp_path) == 1
    assert f"{last} is damaged" in caplog.text
    resumed = States(tmp_path, "mine")
    resumed.load()
    resumed.save(state(3))
    assert last not in saved(tmp_path)
    saved(tmp_path)[-1].write_bytes(b"")
    assert loaded(tmp_path) == 1  # the intact one was kept


def test_one_changed_bit_is_found(tmp_path):
    last = saved(tmp_path, 1, 2)[-1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert loaded(tmp_path) == 1


def test_two_damaged_states_are_one_line(tmp_path):
    for file in saved(tmp_path, 1, 2):
        file.write_bytes(b"no state")
    with pytest.raises(ValueError, match="must hold an intact state, got 2 damaged") as caught:
        loaded(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_state_of_something_else_is_not_used(tmp_path):
    saved(tmp_path, 1)
    assert States(tmp_path, "other").load() is None


def test_of_a_training_that_has_ended_the_last_state_stays(tmp_path):
    *_, last = saved(tmp_path, 1, 2)
    lease = tmp_path / "lease"
    lease.touch()
    States(tmp_path, "mine").keep_last()
    assert sorted(tmp_path.iterdir()) == [last, lease]


def test_a_state_that_cannot_be_written_leaves_those_before(tmp_path):
    before = saved(tmp_path, 1, 2)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        States(tmp_path, "mine").save({"model": lambda: None})
    assert sorted(tmp_path.iterdir()) == before


class Malicious:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return subprocess.call, (["touch", self.trace],)


def test_code_in_a_state_is_refused_without_running_it(tmp_path):
    trace = tmp_path / "trace"
    States(tmp_path / "states", "mine").save({"rows": [Malicious(str(trace))]})
    with pytest.raises(ValueError, match="must be a state that `rectify train` wrote, got"):
        loaded(tmp_path / "states")
    assert not trace.exists()


def test_the_identity_follows_settings_code_and_files(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"one")
    first = identity({"lr": 1}, "code", [file, None, tmp_path / "absent"])
    assert first == identity({"lr": 1}, "code", [file])
    assert first != identity({"lr": 2}, "code", [file])
    assert first != identity({"lr": 1}, "other", [file])
    file.write_bytes(b"two")
    assert first != identity({"lr": 1}, "code", [file])


class FullDisk(io.BytesIO):
    """A file on a disk that has no space after some bytes."""

    def __init__(self, space):
        super().__init__()
        self.space = space

    def write(self, content):
        if self.tell() + len(content) > self.space:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


@pytest.mark.parametrize("space", [0, 100, 5_000, 30_000, 40_500])
def test_a_full_disk_is_told_as_such_wherever_it_is_full(space):
    content = {"one": torch.zeros(5_000), "two": torch.zeros(5_000)}
    with pytest.raises(OSError, match="No space left on device"):
        _write(content, FullDisk(space))
