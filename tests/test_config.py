import copy
import itertools
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rectify import rectified
from rectify.config import (
    FIGURES,
    SCHEMA,
    TABLES,
    all_runs,
    check,
    data_settings,
    is_filled_by_hand,
    merge,
    repositories,
    runs_of,
    settings,
)
from rectify.recipes import Recipe, recipe
from rectify.runs import POSITIONS, VARIANTS, Run
from rectify.vision import create_vit

ROOT = Path(__file__).resolve().parents[1]
PAPER = yaml.safe_load((ROOT / "config.yaml").read_text())
DEMO = merge(PAPER, yaml.safe_load((ROOT / "demo.yaml").read_text()))
BOTH = pytest.mark.parametrize("config", [PAPER, DEMO], ids=["paper", "demo"])

names = st.from_regex(r"[a-z0-9]+([.-][a-z0-9]+)*", fullmatch=True)


@st.composite
def runs(draw):
    variant = draw(st.sampled_from(VARIANTS))
    if variant == "vanilla":
        return Run(draw(names), draw(names))
    weight = st.floats(0, 1, exclude_min=True, allow_subnormal=False)
    return Run(
        draw(names),
        draw(names),
        variant,
        draw(names),
        draw(st.integers(0, 200)),
        draw(st.sampled_from(POSITIONS)),
        draw(weight) if variant == "auxiliary" else 0.0,
    )


@pytest.fixture
def config():
    return copy.deepcopy(PAPER)


def put(config, path, value):
    *folders, last = path.split(".")
    for folder in folders:
        config = config[folder]
    config[last] = value


