import dataclasses
import itertools
import json
from collections import Counter

import pytest
import timm
import torch

from rectify.controls import CONTROLS
from rectify.experiment import depth
from rectify.experiment.grid import (
    all_runs,
    asked,
    expand,
    load,
    pages,
    read,
    recipe_of,
    run_labels,
    run_settings,
    runs_of,
    targets,
)
from rectify.experiment.plan import Plan
from rectify.experiment.run import POSITIONS, Run
from tests.helpers.configs import DEMO, DEMO_PANG, PAPER, SMOKE, changed, replaced

BOTH = pytest.mark.parametrize("values", [PAPER, DEMO], ids=["paper", "demo"])
LAYER = {"language": "llama-7b", "layer": 31, "position": "end"}


@pytest.fixture(scope="module")
def paper():
    return read(PAPER)


@BOTH
def test_the_given_configurations_pass_and_every_run_comes_back_from_its_name(values):
    runs = all_runs(read(values))
    assert len(runs) == len(set(runs)) > 30
    assert [Run.parse(run.name) for run in runs] == runs


@pytest.mark.parametrize(
    ("values", "layers", "table4", "table5", "table6"),
    [
        (PAPER, 5, 2 * 2 * 2, 2 * 2 * 2, 3 * 5),  # sets x ViTs, with and without; sets x lambdas
        (DEMO, 3, 2 * 1 * 2, 3 * 1 * 2, 1 * 4),
    ],
    ids=["paper", "demo"],
)
def test_each_table_has_as_many_runs_as_it_has_cells(values, layers, table4, table5, table6):
    config = read(values)
    counts = {name: len(runs_of(config, target)) for name, target in targets(config).items()}
    assert counts["table2"] == 5  # the baseline and four models
    assert counts["table3"] == counts["figure5"] == 1 + layers * 3  # the baseline, positions
    assert (counts["table4"], counts["table5"], counts["table6"]) == (table4, table5, table6)
    assert counts["figure2"] == 2
    assert counts["figure3"] == 4  # the last layer at each position, and the baseline
    assert counts["controls"] == 6
    assert counts["coherence"] == counts["selection"] == counts["table3"]
    assert counts["table1"] == counts["figure4"] == counts["cost"] == 0


def test_the_demo_of_pang_et_al_has_every_target_of_their_page(paper):
    small = read(DEMO_PANG)
    # the paper's configuration does not measure while training, nor has it a second path there
    beyond = ["filtering-epochs", "questions", "retrieval", "rooms"]
    of_rooms = [*pages(paper)["rooms"]]  # a page of their own there
    shown = [name for name in targets(small) if name not in beyond]
    assert [name for name in shown if name not in of_rooms] == pages(paper)["pang"]
    assert [name for name in shown if name in of_rooms] == of_rooms
    counts = {name: len(runs_of(small, target)) for name, target in targets(small).items()}
    assert counts == {
        "pang_table1": 4, "pang_table2": 4, "pang_table3": 3, "pang_table4": 6, "pang_table5a": 3,
        "pang_table5a_retrieval": 3, "pang_table6": 4,
        "pang_table_a": 8, "pang_table_b": 16, "pang_table_c": 3, "pang_table_d": 5,
        "pang_figure2": 7, "pang_figure3": 2, "pang_figure4": 3, "pang_figure_f": 4,
        "points-activations": 5, "points-filtering": 5, "points-similarity": 0,
        "forecasts": 3, "answers": 3, "filtering-epochs": 3, "questions": 3, "retrieval": 3,
        "pang_table5b": 3, "rooms": 3,
    }  # fmt: skip
    assert len(all_runs(small)) == 43 + 3 * 3


def test_the_grid_of_table_3_is_complete(paper):
    runs = runs_of(paper, targets(paper)["table3"])
    cells = {(run.layer, run.position) for run in runs if run.layer is not None}
    assert cells == set(itertools.product([0, 7, 15, 23, 31], POSITIONS))


