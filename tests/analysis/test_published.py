"""The printed numbers, and with which of them one of ours is compared."""

import pytest
from pandas import DataFrame

from rectify.analysis.published import (
    Label,
    every_cell,
    labels,
    match_names,
    match_sizes,
    printed,
    printed_for,
    with_gains_over,
)
from rectify.targets.table1 import LANGUAGES, VISIONS

TABLES = [f"table{number}" for number in range(1, 7)]


def value(table: str, row: str, column: str, group: str = "", kind: str = "value") -> float:
    return printed(table).cell(Label(row), Label(column, group), kind).value


def test_every_cell_of_every_table_is_there_once() -> None:
    names = (*TABLES, "cost", *PANG, "pang_table2_public", "pang_table4_public")
    names += ("pang_table5b_public",)
    counts = {name: len(printed(name).cells) for name in names}
    expected = {"table1": 12, "table2": 8, "table3": 15, "table4": 36, "table5": 24, "table6": 30}
    pang = {"pang_table1": 30, "pang_table2": 12, "pang_table2_public": 11, "pang_table3": 8,
            "pang_table4": 14, "pang_table4_public": 9, "pang_table5a": 8, "pang_table5b": 20,
            "pang_table5b_public": 13, "pang_table6": 4, "pang_table5a_retrieval": 6,
            "pang_table_a": 8, "pang_table_b": 48, "pang_table_c": 6,
            "pang_table_d": 5}  # fmt: skip
    assert counts == {**expected, "cost": 6, **pang}
    places = [(cell.target, cell.row, cell.column, cell.kind) for cell in every_cell()]
    assert len(set(places)) == len(places) == sum(counts.values())


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


PANG = {  # the same of Pang et al., in rows as they print them
    "pang_table1": """
        72.1 43.9 7.7 19.6 32.3
        73.2 45.8 8.7 20.6 33.8
        80.1 57.2 20.5 28.9 42.1
        80.7 58.7 22.7 30.5 42.8
        80.6 60.5 23.4 31.9 43.5
        81.7 62.1 26.9 33.2 44.3
    """,
    "pang_table2": """
        87.4 88.1 83.1 92.67 92.91 93.19
        88.0 88.5 83.8 92.42 92.82 93.56
    """,
    "pang_table3": """
        64.71 89.15
        65.89 89.93
        64.97 89.50
        66.03 90.25
    """,
    "pang_table4": """
        1.60 3.60 0.77 1.23 13.2
        - - 0.76 1.20 12.7
        - - 0.72 1.10 10.7
        - - 0.71 1.08 10.5
    """,
    "pang_table5a": """
        69.60 85.08 47.82 61.37
        70.23 85.70 48.98 61.89
    """,
    "pang_table5a_retrieval": """
        49.66 80.86 89.48
        50.22 82.26 90.08
    """,
    "pang_table5b": """
        47.20 86.82 33.48 66.10 42.37 69.53 43.02 46.40
        48.09 89.03 34.27 67.05 48.17 68.34 43.87 45.64
        47.14 88.08 - - - - - -
        47.26 88.46 - - - - - -
    """,
    "pang_table6": """
        80.1
        80.7
        80.4
        78.9
    """,
    "pang_table_a": """
        75.3 80.1
        75.8 80.7
        75.5 80.4
        76.8 78.9
    """,
    "pang_table_b": """
        80.1 64.7 89.2 87.4 88.1 83.1 0.72 1.10 10.7 49.66 80.86 89.48
        80.7 65.9 89.9 88.0 88.5 83.8 0.71 1.08 10.5 50.22 82.26 90.08
        80.4 63.8 88.9 86.5 87.3 83.4 0.74 1.16 11.8 49.48 81.12 89.58
        76.9 64.1 88.8 87.2 88.0 82.6 0.74 1.15 11.5 49.80 81.62 89.72
    """,
    "pang_table_c": """
        75.25
        71.63
        71.56
        75.62
        75.74
        76.29
    """,
    "pang_table_d": """
        75.32
        75.84
        75.55
        72.66
        77.10
    """,
}


