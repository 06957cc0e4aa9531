"""`snakemake fetch` against a hub on the loopback device."""

from pathlib import Path

import pytest
import yaml

from rectify.results.files import read_json
from tests.helpers.hub_server import COMMIT, Hub, serve
from tests.workflow.project import call

MINE = {
    "title": "Tiny", "layers": 1, "checkpoint": "checkpoints/tiny", "hub": "someone/tiny",
    "revision": "v1",
}  # fmt: skip
FILES = {"config.json": b"{}", "model.safetensors": b"x", "README.md": b"r"}


def test_the_rule_fills_the_folder_of_the_config_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mine.yaml").write_text(yaml.safe_dump({"languages": {"tiny": MINE}}))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    target = "checkpoints/tiny/fetched.json"
    configs = ("--configfile", "demo.yaml", "mine.yaml", "--")
    command = ("snakemake", "--cores", "1", *configs, target)
    with serve(Hub(dict(FILES))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        said = call(project, *command)
    assert said.returncode == 0, said.stdout
    note = read_json(project / target)
    assert (note["revision"], note["commit"]) == ("v1", COMMIT)
    assert (project / "checkpoints/tiny/model.safetensors").read_bytes() == b"x"
    assert not (project / "checkpoints/tiny/README.md").exists()
    again = call(project, *command)  # without a hub
    assert "Nothing to be done" in again.stdout
