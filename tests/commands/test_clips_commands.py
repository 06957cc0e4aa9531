"""Something-Something-v2 through prepare-data, train and evaluate, on generated clips."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rectify.commands import prepare_data
from rectify.data.sets import load_set
from rectify.experiment.run import RunSettings
from rectify.rectified import trunk_of
from rectify.results.declared import GSNR
from rectify.results.files import read_json
from rectify.results.tables import read_note, read_table
from rectify.runtime import seed_globals
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.augment import normalise
from rectify.tasks.video_classification.augment import EvaluationClip
from rectify.tasks.video_classification.frames import decode, evaluation_frames
from rectify.tasks.video_classification.task import TASK
from rectify.training.models import trained, untrained
from rectify.typed import parse
from tests.helpers.ssv2_tree import (
    CLASSES,
    ENTRY,
    RECIPE,
    SIZES,
    settings_of,
    write_checkpoint,
    write_tree,
)
from tests.helpers.training import (
    evaluating,
    interrupt_after,
    run,
    share,
    training,
    without_times,
)

pytestmark = pytest.mark.usefixtures("restored_runtime")

VARIANTS = ("vanilla", "insert", "auxiliary")
VIEWS = {"top_k": 2, "views": {"time": 2, "space": 3}}


def prepare(source, folder):
    chosen = json.dumps(ENTRY | {"folder": f"{source}"})
    run(prepare_data, data="ssv2", settings=chosen, folder=folder, threads=2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A prepared set and a start checkpoint, made once; tests do not change them."""
    folder = tmp_path_factory.mktemp("ssv2")
    write_tree(folder / "ssv2")
    write_checkpoint(folder / "start.pth")
    prepare(folder / "ssv2", folder / "data")
    return folder


def train_it(folder, tree, variant="vanilla", name="run", **more):
    values = more.pop("values", {})
    settings = settings_of(tree / "start.pth", variant, **values)
    return training(folder, settings, name, **{"data": tree / "data"} | more)


def evaluate_it(folder, tree, variant="vanilla", evaluation=VIEWS, **more):
    settings = settings_of(tree / "start.pth", variant)
    given = {"data": tree / "data", "evaluation": evaluation}
    return evaluating(folder, settings, **given | more)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_clips_are_trained_with_gsnr_and_scored_in_six_views(tmp_path, tree, block_file, variant):
    block = None if variant == "vanilla" else block_file
    history = train_it(tmp_path, tree, variant, block=block)
    assert ("auxiliary_loss" in history) == (variant == "auxiliary")
    gradients = read_table(GSNR, tmp_path / "run" / "gsnr.csv")
    kept = block if variant == "insert" else None
    weights = tmp_path / "run" / "model.safetensors"
    settings = parse(RunSettings, read_json(tmp_path / "config.json"), "")
    model = trained(settings, TASK, kept, 0, weights).eval()
    measured = trunk_of(model).blocks["0"].parameters()
    assert set(gradients["parameters"]) == {sum(one.numel() for one in measured)}
    rows = evaluate_it(tmp_path, tree, variant, block=kept)
    assert rows["items"].tolist() == [6, 6, 6]
    entry = TASK.settings.for_run(ENTRY | VIEWS)
    (scored,) = TASK.test_sets(entry, tree / "data", settings.recipe, Machine(torch.device("cpu")))
    assert scored.source.views == entry.scored_views_of(6) == 6
    best, among, loss = by_hand(tree, model)
    assert share(rows) == pytest.approx(best)
    assert share(rows, k=2) == pytest.approx(among)
    assert share(rows, "loss", 0) == pytest.approx(loss, rel=1e-4)


def by_hand(tree, model):
    """Each view of each clip on its own; shares averaged in a loop."""
    items, best, among, loss = load_set(tree / "data", "test"), 0, 0, 0.0
    for source, label in zip(items.sources, items.labels.tolist(), strict=True):
        shares = torch.zeros(3)
        for view in range(2):
            clip = decode(
                tree / "ssv2" / source,
                lambda length, view=view: evaluation_frames(length, 4, 2)[4 * view :][:4],
            )
            for crop in normalise(EvaluationClip(image_size=32, frames=4, crops=3)(clip)):
                shares += model(crop[None])[0].detach().softmax(0) / 6
        order = shares.argsort(descending=True).tolist()
        best, among = best + (order[0] == label), among + (label in order[:2])
        loss -= shares[label].log().item()
    return best / 6, among / 6, loss / 6


@pytest.mark.slow
def test_other_views_are_scored_without_another_training(tmp_path, tree):
    history = train_it(tmp_path, tree)
    single = evaluate_it(tmp_path, tree, evaluation={"top_k": 2})
    assert share(single) == history["accuracy"].iloc[-1]
    assert share(single, "loss", 0) == pytest.approx(history["test_loss"].iloc[-1], rel=1e-8)
    six = evaluate_it(tmp_path, tree)
    assert share(six, "loss", 0) != share(single, "loss", 0)


