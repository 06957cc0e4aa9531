import json
import math
import os
import stat

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from rectify.results import declared
from rectify.results.declared import CELLS, GSNR, HISTORY, MANIFEST, SCORES
from rectify.results.files import atomic_path, read_json, write_json
from rectify.results.tables import Column, Table, as_stored, read_note, read_table, write_table

TOY = Table(
    "toy",
    "A table of every type.",
    ("name", "step"),
    (
        Column("name", "str", "-", "who"),
        Column("step", "int64", "1", "when"),
        Column("value", "float64", "m", "how much", optional=True),
        Column("good", "bool", "-", "whether"),
    ),
)
ROWS = [("b", 2, 0.5, True), ("a", 10, None, False), ("a", 9, 1 / 3, True)]


def test_rows_come_back_sorted_by_their_key(tmp_path):
    write_table(TOY, ROWS, tmp_path / "toy.csv", {"seed": 0})
    frame = read_table(TOY, tmp_path / "toy.csv")
    assert frame[["name", "step"]].values.tolist() == [["a", 9], ["a", 10], ["b", 2]]
    assert frame["good"].tolist() == [True, False, True]
    assert frame["value"].isna().tolist() == [False, True, False]
    assert [str(kind) for kind in frame.dtypes] == ["str", "int64", "float64", "bool"]


def test_a_frame_is_written_as_its_rows_are_and_stays_as_it_was(tmp_path):
    frame = pd.DataFrame(ROWS, columns=TOY.names, index=[7, 8, 9])
    before = frame.copy()
    write_table(TOY, frame, tmp_path / "frame.csv", {})
    write_table(TOY, ROWS, tmp_path / "rows.csv", {})
    assert (tmp_path / "frame.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
    pd.testing.assert_frame_equal(frame, before)


def test_two_writes_give_the_same_bytes(tmp_path):
    for name in ("one.csv", "two.csv"):
        write_table(TOY, ROWS, tmp_path / name, {"seed": 3})
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert (tmp_path / "one.csv.json").read_bytes() == (tmp_path / "two.csv.json").read_bytes()


def test_what_is_read_and_written_again_gives_the_same_bytes(tmp_path):
    write_table(TOY, ROWS, tmp_path / "one.csv", {})
    write_table(TOY, read_table(TOY, tmp_path / "one.csv"), tmp_path / "two.csv", {})
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_numbers_have_nine_significant_digits(tmp_path):
    write_table(TOY, [("a", 1, 1.23456789012e-7, True)], tmp_path / "toy.csv", {})
    assert (tmp_path / "toy.csv").read_text() == "name,step,value,good\na,1,1.23456789e-07,True\n"


def test_texts_print_what_is_in_the_file(tmp_path):
    """1.8749999999 is 1.875 in a file, which a sentence about it rounds to 1.88."""
    frame = pd.DataFrame({"epoch": [0, 1], "metric": "m", "value": [1.8749999999, math.nan]})
    frame.attrs["best"] = [1]
    stored = as_stored(frame)
    assert f"{stored['value'][0]:.2f}" == "1.88" != f"{frame['value'][0]:.2f}"
    assert (math.isnan(stored["value"][1]), stored.attrs) == (True, frame.attrs)
    write_table(HISTORY, frame[:1], tmp_path / "history.csv", {})
    pd.testing.assert_frame_equal(read_table(HISTORY, tmp_path / "history.csv"), stored[:1])


def test_whole_numbers_are_not_rounded(tmp_path):
    write_table(TOY, [("a", 12345678901, 0.0, True)], tmp_path / "toy.csv", {})
    assert read_table(TOY, tmp_path / "toy.csv")["step"].tolist() == [12345678901]


def test_names_that_look_empty_stay_names(tmp_path):
    names = ["NA", "nan", "null", "", "123", "00", "two, three", 'a "quote"', "λ→é"]
    write_table(TOY, [(name, 0, 0.0, True) for name in names], tmp_path / "toy.csv", {})
    assert read_table(TOY, tmp_path / "toy.csv")["name"].tolist() == sorted(names)


def test_an_empty_table_comes_back_empty_with_its_columns(tmp_path):
    write_table(TOY, [], tmp_path / "toy.csv", {})
    frame = read_table(TOY, tmp_path / "toy.csv")
    assert (len(frame), list(frame.columns)) == (0, TOY.names)


def test_the_note_says_what_the_columns_mean(tmp_path):
    write_table(TOY, ROWS, tmp_path / "toy.csv", {"seed": 1})
    note = read_note(tmp_path / "toy.csv")
    assert (note["table"], note["rows"], note["key"]) == ("toy", 3, ["name", "step"])
    assert note["provenance"] == {"seed": 1}
    value = {"name": "value", "dtype": "float64", "unit": "m", "meaning": "how much"}
    assert note["columns"][2] == {**value, "optional": True}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a", 1.5, 0.0, True), r"column step of a toy table must be int64, got 1\.5"),
        (("a", "one", 0.0, True), "column step of a toy table must be int64, got 'one'"),
        (("a", 1, "much", True), "column value of a toy table must be float64, got 'much'"),
        (
            ("a", None, 0.0, True),
            "column step of a toy table must have a value in every row, got 1",
        ),
        ((None, 1, 0.0, True), "column name of a toy table must have a value in every row, got 1"),
    ],
)
def test_a_wrong_cell_is_named_and_nothing_is_written(tmp_path, row, message):
    with pytest.raises(ValueError, match=message) as caught:
        write_table(TOY, [("z", 1, 0.0, True), row], tmp_path / "toy.csv", {})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_whole_floats_count_as_whole_numbers(tmp_path):
    rows = [("a", 2.0, 1, True), ("a", np.int64(3), np.float32(0.5), True)]
    write_table(TOY, rows, tmp_path / "toy.csv", {})
    assert read_table(TOY, tmp_path / "toy.csv")["step"].tolist() == [2, 3]


