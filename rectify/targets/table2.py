"""Table 2: accuracy by size of the inserted language model, and its gain over vanilla."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import only, with_layer
from rectify.analysis.collect import Results
from rectify.analysis.factors import title, titles, values
from rectify.analysis.findings import Finding, list_gains
from rectify.analysis.items import with_comparisons
from rectify.analysis.metrics import ACCURACY
from rectify.analysis.published import SHORT, Label, labels, match_names, printed_for
from rectify.targets.contract import TargetSettings, one_each
from rectify.typed import Name, Several

TITLE = "Table 2: size of the language model"
SHOWS = ("table",)


class Settings(TargetSettings):
    """The experiments that are shown: one data set, insertions at one place."""

    kind: Literal["table2"] = "table2"
    reads: Several[Name]


check = one_each("data", "variant")


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy by size of the inserted language model, with its gain over vanilla."""
    runs = with_layer(results.runs, "table2")
    only(runs, "variant", "table2")
    compared = with_comparisons(results.runs, results, [ACCURACY])
    names = {
        name: f"+{title(runs, 'language', name)}"
        for name in values(runs, "language", results.order)
    }
    theirs = printed_for("table2", runs, data=SHORT)
    visions = titles(runs, "vision", results.order)
    rows_there = match_names(labels(visions.values()), theirs.rows)
    columns_there = match_names(labels(names.values()), theirs.columns)
    rows = [
        RowSpec(label, {"vision": name}, rows_there[Label(label)])
        for name, label in visions.items()
    ]
    columns = [
        ColumnSpec(
            label,
            ACCURACY.compared,
            {"language": name},
            printed=columns_there[Label(label)],
        )
        for name, label in names.items()
    ]
    return fill(TableSpec("table2", rows, columns, theirs), compared)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return the gains by language model."""
    claim = "An inserted frozen layer helps the more, the larger its language model"
    return [Finding(claim, list_gains(cells, "column"))]
