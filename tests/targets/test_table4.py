"""Table 4: the paper's own numbers, however few, and mCE next to its mean accuracy."""

from pathlib import Path

import pytest

from rectify.analysis.collect import Results
from rectify.targets.table4 import Settings, table
from tests.helpers import printed, synthetic
from tests.helpers.printed import AUXILIARY, IMAGENET, SSV2, exactly
from tests.helpers.synthetic import VITS, Run

ASKED = Settings(reads=["images", "video"])


def test_it_prints_the_paper(tmp_path: Path) -> None:
    cells = table(synthetic.collected(tmp_path, printed.images_and_video()), ASKED)
    printed.check_as_printed("table4", cells)
    gains = cells[(cells["kind"] == "relative gain") & (cells["column"] == "GSNR")]
    assert gains["paper"].round(1).tolist() == [11.6, 0.6, 15.0, 8.5]
    assert list(cells["row"].unique()) == ["ViT-S", "ViT-S +AUX", "ViT-B", "ViT-B +AUX"]


def test_one_vit_is_compared_with_its_own_rows(tmp_path: Path) -> None:
    runs = [run for run in printed.images_and_video() if run.vision is VITS["ViT-B"]]
    printed.check_all_compared(table(synthetic.collected(tmp_path, runs), ASKED), 20)
    images = [run for run in runs if run.data is IMAGENET]
    printed.check_all_compared(table(synthetic.collected(tmp_path, images), ASKED), 13)


def test_mce_is_next_to_the_papers_mean_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rectify.analysis.robustness.ALEXNET", {"fog": 0.8, "noise": 0.5})
    monkeypatch.setattr("tests.helpers.synthetic.CORRUPTIONS", ("fog", "noise"))
    runs = []
    for settings in ({}, AUXILIARY):
        tops = {"test": 80.1, "c": 57.2, "a": 20.5, "sk": 28.9, "r": 42.1}
        image = {**exactly(tops), **settings, "shifts": ("c", "a", "sk", "r")}
        runs.append(Run(IMAGENET, VITS["ViT-S"], **image))
        runs.append(Run(SSV2, VITS["ViT-S"], **exactly({"test": 64.71, "k": 89.15}), **settings))
    cells = table(synthetic.collected(tmp_path, runs), ASKED)
    both = cells[cells["column"] == "ImageNet-C mCE"]
    assert both["kind"].tolist() == ["value", "value", "gain"]
    ours = both[both["kind"] == "value"]
    # around 42.8 % errors: 3 points more in fog, 3 fewer in noise
    assert ours["mean"].tolist() == pytest.approx([100 * (0.458 / 0.8 + 0.398 / 0.5) / 2] * 2)
    assert ours["paper"].isna().all()
    theirs = cells.drop_duplicates("column_index")["paper_column"]
    assert theirs.tolist()[1:4] == ["ImageNet-1K: ImageNet-C", "-", "ImageNet-1K: ImageNet-A"]


@pytest.mark.slow
def test_stand_ins_are_shown_in_the_order_of_the_configuration(demo: synthetic.Made) -> None:
    folders = [
        folder for folder in demo.runs
        if folder.name.startswith(("glyphs", "motions")) and "vit-t" not in folder.name
        and folder.name.endswith(("vanilla", "lambda-0.35"))
    ]  # fmt: skip
    cells = table(Results(folders, [0, 1], order={"data": ["glyphs", "motions"]}), ASKED)
    assert cells["paper"].isna().all()
    kinds = cells["kind"].value_counts().to_dict()
    # as printed, and GSNR in another way; with a second path gains in percent, and of accuracies
    assert kinds == {
        "value": 36 + 8,
        "relative gain": 8,
        "gain": 14,
        "item test": 6,
        "item test, Holm": 6,
    }
    assert cells["group"].unique().tolist() == ["Glyphs-100", "Motions"]
    turned = table(Results(folders, [0, 1], order={"data": ["motions", "glyphs"]}), ASKED)
    assert turned["group"].unique().tolist() == ["Motions", "Glyphs-100"]


def test_another_estimator_gives_another_gsnr_alone(demo: synthetic.Made) -> None:
    folders = [f for f in demo.runs if f.name in ("glyphs_vit-s_vanilla",)]
    folders += [f for f in demo.runs if f.name.startswith("glyphs_vit-s_auxiliary")
                and f.name.endswith("0.35")]  # fmt: skip
    plain, debiased = (
        table(Results(folders, [0, 1], estimator=name), ASKED) for name in ("plain", "debiased")
    )
    differs = (plain["mean"] / plain["scale"]).ne(debiased["mean"] / debiased["scale"])
    assert plain[differs]["column"].unique().tolist() == [
        "GSNR", "GSNR gain at equal loss",
    ]  # fmt: skip


def test_without_auxiliary_training_it_is_an_error(tmp_path: Path) -> None:
    runs = [Run(IMAGENET, VITS["ViT-S"], **exactly({"test": 80.1}))]
    with pytest.raises(ValueError, match="table4: there must be runs of variant auxiliary"):
        table(synthetic.collected(tmp_path, runs), ASKED)
