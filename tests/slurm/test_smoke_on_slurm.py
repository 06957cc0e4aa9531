"""`snakemake --profile slurm all` on a real SLURM."""

from pathlib import Path

import pytest

from rectify.cluster import slurm
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.workflow import TINY, copy_workflow, finish, said, start
from tests.workflow.project import call

RESULTS = Path("results") / "tiny"
TABLES = ("table1", "table3", "table6", "controls", "cost")
FIGURES = ("table3", "figure2", "figure4", "figure5", "pang_figure4")
RUN = "scenes_vit-64-patch7_vanilla"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, warmed: str) -> Path:
    """Return a copy of the project in which the cluster has made everything."""
    project = copy_workflow(tmp_path_factory.mktemp("smoke"))
    targets = ("all", f"{RESULTS}/environment.txt")
    status = finish(start(project, cluster, *targets, warmed=warmed), project)
    assert status == 0, said(project)[-4000:]
    return project


def rows(cluster: Cluster, project: Path) -> dict[str, list[str]]:
    """Return resources, name and minutes of each completed job of a project, by its comment."""
    fields = "workdir,comment,alloctres,jobname,timelimitraw"
    chosen = ("-X", "--state=COMPLETED", "-S", "now-1hours", "-E", "now", "-o", fields)
    text = cluster.run("sacct", "--noheader", "--parsable2", *chosen)
    split = [row.split("|") for row in text.splitlines()]
    return {comment: row for place, comment, *row in split if place == f"{project}"}


def row_of(cluster: Cluster, project: Path, comment: str) -> list[str]:
    """Return one of the rows; accounting may know it a little later than Snakemake."""
    return wait_until(lambda: rows(cluster, project).get(comment), f"the row of {comment}")


def test_every_table_figure_and_the_page_are_there(finished: Path) -> None:
    for table in TABLES:
        assert (finished / RESULTS / "tables" / f"{table}.csv").stat().st_size > 0
    for figure in FIGURES:
        assert (finished / RESULTS / "figures" / f"{figure}.png").stat().st_size > 0
    assert (finished / RESULTS / "report" / "index.html").stat().st_size > 100_000


def test_a_training_has_a_gpu_and_its_name_says_what_it_is(
    finished: Path, cluster: Cluster
) -> None:
    training = f"rule_train_wildcards_{RUN}_0"
    resources, name, minutes = row_of(cluster, finished, training)
    assert "gres/gpu=1" in resources
    assert "mem=32000M" in resources
    assert name.startswith(slurm.PREFIX)
    assert minutes == "2880"
    logs = finished / ".snakemake" / "slurm_logs" / "rule_train" / f"{RUN}_0"
    assert len(list(logs.glob("*.log"))) == 1


def test_a_training_on_two_gpus_is_two_processes_on_one_node(
    finished: Path, cluster: Cluster
) -> None:
    (finished / "two.json").write_text('{"device_gpus": 2}')
    folder = RESULTS / "runs" / RUN / "seed-1"
    options, configs = ("--printshellcmds",), (*TINY, "two.json")
    target = str(folder / "summary.json")
    head = start(finished, cluster, target, configs=configs, options=options)
    assert finish(head, finished) == 0, said(finished)[-4000:]
    training = f"rule_train_wildcards_{RUN}_1"
    resources, *_ = row_of(cluster, finished, training)
    assert "gres/gpu=2" in resources
    assert "node=1" in resources.split(",")
    assert "rectify train" in said(finished)
    assert "--processes 2 " in said(finished)
    assert (finished / folder / "gsnr.csv").stat().st_size > 0


def test_tables_figures_and_settings_never_wait_in_the_queue(
    finished: Path, cluster: Cluster
) -> None:
    comments = rows(cluster, finished)
    rules = {comment.removeprefix("rule_").partition("_wildcards")[0] for comment in comments}
    assert "train" in rules
    assert not {"table", "figure", "page", "resolve", "label"} & rules


def test_jobs_that_share_one_ask_for_the_memory_and_cores_of_one(
    finished: Path, cluster: Cluster
) -> None:
    jobs = rows(cluster, finished).items()
    ((resources, _, minutes),) = [row for comment, row in jobs if "blocks" in comment]
    assert "cpu=1" in resources
    assert "mem=4000M" in resources
    assert minutes == "20"  # two blocks of ten


def test_jobs_have_no_network_for_models(finished: Path) -> None:
    log = (finished / RESULTS / "environment.txt").read_text()
    assert "HF_HUB_OFFLINE=1" in log


def test_an_efficiency_report_is_left(finished: Path) -> None:
    reports = (finished / ".snakemake" / "slurm_efficiency").glob("efficiency_report_*.csv")
    assert "rule_train" in next(reports).read_text()


def test_status_and_doctor_know_the_cluster(
    finished: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(key, cluster.environment[key])
    configs = ("--config", *TINY)
    status = call(finished, "python", "-m", "rectify", "status", *configs)
    assert status.stdout.splitlines()[-2] == "4 done", status.stdout
    profiles = ("--profile", "slurm/profile.yaml", "tests/slurm/site/profile.yaml")
    doctor = call(finished, "python", "-m", "rectify", "doctor", *configs, *profiles)
    assert "ok  partition: test: 2 nodes, gpu:2" in doctor.stdout
    assert "ok  shared files: a job sees" in doctor.stdout
    assert "BAD GPU: a job sees 0" in doctor.stdout  # the GPU of this cluster is a device file
    assert doctor.returncode == 1
