"""Markdown and LaTeX: what is where, what is escaped, and that LaTeX accepts it."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from pandas import DataFrame

from rectify.analysis.printing import (
    difference_text,
    escape,
    groups,
    headings,
    lines,
    ours_text,
    paper_text,
    to_latex,
    to_markdown,
)
from rectify.analysis.published import HOLM, ITEM_TEST
from rectify.results.declared import CELLS


def cells(*rows: tuple) -> DataFrame:
    """Return cells from (row, (group, column), kind, unit, scale, mean, std, seeds, paper)."""
    names = list(dict.fromkeys(row[0] for row in rows))
    columns = list(dict.fromkeys(row[1] for row in rows))
    full = [
        (names.index(row), columns.index(column), row, *column, *kind, mean, std,
         math.nan, math.nan, seeds, "-", paper, mean - paper, "r", "c")
        for row, column, *kind, mean, std, seeds, paper in rows
    ]  # fmt: skip
    return DataFrame(full, columns=CELLS.names)


OPT, BIG = ("", "+OPT"), ("", "+BIG")
GAINS = cells(
    ("ViT-S", OPT, "gain", "points", 1.0, -3.7, 0.5, 2, -3.69),
    ("ViT-S", OPT, "value", "%", 1.0, 71.4, 0.25, 2, 71.56),
    ("ViT-S", BIG, "value", "%", 1.0, 76.0, math.nan, 1, math.nan),
    ("ViT-S", BIG, "gain", "points", 1.0, 1.0, 0.5, 2, math.nan),
)
GROUPS = cells(
    ("ViT_S & 5%", ("Set", "acc@1"), "value", "%", 1.0, 70.0, 1.0, 3, 71.62),
    ("ViT_S & 5%", ("Set", "GSNR"), "value", "1", 1e-2, 2.3, 0.1, 3, 0.00128),
    ("ViT_S & 5%", ("Other #1", "acc@1"), "value", "%", 1.0, 50.0, 1.0, 3, math.nan),
    ("last", ("Other #1", "acc@1"), "value", "%", 1.0, 40.0, 1.0, 3, math.nan),
)
CORRELATIONS = cells(
    ("GSNR", ("equal loss", "gap"), "p", "-", 1.0, 0.0123, math.nan, 2, math.nan),
    ("GSNR", ("equal loss", "gap"), "value", "rho", 1.0, -0.514, math.nan, 2, math.nan),
    ("cosine", ("equal loss", "gap"), "value", "rho", 1.0, 0.9, math.nan, 2, math.nan),
    ("cosine", ("equal loss", "gap"), "p", "-", 1.0, 0.0002, math.nan, 2, math.nan),
)


def flat(text: str) -> list[str]:
    """Return the lines of a Markdown table without the blanks that align it."""
    return [re.sub(r" +", " ", line) for line in text.splitlines()]


def test_a_gain_is_in_brackets_behind_its_value() -> None:
    (line,) = lines(GAINS)
    first, second = line.places
    assert (ours_text(first), paper_text(first)) == (
        "71.40 ± 0.25 (-3.70 ± 0.50)", "71.56 (-3.69)",
    )  # fmt: skip
    assert difference_text(first) == "-0.16 (-0.01)"
    assert (ours_text(second), paper_text(second)) == ("76.00 (+1.00 ± 0.50)", "")


def test_a_gain_over_three_seeds_has_its_interval() -> None:
    three = GAINS.assign(low=-4.5, high=-2.9).head(1)
    three.loc[three["kind"] == "value", ["low", "high"]] = math.nan
    (line,) = lines(three)
    assert ours_text(line.places[0]) == "-3.70 [-4.50, -2.90]"
    said = (
        "over seeds, n = 2 seeds; gains over vanilla, seed by seed, with 95 % intervals over seeds."
    )
    assert to_markdown(three).splitlines()[-1].endswith(said)
    assert r"[-4.50, -2.90]" in to_latex(three)


def test_the_note_says_what_p_values_are_and_of_which_epoch_the_numbers() -> None:
    tested = GAINS.head(2).copy()
    place = tested.iloc[0].to_dict()
    tested = pd.concat([tested, DataFrame([{**place, "kind": "item test", "mean": 0.0213}])])
    (line, *_) = lines(tested)
    assert ours_text(line.places[0]).endswith(", p = 0.021)")
    text = to_markdown(tested, "best")
    assert "p of gains: paired test over the test items; the first metric is that of the" in text
    assert text.endswith("that of the epoch that tests best.\n")
    assert "epoch" not in to_markdown(tested)
    assert "tests best" in to_latex(tested, "best")


def test_corrected_p_values_come_last_also_from_a_file_whose_kinds_are_sorted() -> None:
    tested = GAINS.head(2).copy()
    place = tested.iloc[0].to_dict()
    rows = [{**place, "kind": kind, "mean": 0.02} for kind in (ITEM_TEST, HOLM)]
    tested = pd.concat([tested, DataFrame(rows)]).sort_values(list(CELLS.key))
    (line, *_) = lines(tested)
    assert ours_text(line.places[0]) == (
        "71.40 ± 0.25 (-3.70 ± 0.50, p = 0.020, Holm p = 0.020)"
    )  # fmt: skip


def test_a_relative_gain_says_its_unit_and_a_missing_number_why() -> None:
    place = ("+AUX", ("Set", "GSNR"))
    own = cells(
        (*place, "value", "1", 1e-2, 1.2, 0.1, 2, math.nan),
        (*place, "relative gain", "%", 1.0, 12.5, 1.5, 2, 11.6),
        ("+AUX", ("Set", "equal loss"), "relative gain", "%", 1.0, math.nan, math.nan, 0, math.nan),
    )  # fmt: skip
    own.loc[2, "text"] = "no common loss"
    (line,) = lines(own)
    assert [ours_text(cell) for cell in line.places] == [
        "1.20 ± 0.10 (+12.50 ± 1.50 %)", "no common loss",
    ]  # fmt: skip
    assert paper_text(line.places[0]) == "+11.60 %"
    assert difference_text(line.places[0]) == "+0.90 %"
    assert r"(+12.50 $\pm$ 1.50 \%)" in to_latex(own)
    assert to_markdown(own).splitlines()[-1] == "Mean ± standard deviation over seeds, n = 2 seeds."


def test_a_gain_alone_is_not_in_brackets() -> None:
    (line,) = lines(GAINS[GAINS["kind"] == "gain"])
    assert [ours_text(place) for place in line.places] == ["-3.70 ± 0.50", "+1.00 ± 0.50"]


def test_a_p_value_is_in_brackets_behind_its_correlation() -> None:
    assert [ours_text(line.places[0]) for line in lines(CORRELATIONS)] == [
        "-0.51 (p = 0.012)", "0.90 (p < 0.001)",
    ]  # fmt: skip
    text = flat(to_markdown(CORRELATIONS))
    assert text[2] == "| **GSNR** | -0.51 (p = 0.012) |"
    note = "Spearman's ρ (p value) over runs, each the mean over its seeds, n = 2 seeds."
    assert text[-1] == note
    latex = to_latex(CORRELATIONS)
    assert r"cosine & 0.90 (p $<$ 0.001) \\" in latex
    assert r"Spearman's $\rho$ (p value)" in latex


def test_rows_and_columns_come_by_their_index_whatever_the_order_of_the_file() -> None:
    mixed = GROUPS.iloc[::-1]
    assert [line.label for line in lines(mixed)] == ["ViT_S & 5%", "last"]
    assert headings(mixed) == headings(GROUPS)
    assert groups(headings(mixed)) == [("Set", ["acc@1", "GSNR (×10⁻²)"]), ("Other #1", ["acc@1"])]


def test_markdown_has_a_line_per_row_and_the_seeds() -> None:
    text = flat(to_markdown(GAINS))
    assert text[0] == "| | +OPT | +BIG |"
    assert text[2].startswith("| **ViT-S** | 71.40 ± 0.25 (-3.70 ± 0.50)<br>*paper 71.56 (-3.69)*")
    assert text[-1] == "Mean ± standard deviation over seeds, n = 1 to 2 seeds."
    assert len(text) == 5
    measured = to_markdown(GAINS.assign(seeds=0)).splitlines()
    assert measured[-1] == "One measurement each."


def test_the_power_of_ten_is_in_the_head_and_the_paper_s_number_on_our_scale() -> None:
    text = flat(to_markdown(GROUPS))
    assert "Set: GSNR (×10⁻²)" in text[0]
    assert "2.30 ± 0.10<br>*paper 0.0013*" in text[2]
    assert text[3] == "| **last** | – | – | 40.00 ± 1.00 |"


def test_a_bar_in_a_label_does_not_end_a_markdown_cell() -> None:
    text = to_markdown(cells(("a|b", ("", "c|d"), "value", "%", 1.0, 1.0, 0.1, 2, math.nan)))
    assert r"**a\|b**" in text
    assert r"c\|d" in text


def test_latex_groups_columns_and_escapes_labels() -> None:
    text = to_latex(GROUPS)
    assert r"& \multicolumn{2}{c}{Set} & \multicolumn{1}{c}{Other \#1} \\" in text
    assert r" & acc@1 & GSNR ($\times$10$^{-}$$^{2}$) & acc@1 \\" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in text
    assert r"ViT\_S \& 5\% & 70.00 $\pm$ 1.00 & 2.30 $\pm$ 0.10 &" in text
    assert r"\quad\textit{paper} & \textit{71.62} & \textit{0.0013} & " in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1


def test_columns_without_a_group_have_no_rule_below_their_head() -> None:
    assert r"\cmidrule" not in to_latex(GAINS)
    mixed = cells(
        ("r", ("", "a"), "value", "%", 1.0, 1.0, 0.1, 2, math.nan),
        ("r", ("G", "b"), "value", "%", 1.0, 1.0, 0.1, 2, math.nan),
    )
    assert r"\cmidrule(lr){3-3}" in to_latex(mixed)
    assert r"{2-2}" not in to_latex(mixed)


def test_characters_of_latex_are_made_harmless() -> None:
    assert escape("a_b & 5% #1 {x} ~^\\ ±") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("table", [GAINS, GROUPS, CORRELATIONS])
def test_latex_compiles_inside_a_table(table: DataFrame, tmp_path: Path) -> None:
    start = r"\documentclass{article}\usepackage{booktabs}\begin{document}\begin{table}"
    text = "\n".join([start, to_latex(table), r"\end{table}\end{document}"])
    (tmp_path / "t.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
