import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from huggingface_hub import constants

from rectify.checkpoints import read_revision
from rectify.fetch import fetch
from rectify.records import read_json
from tests.hub_server import COMMIT, Hub, serve
from tests.tiny_checkpoints import error_of

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "tokenizer.model": b"t",
    "model-00001-of-00002.safetensors": b"x" * 5000,
    "model-00002-of-00002.safetensors": b"y" * 3000,
    "model.safetensors.index.json": b"[]",
    "pytorch_model.bin": b"z" * 8000,
    "original/consolidated.00.pth": b"w" * 8000,
    "README.md": b"r",
}
NEEDED = {name for name in FILES if "bin" not in name and "/" not in name} - {"README.md"}


@pytest.fixture
def hub(monkeypatch):
    with serve(Hub(dict(FILES))) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = f"{served.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


def files_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".cache", "fetched.json"}


def test_a_model_comes_with_what_is_read_and_a_note(hub, tmp_path):
    folder = tmp_path / "checkpoints" / "tiny"
    note = fetch("someone/tiny", "model", "v1", folder)
    assert files_in(folder) == set(hub.served) == NEEDED
    assert all((folder / name).read_bytes() == FILES[name] for name in NEEDED)
    assert read_json(folder / "fetched.json") == note
    assert (note["revision"], note["commit"], read_revision(folder)) == ("v1", COMMIT, COMMIT)
    content = FILES["model-00001-of-00002.safetensors"]
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert note["files"]["model-00001-of-00002.safetensors"] == facts


def test_pickles_come_where_there_is_nothing_else(hub, tmp_path):
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    fetch("someone/tiny", "model", None, tmp_path)
    assert files_in(tmp_path) == {
        "config.json", "tokenizer.json", "tokenizer.model", "pytorch_model.bin"
    }  # fmt: skip


def test_a_data_set_comes_whole(hub, tmp_path):
    hub.kind, hub.files = "dataset", {"data/train-0.parquet": b"p", "README.md": b"r"}
    note = fetch("someone/tiny", "dataset", None, tmp_path)
    assert set(note["files"]) == {"data/train-0.parquet", "README.md"}
    assert (tmp_path / "data" / "train-0.parquet").read_bytes() == b"p"


def test_what_is_there_is_not_downloaded_again(hub, tmp_path):
    first = fetch("someone/tiny", "model", None, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    hub.served.clear()
    assert fetch("someone/tiny", "model", None, tmp_path) == first
    assert hub.served == ["tokenizer.model"]


def test_an_interrupted_download_goes_on(hub, tmp_path):
    hub.failing = "tokenizer.model"
    message = error_of(fetch, "someone/tiny", "model", None, tmp_path)
    assert "it goes on where it stopped" in message
    assert not (tmp_path / "fetched.json").exists()
    hub.failing = None
    fetch("someone/tiny", "model", None, tmp_path)
    assert sorted(hub.served) == sorted(NEEDED)
    assert files_in(tmp_path) == NEEDED


def test_the_command_runs_against_the_hub_that_the_environment_names(hub, tmp_path):
    words = ("--hub", "someone/tiny", "--kind", "model", "--folder", f"{tmp_path / 'tiny'}")
    said = subprocess.run(
        [sys.executable, "-m", "rectify", "fetch", *words],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert f"someone/tiny at {COMMIT}: 6 files, 0.0 GB" in said.stderr
    assert files_in(tmp_path / "tiny") == NEEDED


# --- errors, one line each ---


def refused(hub, folder, status, code):
    hub.refuse = (status, code)
    return error_of(fetch, "someone/tiny", "model", None, folder)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_how_to_get_access(hub, tmp_path, status):
    message = refused(hub, tmp_path / "tiny", status, "GatedRepo")
    assert f"someone/tiny must be open to you, got status {status}: it is gated" in message
    assert "hf auth login" in message
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(("status", "code"), [(401, ""), (404, "RepoNotFound")])
def test_an_unknown_repository_is_named(hub, tmp_path, status, code):
    message = refused(hub, tmp_path, status, code)
    assert f"someone/tiny must exist and be open to you, got status {status}" in message


def test_a_hub_in_trouble_asks_for_patience(hub, tmp_path):
    assert "got status 418. Try again later." in refused(hub, tmp_path, 418, "")


def test_a_missing_revision_is_named(hub, tmp_path):
    message = error_of(fetch, "someone/tiny", "model", "v2", tmp_path / "tiny")
    assert "someone/tiny must have the revision 'v2', got none of that name" in message


def test_without_a_network_it_says_where_to_run_it(monkeypatch, hub, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    message = error_of(fetch, "someone/tiny", "model", None, tmp_path / "tiny")
    assert message.startswith("fetch: someone/tiny must be within reach")
    assert "such as a login node" in message


def test_offline_mode_is_told(monkeypatch, hub, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "must be within reach" in error_of(fetch, "someone/tiny", "model", None, tmp_path)


def test_a_small_disk_is_told_before_anything_is_downloaded(monkeypatch, hub, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 4000))
    message = error_of(fetch, "someone/tiny", "model", None, tmp_path / "tiny")
    assert f"{tmp_path / 'tiny'}: the disk must have 0.0 GB for someone/tiny" in message
    assert hub.served == []


def test_a_file_of_another_size_is_named(hub, tmp_path):
    hub.claimed["tokenizer.model"] = 2
    message = error_of(fetch, "someone/tiny", "model", None, tmp_path)
    assert f"{tmp_path / 'tokenizer.model'}: must have 2 bytes, got 1" in message
    assert not (tmp_path / "fetched.json").exists()


def test_files_from_elsewhere_are_never_overwritten(hub, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    message = error_of(fetch, "someone/tiny", "model", None, tmp_path)
    assert message.startswith(f"{tmp_path}: must be new, empty, or fetched from someone/tiny")
    (tmp_path / "fetched.json").write_text(json.dumps({"hub": "someone/else"}))
    assert "got other files" in error_of(fetch, "someone/tiny", "model", None, tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_repository_of_another_format_is_refused(hub, tmp_path):
    hub.files = {"params.json": b"{}", "consolidated.00.pth": b"x"}
    message = error_of(fetch, "someone/tiny", "model", None, tmp_path)
    assert "must hold config.json and model.safetensors or pytorch_model.bin" in message
    assert "got consolidated.00.pth, params.json" in message
