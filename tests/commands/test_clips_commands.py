"""Something-Something-v2 through prepare-data, train and evaluate, on generated clips."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rectify.commands import assembly, evaluate, prepare_data, train
from rectify.config import settings
from rectify.data.augment import normalise
from rectify.data.clip_augment import EvaluationClip
from rectify.data.clips import decode, evaluation_frames
from rectify.data.images import load_set
from rectify.records import EVALUATION, GSNR, HISTORY, read_json, read_note, read_table
from rectify.runs import Run
from tests.commands.test_train_evaluate import TIMES, interrupt_after, run
from tests.data.ssv2_tree import CLASSES, CONFIG, write_checkpoint, write_tree

pytestmark = pytest.mark.usefixtures("restored_runtime")

RUNS = {
    "vanilla": Run("ssv2", "vit-s"),
    "insert": Run("ssv2", "vit-s", "insert", "tiny", 1, "end"),
    "auxiliary": Run("ssv2", "vit-s", "auxiliary", "tiny", 1, "end", 0.35),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A prepared set and a start checkpoint, made once; tests do not change them."""
    folder = tmp_path_factory.mktemp("ssv2")
    write_tree(folder / "ssv2")
    write_checkpoint(folder / "start.pth")
    values = CONFIG["data"]["ssv2"] | {"folder": f"{folder / 'ssv2'}", "seed": 0}
    chosen = {key: value for key, value in values.items() if key not in ("training", "visions")}
    run(prepare_data, data="ssv2", settings=json.dumps(chosen), folder=folder / "data", threads=2)
    return folder


def settings_of(tree, variant, **values):
    config = json.loads(json.dumps(CONFIG))
    own = config["data"]["ssv2"]["visions"]["vit-s"]
    own["start"] = f"{tree / 'start.pth'}"
    own["training"] = values
    return settings(config, RUNS[variant])


def train_it(folder, tree, chosen, name="run", block=None, seed=0, threads=1):
    (folder / "config.json").write_text(json.dumps(chosen))
    places = {"checkpoint": folder / "states" / name, "output": folder / name}
    common = {"config": folder / "config.json", "data": tree / "data", "threads": threads}
    run(train, **common, **places, seed=seed, block=block)
    return read_table(HISTORY, folder / name / "history.csv")


def evaluate_it(folder, tree, block=None, data=None, name="run"):
    run(
        evaluate,
        config=folder / "config.json",
        model=folder / name / "model.safetensors",
        block=block,
        data=data or tree / "data",
        seed=0,
        threads=1,
        output=folder / name / "evaluation.csv",
    )
    return read_table(EVALUATION, folder / name / "evaluation.csv")


@pytest.mark.parametrize("variant", RUNS)
def test_clips_are_trained_with_gsnr_and_evaluated_in_six_views(
    tmp_path, tree, block_file, variant
):
    chosen = settings_of(tree, variant)
    block = None if variant == "vanilla" else block_file
    history = train_it(tmp_path, tree, chosen, block=block)
    assert history["auxiliary_loss"].notna().all() == (variant == "auxiliary")
    gradients = read_table(GSNR, tmp_path / "run" / "gsnr.csv")
    measured = assembly.vit_of(chosen).blocks[0].parameters()
    assert set(gradients["parameters"]) == {sum(one.numel() for one in measured)}
    rows = evaluate_it(tmp_path, tree, block=None if variant == "auxiliary" else block)
    row = rows.iloc[0].to_dict()
    assert (row["shift"], row["items"], row["k"]) == ("none", 6, 2)
    kept = None if variant == "auxiliary" else block
    best, among = by_hand(tree, chosen, kept, tmp_path / "run" / "model.safetensors")
    assert row["accuracy_top1"] == pytest.approx(best)
    assert row["accuracy_topk"] == pytest.approx(among)


def by_hand(tree, chosen, block, weights):
    """Each view of each clip on its own; shares averaged in a loop."""
    model = assembly.trained_of(chosen, block, 0, weights).eval()
    items, best, among = load_set(tree / "data", "test"), 0, 0
    for source, label in zip(items.sources, items.labels.tolist(), strict=True):
        scores = torch.zeros(3)
        for view in range(2):
            clip = decode(
                tree / "ssv2" / source,
                lambda length, view=view: evaluation_frames(length, 4, 2)[4 * view :][:4],
            )
            for crop in normalise(EvaluationClip(image_size=32, frames=4, crops=3)(clip)):
                scores += model(crop[None])[0].detach().softmax(0)
        order = scores.argsort(descending=True).tolist()
        best, among = best + (order[0] == label), among + (label in order[:2])
    return best / 6, among / 6


