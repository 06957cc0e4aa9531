"""The look of figures: inside its block only, and never the same colour for two positions."""

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib

from rectify.analysis import drawing, style
from rectify.analysis.packaged import packaged


def test_the_look_holds_inside_the_block_only() -> None:
    before = dict(matplotlib.rcParams)
    with style.look():
        assert matplotlib.rcParams["font.size"] == style.PARAMETERS["font.size"]
    assert dict(matplotlib.rcParams) == before


def test_the_look_does_not_depend_on_the_user_s_settings() -> None:
    with matplotlib.rc_context({"lines.linestyle": ":", "axes.facecolor": "black"}), style.look():
        assert matplotlib.rcParams["lines.linestyle"] == "-"
        assert matplotlib.rcParams["axes.facecolor"] == "white"


def test_an_svg_has_the_page_s_colours_at_night_and_those_of_the_pdf_elsewhere(
    tmp_path: Path,
) -> None:
    """Its greys are the page's ink, notes and lines, by the page's own style sheet."""
    day, night = re.findall(r":root {(.*?)}", packaged("page.css"), re.DOTALL)[:2]
    pages = [dict(re.findall(r"--(\w+): (#\w{6})", rules)) for rules in (day, night)]
    names = {style.INK: "ink", style.SOFT: "soft", style.LINE: "line"}
    assert {day: pages[1][name] for day, name in names.items()} == style.AT_NIGHT
    assert pages[0]["ink"] == style.INK
    for name in ("one.svg", "two.svg"):
        with style.look():
            figure, (axes,) = drawing.panels(2.0, 1.0)
            axes.plot([0, 1], color=style.SOFT)
            axes.text(0.5, 0.5, "on a cell", color="white")
        style.save(figure, tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    root = ElementTree.fromstring(text)
    *drawn, rules = list(root)
    used = {word for part in drawn for word in re.findall("#[0-9a-f]{6}", f"{styles(part)}")}
    assert used == {*style.AT_NIGHT, "#ffffff"}  # all that is drawn here, and no background
    assert text.count("fill: #ffffff") == 1  # the text
    pairs = re.findall(r'\[style\*="(\w+): (#\w+)"\] { (\w+): (#\w+) !important }', rules.text)
    assert {(kind, day): (same, night) for kind, day, same, night in pairs} == {
        (kind, day): (kind, night)
        for day, night in style.AT_NIGHT.items() for kind in ("fill", "stroke")
    }  # fmt: skip
    assert rules.text.startswith("@media screen and (prefers-color-scheme: dark)")


def styles(part: ElementTree.Element) -> list[str]:
    """Return the styles of all elements of a part of an SVG."""
    return [element.get("style", "") for element in part.iter()]


def test_every_position_has_a_look_of_its_own() -> None:
    positions = ("early", "3", "middle", "9", "10", "end")
    looks = [style.of_position(name, index) for index, name in enumerate(positions)]
    assert len(set(looks)) == len(positions)
    assert style.of_position("end", 0) == style.of_position("end", 5)
