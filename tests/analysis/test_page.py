"""The page: every number from a file, everything escaped, nothing fetched from elsewhere."""

import base64
import html.parser
import json
import math
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rectify.analysis.charts import library
from rectify.analysis.findings import Finding
from rectify.analysis.page import Entry, page
from rectify.analysis.runs import Runs
from rectify.results.declared import CELLS
from rectify.results.tables import write_table
from tests.helpers import synthetic

SOURCE = {
    "commit": "0123456789ab",
    "device": "a <device>",
    "platform": "Linux x86_64",
    "versions": {"numpy": "2.0"},
    "facts": {"seeds": [0, 1]},
}
FIGURE_ENDS = ("csv", "pdf", "png", "svg")
HEAD = (0, 0, "zeta", "Set", "acc@1", "value", "%", 1.0)
NONE = (math.nan, math.nan)  # no interval
ROWS = [
    (1, 0, "alpha & <b>", "Set", "acc@1", "value", "%", 1.0, 64.0, math.nan, *NONE, 1, "-",
     math.nan, math.nan, "-", "-", "-"),
    (*HEAD, 63.456, 0.314, *NONE, 2, "-", 71.62, -8.164, "ViT-S", "CIFAR-100: acc@1", "-"),
    (0, 0, "zeta", "Set", "acc@1", "gain", "points", 1.0, -1.5, 0.2, *NONE, 2, "-", 0.5, -2.0,
     "ViT-S", "-", "-"),
    (0, 1, "zeta", "Set", "GSNR", "value", "1", 1e-2, 2.5, 0.1, *NONE, 2, "-", 0.00128, 2.49872,
     "ViT-S", "CIFAR-100: GSNR", "-"),
]  # fmt: skip


class Parts(html.parser.HTMLParser):
    """Collects the tags and the visible words of a page, and checks that tags are closed."""

    EMPTY = ("meta", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, object]:
    """Return the arguments of a page with one table, one figure and three jobs."""
    write_table(CELLS, ROWS, tmp_path / "table5.csv", SOURCE)
    write_table(CELLS, ROWS, tmp_path / "figure2.csv", SOURCE)
    for name in ("figure2", "table5"):
        for suffix in ("png", "pdf", "svg"):
            Figure(figsize=(1, 1)).savefig(tmp_path / f"{name}.{suffix}")
    for suffix in ("md", "tex"):
        (tmp_path / f"table5.{suffix}").write_text(f"α & {suffix}", encoding="utf-8")
    (tmp_path / "demo.yaml").write_text("title: <script>alert(1)</script>\n")
    for job, seconds, memory in (("train/a", 1.5, "100"), ("train/b", 2.5, "-"), ("table", 1, "7")):
        file = tmp_path / "benchmarks" / f"{job}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t{memory}\n")
    entries = [
        Entry(
            "mine", "mine", "Table 5: mine & yours", "The caption. Its second part: a < b.",
            tmp_path / "table5.csv", tmp_path / "table5.png",
        ),
        Entry("figure2", "Figure 2", "Figure 2: GSNR", "Lines.", None, tmp_path / "figure2.png"),
    ]  # fmt: skip
    return {
        "title": "Demo & <more>",
        "entries": entries,
        "benchmarks": tmp_path / "benchmarks",
        "configs": [tmp_path / "demo.yaml"],
    }


def test_the_page_has_a_section_and_a_link_for_each_part_in_the_given_order(
    inputs: dict[str, object],
) -> None:
    parts = Parts(page(**inputs))
    anchors = [attributes["id"] for tag, attributes in parts.tags if tag == "section"]
    linked = [attributes for tag, attributes in parts.tags if tag == "a"]
    links = [a["href"] for a in linked if not {"download", "class"} & a.keys()]
    assert anchors == ["mine", "figure2", "times", "configuration"]
    assert links == [f"#{anchor}" for anchor in anchors]
    assert parts.words.index("Table 5: mine & yours") < parts.words.index("Figure 2: GSNR")
    turned = Parts(page(**{**inputs, "entries": inputs["entries"][::-1]}))
    assert turned.words.index("Figure 2: GSNR") < turned.words.index("Table 5: mine & yours")


