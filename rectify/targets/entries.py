"""A table or figure as an entry of the page: title, caption, findings and chart, from its files."""

from pathlib import Path

from rectify.analysis.charts import Shown
from rectify.analysis.page import Entry
from rectify.analysis.runs import Runs
from rectify.results.declared import CELLS
from rectify.results.tables import read_note, read_table
from rectify.targets.find import caption, module_of, titles


def entry(name: str, table: Path | None, picture: Path | None, runs: Runs) -> Entry:
    """Return an entry; it has a chart if its kind has one and all its runs have pages.

    Args:
        name: Of the target.
        table: Its cells.
        picture: Its PNG file, with the values next to it.
        runs: Those with a page of their own.

    Raises:
        ValueError: If there is neither, or a file is missing or of another version.
    """
    path = table or (picture and picture.with_suffix(".csv"))
    if path is None:
        raise ValueError(f"report: {name} must have a file, got none. Pass its table or figure.")
    facts = read_note(path)["provenance"]["facts"]
    kind, target = facts["kind"], module_of(facts["kind"])
    text, (title, short) = caption(kind, facts.get("note")), titles(name, kind)
    cells = table and read_table(CELLS, table)
    values = picture and read_table(target.VALUES, picture.with_suffix(".csv"))
    made = Entry(name, short, title, text, table, picture, target.findings(cells, values), kind)
    if values is None or target.chart is None or not set(made.runs) <= set(runs.settings.index):
        return made
    shown = Shown(values, runs.settings.loc[made.runs], facts["estimator"])
    return made._replace(chart=target.chart(shown))
