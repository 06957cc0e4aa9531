"""What snakemake plans, without running any job: counts, targets, mistakes, profiles."""

import re
from pathlib import Path

import pytest
import yaml

from rectify.config import BEYOND
from tests.workflow.project import ROOT, call

DEMO = ("--configfile", "demo.yaml")


def plan(project: Path, targets: str, *options: str) -> dict[str, int]:
    """Return the number of jobs by rule in a dry run."""
    said = call(project, "snakemake", "-n", "--quiet", "rules", *options, "--", *targets.split())
    assert said.returncode == 0, said.stdout
    rows = re.findall(r"^(\w+) +(\d+)$", said.stdout.partition("Job stats:")[2], re.MULTILINE)
    return {rule: int(count) for rule, count in rows}


def test_the_papers_whole_grid_is_planned_without_any_data(project: Path) -> None:
    jobs = plan(project, "all")
    seeds = 3
    grid = 5 * 3 + 1  # layers x positions, and the plain ViT
    others = {"table2": 5, "table4": 8, "table5": 6, "table6": 11, "controls": 4}
    assert jobs["train"] == seeds * (grid + sum(others.values()))
    assert jobs["evaluate"] == jobs["train"]
    assert jobs["similarity"] == 3 * 4 + 1
    assert (jobs["table"], jobs["figure"], jobs["page"]) == (8, 5, 1)
    assert jobs["measure"] == 3
    assert plan(project, "") == jobs  # what a call without a target makes


def test_figure4_of_the_demo_needs_one_run_and_two_language_models(project: Path) -> None:
    jobs = plan(project, "figure4", *DEMO)
    assert jobs["train"] == 2  # seeds
    assert jobs["pretrain"] == 2
    assert "evaluate" not in jobs
    assert "extract_block" not in jobs


def test_every_table_figure_and_the_report_is_a_target(project: Path) -> None:
    targets = [*(f"table{n}" for n in range(1, 7)), *(f"figure{n}" for n in range(2, 6))]
    jobs = plan(project, " ".join([*targets, *BEYOND, "report"]), *DEMO)
    assert {*targets, *BEYOND, "report"} <= set(jobs)


def resources_by_rule(project: Path, target: str) -> dict[str, dict[str, str]]:
    """Return what the slurm profile asks of the cluster for one job of each rule."""
    said = call(project, "snakemake", "--profile", "slurm", "-n", target)
    assert said.returncode == 0, said.stdout
    jobs = re.findall(
        r"^ *(?:local)?rule (\w+):.*?resources: ([^\n]*)", said.stdout, re.DOTALL | re.MULTILINE
    )
    return {rule: dict(word.split("=", 1) for word in text.split(", ")) for rule, text in jobs}


def test_the_slurm_profile_plans_the_papers_grid_without_slurm(project: Path) -> None:
    asked = resources_by_rule(project, "all")
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


MISTAKES = {
    "got 'sedes' at top level. Did you mean seeds?": {"sedes": [0]},
    "seeds must name each once, got [1, 1].": {"seeds": [1, 1]},
    "auxiliary.lambda_init must follow its rule, 1.5 is": {"auxiliary": {"lambda_init": 1.5}},
    "a layer of llama-xl must lie in 0..7, got 8.": {"tables": {"table3": {"layers": [0, 8]}}},
    "'ende' is not one of ['early', 'middle', 'end']": {
        "tables": {"table3": {"positions": ["ende"]}}
    },
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


def test_no_rule_retries_by_itself() -> None:
    texts = [path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk")]
    assert not any(re.search(r"^\s*retries:", text, re.MULTILINE) for text in texts)


def test_fetch_gets_what_the_config_names_but_nothing_that_was_put_there(project: Path) -> None:
    named = plan(project, "fetch")["fetch_repository"]
    (project / "checkpoints" / "llama-7b").mkdir(parents=True)
    assert plan(project, "fetch")["fetch_repository"] == named
    (project / "checkpoints" / "llama-7b" / "params.json").touch()
    assert plan(project, "fetch")["fetch_repository"] == named - 1