def test_the_page_opens_with_what_was_found_of_each_claim(inputs: dict[str, object]) -> None:
    first, second = inputs["entries"]
    found = Finding("A layer helps", "1 of 2 gain & p < 0.05.")
    entries = [first, second._replace(findings=(found,))]
    parts = Parts(page(**{**inputs, "entries": entries}))
    anchors = [attributes["id"] for tag, attributes in parts.tags if tag == "section"]
    assert anchors == ["summary", "mine", "figure2", "times", "configuration"]
    start = parts.words.index("A layer helps.")
    assert parts.words[start + 1] == "1 of 2 gain & p < 0.05."
    assert parts.words[start + 2] == "Figure 2"
    assert start < parts.words.index("Table 5: mine & yours")


def test_the_first_screen_has_one_claim_of_each_leading_kind(inputs: dict[str, object]) -> None:
    first, second = inputs["entries"]
    accuracy, other = Finding("A layer helps", "0 of 9."), Finding("Any layer helps", "1 of 9.")
    alike = Finding("Layers are alike", "0.06 against 0.04.")
    entries = [
        first._replace(kind="table3", findings=(accuracy, other)),
        second._replace(kind="untrained", findings=(alike,)),
    ]
    words = Parts(page(**{**inputs, "entries": entries})).words
    places = [place for place, word in enumerate(words) if word == "Layers are alike."]
    assert places[0] < words.index("A layer helps.") < words.index("All 3 claims")
    assert words.index("All 3 claims") < words.index("Any layer helps.") < places[1]
    every = [first._replace(kind="table3", findings=(accuracy,))]  # nothing is said twice
    words = Parts(page(**{**inputs, "entries": every})).words
    assert words.count("A layer helps.") == 1


def test_credits_are_at_the_foot(inputs: dict[str, object]) -> None:
    words = Parts(page(**inputs, credits=["Emoji: A & B, CC BY-SA 4.0."])).words
    assert words.index("Emoji: A & B, CC BY-SA 4.0.") > words.index("Lines.")


def test_a_cell_shows_ours_the_paper_s_and_the_difference_with_their_gains(
    inputs: dict[str, object],
) -> None:
    words = Parts(page(**inputs)).words
    start = words.index("63.46 ± 0.31")
    shown = ["63.46 ± 0.31", "(", "-1.50 ± 0.20)", "paper 71.62 (+0.50)", "Δ -8.16 (-2.00)"]
    assert [word for word in words[start : start + 10] if word][:5] == shown
    assert words.index("(×10⁻²)") == words.index("GSNR") + 2  # each word is kept in one piece
    assert "paper 0.0013" in words
    assert "Δ +2.50" in words
    assert "64.00" in words  # one seed, no deviation, nothing printed by the paper
    assert words.index("zeta") < words.index("alpha & <b>")  # the table's order


def test_the_page_says_whose_numbers_are_whose(inputs: dict[str, object]) -> None:
    text = " ".join(Parts(page(**inputs)).words)
    assert "only where a paper has a number for the same model on the same data" in text
    assert "n = 1 to 2 seeds" in text


def test_everything_from_outside_is_escaped(inputs: dict[str, object]) -> None:
    text = page(**inputs)
    assert text.count("<script") == 1  # the page's own
    assert "<more>" not in text
    assert "a <device>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "Its second part: a &lt; b." in text


def test_pictures_are_inside_the_page_and_nothing_is_fetched(inputs: dict[str, object]) -> None:
    text = page(**inputs)
    images = [attributes for tag, attributes in Parts(text).tags if tag == "img"]
    coded = [image["src"].removeprefix("data:image/svg+xml;base64,") for image in images]
    pictures = [entry.picture.with_suffix(".svg").read_bytes() for entry in inputs["entries"]]
    assert [base64.b64decode(code) for code in coded] == pictures
    assert [image["alt"] for image in images] == ["The caption.", "Lines."]
    assert [image["width"] for image in images] == ["140", "140"]  # of an inch
    assert "http" not in re.sub(r'"data:[^"]*"', "", text)
    assert "url(" not in text


def test_files_are_inside_the_page_under_their_names(
    inputs: dict[str, object], tmp_path: Path
) -> None:
    parts = Parts(page(**inputs, folder=tmp_path / "report"))
    links = [a for tag, a in parts.tags if tag == "a" and "download" in a]
    ends = {"table5": ("csv", "md", "tex", *FIGURE_ENDS), "figure2": FIGURE_ENDS}
    names = [f"{name}.{end}" for name, of_one in ends.items() for end in of_one]
    assert [a["download"] for a in links] == names
    for link in links:
        name, address = link["download"], link["href"]
        if name.endswith(".svg"):  # shown above; the page's script puts it into the link
            assert (address, link["data-picture"] in ("mine", "figure2")) == (f"../{name}", True)
        else:
            coded = address.partition(";base64,")[2]
            assert base64.b64decode(coded) == (tmp_path / name).read_bytes()


