"""The three commands on a made-up results tree: their files, their errors, the same bytes twice."""

import json
from pathlib import Path

import pytest

from rectify import targets
from rectify.__main__ import run
from rectify.results.tables import read_note
from tests.helpers import printed, synthetic


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


def settings(kind: str, estimator: str = "plain", **keys: object) -> list[str]:
    asked = {
        "kind": kind,
        "settings": keys or {"reads": "any"},
        "estimator": estimator,
    }
    return ["--settings", json.dumps(asked)]


def made(command: str, name: str, output: Path, *arguments: str, kind: str | None = None) -> int:
    """Run a command for a target, and return its exit status."""
    target = [command, "--target", name, *settings(kind or name), *arguments]
    return run([*target, "--output", str(output / name)])


@pytest.mark.slow
def test_a_table_is_written_as_csv_markdown_and_latex(demo: synthetic.Made, tmp_path: Path) -> None:
    chosen = runs(demo, "insert_llama")
    assert made("table", "mine", tmp_path / "t", *chosen, kind="table3") == 0
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names == ["mine.csv", "mine.csv.json", "mine.md", "mine.tex"]
    facts = read_note(tmp_path / "t" / "mine.csv")["provenance"]["facts"]
    shown = {"estimator": "plain", "report": "last", "note": None}
    behind = {"runs": [Path(word).name for word in chosen[1:-3]], "devices": ["cpu"]}
    assert facts == {"kind": "table3", "target": "mine", "seeds": [0, 1], **shown, **behind}


@pytest.mark.slow
def test_paper_off_hides_the_papers_numbers_everywhere(tmp_path: Path) -> None:
    made_up = synthetic.collected(tmp_path / "runs", printed.grid())
    chosen = ["--runs", *map(str, made_up.folders), "--seeds", *map(str, made_up.seeds)]
    texts = {}
    for paper in (True, False):
        asked = {"kind": "table3", "settings": {"reads": "any"}, "paper": paper}
        output = tmp_path / f"{paper}" / "table3"
        words = ["table", "--target", "table3", "--settings", json.dumps(asked), *chosen]
        assert run([*words, "--output", f"{output}"]) == 0
        page = tmp_path / f"{paper}.html"
        words = ["report", "--title", "T", "--targets", "table3", "--tables", f"{output}.csv"]
        assert run([*words, "--benchmarks", f"{tmp_path}", "--output", f"{page}"]) == 0
        files = [page, *(Path(f"{output}.{suffix}") for suffix in ("md", "tex", "csv"))]
        texts[paper] = [file.read_text() for file in files]
    number = printed.numbers("table3", "End")[-1]
    marks = ['<small class="paper"', "*paper ", r"\textit{paper}", f"{number:.9g},0"]
    for mark, shown, hidden in zip(marks, texts[True], texts[False], strict=True):
        assert mark in shown
        assert mark not in hidden
    assert "Numbers marked" in texts[True][0]
    assert "Numbers marked" not in texts[False][0]


@pytest.mark.slow
def test_a_dot_in_the_output_s_name_stays(demo: synthetic.Made, tmp_path: Path) -> None:
    chosen = [*settings("table3"), *runs(demo, "insert_llama")]
    output = ["--output", str(tmp_path / "v1.2")]
    assert run(["table", "--target", "table3", *chosen, *output]) == 0
    assert (tmp_path / "v1.2.md").is_file()


@pytest.mark.slow
def test_table_1_needs_no_runs_and_table_4_takes_an_estimator(
    demo: synthetic.Made, tmp_path: Path
) -> None:
    models = settings("table1", visions=["vit-s"], languages=["llama-xl"])
    similar = [*models, *similarity(demo), "--seeds", "0", "1", "--output", str(tmp_path / "one")]
    assert run(["table", "--target", "table1", *similar]) == 0
    pairs = [
        f"{folder}" for folder in demo.runs
        if "vit-t" not in folder.name and folder.name.endswith(("vanilla", "lambda-0.35"))
        and folder.name.startswith(("glyphs", "motions"))
    ]  # fmt: skip
    four = [*settings("table4", "debiased"), "--runs", *pairs, "--seeds", "0", "1"]
    assert run(["table", "--target", "table4", *four, "--output", str(tmp_path / "four")]) == 0
    assert read_note(tmp_path / "four.csv")["provenance"]["facts"]["estimator"] == "debiased"


