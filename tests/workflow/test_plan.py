"""What snakemake plans, without running any job: counts, targets, mistakes, profiles."""

import json
import re
from pathlib import Path

import pytest
import yaml

from rectify.experiment.grid import targets
from rectify.experiment.settings import Config
from tests.helpers.configs import DEMO as DEMO_VALUES
from tests.helpers.packages import demo_packages
from tests.helpers.processes import run_rectify
from tests.workflow.project import call, copy_project, counted, environment, planned

DEMO = ("--configfile", "demo.yaml", "--")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Return the jobs that a call without a target plans in a fresh copy."""
    return planned(copy_project(tmp_path_factory.mktemp("papers")))


def test_the_papers_grid_is_planned_without_any_data(papers: dict[str, int]) -> None:
    jobs, seeds = papers, 3
    grid = 5 * 3 + 1  # layers x positions, and the plain ViT
    others = {"table2": 5, "table4": 8, "table5": 7, "table6": 11, "controls": 4}
    others["datasize"] = 2 * (1 + 3)  # the other shares: vanilla and controls
    others["auxiliary-controls"] = 5 - 1  # table5 has the frozen layer
    assert jobs["train"] == seeds * (grid + sum(others.values()))
    assert jobs["evaluate"] == jobs["train"]
    assert jobs["resolve"] == jobs["label"] == jobs["train"] / seeds
    assert jobs["similarity"] == 3 * 4 + 1
    assert (jobs["table"], jobs["figure"], jobs["page"]) == (12, 9, 1)
    assert jobs["measure"] == 3
    assert (jobs["prepare_data"], jobs["prepare_shift"]) == (9, 4)
    assert "filtering" not in jobs


def test_the_grid_of_pang_et_al_is_a_page_of_its_own(project: Path, papers: dict[str, int]) -> None:
    jobs = planned(project, "pang")
    runs = {
        "table 1, figure F": 6,  # three ViTs, with and without
        "table 2": 6 * 2,  # six sets of clouds, with and without
        "table 4": 2 * 2,  # two models
        "forecasts": 1,  # the second path
        "table 5a": 2 + 2,  # questions, and retrieval
        "table 3": 6,  # two ViTs, two layers
        "tables 6 and A": 2 + 4,  # MLP and tuned; the same and vanilla, frozen with 100 epochs
        "table B": 1 + 2 + 3 * 2 + 2 + 2,  # the random block; it and the MLP for all but images
        "table C": 5,
        "table D": 3,  # head, middle, and two layers
        "filtering of clouds": 2,  # on a second path; all else is in tables 2 and B
        "figure 2": 4 + 4,  # its last layers are those of tables D and C
    }
    assert jobs["train"] == jobs["evaluate"] == 3 * sum(runs.values())
    assert (jobs["table"], jobs["figure"], jobs["page"]) == (11, 9, 1)
    sets = 3 + 6 + 1 + 2 + 1  # images and clips, clouds, traffic, questions and captions, pairs
    assert (jobs["prepare_data"], jobs["prepare_shift"]) == (sets, 4)
    both = planned(project, "all", "pang")
    shared = 5  # Table 2 is a part of Table C
    clips = 2  # the vanilla ones of Tables 3 and 4
    images = papers["train"] + jobs["train"] - both["train"]
    assert images == 3 * (shared + clips)
    assert both["page"] == 2


def test_rectify_plan_counts_the_jobs_that_snakemake_plans(project: Path) -> None:
    """And Snakemake says the trainings at the head of its plan, where there are any."""
    words = ("plan", "table5", "--config", "demo.yaml", "--json")
    said = run_rectify(words, project, environment(project))
    assert said.returncode == 0, said.stderr
    record = json.loads(said.stdout)
    quiet = ("snakemake", "-n", "--quiet", "rules", *DEMO)
    trained, other = (call(project, *quiet, target).stdout for target in ("table5", "cost"))
    jobs = counted(trained)
    assert jobs.pop("table5") == 1  # what only gathers: a plan asks for its files
    assert {"train": record["trainings"], **record["other_jobs"]} == jobs
    said = (
        rf"\n{record['trainings']} trainings; {record['evaluations']} evaluations; at least .*B of"
    )
    assert re.search(rf"{said} results and states; more by `rectify plan`\n", trained)
    assert "trainings" not in other


def test_the_demo_with_smollm2_has_it_where_the_toys_were(project: Path) -> None:
    (project / ".demo").symlink_to(demo_packages())
    jobs = planned(project, "--configfile", "demo.yaml", "demo-smollm2.yaml", "--", "all")
    toys = planned(project, *DEMO, "all")
    assert jobs["pretrain"] == 5  # the smallest LLaMA, and the OPTs
    assert jobs["language_features"] == 5 + 2  # of emoji's names, and of characters'
    assert jobs["table"] == toys["table"] + 3  # with a skip; against untrained models, twice
    assert jobs["figure"] == toys["figure"] + 1  # similarity of characters
    assert jobs["train"] - toys["train"] == 2 * (
        1  # two ViTs learn emoji, one characters
        + 3  # with a skip: frozen, random, adapters alone
        - 1  # no tuned layer
        - 1  # one weight of the second path less
        - 3  # one share of the digits less: vanilla, frozen, random
    )


def test_figure4_of_the_demo_needs_one_run_and_two_language_models(project: Path) -> None:
    jobs = planned(project, *DEMO, "figure4")
    assert jobs["train"] == 2  # seeds
    assert jobs["pretrain"] == 2
    assert "evaluate" not in jobs
    assert "extract_block" not in jobs


def test_information_filtering_is_planned_without_any_data(project: Path) -> None:
    jobs = planned(project, "pang_figure4")
    assert jobs["filtering"] == jobs["train"] == 3 * 8
    assert (jobs["prepare_masks"], jobs["figure"]) == (1, 1)
    jobs = planned(project, *DEMO, "pang_figure3")
    assert jobs["filtering"] == jobs["train"] == 2 * 2


def test_a_set_without_masks_has_no_information_filtering(project: Path) -> None:
    (project / "mine.yaml").write_text("data: {imagenet-pang: {masks: null}}\n")
    configs = ("--configfile", "config.yaml", "mine.yaml", "--")
    said = call(project, "snakemake", "-n", *configs, "table2")
    assert said.returncode != 0
    assert "the sets of pang-images must have masks, got imagenet-pang without" in said.stdout
    (project / "mine.yaml").write_text("data: {imagenet-pang: {masks: other/place}}\n")
    assert planned(project, *configs, "pang_figure3")["prepare_masks"] == 1


def test_figure2_needs_only_the_last_layer_at_the_end(project: Path) -> None:
    assert planned(project, *DEMO, "figure2")["train"] == 2 * 2


def test_every_target_every_experiment_and_the_report_can_be_asked_for(project: Path) -> None:
    config = Config.model_validate(DEMO_VALUES)
    names = {*targets(config), *config.experiments, *config.pages, "report"}
    assert names <= set(planned(project, *DEMO, *names))


def test_a_file_is_asked_for_by_name(project: Path) -> None:
    run = "cifar100_vit-s_insert-random_llama-7b_layer-15_5"
    jobs = planned(project, f"results/paper/runs/{run}/seed-0/scores.csv")
    expected = dict.fromkeys(("resolve", "extract_block", "train", "evaluate", "prepare_data"), 1)
    assert jobs == expected


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cifar10_vit-s_vanilla", "Did you mean cifar100?"),
        ("cifar100_vit-s_insert_llama-7b_layer-31_ende", "a run must be named <data>_<vision>"),
    ],
)
def test_a_run_that_does_not_exist_is_one_line(project: Path, name: str, sentence: str) -> None:
    said = call(project, "snakemake", "-n", f"results/paper/runs/{name}/seed-0/scores.csv")
    assert said.returncode != 0
    assert sentence in said.stdout
    assert "Traceback" not in said.stdout


def resources_by_rule(said: str) -> dict[str, dict[str, str]]:
    """Return what a dry run has said of the resources of one job of each rule."""
    jobs = re.findall(
        r"^ *(?:local)?rule (\w+):.*?resources: ([^\n]*)", said, re.DOTALL | re.MULTILINE
    )
    return {rule: dict(word.split("=", 1) for word in text.split(", ")) for rule, text in jobs}


def on_slurm(project: Path, *options: str) -> str:
    """Return what a dry run with the slurm profile says."""
    said = call(project, "snakemake", "--profile", "slurm", "-n", *options)
    assert said.returncode == 0, said.stdout
    return said.stdout


def test_the_slurm_profile_plans_the_papers_grid_without_slurm(
    project: Path, papers: dict[str, int]
) -> None:
    said = on_slurm(project, "all")
    assert counted(said) == papers  # the call without a target
    asked = resources_by_rule(said)
    seen = {
        rule: tuple(found.get(key, "-") for key in ("slurm_partition", "gpu", "mem_mb", "runtime"))
        for rule, found in asked.items()
    }
    assert seen["train"] == ("gpu", "1", "32000", "2880")
    assert seen["evaluate"] == ("gpu", "1", "32000", "600")
    assert seen["similarity"] == ("gpu", "-", "8000", "30")
    assert seen["extract_block"][:3] == ("gpu", "-", "4000")
    assert asked["train"]["slurm_extra"] == "--signal=USR2@120"
    assert {"train", "evaluate", "similarity", "prepare_data", "pretrained_features"} < set(seen)


def test_the_signal_and_the_turn_survive_what_a_site_sets(project: Path) -> None:
    site = {"set-resources": {"train": {"gpu_model": "a100"}, "similarity": {"mem_mb": 9}}}
    (project / "site").mkdir()
    (project / "site" / "profile.yaml").write_text(yaml.safe_dump(site))
    own = ("--set-resources", "train:runtime=1440", "extract_block:mem_mb=7")
    run = "glyphs_vit-64_insert_llama-xl_layer-7_end"
    targets = (*DEMO, f"results/demo/runs/{run}/seed-0/history.csv", "figure4")
    for options in (("--profile", "site"), own, ("--resources", "licences=1")):
        asked = resources_by_rule(on_slurm(project, *options, *targets))
        assert asked["train"]["slurm_extra"] == "--signal=USR2@120"
        assert asked["extract_block"]["turn"] == asked["similarity"]["turn"] == "1"
        assert (asked["train"]["runtime"] == "1440") == (options == own)


MISTAKES = {
    "got 'sedes' at top level. Did you mean seeds?": {"sedes": [0]},
    "a layer of llama-xl must lie in 0..7, got 8.": {"experiments": {"grid": {"layer": [0, 8]}}},
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_in_the_config_ends_with_one_line_before_any_job(
    project: Path, sentence: str
) -> None:
    (project / "mine.yaml").write_text(yaml.safe_dump(MISTAKES[sentence]))
    said = call(
        project, "snakemake", "--cores", "1", "--configfile", "demo.yaml", "mine.yaml", "--", "all"
    )
    lines = [line for line in said.stdout.splitlines() if line.startswith("config:")]
    assert said.returncode != 0
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "Traceback" not in said.stdout
    assert not (project / "results").exists()


def test_a_missing_data_set_stops_its_preparation_and_says_where_to_put_it(project: Path) -> None:
    target = "results/paper/data/cifar100/manifest.csv"
    said = call(project, "snakemake", "--cores", "1", target)
    assert said.returncode != 0
    line = next(
        line for line in said.stdout.splitlines() if "cifar-100-python" in line and "must" in line
    )
    assert "data/cifar-100-python" in line
    assert "Traceback" not in said.stdout
    assert not (project / target).exists()


def test_fetch_gets_what_the_config_names_but_nothing_that_was_put_there(project: Path) -> None:
    named = planned(project, "fetch")["fetch_repository"]
    (project / "models" / "llama-7b").mkdir(parents=True)
    assert planned(project, "fetch")["fetch_repository"] == named
    (project / "models" / "llama-7b" / "params.json").touch()
    assert planned(project, "fetch")["fetch_repository"] == named - 1


def test_each_training_has_its_trackers_and_the_noise_of_every_step_where_they_are_asked_for(
    project: Path,
) -> None:
    keys = "trackers: [tensorboard, wandb]\ngsnr: {every_step: {}}\n"
    (project / "mine.yaml").write_text(keys)
    run = "digits_vit-64_vanilla"
    target = f"results/demo/runs/{run}/seed-1/history.csv"
    folder = f"results/demo/events/{run}/seed-1"
    option = f" --trackers tensorboard wandb --events {folder} --output "
    for files, times in (((), 0), (("mine.yaml",), 1)):
        options = ("-n", "-p", "--configfile", "demo.yaml", *files, "--", target)
        said = call(project, "snakemake", *options)
        assert said.returncode == 0, said.stdout
        assert said.stdout.count(option) == times
        assert said.stdout.count(f"{run}/seed-1/noise.csv,") == times
