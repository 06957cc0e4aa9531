"""From files to frames: settings, means over shifts, epochs and blocks, and what is missing."""

import json
import math

import numpy as np
import pytest

from rectify.analysis.collect import collect_gsnr, collect_runs, collect_similarity
from tests.analysis import synthetic
from tests.analysis.synthetic import LLAMA, VITS, Model, Run

GLYPHS = Model("glyphs", "Glyphs", 0)


def a_run(**settings) -> Run:
    """Return a run whose GSNR is the product of epoch + 1 and block + 1, plus the seed."""
    numbers = {"none": 0.5, "k": 0.8, "c": 0.3, "a": 0.2, "sk": 0.15, "r": 0.1}
    defaults = {"depth": 3, "epochs": 2, "shifts": ("c", "a", "sk", "r")}
    return Run(
        GLYPHS,
        VITS["ViT-S"],
        lambda seed, name: numbers[name] + seed / 100,
        lambda seed, epoch, block, estimator: (epoch + 1) * (block + 1) + seed,
        **{**defaults, **settings},
    )


def test_a_row_has_the_settings_of_its_run(tmp_path):
    run = a_run(variant="insert", language=LLAMA, layer=31, position="end")
    folder = synthetic.write_run(tmp_path, run, (0, 1))
    row = collect_runs([folder], [0, 1]).iloc[1]
    assert row["run"] == "glyphs_vit-s_insert_llama-7b_layer-31_end"
    assert (row["seed"], row["data_title"], row["vision_title"]) == (1, "Glyphs", "ViT-S")
    assert (row["layer"], row["insert_at"], row["depth"], row["k"]) == (31, 3, 3, 5)
    assert (row["language"], row["language_title"]) == ("llama-7b", "LLaMA-7B")
    assert math.isnan(row["language_parameters"])  # config.json need not know them


def test_metrics_are_means_over_conditions_epochs_and_blocks(tmp_path):
    folder = synthetic.write_run(tmp_path, a_run(), (0, 1))
    first, second = (row for _, row in collect_runs([folder], [0, 1]).iterrows())
    assert first["accuracy_top1"] == 0.5
    assert second["accuracy_topk"] == pytest.approx(0.81)
    assert first["accuracy_c"] == pytest.approx(0.3)  # 2 corruptions x 5 severities around it
    assert first[["accuracy_a", "accuracy_sk", "accuracy_r"]].tolist() == [0.2, 0.15, 0.1]
    assert first["gsnr_plain"] == pytest.approx(1.5 * 2)  # mean of (1, 2) x mean of (1, 2, 3)
    assert second["gsnr_debiased"] == pytest.approx(1.5 * 2 + 1)


def test_a_shift_that_was_not_evaluated_is_empty(tmp_path):
    folder = synthetic.write_run(tmp_path, a_run(shifts=()), (0,))
    assert math.isnan(collect_runs([folder], [0]).iloc[0]["accuracy_c"])


def test_gsnr_is_kept_by_epoch_block_and_estimator(tmp_path):
    folder = synthetic.write_run(tmp_path, a_run(), (0, 1))
    gsnr = collect_gsnr([folder], [0, 1])
    assert len(gsnr) == 2 * 2 * 3 * 4
    one = gsnr[(gsnr["seed"] == 1) & (gsnr["epoch"] == 1) & (gsnr["block"] == 2)]
    assert set(one["gsnr"]) == {7.0}


def test_similarity_comes_with_the_facts_of_its_description(tmp_path):
    file = synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 3, np.eye(2))
    frame = collect_similarity([file])
    assert set(frame["language_title"]) == {"LLaMA-7B"}
    assert set(frame["seed"]) == {3}
    assert frame["chance"].iloc[0] == pytest.approx(10 / 1023)
    assert list(frame["mutual_knn"]) == [1, 0, 0, 1]


def test_nothing_given_is_an_empty_frame():
    assert collect_runs([], [0]).empty
    assert collect_gsnr([], [0]).empty
    assert collect_similarity([]).empty


@pytest.mark.parametrize("name", ["history.csv", "gsnr.csv", "evaluation.csv"])
def test_a_missing_file_is_named_in_one_line(tmp_path, name):
    folder = synthetic.write_run(tmp_path, a_run(), (0,))
    (folder / "seed-0" / name).unlink()
    with pytest.raises(ValueError, match=f"seed-0/{name}: .* got no file") as error:
        collect_runs([folder], [0])
    assert "\n" not in str(error.value)


def test_a_missing_run_or_seed_is_named_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"nothing/config\.json: must exist, got no file"):
        collect_runs([tmp_path / "nothing"], [0])
    folder = synthetic.write_run(tmp_path, a_run(), (0,))
    with pytest.raises(ValueError, match=r"seed-1/history\.csv"):
        collect_runs([folder], [0, 1])


def test_an_unfinished_run_is_refused(tmp_path):
    folder = synthetic.write_run(tmp_path, a_run(), (0,))
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["epochs"] = 300
    (folder / "config.json").write_text(json.dumps(config))
    for collect in (collect_runs, collect_gsnr):
        with pytest.raises(ValueError, match="seed-0: a finished run must have 300 epochs, got 2"):
            collect([folder], [0])


def test_a_similarity_without_its_facts_is_refused(tmp_path):
    file = synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 0, np.eye(2))
    note = json.loads(file.with_suffix(".csv.json").read_text())
    del note["provenance"]["facts"]["chance"]
    file.with_suffix(".csv.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="the facts must name chance, got language,"):
        collect_similarity([file])
