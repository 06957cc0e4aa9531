"""A configuration of a few lines over the demo's: own images, own ViT, own language model."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.helpers.notebooks import code_of
from tests.helpers.processes import warm_address
from tests.workflow.project import ROOT, call, warm

OVERLAY = (ROOT / "tests" / "own_grid.yaml").read_text()


def draw(folder: Path) -> None:
    """Write forty small images of five classes, as folders of training and validation images."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for label in range(5):
            place = folder / split / f"class-{label}"
            place.mkdir(parents=True)
            for item in range(count):
                pixels = draws.integers(0, 60, (32, 36, 3)) + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{item}.png")


def test_ten_lines_give_a_table_a_heat_map_and_the_gains_by_similarity(project: Path) -> None:
    assert len(OVERLAY.splitlines()) == 10
    draw(project / "shapes")
    (project / "mine.yaml").write_text(OVERLAY)
    said = warm(project, "--configfile", "demo.yaml", "mine.yaml", "--", "my-grid")
    assert said.returncode == 0, said.stdout[-4000:]
    results = project / "results" / "mine"
    cells = pd.read_csv(results / "tables" / "my-grid.csv")
    accuracies = cells[cells["kind"] == "value"]
    assert len(accuracies) == 2 * 2 * 2 * 2  # metrics, controls, positions, layers
    runs = {path.name for path in (results / "runs").iterdir()}
    assert "shapes_mine_insert-adapter_tiny_layer-1_3" in runs
    assert len(runs) == 2 * 2 * 2 + 1
    assert len(list(results.glob("runs/*/seed-0/noise.csv"))) == len(runs)
    for name in ("tables/my-grid.md", "tables/my-grid.tex"):
        assert (results / name).stat().st_size > 0
    for suffix in ("pdf", "png", "svg", "csv"):
        assert (results / "figures" / f"my-grid.{suffix}").stat().st_size > 0
        assert (results / "figures" / f"my-grid-similarity.{suffix}").stat().st_size > 0


def test_the_notebook_of_a_grid_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTIFY_WARM", warm_address())  # whose server `rectify warm` shares
    said = call(project, "python", "-c", code_of("your-own-grid"))
    assert said.returncode == 0, said.stdout[-6000:]
    runs = {path.name for path in (project / "results" / "notebook" / "runs").iterdir()}
    assert len(runs) == 1 + 2 * 2
    assert "random" in said.stdout
