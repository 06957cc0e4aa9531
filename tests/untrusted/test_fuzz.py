"""Arbitrary input ends in a result or in one line, never in another exception."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rectify.experiment import grid as experiment
from rectify.experiment.run import Run
from rectify.results.declared import CELLS, HISTORY, MANIFEST
from rectify.results.tables import read_table
from rectify.tasks.image_classification.readers import bar
from rectify.tasks.pairs.readers import captions
from rectify.tasks.video_classification.readers import ssv2
from rectify.typed import merge
from tests.helpers.configs import DEMO as BASE

pytestmark = pytest.mark.slow  # many examples

ROOT = Path(__file__).resolve().parents[2]
FOLDER = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def outcome(work, *arguments):
    """Return what a call gives and None, or None and its one line."""
    try:
        return work(*arguments), None
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - any other outcome is fine too
        return None, str(error)


def places(value, path=()):
    """Give the path of every value in a nested configuration."""
    yield path
    children = value.items() if isinstance(value, dict) else []
    for key, child in children:
        yield from places(child, (*path, key))


PLACES = sorted((path for path in places(BASE) if path), key=str)


def replaced(path, value):
    """Return the configuration with another value in one place."""
    changed = copy.deepcopy(BASE)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
@example(("experiments", "grid", "layer"), [])
@example(("seeds",), [10**30])
@example(("training", "recipe"), [])
@example(("data", "motions", "task"), 3)
@example(("languages", "llama-xl"), None)
def test_a_wrong_value_anywhere_in_the_configuration_is_one_line(path, value):
    config = replaced(path, value)
    checked, line = outcome(experiment.read, config)
    if line is not None:
        assert line.startswith("config: ")
        return
    names = [run.name for run in experiment.all_runs(checked)]
    assert len(set(names)) == len(names)


@settings(deadline=None)
@given(st.sampled_from(PLACES))
def test_a_missing_key_anywhere_is_one_line(path):
    changed = replaced(path, None)
    node = changed
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    _, line = outcome(experiment.read, changed)
    assert line is None or line.startswith("config: ")


WORDS = "a vit-s vanilla insert insert-random auxiliary layer-3 layer--1 5 end lambda-0.35"
FIELD = st.sampled_from(WORDS.split())


@settings(deadline=None)
@given(st.text(max_size=40) | st.lists(FIELD, max_size=8).map("_".join))
def test_a_name_is_a_run_or_one_line(name):
    run, line = outcome(Run.parse, name)
    if line is not None:
        assert "a run must be named" in line
    else:
        assert run.name == name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-")  # safe as a file name


LEAVES = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
MAPPINGS = st.dictionaries(
    st.sampled_from("abc"),
    LEAVES | st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    max_size=3,
)


@given(MAPPINGS, MAPPINGS)
def test_merging_keeps_what_the_overlay_says(base, overlay):
    merged = merge(base, overlay)
    assert set(merged) == set(base) | set(overlay)
    assert json.dumps(merge(merged, overlay), default=str) == json.dumps(merged, default=str)
    for key in set(base) - set(overlay):
        assert merged[key] is base[key]


ROWS = st.lists(st.lists(st.sampled_from(["0", "1", "-1", "0.5", "", "nan", "x"]), max_size=12))


def csv_of(table, rows):
    return "\n".join([",".join(table.names), *(",".join(row) for row in rows)])


@pytest.mark.parametrize("table", [HISTORY, CELLS, MANIFEST], ids=lambda table: table.name)
@settings(**FOLDER)
@given(st.binary(max_size=200) | ROWS)
def test_any_bytes_are_a_table_or_one_line(tmp_path, table, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else csv_of(table, content).encode())
    frame, line = outcome(read_table, table, path)
    assert list(frame.columns) == table.names if line is None else line.startswith(str(path))


@settings(**FOLDER)
@given(st.text(max_size=80) | st.text(alphabet='a,."\n\r/', max_size=40))
def test_any_list_of_captions_is_a_manifest_or_one_line(tmp_path, content):
    (tmp_path / "captions.csv").write_text(content, encoding="utf-8")
    _, line = outcome(captions.read, tmp_path)
    assert line is None or str(tmp_path) in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def written(likely):
    """Return a strategy of a JSON file's bytes: any bytes, any value, or a likely one."""
    return st.binary(max_size=80) | (likely | JSON).map(lambda value: json.dumps(value).encode())


BAR = st.dictionaries(
    st.sampled_from(["run_train", "run_test"]) | st.text(max_size=8),
    st.fixed_dictionaries({"cls": st.just("run") | JSON, "train": st.booleans() | JSON}) | JSON,
    max_size=3,
)


@settings(**FOLDER)
@given(written(BAR))
@example(b'{"run_train": {"cls": "run", "train": true}, "run_test": {"cls": "run", "train": 0}}')
def test_any_metadata_of_bar_are_a_manifest_or_one_line(tmp_path, content):
    for split in ("train", "test"):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / f"run_{split}.jpg").touch()
    (tmp_path / "metadata.json").write_bytes(content)
    _, line = outcome(bar.read, tmp_path)
    assert line is None or line.startswith(f"{tmp_path}/metadata.json: ")


def read_ssv2(folder, **files):
    """Read three clips by these files, which must give a manifest or one line of the folder."""
    (folder / "videos").mkdir(exist_ok=True)
    for name in "abc":
        (folder / "videos" / f"{name}.mp4").touch()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    _, line = outcome(ssv2.read, folder)
    assert line is None or line.startswith(str(folder))


NUMBERS = written(
    st.dictionaries(st.sampled_from(["Up", "Down"]), st.sampled_from([0, 1, "0", "1"]) | JSON)
)
CLIPS = written(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.sampled_from("abc") | JSON, "template": st.sampled_from(["Up", "[Down]"])}
        ),
        max_size=3,
    )
)


@settings(**FOLDER)
@given(NUMBERS, CLIPS, CLIPS)
@example(b'{"Up": 0}', b'[{"id": "a", "template": "Up"}]', b'[{"id": "b", "template": "[Up]"}]')
def test_any_label_files_of_ssv2_are_a_manifest_or_one_line(tmp_path, labels, train, test):
    read_ssv2(tmp_path, labels_json=labels, train_json=train, validation_json=test)


ANYTHING = st.sampled_from(["videos/a.mp4", "videos/b.mp4"]) | st.text(max_size=8)
LINES = st.tuples(ANYTHING, st.integers(0, 2) | st.integers() | st.text(max_size=4))
LISTS = st.binary(max_size=80) | st.lists(LINES, max_size=3).map(
    lambda lines: "\n".join(f"{path} {label}" for path, label in lines).encode()
)


@settings(**FOLDER)
@given(LISTS, LISTS, NUMBERS)
@example(b"videos/a.mp4 0", b"videos/b.mp4 0", b'{"Up": 0}')
@example(b"videos/a.mp4 " + b"9" * 5_000, b"", b"{}")
def test_any_lists_of_ssv2_are_a_manifest_or_one_line(tmp_path, train, test, labels):
    read_ssv2(tmp_path, train_csv=train, val_csv=test, labels_json=labels)
