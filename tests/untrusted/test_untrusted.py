"""Files and values from outside: no code in them runs, and no name leaves its folder."""

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rectify.commands import prepare_data
from rectify.language.files import tensor_shapes
from rectify.tensors import load_pickle, mapped_tensors
from rectify.trunks.videomae import IGNORED
from tests.workflow.project import BIN, ROOT, call, copy_project, warm

PLACEHOLDER = re.compile(r"\{([a-z_.]+)(:q)?\}")
NUMBERS = {"threads", "wildcards.layer", "wildcards.seed", "params.seeds", "params.k"}
NUMBERS |= {
    "resources.gpu",
    "resources.nodes",
    "params.quantile",
    "params.permutations",
    "params.batch_size",
}
LISTED = {"wildcards.table", "wildcards.figure", "params.estimator"}  # by pattern and by schema


class Malicious:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, name, writer):
    content, file = {"weight": Malicious(tmp_path / "trace")}, tmp_path / name
    if writer == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="must be an intact file of tensors, got") as caught:
        mapped_tensors(file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


class Number:
    """A NumPy number of any kind and content: nothing but the reader tells what it may be."""

    def __init__(self, kind: str, content: object):
        self.arguments = np.dtype(kind), content

    def __reduce__(self):
        return np._core.multiarray.scalar, self.arguments


@pytest.mark.parametrize("kind", ["O", "f8", "i8,O"])
@pytest.mark.parametrize("hidden", [True, False])
def test_code_in_a_number_beside_videomaes_tensors_is_not_run(tmp_path, kind, hidden):
    code, file = Malicious(tmp_path / "trace"), tmp_path / "a.pth"
    number = Number(kind, pickle.dumps(code) if hidden else code)
    torch.save({"model": {"weight": torch.ones(2)}, "optimizer": number}, file)
    if hidden:
        content = load_pickle(file, IGNORED)
        assert content["model"]["weight"].tolist() == [1, 1]
        assert vars(content["optimizer"]) == {}
    else:
        with pytest.raises(ValueError, match=r"got other objects too, first posix\.mkdir\. Save"):
            load_pickle(file, IGNORED)
    with pytest.raises(ValueError, match=r"got other objects too, first numpy\._core\.multiarray"):
        load_pickle(file)
    assert not (tmp_path / "trace").exists()


REASONS = {
    "absent": "No such file or directory",
    "cut": r"got a file cut short\. Get the file again\.",
    "empty": r"got a file cut short\. Get the file again\.",
    "text": r"got another format\. Get the file again\.",
    "old": r"got torch's old format\. Load and save it again with a recent torch\.",
    "objects": r"got other objects too, first pathlib\.\w+\. Save its tensors alone",
    "escapes": r"got other objects too\. Save its tensors alone, or get another file\.",
}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
@pytest.mark.parametrize("how", REASONS)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, how):
    file = tmp_path / name
    content = {"weight": Path("x") if how in ("objects", "escapes") else torch.ones(2000)}
    torch.save(content, file, _use_new_zipfile_serialization=how != "old")
    whole = file.read_bytes()
    escaped = whole.replace(b"pathlib", b"\x1b[31mab")
    broken = {"cut": whole[:-100], "empty": b"", "text": b"no checkpoint", "escapes": escaped}
    file.write_bytes(broken.get(how, whole))
    if how == "absent":
        file.unlink()
    line = f"must be an intact file of tensors, .*{REASONS[how]}"
    with pytest.raises(ValueError, match=line) as got:
        mapped_tensors(file)
    assert str(got.value).isprintable()


@pytest.mark.parametrize("part", ["../secret.safetensors", "/secret.safetensors", "a/b"])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_part_of_a_checkpoint_lies_beside_its_index(tmp_path, part, kind):
    index = tmp_path / f"{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": part}}))
    with pytest.raises(ValueError, match="its parts must be next to it, got"):
        tensor_shapes(tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_a_listed_image_lies_in_the_data_folder(tmp_path, name):
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "captions.csv").write_text(f"file,caption\n{name},a cat\n")
    settings = {"task": "pairs", "reader": "captions", "folder": str(folder)}
    parser = argparse.ArgumentParser()
    prepare_data.add_arguments(parser)
    words = ("--data", "pairs", "--settings", json.dumps(settings))
    args = parser.parse_args([*words, "--folder", str(tmp_path / "prepared")])
    with pytest.raises(ValueError, match="each file must lie in the folder of the list, got"):
        prepare_data.run(args)
    assert not (tmp_path / "prepared").exists()


def test_every_word_in_a_shell_line_is_quoted_or_a_number():
    lines = [
        line
        for path in (ROOT / "workflow" / "rules").glob("*.smk")
        for line in path.read_text().partition("shell:")[2].splitlines()
        if line.strip().startswith(('"python -m', '" '))
    ]
    found = {name for line in lines for name, quoted in PLACEHOLDER.findall(line) if not quoted}
    assert len(lines) > 20
    assert found <= NUMBERS | LISTED, found


@pytest.mark.slow
def test_paths_and_titles_reach_no_shell(tmp_path):
    project = copy_project(tmp_path)
    results = 're sults/it\'s "$(touch pwned)" `touch pwned`; touch pwned &'
    (project / "mine.yaml").write_text(
        json.dumps({"results": results, "title": "a\n$(touch pwned)'\"", "seeds": [0]})
    )
    targets = (
        f"{results}/data/digits/manifest.csv",
        f"{results}/runs/digits_vit-64_vanilla/config.json",
    )
    done = warm(project, "--configfile", "demo.yaml", "mine.yaml", "--", *targets)
    assert done.returncode == 0, done.stdout[-3000:]
    assert all((project / target).is_file() for target in targets)
    assert not list(project.rglob("pwned"))


@pytest.mark.slow
def test_paths_reach_no_shell_of_a_cluster(tmp_path):
    place, tools = tmp_path / "a $(touch pwned) b", tmp_path / "tools"
    place.mkdir()
    tools.mkdir()
    project = copy_project(place)
    for name in ("squeue", "sinfo", "sacct", "scontrol", "scancel"):
        (tools / name).write_text("#!/bin/sh\n")
    (tools / "sbatch").write_text(f"#!/bin/sh\ncat > '{tmp_path}/script'\nexit 1\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    results = "re sults/$(touch pwned) `touch pwned`; touch pwned &"
    (project / "mine.yaml").write_text(json.dumps({"results": results, "seeds": [0]}))
    (project / results / "runs" / "digits_vit-64_vanilla").mkdir(parents=True)
    made = ("data/digits/manifest.csv", "runs/digits_vit-64_vanilla/config.json")
    configs = ("--configfile", "demo.yaml", "mine.yaml", "--")
    wanted = [f"{results}/{one}" for one in made]
    done = warm(project, *configs, *wanted)
    assert done.returncode == 0, done.stdout[-3000:]
    wanted = f"{results}/runs/digits_vit-64_vanilla/seed-0/history.csv"
    path = ("env", f"PATH={tools}:{BIN}:{os.environ['PATH']}")
    done = call(
        project, *path, "snakemake", "--profile", "slurm", "--retries", "0", *configs, wanted
    )
    assert done.returncode != 0
    script = (tmp_path / "script").read_text()
    assert "--wait-for-files" in script
    assert "manifest.csv" in script
    script = script.replace(f"{sys.executable} -m", "echo")
    subprocess.run(["sh"], input=script, cwd=tmp_path, text=True, check=True)
    assert not list(tmp_path.rglob("pwned"))
