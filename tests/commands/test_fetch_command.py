import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

from rectify.__main__ import main
from rectify.language.files import read_revision
from rectify.results.files import read_json
from tests.helpers.hub_server import COMMIT, Hub, serve


def index(*parts: str) -> bytes:
    """Return an index of tensors in these files."""
    return json.dumps({"weight_map": {f"t{n}": part for n, part in enumerate(parts)}}).encode()


FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "tokenizer.model": b"t",
    "model-00001-of-00002.safetensors": b"x" * 5000,
    "model-00002-of-00002.safetensors": b"y" * 3000,
    "model.safetensors.index.json": index(
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    ),
    "pytorch_model.bin": b"z" * 8000,
    "original/consolidated.00.pth": b"w" * 8000,
    "README.md": b"r",
}
NEEDED = {name for name in FILES if "bin" not in name and "/" not in name} - {"README.md"}

pytestmark = pytest.mark.usefixtures("restored_runtime")


class Impatient:
    """The clock of a client that tries again at once."""

    @staticmethod
    def sleep(seconds):
        """Do not wait."""


@pytest.fixture
def hub(monkeypatch):
    with serve(Hub(dict(FILES))) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = f"{served.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.utils._http.time", Impatient)
        yield served


def words(folder, kind="model", revision=None) -> list[str]:
    given = ["--revision", revision] if revision else []
    return ["fetch", "--hub", "someone/tiny", "--kind", kind, "--folder", str(folder), *given]


def fetched(folder, **options) -> dict:
    assert main(words(folder, **options)) == 0
    return read_json(folder / "fetched.json")


def files_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".cache", "fetched.json"}


def test_a_model_comes_with_what_is_read_and_a_note(hub, tmp_path):
    folder = tmp_path / "checkpoints" / "tiny"
    note = {"hub": "someone/tiny", "kind": "model", "revision": "v1", "commit": COMMIT}
    note["files"] = {
        name: {"size": len(FILES[name]), "sha256": hashlib.sha256(FILES[name]).hexdigest()}
        for name in NEEDED
    }
    assert fetched(folder, revision="v1") == note
    assert files_in(folder) == set(hub.served) == NEEDED
    assert all((folder / name).read_bytes() == FILES[name] for name in NEEDED)
    assert read_revision(folder) == COMMIT


def test_pickles_come_where_there_is_nothing_else(hub, tmp_path):
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    fetched(tmp_path)
    assert files_in(tmp_path) == {
        "config.json", "tokenizer.json", "tokenizer.model", "pytorch_model.bin"
    }  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"],
        ["model.safetensors-00001-of-00002.safetensors", "model.safetensors-00002-of-00002.st"],
    ],
)
def test_parts_of_any_name_come_by_their_index(hub, tmp_path, names):
    for name in [name for name in hub.files if "model-" in name]:
        del hub.files[name]
    hub.files |= {"model.safetensors.index.json": index(*names), "model_int8.safetensors": b"8"}
    hub.files |= dict.fromkeys(names, b"part")
    fetched(tmp_path)
    assert {name for name in files_in(tmp_path) if "safetensors" in name} == {
        "model.safetensors.index.json", *names
    }  # fmt: skip


def test_weights_in_another_precision_beside_pickles_do_not_come_alone(hub, tmp_path):
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    hub.files["model_int8.safetensors"] = b"8"
    fetched(tmp_path)
    assert "pytorch_model.bin" in files_in(tmp_path)
    assert "model_int8.safetensors" not in files_in(tmp_path)


def test_a_hub_that_tells_no_digests_has_them_noted(hub, tmp_path):
    hub.digests = False
    assert set(fetched(tmp_path)["files"]) == NEEDED


def test_a_data_set_comes_with_all_its_files(hub, tmp_path):
    hub.kind, hub.files = "dataset", {"data/train-0.parquet": b"p", "README.md": b"r"}
    assert fetched(tmp_path, kind="dataset")["kind"] == "dataset"
    assert (tmp_path / "data" / "train-0.parquet").read_bytes() == b"p"
    assert (tmp_path / "README.md").is_file()


