"""GPUs that a job was given and cannot use: each command that computes on them says so."""

import json

import pytest
import torch

from rectify.__main__ import main
from rectify.arguments import FINAL, JOB
from tests.helpers.training import settings_of

MACHINE = ("--threads", "1", "--gpus", "1")
RUN = ("--config", "config.json", "--model", "m", "--data", "d", "--seed", "0")
VISION = '{"name": "tiny", "timm": "vit_tiny_patch16_224"}'
FEATURES = ("--pairs", "p", "--batch-size", "2", "--output", "f.safetensors")


@pytest.mark.parametrize(
    "command",
    [
        ("train", *RUN[:2], *RUN[4:], "--states", "s", "--output", "o"),
        ("evaluate", *RUN, "--output", "scores.csv"),
        ("filtering", *RUN, "--masks", "masks", "--output", "filtering.csv"),
        ("submit", *RUN[:4], *RUN[6:], "--reader", "argoverse1", "--folder", "f", "--output", "o"),
        ("vision-features", "--pretrained", VISION, "--seed", "0", *FEATURES),
        ("language-features", "--language", "tiny", "--checkpoint", "c", *FEATURES),
        ("cost", "--vision", "vit_tiny_patch16_224", "--language", "llama-7b", "--time"),
    ],
    ids=lambda command: command[0],
)
def test_a_gpu_that_cannot_be_used_is_one_line_and_another_attempt_may_help(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOB, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "config.json").write_text(json.dumps(settings_of()))
    assert main([*command, *MACHINE]) == 2
    said = capsys.readouterr().err
    assert (
        "runtime: as many GPUs must be usable as a job asks for by device_gpus, 1, got 0." in said
    )
    assert FINAL not in said
