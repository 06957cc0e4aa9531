"""`rectify select`: the placement that a similarity table predicts, as text and as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from rectify.__main__ import main
from tests.helpers import synthetic
from tests.helpers.synthetic import LLAMA, VITS

pytestmark = pytest.mark.usefixtures("restored_runtime")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Return two seeds of 3 layers and 4 blocks; in their mean layer 2 is nearest to block 3."""
    grids = [np.full((3, 4), 0.1), np.full((3, 4), 0.1)]
    grids[0][0, 0], grids[1][0, 0] = 0.3, 0.1
    grids[0][2, 3], grids[1][2, 3] = 0.2, 0.4
    return [
        f"{synthetic.write_similarity(tmp_path, LLAMA, VITS['ViT-S'], seed, grid)}"
        for seed, grid in enumerate(grids)
    ]


def selected(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["select", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_most_similar_placement_is_chosen(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = selected(capsys, "--similarity", *files)
    assert found["choice"] == {"layer": 2, "position": "end"}
    assert (found["language"], found["vision"]) == ("llama-7b", "vit-s")
    assert (found["score"], found["depth"]) == ("mutual_knn", 4)
    assert len(found["placements"]) == 9
    first = found["placements"][0]
    assert first == {
        "layer": 2, "position": "end", "insert_at": 4, "similarity": pytest.approx(0.3)
    }  # fmt: skip
    one = selected(capsys, "--similarity", files[0])
    assert one["choice"] == {"layer": 0, "position": "early"}


def test_candidates_and_score_can_be_named(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--similarity", *files, "--layers", "0", "1", "--positions", "1", "middle"]
    found = selected(capsys, *words, "--score", "cka", "--depth", "4")
    assert found["choice"] == {"layer": 0, "position": "1"}
    assert found["placements"][0]["similarity"] == pytest.approx((0.1 + 0.05) / 2)
    assert {(row["layer"], row["position"]) for row in found["placements"]} == {
        (0, "1"), (1, "1"), (0, "middle"), (1, "middle")
    }  # fmt: skip


def test_as_text_the_choice_comes_first(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", "--similarity", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "llama-7b in vit-s: layer 2, end"
    assert lines[2].split() == ["2", "end", "4", "0.3000"]
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "9"], "select: a layer must be one that was compared, 0..2, got 9."),
        (["--positions", "ende"], "position must be early, middle, end or 0..4, got 'ende'"),
        (["--score", "ckaa"], "select: --score: must be a score of similarity tables, got 'ckaa'"),
        (["--depth", "12"], "layer 0 must be compared with ViT block 5, got no such row"),
    ],
)
def test_a_wrong_request_is_one_line(
    files: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", "--similarity", *files, *words]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert (told.err.count("\n"), told.out) == (1, "")


def test_two_vits_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        f"{synthetic.write_similarity(tmp_path, LLAMA, VITS[name], 0, np.eye(2))}"
        for name in ("ViT-S", "ViT-B")
    ]
    assert main(["select", "--similarity", *files]) == 2
    assert "select: all runs must have the same vision, got vit-s, vit-b" in capsys.readouterr().err
