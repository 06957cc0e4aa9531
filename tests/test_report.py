"""The page: every number from a file, everything escaped, nothing fetched from elsewhere."""

import base64
import html.parser
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rectify.records import CELLS, write_table
from rectify.report import job_times, page

ROOT = Path(__file__).resolve().parents[1]
SOURCE = {
    "commit": "0123456789ab",
    "device": "a <device>",
    "platform": "Linux x86_64",
    "versions": {"numpy": "2.0"},
    "facts": {
        "row": ["zeta", "alpha & <b>"],
        "column": ["Set: acc@1", "Set: GSNR"],
        "seeds": [0, 1],
    },
}
ROWS = [
    ("zeta", "Set: acc@1", "%", 63.456, 0.314, 2, 71.62, -8.164, "ViT-S", "CIFAR-100: acc@1"),
    ("zeta", "Set: GSNR", "1e-2", 2.5, 0.1, 2, 0.00128, 2.49872, "ViT-S", "CIFAR-100: GSNR"),
    ("alpha & <b>", "Set: acc@1", "%", 64.0, math.nan, 1, math.nan, math.nan, "-", "-"),
]


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
def inputs(tmp_path: Path) -> dict:
    """Return the arguments of a page with one table, one figure and three jobs."""
    write_table(CELLS, ROWS, tmp_path / "table5.csv", SOURCE)
    write_table(CELLS, ROWS, tmp_path / "figure2.csv", SOURCE)
    for name in ("figure2", "table5"):
        figure = Figure(figsize=(1, 1))
        figure.savefig(tmp_path / f"{name}.png")
    for name in ("table5", "figure2"):
        text = f"The caption of {name}.\nIts second line: a < b.\n"
        (tmp_path / f"{name}.rst").write_text(text)
    (tmp_path / "demo.yaml").write_text("title: <script>alert(1)</script>\n")
    for job, seconds, memory in (("train/a", 1.5, "100"), ("train/b", 2.5, "-"), ("table", 1, "7")):
        file = tmp_path / "benchmarks" / f"{job}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t{memory}\n")
    return {
        "title": "Demo & <more>",
        "tables": [tmp_path / "table5.csv"],
        "figures": [tmp_path / "figure2.png", tmp_path / "table5.png"],
        "captions": tmp_path,
        "benchmarks": tmp_path / "benchmarks",
        "configs": [tmp_path / "demo.yaml"],
    }


def test_the_page_has_a_section_and_a_link_for_each_part(inputs):
    parts = Parts(page(**inputs))
    anchors = [attributes["id"] for tag, attributes in parts.tags if tag == "section"]
    links = [attributes["href"] for tag, attributes in parts.tags if tag == "a"]
    assert anchors == ["table5", "figure2", "times", "configuration"]
    assert links == [f"#{anchor}" for anchor in anchors]
    assert [word for word in parts.words if word in ("Table 5", "Figure 2")] == [
        "Table 5",
        "Figure 2",
    ] * 2


def test_a_cell_shows_ours_the_paper_s_and_the_difference(inputs):
    words = Parts(page(**inputs)).words
    start = words.index("63.46 ± 0.31")
    assert [w for w in words[start : start + 6] if w][:3] == [
        "63.46 ± 0.31",
        "paper 71.62",
        "Δ -8.16",
    ]
    assert words.index("(×10⁻²)") == words.index("GSNR") + 2  # each word is kept whole
    assert "paper 0.0013" in words
    assert "64.00" in words  # one seed, no deviation, nothing printed by the paper
    assert words.index("zeta") < words.index("alpha & <b>")  # the table's order, not the file's


def test_the_page_says_whose_numbers_are_whose(inputs):
    text = " ".join(Parts(page(**inputs)).words)
    assert "measured by its authors on their own data sets" in text
    assert "n = 1 to 2 seeds" in text


def test_everything_from_outside_is_escaped(inputs):
    text = page(**inputs)
    assert "<script" not in text
    assert "<more>" not in text
    assert "a <device>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "Its second line: a &lt; b." in text


def test_pictures_are_inside_the_page_and_nothing_is_fetched(inputs):
    text = page(**inputs)
    images = [attributes for tag, attributes in Parts(text).tags if tag == "img"]
    coded = [image["src"].removeprefix("data:image/png;base64,") for image in images]
    assert base64.b64decode(coded[0]) == inputs["figures"][1].read_bytes()  # heat map, in table 5
    assert base64.b64decode(coded[1]) == inputs["figures"][0].read_bytes()
    assert [image["alt"] for image in images] == [
        "Table 5 as a heat map",
        "The caption of figure2.",
    ]
    assert "http" not in text
    assert "url(" not in text


def test_provenance_is_shown_for_each_result(inputs):
    words = Parts(page(**inputs)).words
    assert words.count("Where this comes from") == 2
    assert words.count("0123456789ab") == 2
    assert "a <device>" in words
    assert "numpy 2.0" in words
    assert "0, 1" in words


def test_job_times_are_summed_by_rule(inputs):
    times = job_times(inputs["benchmarks"]).set_index("rule")
    assert list(times.index) == ["train", "table"]
    assert times.loc["train"].tolist() == [2, 4.0, 2.5]
    assert times.loc["table"].tolist() == [1, 1.0, 1.0]


def test_a_page_without_benchmarks_is_still_a_page(inputs, tmp_path):
    text = page(**{**inputs, "benchmarks": tmp_path / "none"})
    assert "0 jobs, 0 s in all" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("figure2.png", "Make the figure first"), ("table5.rst", "must hold the caption of table5"),
     ("demo.yaml", "Name the configuration"), ("table5.csv", "Ask snakemake"),
     ("figure2.csv.json", "must exist, got no file")],
)  # fmt: skip
def test_a_missing_file_is_named_in_one_line(inputs, tmp_path, name, message):
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=message) as error:
        page(**inputs)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_every_table_and_figure_has_a_caption_of_one_plain_paragraph():
    names = [*(f"table{n}" for n in range(1, 7)), *(f"figure{n}" for n in range(2, 6))]
    for name in names:
        text = (ROOT / "workflow" / "report" / f"{name}.rst").read_text(encoding="utf-8")
        assert "{{" not in text
        assert "\n\n" not in text.strip()
        assert 60 < len(text) < 600
