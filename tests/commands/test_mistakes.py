"""Mistakes of every kind on the command line, in files and in configurations: one line, status 2.

``RECTIFY_MISTAKES=2000`` tries so many, half of them in configurations; the ordinary run fewer.
"""

import contextlib
import copy
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rectify.__main__ import COMMANDS, main
from rectify.experiment import grid
from rectify.experiment.run import Run
from tests.helpers.configs import DEMO, changed
from tests.helpers.records import labels

TRIES = int(os.environ.get("RECTIFY_MISTAKES", "120"))
HOW = settings(
    max_examples=TRIES // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = ("-1", "0", "1.5", "two", "", "1e3", str(10**30), "nan", "-inf", "٣")
JSONS = ("", "{", "[]", "null", "3", '"a"', "{}", '{"x": 1}', '{"name": 3}', "[" * 5000, "qwen3")
FILES = ("missing", "folder", "empty", "binary", "list", "broken", "other", "deep", "missing/below")
WORDS = ("", "nope", "../..", "a b", "é", "x" * 300, "--", "😀")

LINES: dict[str, dict[str, object]] = {
    "resolve": {"--settings": JSONS, "--output": FILES},
    "schema": {"--output": FILES},
    "prepare-data": {"--data": WORDS, "--settings": JSONS, "--folder": FILES, "--threads": NUMBERS},
    "prepare-masks": {
        "--data": WORDS, "--settings": JSONS, "--prepared": FILES, "--folder": FILES,
    },
    "convert-scans": {
        "--scans": FILES, "--labels": FILES, "--points": NUMBERS, "--seed": NUMBERS,
        "--output": FILES,
    },
    "pretrain": {"--language": WORDS, "--settings": JSONS, "--seed": NUMBERS, "--output": FILES},
    "extract-block": {"--checkpoint": FILES, "--layer": NUMBERS, "--output": FILES},
    "train": {
        "--config": FILES, "--data": FILES, "--block": FILES, "--seed": NUMBERS,
        "--threads": NUMBERS, "--states": FILES, "--output": FILES,
    },
    "evaluate": {
        "--config": FILES, "--evaluation": JSONS, "--model": FILES, "--data": FILES,
        "--seed": NUMBERS, "--threads": NUMBERS, "--output": FILES,
    },
    "export": {
        "--run": FILES, "--seed": NUMBERS, "--seeds": NUMBERS, "--data": FILES,
        "--licence": ("",), "--output": FILES,
    },
    "export-results": {
        "--results": FILES, "--title": WORDS, "--licence": ("",), "--output": FILES,
    },
    "filtering": {
        "--config": FILES, "--filtering": JSONS, "--model": FILES, "--data": FILES,
        "--masks": FILES, "--seed": NUMBERS, "--threads": NUMBERS, "--output": FILES,
    },
    "submit": {
        "--config": FILES, "--model": FILES, "--reader": WORDS, "--folder": FILES,
        "--data": FILES, "--reach": NUMBERS, "--seed": NUMBERS, "--threads": NUMBERS,
        "--output": FILES,
    },
    "language-features": {
        "--language": WORDS, "--checkpoint": FILES, "--pairs": FILES, "--batch-size": NUMBERS,
        "--procedure": JSONS, "--threads": NUMBERS, "--output": FILES,
    },
    "vision-features": {
        "--config": FILES, "--model": FILES, "--pairs": FILES, "--seed": NUMBERS,
        "--batch-size": NUMBERS, "--threads": NUMBERS, "--output": FILES,
    },
    "similarity": {
        "--language": FILES, "--vision": FILES, "--k": NUMBERS, "--quantile": NUMBERS,
        "--permutations": NUMBERS, "--threads": NUMBERS, "--output": FILES,
    },
    "select": {"--similarity": FILES, "--depth": NUMBERS, "--layers": NUMBERS, "--score": WORDS},
    "table": {
        "--target": WORDS, "--settings": JSONS, "--runs": FILES, "--similarity": FILES,
        "--costs": FILES, "--seeds": NUMBERS, "--output": FILES,
    },
    "figure": {
        "--target": WORDS, "--settings": JSONS, "--runs": FILES, "--similarity": FILES,
        "--data": FILES, "--seeds": NUMBERS, "--output": FILES,
    },
    "report": {
        "--title": WORDS, "--targets": WORDS, "--tables": FILES, "--figures": FILES,
        "--benchmarks": FILES, "--config": FILES, "--output": FILES,
    },
    "cost": {
        "--vision": WORDS, "--language": WORDS, "--position": WORDS, "--image-size": NUMBERS,
        "--classes": NUMBERS, "--settings": JSONS, "--checkpoint": FILES,
    },
    "doctor": {"--config": FILES, "--profile": FILES},
    "speeds": {"--config": FILES, "--threads": NUMBERS},
    "plan": {"--config": FILES, "--speed": FILES, "--card": WORDS},
    "status": {"--config": FILES},
    "fetch": {"--hub": ("none",), "--kind": WORDS, "--revision": WORDS, "--folder": FILES},
    "warm": {"snakemake --configfile": FILES},
}  # fmt: skip
GOOD = {  # what is right, so that a line gets as far as its mistake
    "--seed": "0", "--threads": "1", "--batch-size": "2", "--k": "2", "--quantile": "0.9",
    "--permutations": "20", "--layer": "0", "--language": "language.safetensors", "--seeds": "0",
    "--kind": "model", "--config": "run.json", "--data": "folder", "--pairs": "folder",
    "--settings": "{}", "--target": "table3", "--title": "T", "--benchmarks": "folder",
    "--vision": "vision.safetensors", "--checkpoint": "checkpoint", "--prepared": "folder",
    "--reader": "argoverse1", "--reach": "50",
    "--depth": "4", "--layers": "0", "--score": "cka", "--states": "states", "--masks": "folder",
}  # fmt: skip
WRITTEN = ("--output", "--folder")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of every wrong kind, and the settings of a run."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "list").write_text("[1]")
    (folder / "broken").write_text("a: [\nb: 'c")
    (folder / "other").write_text('{"a": {"b": 1}}')
    (folder / "deep").write_text("[" * 1_200)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "config.json").write_text('{"model_type": "mamba"}')
    run = grid.run_settings(grid.read(DEMO), Run("digits", "vit-64"))
    (folder / "run.json").write_text(run.model_dump_json())
    return folder


