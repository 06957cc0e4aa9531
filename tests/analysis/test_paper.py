"""The printed numbers, and which of them one of ours stands beside."""

import pytest

from rectify.analysis.paper import (
    CELLS,
    COSTS,
    GAIN,
    TABLES,
    match,
    match_names,
    match_sizes,
    printed_cell,
    printed_columns,
    printed_rows,
)


def value(table: str, row: str, column: str) -> float:
    return printed_cell(table, row, column).value


def test_every_cell_of_every_table_is_there_once():
    counts = {name: sum(cell.table == name for cell in CELLS) for name in TABLES}
    expected = {"table1": 12, "table2": 8, "table3": 15, "table4": 36, "table5": 24, "table6": 30}
    assert counts == expected
    assert len({cell[:3] for cell in CELLS}) == len(CELLS)


TEXT = {  # the body of each table as the paper's text has it, label first
    "table1": """
        vit@5.7M 0.0864 0.0926 0.1185 0.1231
        vit@22M 0.0924 0.0982 0.1268 0.1315
        vit@86M 0.0955 0.1004 0.1286 0.1330
    """,
    "table2": """
        ViT-S 71.56(-3.69) 75.62(+0.37) 75.74(+0.54) 76.29(+1.04)
    """,
    "table3": """
        Early 68.12 67.54 67.78 67.40 68.73
        Middle 69.01 70.22 73.18 73.50 73.76
        End 70.65 71.39 71.95 74.28 74.14
    """,
    "table4": """
        ViT-S 80.1 57.2 20.5 28.9 42.1 6.36 64.71 89.15 1.79
        +AUX 80.3 57.6 20.0 30.1 42.3 7.10 64.58 89.54 1.80
        ViT-B 80.6 60.5 23.4 31.9 43.5 8.12 64.97 89.50 0.94
        +AUX 80.9 61.1 24.2 32.3 44.3 9.34 65.85 90.08 1.02
    """,
    "table5": """
        ViT-T 70.21 90.97 1.76 39.65 63.77 1.66
        +Aux 71.27 91.06 2.11 40.26 64.12 2.37
        ViT-S 71.62 91.35 1.28 47.16 68.10 1.20
        +Aux 73.37 91.43 1.36 48.15 69.25 1.97
    """,
    "table6": """
        0 71.62 91.35 47.16 68.10 33.49 58.56
        0.15 72.88 91.35 47.26 68.67 34.70 69.57
        0.25 72.92 91.37 47.12 68.69 34.55 68.04
        0.35 73.37 91.43 48.15 69.25 34.86 68.20
        0.45 72.75 91.47 47.61 69.02 34.63 67.58
    """,
}


@pytest.mark.parametrize("table", TABLES)
def test_the_numbers_are_those_of_the_paper_s_text(table):
    lines = [line.split() for line in TEXT[table].strip().splitlines()]
    rows = printed_rows(table)
    if table == "table2":  # accuracy and gain in one cell
        pairs = [text.strip(")").split("(") for text in lines[0][1:]]
        lines = [["ViT-S", *numbers] for numbers in zip(*pairs, strict=True)]
    assert len(lines) == len(rows)
    for row, (label, *numbers) in zip(rows, lines, strict=True):
        ours = [printed_cell(table, row, column).value for column in printed_columns(table)]
        assert ours == [float(number) for number in numbers]
        assert row.removesuffix(GAIN).lower().endswith(label.lower())


def test_what_the_paper_prints_twice_is_the_same():
    columns = zip(printed_columns("table5")[::3], printed_columns("table6")[::2], strict=False)
    for five, six in columns:
        assert value("table5", "ViT-S", five) == value("table6", "0", six)
        assert value("table5", "ViT-S +AUX", five) == value("table6", "0.35", six)


def test_the_gains_of_table_2_share_a_baseline_except_one():
    names = printed_columns("table2")
    implied = [value("table2", "ViT-S", n) - value("table2", f"ViT-S{GAIN}", n) for n in names]
    assert [round(number, 2) for number in implied] == [75.25, 75.25, 75.20, 75.25]