def test_a_key_stands_once(tmp_path):
    rows = [("a", 1, 0.0, True), ("b", 1, 0.0, True), ("a", 1, 1.0, True)]
    with pytest.raises(ValueError, match="each name, step must stand once, got a, 1 twice"):
        write_table(TOY, rows, tmp_path / "toy.csv", {})


def test_columns_of_another_version_are_named(tmp_path):
    (tmp_path / "toy.csv").write_text("name,step,amount\na,1,2\n")
    with pytest.raises(ValueError, match="got name, step, amount") as caught:
        read_table(TOY, tmp_path / "toy.csv")
    assert str(caught.value) == (
        f"{tmp_path / 'toy.csv'}: columns of a toy table must be name, step, value, good, "
        "got name, step, amount. Make the file again with this version."
    )


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a,b\n1,2,3\n4,5,6,7\n"])
def test_a_damaged_table_is_one_line(tmp_path, content):
    (tmp_path / "toy.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"toy\.csv: ") as caught:
        read_table(TOY, tmp_path / "toy.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_table_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"no\.csv: a history table must be here, got no file"):
        read_table(HISTORY, tmp_path / "no.csv")


def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "toy.csv"
    path.write_text("old")

    def interrupted():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_appears_only_at_the_end_and_makes_its_folder(tmp_path):
    path = tmp_path / "deep" / "er" / "model.safetensors"
    with atomic_path(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, path.suffix)
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_is_for_those_whom_new_files_are_for(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = tmp_path / "model.safetensors"
        with atomic_path(path) as temporary:
            save_file({"weights": torch.ones(1)}, temporary)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_disk_that_fills_up_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    write_json(path, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, 2)
    assert read_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"share": value})
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back_with_its_letters(tmp_path):
    value = {"name": "λ é", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert "λ é" in (tmp_path / "value.json").read_text(encoding="utf-8")


def test_unreadable_json_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no\.json: must exist, got no file"):
        read_json(tmp_path / "no.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"half\.json: must be JSON, got .*\. Make it again"):
        read_json(tmp_path / "half.json")


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"", b"[" * 100_000, b"1" * 5_000])
def test_any_other_file_that_is_no_json_is_one_line_that_names_it(tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S+bad\.json: must be JSON, got .*Make it again\.$"):
        read_json(tmp_path / "bad.json")


def test_every_declared_table_has_its_key_among_required_columns():
    tables = [value for value in vars(declared).values() if isinstance(value, Table)]
    assert {table.name for table in tables} >= {"history", "gsnr", "scores", "cells"}
    for table in tables:
        required = {column.name for column in table.columns if not column.optional}
        assert set(table.key) <= required
        assert all(column.meaning and column.unit for column in table.columns)
        json.dumps([column.dtype for column in table.columns])


def test_the_columns_that_others_read_are_these():
    assert HISTORY.names == ["epoch", "metric", "value"]
    assert SCORES.names == ["set", "group", "metric", "k", "items", "value"]
    counts = ["parameters", "dropped", "signal", "noise", "agreement"]
    assert GSNR.names == ["epoch", "block", "estimator", "gsnr", *counts]
    assert SCORES.key == ("set", "group", "metric", "k")
    assert HISTORY.key == ("epoch", "metric")
    assert MANIFEST.names == ["item", "split", "label", "name", "source"]
    assert CELLS.key == ("row_index", "column_index", "kind")