@pytest.mark.slow
def test_a_figure_is_written_twice_with_the_same_bytes(
    demo: synthetic.Made, tmp_path: Path
) -> None:
    name, contents = "figure3", []
    for attempt in ("first", "second"):
        chosen = runs(demo, "insert_llama", "layer-7_")
        assert made("figure", name, tmp_path / attempt, *chosen) == 0
        files = sorted((tmp_path / attempt).iterdir())
        assert [f.name for f in files] == [
            f"{name}{end}" for end in (".csv", ".csv.json", ".pdf", ".png", ".svg")
        ]
        contents.append([f.read_bytes() for f in files])
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_figure_5_reads_runs_and_similarity(demo: synthetic.Made, tmp_path: Path) -> None:
    chosen = [*runs(demo, "insert_llama"), *similarity(demo)]
    assert made("figure", "mine-similarity", tmp_path, *chosen, kind="figure5") == 0
    assert (tmp_path / "mine-similarity.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("command", "request_", "message"),
    [
        ("table", {"kind": "figure4"}, "target mine: must be what figure4 shows, got 'table'"),
        ("figure", {"kind": "table4"}, "target mine: must be what table4 shows, got 'figure'"),
        ("table", {"kind": "tabel3"}, "target: must be a kind of target, got 'tabel3'"),
        ("table", {"kind": "table3", "settings": {"read": "x"}}, "got 'read' at targets.mine"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    command: str, request_: dict[str, object], message: str,
) -> None:  # fmt: skip
    text = json.dumps({"settings": {"reads": "x"}, **request_})
    asked = [command, "--target", "mine", "--settings", text, "--seeds", "0"]
    assert run([*asked, "--output", str(tmp_path / "mine")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_run_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--runs", str(tmp_path / "lost"), "--seeds", "0"]
    assert made("table", "table3", tmp_path, *chosen) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


REPORTED = ("insert_llama", "layer-7_")


@pytest.fixture(scope="module")
def results(demo: synthetic.Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table and its heat map, twice under different names."""
    folder = tmp_path_factory.mktemp("results")
    chosen = runs(demo, *REPORTED)
    for name, kind in (("table3", "table3"), ("mine", "grid")):
        assert made("table", name, folder / "tables", *chosen, kind=kind) == 0
        assert made("figure", name, folder / "figures", *chosen, kind=kind) == 0
    return folder


@pytest.mark.slow
def test_the_report_says_what_was_trained_and_by_which_command(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: synthetic.Made
) -> None:
    monkeypatch.setenv("RECTIFY_COMMAND", "snakemake --cores 2 all")
    output = tmp_path / "index.html"
    assert run([*report(results, "mine", "table3"), "--output", str(output)]) == 0
    text = output.read_text()
    models = len(runs(demo, *REPORTED)) - 4  # --runs, --seeds 0 1
    assert f"<dd>{2 * models} of {models} models, seeds 0, 1</dd>" in text
    assert "<dd>snakemake --cores 2 all</dd>" in text


def report(results: Path, *names: str, shown: tuple[str, ...] = ("table3", "mine")) -> list[str]:
    """Return the command that shows some targets of a results folder."""
    tables = [f"{results}/tables/{name}.csv" for name in shown]
    figures = [f"{results}/figures/{name}.png" for name in shown]
    files = ["--tables", *tables, "--figures", *figures, "--benchmarks", f"{results}"]
    return ["report", "--title", "Demo", "--targets", *names, *files]


def test_the_report_is_one_file_in_the_order_of_the_targets(results: Path, tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(json.dumps({"seeds": [0, 1]}))
    output = tmp_path / "report" / "index.html"
    more = ["--config", str(tmp_path / "demo.yaml"), "--output", str(output)]
    assert run([*report(results, "mine", "table3"), *more]) == 0
    assert {path.name for path in output.parent.iterdir()} == {"index.html", "index-runs"}
    assert not any((output.parent / "index-runs").iterdir())  # no run was given
    text = output.read_text()
    assert text.count('src="data:image/svg+xml;base64,') == 2
    headings = ["Runs of an experiment (mine)", "Table 3: position and layer"]
    assert 0 < text.index(headings[0]) < text.index(headings[1])
    assert '<a href="#mine">Mine</a>' in text
    assert '<a href="#table3">Table 3</a>' in text
    assert "before the first ViT block, in the middle" in text  # the caption of Table 3


def test_a_note_is_on_the_page_behind_its_caption(demo: synthetic.Made, tmp_path: Path) -> None:
    note = {"vision": "vit-s", "languages": "llama-xl", "note": "The ViT saw <these> pictures."}
    asked = [*settings("figure4", **note), *similarity(demo), "--seeds", "0", "1"]
    output = ["--output", str(tmp_path / "figures" / "figure4")]
    assert run(["figure", "--target", "figure4", *asked, *output]) == 0
    page = tmp_path / "index.html"
    words = ["--title", "T", "--targets", "figure4", "--benchmarks", str(tmp_path / "b")]
    figures = ["--figures", str(tmp_path / "figures" / "figure4.png"), "--output", str(page)]
    assert run(["report", *words, *figures]) == 0
    text = page.read_text(encoding="utf-8")
    assert f"{targets.caption('figure4')} The ViT saw &lt;these&gt; pictures.</p>" in text


@pytest.mark.parametrize(
    ("names", "shown", "message"),
    [
        (("table3",), ("table3", "mine"), "must belong to one of --targets, got mine"),
        (("table3", "mine"), ("table3",), "report: mine must have a file, got none"),
    ],
)
def test_files_and_targets_of_a_report_must_match(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...], shown: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    assert run([*report(results, *names, shown=shown), "--output", str(tmp_path / "x.html")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
