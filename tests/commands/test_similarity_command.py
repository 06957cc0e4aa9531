"""`rectify similarity`: its table has every measure of each pair, and layers by their number."""

from pathlib import Path

import pytest
import torch

from rectify.__main__ import main
from rectify.results.declared import SIMILARITY
from rectify.results.tables import read_note, read_table
from rectify.runtime import generator
from rectify.similarity.compare import compare
from rectify.trunks.features import save_features
from tests.helpers.feature_spaces import features

pytestmark = pytest.mark.usefixtures("restored_runtime")

SHARED = features(40, 4)
LANGUAGE = torch.stack([SHARED + features(40, 4, seed=seed) for seed in (1, 2, 3)])
VISION = torch.stack([SHARED + features(40, 4, seed=seed) for seed in (4, 5)])


def compared(folder: Path, first_layer: int, *words: str) -> Path:
    """Write features and compare them; return the table's file."""
    about = {"pairs": "wit", "language": "tiny", "language_parameters": 5}
    about |= {"first_layer": first_layer}
    save_features(LANGUAGE, about, folder / "language.safetensors")
    seen = {"pairs": "wit", "vision": "vit", "seed": 0, "pretrained": True}
    save_features(VISION, seen, folder / "v.safetensors")
    output = folder / "out.csv"
    files = ["--language", f"{folder}/language.safetensors", "--vision", f"{folder}/v.safetensors"]
    numbers = ["--k", "5", "--quantile", "0.9", "--permutations", "40", "--threads", "1"]
    assert main(["similarity", *files, *numbers, *words, "--output", f"{output}"]) == 0
    return output


@pytest.mark.parametrize("first", [0, -1])
def test_each_row_has_the_measures_of_its_pair(tmp_path: Path, first: int) -> None:
    rows = read_table(SIMILARITY, compared(tmp_path, first))
    measures = compare(LANGUAGE, VISION, 5, 40, lambda name: generator(0, name), 0.9)
    assert SIMILARITY.names == ["language_layer", "vision_block", *measures]
    assert rows["language_layer"].tolist() == [
        first,
        first,
        first + 1,
        first + 1,
        first + 2,
        first + 2,
    ]
    assert rows["vision_block"].tolist() == [0, 1] * 3
    for name, measure in measures.items():
        assert rows[name].tolist() == pytest.approx(measure.flatten().tolist(), rel=1e-8)


def test_the_facts_say_how_it_was_compared(tmp_path: Path) -> None:
    facts = read_note(compared(tmp_path, -1))["provenance"]["facts"]
    assert (facts["k"], facts["items"], facts["chance"]) == (5, 40, 5 / 39)
    assert (facts["vision"], facts["language"], facts["first_layer"]) == ("vit", "tiny", -1)


def test_features_of_different_pairs_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"language": "tiny", "first_layer": 0}
    numbers = ["--k", "5", "--quantile", "0.9", "--permutations", "40", "--threads", "1"]
    for pairs in ({"pairs": "emoji"}, {}):
        save_features(LANGUAGE, {**about, **pairs}, tmp_path / "l.safetensors")
        seen = {"pairs": "glyphs", "vision": "vit", "seed": 0, "pretrained": True}
        save_features(VISION, seen, tmp_path / "v.safetensors")
        files = ["--language", f"{tmp_path}/l.safetensors", "--vision", f"{tmp_path}/v.safetensors"]
        assert main(["similarity", *files, *numbers, "--output", f"{tmp_path}/out.csv"]) != 0
        got = f"got {pairs.get('pairs')} and glyphs"
        assert f"must be of the same pairs, {got}" in capsys.readouterr().err
        assert not (tmp_path / "out.csv").exists()


def test_another_clamp_gives_another_table(tmp_path: Path) -> None:
    tables = {
        compared(tmp_path, 0, *words).read_text()
        for words in ((), ("--clamp", "per_layer"), ("--clamp", "per_sample"))
    }
    assert len(tables) == 3