@pytest.fixture(autouse=True)
def undisturbed(files: Path, monkeypatch: pytest.MonkeyPatch, restored_runtime: None) -> None:
    """Run in the folder of the files."""
    for name in ("RECTIFY_WARM", "RECTIFY_TRACEBACK", "RECTIFY_JOB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(files)


def told(words: Sequence[str]) -> tuple[int, str]:
    """Return the exit status of a command line, and what it says on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(list(words))
        except SystemExit as end:
            status = end.code
    logging.getLogger().handlers[:] = []
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("rectify.")]
    return status, "\n".join(lines)


def check_one_line(words: Sequence[str]) -> None:
    """Check that a command line with a mistake ends in one line and status 2."""
    status, line = told(words)
    assert status == 2, (words, status, line)
    assert line.strip(), words
    assert "\n" not in line, (words, line)
    assert "Traceback" not in line


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Give a command line in which one option or more is wrong, missing or misspelt."""
    command = draw(st.sampled_from(sorted(set(LINES) - {"schema", "fetch", "warm"})))
    options = LINES[command]
    wrong = draw(st.sets(st.sampled_from(sorted(options)), min_size=1, max_size=3))
    words = [command]
    for option, values in options.items():
        if option in wrong:
            value = draw(st.sampled_from(values))
        else:
            value = (
                f"new/made{_ending(command)}" if option in WRITTEN else GOOD.get(option, "folder")
            )
        words += [option, value]
    kind = draw(st.sampled_from(["value", "value", "value", "missing", "misspelt", "surplus"]))
    place = 1 + 2 * draw(st.integers(0, len(options) - 1))
    if kind == "missing":
        del words[place : place + 2]
    elif kind == "misspelt":
        words[place] = f"{words[place][:-1]}q"
    elif kind == "surplus":
        words.append(draw(st.sampled_from(["surplus", "--nope", "-x", "--seed"])))
    return words


def _ending(command: str) -> str:
    endings = {"evaluate": ".csv", "filtering": ".csv", "similarity": ".csv"}
    of_tensors = dict.fromkeys(
        ("extract-block", "language-features", "vision-features"), ".safetensors"
    )
    return {**endings, **of_tensors}.get(command, "")


def test_every_command_is_tried() -> None:
    assert set(LINES) == set(COMMANDS)


@HOW
@given(command_lines())
def test_a_wrong_command_line_is_one_line(words: list[str]) -> None:
    check_one_line(words)


@pytest.mark.parametrize("name", FILES[:-1])
@pytest.mark.parametrize(
    "command", ["status", "doctor", "plan", "prepare-data --check --data digits"]
)
def test_a_file_that_is_no_configuration_is_named(command: str, name: str, files: Path) -> None:
    status, line = told([*command.split(), "--config", name])
    assert status == 2
    assert name in line or line.startswith("config: ")  # a mapping with other keys
    assert "\n" not in line


def test_a_mistake_in_a_file_names_its_line(files: Path) -> None:
    (files / "mine.yaml").write_text("results: r\nseeds: [0\nthreads: 1\n")
    status, line = told(["status", "--config", "mine.yaml"])
    assert (status, line.partition(": ")[0]) == (2, "mine.yaml:3")


@pytest.mark.parametrize("name", ["missing", "table3", "broken", "binary"])
def test_snakemakes_configuration_is_looked_at_before_it_starts(name: str) -> None:
    status, line = told(["warm", "snakemake", "--cores", "1", "--configfile", name])
    assert status == 2
    assert name in line
    assert "\n" not in line


def test_an_option_that_is_no_configuration_reaches_snakemake() -> None:
    status, line = told(["warm", "true", "--configfile", "missing"])
    assert (status, line) == (0, "")


@pytest.mark.parametrize("command", ["train", "evaluate", "vision-features"])
@pytest.mark.parametrize("key", ["vision", "recipe", "recipe.epochs", "gsnr", "run", "data"])
@pytest.mark.parametrize("value", [None, "two", [], {}, -1])
def test_settings_of_a_run_with_a_wrong_value_are_one_line(
    command: str, key: str, value: object, files: Path
) -> None:
    content = json.loads((files / "run.json").read_text())
    (files / "wrong.json").write_text(json.dumps(changed(content, key, value)))
    words = [command, "--config", "wrong.json", "--seed", "0", "--threads", "1"]
    more = {
        "train": ["--data", "folder", "--states", "states", "--output", "new/made"],
        "evaluate": ["--data", "folder", "--model", "missing", "--output", "new/made.csv"],
        "vision-features": [
            *("--pairs", "folder", "--batch-size", "2", "--model", "missing"),
            *("--output", "new/made.safetensors"),
        ],
    }
    check_one_line([*words, *more[command]])


@pytest.mark.parametrize("key", ["data", "vision", "estimator"])
def test_incomplete_labels_are_one_line(key: str) -> None:
    record = labels("digits_vit-64_vanilla")
    del record[key]
    check_one_line(["resolve", "--labels", "--settings", json.dumps(record), "--output", "x"])


@pytest.mark.parametrize(
    "words",
    [
        ["--pairs", "folder"],
        ["--pairs", "folder", "--config", "run.json"],
        ["--pairs", "folder", "--config", "run.json", "--model", "m", "--pretrained", "{}"],
        ["--pairs", "folder", "--pretrained", "{}"],
    ],
)
def test_a_vision_transformer_must_be_named_in_one_way(words: list[str]) -> None:
    common = ["--seed", "0", "--batch-size", "2", "--threads", "1", "--output", "x.safetensors"]
    check_one_line(["vision-features", *words, *common])


def places(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the path of every value in a configuration, but those below a free mapping."""
    for key, child in value.items() if isinstance(value, dict) else ():
        if key not in ("overrides", "lr_factors"):
            yield (*path, key)
            yield from places(child, (*path, key))


PLACES = sorted(places(DEMO))
NAMED = {*grid.NAMED}
HUGE = (-1, -(10**30), 10**400, 1e308, float("inf"), float("nan"), 0)
TYPES = (None, True, "text", "", [], {}, {"x": 1}, [[]], {3: 4}, *HUGE)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[dict, bool]:
    """Give a configuration with a mistake, and whether it must be refused."""
    content = copy.deepcopy(DEMO)
    path = draw(st.sampled_from(PLACES))
    node = content
    for key in path[:-1]:
        node = node[key]
    kind = draw(st.sampled_from(["type", "misspelt", "missing"]))
    if kind == "type":
        node[path[-1]] = draw(st.sampled_from(TYPES))
        return content, False
    value = node.pop(path[-1])
    is_name = len(path) == 2 and path[0] in NAMED
    if kind == "misspelt":
        node[f"{path[-1]}q"] = value
    return content, kind == "misspelt" and not is_name


@HOW
@given(configurations())
@pytest.mark.slow
def test_a_mistake_in_a_configuration_is_one_line(made: tuple[dict, bool]) -> None:
    content, is_refused = made
    try:
        grid.read(content)
    except ValueError as error:
        line = f"{error}"
        assert line.startswith("config: ")
        assert "\n" not in line, line
    else:
        assert not is_refused