def test_lambda_zero_is_the_vanilla_run(paper):
    runs = [run for run in runs_of(paper, targets(paper)["table6"]) if run.data == "bar"]
    assert [run.lambda_init for run in runs] == [0, 0.15, 0.25, 0.35, 0.45]
    assert [run.variant for run in runs] == ["vanilla", *["auxiliary"] * 4]


def test_an_experiment_is_the_product_of_its_factors_by_another_count(paper):
    factors = {
        "data": ["bar", "cifar100"],
        "vision": ["vit-t", "vit-s"],
        "variant": ["insert", "residual", "auxiliary"],
        "control": ["frozen", "random", "head"],
        "language": "llama-7b",
        "layer": [0, 1],
        "position": ["early", 3, "end"],
        "lambda": [0, 0.2],
    }
    languages = {"llama-7b": PAPER["languages"]["llama-7b"]}
    alone = {"experiments": {"mine": factors}, "targets": {}, "pages": {}, "languages": languages}
    config = read(PAPER | alone)
    runs = expand(config, config.experiments["mine"])
    pairs = 2 * 2
    inserted = pairs * 2 * 2 * 3  # two controls (head is for auxiliary alone), layers, positions
    auxiliary = pairs * 3 * 2 * 1  # three controls, layers, the weight that is not 0
    assert Counter(run.variant for run in runs) == {
        "vanilla": pairs, "insert": inserted, "residual": inserted, "auxiliary": auxiliary
    }  # fmt: skip
    assert {run.position for run in runs if run.variant == "auxiliary"} == {"end"}
    same = [
        {dataclasses.replace(run, variant="") for run in runs if run.variant == variant}
        for variant in ("insert", "residual")
    ]
    assert same[0] == same[1]
    assert {run.control for run in same[0]} == {"frozen", "random"}
    assert {run.position for run in same[0]} == {"early", "3", "end"}


def test_the_last_layer_is_meant_where_none_is_named(paper):
    runs = runs_of(paper, targets(paper)["table2"])
    assert {run.language: run.layer for run in runs if run.language} == {
        "opt-350m": 23, "opt-1.3b": 23, "opt-2.7b": 31, "opt-6.7b": 31
    }  # fmt: skip


def test_an_experiment_that_nothing_reads_has_a_target_of_its_own_name():
    mine = {"data": "glyphs", "vision": "vit-64", "variant": "insert", "language": "llama-s"}
    config = read(changed(DEMO, "experiments.mine", mine))
    assert targets(config)["mine"].reads == ("mine",)
    assert len(runs_of(config, targets(config)["mine"])) == 2
    alone = {**DEMO, "experiments": {"mine": mine}, "targets": {}}
    assert list(targets(read(alone))) == ["mine"]


def test_a_target_that_shows_similarity_brings_the_figure_of_it():
    target = {"reads": "grid", "rows": "position", "columns": "layer", "similarity": True}
    config = read(changed(DEMO, "targets.mine", target))
    found = targets(config)
    assert found["mine-similarity"].kind == "figure5"
    assert found["mine-similarity"].reads == ("grid",)


def test_similarities_of_trained_models_need_their_vanilla_runs():
    names = {run.name for run in all_runs(read(DEMO))}
    assert {f"scripts_vit-{width}_vanilla" for width in (48, 64)} <= names
    assert not any(name.startswith("scripts") for name in {r.name for r in all_runs(read(PAPER))})


@BOTH
def test_each_run_has_complete_settings(values):
    config = read(values)
    for run in all_runs(config):
        settings = run_settings(config, run)
        depth = settings.vision.depth
        places = {None: None, "early": 0, "middle": depth // 2, "end": depth}
        assert settings.run == run.name
        assert settings.insert_at == places[run.position]
        assert type(settings).model_validate_json(settings.model_dump_json()) == settings


def test_the_papers_values_reach_the_run(paper):
    run = Run("bar", "vit-s", "auxiliary", **LAYER, lambda_init=0.25)
    settings = run_settings(paper, run)
    recipe = settings.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.precision) == (300, 64, "bfloat16")
    assert (recipe.weight_decay, recipe.mixup_mode, recipe.repeats) == (1e-5, "elem", 1)
    assert (settings.insert_at, settings.lambda_init, settings.layer) == (12, 0.25, 31)
    assert (settings.lambda_floor, settings.final_norm) == (0.1, "unit")
    assert (settings.language, settings.control) == ("llama-7b", "frozen")
    assert settings.data["classes"] == 6


