"""The commands train and evaluate on a tiny set, in this process and in processes of their own."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rectify.data.manifests import manifest
from rectify.data.sets import ImageSet, load_set, save_files, save_sets
from rectify.language.block import block_facts
from rectify.results.declared import GSNR, NOISE, NOISE_QUANTITIES
from rectify.results.files import read_json
from rectify.results.provenance import provenance
from rectify.results.tables import read_note, read_table
from rectify.tasks.image_classification.augment import normalise
from rectify.training.folders import remove_states
from rectify.trunks.vit import create_vit
from tests.helpers.processes import run_rectify
from tests.helpers.training import (
    OVERRIDES,
    TIMES,
    evaluating,
    history_of,
    interrupt_after,
    portion,
    predictions,
    settings_of,
    share,
    training,
    without_times,
    write_set,
)

pytestmark = pytest.mark.usefixtures("restored_runtime")

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = {
    "vanilla": ("vanilla", "frozen"),
    "insert": ("insert", "frozen"),
    "auxiliary": ("auxiliary", "frozen"),
    "residual": ("residual", "frozen"),
    "random": ("insert", "random"),
    "scratch": ("auxiliary", "scratch"),
    "mlp": ("insert", "mlp"),
    "head": ("auxiliary", "head"),
}


@pytest.fixture
def folder(tmp_path, images):
    write_set(tmp_path / "data", images)
    return tmp_path


def states(folder, name="run"):
    """The saved states of a training, the oldest first."""
    return sorted((folder / "states" / name).glob("0*.pt"))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_is_trained_and_scored_from_files_to_files(folder, block_file, name):
    variant, control = VARIANTS[name]
    settings = settings_of(variant, control)
    block = None if name in ("vanilla", "head") else block_file
    history = training(folder, settings, block=block)
    assert history.index.tolist() == [0, 1, 2]
    assert ("auxiliary_loss" in history) == (variant == "auxiliary")
    names = ("gsnr.csv", "history.csv")
    kinds = {*names, *(f"{name}.json" for name in names), "model.safetensors", "summary.json"}
    assert {path.name for path in (folder / "run").iterdir()} == kinds
    assert len(states(folder)) == 1
    gradients = read_table(GSNR, folder / "run" / "gsnr.csv")
    assert len(gradients) == 3 * 2 * 4
    rows = evaluating(folder, settings, block=block if variant in ("insert", "residual") else None)
    assert rows[["set", "group"]].drop_duplicates().values.tolist() == [
        ["c", "noise/1"],
        ["c", "noise/3"],
        ["r", "-"],
        ["test", "-"],
    ]
    assert rows["items"].tolist() == [5] * 9 + [16] * 3
    assert (
        rows[["metric", "k"]].values.tolist() == [["accuracy", 1], ["accuracy", 2], ["loss", 0]] * 4
    )
    assert share(rows) == history["accuracy"].iloc[-1]
    assert share(rows, "loss", 0) == pytest.approx(history["test_loss"].iloc[-1], rel=1e-8)


def test_measuring_every_step_trains_the_same_and_shows_the_noise_of_each(folder):
    settings = settings_of(training={"accumulate": 2})
    training(folder, settings, "plain")
    settings["gsnr"]["every_step"] = {"samples": 4, "steps": 2}
    training(folder, settings, "noise")
    for name in ("gsnr.csv", "model.safetensors"):
        assert (folder / "noise" / name).read_bytes() == (folder / "plain" / name).read_bytes()
    assert not (folder / "plain" / "noise.csv").exists()
    noise = read_table(NOISE, folder / "noise" / "noise.csv")
    noise = noise.set_index(["epoch", "step", "block", "quantity"])["value"].unstack()
    places = [(epoch, step, block) for epoch in range(3) for step in (0, 2) for block in range(2)]
    assert noise.index.tolist() == places
    assert noise.columns.tolist() == sorted(NOISE_QUANTITIES)
    is_estimated = noise["square_error"] > 0
    assert is_estimated.groupby("step").all().tolist() == [True, False]  # gsnr measures 0 and 2
    assert is_estimated.groupby("step").any().tolist() == [True, False]
    assert noise["coherence"].between(0, 8).all()


def test_samples_that_are_no_equal_parts_of_the_passes_are_one_line(folder):
    settings = settings_of(training={"accumulate": 2})
    for samples in (5, 2, 10):
        settings["gsnr"]["every_step"] = {"samples": samples, "steps": 1}
        with pytest.raises(ValueError, match=rf"of a step, in 4..8, got {samples}\. Change"):
            training(folder, settings)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("vit_small_patch14_reg4_dinov2", {"weight_init": ""}),
        ("vit_base_patch16_siglip_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
)
def test_other_vision_models_of_timm_are_trained_the_same_way(folder, block_file, name, overrides):
    settings = settings_of("auxiliary")
    vision = {"timm": name, "overrides": OVERRIDES | overrides}
    settings["vision"] = settings["vision"] | vision
    history = training(folder, settings, block=block_file)
    gradients = read_table(GSNR, folder / "run" / "gsnr.csv")
    assert len(gradients) == 3 * 2 * 4
    assert (gradients.loc[gradients["estimator"] == "plain", "gsnr"] > 0).all()
    rows = evaluating(folder, settings)
    assert share(rows) == history["accuracy"].iloc[-1]
    sizes = {"num_classes": 5, "image_size": 16, "channels": 1}
    vit = create_vit(name, **sizes, overrides=vision["overrides"])
    vit.load_state_dict(load_file(folder / "run" / "model.safetensors"), strict=True)


def test_the_predictions_are_the_scores_of_each_item_of_the_plain_test_set(folder):
    settings = settings_of()
    training(folder, settings)
    rows = evaluating(folder, settings)
    items = predictions(folder / "run")
    assert items.columns.tolist() == ["item", "accuracy@1", "accuracy@2", "loss"]
    assert items["item"].tolist() == list(range(16))
    assert {f"{kind}" for kind in items.dtypes[1:]} == {"float32"}
    vit = create_vit(
        "vit_tiny_patch16_224", num_classes=5, image_size=16, channels=1, overrides=OVERRIDES
    )
    vit.load_state_dict(load_file(folder / "run" / "model.safetensors"), strict=True)
    test = load_set(folder / "data", "test")
    logits = vit.eval()(normalise(test.images)).detach()
    right = logits.argmax(1) == test.labels
    assert np.array_equal(items["accuracy@1"], right.float())
    assert share(rows) == right.double().mean().item()
    losses = -logits.log_softmax(1)[range(16), test.labels]
    np.testing.assert_allclose(items["loss"], losses, rtol=1e-5)
    assert share(rows, "loss", 0) == pytest.approx(items["loss"].mean(), rel=1e-5)


def test_another_k_is_scored_without_another_training(folder):
    settings = settings_of()
    training(folder, settings)
    rows = evaluating(folder, settings, evaluation={"top_k": 3})
    assert sorted(set(rows["k"])) == [0, 1, 3]
    only = evaluating(folder, settings, evaluation={})
    assert sorted(set(only["k"])) == [0, 1]
    assert share(only) == share(rows)
    with pytest.raises(ValueError, match="top_k must not exceed the 5 classes, got 6"):
        evaluating(folder, settings, evaluation={"top_k": 6})


def test_the_sets_with_fewer_classes_let_only_those_compete(folder, images):
    """Of ImageNet-R alone: the classes that its items have."""
    settings = settings_of()
    slices = {"train": slice(0, 24), "test": slice(0, 24)}
    sets = {split: portion(images, items) for split, items in slices.items()}
    for shift in ("test-r", "test-sk"):  # items of two classes
        items = [item for item in range(40) if images.labels[item] > 2]
        sources = tuple(images.sources[item] for item in items)
        pixels, labels = images.images[items], images.labels[items]
        sets[shift] = ImageSet(pixels, labels, images.classes, sources, (), True)
    save_sets(folder / "data", sets, provenance())
    training(folder, settings)
    rows = evaluating(folder, settings)
    assert share(rows, k=2, name="r") == 1.0
    assert share(rows, k=2, name="sk") < 1.0


def test_the_summary_and_the_notes_say_what_was_trained(folder, block_file):
    settings = settings_of("auxiliary")
    history = training(folder, settings, block=block_file)
    summary = read_json(folder / "run" / "summary.json")
    assert (summary["run"], summary["seed"], summary["epochs"]) == (settings["run"], 0, 3)
    for metric in ("accuracy", "test_loss"):
        assert summary[metric] == pytest.approx(history[metric].iloc[-1], rel=1e-8)
    tensors = load_file(block_file)  # the language model's own final norm is there, but not used
    frozen = sum(one.numel() for name, one in tensors.items() if not name.startswith("final_norm"))
    assert summary["parameters"] - summary["parameters_trained"] == frozen
    note = read_note(folder / "run" / "gsnr.csv")["provenance"]
    assert (note["seed"], note["facts"]["run"]) == (0, settings["run"])
    assert note["facts"]["block"] == block_facts(block_file)
    assert len(note["facts"]["block"]["sha256"]) == 64


def test_the_weights_of_an_auxiliary_run_are_those_of_a_plain_vit(folder, block_file):
    training(folder, settings_of("auxiliary"), block=block_file)
    vit = create_vit(
        "vit_tiny_patch16_224", num_classes=5, image_size=16, channels=1, overrides=OVERRIDES
    )
    vit.load_state_dict(load_file(folder / "run" / "model.safetensors"), strict=True)


@pytest.mark.parametrize("epochs", [0, 1, 2])
@pytest.mark.slow
def test_a_killed_run_resumes_to_the_result_of_an_undisturbed_one(
    folder, block_file, monkeypatch, epochs
):
    settings = settings_of("auxiliary")
    undisturbed = training(folder, settings, "undisturbed", block=block_file)
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs)
        with pytest.raises(KeyboardInterrupt):
            training(folder, settings, "killed", block=block_file)
    assert not (folder / "killed").exists()
    assert len(states(folder, "killed")) == min(epochs, 2)
    resumed = training(folder, settings, "killed", block=block_file)
    assert without_times(resumed) == without_times(undisturbed)
    for name in ("gsnr.csv", "model.safetensors", "summary.json"):
        killed, other = folder / "killed" / name, folder / "undisturbed" / name
        assert killed.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("variant", ["vanilla", "auxiliary"])
def test_results_that_are_lost_after_the_last_step_come_from_the_last_state(
    folder, block_file, monkeypatch, variant
):
    settings, block = settings_of(variant), None if variant == "vanilla" else block_file
    training(folder, settings, block=block)
    before = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    shutil.rmtree(folder / "run")
    interrupt_after(monkeypatch, 0)  # as would any further epoch
    training(folder, settings, block=block)
    after = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == []


def test_the_states_of_trainings_that_have_results_are_removed(tmp_path):
    for name in ("done/seed-0", "done/seed-1", "open/seed-0"):
        folder = tmp_path / "states" / name
        folder.mkdir(parents=True)
        (folder / "00000002-.pt").touch()
        (folder / "lease").touch()
    results = tmp_path / "runs" / "done" / "seed-0"
    results.mkdir(parents=True)
    (results / "summary.json").touch()
    remove_states(tmp_path)
    rest = [path.relative_to(tmp_path).parts[1:3] for path in tmp_path.rglob("*.pt")]
    assert sorted(rest) == [("done", "seed-1"), ("open", "seed-0")]
    assert len(list(tmp_path.rglob("lease"))) == 3


@pytest.mark.parametrize("what", ["settings", "data", "seed"])
@pytest.mark.slow
def test_a_state_of_other_settings_or_data_is_not_used(folder, images, monkeypatch, what):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            training(folder, settings_of())
    settings = settings_of()
    if what == "settings":
        settings = settings_of(training={"lr": 0.002})
    if what == "data":
        sets = {"train": portion(images, slice(8, 32)), "test": portion(images, slice(0, 8))}
        save_sets(folder / "data", sets, provenance())
    if what == "seed":
        with pytest.raises(ValueError, match=r"seed 1, got 5 and 0\. Delete it"):
            training(folder, settings, seed=1)
        return
    first = training(folder, settings)
    again = training(folder, settings, "again")
    assert without_times(first) == without_times(again)


@pytest.mark.slow
def test_of_two_states_the_intact_one_is_used(folder, monkeypatch, caplog):
    undisturbed = training(folder, settings_of(), "undisturbed")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            training(folder, settings_of())
    last = states(folder)[-1]
    last.write_bytes(last.read_bytes()[:-2000])
    with caplog.at_level("INFO"):
        resumed = training(folder, settings_of())
    assert f"{last} is damaged" in caplog.text
    assert "resumed after epoch 1 of 3" in caplog.text
    assert without_times(resumed) == without_times(undisturbed)


def scalars(events: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a folder: steps and values by name."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(f"{events}")
    accumulator.Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def test_tensorboard_shows_the_history_and_the_gsnr_of_each_block(folder):
    history = training(folder, settings_of(), trackers="tensorboard", events=folder / "events")
    shown = scalars(folder / "events")
    expected = {name: list(history[name].items()) for name in history}
    gsnr = read_table(GSNR, folder / "run" / "gsnr.csv").sort_values("epoch")
    for (estimator, block), rows in gsnr.groupby(["estimator", "block"]):
        values = zip(rows["epoch"], rows["gsnr"], strict=True)
        expected[f"gsnr/{estimator}/block-{block}"] = list(values)
    assert shown.keys() == expected.keys()
    for name, values in expected.items():
        assert shown[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in values]


@pytest.mark.slow
def test_tensorboard_shows_a_resumed_or_repeated_training_once(folder, monkeypatch):
    events, more = folder / "events", {"trackers": "tensorboard", "events": folder / "events"}
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            training(folder, settings_of(), **more)
    assert [step for step, _ in scalars(events)["train_loss"]] == [0, 1]
    training(folder, settings_of(), **more)
    assert [step for step, _ in scalars(events)["train_loss"]] == [0, 1, 2]
    history = training(folder, settings_of(training={"lr": 0.01}), "again", **more)
    shown = scalars(events)["train_loss"]
    assert [value for _, value in shown] == pytest.approx(list(history["train_loss"]), rel=1e-6)


def test_damaged_or_foreign_weights_are_one_line(folder, block_file):
    settings = settings_of()
    training(folder, settings)
    path = folder / "run" / "model.safetensors"
    intact = path.read_bytes()
    path.write_bytes(intact[: len(intact) // 2])
    message = "must be an intact file of tensors, got "
    with pytest.raises(ValueError, match=message) as caught:
        evaluating(folder, settings)
    assert "\n" not in str(caught.value)
    path.write_bytes(intact)
    with pytest.raises(ValueError, match=r"tensor .* must be absent, got .* Train this run again"):
        evaluating(folder, settings_of("insert"), block=block_file)
    with pytest.raises(ValueError, match=message):
        evaluating(folder, settings, model=folder / "absent.safetensors")
    assert not (folder / "run" / "scores.csv").exists()
    assert not (folder / "run" / "predictions.parquet").exists()


def test_a_variant_without_its_block_is_one_line(folder):
    with pytest.raises(ValueError, match=r"variant insert .* must have a block, got none"):
        training(folder, settings_of("insert"))


@pytest.mark.parametrize("changes", [{"layer": 0}, {"language": "other"}])
@pytest.mark.parametrize("variant", ["insert", "auxiliary"])
def test_the_block_of_another_layer_is_one_line(folder, block_file, changes, variant):
    settings = settings_of(variant, **changes)
    named = {"language": "tiny", "layer": 1, **changes}
    words = (
        f"must be layer {named['layer']} of {named['language']}, as the run says, got layer 1 of"
    )
    with pytest.raises(ValueError, match=f"{words} tiny") as caught:
        training(folder, settings, block=block_file)
    assert "\n" not in str(caught.value)
    assert not (folder / "run").exists()


def test_a_block_of_another_layer_is_not_evaluated(folder, block_file):
    training(folder, settings_of("insert"), block=block_file)
    with pytest.raises(ValueError, match="must be layer 0 of tiny, as the run says, got layer 1"):
        evaluating(folder, settings_of("insert", layer=0), block=block_file)


def test_a_vanilla_run_takes_no_block(folder, block_file):
    with pytest.raises(ValueError, match="of None, as the run says, got layer 1 of tiny"):
        training(folder, settings_of(), block=block_file)


def test_a_depth_that_is_not_the_models_is_one_line(folder):
    settings = settings_of()
    settings["vision"]["depth"] = 12
    with pytest.raises(
        ValueError, match="depth must be the number of the trunk's blocks, 2, got 1"
    ):
        training(folder, settings)


def test_a_training_without_the_gpu_that_it_asks_for_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^runtime: .* by device_gpus, 1, got 0\."):
        training(folder, settings_of(), gpus=1)
    assert not (folder / "run").exists()


def test_the_first_line_of_a_training_says_where_it_runs(folder, caplog):
    with caplog.at_level("INFO"):
        training(folder, settings_of())
    first = next(record.message for record in caplog.records if "rectify" in record.name)
    assert first == "toy_vit-s_vanilla, seed 0, on the CPU, 1 threads, process 1 of 1"


def test_randaugment_of_grey_images_is_one_line(folder):
    values = {"auto_augment": "rand-m9", "crop": "resized"}
    with pytest.raises(ValueError, match=r"need RGB images, got 1 channel\. Set training"):
        training(folder, settings_of(training=values))


def test_colour_images_in_files_are_trained_with_randaugment(folder):
    draws = torch.Generator().manual_seed(0)
    for item in range(24):
        pixels = torch.randint(0, 256, (20 + item % 3, 24, 3), generator=draws, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{item}.png")
    items = [("test" if item % 3 == 0 else "train", item % 5) for item in range(24)]
    rows = [(*pair, f"class {pair[1]}", f"{item}.png") for item, pair in enumerate(items)]
    save_files(folder / "data", folder, manifest(rows), provenance())
    values = {"epochs": 2, "batch_size": 8, "warmup_epochs": 0, "lr": 5e-4, "lr_batch_size": 512}
    files = {"crop": "resized", "auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25}
    settings = settings_of(data={"channels": 3}, training=values | files)
    first, again = training(folder, settings), training(folder, settings, "again")
    assert without_times(first) == without_times(again)
    assert share(evaluating(folder, settings)) == first["accuracy"].iloc[-1]
    on_device = settings_of(
        data={"channels": 3}, training=values | files | {"augment_on": "device"}
    )
    assert without_times(training(folder, on_device, "device")) == without_times(first)


def test_shifted_sets_in_files_are_read_from_the_folders_that_the_evaluation_names(folder):
    draws = torch.Generator().manual_seed(0)
    for item in range(24):
        pixels = torch.randint(0, 256, (20, 24, 3), generator=draws, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{item}.png")
    items = [("test" if item % 3 == 0 else "train", item % 5) for item in range(24)]
    rows = [(*pair, f"class {pair[1]}", f"{item}.png") for item, pair in enumerate(items)]
    save_files(folder / "data", folder, manifest(rows), provenance())
    shifted = [("test-sk", item % 5, f"class {item % 5}", f"{item}.png") for item in range(6)]
    save_files(folder / "data" / "shift-sk", folder, manifest(shifted), provenance())
    values = {"epochs": 1, "warmup_epochs": 0, "crop": "resized"}
    settings = settings_of(data={"channels": 3}, training=values)
    training(folder, settings)
    plain = evaluating(folder, settings)
    assert set(plain["set"]) == {"test"}
    both = evaluating(folder, settings, evaluation={"top_k": 2, "shifts": {"sk": "any/place"}})
    assert both.loc[both["set"] == "sk", "items"].tolist() == [6, 6, 6]
    with pytest.raises(ValueError, match=r"shift-r.manifest\.csv: a manifest table must be here"):
        evaluating(folder, settings, evaluation={"shifts": {"r": "any/place"}})
    wrong = [("test-sk", 0, "class 1", "0.png")]
    save_files(folder / "data" / "shift-sk", folder, manifest(wrong), provenance())
    with pytest.raises(ValueError, match="each class must have the number that it has in"):
        evaluating(folder, settings, evaluation={"shifts": {"sk": "any/place"}})


def test_an_unknown_key_of_the_evaluation_is_one_line(folder):
    settings = settings_of()
    training(folder, settings)
    with pytest.raises(ValueError, match="Did you mean top_k"):
        evaluating(folder, settings, evaluation={"topk": 2})


def test_a_mistyped_record_is_one_line(folder):
    with pytest.raises(ValueError, match="every key must be known, got 'lambda_flor'"):
        training(folder, settings_of(lambda_flor=0.1))


def words(folder, settings, name, threads=1):
    """The command line of a training, for a process of its own."""
    (folder / "config.json").write_text(json.dumps(settings))
    given = {
        "--config": folder / "config.json",
        "--data": folder / "data",
        "--seed": 0,
        "--threads": threads,
        "--states": folder / "states" / name,
        "--output": folder / name,
    }
    options = [f"{word}" for pair in given.items() for word in pair]
    return ["train", *options]


def ended(command, **options):
    """Run a command to its end, in a process of its own; return its status and what it said."""
    done = run_rectify(command, ROOT, **options)
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(folder):
    status, errors = ended(words(folder, settings_of(training={"batch_size": 26}), "run"))
    assert status == 2
    assert errors == (
        "training: batch_size must not exceed the 24 training items, got 26. "
        "Lower training.batch_size in the config.\n"
    )
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_two_processes_train_as_one(folder):
    """The same losses and GSNR with the same global batch, where nothing is drawn within it."""
    quiet = {"mixup": 0, "cutmix": 0, "drop_path": 0, "random_erasing": 0.5, "clip_gradient": 0.5}
    settings = settings_of(training=quiet)
    settings["gsnr"]["every_step"] = {"samples": 8, "steps": 1}
    alone = training(folder, settings, "one")
    status, errors = ended([*words(folder, settings, "two", threads=2), "--processes", "2"])
    assert status == 0, errors
    pair = [history.drop(columns=list(TIMES)) for history in (history_of(folder / "two"), alone)]
    pd.testing.assert_frame_equal(*pair, rtol=1e-4)
    gradients = [read_table(GSNR, folder / name / "gsnr.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*gradients, rtol=5e-3, atol=1e-8)
    noise = [read_table(NOISE, folder / name / "noise.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*noise, rtol=2e-2, atol=1e-3)
    first, second = (load_file(folder / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in first.items():
        kept = slice(None, None, 2) if name.endswith("qkv.bias") else slice(None)  # key: rounding
        chunks = zip(tensor.chunk(3)[kept], second[name].chunk(3)[kept], strict=True)
        assert all(torch.allclose(*pair, atol=1e-3) for pair in chunks), name  # one step of lr


@pytest.mark.slow
def test_a_signal_saves_within_the_epoch_and_the_same_command_resumes(folder):
    settings = settings_of(training={"epochs": 20})
    settings["gsnr"]["every_step"] = {"samples": 4, "steps": 2}
    undisturbed = training(folder, settings, "undisturbed")
    command = words(folder, settings, "stopped")
    status, errors = ended(command, signal_after=("epoch 1:", signal.SIGUSR2))
    assert status == os.EX_TEMPFAIL, errors
    assert "and saved. Rerun the same command to resume." in errors
    assert not (folder / "stopped").exists()
    status, errors = ended(command)
    assert (status, "resumed after epoch" in errors) == (0, True), errors
    assert without_times(history_of(folder / "stopped")) == without_times(undisturbed)
    for name in ("gsnr.csv", "noise.csv", "model.safetensors"):
        stopped, other = folder / "stopped" / name, folder / "undisturbed" / name
        assert stopped.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_mistake_in_several_processes_is_one_line_and_status_2(folder):
    settings = settings_of(training={"batch_size": 6})
    status, errors = ended([*words(folder, settings, "two"), "--processes", "2"])
    assert status == 2
    assert "must divide into 2 processes" in errors
    assert "Traceback" not in errors