@pytest.mark.slow
def test_the_training_starts_from_the_checkpoint_with_a_small_head(tmp_path, tree, block_file):
    source = torch.load(tree / "start.pth", weights_only=False)["model"]
    for variant in VARIANTS:
        block = None if variant == "vanilla" else block_file
        settings = parse(RunSettings, settings_of(tree / "start.pth", variant), "")
        seed_globals(0, "vit")
        entry = TASK.settings.for_run(
            {key: ENTRY[key] for key in ("task", "classes", "image_size", "frames")}
        )
        fresh = TASK.trunk(entry, settings.vision, None)  # as it is without checkpoint and scale
        vit = trunk_of(untrained(settings, TASK, block, 0)).plain
        assert torch.equal(vit.blocks[1].mlp.fc1.weight, source["encoder.blocks.1.mlp.fc1.weight"])
        torch.testing.assert_close(vit.head.weight, fresh.head.weight * 1e-3)
    train_it(tmp_path, tree)
    facts = read_note(tmp_path / "run" / "history.csv")["provenance"]["facts"]
    assert list(facts["starts"]) == [f"{tree / 'start.pth'}"]
    assert [len(digest) for digest in facts["starts"].values()] == [64]
    state = load_file(tmp_path / "run" / "model.safetensors")
    assert "pos_embed" not in state
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["parameters"] == summary["parameters_trained"]
    assert summary["parameters"] == sum(tensor.numel() for tensor in state.values())


@pytest.mark.slow
def test_a_run_repeats_and_resumes_after_a_kill(tmp_path, tree, monkeypatch):
    undisturbed = train_it(tmp_path, tree, name="undisturbed")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_it(tmp_path, tree, name="again")
    again = train_it(tmp_path, tree, name="again")
    assert without_times(again) == without_times(undisturbed)
    for name in ("gsnr.csv", "model.safetensors"):
        first, second = (tmp_path / folder / name for folder in ("undisturbed", "again"))
        assert first.read_bytes() == second.read_bytes()


def test_a_set_with_its_classes_in_another_order_is_refused_when_scored(tmp_path, tree):
    train_it(tmp_path, tree)
    shutil.copytree(tree / "ssv2", tmp_path / "other")
    numbers = {name: str((number + 1) % 3) for number, name in enumerate(CLASSES)}
    (tmp_path / "other" / "labels" / "labels.json").write_text(json.dumps(numbers))
    prepare(tmp_path / "other", tmp_path / "data")
    with pytest.raises(ValueError, match="must have learnt the classes in the order of") as caught:
        evaluate_it(tmp_path, tree, data=tmp_path / "data")
    assert "\n" not in str(caught.value)
    evaluate_it(tmp_path, tree)


def test_weights_that_do_not_say_what_they_learnt_are_refused(tmp_path, tree):
    train_it(tmp_path, tree)
    path = tmp_path / "run" / "model.safetensors"
    with safe_open(path, "pt") as file:
        assert len(json.loads(file.metadata()["facts"])["label_order"]) == 64
    save_file({name: tensor.clone() for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"got none\. Train the run again"):
        evaluate_it(tmp_path, tree)


def test_a_missing_start_is_one_line_and_nothing_is_trained(tmp_path, tree):
    settings = settings_of(tmp_path / "absent.pth")
    with pytest.raises(
        ValueError, match=r"absent\.pth: must be an intact file of tensors"
    ) as caught:
        training(tmp_path, settings, data=tree / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_start_of_another_family_is_one_line(tmp_path, tree):
    settings = settings_of(tree / "start.pth")
    settings["vision"]["family"] = None
    with pytest.raises(
        ValueError, match=r"vit-s must have family videomae to start from .*, got none"
    ):
        training(tmp_path, settings, data=tree / "data")
    settings["vision"] |= {"family": "videomea", "start": None}
    with pytest.raises(ValueError, match=r"got 'videomea'\. Did you mean videomae"):
        training(tmp_path, settings, data=tree / "data")


@pytest.mark.parametrize("crop", ["padded", "none"])
def test_clips_in_files_need_resized_crops(tmp_path, tree, crop):
    with pytest.raises(ValueError, match=f"clips in files need resized crops, got {crop}"):
        train_it(tmp_path, tree, values={"crop": crop, "auto_augment": None})


def test_clips_are_not_changed_on_the_device(tmp_path, tree):
    with pytest.raises(ValueError, match=r"so by workers, got augment_on device\. Set training"):
        train_it(tmp_path, tree, values={"augment_on": "device"})


def test_clips_in_memory_are_not_resized(tmp_path):
    chosen = {"task": ENTRY["task"], "reader": "motions", "classes": 10, "frames": 4}
    sizes = {"image_size": 32, "sizes": {"train_items": 2, "test_items": 1}}
    settings = settings_of(tmp_path)
    settings["data"] |= {"classes": 10, "channels": 1}
    settings["vision"] |= {"start": None, "overrides": SIZES}
    run(prepare_data, data="m", settings=json.dumps(chosen | sizes), folder=tmp_path / "data")
    with pytest.raises(ValueError, match="clips in memory are taken as they are stored, got crop"):
        training(tmp_path, settings)
    stored = RECIPE | {"crop": "none", "auto_augment": None, "flip": 0.0}
    values = settings_of(tmp_path, **stored)["recipe"]
    history = training(tmp_path, settings | {"recipe": values})
    assert history["accuracy"].between(0, 1).all()
    with pytest.raises(ValueError, match="clips in memory have one view, got 2 in time and 3"):
        evaluating(tmp_path, settings | {"recipe": values}, evaluation=VIEWS)


def test_a_clip_that_breaks_later_stops_the_training_by_name(tmp_path, tree):
    shutil.copytree(tree / "ssv2", tmp_path / "ssv2")
    prepare(tmp_path / "ssv2", tmp_path / "data")
    (tmp_path / "ssv2" / "videos" / "103.webm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"103\.webm: must be a clip that can be decoded"):
        train_it(tmp_path, tree, data=tmp_path / "data")
