"""From files to frames: settings, means over shifts, epochs and blocks, and what is missing."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from safetensors.numpy import save_file

from rectify.analysis.collect import Results
from rectify.results.declared import COST, FILTERING, HISTORY, SCORES
from rectify.results.files import write_json
from rectify.results.tables import note_path, read_note, read_table, write_table
from tests.helpers import synthetic
from tests.helpers.synthetic import LLAMA, VITS, Model, Run

GLYPHS = Model("glyphs", "Glyphs", 0)


def a_run(**settings: object) -> Run:
    """Return a run whose GSNR is the product of epoch + 1 and block + 1, plus the seed."""
    numbers = {"test": 0.5, "k": 0.8, "c": 0.3, "a": 0.2, "sk": 0.15, "r": 0.1}
    defaults = {"depth": 3, "epochs": 2, "shifts": ("c", "a", "sk", "r")}
    return Run(
        GLYPHS,
        VITS["ViT-S"],
        lambda seed, name: numbers[name] + seed / 100,
        lambda seed, epoch, block, estimator: (epoch + 1) * (block + 1) + seed,
        **{**defaults, **settings},
    )


def test_a_row_has_the_settings_of_its_run_and_the_titles_of_its_labels(tmp_path: Path) -> None:
    run = a_run(variant="insert", control="random", language=LLAMA, layer=31, position="2")
    row = synthetic.collected(tmp_path, [run], (0, 1)).runs.iloc[1]
    assert row["run"] == "glyphs_vit-s_insert-random_llama-7b_layer-31_2"
    assert (row["seed"], row["data_title"], row["vision_title"]) == (1, "Glyphs", "ViT-S")
    assert (row["layer"], row["insert_at"], row["depth"], row["k"]) == (31, 2, 3, 5)
    assert (row["language"], row["language_title"]) == ("llama-7b", "LLaMA-7B")
    assert (row["variant"], row["control"], row["position"]) == ("insert", "random", "2")
    assert row["task"] == "image_classification"


def test_a_vanilla_run_has_no_control(tmp_path: Path) -> None:
    row = synthetic.collected(tmp_path, [a_run()]).runs.iloc[0]
    assert (row["control"], row["language"], row["lambda"]) == (None, None, 0)
    assert math.isnan(row["layer"])


def test_metrics_are_means_over_conditions_epochs_and_blocks(tmp_path: Path) -> None:
    runs = synthetic.collected(tmp_path, [a_run()], (0, 1)).runs
    first, second = (row for _, row in runs.iterrows())
    assert first["accuracy"] == 0.5
    assert second["accuracy_topk"] == pytest.approx(0.81)
    assert first["accuracy_c"] == pytest.approx(0.3)  # 2 corruptions x 5 severities around it
    assert first[["accuracy_a", "accuracy_sk", "accuracy_r"]].tolist() == [0.2, 0.15, 0.1]
    assert first["gsnr_plain"] == pytest.approx(1.5 * 2)  # mean of (1, 2) x mean of (1, 2, 3)
    assert second["gsnr_debiased"] == pytest.approx(1.5 * 2 + 1)


def test_losses_are_those_of_the_last_epoch_and_of_the_test_set(tmp_path: Path) -> None:
    second = synthetic.collected(tmp_path, [a_run()], (0, 1)).runs.iloc[1]
    assert second["main_loss"] == pytest.approx(3.0 - 1 - 0.1)
    assert second["train_loss"] == 3.0
    assert second["test_loss"] == pytest.approx(2.0 - 0.51)


def test_the_last_epoch_and_the_best_are_kept_and_one_of_them_is_reported(tmp_path: Path) -> None:
    folder = synthetic.write_run(tmp_path, a_run(epochs=3), (0,))
    path = folder / "seed-0" / "history.csv"
    history = read_table(HISTORY, path)
    is_accuracy = history["metric"] == "accuracy"
    history.loc[is_accuracy, "value"] = [0.4, 0.7, 0.5]
    write_table(HISTORY, history, path, synthetic.SOURCE)
    last, best = (Results([folder], [0], report=name).runs.iloc[0] for name in ("last", "best"))
    names = ["accuracy", "accuracy_last", "accuracy_best"]
    assert last[names].tolist() == [0.5, 0.5, 0.7]
    assert best[names].tolist() == [0.7, 0.5, 0.7]


def test_without_a_second_k_there_is_one_accuracy(tmp_path: Path) -> None:
    runs = synthetic.collected(tmp_path, [a_run(k=1)]).runs
    assert "accuracy_topk" not in runs
    assert runs["k"].tolist() == [1]


def test_a_shift_that_was_not_evaluated_has_no_column(tmp_path: Path) -> None:
    assert "accuracy_c" not in synthetic.collected(tmp_path, [a_run(shifts=())]).runs


def test_gsnr_is_kept_by_epoch_block_and_estimator(tmp_path: Path) -> None:
    gsnr = synthetic.collected(tmp_path, [a_run()], (0, 1)).gsnr
    assert len(gsnr) == 2 * 2 * 3 * 4
    place = gsnr[(gsnr["seed"] == 1) & (gsnr["epoch"] == 1) & (gsnr["block"] == 2)]
    assert set(place["gsnr"]) == {7.0}


def test_history_is_kept_by_epoch_and_metric(tmp_path: Path) -> None:
    history = synthetic.collected(tmp_path, [a_run()], (0, 1)).history
    losses = history[(history["metric"] == "main_loss") & (history["seed"] == 0)]
    assert losses.set_index("epoch")["value"].to_dict() == {0: 3.0, 1: 2.0}
    assert set(history["data_title"]) == {"Glyphs"}


def test_similarity_comes_with_the_facts_of_its_description(tmp_path: Path) -> None:
    file = synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 3, np.eye(2))
    frame = Results(similarity_files=[file]).similarity
    assert set(frame["language"]) == {"llama-7b"}
    assert set(frame["seed"]) == {3}
    assert frame["chance"].iloc[0] == pytest.approx(10 / 1023)
    assert list(frame["mutual_knn"]) == [1, 0, 0, 1]


def test_similarity_has_the_titles_of_the_configuration_or_else_names(tmp_path: Path) -> None:
    file = synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 0, np.eye(2))
    titles = {"vision": {"vit-s": "ViT-Small"}, "language": {"other": "Other"}}
    results = Results(similarity_files=[file], titles=titles)
    assert set(results.similarity["vision_title"]) == {"ViT-Small"}
    assert set(results.similarity["language_title"]) == {"llama-7b"}
    assert set(results.similarity["vision_parameters"]) == {VITS["ViT-S"].parameters}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"folders": [Path("a/runs/x"), Path("b/runs/x")]},
            "each run must be given once, got x twice",
        ),
        (
            {"folders": [Path("x"), Path("y"), Path("x")]},
            "each run must be given once, got x twice",
        ),
        ({"seeds": [0, 1, 0]}, "each seed must be given once, got 0 twice"),
        (
            {"similarity_files": [Path("a.csv"), Path("b/../a.csv")]},
            "each similarity table must be given once",
        ),
        ({"cost_files": [Path("a.csv"), Path("a.csv")]}, "each cost table must be given once"),
    ],
)
def test_what_is_given_twice_would_count_twice(given: dict[str, list], message: str) -> None:
    files = {
        key: [Path(f"{one}") if key != "seeds" else one for one in each]
        for key, each in given.items()
    }
    with pytest.raises(ValueError, match=f"^results: {message}") as caught:
        Results(**files)
    assert "\n" not in str(caught.value)


def test_costs_have_the_titles_of_the_configuration(tmp_path: Path) -> None:
    row = dict.fromkeys(COST.names, 2) | {"variant": "vanilla"}
    source = {**synthetic.SOURCE, "facts": {"vision": "vit-s", "language": "llama-7b"}}
    write_table(COST, DataFrame([row]), tmp_path / "cost.csv", source)
    titles = {"vision": {"vit-s": "ViT-S"}, "language": {}}
    costs = Results(cost_files=[tmp_path / "cost.csv"], titles=titles).costs
    assert costs[["vision_title", "language_title"]].to_numpy().tolist() == [["ViT-S", "llama-7b"]]
    assert costs["flops"].tolist() == [2]


def test_nothing_given_is_an_empty_frame() -> None:
    results = Results(seeds=[0])
    frames = (results.runs, results.gsnr, results.history, results.similarity, results.costs)
    assert all(frame.empty for frame in frames)
    assert "variant" in results.runs


@pytest.mark.parametrize("name", ["history.csv", "gsnr.csv", "scores.csv"])
def test_a_missing_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    results = synthetic.collected(tmp_path, [a_run()])
    (Path(results.folders[0]) / "seed-0" / name).unlink()
    with pytest.raises(ValueError, match=f"seed-0/{name}: .* got no file") as error:
        results.runs  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "labels.json"])
def test_a_missing_run_or_label_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    results = synthetic.collected(tmp_path, [a_run()])
    (Path(results.folders[0]) / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: must exist, got no file"):
        results.runs  # noqa: B018


def test_a_missing_seed_is_named_in_one_line(tmp_path: Path) -> None:
    folder = synthetic.write_run(tmp_path, a_run(), (0,))
    with pytest.raises(ValueError, match=r"seed-1/history\.csv"):
        Results([folder], [0, 1]).runs  # noqa: B018


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    folder = synthetic.write_run(tmp_path, a_run(), (0,))
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["epochs"] = 300
    (folder / "config.json").write_text(json.dumps(config))
    for frame in ("runs", "gsnr", "history"):
        with pytest.raises(ValueError, match="seed-0: a finished run must have 300 epochs, got 2"):
            getattr(Results([folder], [0]), frame)


def test_scores_without_the_test_set_are_refused(tmp_path: Path) -> None:
    results = synthetic.collected(tmp_path, [a_run()])
    path = Path(results.folders[0]) / "seed-0" / "scores.csv"
    write_table(SCORES, [("a", "-", "accuracy", 1, 5, 0.5)], path, synthetic.SOURCE)
    with pytest.raises(ValueError, match="there must be rows of the set test, got none"):
        results.runs  # noqa: B018


def test_a_similarity_without_its_facts_is_refused(tmp_path: Path) -> None:
    file = synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 0, np.eye(2))
    note = json.loads(file.with_suffix(".csv.json").read_text())
    del note["provenance"]["facts"]["chance"]
    file.with_suffix(".csv.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="the facts must name chance, got pairs, language,"):
        Results(similarity_files=[file]).similarity  # noqa: B018


def test_similarities_on_different_pairs_are_not_mixed(tmp_path: Path) -> None:
    files = [
        synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 0, np.eye(2), pairs=pairs)
        for pairs in ("emoji", "glyphs")
    ]
    for file, pairs in zip(files, ("emoji", "glyphs"), strict=True):
        assert set(Results(similarity_files=[file]).similarity["pairs"]) == {pairs}
    with pytest.raises(ValueError, match=r"similarity: .* the same pairs, got emoji, glyphs"):
        Results(similarity_files=files).similarity  # noqa: B018


def test_activations_are_read_for_every_seed_and_maps_for_the_first(demo, tmp_path):
    names = ("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl_layer-7_end")
    folders = [folder for folder in demo.runs if folder.name in names]
    made = synthetic.filtering_of(Results(folders, [0, 1]).runs)
    kept = synthetic.maps_of(Results(folders, [0, 1]).runs)
    copies = []
    for folder, maps in zip(folders, kept, strict=True):
        copy = Path(shutil.copytree(folder, tmp_path / folder.name))
        for seed in (0, 1):
            rows = made[(made["run"] == folder.name) & (made["seed"] == seed)]
            file = copy / f"seed-{seed}" / "filtering.csv"
            write_table(FILTERING, rows[FILTERING.names], file, synthetic.SOURCE)
        save_file(dict(maps.arrays), copy / "seed-0" / "maps.safetensors")
        copies.append(copy)
    results = Results(copies, [0, 1])
    keys = ["run", "seed", "place", "activation"]
    expected = made.set_index(keys)["iou"].sort_index()
    found = results.filtering.set_index(keys)["iou"].sort_index()
    assert found.index.tolist() == expected.index.tolist()
    assert found.tolist() == pytest.approx(expected.tolist())
    assert [maps.run["run"] for maps in results.maps] == [copy.name for copy in copies]
    assert all(maps.run["seed"] == 0 for maps in results.maps)
    for maps, written in zip(results.maps, kept, strict=True):
        assert maps.arrays.keys() == written.arrays.keys()
        assert all((maps.arrays[name] == written.arrays[name]).all() for name in maps.arrays)
    (copies[0] / "seed-0" / "maps.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="must be an intact file of arrays, got ") as told:
        _ = Results(copies, [0, 1]).maps
    assert "\n" not in f"{told.value}"


def test_sources_are_the_runs_and_every_device_that_computed_what_is_read(tmp_path: Path) -> None:
    inserted = a_run(variant="insert", language=LLAMA, layer=31, position="2")
    made = synthetic.collected(tmp_path, [a_run(), inserted], (0, 1))
    assert made.sources == {"runs": [f.name for f in made.folders], "devices": ["cpu"]}
    history = made.folders[1] / "seed-1" / "history.csv"
    note = read_note(history)
    note["provenance"]["device"] = "H100"
    write_json(note_path(history), note)
    assert made.sources["devices"] == ["H100", "cpu"]
    assert Results().sources == {"runs": [], "devices": []}
