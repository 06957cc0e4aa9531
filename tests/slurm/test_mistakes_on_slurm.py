"""A mistake that only a user can mend costs one SLURM job, although a profile retries."""

from pathlib import Path

import pytest

from rectify.arguments import FINAL
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import FAULTS, FIRST, RESULTS, RUN, copy_workflow, finish, said, start


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, warmed: str) -> Path:
    """Return a project whose first training measures more batches than there are."""
    project = copy_workflow(tmp_path_factory.mktemp("mistaken"))
    (project / "mine.yaml").write_text("gsnr: {batches: 999}\n")
    head = start(project, cluster, FIRST, configs=(*FAULTS, "mine.yaml"), warmed=warmed)
    assert finish(head, project) != 0
    return project


def test_it_is_tried_once(mistaken: Path) -> None:
    text = said(mistaken)
    log = RESULTS / "logs" / "train" / f"{RUN}--0.log"
    assert FINAL in (mistaken / log).read_text()
    assert text.count(f"Logfile {log}") == 1
    assert "Trying to restart job" not in text
    assert "gsnr: batches must lie in 1.." in text.rpartition("1 failed:")[2]


def test_the_plan_knows_it_once_the_set_is_prepared(mistaken: Path, cluster: Cluster) -> None:
    before = len(said(mistaken))
    head = start(mistaken, cluster, FIRST, configs=(*FAULTS, "mine.yaml"))
    assert finish(head, mistaken) != 0
    line = said(mistaken)[before:].splitlines()[-1]
    assert line.startswith("config: gsnr.batches: must be at most the ")


def test_a_training_asks_for_its_signal_whatever_a_site_sets(mistaken: Path) -> None:
    text = said(mistaken)
    assert "slurm_partition=test" in text
    assert "slurm_extra=--signal=USR2@120" in text
