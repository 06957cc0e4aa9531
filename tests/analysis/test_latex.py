"""Tables in LaTeX: what is where, what is escaped, and that they fit one column or two."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from pandas import DataFrame

from rectify import targets
from rectify.analysis.cells import (
    ColumnSpec,
    RowSpec,
    TableSpec,
    best_places,
    fill,
    without_paper,
)
from rectify.analysis.collect import Results
from rectify.analysis.latex import escape, to_latex
from rectify.analysis.metrics import Metric
from rectify.analysis.published import GAINS as GAIN_KINDS
from rectify.analysis.published import HOLM, ITEM_TEST, REGRET
from tests.helpers import printed, synthetic
from tests.helpers.cells import CORRELATIONS, GAINS, GROUPS, cells

SEEDS = (0, 1)
VALUE = ("value", "%", 1.0, 71.4, 0.25, 3, math.nan)
PAGES = {
    "AAAI's two columns": (
        r"\documentclass[twocolumn]{article}\setlength{\textwidth}{7in}"
        r"\setlength{\columnsep}{0.375in}\setlength{\textheight}{9in}\setlength{\topmargin}{-0.5in}"
    ),
    "one column": r"\documentclass{article}",
}


def latex(table: DataFrame, caption: str = "Caption.", **options: str) -> str:
    return to_latex(table, caption=caption, name="mine", **options)


def rows(text: str) -> list[str]:
    """Return the lines of the tables without the distance to the next one."""
    return [line.removesuffix("[-2.5pt]") for line in text.splitlines()]


def test_below_a_number_are_its_gain_its_interval_and_its_p_values_in_small_type() -> None:
    three = GAINS.assign(low=-4.5, high=-2.9)
    three.loc[three["kind"] == "value", ["low", "high"]] = math.nan
    place = three.iloc[0].to_dict()
    tests = [
        {**place, "kind": kind, "mean": 0.0004, "paper": math.nan} for kind in (ITEM_TEST, HOLM)
    ]
    text = rows(latex(pd.concat([three, DataFrame(tests)])))
    start = text.index(r"ViT-S & 71.40 $\pm$ 0.25 & 76.00 \\")
    assert text[start + 1 : start + 6] == [
        r" & {\below ($-$3.70)} & {\below (+1.00)} \\",
        r" & {\below [$-$4.50, $-$2.90]} & {\below [$-$4.50, $-$2.90]} \\",
        r" & {\below (p $<$ 0.001)} &  \\",
        r" & {\below (Holm p $<$ 0.001)} &  \\",
        r"\quad\textit{paper} & \textit{71.56 ($-$3.69)} &  \\",
    ]


def test_no_minus_is_a_hyphen_and_no_hyphen_of_a_name_a_minus() -> None:
    own = cells(("ViT-5, 30-31", ("", "gain"), "gain", "%", 1.0, -3.7, 0.5, 2, -3.69))
    text = latex(own)
    assert r"ViT-5, 30-31 & $-$3.70 $\pm$ 0.50 \\" in text
    assert r"\textit{$-$3.69}" in text


def test_columns_are_grouped_and_labels_escaped() -> None:
    text = rows(latex(GROUPS))
    assert r" & \multicolumn{2}{c}{Set} & \multicolumn{1}{c}{Other \#1} \\" in text
    assert r" & acc@1 & GSNR ($\times$10$^{-2}$) & acc@1 \\" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in text
    assert any(line.startswith(r"ViT\_S \& 5\% & 70.00 $\pm$ 1.00 & 2.30 ") for line in text)
    assert r"\quad\textit{paper} & \textit{71.62} & \textit{0.0013} &  \\" in text
    assert r"cosine & 0.90 \\" in rows(latex(CORRELATIONS))


def test_columns_without_a_group_have_no_rule_below_their_head() -> None:
    assert r"\cmidrule" not in latex(GAINS)
    mixed = cells(
        ("r", ("", "a"), "value", "%", 1.0, 1.0, 0.1, 2, math.nan),
        ("r", ("G", "b"), "value", "%", 1.0, 1.0, 0.1, 2, math.nan),
    )
    assert r"\cmidrule(lr){3-3}" in latex(mixed)
    assert r"{2-2}" not in latex(mixed)


def test_characters_of_latex_are_made_harmless() -> None:
    assert escape("a_b & 5% #1 {x} ~^\\ ±") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$"
    )
    assert escape("10⁻¹² x²") == r"10$^{-12}$ x$^{2}$"


def test_the_float_has_caption_label_and_what_its_numbers_are() -> None:
    text = latex(GAINS, caption="Gains & losses.", report="best")
    assert r"\caption{Gains \& losses.}\label{tab:mine}" in text
    assert "that of the epoch that tests best." in text
    assert r"Spearman's $\rho$ (p value)" in latex(CORRELATIONS)


def wide(groups: int, columns: int) -> DataFrame:
    """Return a table of equal columns below common heads."""
    return cells(
        *(
            ("row", (f"Set {group}", f"column {column}"), *VALUE)
            for group in range(groups)
            for column in range(columns)
        )
    )


@pytest.mark.parametrize(
    ("groups", "columns", "panels"),
    [(1, 2, ["rr"]), (1, 6, ["rrrrrr"]), (3, 5, ["r" * 5] * 3), (4, 2, ["r" * 4] * 2),
     (1, 13, ["r" * 7, "r" * 6])],
)  # fmt: skip
def test_wide_tables_are_split_into_panels_at_common_heads(
    groups: int, columns: int, panels: list[str]
) -> None:
    text = latex(wide(groups, columns))
    assert re.findall(r"\\begin\{tabular\}\{@\{\}l(r+)@", text) == panels
    assert text.startswith(r"\begin{table}[" if groups * columns < 3 else r"\begin{table*}[")


@pytest.mark.parametrize(("count", "floats"), [(40, 1), (90, 2), (150, 3)])
def test_a_table_that_is_higher_than_a_page_is_continued(count: int, floats: int) -> None:
    names = [f"row {number}" for number in range(count)]
    text = latex(cells(*((name, ("", "one"), *VALUE) for name in names)))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == floats
    assert text.count(r"\caption{Continued.}") == text.count(r"\addtocounter") == floats - 1
    assert text.count(r"\label{tab:mine}") == text.count(r"\toprule") / floats == 1
    assert text.count("Mean") == 1  # what the numbers are, below the last one
    assert re.findall(r"row \d+", text) == names


RUNS = {
    "table2": r"glyphs_vit-s_(vanilla|insert_opt.*)",
    **dict.fromkeys(("table3", "grid", "coherence", "selection"),
                    r"glyphs_vit-s_(vanilla|insert_llama.*)"),
    "controls": r"glyphs_vit-s_(vanilla|insert.*layer-7_end)",
    "table4": r"(glyphs|motions)_vit-[sb]_(vanilla|auxiliary.*0\.35)",
    "table5": r"(glyphs|digits|biased)_vit-s_(vanilla|auxiliary.*0\.35)",
    "table6": r".*_vit-s_(vanilla|auxiliary.*)",
}  # fmt: skip
"""Runs by the kind of table that shows them."""
PANG = [f"pang_table{name}" for name in ("1", "2", "3", "6", "_a", "_b", "_c", "_d")]
"""Whose runs have the printed numbers."""


@pytest.fixture(scope="module")
def tables(demo: synthetic.Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataFrame]:
    """Return the cells of tables of made-up results, gains with intervals as of 3 seeds."""
    root = tmp_path_factory.mktemp("pang")
    similar = [file for file in demo.similarity if "llama-xl--vit-s" in file.name]
    found = {}
    for kind, pattern in RUNS.items():
        folders = [folder for folder in demo.runs if re.fullmatch(pattern, folder.name)]
        target = targets.module_of(kind)
        found[kind] = target.table(Results(folders, SEEDS, similar), target.Settings(reads="any"))
    for kind in PANG:
        target, made = targets.module_of(kind), root / kind
        results = synthetic.collected(made, printed.pang(kind), SEEDS)
        found[kind] = target.table(results, target.Settings(reads="any"))
    target = targets.module_of("cost")
    asked = target.Settings(data="any", visions="any", languages="any")
    found["cost"] = target.table(synthetic.results_of(costs=synthetic.costs()), asked)
    target = targets.module_of("table1")
    models = {"visions": ["vit-t", "vit-s", "vit-b"], "languages": ["llama-s", "llama-xl"]}
    found["table1"] = target.table(Results((), SEEDS, demo.similarity), target.Settings(**models))
    for frame in found.values():
        gains = frame["kind"].isin([*GAIN_KINDS, REGRET])
        for end, side in (("low", -12.34), ("high", 12.34)):
            frame.loc[gains, end] = frame.loc[gains, "mean"] + side
    return found


@pytest.mark.slow
def test_the_best_number_of_each_column_is_bold(tables: dict[str, DataFrame]) -> None:
    for kind in ("table2", "table3", "table5", "table6", "controls", "grid"):
        frame = tables[kind]
        values = frame[frame["kind"].eq("value") & frame["unit"].eq("%")]
        expected = set()
        for column, of_column in values.groupby("column_index"):
            most, least = of_column["mean"].max(), of_column["mean"].min()
            best = of_column[of_column["mean"].eq(most) & (most > least)]
            expected |= {(row, column) for row in best["row_index"]}
        assert best_places(frame) == best_places(without_paper(frame)) == expected
        assert latex(frame).count(r"\textbf{") == len(expected)
    assert latex(tables["selection"]).count(r"\textbf{") == 0


def test_a_smaller_error_is_better_and_data_sets_are_not_compared() -> None:
    error = Metric("error", "error", "m", better="lower")
    frame = DataFrame(
        [("a", "x", 2.0), ("b", "x", 1.0), ("c", "y", 9.0), ("d", "y", 8.0), ("e", "z", 5.0)],
        columns=["run", "data", "error"],
    ).assign(gain_error=0.5)
    shown = [RowSpec(name, {"run": name}) for name in frame["run"]]
    columns = [ColumnSpec("error", (error, error.gain)), ColumnSpec("alone", (error,))]
    assert best_places(fill(TableSpec("mine", shown, columns), frame)) == {(1, 0), (3, 0)}
    equal = frame.assign(error=1.0)
    assert best_places(fill(TableSpec("mine", shown, columns), equal)) == set()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("page", PAGES)
def test_tables_fit_the_page(page: str, tables: dict[str, DataFrame], tmp_path: Path) -> None:
    small = {"gains": GAINS, "groups": GROUPS, "correlations": CORRELATIONS, "narrow": wide(1, 2)}
    captions = {kind: targets.caption(kind) for kind in tables}
    for name, table in (tables | small).items():
        text = to_latex(table, caption=captions.get(name, "A caption."), name=name)
        (tmp_path / f"{name}.tex").write_text(text, encoding="utf-8")
    inputs = [rf"\input{{{name}}}\clearpage" for name in tables | small]
    start = [PAGES[page], r"\usepackage{booktabs}\begin{document}"]
    text = "\n".join([*start, *inputs, r"\end{document}"])
    (tmp_path / "page.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Output written" in done.stdout
    assert not re.findall(r".*(?:Overfull|too large|Undefined|undefined).*", done.stdout)