def test_a_position_by_number_reaches_the_run(paper):
    settings = [
        run_settings(paper, Run("cifar100", "vit-s", variant, **{**LAYER, "position": "5"}))
        for variant in ("insert", "residual")
    ]
    assert [one.insert_at for one in settings] == [5, 5]
    first, second = (one.model_dump(exclude={"run", "variant"}) for one in settings)
    assert first == second


def test_what_a_residual_run_needs_is_what_an_insertion_needs(paper):
    class Wildcards:
        def __init__(self, variant):
            self.run = Run("cifar100", "vit-s", variant, **LAYER).name

    mine = {"data": "cifar100", "vision": "vit-s", "language": "llama-7b"}
    mine |= {"variant": ["insert", "residual"]}
    plan = Plan(read(changed(PAPER, "experiments.mine", mine)))
    for ask in (Plan.run_layer, Plan.kept_layer):
        first, second = (ask(plan, Wildcards(variant)) for variant in ("insert", "residual"))
        assert first == second
        assert len(first) == 1


def test_the_precision_of_clips_is_that_of_the_paper(paper):
    assert recipe_of(paper, Run("ssv2", "vit-s")).precision == "bfloat16"


def test_videomae_has_its_own_start_and_values_for_each_size(paper):
    small, base = (run_settings(paper, Run("ssv2", name)) for name in ("vit-s", "vit-b"))
    assert small.vision.family == base.vision.family == "videomae"
    assert small.vision.start == "models/videomae-small-ssv2.pth"
    assert base.vision.start == "models/videomae-base-ssv2.pth"
    assert (small.recipe.epochs, small.recipe.batch_size, small.recipe.lr) == (40, 24, 1e-3)
    assert (base.recipe.epochs, base.recipe.batch_size, base.recipe.lr) == (30, 12, 5e-4)
    assert (small.recipe.layer_decay, base.recipe.layer_decay) == (0.7, 0.75)
    assert run_settings(paper, Run("cifar100", "vit-s")).vision.family is None


def test_a_named_recipe_starts_without_values_that_were_meant_for_another():
    config = read(replaced(PAPER, "training", {"recipe": "paper", "epochs": 9, "mixup": 0}))
    assert recipe_of(config, Run("ssv2", "vit-s")).mixup == 0.8
    assert recipe_of(config, Run("bar", "vit-s")).mixup == 0
    config = read(changed(PAPER, "training", {"precision": "float32", "compile": True}))
    recipe = recipe_of(config, Run("ssv2", "vit-b"))
    assert (recipe.precision, recipe.compile) == ("float32", True)  # how, not what


def test_a_language_model_may_have_a_rate_of_its_own():
    config = read(changed(PAPER, "languages.opt-350m.training", {"lr": 1e-4}))
    runs = {run.language: run for run in expand(config, config.experiments["sizes"])}
    rates = {language: recipe_of(config, run).lr for language, run in runs.items()}
    assert rates.pop("opt-350m") == 1e-4
    assert set(rates.values()) == {5e-4}


def test_the_smallest_language_models_learn_at_a_fifth_of_the_rate(paper):
    runs = [run for run in runs_of(paper, targets(paper)["pang_table_c"]) if run.language]
    rates = {run.language: run_settings(paper, run).recipe.lr for run in runs}
    usual = recipe_of(paper, Run("imagenet-short", "vit-s")).lr
    slow = {"opt-125m": usual / 5, "opt-350m": usual / 5}
    same = dict.fromkeys(("opt-1.3b", "opt-2.7b", "opt-6.7b"), usual)
    assert rates == pytest.approx(slow | same)


