"""What stands in place of the frozen block: what each control gains over vanilla."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import with_layer
from rectify.analysis.coherence import with_gsnr_gains
from rectify.analysis.collect import Results
from rectify.analysis.factors import titles
from rectify.analysis.findings import Finding, list_gains
from rectify.analysis.items import with_comparisons
from rectify.analysis.metrics import accuracies, coherence_gains, gsnr
from rectify.controls import VARIANTS
from rectify.targets.contract import TargetSettings, one_each
from rectify.typed import Name, Several

TITLE = "Controls"
SHOWS = ("table",)


class Settings(TargetSettings):
    """The experiments that are shown: one data set, several controls."""

    kind: Literal["controls"] = "controls"
    reads: Several[Name]


check = one_each("data")


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return what each control gains over vanilla, next to the frozen pretrained block.

    The paper has no such table; it tells the block's share from that of the adapters, of a
    block that was never trained, and of more trainable parameters. Every control of the
    experiment is a row, in each of its variants. Gains in GSNR are in percent of vanilla, at equal
    epoch behind the value.
    """
    treated = with_layer(results.runs, "controls")
    scores = accuracies(results.runs)
    runs = with_gsnr_gains(with_comparisons(results.runs, results, scores), results.gsnr)
    at_epoch, at_loss = coherence_gains(results.estimator)
    columns = [
        *(ColumnSpec(score.label, score.compared) for score in scores),
        ColumnSpec("GSNR", (gsnr(runs, results.estimator), at_epoch)),
        ColumnSpec(at_loss.label, (at_loss,)),
    ]
    rows = [RowSpec(VARIANTS["vanilla"].title, {"variant": "vanilla"})]
    variants = titles(treated, "variant")
    rows += [
        RowSpec(
            title if len(variants) == 1 else f"{of_variant}: {title}",
            {"variant": variant, "control": control},
        )
        for variant, of_variant in variants.items()
        for control, title in titles(treated[treated["variant"] == variant], "control").items()
    ]
    return fill(TableSpec("controls", rows, columns), runs)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return the gain of the frozen layer and of what is in its place."""
    claim = "It is the pretrained layer that helps, not what comes with it"
    return [Finding(claim, list_gains(cells, "row"))]
