"""What each target says of the papers' claims, from its cells and values alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rectify import targets
from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding
from tests.helpers import printed, synthetic
from tests.helpers.synthetic import layers_of, results_of, seeded
from tests.targets.test_datasize import runs as shares


def findings(kind: str, results: Results, **settings: object) -> list[Finding]:
    """Return the findings of a kind of target, as the page has them."""
    target = targets.module_of(kind)
    asked = target.Settings(**(settings or {"reads": "any"}))
    cells = target.table(results, asked) if "table" in target.SHOWS else None
    values = target.figure(results, asked).values if "figure" in target.SHOWS else None
    return target.findings(cells, values)


def the(kind: str, results: Results, **settings: object) -> str:
    """Return what the single finding of a kind of target is."""
    (finding,) = findings(kind, results, **settings)
    return finding.found


def test_table_2_lists_the_gains_by_language_model(tmp_path: Path) -> None:
    found = the("table2", synthetic.collected(tmp_path, printed.sizes()))
    assert found == "OPT-350M -3.69; OPT-1.3B +0.37; OPT-2.7B +0.49; OPT-6.7B +1.04 points."


@pytest.mark.slow
def test_table_3_counts_the_placements_that_gain(tmp_path: Path) -> None:
    found = the("table3", synthetic.collected(tmp_path, printed.grid()))
    gains = {
        (row.name, column): value - 71.62
        for row in printed.printed("table3").rows
        for column, value in zip(
            (0, 7, 15, 23, 31), printed.numbers("table3", row.name), strict=True
        )
    }
    best = max(gains, key=gains.__getitem__)
    assert found.startswith(f"{sum(gain > 0 for gain in gains.values())} of 15 gain, from ")
    assert f"to {gains[best]:+.2f} ({best[0]}, layer {best[1]}) points" in found


@pytest.mark.parametrize(
    ("kind", "runs", "count"),
    [
        ("table4", printed.images_and_video(), "3 of 4 gain"),
        ("table5", printed.small_sets(), "4 of 4 gain"),
        ("table6", printed.weights(), "of 12 gain"),
    ],
)
@pytest.mark.slow
def test_gains_of_the_second_path_are_counted(
    tmp_path: Path, kind: str, runs: list[synthetic.Run], count: str
) -> None:
    assert count in the(kind, synthetic.collected(tmp_path, runs))


def test_controls_are_listed_with_their_gains() -> None:
    runs = seeded(vanilla=[0.5], insert=[0.6], random=[0.45])
    found = the("controls", results_of(runs=runs, gsnr=layers_of(runs)))
    assert found == "frozen layer +10.00; random frozen layer -5.00 points."


def test_shares_of_the_training_set_are_compared(tmp_path: Path) -> None:
    found = the("datasize", synthetic.collected(tmp_path, shares(), (0,)))
    assert found == (
        "frozen layer: +6.00 with 10 % of the training set, -1.00 with 100 %; "
        "random frozen layer: +1.00 with 10 % of the training set, -2.00 with 100 %."
    )


@pytest.mark.slow
def test_coherence_counts_runs_and_quotes_correlations_within_positions(
    demo: synthetic.Made,
) -> None:
    folders = [
        folder for folder in demo.runs
        if folder.name.startswith(("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl"))
    ]  # fmt: skip
    results = Results(folders, [0, 1])
    rises, better, closer = findings("coherence", results)
    coherence = targets.module_of("coherence")
    values = coherence.figure(results, coherence.Settings(reads="any")).values
    counts = [int((values[name] > 0).sum()) for name in ("equal_epoch", "equal_loss")]
    assert rises.found == (
        f"at equal epoch in {counts[0]} of 15, at equal loss in {counts[1]} of "
        f"{values['equal_loss'].notna().sum()} runs."
    )
    assert better.found.startswith("equal epoch: ρ = ")
    assert "; equal loss: " in closer.found


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("pang_table1", "3 of 3 gain, from +0.60 (ViT-S +LLaMA-7B"),
        ("pang_table2", "4 of 6 gain, from -0.25 (Point-BERT +LLaMA-7B"),
        ("pang_table6", "ViT-S +LLaMA-7B +0.60; "),
        ("pang_table_c", "ViT-S +OPT-125M -3.62; ViT-S +OPT-350M -3.69; "),
        ("pang_table_d", "layers 30-31, end +1.78; "),
    ],
)
def test_pang_et_al_s_numbers_are_counted_or_listed(tmp_path: Path, kind: str, found: str) -> None:
    assert found in the(kind, synthetic.collected(tmp_path, printed.pang(kind)))


def test_the_best_activations_are_quoted_with_their_floors(demo: synthetic.Made) -> None:
    folders = [
        folder for folder in demo.runs
        if folder.name.startswith("glyphs_vit-s_vanilla") or folder.name.endswith("layer-7_end")
    ]  # fmt: skip
    runs = Results(folders, [0]).runs
    filtering = synthetic.filtering_of(runs[runs["vision"] == "vit-s"])
    filtering["iou_permuted"] = 0.1 + 0.001 * np.arange(len(filtering))  # each map its own
    found = the("pang_figure4", results_of(filtering=filtering))
    is_vanilla = filtering["run"] == "glyphs_vit-s_vanilla"
    plain = filtering[is_vanilla & (filtering["place"] == "F_E")].set_index("activation")
    best = plain["iou"][["magnitude", "frequency"]].idxmax()
    iou, permuted = plain.loc[best, ["iou", "iou_permuted"]]
    text = f"at best {iou:.3f} (F_E, {best}; with its tokens permuted {permuted:.3f})"
    assert f"the trunk alone {text}" in found
    assert "floors: all tokens" in found
    assert f"pixels, or points {filtering['iou_pixels'].mean():.3f}." in found
    assert "and a skip" not in found
    skipped = filtering[~is_vanilla].assign(iou=0.987)
    skipped["run"] = skipped["run"].str.replace("_insert", "_residual")
    both = the("pang_figure4", results_of(filtering=pd.concat([filtering, skipped])))
    assert "with a frozen layer and a skip at best 0.987" in both
    assert found.partition("; floors")[0] in both
