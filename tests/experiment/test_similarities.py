"""Which similarities targets read, of which ViTs, and what a reading of the procedure runs."""

import json
from types import SimpleNamespace

import pytest

from rectify.experiment.grid import all_runs, read, targets
from rectify.experiment.plan import Plan
from rectify.experiment.required import data_folders, model_places
from tests.helpers.configs import DEMO, PAPER, changed

TRAINED = {"vision_features": "trained", "vision_data": "cifar100"}


class Wildcards:
    def __init__(self, target: str):
        self.target = target


def similarities(plan: Plan, target: str) -> list[str]:
    """Return the names of the similarity tables that a target reads."""
    files = plan.target_inputs(Wildcards(target))
    return [file.rpartition("/")[2] for file in files if "/similarity/" in file]


def test_each_target_has_its_own_vits_and_the_others_those_of_all() -> None:
    plan = Plan(read(changed(PAPER, "targets.figure5", TRAINED)))
    assert similarities(plan, "figure5") == [
        f"llama-7b--cifar100_vit-s_vanilla--seed-{seed}.csv" for seed in (0, 1, 2)
    ]
    for target in ("figure4", "selection"):
        assert similarities(plan, target) == ["llama-7b--vit-s--pretrained.csv"]
    assert len(similarities(plan, "table1")) == 12
    assert plan.target_options(Wildcards("figure5"))[-3:] == [
        f"results/paper/similarity/wit/{name}" for name in similarities(plan, "figure5")
    ]


def test_a_target_can_show_pretrained_vits_where_others_show_trained_ones() -> None:
    plan = Plan(read(changed(DEMO, "targets.figure4.vision_features", "pretrained")))
    assert similarities(plan, "figure4") == [
        f"{name}--vit-64--pretrained.csv" for name in ("llama-xl", "llama-untrained")
    ]
    assert similarities(plan, "selection") == [
        f"llama-xl--scripts_vit-64_vanilla--seed-{seed}.csv" for seed in (0, 1)
    ]
    other = Plan(read(changed(DEMO, "targets.figure4.vision_data", "digits")))
    assert similarities(other, "figure4")[0] == "llama-xl--digits_vit-64_vanilla--seed-0.csv"


def test_the_runs_and_weights_of_each_target_s_vits_are_needed() -> None:
    overlay = {name: TRAINED | {"vision_data": "bar"} for name in ("table1", "figure4", "figure5")}
    plan = Plan(read(changed(PAPER, "targets", overlay)))
    names = {run.name for run in all_runs(plan.config)}
    assert {f"bar_vit-{size}_vanilla" for size in "tsb"} <= names
    places = [place for place in model_places(plan) if place.startswith("weights")]
    assert places == ["weights of vit-s"]  # of selection alone
    assert len([place for place in model_places(Plan(read(PAPER))) if "weights of" in place]) == 3


EMOJI = {"task": "pairs", "title": "Emoji", "reader": "pairs", "image_size": 28}


def on_emoji(target: str, **keys: object) -> dict:
    """Return the demo with a second set of pairs, on which a target compares models."""
    values = changed(DEMO, "data.emoji", EMOJI)
    return changed(values, f"targets.{target}", {"pairs": "emoji", **keys})


def test_a_target_has_its_own_pairs_and_the_others_those_of_all() -> None:
    second = {"kind": "figure4", "vision": "vit-64", "languages": "llama-xl"}
    plan = Plan(read(on_emoji("emoji-figure", **second)))
    for target, pairs in (("figure4", "pairs"), ("emoji-figure", "emoji"), ("selection", "pairs")):
        folder = f"{plan.results}/similarity/{pairs}"
        files = [file for file in plan.target_inputs(Wildcards(target)) if "/similarity/" in file]
        assert f"{folder}/llama-xl--scripts_vit-64_vanilla--seed-0.csv" in files
        assert {file.rpartition("/")[0] for file in files} == {folder}
    assert plan.pair_sets == ["pairs", "emoji"]
    manifests = plan.prepared_pairs(SimpleNamespace(pairs="emoji"))
    assert manifests == [f"{plan.results}/data/emoji/manifest.csv"]