def test_the_text_and_the_tables_agree():
    at_035, at_045 = (value("table6", weight, "CIFAR-100: acc@1") for weight in ("0.35", "0.45"))
    assert round(at_035 - at_045, 2) == 0.62  # "a decrease of 0.62%"
    assert [(cost.vision, cost.rectified) for cost in COSTS] == [
        (22.05, 227.58), (8.5, 90.11), (75.0, 70.0),
    ]  # fmt: skip


def test_labels_that_the_paper_prints_are_matched_by_name():
    assert match(["15", "31"], printed_columns("table3")) == {"15": "15", "31": "31"}
    assert match(["+OPT-350M"], printed_columns("table2")) == {"+OPT-350M": "+Opt-350M"}
    assert match(["ViT-B"], ["ViT-S", "ViT-B"]) == {"ViT-B": "ViT-B"}


def test_other_labels_are_matched_by_rank_and_the_rest_by_none():
    assert match(["0", "2", "7"], printed_rows("table1")) == {
        "0": "vit@5.7M", "2": "vit@22M", "7": "vit@86M",
    }  # fmt: skip
    assert match(["a", "b", "c"], ["ViT-S", "ViT-B"]) == {"a": "ViT-S", "b": "ViT-B", "c": None}


def test_what_the_paper_has_is_matched_by_name_however_few_and_in_any_order():
    five, six = printed_columns("table5"), printed_columns("table6")
    assert match_names(six[::-1], six) == dict(zip(six, six, strict=True))
    assert match_names(["Caltech-256: GSNR"], five) == {"Caltech-256: GSNR": "Caltech 256: GSNR"}
    assert match_names(["+OPT-6.7B"], printed_columns("table2")) == {"+OPT-6.7B": "+Opt-6.7B"}
    assert match_names(["ImageNet: ImageNet-C"], printed_columns("table4")) == {
        "ImageNet: ImageNet-C": "ImageNet-1K: ImageNet-C"
    }


@pytest.mark.parametrize(
    ("table", "ours", "printed"),
    [
        ("table5", ["CIFAR-100: acc@1", "Digits: acc@1"], ["CIFAR-100: acc@1", None]),
        ("table5", ["CIFAR-100: acc@3", "CIFAR-100: GSNR"], [None, "CIFAR-100: GSNR"]),
        ("table6", ["ImageNet: acc@1"], [None]),
        ("table2", ["+LLaMA-7B"], [None]),
        ("table2", ["+OPT-13B", "+OPT-2.7B"], [None, "+Opt-2.7B"]),
    ],
)
def test_what_the_paper_lacks_has_no_match_beside_what_it_has_or_has_elsewhere(
    table, ours, printed
):
    assert list(match_names(ours, printed_columns(table)).values()) == printed


def test_stand_ins_are_matched_by_rank():
    ours = ["Glyphs: acc@1", "Glyphs: acc@5", "Digits: acc@1", "Digits: acc@3", "Biased: acc@1"]
    columns = printed_columns("table6")
    assert list(match_names(ours, columns).values()) == columns[:5]
    assert match_names(["ViT-48"], ["ViT-T", "ViT-S"]) == {"ViT-48": "ViT-T"}


def test_models_of_the_paper_s_sizes_are_matched_by_size_and_others_by_rank():
    rows, columns = printed_rows("table1"), printed_columns("table1")
    assert match_sizes({"vit-s": 21.7e6}, rows) == {"vit-s": "vit@22M"}
    sizes = (559e6, 1065e6, 3003e6, 7069e6)
    for size, column in zip(sizes, columns, strict=True):
        assert match_sizes({"bloomz": size}, columns) == {"bloomz": column}
    assert match_sizes({"opt": 6.7e9, "bloomz": 7.07e9, "large": 6.5e10}, columns) == {
        "opt": None, "bloomz": "LLM@7B", "large": None,
    }  # fmt: skip
    assert match_sizes({"a": 4e4, "b": 2e5}, columns) == {"a": "LLM@560M", "b": "LLM@1.1B"}


def test_a_cell_that_is_not_printed_is_none():
    assert printed_cell("table3", "End", "8") is None
    assert printed_cell("table3", None, "0") is None
