"""`rectify similarity`: its table has every measure of each pair, and layers by their number."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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
    about = {"pairs": "wit", "pairs_sha256": "d1", "language": "tiny", "language_parameters": 5}
    about |= {"first_layer": first_layer}
    save_features(LANGUAGE, about, folder / "language.safetensors")
    seen = {"pairs": "wit", "pairs_sha256": "d1", "vision": "vit", "seed": 0, "pretrained": True}
    save_features(VISION, seen, folder / "v.safetensors")
    assert called(folder / "language.safetensors", folder / "v.safetensors", *words) == 0
    return folder / "out.csv"


def called(language: Path, vision: Path, *words: str) -> int:
    """Compare two files into ``out.csv`` beside the first."""
    files = ["--language", f"{language}", "--vision", f"{vision}"]
    numbers = ["--k", "5", "--quantile", "0.9", "--permutations", "40", "--threads", "1"]
    output = ["--output", f"{language.parent}/out.csv"]
    return main(["similarity", *files, *numbers, *words, *output])


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
    seen = {"vision": "vit", "seed": 0, "pretrained": True}
    for ours, theirs, message in (
        ({"pairs": "emoji"}, {"pairs": "glyphs"}, "the same pairs, got emoji and glyphs"),
        ({}, {"pairs": "glyphs"}, "the same pairs, got None and glyphs"),
        (
            {"pairs": "wit", "pairs_sha256": "d1"},
            {"pairs": "wit", "pairs_sha256": "d2"},
            "pairs of one manifest, got d1 and d2",
        ),
        ({"pairs": "wit"}, {"pairs": "wit"}, "pairs of one manifest, got None and None"),
    ):
        save_features(LANGUAGE, about | ours, tmp_path / "l.safetensors")
        save_features(VISION, seen | theirs, tmp_path / "v.safetensors")
        assert called(tmp_path / "l.safetensors", tmp_path / "v.safetensors") == 2
        assert f"both features must be of {message}. " in capsys.readouterr().err
        assert not (tmp_path / "out.csv").exists()


def own_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write features of one's own in each form; return the files of both sides."""
    language, vision = LANGUAGE.double().numpy(), VISION.half().float()
    np.save(folder / "words.npy", language)
    np.save(folder / "a view.npy", vision.numpy())
    save_file({"anything": torch.from_numpy(language)}, folder / "words.safetensors")
    save_file({"x": vision.half()}, folder / "a view.safetensors", {"format": "pt"})
    return {
        suffix: (folder / f"words{suffix}", folder / f"a view{suffix}")
        for suffix in (".npy", ".safetensors")
    }


@pytest.mark.parametrize("form", [".npy", ".safetensors"])
def test_features_of_ones_own_are_compared_and_named(tmp_path: Path, form: str) -> None:
    language, vision = own_files(tmp_path)[form]
    assert called(language, vision) == 0
    rows = read_table(SIMILARITY, tmp_path / "out.csv")
    draws = lambda name: generator(0, name)  # noqa: E731
    measures = compare(LANGUAGE, VISION.half(), 5, 40, draws, 0.9)
    assert rows["language_layer"].tolist() == [0, 0, 1, 1, 2, 2]
    for name, measure in measures.items():
        assert rows[name].tolist() == pytest.approx(measure.flatten().tolist(), rel=1e-4)
    facts = read_note(tmp_path / "out.csv")["provenance"]["facts"]
    assert (facts["language"], facts["vision"]) == ("words", "a view")
    assert facts["vision_sha256"] == hashlib.sha256(vision.read_bytes()).hexdigest()
    assert facts["language_own"] is facts["vision_own"] is True


def test_a_single_layer_of_ones_own_is_compared_with_computed_features(tmp_path: Path) -> None:
    compared(tmp_path, 0)
    expected = read_table(SIMILARITY, tmp_path / "out.csv")
    np.save(tmp_path / "one.npy", VISION[1].numpy())
    assert called(tmp_path / "language.safetensors", tmp_path / "one.npy") == 0
    rows = read_table(SIMILARITY, tmp_path / "out.csv")
    assert rows["vision_block"].tolist() == [0, 0, 0]
    facts = read_note(tmp_path / "out.csv")["provenance"]["facts"]
    assert (facts["pairs"], facts["items"]) == ("wit", 40)
    assert len(expected) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros(5), "shape (items, dim) or (layers, items, dim), got (5,)"),
        ("a.npy", np.zeros((2, 2, 5, 3)), "got (2, 2, 5, 3)"),
        ("a.npy", np.array([["a", "b"]]), "a.npy: features must be real numbers, vectors of one"),
        ("a.npy", np.array([[None, 1]]), "must be an array of features, got Object arrays"),
        ("a.npy", b"no array", "must be an array of features, got "),
        ("a.npy", b"", "must be an array of features, got No data left in file"),
        ("b.npy", None, "must be an array of features, got [Errno 2] No such file"),
        ("a.safetensors", {"x": LANGUAGE, "y": VISION}, "must be a single tensor, got 2. Save"),
        ("a.safetensors", b"{}", "must be an intact file of tensors, got "),
        ("a.npy", LANGUAGE[0, :9].numpy(), "must have the same items, got 9 and 40"),
        ("a.npy", np.ones((40, 4)), "the features of lefts[0] must differ, got equal cosines"),
    ],
)
def test_a_wrong_file_of_ones_own_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: object, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        save_file(content, path)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    np.save(tmp_path / "v.npy", VISION.numpy())
    assert called(path, tmp_path / "v.npy") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert not (tmp_path / "out.csv").exists()


def test_another_clamp_gives_another_table(tmp_path: Path) -> None:
    tables = {
        compared(tmp_path, 0, *words).read_text()
        for words in ((), ("--clamp", "per_layer"), ("--clamp", "per_sample"))
    }
    assert len(tables) == 3
