"""The report in a real browser: every picture is decoded, nothing fails, nothing is fetched."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rectify.__main__ import run
from rectify.results.declared import CELLS
from rectify.results.tables import read_table
from tests.helpers import synthetic

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
WATCH = """<script>
const seen = [];
addEventListener("error", event => seen.push(String(event.message || event.target.src)), true);
addEventListener("load", () => {
  const images = [...document.images].map(image => [image.naturalWidth, image.alt]);
  const fetched = performance.getEntriesByType("resource").map(entry => entry.name)
    .filter(name => !name.startsWith("data:"));
  const lost = [...document.querySelectorAll("nav a")].map(link => link.hash.slice(1))
    .filter(anchor => !document.getElementById(anchor));
  const links = [...document.querySelectorAll("a[download]")].map(link => [
    link.download, link.href.startsWith("data:"),
    !link.dataset.picture || link.href === link.closest("section").querySelector("img").src]);
  const tables = [...document.querySelectorAll("table")].map(table =>
    [...table.querySelectorAll("thead button")].map(button => [1, 2, 3].map(() => {
      button.click();
      return [button.parentElement.ariaSort,
        [...table.tBodies[0].rows].map(row => row.cells[0].textContent)];
    })));
  const copied = [];
  Object.defineProperty(navigator, "clipboard", {value: {
    writeText: async text => copied.push(text)}});
  document.querySelectorAll("button.copy").forEach(button => button.hidden || button.click());
  const wide = document.documentElement.scrollWidth > innerWidth;
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify({images, fetched, seen, lost, wide, links, copied, tables});
  document.body.append(probe);
});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """Return a browser's program; without one the tests are skipped, except on CI."""
    programs = [path for path in map(shutil.which, BROWSERS) if path]
    if not programs:
        reason = "needs chromium: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return programs[0]


@pytest.fixture(scope="module")
def made(demo: synthetic.Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a page with two tables, their heat maps and two figures."""
    root = tmp_path_factory.mktemp("page")
    chosen = [
        str(folder) for folder in demo.runs
        if folder.name.startswith(("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama"))
    ]  # fmt: skip
    runs = ["--runs", *chosen, "--seeds", "0", "1"]
    scores = ["--similarity", *(str(f) for f in demo.similarity if "llama-xl--vit-s" in f.name)]
    models = {"vision": "vit-s", "languages": ["llama-xl"]}
    targets = {"table3": {}, "figure4": models, "figure5": {}, "grid": {}}
    pictures, tables = [], []
    for name, keys in targets.items():
        asked = json.dumps({"kind": name, "settings": keys or {"reads": "any"}})
        command = ["--target", name, "--settings", asked, *runs, *scores]
        assert run(["figure", *command, "--output", str(root / "figures" / name)]) == 0
        pictures.append(f"{root}/figures/{name}.png")
        if name in ("table3", "grid"):
            assert run(["table", *command, "--output", str(root / "tables" / name)]) == 0
            tables.append(f"{root}/tables/{name}.csv")
    output = root / "index.html"
    files = ["--tables", *tables, "--figures", *pictures, "--benchmarks", str(root)]
    command = ["report", "--title", "Demo", "--targets", *targets, *files]
    assert run([*command, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    """Return the HTML of the page."""
    return made.read_text(encoding="utf-8")


def look(browser: str, text: str, folder: Path, width: int) -> tuple[dict, str]:
    """Open a page with the watching script, and return what it saw and what the browser logged."""
    watched = folder / "watched.html"
    watched.write_text(text.replace("<head>", f"<head>{WATCH}", 1), encoding="utf-8")
    flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    command = [browser, *flags, "--dump-dom", watched.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(probe.group(1))), done.stderr


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_opens_without_an_error_and_with_all_pictures(
    browser: str, page: str, tmp_path: Path, width: int
) -> None:
    seen, log = look(browser, page, tmp_path, width)
    assert [size > 0 for size, _ in seen["images"]] == [True] * 4
    assert all(alt for _, alt in seen["images"])
    assert (seen["seen"], seen["fetched"], seen["lost"]) == ([], [], [])
    assert not seen["wide"]  # a wide table scrolls in its own box
    assert "CONSOLE" not in log


def test_every_file_is_saved_from_the_page_and_latex_is_copied(
    browser: str, page: str, made: Path, tmp_path: Path
) -> None:
    seen, _ = look(browser, page, tmp_path, 1200)
    names = [f"{name}.{end}" for name in ("table3", "grid") for end in ("csv", "md", "tex")]
    pictures = [
        f"{name}.{end}"
        for name in ("table3", "figure4", "figure5", "grid")
        for end in ("csv", "pdf", "png")
    ]
    assert sorted(name for name, *_ in seen["links"]) == sorted([*names, *pictures])
    assert all(is_inside and is_shown for _, is_inside, is_shown in seen["links"])
    files = [made.parent / "tables" / f"{name}.tex" for name in ("table3", "grid")]
    assert seen["copied"] == [file.read_text(encoding="utf-8") for file in files]


@pytest.mark.parametrize(("place", "name"), [(0, "table3"), (1, "grid")])
def test_a_click_on_a_head_sorts_by_its_numbers(
    browser: str, page: str, made: Path, tmp_path: Path, place: int, name: str
) -> None:
    seen, _ = look(browser, page, tmp_path, 1200)
    cells = read_table(CELLS, made.parent / "tables" / f"{name}.csv")
    values = cells[cells["kind"] == "value"]
    before = list(dict.fromkeys(cells["row"]))
    columns = [of_column for _, of_column in values.groupby("column_index")]
    assert len(seen["tables"][place]) == len(columns) > 1
    for clicks, column in zip(seen["tables"][place], columns, strict=True):
        numbers = dict(zip(column["row"], column["mean"], strict=True))
        there = [row for row in before if row in numbers]
        without = [row for row in before if row not in numbers]
        rising = sorted(there, key=numbers.__getitem__)
        falling = sorted(there, key=lambda row: -numbers[row])
        assert clicks == [
            ["ascending", rising + without],
            ["descending", falling + without],
            [None, before],
        ]


def test_the_watch_finds_a_broken_picture_and_a_script_that_fails(
    browser: str, page: str, tmp_path: Path
) -> None:
    broken = page.replace("base64,iVBOR", "base64,AAAAA", 1)
    broken = broken.replace("</body>", "<script>nothing.here()</script></body>")
    seen, log = look(browser, broken, tmp_path, 1200)
    assert [size > 0 for size, _ in seen["images"]].count(False) == 1
    assert len(seen["seen"]) == 2
    assert "CONSOLE" in log
