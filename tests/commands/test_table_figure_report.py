"""The three commands on a made-up results tree: their files, their errors, the same bytes twice."""

import json
import sys
from pathlib import Path

import pytest

from rectify.__main__ import run
from rectify.records import read_note

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
from tests.analysis import synthetic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> synthetic.Made:
    return synthetic.demo_results(tmp_path_factory.mktemp("demo"), seeds=(0, 1))


def runs(demo: synthetic.Made, *parts: str) -> list[str]:
    """Return the arguments that name small glyph runs, vanilla and those with all parts."""
    glyphs = [folder for folder in demo.runs if folder.name.startswith("glyphs_vit-s_")]
    chosen = [
        folder for folder in glyphs
        if "vanilla" in folder.name or all(part in folder.name for part in parts)
    ]  # fmt: skip
    return ["--runs", *map(str, chosen), "--seeds", "0", "1"]


def similarity(demo: synthetic.Made) -> list[str]:
    files = [f for f in demo.similarity if f.name.startswith("llama-xl--vit-s")]
    return ["--similarity", *map(str, files)]


def table3(demo: synthetic.Made, output: Path) -> list[str]:
    chosen = runs(demo, "insert", "llama")
    return ["table", "--table", "table3", *chosen, "--data", "glyphs", "--output", str(output)]


def test_a_table_is_written_as_csv_markdown_and_latex(demo, tmp_path):
    assert run(table3(demo, tmp_path / "t" / "table3")) == 0
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names == ["table3.csv", "table3.csv.json", "table3.md", "table3.tex"]
    facts = read_note(tmp_path / "t" / "table3.csv")["provenance"]["facts"]
    assert facts["row"] == ["Early", "Middle", "End"]
    assert facts["column"] == ["0", "2", "3", "5", "7"]
    assert (facts["seeds"], facts["data"]) == ([0, 1], ["glyphs"])


def test_a_dot_in_the_output_s_name_stays(demo, tmp_path):
    assert run(table3(demo, tmp_path / "v1.2")) == 0
    assert (tmp_path / "v1.2.md").is_file()


def test_table_1_needs_no_runs_and_table_4_takes_an_estimator(demo, tmp_path):
    one = ["--table", "table1", *similarity(demo), "--seeds", "0", "1"]
    assert run(["table", *one, "--output", str(tmp_path / "table1")]) == 0
    wanted = [f for f in demo.runs if "vit-s" in f.name or "vit-b" in f.name]
    pairs = [f"{f}" for f in wanted if f.name.endswith(("vanilla", "lambda-0.35"))]
    four = [
        "--table",
        "table4",
        "--runs",
        *pairs,
        "--seeds",
        "0",
        "1",
        "--data",
        "glyphs",
        "motions",
    ]
    output = tmp_path / "table4"
    assert run(["table", *four, "--estimator", "debiased", "--output", str(output)]) == 0
    assert read_note(tmp_path / "table4.csv")["provenance"]["facts"]["estimator"] == "debiased"


@pytest.mark.parametrize(
    ("name", "parts"),
    [("figure2", ("insert", "llama", "layer-7_end")), ("figure3", ("insert", "llama", "layer-7_")),
     ("figure4", ("nothing",)), ("figure5", ("insert", "llama")), ("table3", ("insert", "llama"))],
)  # fmt: skip
def test_a_figure_is_written_twice_with_the_same_bytes(demo, tmp_path, name, parts):
    contents = []
    for attempt in ("first", "second"):
        output = tmp_path / attempt / name
        chosen = [*runs(demo, *parts), *similarity(demo)]
        assert run(["figure", "--figure", name, *chosen, "--output", str(output)]) == 0
        files = sorted((tmp_path / attempt).iterdir())
        assert [f.name for f in files] == [
            f"{name}{end}" for end in (".csv", ".csv.json", ".pdf", ".png")
        ]
        contents.append([f.read_bytes() for f in files])
    assert contents[0] == contents[1]


def test_a_missing_run_is_one_line_and_leaves_nothing_behind(demo, tmp_path, capsys):
    chosen = ["--runs", str(tmp_path / "lost"), "--seeds", "0", "--data", "glyphs"]
    command = ["table", "--table", "table3", *chosen, "--output", str(tmp_path / "table3")]
    assert run(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [[], ["glyphs", "digits"]])
def test_the_number_of_data_sets_must_fit_the_table(demo, tmp_path, capsys, data):
    command = ["table", "--table", "table3", *runs(demo, "insert"), "--data", *data]
    assert run([*command, "--output", str(tmp_path / "table3")]) == 2
    expected = f"table3: --data must name 1 to 1 data sets, got {len(data)}."
    assert capsys.readouterr().err.startswith(expected)


def test_the_report_is_one_file(demo, tmp_path):
    assert run(table3(demo, tmp_path / "table3")) == 0
    figure = ["figure", "--figure", "table3", *runs(demo, "insert", "llama")]
    assert run([*figure, "--output", str(tmp_path / "figures" / "table3")]) == 0
    (tmp_path / "demo.yaml").write_text(json.dumps({"seeds": [0, 1]}))
    command = ["report", "--title", "Demo", "--tables", str(tmp_path / "table3.csv")]
    command += ["--figures", str(tmp_path / "figures" / "table3.png")]
    command += ["--captions", str(ROOT / "workflow" / "report")]
    command += ["--benchmarks", str(tmp_path), "--config", str(tmp_path / "demo.yaml")]
    assert run([*command, "--output", str(tmp_path / "report" / "index.html")]) == 0
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    assert "data:image/png;base64," in (tmp_path / "report" / "index.html").read_text()
