"""A folder of results as a data set: the hub's own library reads what the files say."""

import csv
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from pandas import DataFrame

from rectify.__main__ import main
from rectify.results.declared import CELLS, GSNR, HISTORY, NOISE, SCORES, SIMILARITY
from rectify.results.tables import write_table
from tests.helpers import synthetic
from tests.helpers.cells import GAINS

SET, VIT = synthetic.Model("toys", "Toys", 0), synthetic.Model("vit-s", "ViT-S", 9)
LLAMA = synthetic.Model("llama--x", "LLaMA", 99)
TEXTS = ("string", "large_string")
INSERTED = "toys_vit-s_insert_llama--x_layer-30-31_end"
NAMES = ("runs", "history", "gsnr", "noise", "scores", "similarity", "cells")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two runs, one of them with a layer, a comparison and a table."""
    folder = tmp_path_factory.mktemp("results")
    numbers = {"accuracy": lambda seed, test: 0.5 + seed / 8, "gsnr": lambda *place: sum(place[:3])}
    layer = {"variant": "insert", "language": LLAMA, "layer": "30-31", "position": "end"}
    for further in ({}, layer):
        run = synthetic.Run(SET, VIT, **numbers, **further, depth=2)
        synthetic.write_run(folder, run, [0, 1])
    noise = DataFrame([(0, 10, 1, "square", 2.5)], columns=NOISE.names)  # of one training alone
    write_table(NOISE, noise, folder / "runs" / INSERTED / "seed-1" / "noise.csv", synthetic.SOURCE)
    synthetic.write_similarity(folder, LLAMA, VIT, 0, np.arange(6).reshape(3, 2) / 7)
    write_table(CELLS, GAINS, folder / "tables" / "table5.csv", synthetic.SOURCE)
    return folder


def export(results: Path, output: Path) -> int:
    words = ["--title", "Toys & layers", "--licence", "cc0-1.0", "--output", f"{output}"]
    return main(["export-results", "--results", f"{results}", *words])


@pytest.fixture(scope="module")
def exported(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert export(results, folder) == 0
    return folder


def texts(results: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    """Return every row of some files, as text."""
    return [
        (path, row)
        for path in sorted(results.glob(pattern))
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    ]


def expected(results: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of each table but ``runs``, as text, by a plain reader of CSV."""
    rows = {
        name: [
            {"run": path.parts[-3], "seed": path.parts[-2][5:], **row}
            for path, row in texts(results, f"runs/*/seed-*/{name}.csv")
        ]
        for name in ("history", "gsnr", "noise", "scores")
    }
    models = {"pairs": "pairs", "language": "llama--x", "features": "vit-s--seed-0"}
    of_pairs = texts(results, "similarity/*/*.csv")
    rows["similarity"] = [{**models, **row} for _, row in of_pairs]
    rows["cells"] = [{"target": "table5", **row} for _, row in texts(results, "tables/*.csv")]
    return rows


def told(value: object) -> str:
    """Return a value as a table's file has it."""
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else f"{value}"


def test_the_hub_s_library_reads_every_number_of_the_files(
    results: Path, exported: Path, tmp_path: Path
) -> None:
    datasets.disable_progress_bars()
    assert sorted(datasets.get_dataset_config_names(f"{exported}")) == sorted(NAMES)
    for name, rows in expected(results).items():
        read = datasets.load_dataset(f"{exported}", name, split="train", cache_dir=f"{tmp_path}")
        assert len(rows) == len(read) > 0
        assert [{key: told(value) for key, value in row.items()} for row in read] == rows
    kinds = {name: f"{read.features[name].dtype}" for name in ("row_index", "mean", "run")}
    assert kinds in ({"row_index": "int64", "mean": "float64", "run": text} for text in TEXTS)


def test_runs_lead_to_their_settings(exported: Path) -> None:
    runs = pd.read_parquet(exported / "data" / "runs.parquet").set_index("run")
    plain, inserted = (runs.loc[name] for name in ("toys_vit-s_vanilla", INSERTED))
    assert (inserted["layer"], inserted["position"], inserted["insert_at"]) == ("30-31", "end", 2)
    assert (inserted["language_title"], inserted["control"]) == ("LLaMA", "frozen")
    assert plain[["layer", "position", "insert_at", "language", "control"]].isna().all()
    assert (plain["data_title"], plain["depth"], plain["epochs"]) == ("Toys", 2, 2)


def test_the_card_says_what_every_column_means(exported: Path) -> None:
    text = (exported / "README.md").read_text(encoding="utf-8")
    head = DatasetCard(text).data
    assert (head.license, head.pretty_name) == ("cc0-1.0", "Toys & layers")
    assert [config["config_name"] for config in head.configs] == list(NAMES)
    for table in (HISTORY, GSNR, NOISE, SCORES, SIMILARITY, CELLS):
        section = text.partition(f"## {table.name}\n")[2].partition("\n## ")[0]
        assert table.meaning in section
        for column in table.columns:
            assert f"| `{column.name}` | {column.dtype} | {column.unit} |" in section
    assert "Trained at commit 0123456789ab on cpu." in text


def test_what_there_is_not_is_left_out_and_without_a_training_there_is_no_data_set(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = synthetic.Run(SET, VIT, lambda *_: 0.5, lambda *_: 1.0, depth=2)
    synthetic.write_run(tmp_path / "few", run, [0])
    assert export(tmp_path / "few", tmp_path / "made") == 0
    names = {path.stem for path in (tmp_path / "made" / "data").iterdir()}
    assert names == {"runs", "history", "gsnr", "scores"}
    capsys.readouterr()
    assert export(tmp_path / "none", tmp_path / "nothing") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must have a finished training, got no runs/<run>/seed-<s>/history.csv." in line
    assert not (tmp_path / "nothing").exists()