def test_figure_4_with_untrained_models_brings_a_table_of_the_same_pairs() -> None:
    keys = {"languages": "llama-xl", "untrained": "llama-untrained", "pairs": "emoji"}
    plan = Plan(read(on_emoji("figure4", **keys)))
    assert similarities(plan, "figure4") == [
        f"llama-xl--scripts_vit-64_vanilla--seed-{seed}.csv" for seed in (0, 1)
    ]
    assert plan.target_inputs(Wildcards("figure4-untrained")) == [
        f"{plan.results}/similarity/emoji/{name}--scripts_vit-64_vanilla--seed-{seed}.csv"
        for name in ("llama-xl", "llama-untrained")
        for seed in (0, 1)
    ]
    assert plan.target_files("figure4-untrained")[0].endswith("/tables/figure4-untrained.csv")
    with pytest.raises(ValueError, match=r"figure4\.untrained: must have the 8 layers .* with 1"):
        read(on_emoji("figure4", **keys | {"untrained": "opt-s"}))


def test_a_note_is_behind_the_caption() -> None:
    plan = Plan(read(changed(DEMO, "targets.figure4.note", "The ViT saw these pictures.")))
    plain = Plan(read(DEMO)).caption(Wildcards("figure4"))
    assert plan.caption(Wildcards("figure4")) == f"{plain} The ViT saw these pictures."
    for wrong in ("", "two\nlines", "long " * 50):
        with pytest.raises(ValueError, match=r"targets\.figure4\.note") as caught:
            read(changed(DEMO, "targets.figure4.note", wrong))
        assert "\n" not in f"{caught.value}"


def test_the_folders_of_the_pairs_that_are_used_are_required() -> None:
    values = changed(PAPER, "data.flickr", {**PAPER["data"]["wit"], "folder": "data/flickr"})
    assert set(data_folders(Plan(read(values)))) & {"wit", "flickr"} == {"wit"}
    values = changed(values, "targets.figure4.pairs", "flickr")
    folders = data_folders(Plan(read(values)))
    assert (folders["wit"], folders["flickr"]) == (["data/wit-1024"], ["data/flickr"])
    values = {**values, "targets": {"figure4": values["targets"]["figure4"]}}
    folders = data_folders(Plan(read({k: v for k, v in values.items() if k != "pages"})))
    assert "flickr" in folders
    assert "wit" not in folders


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (on_emoji("figure4", pairs="emojis"), "targets.figure4.pairs: .* Did you mean emoji"),
        (on_emoji("table1", pairs="glyphs"), "targets.table1.pairs: must be a data set of task "
         "pairs, got glyphs of image_classification"),
        (changed(DEMO, "similarity.pairs", "motions"), "similarity.pairs: must be a data set of "
         "task pairs, got motions of video_classification"),
        (on_emoji("table2", pairs="emoji"), "'pairs' at targets.table2"),
    ],
)  # fmt: skip
def test_pairs_that_are_unknown_or_of_another_task_are_one_line(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: .*{message}") as caught:
        read(values)
    assert "\n" not in f"{caught.value}"


def test_similarities_without_pairs_are_one_line() -> None:
    alone = {key: value for key, value in PAPER.items() if key not in ("similarity", "pages")}
    message = r"^config: targets\.table1: a target that shows similarities .* got no similarity"
    with pytest.raises(ValueError, match=message) as caught:
        read(alone)
    assert "\n" not in f"{caught.value}"
    kept = read(alone | {"targets": {"table3": PAPER["targets"]["table3"]}})
    assert "table3" in targets(kept)


READINGS = {"embedding": True, "final_norm": True, "first_token": False, "clamp": "per_sample"}


@pytest.mark.parametrize("key", READINGS)
def test_a_reading_changes_what_its_own_jobs_are_given(key: str) -> None:
    """Language features again, or the comparison alone; what a job is given makes it run again."""
    plan = Plan(read(PAPER))
    other = Plan(read(changed(PAPER, f"similarity.procedure.{key}", READINGS[key])))
    given = json.loads(plan.language_procedure())
    assert given == {"embedding": False, "final_norm": False, "first_token": True}
    if key == "clamp":
        assert other.language_procedure() == plan.language_procedure()
        assert (plan.clamp(), other.clamp()) == ("global", "per_sample")
    else:
        assert json.loads(other.language_procedure()) == given | {key: READINGS[key]}
        assert other.clamp() == plan.clamp()
