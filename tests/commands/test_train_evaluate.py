"""The commands resolve, train and evaluate on a tiny set, in this process."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rectify import evaluation
from rectify.commands import assembly, evaluate, resolve, train
from rectify.data.images import ImageSet, manifest, save_files, save_sets
from rectify.language import block_facts
from rectify.provenance import provenance
from rectify.records import EVALUATION, GSNR, HISTORY, read_json, read_note, read_table
from rectify.vision import create_vit

pytestmark = pytest.mark.usefixtures("restored_runtime")

ROOT = Path(__file__).resolve().parents[2]
BLOCK = {"language": {"name": "tiny", "title": "Tiny"}, "layer": 1, "position": "end"}
OVERRIDES = {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 8}
SETTINGS = {
    "run": "toy_vit-s_vanilla",
    "data": {
        "name": "toy",
        "title": "Toy",
        "classes": 5,
        "image_size": 16,
        "channels": 1,
        "frames": 1,
        "top_k": 2,
        "embedded": True,
    },
    "vision": {"name": "vit-s", "timm": "vit_tiny_patch16_224", "depth": 2, "overrides": OVERRIDES},
    "variant": "vanilla",
    "language": None,
    "layer": None,
    "position": None,
    "insert_at": None,
    "lambda_init": 0.0,
    "final_norm": "unit",
    "recipe": {
        "recipe": "paper",
        "epochs": 3,
        "batch_size": 8,
        "warmup_epochs": 1,
        "lr": 0.001,
        "lr_batch_size": None,
        "crop": "padded",
        "pad": 2,
        "auto_augment": None,
        "random_erasing": 0,
    },
    "gsnr": {
        "batches": 2,
        "estimator": "plain",
        "xi": 1e-8,
        "mode": "observe",
        "loss": "total",
    },
}
TIMES = ["train_seconds", "images_per_second"]


def settings_of(variant="vanilla", **changes):
    name = f"toy_vit-s_{variant}"
    if variant == "vanilla":
        return {**SETTINGS, **changes}
    name += "_tiny_layer-1_end" + ("_lambda-0.35" if variant == "auxiliary" else "")
    weight = 0.35 if variant == "auxiliary" else 0.0
    named = {"run": name, "variant": variant, "insert_at": 2, "lambda_init": weight}
    return {**SETTINGS, **BLOCK, **named, **changes}


@pytest.fixture
def folder(tmp_path, images):
    """A prepared set with a training set, a test set and two shifted ones."""
    train_set = part(images, slice(0, 24))
    test_set = part(images, slice(24, 40))
    sets = {
        "train": train_set,
        "test": test_set,
        **{
            name: part(images, slice(30, 35))
            for name in ("test-c/noise/3", "test-c/noise/1", "test-r")
        },
    }
    save_sets(tmp_path / "data", sets, provenance())
    return tmp_path


def part(images, items):
    pixels, labels = images.images[items].clone(), images.labels[items].clone()
    return ImageSet(pixels, labels, images.classes, images.sources[items])


def run(command, **arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = [(f"--{key}", str(value)) for key, value in arguments.items() if value is not None]
    command.run(parser.parse_args([word for pair in given for word in pair]))


def resolved(folder, settings):
    run(resolve, settings=json.dumps(settings), output=folder / "config.json")
    return folder / "config.json"


def training(folder, settings, name="run", seed=0, **more):
    run(
        train,
        config=resolved(folder, settings),
        data=folder / "data",
        seed=seed,
        threads=1,
        checkpoint=folder / "checkpoints" / name,
        output=folder / name,
        **more,
    )
    return read_table(HISTORY, folder / name / "history.csv")


def evaluating(folder, settings, name="run", **more):
    arguments = {"model": folder / name / "model.safetensors", "seed": 0} | more
    output = folder / name / "evaluation.csv"
    config = resolved(folder, settings)
    run(evaluate, config=config, data=folder / "data", threads=1, output=output, **arguments)
    return read_table(EVALUATION, output)


def states(folder, name="run"):
    """The saved states of a training, the oldest first."""
    return sorted((folder / "checkpoints" / name).glob("0*.pt"))


def interrupt_after(monkeypatch, epochs):
    """Make the test of an epoch fail after so many epochs, as a killed job does."""
    real, calls = evaluation.accuracies, []

    def failing(*arguments, **more):
        calls.append(1)
        if len(calls) > epochs:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(evaluation, "accuracies", failing)


@pytest.mark.parametrize("variant", ["vanilla", "insert", "auxiliary", "random", "tuned", "mlp"])
def test_a_run_is_trained_and_evaluated_from_files_to_files(folder, block_file, variant):
    settings, block = settings_of(variant), None if variant == "vanilla" else block_file
    history = training(folder, settings, block=block)
    assert history["epoch"].tolist() == [0, 1, 2]
    assert history["auxiliary_loss"].notna().all() == (variant == "auxiliary")
    names = ("gsnr.csv", "history.csv")
    kinds = {*names, *(f"{name}.json" for name in names), "model.safetensors", "summary.json"}
    assert {path.name for path in (folder / "run").iterdir()} == kinds
    assert len(states(folder)) == 1
    gradients = read_table(GSNR, folder / "run" / "gsnr.csv")
    assert len(gradients) == 3 * 2 * 4
    kept = None if variant == "auxiliary" else block
    rows = evaluating(folder, settings, block=kept)
    assert rows[["shift", "condition", "severity"]].values.tolist() == [
        ["c", "noise", 1],
        ["c", "noise", 3],
        ["none", "-", 0],
        ["r", "-", 0],
    ]
    assert rows["items"].tolist() == [5, 5, 16, 5]
    last, plain = history.iloc[-1], rows[rows["shift"] == "none"].iloc[0]
    assert plain["accuracy_top1"] == last["accuracy_top1"]
    assert plain["accuracy_topk"] == last["accuracy_topk"]


def test_the_summary_and_the_notes_say_what_was_trained(folder, block_file):
    settings = settings_of("auxiliary")
    history = training(folder, settings, block=block_file)
    summary = read_json(folder / "run" / "summary.json")
    assert (summary["run"], summary["seed"], summary["epochs"]) == (settings["run"], 0, 3)
    assert summary["accuracy_top1"] == history["accuracy_top1"].iloc[-1]
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


def test_the_vit_starts_the_same_in_every_variant(block_file):
    torch.manual_seed(3)
    plain = assembly.model_of(settings_of(), None, 0).state_dict()
    torch.manual_seed(4)
    for variant in ("insert", "auxiliary", "adapter", "random", "tuned"):
        vit = assembly.model_of(settings_of(variant), block_file, 0).vit.state_dict()
        assert all(torch.equal(vit[name], tensor) for name, tensor in plain.items())
    other = assembly.model_of(settings_of(), None, 1).state_dict()
    assert not torch.equal(other["blocks.0.attn.qkv.weight"], plain["blocks.0.attn.qkv.weight"])


def test_the_controls_are_what_they_are_called(block_file):
    found = load_file(block_file)
    for variant, same in (("insert", True), ("tuned", True), ("random", False)):
        model = assembly.model_of(settings_of(variant), block_file, 0)
        block = model.bridge.inner[0]
        tensor = block.state_dict()["decoder.self_attn.q_proj.weight"]
        assert torch.equal(tensor, found["self_attn.q_proj.weight"]) == same
        trained = [parameter.requires_grad for parameter in block.parameters()]
        assert set(trained) == {variant == "tuned"}


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_killed_run_goes_on_to_the_result_of_an_undisturbed_one(
    folder, block_file, monkeypatch, epochs
):
    settings = settings_of("auxiliary")
    whole = training(folder, settings, "whole", block=block_file)
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs)
        with pytest.raises(KeyboardInterrupt):
            training(folder, settings, "killed", block=block_file)
    assert not (folder / "killed").exists()
    assert len(states(folder, "killed")) == min(epochs, 2)
    resumed = training(folder, settings, "killed", block=block_file)
    columns = [name for name in HISTORY.names if name not in TIMES]
    assert resumed[columns].to_csv() == whole[columns].to_csv()
    for name in ("gsnr.csv", "model.safetensors", "summary.json"):
        killed, other = folder / "killed" / name, folder / "whole" / name
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
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "00000002-.pt").touch()
        (folder / "lease").touch()
    results = tmp_path / "runs" / "done" / "seed-0"
    results.mkdir(parents=True)
    (results / "summary.json").touch()
    train.remove_states(tmp_path)
    left = [path.relative_to(tmp_path).parts[1:3] for path in tmp_path.rglob("*.pt")]
    assert sorted(left) == [("done", "seed-1"), ("open", "seed-0")]
    assert len(list(tmp_path.rglob("lease"))) == 3


@pytest.mark.parametrize("what", ["settings", "data", "seed"])
def test_a_checkpoint_of_other_settings_or_data_is_not_used(folder, images, monkeypatch, what):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            training(folder, settings_of())
    settings = settings_of()
    if what == "settings":
        settings = settings_of(recipe={**SETTINGS["recipe"], "lr": 0.002})
    if what == "data":
        sets = {"train": part(images, slice(8, 32)), "test": part(images, slice(0, 8))}
        save_sets(folder / "data", sets, provenance())
    if what == "seed":
        with pytest.raises(ValueError, match=r"seed 1, got 2 and 0\. Delete it"):
            training(folder, settings, seed=1)
        return
    first = training(folder, settings)
    again = training(folder, settings, "again")
    columns = [name for name in HISTORY.names if name not in TIMES]
    assert first[columns].to_csv() == again[columns].to_csv()


def test_of_two_checkpoints_the_whole_one_is_used(folder, monkeypatch, caplog):
    whole = training(folder, settings_of(), "whole")
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
    columns = [name for name in HISTORY.names if name not in TIMES]
    assert resumed[columns].to_csv() == whole[columns].to_csv()


def test_event_files_are_written_beside(folder):
    pytest.importorskip("tensorboard")
    training(folder, settings_of(), tensorboard=folder / "events")
    assert [path.name[:6] for path in (folder / "events").iterdir()] == ["events"]


def test_damaged_or_foreign_weights_are_one_line(folder, block_file):
    settings = settings_of()
    training(folder, settings)
    path = folder / "run" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a whole safetensors file, got ") as caught:
        evaluating(folder, settings)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="must hold exactly the model's tensors"):
        evaluating(folder, settings_of("insert"), block=block_file)
    with pytest.raises(ValueError, match="must be a whole safetensors file, got "):
        evaluating(folder, settings, model=folder / "absent.safetensors")
    assert not (folder / "run" / "evaluation.csv").exists()


def test_a_variant_without_its_block_is_one_line(folder):
    with pytest.raises(ValueError, match="variant insert must have a block, got none"):
        training(folder, settings_of("insert"))


def test_randaugment_of_grey_images_is_one_line(folder):
    recipe = {**SETTINGS["recipe"], "auto_augment": "rand-m9", "crop": "resized"}
    with pytest.raises(ValueError, match=r"need RGB images, got 1 channel\. Set training"):
        training(folder, settings_of(recipe=recipe))


def test_colour_images_in_files_are_trained_with_randaugment(folder):
    draws = torch.Generator().manual_seed(0)
    for item in range(24):
        pixels = torch.randint(0, 256, (20 + item % 3, 24, 3), generator=draws, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{item}.png")
    items = [("test" if item % 3 == 0 else "train", item % 5) for item in range(24)]
    rows = [(*one, f"class {one[1]}", f"{item}.png") for item, one in enumerate(items)]
    save_files(folder / "data", folder, manifest(rows), provenance())
    data = {**SETTINGS["data"], "channels": 3, "embedded": False}
    recipe = {"recipe": "paper", "epochs": 2, "batch_size": 8, "warmup_epochs": 0}
    settings = settings_of(data=data, recipe=recipe)
    first, again = training(folder, settings), training(folder, settings, "again")
    columns = [name for name in HISTORY.names if name not in TIMES]
    assert first[columns].to_csv() == again[columns].to_csv()
    assert evaluating(folder, settings)["accuracy_top1"][0] == first["accuracy_top1"].iloc[-1]


def test_settings_with_a_wrong_name_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="a run must be named"):
        run(resolve, settings='{"run": "toy"}', output=tmp_path / "config.json")
    assert list(tmp_path.iterdir()) == []


def command_line(*words):
    done = subprocess.run(
        [sys.executable, "-m", "rectify", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_mistake_on_the_command_line_is_one_line_and_status_2(folder):
    config = resolved(folder, settings_of(recipe={**SETTINGS["recipe"], "batch_size": 26}))
    status, errors = command_line(
        *("train", "--config", config, "--data", folder / "data", "--seed", 0, "--threads", 1),
        *("--checkpoint", folder / "checkpoints", "--output", folder / "run"),
    )
    assert status == 2
    assert errors == (
        "training: batch_size must not exceed the 24 training items, got 26. "
        "Lower training.batch_size in the config.\n"
    )
    assert not (folder / "run").exists()


def words(folder, name, threads=1):
    """The command line of a training, for a process of its own."""
    given = {
        "--config": folder / "config.json",
        "--data": folder / "data",
        "--seed": 0,
        "--threads": threads,
        "--checkpoint": folder / "checkpoints" / name,
        "--output": folder / name,
    }
    return ["-m", "rectify", "train", *(str(word) for pair in given.items() for word in pair)]


def test_two_processes_train_as_one(folder, images):
    """The same losses and GSNR with the same global batch, where nothing is drawn within it."""
    quiet = {"mixup": 0, "cutmix": 0, "drop_path": 0, "random_erasing": 0.5}
    settings = settings_of(recipe={**SETTINGS["recipe"], **quiet})
    one = training(folder, settings, "one")
    ended = subprocess.run(
        [sys.executable, *words(folder, "two", threads=2), "--processes", "2"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    two = read_table(HISTORY, folder / "two" / "history.csv")
    columns = [name for name in HISTORY.names if name not in TIMES]
    pd.testing.assert_frame_equal(two[columns], one[columns], rtol=1e-4)
    gradients = [read_table(GSNR, folder / name / "gsnr.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*gradients, rtol=5e-3, atol=1e-8)
    weights = [load_file(folder / name / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        parts = tensor.chunk(3)[::2] if name.endswith("qkv.bias") else [tensor]  # key: rounding
        others = weights[1][name].chunk(3)[::2] if name.endswith("qkv.bias") else [weights[1][name]]
        for part_, other in zip(parts, others, strict=True):
            assert torch.allclose(part_, other, atol=1e-3), name  # one step of lr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_within_the_epoch_and_the_same_command_goes_on(folder, number):
    settings = settings_of(recipe={**SETTINGS["recipe"], "epochs": 60})
    whole = training(folder, settings, "whole")
    command = [sys.executable, *words(folder, "stopped")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stderr.readline, "")
        assert any("epoch 1:" in line for line in lines)
        process.send_signal(number)
        rest = "".join(lines)
    assert process.returncode == os.EX_TEMPFAIL, rest
    assert "and saved. The same command goes on." in rest
    assert not (folder / "stopped").exists()
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, "resumed after epoch" in ended.stderr) == (0, True), ended.stderr
    stopped = read_table(HISTORY, folder / "stopped" / "history.csv")
    columns = [name for name in HISTORY.names if name not in TIMES]
    assert stopped[columns].to_csv() == whole[columns].to_csv()
    for name in ("gsnr.csv", "model.safetensors"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_a_mistake_in_several_processes_is_one_line_and_status_2(folder):
    settings = settings_of(recipe={**SETTINGS["recipe"], "batch_size": 6})
    resolved(folder, settings)
    command = [sys.executable, *words(folder, "two"), "--processes", "2"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "must divide into 2 processes" in ended.stderr
    assert "Traceback" not in ended.stderr