@pytest.mark.parametrize(("data", "epochs"), [("imagenet-pang", 300), ("imagenet-short", 100)])
def test_pang_et_al_train_with_their_own_recipe(paper, data, epochs):
    theirs = recipe_of(paper, Run(data, "vit-s"))
    assert (theirs.epochs, theirs.batch_size, theirs.weight_decay) == (epochs, 1024, 0.05)
    assert (theirs.warmup_epochs, theirs.repeats, theirs.mixup_mode) == (20, 3, "batch")
    assert theirs.precision == "bfloat16"


def test_a_page_holds_its_targets_with_what_comes_with_them():
    asked = {"reads": "grid", "rows": "position", "columns": "layer", "similarity": True}
    values = changed(PAPER, "targets.mine", asked)
    values = changed(values, "experiments.new", PAPER["experiments"]["sizes"])
    config = read(changed(values, "pages.own", {"title": "Own", "targets": ["mine", "table3"]}))
    found = pages(config)
    assert found["own"] == ["table3", "mine", "mine-similarity"]
    assert sorted(name for names in found.values() for name in names) == sorted(targets(config))
    assert "new" in found["index"]
    of_pang = ("pang_", "points-", "forecasts", "answers")
    assert all(name.startswith(of_pang) for name in found["pang"])
    assert not any(name.startswith(of_pang) for name in found["index"])


DISPLAY = {
    "data.bar.title": "Other",
    "visions.vit-s.title": "Other",
    "visions.vit-s.hub": "someone/else",
    "languages.llama-7b.title": "Other",
    "gsnr.estimator": "debiased",
    "report": "best",
    "data.bar.top_k": 2,
    "data.bar.folder": "elsewhere",
    "data.bar.full": False,
    "data.imagenet.shifts.c": "elsewhere",
    "data.ssv2.views.space": 1,
    "threads": 2,
    "title": "Other",
}


@pytest.mark.parametrize("path", DISPLAY)
def test_what_is_only_shown_or_only_scored_decides_no_weights(path, paper):
    other = read(changed(PAPER, path, DISPLAY[path]))
    assert [run_settings(other, run) for run in all_runs(other)] == [
        run_settings(paper, run) for run in all_runs(paper)
    ]


DECIDING = {
    "data.bar.classes": 5,
    "data.bar.image_size": 112,
    "data.bar.training.batch_size": 32,
    "training.lr": 1e-3,
    "gsnr.batches": 3,
    "gsnr.xi": 1e-6,
    "rectifier.final_norm": "none",
    "auxiliary.lambda_floor": 0.05,
    "visions.vit-s.overrides": {"qkv_bias": False},
}


@pytest.mark.parametrize("path", DECIDING)
def test_what_decides_weights_changes_the_settings_of_exactly_its_runs(path, paper):
    other = read(changed(PAPER, path, DECIDING[path]))
    runs = all_runs(paper)
    differ = {run for run in runs if run_settings(other, run) != run_settings(paper, run)}
    concerned = {
        "data": {run for run in runs if run.data == "bar"},
        "visions": {run for run in runs if run.vision == "vit-s"},
        # a recipe that a set names starts anew
        "training": {run for run in runs if "recipe" not in paper.data[run.data].training},
    }.get(path.partition(".")[0], set(runs))
    assert differ == concerned


def test_labels_hold_what_is_only_shown(paper):
    labels = run_labels(paper, Run("bar", "vit-s", "auxiliary", **LAYER, lambda_init=0.25))
    assert (labels.data.title, labels.vision.title) == ("BAR", "ViT-S")
    assert labels.language.title == "LLaMA-7B"
    assert labels.estimator == "plain"
    assert run_labels(paper, Run("bar", "vit-s")).language is None


@BOTH
def test_the_depth_of_every_run_is_that_of_its_model(values):
    config = read(values)
    depths = {}
    for name in {run.vision for run in all_runs(config)}:
        vision = config.visions[name]
        nets = {"vectornet": 2, "mmtransformer": 3, "meter": 6, "sqa3d": 4}  # else a Point-BERT
        depths[name] = nets.get(name.partition("-")[0], vision.overrides.get("depth", 12))
        if vision.timm != "none":
            with torch.device("meta"):
                depths[name] = len(timm.create_model(vision.timm, **vision.overrides).blocks)
    for run in all_runs(config):
        assert run_settings(config, run).vision.depth == depths[run.vision], run.name


