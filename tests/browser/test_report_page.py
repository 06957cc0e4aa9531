"""The report in a real browser: every picture is decoded, nothing fails, nothing is fetched."""

import html
import importlib.resources
import itertools
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
    "--virtual-time-budget=20000",
)
AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
AT_NIGHT = ("desktop, dark", "phone")
WATCH = """<script>
const seen = [];
// WCAG 2.2, relative luminance and contrast ratio
const parts = colour => colour.match(/[0-9.]+/g).map(Number);
const luminance = colour => {
  const [red, green, blue] = parts(colour).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const behind = element => {
  const colour = getComputedStyle(element).backgroundColor;
  return parts(colour)[3] === 0 ? behind(element.parentElement) : colour;
};
const contrast = element => {
  const both = [getComputedStyle(element).color, behind(element)].map(luminance);
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
};
const written = element => [...element.childNodes].some(
  node => node.nodeType === 3 && node.data.trim()) && element.checkVisibility();
addEventListener("error", event => seen.push(String(event.message || event.target.src)), true);
const later = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
const marks = (place, kind) =>
  [...place.querySelectorAll(`svg [aria-roledescription^="${kind}"][aria-label]`)];
const thick = place =>
  marks(place, "line mark").filter(line => parseFloat(getComputedStyle(line).strokeWidth)).length;
const looked = async place => {
  const [spot] = [...marks(place, "point"), ...marks(place, "rect mark")];
  const box = spot.getBoundingClientRect();
  const where = {bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
  for (const kind of ["pointerover", "pointermove"])
    spot.dispatchEvent(new PointerEvent(kind, where));
  await later(50);
  const hover = document.getElementById("vg-tooltip-element");
  const text = hover?.classList.contains("visible") ? hover.textContent : "";
  const shown = text ? contrast(hover.querySelector("td")) : 0;
  spot.dispatchEvent(new PointerEvent("pointerout", where));
  const asked = [];
  HTMLAnchorElement.prototype.dispatchEvent = function () {
    asked.push(this.getAttribute("href"));
  };
  spot.dispatchEvent(new PointerEvent("click", where));
  const lines = [thick(place)];
  const input = place.querySelector("input[type=checkbox]");
  if (input) {
    input.click();
    await later(50);
    lines.push(thick(place));
  }
  const unnamed = [...place.querySelectorAll("input, select")].filter(one => !one.labels.length);
  return {section: place.closest("section").id, text, shown, lines, unnamed: unnamed.length,
    width: place.scrollWidth - place.clientWidth, asked};
};
// whether any pixel of a picture has a colour, as the reader sees it
const inked = image => {
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  if (!width) return [];
  const brush = Object.assign(document.createElement("canvas"), {width, height}).getContext("2d");
  brush.drawImage(image, 0, 0);
  const all = new Uint32Array(brush.getImageData(0, 0, width, height).data.buffer);
  return [0xff2b231d, 0xffede8e4].map(ink => all.includes(ink)); // by day, at night: ABGR
};
// axe-core's rules of WCAG 2.2 and of good practice; the contrast that it leaves open is measured
const judged = async () => {
  const {violations} = await axe.run(document, {rules: {"target-size": {enabled: true}}});
  return violations.map(rule => [rule.id, ...rule.nodes.map(
    node => `${node.target}: ${node.failureSummary}`).slice(0, 3)]);
};
addEventListener("load", async () => {
  for (let tries = 0; tries < 100 && document.querySelector(".chart:not(.drawn)"); tries++)
    await later(20);
  const images = [...document.images].map(image => [image.naturalWidth, image.alt, inked(image)]);
  const fetched = performance.getEntriesByType("resource").map(entry => entry.name)
    .filter(name => !name.startsWith("data:"));
  const lost = [...document.querySelectorAll("nav a")].map(link => link.hash.slice(1))
    .filter(anchor => !document.getElementById(anchor));
  document.querySelectorAll("main details").forEach(part => (part.open = true));
  const against = await judged();
  const pale = [...document.querySelectorAll("body *")].filter(written)
    .filter(element => contrast(element) < 4.5).map(element => element.textContent.slice(0, 40));
  const back = getComputedStyle(document.body).backgroundColor;
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map(head => +head.tagName[1]);
  const titled = [...document.querySelectorAll("[aria-labelledby]")]
    .map(part => document.getElementById(part.getAttribute("aria-labelledby"))?.textContent);
  const landmarks = ["header", "nav", "main", "footer"]
    .map(name => document.querySelectorAll(`body > ${name}`).length);
  const folded = !document.querySelector("nav details")?.open;
  const boxes = [...document.querySelectorAll("section .wide:has(table)")].map(box => {
    box.scrollLeft = box.scrollWidth;
    const first = box.querySelector("tbody th").getBoundingClientRect().left;
    const out = box.getBoundingClientRect().right > document.body.getBoundingClientRect().right + 1;
    const cut = box.querySelector("table").offsetWidth - box.clientWidth;
    return [cut, first - box.getBoundingClientRect().left, out, box.tabIndex];
  });
  const access = {against, pale, back, levels, titled, landmarks, folded, boxes};
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
  const charts = [];
  for (const place of document.querySelectorAll(".chart.drawn"))
    if (place.checkVisibility()) charts.push(await looked(place));
  const wide = document.documentElement.scrollWidth > innerWidth;
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify(
    {images, fetched, seen, lost, wide, links, copied, tables, access, charts});
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
    targets = {"table3": {}, "figure4": models, "figure5": {}, "grid": {}, "figure2": {}}
    pictures, tables = [], []
    last = [name for name in chosen if name.endswith(("vanilla", "layer-7_end"))]
    for name, keys in targets.items():
        asked = json.dumps({"kind": name, "settings": keys or {"reads": "any"}})
        read = ["--runs", *last, "--seeds", "0", "1"] if name == "figure2" else runs
        command = ["--target", name, "--settings", asked, *read, *scores]
        assert run(["figure", *command, "--output", str(root / "figures" / name)]) == 0
        pictures.append(f"{root}/figures/{name}.png")
        if name in ("table3", "grid"):
            assert run(["table", *command, "--output", str(root / "tables" / name)]) == 0
            tables.append(f"{root}/tables/{name}.csv")
    output = root / "index.html"
    files = [*runs, "--tables", *tables, "--figures", *pictures, "--benchmarks", str(root)]
    command = ["report", "--title", "Demo", "--targets", *targets, *files]
    assert run([*command, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    """Return the HTML of the page."""
    return made.read_text(encoding="utf-8")


def look(
    browser: str,
    text: str,
    folder: Path,
    width: int,
    dark: bool = False,
    beside: Path | None = None,
) -> tuple[dict, str]:
    """Open a page with the watching script, and return what it saw and what the browser logged.

    A page that needs files next to it is opened ``beside`` them.
    """
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    watched = (beside or folder) / "watched.html"
    scripts = f"<script>{AXE}</script>{WATCH}"
    watched.write_text(text.replace("<head>", f"<head>{scripts}", 1), encoding="utf-8")
    flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", scheme]
    command = [browser, *flags, "--dump-dom", watched.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(probe.group(1))), done.stderr


@pytest.fixture(scope="module")
def views(
    browser: str, page: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict, str]]:
    """Return what is seen on a desktop and a phone, by day and at night, and on paper."""
    asked = {"desktop": (page, 1200, False), "phone": (page, 500, True)}
    asked |= {"desktop, dark": (page, 1200, True), "phone, light": (page, 500, False)}
    asked["paper"] = (page.replace("@media print", "@media all"), 500, False)
    return {
        name: look(browser, text, tmp_path_factory.mktemp(name), *more)
        for name, (text, *more) in asked.items()
    }


@pytest.mark.parametrize("name", ["desktop", "phone"])
def test_the_page_opens_without_an_error_and_with_all_pictures(
    views: dict[str, tuple[dict, str]], name: str
) -> None:
    seen, log = views[name]
    assert [size > 0 for size, *_ in seen["images"]] == [True] * 5
    assert all(alt for _, alt, _ in seen["images"])
    assert [inks for *_, inks in seen["images"]] == [[name not in AT_NIGHT, name in AT_NIGHT]] * 5
    assert (seen["seen"], seen["fetched"], seen["lost"]) == ([], [], [])
    assert not seen["wide"]  # a wide table scrolls in its own box
    assert "CONSOLE" not in log


def test_every_file_is_saved_from_the_page_and_latex_is_copied(
    views: dict[str, tuple[dict, str]], made: Path
) -> None:
    seen, _ = views["desktop"]
    names = [f"{name}.{end}" for name in ("table3", "grid") for end in ("csv", "md", "tex")]
    pictures = [
        f"{name}.{end}"
        for name in ("table3", "figure4", "figure5", "grid", "figure2")
        for end in ("csv", "pdf", "png", "svg")
    ]
    assert sorted(name for name, *_ in seen["links"]) == sorted([*names, *pictures])
    assert all(is_inside and is_shown for _, is_inside, is_shown in seen["links"])
    files = [made.parent / "tables" / f"{name}.tex" for name in ("table3", "grid")]
    assert seen["copied"] == [file.read_text(encoding="utf-8") for file in files]


@pytest.mark.parametrize(("place", "name"), [(0, "table3"), (1, "grid")])
def test_a_click_on_a_head_sorts_by_its_numbers(
    views: dict[str, tuple[dict, str]], made: Path, place: int, name: str
) -> None:
    sorts = views["desktop"][0]["tables"][place]
    cells = read_table(CELLS, made.parent / "tables" / f"{name}.csv")
    values = cells[cells["kind"] == "value"]
    before = list(dict.fromkeys(cells["row"]))
    columns = [of_column for _, of_column in values.groupby("column_index")]
    assert len(sorts) == len(columns) > 1
    for clicks, column in zip(sorts, columns, strict=True):
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


@pytest.mark.parametrize("name", ["desktop", "phone"])
def test_charts_answer_the_pointer_and_their_switches(
    views: dict[str, tuple[dict, str]], made: Path, name: str
) -> None:
    seen = {one["section"]: one for one in views[name][0]["charts"]}
    assert set(seen) == {"table3", "figure2", "figure4", "figure5"}
    for one in seen.values():
        assert one["text"]
        assert one["shown"] >= 4.5  # contrast
        assert (one["width"], one["unnamed"]) == (0, 0)
    means, without = seen["figure2"]["lines"]
    assert means == 3 * without > 0  # a line for each of two seeds
    assert "GSNR" in seen["figure2"]["text"]
    assert "layer" in seen["figure4"]["text"]
    (asked,) = seen["figure2"]["asked"]  # by a click on a point
    assert (made.parent / asked).is_file()


def test_on_paper_pictures_are_in_the_place_of_charts(views: dict[str, tuple[dict, str]]) -> None:
    assert views["paper"][0]["charts"] == []


def test_each_number_leads_to_a_page_of_its_run_that_draws_its_curves(
    browser: str, page: str, made: Path, tmp_path: Path
) -> None:
    led = set(re.findall(r'class="run" href="([^"]*)"', page))
    assert len(led) > 10
    assert all((made.parent / address).is_file() for address in led)
    run = made.parent / min(led)
    seen, log = look(browser, run.read_text(), tmp_path, 500, True, beside=run.parent)
    assert [one["section"] for one in seen["charts"]] == ["curves"] * 3
    assert all(one["text"] for one in seen["charts"])
    assert (seen["seen"], seen["lost"], seen["wide"], seen["fetched"]) == ([], [], False, [])
    assert (seen["access"]["pale"], seen["access"]["against"]) == ([], [])
    assert "CONSOLE" not in log


@pytest.mark.parametrize("name", ["desktop", "desktop, dark", "phone", "phone, light"])
def test_axe_finds_nothing_against_the_page(views: dict[str, tuple[dict, str]], name: str) -> None:
    assert views[name][0]["access"]["against"] == []
    assert (views[name][0]["access"]["back"] == "rgb(255, 255, 255)") is (name not in AT_NIGHT)


@pytest.mark.parametrize("name", ["desktop", "phone"])
def test_text_has_contrast_headings_are_in_order_and_parts_have_names(
    views: dict[str, tuple[dict, str]], name: str
) -> None:
    seen = views[name][0]["access"]
    assert seen["pale"] == []
    assert (seen["levels"][0], seen["levels"].count(1)) == (1, 1)
    assert all(below - above <= 1 for above, below in itertools.pairwise(seen["levels"]))
    assert len(seen["titled"]) == 2
    assert all(seen["titled"])
    assert seen["landmarks"] == [1, 1, 1, 1]
    assert seen["folded"] is (name == "phone")


def test_a_wide_table_scrolls_below_its_first_column_and_is_not_cut_on_paper(
    views: dict[str, tuple[dict, str]],
) -> None:
    boxes = views["phone"][0]["access"]["boxes"]
    assert any(cut > 0 for cut, *_ in boxes)
    for _, moved, is_out, index in boxes:
        assert (abs(moved) <= 1, is_out, index) == (True, False, 0)
    paper = views["paper"][0]["access"]["boxes"]  # A4 has 703 px between its margins
    assert [cut <= 0 for cut, *_ in paper] == [True] * len(boxes)


def test_the_watch_finds_what_is_broken(browser: str, page: str, tmp_path: Path) -> None:
    broken = page.replace("image/svg+xml;base64,", "image/svg+xml;base64,AAAA", 1)
    broken = broken.replace("<body>", "<body><script>nothing.here()</script>", 1)
    broken = broken.replace("--soft: #5b6673", "--soft: #8b96a3")
    broken = broken.replace("position: sticky; left: 0;", "")
    broken = broken.replace('<html lang="en">', "<html>").replace("line-height: 24px", "")
    seen, log = look(browser, broken, tmp_path, 500)
    assert [size > 0 for size, *_ in seen["images"]].count(False) == 1
    assert len(seen["seen"]) == 2
    assert "CONSOLE" in log
    assert "Where this comes from" in seen["access"]["pale"]
    against = {rule for rule, *_ in seen["access"]["against"]}
    assert against >= {"color-contrast", "html-has-lang", "target-size"}
    assert min(moved for _, moved, *_ in seen["access"]["boxes"]) < -1
