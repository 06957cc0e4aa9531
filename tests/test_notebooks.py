"""The notebooks run from their first cell to their last, and show what their texts say."""

import json
from pathlib import Path

import matplotlib
import pytest

from tests.helpers.notebooks import NOTEBOOKS, code_of

SAID = {
    "gsnr-in-your-loop": ("(plain; pure noise of 256 samples gives", "(debiased; pure noise"),
    "similarity-of-features": ("unrelated models: 0.0", "CKNNA", "must differ"),
    "insert-train-export": ("same outputs: True",),
}
ELSEWHERE = {"your-own-grid"}  # tests/workflow/test_own_grid.py


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {*SAID, *ELSEWHERE}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_a_notebook_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        exec(compile(code_of(name), name, "exec"), {})
    finally:
        matplotlib.use(before)
    printed = capsys.readouterr().out
    for words in SAID[name]:
        assert words in printed


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
