import json

import pytest

from rectify.__main__ import main

PAPER = ("--vision", "vit_small_patch16_224", "--language", "llama-7b", "--position", "end")
SMALL = ("--vision", "vit_tiny_patch16_224", "--language", "opt-125m", "--position", "6")

pytestmark = pytest.mark.usefixtures("restored_runtime")


@pytest.fixture(autouse=True)
def no_warm_server(monkeypatch):
    monkeypatch.delenv("RECTIFY_WARM", raising=False)


def test_the_papers_numbers_as_json(capsys):
    assert main(["cost", *PAPER, "--no-measure", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parameters"] == {"vision": 22_050_664, "rectified": 227_579_752}
    assert answer["flops"]["vision"] == pytest.approx(8.5013e9, abs=5e4)
    assert answer["flops"]["rectified"] == pytest.approx(90.1124e9, abs=5e4)
    assert answer["seconds_per_image"] is None


def test_frames_make_it_videomae(capsys):
    clips = ("--frames", "16", "--classes", "174", "--no-measure", "--json")
    assert main(["cost", *PAPER, *clips]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parameters"]["vision"] == 21_946_926


def test_the_papers_numbers_as_a_table(capsys):
    assert main(["cost", *PAPER, "--no-measure"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = {line[0]: [cell.strip() for cell in line[1:] if cell] for line in lines}
    assert cells["parameters"] == ["22,050,664", "227,579,752"]
    assert cells["GFLOPs, paper's convention"] == ["8.5013", "90.1124"]
    assert cells["seconds per image"] == ["-", "-"]


def test_speed_is_measured_unless_it_is_refused(capsys):
    small = (*SMALL, "--image-size", "32", "--classes", "10", "--threads", "1")
    assert main(["cost", *small, "--json"]) == 0
    seconds = json.loads(capsys.readouterr().out)["seconds_per_image"]
    assert seconds["vision"] > 0
    assert seconds["rectified"] > 0


def test_a_misspelt_name_is_one_line_and_status_2(capsys):
    assert main(["cost", *PAPER, "--language", "llama7b", "--no-measure"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("cost: language must be a known model")
    assert "llama-7b" in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")
