"""Files and values from outside: no code in them runs, and no name leaves its folder."""

import argparse
import json
import os
import pickle
import re
import subprocess
from pathlib import Path

import pytest
import torch

from rectify.checkpoints import mapped_tensors, tensor_shapes
from rectify.commands import prepare_data
from tests.workflow.project import ROOT, call, copy_project

PLACEHOLDER = re.compile(r"\{([a-z_.]+)(:q)?\}")
NUMBERS = {"threads", "wildcards.layer", "wildcards.seed", "params.seeds", "params.k"}
NUMBERS |= {"resources.gpu", "params.quantile", "params.permutations", "params.batch_size"}
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
    with pytest.raises(ValueError, match="must be a whole file of tensors, got") as caught:
        mapped_tensors(file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("part", ["../secret.safetensors", "/secret.safetensors", "a/b"])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_part_of_a_checkpoint_lies_beside_its_index(tmp_path, part, kind):
    index = tmp_path / f"{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": part}}))
    with pytest.raises(ValueError, match="its parts must lie beside it, got"):
        tensor_shapes(tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_a_listed_image_lies_in_the_data_folder(tmp_path, name):
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "captions.csv").write_text(f"file,caption\n{name},a cat\n")
    settings = {"reader": "captions", "folder": str(folder), "classes": 0, "image_size": 8}
    parser = argparse.ArgumentParser()
    prepare_data.add_arguments(parser)
    words = ("--data", "pairs", "--settings", json.dumps(settings | {"seed": 0}))
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


def test_paths_and_titles_reach_no_shell(tmp_path):
    project = copy_project(tmp_path)
    results = 're sults/it\'s "$(touch pwned)" `touch pwned`; touch pwned &'
    (project / "mine.yaml").write_text(
        json.dumps({"results": results, "title": "a\n$(touch pwned)'\"", "seeds": [0]})
    )
    targets = (
        f"{results}/data/digits/manifest.csv",
        f"{results}/runs/digits_vit-s_vanilla/config.json",
    )
    done = call(
        project,
        *("snakemake", "--cores", "1", "--configfile", "demo.yaml", "mine.yaml", "--", *targets),
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert all((project / target).is_file() for target in targets)
    written = subprocess.run(["find", project, "-name", "pwned"], capture_output=True, check=True)
    assert written.stdout == b""