@pytest.mark.parametrize("table", PANG)
def test_the_numbers_of_pang_et_al_are_those_of_their_text(table: str) -> None:
    theirs = printed(table)
    lines = [line.split() for line in PANG[table].strip().splitlines()]
    for row, words in zip(theirs.rows, lines, strict=True):
        for column, word in zip(theirs.columns, words, strict=True):
            cell = theirs.cell(row, column)
            assert cell is None if word == "-" else cell.value == float(word)


@pytest.mark.parametrize(("other", "row"), [("pang_table6", 0), ("pang_table_b", 0)])
def test_pang_et_al_agree_with_themselves(other: str, row: int) -> None:
    first = printed("pang_table1").cell(Label("ViT-S"), Label("clean", "ImageNet, 300 epochs"))
    assert printed(other).cells[row].value == first.value


@pytest.mark.parametrize("table", TABLES)
def test_the_numbers_are_those_of_the_paper_s_text(table: str) -> None:
    lines = [line.split() for line in TEXT[table].strip().splitlines()]
    theirs = printed(table)
    assert len(lines) == len(theirs.rows)
    for row, (name, *texts) in zip(theirs.rows, lines, strict=True):
        assert row.name.lower().endswith(name.lower())
        for column, text in zip(theirs.columns, texts, strict=True):
            number, _, gain = text.strip(")").partition("(")  # Table 2 has both in one cell
            assert theirs.cell(row, column).value == float(number)
            if gain:
                assert theirs.cell(row, column, "gain").value == float(gain)


def test_gsnr_is_in_the_power_of_ten_of_its_head() -> None:
    four = {c.column: c.scale for c in printed("table4").cells if c.column.name == "GSNR"}
    scales = {label.group: scale for label, scale in four.items()}
    assert scales == {"ImageNet-1K": 1e-5, "Something-Something-v2": 1e-3}
    five = {c.scale for c in printed("table5").cells if c.column.name == "GSNR"}
    assert five == {1e-5}


def test_what_the_paper_prints_twice_is_the_same() -> None:
    for group in ("CIFAR-100", "Caltech 256"):
        five, six = value("table5", "ViT-S", "acc@1", group), value("table6", "0", "acc@1", group)
        assert five == six
        auxiliary = value("table5", "ViT-S +AUX", "acc@1", group)
        assert auxiliary == value("table6", "0.35", "acc@1", group)


def test_the_gains_of_table_2_share_a_baseline_except_one() -> None:
    names = [column.name for column in printed("table2").columns]
    implied = [
        value("table2", "ViT-S", n) - value("table2", "ViT-S", n, kind="gain") for n in names
    ]
    assert [round(number, 2) for number in implied] == [75.25, 75.25, 75.20, 75.25]


def test_the_text_and_the_tables_agree() -> None:
    at_035, at_045 = (value("table6", w, "acc@1", "CIFAR-100") for w in ("0.35", "0.45"))
    assert round(at_035 - at_045, 2) == 0.62  # "a decrease of 0.62%"
    costs = [(c.row.name, c.column.name, c.value, c.scale) for c in printed("cost").cells]
    assert costs == [
        ("ViT-S, vanilla", "parameters", 22.05, 1e6),
        ("ViT-S, vanilla", "flops", 8.5, 1e9),
        ("ViT-S, vanilla", "test_images_per_second", 75.0, 1.0),
        ("ViT-S, insert", "parameters", 227.58, 1e6),
        ("ViT-S, insert", "flops", 90.11, 1e9),
        ("ViT-S, insert", "test_images_per_second", 70.0, 1.0),
    ]


def test_what_the_paper_has_is_matched_by_name_however_few_and_in_any_order() -> None:
    four, five, six = (printed(name).columns for name in ("table4", "table5", "table6"))
    assert match_names(six[::-1], six) == dict(zip(six, six, strict=True))
    spelt = Label("GSNR", "Caltech-256")
    assert match_names([spelt], five) == {spelt: Label("GSNR", "Caltech 256")}
    size = Label("+OPT-6.7B")
    assert match_names([size], printed("table2").columns) == {size: Label("+Opt-6.7B")}
    shift = Label("ImageNet-C", "ImageNet")
    assert match_names([shift], four) == {shift: Label("ImageNet-C", "ImageNet-1K")}