def test_the_training_starts_from_the_checkpoint_with_a_small_head(tmp_path, tree, block_file):
    source = torch.load(tree / "start.pth", weights_only=False)["model"]
    for variant in RUNS:
        block = None if variant == "vanilla" else block_file
        chosen = settings_of(tree, variant)
        plain = assembly.model_of(chosen, block, 0)
        before = assembly.trunk_of(plain).head.weight.clone()
        assembly.start(chosen, plain)
        vit = assembly.trunk_of(plain)
        assert torch.equal(vit.blocks[1].mlp.fc1.weight, source["encoder.blocks.1.mlp.fc1.weight"])
        torch.testing.assert_close(vit.head.weight, before * 1e-3)
    train_it(tmp_path, tree, settings_of(tree, "vanilla"))
    facts = read_note(tmp_path / "run" / "history.csv")["provenance"]["facts"]
    assert facts["start"] == f"{tree / 'start.pth'}"
    assert len(facts["start_sha256"]) == 64
    state = load_file(tmp_path / "run" / "model.safetensors")
    assert "pos_embed" not in state
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["parameters"] == summary["parameters_trained"]
    assert summary["parameters"] == sum(tensor.numel() for tensor in state.values())


def test_a_run_repeats_with_any_number_of_threads_and_after_a_kill(tmp_path, tree, monkeypatch):
    chosen = settings_of(tree, "vanilla")
    whole = train_it(tmp_path, tree, chosen, "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_it(tmp_path, tree, chosen, "again")
    again = train_it(tmp_path, tree, chosen, "again")
    columns = [name for name in HISTORY.names if name not in TIMES]
    assert again[columns].to_csv() == whole[columns].to_csv()
    for name in ("gsnr.csv", "model.safetensors"):
        left, right = (tmp_path / one / name for one in ("whole", "again"))
        assert left.read_bytes() == right.read_bytes()
    other = train_it(tmp_path, tree, chosen, "other", seed=1)
    assert other["train_loss"].tolist() != whole["train_loss"].tolist()


def test_a_set_with_its_classes_in_another_order_is_refused_at_test(tmp_path, tree):
    train_it(tmp_path, tree, settings_of(tree, "vanilla"))
    shutil.copytree(tree / "ssv2", tmp_path / "other")
    numbers = {name: str((number + 1) % 3) for number, name in enumerate(CLASSES)}
    (tmp_path / "other" / "labels" / "labels.json").write_text(json.dumps(numbers))
    chosen = {"reader": "ssv2", "classes": 3, "seed": 0, "folder": f"{tmp_path / 'other'}"}
    run(prepare_data, data="ssv2", settings=json.dumps(chosen), folder=tmp_path / "data")
    with pytest.raises(ValueError, match="must have learnt the classes in the order of") as caught:
        evaluate_it(tmp_path, tree, data=tmp_path / "data")
    assert "\n" not in str(caught.value)
    evaluate_it(tmp_path, tree)


def test_weights_that_do_not_say_what_they_learnt_are_refused(tmp_path, tree):
    train_it(tmp_path, tree, settings_of(tree, "vanilla"))
    path = tmp_path / "run" / "model.safetensors"
    with safe_open(path, "pt") as file:
        assert len(json.loads(file.metadata()["facts"])["label_order"]) == 64
    save_file(load_file(path), path)
    with pytest.raises(ValueError, match=r"got none\. Train the run again"):
        evaluate_it(tmp_path, tree)


def test_a_missing_start_is_one_line_and_nothing_is_trained(tmp_path, tree):
    chosen = settings_of(tree, "vanilla")
    chosen["vision"]["start"] = f"{tmp_path / 'absent.pth'}"
    with pytest.raises(ValueError, match=r"absent\.pth: must be a whole file of tensors") as caught:
        train_it(tmp_path, tree, chosen)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_clip_that_breaks_later_stops_the_training_by_name(tmp_path, tree):
    shutil.copytree(tree / "ssv2", tmp_path / "ssv2")
    chosen = {"reader": "ssv2", "classes": 3, "seed": 0, "folder": f"{tmp_path / 'ssv2'}"}
    run(prepare_data, data="ssv2", settings=json.dumps(chosen), folder=tmp_path / "data")
    (tmp_path / "ssv2" / "videos" / "103.webm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"103\.webm: must be a clip that can be decoded"):
        train_it(tmp_path, tmp_path, settings_of(tree, "vanilla"))