def test_the_first_screen_says_what_was_run_before_any_claim(inputs: dict[str, object]) -> None:
    words = Parts(page(**inputs, command="snakemake <all>")).words
    places = [words.index(word) for word in ("Machine", "Time", "Command", "snakemake <all>")]
    assert places == sorted(places)
    assert places[-1] < words.index("Table 5: mine & yours")
    assert "Command" not in Parts(page(**inputs)).words


def test_cells_have_what_they_are_sorted_by_and_no_button_needs_a_script(
    inputs: dict[str, object],
) -> None:
    tags = Parts(page(**inputs)).tags
    cells = [attributes.get("data-value") for tag, attributes in tags if tag == "td"]
    numbers = [None if text is None else float(text) for text in cells]
    corners, times = [None, None], [2, 4.0, 2.5, 1, 1.0, 1.0]
    assert numbers == [*corners, 63.456, 2.5, 64.0, None, None, *times]  # rules by their time
    assert all("hidden" in attributes for tag, attributes in tags if tag == "button")


def test_provenance_is_shown_for_each_result(inputs: dict[str, object]) -> None:
    words = Parts(page(**inputs)).words
    assert words.count("Where this comes from") == 2
    assert words.count("0123456789ab") == 3  # and on the first screen
    assert "a <device>" in words
    assert "numpy 2.0" in words
    assert "0, 1" in words


def test_a_page_without_benchmarks_is_still_a_page(
    inputs: dict[str, object], tmp_path: Path
) -> None:
    text = page(**{**inputs, "benchmarks": tmp_path / "none"})
    assert "0 jobs, 0 s in all" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("figure2.png", "Make the table or figure first"), ("figure2.svg", "must exist, got no file"),
     ("demo.yaml", "Name the configuration"),
     ("table5.csv", "must exist, got no file"), ("figure2.csv.json", "must exist, got no file")],
)  # fmt: skip
def test_a_missing_file_is_named_in_one_line(
    inputs: dict[str, object], tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=message) as error:
        page(**inputs)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_and_figures_lead_to_the_pages_of_their_runs(
    inputs: dict[str, object], tmp_path: Path
) -> None:
    accuracy = {"accuracy": lambda seed, test: 0.5, "gsnr": lambda *place: 0.1}
    run = synthetic.Run(synthetic.Model("a", "A", 1), synthetic.VITS["ViT-S"], **accuracy)
    folder = synthetic.write_run(tmp_path, run, [0])
    rows = [(*row[:-1], folder.name if row[5] == "value" else "-") for row in ROWS]
    source = {**SOURCE, "facts": {"seeds": [0], "runs": [folder.name, "of another page"]}}
    for name in ("table5", "figure2"):
        write_table(CELLS, rows, tmp_path / f"{name}.csv", source)
    runs = Runs([folder], [0], pages=tmp_path / "report" / "index-runs")
    parts = Parts(page(**inputs, folder=tmp_path / "report", runs=runs))
    address = f"index-runs/{folder.name}.html"
    led = [attributes for tag, attributes in parts.tags if attributes.get("href") == address]
    classes = [link.get("class") for link in led]
    assert classes == [*["run"] * 3, None, None, None]  # below two entries, and in the list
    assert parts.words.count("Its 1 runs") == 2
    listed = parts.words[max(i for i, word in enumerate(parts.words) if word == "Runs") :]
    assert [word for word in listed if word][2:4] == ["A", "ViT-S"]
    assert "of another page" not in [a.get("title") for _, a in parts.tags]


@pytest.mark.slow
def test_a_chart_is_in_the_page_with_what_draws_it_and_its_picture(
    inputs: dict[str, object],
) -> None:
    first, second = inputs["entries"]
    spec = {"title": "a </script> & b", "data": {"values": "x\n1\n"}}
    text = page(**{**inputs, "entries": [first, second._replace(chart=spec)]})
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert json.loads(found) == spec
    assert text.count(library()) == 1
    assert [tag for tag, _ in Parts(text).tags].count("img") == 2
    assert library() not in page(**inputs)