def test_positions_follow_the_depth_that_overrides_give():
    values = changed(PAPER, "visions.vit-s.overrides", {"depth": 7})
    values = changed(values, "experiments.grid.position", ["early", "middle", 5, "end"])
    config = read(values)
    places = {
        run.position: run_settings(config, run).insert_at
        for run in expand(config, config.experiments["grid"])
    }
    assert places == {None: None, "early": 0, "middle": 3, "5": 5, "end": 7}


@pytest.mark.slow
def test_a_depth_is_read_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}")
    config, read_again = read(PAPER), depth._read
    built = []

    def count(*arguments):
        built.append(arguments)
        return read_again(*arguments)

    monkeypatch.setattr(depth, "_read", count)
    for _ in range(2):  # two snakemakes
        depth._depth.cache_clear()
        assert depth.depth_of(config, "cifar100", "vit-s") == 12
    assert len(built) == 1
    assert [file.read_text() for file in (tmp_path / "rectify" / "depths").iterdir()] == ["12"]
    depth._depth.cache_clear()
    other = read(changed(PAPER, "visions.vit-s.overrides", {"depth": 3}))
    assert depth.depth_of(other, "cifar100", "vit-s") == 3


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_none(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/file")
    depth._depth.cache_clear()
    assert depth.depth_of(read(PAPER), "bar", "vit-s") == 12


MISTAKES = [
    ("sedes", [0], ["'sedes' at top level", "Did you mean seeds?"]),
    ("gsnr.batchs", 3, ["'batchs' at gsnr", "Did you mean batches?"]),
    ("gsnr.qqqq", 3, ["'qqqq' at gsnr", "Known: batches, estimator, xi"]),
    ("gsnr.mode", "both", ["gsnr.mode", "'both'", "observe"]),
    ("gsnr", {"mode": "replace", "loss": "main"}, ["gsnr.loss", "got main"]),
    ("gsnr.estimator", "plane", ["gsnr.estimator", "plain"]),
    ("training.warmup_epoch", 3, ["warmup_epoch", "Did you mean warmup_epochs?"]),
    ("training.recipe", "diet", ["recipe", "'diet'"]),
    ("training.epochs", 0, ["epochs", "0"]),
    (
        "languages.opt-350m.training",
        {"lrr": 1},
        ["'lrr' at languages.opt-350m.training", "Did you mean lr?"],
    ),
    ("data.bar.training.lrr", 3, ["'lrr' at data.bar.training", "Did you mean lr?"]),
    ("data.bar.clases", 3, ["'clases' at data.bar", "Did you mean classes?"]),
    ("data.bar.reader", "baar", ["data.bar", "'baar'", "Did you mean bar?"]),
    ("data.bar.task", "image_clasification", ["Did you mean image_classification?"]),
    ("data.imagenet.shifts.s", "x", ["data.imagenet.shifts"]),
    ("data.bar.shifts", {"a": "x"}, ["data.bar", "shifts"]),
    ("data.ssv2.visions.vit-x", {"family": "videomae"}, ["data.ssv2.visions", "'vit-x'"]),
    ("data.ssv2.views.time", 5, ["data.ssv2.views.time", "got 5"]),
    ("data.my_set", {}, ["data", "my_set"]),
    ("targets.table7.reads", "grid", []),
    ("targets.mine", {"reads": "gridd"}, ["targets.mine.reads", "Did you mean grid?"]),
    ("targets.mine", {"reads": "grid", "kind": "table33"}, ["Did you mean table3?"]),
    ("targets.table2.layers", [15], ["'layers' at targets.table2"]),
    ("targets.table3.visions", ["vit-s"], ["'visions' at targets.table3"]),
    ("targets.table1.lambdas", [0.1], ["'lambdas' at targets.table1"]),
    ("targets.controls.positions", ["end"], ["'positions' at targets.controls"]),
    ("targets.table1.visions", ["vit-x"], ["targets.table1.visions", "under visions"]),
    ("targets.cost.languages", "llama", ["targets.cost.languages", "llama-7b?"]),
    ("experiments.grid.layer", [0, 32], ["experiments.grid.layer", "0..31, got 32"]),
    ("experiments.grid.layer", [-1], ["experiments.grid.layer", "got -1"]),
    ("experiments.grid.layer", ["30-31"], []),
    ("experiments.grid.layer", ["31-32"], ["experiments.grid.layer", "0..31, got 31-32"]),
    ("experiments.grid.layer", ["31-30"], ["experiments.grid.layer", "got 31-30"]),
    ("experiments.grid.layer", ["end"], ["experiments.grid.layer", "got end"]),
    ("experiments.grid.layers", [1], ["'layers' at experiments.grid", "Did you mean layer?"]),
    ("experiments.grid.position", ["ende"], ["experiments.grid.position", "early"]),
    ("experiments.grid.position", ["middle", 6], ["named once, got middle and 6"]),
    ("experiments.grid.position", [13], ["0..12, got 13"]),
    ("experiments.grid.lambda", 0.35, ["experiments.grid", "lambda has none"]),
    ("experiments.grid.control", ["lora"], ["experiments.grid.control", "'lora'", "random"]),
    ("experiments.grid.control", ["head"], ["head must have a variant"]),
    ("experiments.grid.variant", "insrt", ["experiments.grid.variant", "'insrt'", "insert"]),
    ("experiments.grid.data", "cifar10", ["experiments.grid.data", "Did you mean cifar100?"]),
    ("experiments.grid.vision", "vit-x", ["experiments.grid.vision", "under visions"]),
    ("experiments.weights.lambda", [0, 1.5], ["experiments.weights.lambda", "got 1.5"]),
    ("experiments.weights.lambda", [0.05], ["auxiliary.lambda_floor, 0.1, got 0.05"]),
    ("experiments.weights.layer", [1], []),
    ("experiments.weights.position", ["end"], ["position has none"]),
    ("pages.pang.targets", ["pang_table7"], ["pages.pang.targets", "Did you mean pang_table6?"]),
    ("pages.mine", {"title": "m", "targets": ["table1", "pang_table1"]}, ["got pang_table1 on"]),
    ("pages.grid", {"title": "m", "targets": ["table1"]}, ["pages.grid", "name of its own"]),
    ("pages.index", {"title": "m", "targets": ["table1"]}, ["pages.index", "name of its own"]),
    ("pages.mine", {"title": "m", "targets": []}, ["pages.mine.targets", "at least one"]),
    ("languages.bloomz-3b.training", {"lr": 1e-4}, ["languages.bloomz-3b.training", "no run with"]),
    ("targets.pang-_x", {"reads": "grid"}, ["targets"]),
    ("seeds", [0, 0], ["seeds", "each once", "[0, 0]"]),
    ("trackers", ["wandb", "wandb"], ["trackers", "each once"]),
    ("credits", ["me", "me"], ["credits", "each once"]),
    ("targets.answers.items", [3, 3], ["targets.answers.items", "each once"]),
    ("training.undecayed", ["a", "a"], ["training.undecayed", "each once"]),
    ("seeds", [], ["seeds", "at least one"]),
    ("seeds", [0.5], ["seeds", "got 0.5"]),
    ("results", "~/runs", ["results: ~ and variables must be written out, got '~/runs'."]),
    ("data.cifar100.folder", "$HOME/a", ["data.cifar100.folder: ~ and variables", "'$HOME/a'"]),
    ("data.imagenet.shifts.c", "/s/${USER}/c", ["data.imagenet.shifts.c: ~ and variables"]),
    ("languages.llama-7b.checkpoint", "~me/llama", ["languages.llama-7b.checkpoint: ~ and"]),
    ("seeds", 3, ["seeds", "must be a list", "[0, 1, 2]", "got 3"]),
    ("similarity.pairs", "with", ["similarity.pairs", "Did you mean wit?"]),
    ("similarity.vision", "trained", ["similarity.data", "got None"]),
    ("similarity.permutations", 18, ["similarity.permutations", "19", "got 18"]),
    ("similarity.procedure.embeding", True, ["'embeding' at similarity.procedure", "embedding?"]),
    ("similarity.procedure.clamp", "none", ["similarity.procedure.clamp", "per_sample"]),
    (
        "similarity",
        {"quantile": 1.0, "procedure": {"clamp": "per_layer"}},
        ["similarity.procedure.clamp", "per_layer with similarity.quantile 1"],
    ),
    ("targets.figure5.vision_features", "trained", ["targets.figure5.vision_data", "got none"]),
    ("targets.figure5.vision_data", "bar", ["targets.figure5.vision_data", "with pretrained"]),
    (
        "targets.figure4",
        {"vision_features": "trained", "vision_data": "baar"},
        ["targets.figure4.vision_data", "Did you mean bar?"],
    ),
    ("experiments.controls.data", ["cifar100", "bar"], ["targets.controls.reads", "bar, cifar100"]),
    ("experiments.grid.vision", ["vit-s", "vit-b"], ["targets.figure3.reads", "the same vision"]),
    ("targets.table3.vision_features", "trained", ["'vision_features' at targets.table3"]),
    ("targets.figure5.score", "ckaa", ["targets.figure5.score", "cknna"]),
    ("threads", "8", ["threads", "got '8'"]),
    ("results", "", ["results"]),
    ("visions.vit-s.revision", "v1", []),
    ("visions.vit-s.depth", 12, []),
    ("visions.vit-s.depth", 6, ["visions.vit-s.depth", "that of the model, 12, got 6"]),
    ("visions.vit-s.parameters", 22050664, ["'parameters' at visions.vit-s"]),
    ("visions.vit-s.timm", "vit_smal_patch16_224", ["visions.vit-s", "vit_small_patch16_224"]),
    ("visions.vit-s.timm", "resnet18", ["visions.vit-s", "can be taken apart, got resnet18"]),
    ("visions.vit-s.overrides", {"dept": 3}, ["visions.vit-s", "'dept'", "Correct overrides"]),
    ("visions.vit-s.overrides", {"patch_size": 13}, ["visions.vit-s", "patch_size 13"]),
    ("visions.vit-s-patch4.revision", "v1", ["visions.vit-s-patch4", "hub"]),
]


@pytest.mark.parametrize(("path", "value", "words"), MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(path, value, words):
    values = changed(PAPER, path, value)
    if not words:  # the key has an effect
        read(values)
        return
    with pytest.raises(ValueError, match=r"^config: ") as caught:
        read(values)
    message = f"{caught.value}"
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("key", ["seeds", "experiments", "data"])
def test_a_missing_section_is_one_line(key):
    broken = {name: value for name, value in PAPER.items() if name != key}
    with pytest.raises(ValueError, match=f"top level must be complete, got no {key}"):
        read(broken)


def test_files_are_laid_over_each_other(tmp_path):
    for name, text in {"a.yaml": "1", "b.yaml": "- 1", "c.yaml": "{"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}(:\d)?: must "):
            load([tmp_path / name])
    with pytest.raises(ValueError, match=r"none\.yaml: must be a YAML file"):
        load([tmp_path / "none.yaml"])
    assert read(SMOKE).seeds == (0,)


def test_every_control_can_be_asked_for():
    variants = ["insert", "residual", "auxiliary"]
    every = {"variant": variants, "control": list(CONTROLS), "lambda": 0.35}
    every = PAPER["experiments"]["grid"] | every
    config = read(changed(PAPER, "experiments.every", every))
    found = {run.control for run in expand(config, config.experiments["every"])}
    assert found == set(CONTROLS)


def test_the_order_of_keys_in_a_file_plans_nothing():
    class Wildcards:
        run = all_runs(read(DEMO))[1].name

    turned = json.loads(json.dumps(DEMO, sort_keys=True))
    plans = [Plan(read(values)) for values in (DEMO, turned)]
    assert list(DEMO["visions"]["vit-64"]["overrides"]) != sorted(
        DEMO["visions"]["vit-64"]["overrides"]
    )
    for ask in (Plan.run_settings, Plan.run_labels):
        assert ask(plans[0], Wildcards()) == ask(plans[1], Wildcards())


PATCHES = (
    "visions.vit-s on cifar100: vision: image_size must be a multiple of patch_size 16, got 60"
)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("data.cifar100.image_size", 60, PATCHES),
        (
            "visions.vit-s.overrides",
            {"patch_size": 9},
            "must be a multiple of patch_size 9, got 224",
        ),
        ("training.accumulate", 3, "must divide into device_gpus 1 times accumulate 3 parts, each"),
        ("device_gpus", 7, "must divide into device_gpus 7 times accumulate"),
        ("device_nodes", 7, "must divide into device_nodes 7 times device_gpus 1 times accumulate"),
        ("training.warmup_epochs", 10**4, "warmup_epochs must be below epochs"),
        ("gsnr.every_step", {"samples": 130}, "multiple of 4, the passes of a step, in 8..1024"),
        ("gsnr", {"every_step": {}, "loss": "main"}, "where gsnr.every_step is set, got main"),
        ("training.batch_size", 129, "batch_size must be even with Mixup"),
        ("similarity.pairs", "cifar100", "must be a data set of task pairs, got cifar100"),
    ],
)
def test_what_a_training_would_refuse_is_refused_before_it(path, value, sentence):
    with pytest.raises(ValueError, match="config: ") as caught:
        read(changed(PAPER, path, value))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_null_takes_a_name_of_an_earlier_file_out():
    values = changed(DEMO, "targets.table3", None)
    assert "table3" in DEMO["targets"]
    assert {*targets(read(DEMO))} - {*targets(read(values))} == {"table3"}
    with pytest.raises(ValueError, match="got 'grid'"):
        read(changed(DEMO, "experiments.grid", None))


