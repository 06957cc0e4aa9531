"""Pages of runs: numbers against the files by hand, digests against hashlib, links to and fro."""

import hashlib
import html
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from rectify.analysis.runs import LINES, SCRIPT, Link, Runs
from tests.helpers import synthetic
from tests.helpers.synthetic import LLAMA, VITS, Model, Run

SEEDS = (0, 1)
ROW = re.compile(r'<a href="([^"]*)">([^<]*)</a></th><td>([\d,]+)</td><td[^>]*>(\w+)')
DATA = Model("glyphs", "Glyphs <100>", 1)


def drawn(seed: int, epoch: int, block: int, name: str) -> float:
    """Return a made-up GSNR that differs by everything."""
    return 0.1 + 0.01 * seed + 0.02 * epoch + 0.001 * block + 0.0001 * len(name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a vanilla run and one with an inserted layer, with logs."""
    root = tmp_path_factory.mktemp("results")
    given = {"accuracy": lambda seed, name: 0.4 + seed / 8, "gsnr": drawn, "depth": 3, "epochs": 3}
    treated = {"variant": "insert", "language": LLAMA, "layer": 31, "position": "end"}
    every = [Run(DATA, VITS["ViT-S"], **given), Run(DATA, VITS["ViT-S"], **given, **treated)]
    folders = [synthetic.write_run(root, run, SEEDS) for run in every]
    log = root / "logs" / "train" / f"{folders[0].name}--1.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number} <b>\n" for number in range(LINES + 9)))
    return Runs(folders, SEEDS, root / "logs", root / "report" / "index-runs")


@pytest.fixture(scope="module")
def pages(runs: Runs) -> list[str]:
    """Return the pages of both."""
    back, readers = Link("The page", "../index.html"), [Link("Table 3", "../index.html#table3")]
    return [runs.page(folder, readers, back) for folder in runs.folders]


def specs(page: str) -> list[dict]:
    """Return the charts of a page."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return [json.loads(text) for text in found]


def values(spec: dict) -> pd.DataFrame:
    """Return the data of a chart."""
    return pd.read_csv(io.StringIO(spec["data"]["values"]))


def test_numbers_are_those_of_each_seed_and_their_mean(runs: Runs, pages: list[str]) -> None:
    cells = re.findall(r'<th scope="row">(\w+)</th>((?:<td>[^<]*</td>)+)', pages[1])
    shown = {name: [float(n) for n in re.findall(r"<td>(.*?)</td>", tds)] for name, tds in cells}
    files = [runs.folders[1] / f"seed-{seed}" for seed in SEEDS]
    scores = [pd.read_csv(file / "scores.csv") for file in files]
    accuracy = [s.query("metric == 'accuracy' and k == 1")["value"].item() for s in scores]
    assert shown["accuracy"] == pytest.approx([*accuracy, sum(accuracy) / 2], rel=1e-5)
    gsnr = [pd.read_csv(f / "gsnr.csv").query("estimator == 'xi'")["gsnr"].mean() for f in files]
    assert shown["gsnr_xi"] == pytest.approx([*gsnr, sum(gsnr) / 2], rel=1e-5)
    assert shown["gsnr_xi"][0] != shown["gsnr_xi"][1]


def test_curves_have_every_number_of_the_files(runs: Runs, pages: list[str]) -> None:
    losses, scores, gsnr = map(values, specs(pages[0]))
    for seed in SEEDS:
        place = runs.folders[0] / f"seed-{seed}"
        history = pd.read_csv(place / "history.csv")
        for frame, curve, metric in (
            (losses, "training loss", "train_loss"),
            (losses, "test loss", "test_loss"),
            (scores, "accuracy", "accuracy"),
        ):
            here = frame[(frame["seed"] == seed) & (frame["curve"] == curve)]
            there = history[history["metric"] == metric]
            assert dict(zip(here["epoch"], here["value"], strict=True)) == dict(
                zip(there["epoch"], there["value"], strict=True)
            )
        keys = ["epoch", "block", "estimator", "gsnr"]
        here = gsnr.loc[gsnr["seed"] == seed, keys].sort_values(keys, ignore_index=True)
        there = pd.read_csv(place / "gsnr.csv")[keys].sort_values(keys, ignore_index=True)
        pd.testing.assert_frame_equal(here, there)


def test_files_are_listed_with_their_digests_and_reached_from_the_page(
    runs: Runs, pages: list[str]
) -> None:
    for folder, page in zip(runs.folders, pages, strict=True):
        rows = re.findall(
            r'<a href="([^"]*)">([^<]*)</a></th><td>([\d,]+)</td><td[^>]*>(\w+)', page
        )
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(rows) == len(files) == 16
        for address, name, size, digest in rows:
            content = (runs.pages / address).resolve().read_bytes()
            assert (folder / name).read_bytes() == content
            assert int(size.replace(",", "")) == len(content)
            assert digest == hashlib.sha256(content).hexdigest()


def test_a_page_leads_back_to_its_readers_and_to_the_vanilla_run(
    runs: Runs, pages: list[str]
) -> None:
    vanilla, inserted = pages
    for page in pages:
        assert '<a href="../index.html">← The page</a>' in page
        assert '<a href="../index.html#table3">Table 3</a>' in page
    name = runs.folders[0].name
    assert f'<dt>compared with</dt><dd><a href="{name}.html">{name}</a></dd>' in inserted
    assert "compared with" not in vanilla
    assert "<dt>layer</dt><dd>31</dd>" in inserted
    assert "<dt>layer</dt>" not in vanilla
    assert "ViT-S + LLaMA-7B layer 31, end" in html.unescape(inserted)


def test_settings_and_the_end_of_logs_are_shown_and_escaped(runs: Runs, pages: list[str]) -> None:
    config = re.search(r'config.json</summary><pre tabindex="0">\n(.*?)</pre>', pages[1], re.DOTALL)
    written = json.loads((runs.folders[1] / "config.json").read_text())
    assert json.loads(html.unescape(config.group(1))) == written
    assert "<summary>train, seed 1</summary>" in pages[0]
    assert "line 8 " not in pages[0]
    assert f"line {LINES + 8} &lt;b&gt;" in pages[0]
    assert "Glyphs &lt;100&gt;" in pages[0]
    assert "There are none." in pages[1]


def test_pages_share_their_scripts_and_the_same_files_give_the_same_pages(runs: Runs) -> None:
    class Reader:
        anchor, name, runs = "table3", "Table 3", ()

    made = dict(runs.files("Title", "index.html", [Reader()]))
    assert [path.name for path in made] == [*(f"{f.name}.html" for f in runs.folders), SCRIPT]
    assert {path.parent for path in made} == {runs.pages}
    assert made == dict(runs.files("Title", "index.html", [Reader()]))
    assert "shown in" not in made[runs.pages / f"{runs.folders[0].name}.html"]
    assert all(text.count(f'<script src="{SCRIPT}">') == 1 for text in list(made.values())[:-1])
    assert "vegaEmbed" in made[runs.pages / SCRIPT]


def test_a_missing_file_of_a_run_is_named_in_one_line(runs: Runs, tmp_path: Path) -> None:
    alone = Runs([tmp_path / "run"], SEEDS)
    with pytest.raises(ValueError, match=r"config\.json: must exist, got no file"):
        alone.settings  # noqa: B018