@pytest.mark.parametrize(
    ("table", "ours", "theirs"),
    [
        (
            "table5",
            [Label("acc@1", "CIFAR-100"), Label("acc@1", "Digits")],
            [Label("acc@1", "CIFAR-100"), None],
        ),
        (
            "table5",
            [Label("acc@3", "CIFAR-100"), Label("GSNR", "CIFAR-100")],
            [None, Label("GSNR", "CIFAR-100")],
        ),
        ("table6", [Label("acc@1", "ImageNet")], [None]),
        ("table2", [Label("+LLaMA-7B")], [None]),
        ("table2", [Label("+OPT-13B"), Label("+OPT-2.7B")], [None, Label("+Opt-2.7B")]),
    ],
)
def test_what_the_paper_lacks_is_not_compared_where_it_has_others_of_ours(
    table: str, ours: list[Label], theirs: list[Label | None]
) -> None:
    assert list(match_names(ours, printed(table).columns).values()) == theirs


def test_stand_ins_are_compared_with_nothing() -> None:
    ours = [Label("acc@1", "Glyphs"), Label("acc@5", "Glyphs"), Label("acc@1", "Digits")]
    assert set(match_names(ours, printed("table6").columns).values()) == {None}
    assert match_names(labels(["ViT-48"]), labels(["ViT-T"])) == {Label("ViT-48"): None}


def test_models_of_the_printed_sizes_are_matched_by_size_and_others_not() -> None:
    assert match_sizes({"vit-s": 21.7e6}, VISIONS) == {"vit-s": Label("vit@22M")}
    sizes = (559e6, 1065e6, 3003e6, 7069e6)
    for size, column in zip(sizes, printed("table1").columns, strict=True):
        assert match_sizes({"bloomz": size}, LANGUAGES) == {"bloomz": column}
    assert match_sizes({"llama": 6.74e9, "bloomz": 7.07e9, "large": 6.5e10}, LANGUAGES) == {
        "llama": None, "bloomz": Label("LLM@7B"), "large": None,
    }  # fmt: skip
    assert match_sizes({"opt": 6.7e9}, LANGUAGES) == {"opt": None}
    assert match_sizes({"a": 4e4, "b": 2e5}, LANGUAGES) == {"a": None, "b": None}


def frame(**titles: list[str | None]) -> DataFrame:
    return DataFrame({f"{factor}_title": values for factor, values in titles.items()})


def test_a_table_is_compared_only_if_every_run_is_of_its_models_and_data() -> None:
    runs = frame(language=[None, "LLaMA-7B"], data=["CIFAR-100", "Cifar 100"])
    assert printed_for("table3", runs, language="LLaMA-7B", data="CIFAR-100").cells
    assert not printed_for("table3", runs, language="LLaMA-13B").cells
    assert not printed_for("table3", frame(vision=["ViT-S", "ViT-T"]), vision="ViT-S").cells


def test_gains_over_another_row_follow_from_the_printed_values() -> None:
    three = printed("table3")
    gained = with_gains_over(three, {Label("End"): Label("Early")})
    derived = [cell for cell in gained.cells if cell.kind == "gain"]
    assert [round(cell.value, 2) for cell in derived] == [2.53, 3.85, 4.17, 6.88, 5.41]
    assert {(cell.row.name, cell.unit) for cell in derived} == {("End", "points")}
    assert gained.cells[: len(three.cells)] == three.cells


def test_the_sizes_of_table_1_are_those_of_its_labels() -> None:
    assert list(VISIONS) == printed("table1").rows
    assert list(LANGUAGES) == printed("table1").columns
    for label, size in {**VISIONS, **LANGUAGES}.items():
        number, factor = label.name.partition("@")[2][:-1], label.name[-1]
        assert size == pytest.approx(float(number) * {"M": 1e6, "B": 1e9}[factor])


def test_a_cell_that_is_not_printed_is_none() -> None:
    three = printed("table3")
    assert three.cell(Label("End"), Label("8")) is None
    assert three.cell(None, Label("0")) is None
    assert printed("grid").cells == ()
