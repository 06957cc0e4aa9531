"""Markdown and LaTeX: what stands where, what is escaped, and that LaTeX accepts it."""

import math
import shutil
import subprocess

import pytest
from pandas import DataFrame

from rectify.analysis.printing import cell_texts, escape, in_order, order, to_latex, to_markdown
from rectify.records import CELLS


def cells(*rows: tuple) -> DataFrame:
    """Return cells from (row, column, unit, mean, std, seeds, paper)."""
    full = [(*row, row[3] - row[6], "r", "c") for row in rows]
    return DataFrame(full, columns=CELLS.names)


GAINS = cells(
    ("ViT-S", "+OPT", "%", 71.4, 0.25, 2, 71.56),
    ("ViT-S, gain", "+OPT", "points", -3.7, 0.5, 2, -3.69),
    ("ViT-S, gain", "+BIG", "points", 1.0, 0.5, 2, math.nan),
    ("ViT-S", "+BIG", "%", 76.0, math.nan, 1, math.nan),
)
GROUPS = cells(
    ("ViT_S & 5%", "Set: acc@1", "%", 70.0, 1.0, 3, 71.62),
    ("ViT_S & 5%", "Set: GSNR", "1e-2", 2.3, 0.1, 3, 0.00128),
    ("ViT_S & 5%", "Other #1: acc@1", "%", 50.0, 1.0, 3, math.nan),
    ("last", "Other #1: acc@1", "%", 40.0, 1.0, 3, math.nan),
)


def test_a_gain_stands_in_brackets_behind_its_accuracy():
    assert cell_texts(GAINS, "ViT-S", "+OPT") == ("71.40 ± 0.25 (-3.70 ± 0.50)", "71.56 (-3.69)")
    assert cell_texts(GAINS, "ViT-S", "+BIG") == ("76.00 (+1.00 ± 0.50)", "")
    assert cell_texts(GAINS, "ViT-S", "nothing") == ("", "")


def test_markdown_has_a_line_per_row_and_the_seeds():
    lines = to_markdown(GAINS).splitlines()
    assert lines[0] == "|  | +OPT | +BIG |"
    assert lines[2].startswith("| **ViT-S** | 71.40 ± 0.25 (-3.70 ± 0.50)<br>*paper 71.56 (-3.69)*")
    assert lines[-1] == "Mean ± standard deviation over seeds, n = 1 to 2 seeds."
    assert len(lines) == 5
    measured = to_markdown(GAINS.assign(seeds=0)).splitlines()
    assert measured[-1] == "One measurement each."


def test_the_unit_of_gsnr_stands_in_the_head_and_the_paper_s_number_in_that_unit():
    text = to_markdown(GROUPS)
    assert "Set: GSNR (×10⁻²)" in text
    assert "2.30 ± 0.10<br>*paper 0.0013*" in text
    assert "| **last** | – | – | 40.00 ± 1.00 |" in text


def test_latex_groups_columns_and_escapes_labels():
    text = to_latex(GROUPS)
    assert r"& \multicolumn{2}{c}{Set} & \multicolumn{1}{c}{Other \#1} \\" in text
    assert r" & acc@1 & GSNR ($\times$10$^{-}$$^{2}$) & acc@1 \\" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in text
    assert r"ViT\_S \& 5\% & 70.00 $\pm$ 1.00 & 2.30 $\pm$ 0.10 &" in text
    assert r"\quad\textit{paper} & \textit{71.62} & \textit{0.0013} & " in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1


def test_characters_of_latex_are_made_harmless():
    assert escape("a_b & 5% #1 {x} ~^\\ ±") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("table", [GAINS, GROUPS])
def test_latex_compiles_inside_a_table(table, tmp_path):
    start = r"\documentclass{article}\usepackage{booktabs}\begin{document}\begin{table}"
    text = "\n".join([start, to_latex(table), r"\end{table}\end{document}"])
    (tmp_path / "t.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_order_of_a_table_survives_sorting():
    facts = order(GROUPS)
    assert facts["column"] == ["Set: acc@1", "Set: GSNR", "Other #1: acc@1"]
    sorted_cells = GROUPS.sort_values(["row", "column"], ignore_index=True)
    assert not sorted_cells.equals(GROUPS)
    assert in_order(sorted_cells, facts).equals(GROUPS)