def needed(config) -> set[str]:
    return {run.name for run in all_runs(config)}


def test_what_is_asked_for_is_a_configuration_of_its_own():
    config = read(PAPER)
    for name in ("table3", "figure4", "table6"):
        alone = asked(config, [name])
        assert [*targets(alone)] == [name]
        runs = {run.name for run in runs_of(config, targets(config)[name])}
        assert runs <= needed(alone)
    both = asked(config, ["table3", "table6"])
    assert needed(both) == needed(asked(config, ["table3"])) | needed(asked(config, ["table6"]))
    assert asked(config, []) is config


def test_an_experiment_stands_for_all_that_reads_it_and_a_page_for_its_targets():
    config = read(PAPER)
    readers = {name for name, one in targets(config).items() if "grid" in one.reads}
    assert {*targets(asked(config, ["grid"]))} == readers
    elsewhere = {"pang": {*PAPER["pages"]["pang"]["targets"]}, "rooms": {"pang_table5b"}}
    for page, own in elsewhere.items():
        assert {*targets(asked(config, [page]))} == own
    main = {*targets(config)}.difference(*elsewhere.values())
    assert {*targets(asked(config, ["all"]))} == {*targets(asked(config, ["report"]))} == main
    mine = {"mine": {"data": "bar", "vision": "vit-s"}}
    own = read({**PAPER, "experiments": {**PAPER["experiments"], **mine}})
    assert needed(asked(own, ["mine"])) == {"bar_vit-s_vanilla"}
    with pytest.raises(ValueError, match="must be what can be made, got 'tabel3'"):
        asked(config, ["tabel3"])


class Path:
    """What Snakemake gives a rule's function."""

    def __init__(self, run):
        self.run = run


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("cifar100_vit-s_insert_llama-7b_layer-32_end", "llama-7b must lie in 0..31, got 32."),
        ("cifar100_vit-s_insert_llama-7b_layer-31-32_end", "must lie in 0..31, got 31-32."),
        ("cifar100_vit-s_insert_llama-7b_layer-31_13", "position in vit-s must lie in 0..12, got"),
    ],
)
def test_a_run_whose_models_have_no_such_place_is_one_line(paper, run, sentence):
    with pytest.raises(ValueError, match=f"config: {run}: ") as caught:
        Plan(paper).run_settings(Path(run))
    assert sentence in str(caught.value)