def schemas(schema, where="top level"):
    """Give every mapping of the schema that describes a mapping of the config."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield where, schema
        for key, value in schema.items():
            yield from schemas(value, f"{where}.{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from schemas(value, f"{where}.{index}")


@given(runs())
def test_a_run_comes_back_from_its_name(run):
    assert Run.parse(run.name) == run


@given(st.text(max_size=40) | st.lists(names, max_size=8).map("_".join))
def test_any_other_name_is_a_value_error(name):
    try:
        run = Run.parse(name)
    except ValueError:
        return
    assert run.name == name
    assert run.variant in VARIANTS


@pytest.mark.parametrize(
    "name",
    [
        "glyphs_vit-s",
        "glyphs_vit-s_vanila",
        "glyphs_vit-s_insert",
        "glyphs_vit-s_vanilla_llama-7b_layer-31_end",
        "glyphs_vit-s_insert_llama-7b_layer-31_ende",
        "glyphs_vit-s_insert_llama-7b_layer--1_end",
        "glyphs_vit-s_insert_llama-7b_31_end",
        "glyphs_vit-s_insert_llama-7b_layer-31_end_lambda-0.35",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-nan",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-0.0",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-1.5",
        "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-0.350",
        "../vit-s_vanilla",
        "",
    ],
)
def test_a_name_that_almost_follows_the_grammar_is_refused(name):
    with pytest.raises(ValueError, match="config: a run must be named <data>_<vision>_<variant>"):
        Run.parse(name)


def test_names_are_those_of_the_documentation():
    block = {"language": "llama-7b", "layer": 31, "position": "end"}
    assert Run("glyphs", "vit-s").name == "glyphs_vit-s_vanilla"
    assert (
        Run("glyphs", "vit-s", "insert", **block).name
        == "glyphs_vit-s_insert_llama-7b_layer-31_end"
    )
    assert (
        Run("glyphs", "vit-s", "auxiliary", **block, lambda_init=0.35).name
        == "glyphs_vit-s_auxiliary_llama-7b_layer-31_end_lambda-0.35"
    )


def test_variants_and_positions_are_those_of_the_models():
    assert VARIANTS == rectified.VARIANTS
    assert [rectified.insert_index(position, 6) for position in POSITIONS] == [0, 3, 6]


@BOTH
def test_the_given_configurations_pass_and_every_run_comes_back_from_its_name(config):
    check(config)
    everything = all_runs(config)
    assert len(everything) == len(set(everything)) > 30
    assert [Run.parse(run.name) for run in everything] == everything


@BOTH
def test_each_table_has_as_many_runs_as_the_paper_has_cells(config):
    counts = {target: len(runs_of(config, target)) for target in (*TABLES, *FIGURES)}
    assert counts["table2"] == 5  # the baseline and four models
    assert counts["table3"] == counts["figure5"] == 16  # the baseline and 5 layers x 3 positions
    assert counts["table4"] == 8  # two sets, two ViTs, with and without
    assert counts["table5"] == 8
    assert counts["table6"] == 15  # three sets, five lambdas
    assert counts["figure2"] == 2
    assert counts["figure3"] == 4  # the last layer at each position, and the baseline
    assert len(runs_of(config, "controls")) == 6
    trained = config["similarity"]["vision"] == "trained"
    assert (counts["table1"], counts["figure4"]) == ((3, 1) if trained else (0, 0))


@BOTH
def test_lambda_zero_is_the_vanilla_run(config):
    lambdas = [run.lambda_init for run in runs_of(config, "table6") if run.data == "bar"]
    assert lambdas in ([0, 0.15, 0.25, 0.35, 0.45], [])
    zero = [run for run in runs_of(config, "table6") if run.lambda_init == 0]
    assert [run.variant for run in zero] == ["vanilla"] * 3


@BOTH
def test_each_run_has_settings_that_build_its_recipe_and_its_vit(config):
    for run in all_runs(config):
        found = settings(config, run)
        assert found["run"] == run.name
        depth = found["vision"]["depth"]
        places = {None: None, "early": 0, "middle": depth // 2, "end": depth}
        assert found["insert_at"] == places[run.position]
        changes = dict(found["recipe"])
        assert isinstance(recipe(changes.pop("recipe"), **changes), Recipe)


@BOTH
def test_the_visions_have_the_depth_and_parameters_that_they_are_said_to_have(config):
    for vision in config["visions"].values():
        overrides = vision.get("overrides", {})
        sizes = (100, 28, 1) if overrides else (1000, 224, 3)
        if overrides.get("patch_size") == 4:
            sizes = (100, 32, 3)  # of CIFAR-100
        classes, size, channels = sizes
        with torch.device("meta"):
            vit = create_vit(
                vision["timm"],
                num_classes=classes,
                image_size=size,
                channels=channels,
                overrides=overrides,
            )
        assert len(vit.blocks) == vision["depth"]
        assert sum(parameter.numel() for parameter in vit.parameters()) == vision["parameters"]


def test_the_papers_values_reach_the_run():
    block = {"language": "llama-7b", "layer": 31, "position": "end"}
    found = settings(PAPER, Run("bar", "vit-s", "auxiliary", **block, lambda_init=0.25))
    assert found["recipe"] == {
        "recipe": "paper",
        "epochs": 300,
        "batch_size": 64,
        "precision": "bfloat16",
    }
    assert (found["insert_at"], found["lambda_init"], found["layer"]) == (12, 0.25, 31)
    assert found["data"]["top_k"] == 3
    assert "training" not in found["data"]
    assert found["language"]["name"] == "llama-7b"
    assert settings(PAPER, Run("ssv2", "vit-b"))["language"] is None


@BOTH
def test_every_run_says_how_many_epochs_it_has_since_tables_look_for_the_last(config):
    assert all("epochs" in settings(config, run)["recipe"] for run in all_runs(config))


def test_videomae_has_its_own_start_and_values_for_each_size():
    small, base = (settings(PAPER, Run("ssv2", name)) for name in ("vit-s", "vit-b"))
    assert small["vision"] | base["vision"] | {"start": ""} == base["vision"] | {"start": ""}
    assert small["vision"]["start"] == "checkpoints/videomae-small-ssv2.pth"
    assert base["vision"]["start"] == "checkpoints/videomae-base-ssv2.pth"
    assert small["recipe"] == {"recipe": "videomae", "epochs": 40, "batch_size": 24}
    values = {"epochs": 30, "batch_size": 12, "lr": 5e-4, "layer_decay": 0.75}
    assert base["recipe"] == {"recipe": "videomae"} | values
    assert small["data"]["views"] == {"time": 2, "space": 3}
    assert "family" not in settings(PAPER, Run("cifar100", "vit-s"))["vision"]
    assert not {"visions", "training", "full"} & small["data"].keys()


def test_a_named_recipe_starts_without_values_that_were_meant_for_another(config):
    put(config, "training", {"recipe": "paper", "epochs": 3, "mixup": 0, "flip": 0.1})
    assert settings(config, Run("ssv2", "vit-s"))["recipe"] == {
        "recipe": "videomae",
        "epochs": 40,
        "batch_size": 24,
    }
    assert settings(config, Run("bar", "vit-s"))["recipe"]["mixup"] == 0


def test_starts_and_views_do_not_decide_a_data_set(config):
    before = data_settings(config, "ssv2")
    put(config, "data.ssv2.visions.vit-s.start", "elsewhere.pth")
    put(config, "data.ssv2.views.space", 1)
    assert data_settings(config, "ssv2") == before


def test_titles_and_training_values_do_not_decide_a_data_set():
    changed = copy.deepcopy(DEMO)
    changed["data"]["glyphs"] |= {"title": "Other", "training": {"epochs": 9}, "top_k": 2}
    assert data_settings(changed, "glyphs") == data_settings(DEMO, "glyphs")
    changed["data"]["glyphs"]["classes"] = 99
    assert data_settings(changed, "glyphs") != data_settings(DEMO, "glyphs")


def test_an_overlay_merges_mappings_replaces_the_rest_and_changes_neither():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    overlay = {"a": {"c": [9]}, "d": {"e": 1}}
    before = copy.deepcopy((base, overlay))
    assert merge(base, overlay) == {"a": {"b": 1, "c": [9]}, "d": {"e": 1}}
    assert (base, overlay) == before


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("sedes", [0], ["'sedes' at top level", "Did you mean seeds?"]),
        ("gsnr.batchs", 3, ["'batchs' at gsnr", "Did you mean batches?"]),
        ("gsnr.qqqq", 3, ["'qqqq' at gsnr", "Known keys: batches, estimator, xi"]),
        ("gsnr.mode", "both", ["gsnr.mode", "'both' is not one of"]),
        ("gsnr", {**PAPER["gsnr"], "mode": "replace", "loss": "main"}, ["gsnr.loss", "got main"]),
        ("training.warmup_epoch", 3, ["at training", "Did you mean warmup_epochs?"]),
        ("data.bar.training.lrr", 3, ["'lrr' at data.bar.training", "Did you mean lr?"]),
        ("data.imagenet.shifts.s", "x", ["'s' at data.imagenet.shifts"]),
        ("tables.table7", {}, ["'table7' at tables", "Did you mean table"]),
        ("tables.table3.layers", [0, 32], ["layer of llama-7b", "0..31, got 32"]),
        ("tables.table3.layers", [-1], ["tables.table3.layers.0", "-1 is less than"]),
        ("tables.table3.positions", ["ende"], ["tables.table3.positions.0", "'ende'", "early"]),
        ("tables.table6.lambdas", [0, 1.5], ["tables.table6.lambdas.1", "1.5 is greater"]),
        ("auxiliary.lambda_init", -0.1, ["auxiliary.lambda_init", "-0.1 is less"]),
        ("seeds", [0, 0], ["seeds must name each once, got [0, 0]"]),
        ("seeds", [], ["seeds"]),
        ("seeds", [0.5], ["seeds.0", "0.5 is not of type 'integer'"]),
        ("tables.table3.data", "cifar10", ["tables.table3.data", "Did you mean cifar100?"]),
        ("tables.table4.video", "ssv", ["tables.table4.video", "Did you mean ssv2?"]),
        ("data.ssv2.visions.vit-x", {"family": "videomae"}, ["data.ssv2.visions", "'vit-x'"]),
        ("data.ssv2.visions.vit-s.family", "mae", ["visions.vit-s.family", "videomae: no class"]),
        ("data.ssv2.views.time", 5, ["data.ssv2.views.time", "5 is not one of [1, 2]"]),
        ("tables.table5.data", ["bar", "zz"], ["tables.table5.data", "Known: imagenet, cifar100"]),
        ("tables.table1.visions", ["vit-x"], ["tables.table1.visions", "under visions"]),
        ("tables.controls.language", "llama", ["tables.controls.language", "llama-7b?"]),
        ("similarity.pairs", "with", ["similarity.pairs", "Did you mean wit?"]),
        ("similarity.vision", "trained", ["similarity.data", "got None"]),
        ("training.recipe", "diet", ["training.recipe", "'diet' is not one of"]),
        ("training.epochs", 0, ["training.epochs", "0 is less than"]),
        ("threads", "8", ["threads", "'8' is not of type 'integer'"]),
        ("data.my_set", {}, ["data", "my_set"]),
        ("rectifier", {}, ["rectifier must be complete", "final_norm"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(config, path, value, words):
    put(config, path, value)
    with pytest.raises(ValueError, match=r"^config: ") as caught:
        check(config)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_a_missing_section_is_one_line(config):
    for key in ("seeds", "tables"):
        broken = {name: value for name, value in config.items() if name != key}
        with pytest.raises(ValueError, match=f"'{key}' is a required property. Add the key"):
            check(broken)


def test_every_level_of_the_schema_is_closed():
    schema = yaml.safe_load(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    found = dict(schemas(schema))
    assert len(found) > 10
    free = {"top level.$defs.vision.properties.overrides"}  # whatever timm takes
    for where, level in found.items():
        closed = level.get("additionalProperties")
        assert where in free or closed is False or {"$ref", "type"} & set(closed), where
        if closed and "$ref" in closed:  # names that become part of file names
            assert level["propertyNames"] == {"$ref": "#/$defs/name"}


def test_the_schema_knows_every_value_of_a_recipe():
    schema = yaml.safe_load(SCHEMA.read_text())
    known = set(schema["$defs"]["training"]["properties"])
    assert known == {"recipe", *Recipe.__dataclass_fields__}


@BOTH
def test_every_key_of_the_files_is_described(config):
    schema = yaml.safe_load(SCHEMA.read_text())

    def resolved(level):
        name = level.get("$ref", "").rpartition("/")[2]
        shared = schema["$defs"][name] if name else {}
        properties = {**shared.get("properties", {}), **level.get("properties", {})}
        return {**shared, **level, "properties": properties}

    def walk(value, level, where):
        level = resolved(level)
        if not isinstance(value, dict) or where.endswith("overrides"):
            return
        for key, inner in value.items():
            known = level.get("properties", {})
            below = known.get(key, level.get("additionalProperties"))
            assert isinstance(below, dict), f"{where}.{key}"
            walk(inner, below, f"{where}.{key}")

    walk(config, schema, "")


def test_the_description_of_a_broken_rule_ends_the_line(config):
    put(config, "auxiliary.lambda_init", 2)
    with pytest.raises(ValueError, match=r"maximum of 1\. Weight of the auxiliary loss in the fir"):
        check(config)


def test_the_grid_of_table_3_is_complete():
    cells = {(run.layer, run.position) for run in runs_of(PAPER, "table3") if run.layer is not None}
    assert cells == set(itertools.product([0, 7, 15, 23, 31], POSITIONS))


# --- where folders come from ---


def test_each_hub_id_of_the_paper_stands_with_its_folder():
    found = repositories(PAPER)
    assert found["checkpoints/llama-7b"] == {
        "hub": "huggyllama/llama-7b", "kind": "model", "revision": None
    }  # fmt: skip
    assert {source["kind"] for source in found.values()} == {"model"}
    published = [one for one in PAPER["visions"].values() if "hub" in one]
    assert len(found) == len(PAPER["languages"]) + len(published)


def test_where_a_folder_comes_from_changes_no_run():
    paper = copy.deepcopy(PAPER)
    run = all_runs(paper)[1]
    before = settings(paper, run)
    for item in (paper["data"][run.data], paper["visions"][run.vision]):
        item |= {"hub": "someone/else", "revision": "v1"}
    assert settings(paper, run) == before
    assert "hub" not in data_settings(paper, run.data)


def test_a_hub_needs_a_folder():
    paper = copy.deepcopy(PAPER)
    paper["data"]["wit"] |= {"hub": "someone/pairs"}
    check(paper)
    del paper["data"]["wit"]["folder"]
    with pytest.raises(ValueError, match="wit must follow its rule, 'folder' is a depend"):
        check(paper)


def test_only_a_folder_with_files_from_elsewhere_is_filled_by_hand(tmp_path):
    assert not is_filled_by_hand(tmp_path / "none")
    assert not is_filled_by_hand(tmp_path)
    (tmp_path / "config.json").touch()
    assert is_filled_by_hand(tmp_path)
    (tmp_path / "fetched.json").touch()
    assert not is_filled_by_hand(tmp_path)
