"""Texts of cells, and Markdown: what is where, and what is escaped."""

import math
import re

import pandas as pd
from pandas import DataFrame

from rectify.analysis.printing import (
    difference_text,
    groups,
    headings,
    lines,
    ours_text,
    paper_text,
    to_markdown,
)
from rectify.analysis.published import HOLM, ITEM_TEST
from rectify.results.declared import CELLS
from tests.helpers.cells import CORRELATIONS, GAINS, GROUPS, cells


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