def test_what_is_there_is_not_downloaded_again(hub, tmp_path):
    first = fetched(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    hub.served.clear()
    assert fetched(tmp_path) == first
    assert hub.served == ["tokenizer.model"]


def test_an_interrupted_download_resumes(hub, tmp_path):
    hub.failing = {"tokenizer.model": 1000}
    assert main(words(tmp_path)) == 2
    assert not (tmp_path / "fetched.json").exists()
    hub.failing.clear()
    fetched(tmp_path)
    assert sorted(hub.served) == sorted(NEEDED)
    assert files_in(tmp_path) == NEEDED


def test_the_command_runs_against_the_hub_that_the_environment_names(hub, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "rectify", *words(tmp_path / "tiny")],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert f"someone/tiny at {COMMIT}" in ended.stderr
    assert files_in(tmp_path / "tiny") == NEEDED


# --- errors, one line each ---


def refused(folder, capsys, **options) -> str:
    assert main(words(folder, **options)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "fetched.json").exists()
    return message


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "GatedRepo", "GatedRepoError"),
        (403, "GatedRepo", "GatedRepoError"),
        (404, "RepoNotFound", "RepositoryNotFoundError"),
        (418, "", "HfHubHTTPError"),
    ],
)
def test_a_hub_that_refuses_is_one_line(hub, tmp_path, capsys, status, code, reason):
    hub.refuse = (status, code)
    message = refused(tmp_path / "tiny", capsys)
    assert message.startswith("fetch: someone/tiny must be within reach, open to you and have")
    assert f"got {reason}: " in message
    assert f"{status}" in message
    assert "hf auth login" in message
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("name", "kind"), [("model-00001-of-00002.safetensors", "SHA-256"), ("tokenizer.json", "git")]
)
def test_other_bytes_of_the_right_size_are_refused_and_come_anew(hub, tmp_path, capsys, name, kind):
    hub.damaged = {name}
    message = refused(tmp_path, capsys)
    assert f"{tmp_path / name}: must have the {kind}" in message
    assert "that the hub names, got " in message
    assert "it is deleted. Run the same command again." in message
    hub.damaged = set()
    fetched(tmp_path)
    assert (tmp_path / name).read_bytes() == FILES[name]


def test_a_file_that_was_damaged_on_the_disk_is_found_too(hub, tmp_path, capsys):
    fetched(tmp_path)
    (tmp_path / "fetched.json").unlink()
    file = tmp_path / "model-00002-of-00002.safetensors"
    file.write_bytes(bytes(len(FILES[file.name])))
    assert f"{file}: must have the SHA-256" in refused(tmp_path, capsys)


def test_parts_that_the_repository_lacks_are_named(hub, tmp_path, capsys):
    del hub.files["model-00002-of-00002.safetensors"]
    message = refused(tmp_path, capsys)
    assert "lists, got no model-00002-of-00002.safetensors. Name another" in message
    hub.files["model.safetensors.index.json"] = b"[]"
    assert "lists, got no weight_map. Name another" in refused(tmp_path / "other", capsys)


def test_weights_of_another_name_alone_are_refused(hub, tmp_path, capsys):
    hub.files = {"config.json": b"{}", "model.fp16.safetensors": b"16", "a.txt": b"a"}
    message = refused(tmp_path / "tiny", capsys)
    assert "must hold config.json and model.safetensors or pytorch_model.bin, or an index" in (
        message
    )
    assert "got config.json, model.fp16.safetensors. Name a repository" in message


def test_a_missing_revision_is_named(hub, tmp_path, capsys):
    message = refused(tmp_path / "tiny", capsys, revision="v2")
    assert "have the revision v2, got RevisionNotFoundError" in message


def test_no_network_is_one_line(monkeypatch, hub, tmp_path, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    message = refused(tmp_path / "tiny", capsys)
    assert "got ConnectError: " in message
    assert "run this where there is a network" in message


def test_offline_mode_is_one_line(monkeypatch, hub, tmp_path, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "got OfflineModeIsEnabled: " in refused(tmp_path, capsys)


@pytest.mark.parametrize("lost", ["list", "file", "file once"])
def test_files_of_another_commit_are_not_taken_for_those_of_this_one(hub, tmp_path, capsys, lost):
    """When it loses the hub, the client itself is content with what is in the folder."""
    fetched(tmp_path)
    (tmp_path / "fetched.json").unlink()
    hub.commit, hub.files["tokenizer.model"] = COMMIT[::-1], b"u"
    hub.listed = lost != "list"
    hub.failing = {"tokenizer.model": {"list": 0, "file": 1000, "file once": 1}[lost]}
    assert "must be within reach" in refused(tmp_path, capsys)
    assert (tmp_path / "tokenizer.model").read_bytes() == b"t"


def test_a_full_disk_is_told_as_such(monkeypatch, hub, tmp_path, capsys):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr("rectify.data.hub.snapshot_download", full)
    assert "No space left on device. Make room" in refused(tmp_path / "tiny", capsys)


def test_files_from_elsewhere_are_never_overwritten(hub, tmp_path, capsys):
    (tmp_path / "config.json").write_text("mine")
    message = refused(tmp_path, capsys)
    assert message.startswith(f"{tmp_path}: must be new, empty or fetched before, got other files")
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_repository_of_another_format_is_refused(hub, tmp_path, capsys):
    hub.files = {"params.json": b"{}", "consolidated.00.pth": b"x"}
    message = refused(tmp_path / "tiny", capsys)
    assert "must hold config.json and model.safetensors or pytorch_model.bin" in message
    assert "got params.json, consolidated.00.pth" in message
