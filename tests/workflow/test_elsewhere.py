"""What is installed works from where it is installed: a wheel, a Snakemake module."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from rectify.experiment.grid import all_runs, read
from rectify.experiment.jobs import files_of
from rectify.experiment.plan import Plan
from rectify.training.folders import states_folder
from tests.helpers.configs import SMOKE as VALUES
from tests.workflow.project import ROOT, SMOKE, call, planned

RUN = "digits_vit-64_vanilla"
DEPLOYED = """
configfile: "config/config.yaml"


module rectify:
    snakefile:
        gitfile("{repository}", path="workflow/Snakefile", tag="v1")
    config:
        config


use rule * from rectify
"""
READ = """
import sys
from pathlib import Path
import yaml
import rectify
from rectify.analysis.page import page
from rectify.experiment.grid import all_runs, load
from rectify.targets import caption, kinds
assert Path(rectify.__file__).is_relative_to(sys.argv[1]), rectify.__file__
print(len(all_runs(load([Path(sys.argv[2])]))))
assert all(len(caption(kind)) > 40 for kind in kinds())
assert "<html" in page("Title", [], Path(sys.argv[1]), [])
sizes = Path(rectify.__file__).parent / "language" / "sizes.yaml"
assert yaml.safe_load(sizes.read_text())["llama-7b"]["hidden_size"] == 4096
"""
MODULE = """
configfile: "values.yaml"


module rectify:
    snakefile:
        "Snakefile"
    config:
        config


use rule * from rectify as rectify_*


use rule page from rectify as rectify_page with:
    threads: 2
"""


def test_a_wheel_reads_configurations_and_has_captions_page_and_sizes(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rectify", source / "rectify", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
    words = [sys.executable, "-c", build, f"{tmp_path}"]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    ZipFile(wheel).extractall(site)
    (tmp_path / "read.py").write_text(READ)
    words = [sys.executable, "read.py", f"{site}", f"{ROOT / 'config.yaml'}"]
    said = subprocess.run(
        words, cwd=tmp_path, env={"PYTHONPATH": f"{site}"}, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout == "132\n"


@pytest.fixture
def outer(finished: Path) -> Path:
    """Return a copy of the project in which another workflow, outer.smk, has it as a module."""
    (finished / "values.yaml").write_text(yaml.safe_dump(VALUES))
    (finished / "outer.smk").write_text(MODULE)
    return finished


def test_the_page_is_made_where_the_workflow_is_a_module_of_another(outer: Path) -> None:
    page = outer / "results" / "smoke" / "report" / "index.html"
    before, state = page.read_text(), states_folder(outer / "results/smoke", RUN, 0) / "1.pt"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.touch()
    options = ("--snakefile", "outer.smk", "--cores", "1", "--forcerun", "rectify_page")
    target = "results/smoke/report/index.html"
    said = call(outer, "snakemake", *options, "--", target)
    assert not state.exists()  # the last thing that the workflow does
    again = call(outer, "snakemake", "--cores", "1", "--configfile", *SMOKE, "--", target)
    assert said.returncode == again.returncode == 0, said.stdout
    assert "rectify_train" not in said.stdout
    assert page.read_text().count("<img") == before.count("<img") > 4
    assert "<dt>Command</dt><dd>snakemake --" in page.read_text()


def test_a_module_whose_rules_have_a_prefix_tells_its_trainings_once(outer: Path) -> None:
    (outer / "seeds.yaml").write_text("seeds: [0, 1]")
    options = ("--snakefile", "outer.smk", "-n", "--quiet", "rules", "--configfile", "seeds.yaml")
    said = call(outer, "snakemake", *options, "--", *files_of(Plan(read(VALUES)), ["index"]))
    assert said.returncode == 0, said.stdout
    count = len(all_runs(read(VALUES)))
    assert f"rectify_train {count}" in re.sub(" +", " ", said.stdout)
    assert len(re.findall(rf"^{count} trainings[:;]", said.stdout, re.MULTILINE)) == 1


def test_a_project_that_snakedeploy_makes_plans_the_same_jobs(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "All"), ("tag", "v1")):
        subprocess.run([*git, *words], cwd=project, check=True)
    deployed = tmp_path_factory.mktemp("deployed")  # configuration and module, as it writes them
    shutil.copytree(project / "config", deployed / "config")
    (deployed / "workflow").mkdir()
    module = DEPLOYED.format(repository=project)
    (deployed / "workflow" / "Snakefile").write_text(module)
    (deployed / "rectify").symlink_to(project / "rectify")  # the installed package
    jobs = planned(deployed)
    assert jobs == planned(project)
    assert jobs["train"] > 100


def test_what_the_catalogue_and_snakedeploy_look_for_is_there() -> None:
    for name in ("workflow/Snakefile", "config/README.md"):
        assert (ROOT / name).is_file()
    assert (ROOT / "config/config.yaml").resolve() == ROOT / "config.yaml"
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert {*usage} == {"mandatory-flags", "software-stack-deployment", "report"}
