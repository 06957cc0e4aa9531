"""A page for each run that tables and figures read: where their numbers come from.

It shows the run's settings, what tables average over its seeds, its curves, and its logs; and it
lists its files with their digests, so that a copy can be compared. What runs share, the scripts
that draw, is one file next to the pages.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jinja2
import pandas as pd
from pandas import DataFrame, Series

from rectify.analysis import charts
from rectify.analysis.charts import Spec
from rectify.analysis.collect import SETTINGS, Results, settings_of
from rectify.analysis.curves import label_of
from rectify.analysis.factors import layer_text
from rectify.analysis.packaged import packaged
from rectify.results.declared import GSNR, HISTORY
from rectify.results.files import read_json
from rectify.results.tables import Table, read_note, read_table
from rectify.tasks import metrics_of

SCRIPT = "charts.js"
LARGE = 2**25
"""Bytes above which a file's digest is not computed: large weights would take minutes."""
LINES = 400
"""Of a log, its last ones."""
LOGS = ("train", "evaluate")
LOSSES = {"train_loss": "training loss", "test_loss": "test loss"}
PATHS = {"main_loss": "plain path", "auxiliary_loss": "second path"}
VIRIDIS = {"scheme": "viridis"}


class Link(NamedTuple):
    """A name, and the address that it leads to."""

    name: str
    address: str


class Chart(NamedTuple):
    """A heading and what is drawn below it."""

    title: str
    spec: Spec


class File(NamedTuple):
    """A file of a run."""

    link: Link
    size: int
    digest: str
    """SHA-256, or why it is not there."""


@runtime_checkable
class Reader(Protocol):
    """A table or figure on a page, as far as its runs ask for it."""

    anchor: str
    name: str
    runs: Sequence[str]


@dataclass(frozen=True)
class Runs:
    """The runs behind a page."""

    folders: Sequence[Path] = ()
    """Of the runs: config.json, labels.json and seed-<s>/."""
    seeds: Sequence[int] = ()
    logs: Path = Path()
    """Folder of logs: <rule>/<run>--<seed>.log."""
    pages: Path = Path("runs")
    """Folder of the runs' pages, next to the page that leads to them."""

    @cached_property
    def settings(self) -> DataFrame:
        """What distinguishes each run, by its name, with its label and the address of its page."""
        rows = [settings_of(folder)[0] for folder in map(Path, self.folders)]
        frame = DataFrame(rows, columns=SETTINGS, dtype=object).set_index("run")  # keeps None
        labels = [label_of(run) for _, run in frame.iterrows()]
        pages = [f"{self.pages.name}/{name}.html" for name in frame.index]
        return frame.assign(label=labels, page=pages)

    def files(self, title: str, page: str, entries: Sequence[Reader]) -> Iterator[tuple[Path, str]]:
        """Yield the path and the text of each page, and of what they share.

        Args:
            title: Of the page that leads to them.
            page: Its name; it is in the folder above.
            entries: Its tables and figures.

        Raises:
            ValueError: If a file is missing, or a run is not finished.
        """
        back = Link(title, f"../{page}")
        reads = {Link(one.name, f"../{page}#{one.anchor}"): {*one.runs} for one in entries}
        for folder in map(Path, self.folders):
            readers = [link for link, runs in reads.items() if folder.name in runs]
            yield self.pages / f"{folder.name}.html", self.page(folder, readers, back)
        if self.folders:
            yield self.pages / SCRIPT, charts.library()

    def page(self, folder: Path, readers: Sequence[Link], back: Link) -> str:
        """Return the page of a run.

        Args:
            folder: Of the run.
            readers: Tables and figures that read it.
            back: The page that they are on.

        Raises:
            ValueError: If one of its files is missing, or it is not finished.
        """
        config, results = read_json(folder / "config.json"), Results([folder], self.seeds)
        run = results.runs.iloc[0]
        return _template().render(
            name=folder.name,
            title=self.settings.loc[folder.name, "label"],
            style=packaged("page.css"),
            script=SCRIPT,
            back=back,
            readers=readers,
            baseline=self._baseline(run),
            facts=self._facts(run, results),
            seeds=[f"{seed}" for seed in results.runs["seed"]],
            scores=list(_scores(results.runs)),
            charts=[(one.title, embedded(one.spec)) for one in _charts(config, folder, self.seeds)],
            config=json.dumps(config, indent=1, ensure_ascii=False),
            logs=list(self._logs(folder.name)),
            files=list(_files(folder, self.pages)),
        )

    def _baseline(self, run: Series) -> Link | None:
        """Return the page of the vanilla run that a run is compared with, if there is one."""
        frame = self.settings
        same = (frame["data"] == run["data"]) & (frame["vision"] == run["vision"])
        names = frame.index[same & (frame["variant"] == "vanilla")]
        is_other = len(names) > 0 and names[0] != run["run"]
        return Link(names[0], f"{names[0]}.html") if is_other else None

    def _facts(self, run: Series, results: Results) -> dict[str, str]:
        """Return what a run was, and where its results come from."""
        path = Path(results.folders[0]) / f"seed-{self.seeds[0]}" / "history.csv"
        source = read_note(path)["provenance"]
        facts = {
            "data": run["data_title"],
            "model": run["vision_title"],
            "variant": run["variant"],
            "in the layer's place": run["control"],
            "language model": run["language_title"],
            "layer": layer_text(run["layer"]) if pd.notna(run["layer"]) else None,
            "position": run["position"],
            "λ at the start": run["lambda"] if run["variant"] == "auxiliary" else None,
            "seeds": ", ".join(map(str, self.seeds)),
            "device": ", ".join(results.sources["devices"]),
            "commit": source.get("commit"),
            "code": source.get("code"),
            "versions": ", ".join(f"{k} {v}" for k, v in (source.get("versions") or {}).items()),
        }
        return {name: f"{value}" for name, value in facts.items() if pd.notna(value) and value}

    def _logs(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the name of each log of a run, and its last lines."""
        for rule in LOGS:
            for seed in self.seeds:
                path = self.logs / rule / f"{name}--{seed}.log"
                if path.is_file():
                    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                    yield f"{rule}, seed {seed}", "\n".join(lines[-LINES:])


def embedded(spec: Spec) -> str:
    """Return JSON that can be between the tags of a script."""
    return json.dumps(spec, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(packaged("run.html.j2"))


def _scores(runs: DataFrame) -> Iterator[tuple[str, list[str], str]]:
    """Yield each number that tables take from a run: its name, by seed, and the mean."""
    for name in runs.columns:
        if name not in (*SETTINGS, "k") and runs[name].notna().any():
            values = runs[name].astype(float)
            yield name, [f"{value:.6g}" for value in values], f"{values.mean():.6g}"


def _charts(config: dict[str, Any], folder: Path, seeds: Sequence[int]) -> Iterator[Chart]:
    """Yield the curves of a run: losses, the task's first metric, GSNR by block."""
    history = _of_seeds(HISTORY, folder, seeds, "history.csv")
    metric, measured = metrics_of(config["task"])[0], history["metric"]
    names = {**LOSSES, **(PATHS if "auxiliary_loss" in set(measured) else {})}
    losses = history[measured.isin(names)].assign(curve=measured.map(names))
    yield Chart("Losses", _curves(losses, "value", "loss", {"field": "curve", "title": None}))
    scores = history[measured == metric.name].assign(curve=metric.title)
    title, single = f"{metric.title} ({metric.unit})", {"field": "curve", "legend": None}
    yield Chart(metric.title.capitalize(), _curves(scores, "value", title, single))
    gsnr = _of_seeds(GSNR, folder, seeds, "gsnr.csv")
    shown, names = read_json(folder / "labels.json")["estimator"], list(gsnr["estimator"].unique())
    by_block = {"field": "block", "type": "ordinal", "title": "block", "scale": VIRIDIS}
    spec = _curves(gsnr, "gsnr", "GSNR", by_block, [{"filter": "datum.estimator == estimator"}])
    spec["params"].append(charts.select("estimator", names, shown, "estimator", names))
    yield Chart("GSNR by block", spec)


def _of_seeds(table: Table, folder: Path, seeds: Sequence[int], name: str) -> DataFrame:
    """Return a file of each seed, one below the other."""
    parts = [read_table(table, folder / f"seed-{s}" / name).assign(seed=s) for s in seeds]
    return pd.concat(parts, ignore_index=True)


def _curves(
    rows: DataFrame, value: str, title: str, colour: Spec, before: Sequence[Spec] = ()
) -> Spec:
    """Return curves over epochs, one for each value of a column, with a line for each seed."""
    kind, kept = colour["field"], [name for name in ("estimator",) if before]
    whole = {"tickMinStep": 1, "format": "d"}
    layers = charts.seeds_and_means(
        keys=("epoch", kind),
        numbers=(value,),
        encoding={
            "x": charts.measured("epoch", "epoch", axis=whole),
            "y": charts.measured(value, title),
            "color": colour,
        },
        before=before,
        shown=charts.hover(
            {kind: kind, "epoch": "epoch", value: title, "count": "seeds"}, {value: ".5g"}
        ),
    )
    frame = rows[["seed", "epoch", kind, *kept, value]]
    return charts.chart(frame, layers, height=220, params=[charts.tick("seeds", "each seed")])


def _files(folder: Path, start: Path) -> Iterator[File]:
    """Yield the files of a run in the order of their names."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        address = Path(os.path.relpath(path, start)).as_posix()
        link = Link(path.relative_to(folder).as_posix(), address)
        yield File(link, size, _digest(path) if size <= LARGE else "not computed: a large file")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
