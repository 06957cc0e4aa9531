"""What is shown at the end of a run that failed."""

from pathlib import Path

import pytest

from rectify.failures import UNKNOWN, summary

LOG = """\
[Tue Nov 24 13:42:15 2026]
Error in rule train:
    message: SLURM-job '9' failed, SLURM status is: 'FAILED'. See the log files.
    jobid: 4
    output: {folder}/history.csv, {folder}/gsnr.csv
    log: {folder}/train.log, {folder}/slurm/9.log (check log file(s) for error details)
    shell:
        python -m rectify train > {folder}/train.log 2>&1
        (command exited with non-zero exit code)
    external_jobid: 9
Logfile {folder}/train.log: empty file
[Tue Nov 24 13:42:16 2026]
    Error in rule table:
        jobid: 30
        output: {folder}/table.csv
        log: {folder}/table.log (check log file(s) for error details)
    Logfile {folder}/table.log:
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").write_text(LOG.format(folder=tmp_path))
    return tmp_path / "log"


def test_each_failed_job_shows_its_last_line_and_its_logs(log: Path) -> None:
    folder = log.parent
    (folder / "train.log").write_text("epoch 1\nsteps 3/9\rtraining: the loss must be finite.\n\n")
    assert summary([log]).splitlines() == [
        "2 failed:",
        "  train: training: the loss must be finite.",
        f"    {folder}/train.log",
        f"    {folder}/slurm/9.log",
        f"  table: {UNKNOWN}",
        f"    {folder}/table.log",
    ]


def test_a_job_that_failed_twice_is_shown_once(log: Path) -> None:
    log.write_text(log.read_text() * 2)
    assert summary([log]).startswith("2 failed:\n")


def test_a_job_that_a_retry_made_up_for_is_not_shown(log: Path) -> None:
    (log.parent / "history.csv").touch()
    assert "train" not in summary([log]).replace(str(log.parent), "")
    (log.parent / "table.csv").touch()
    assert summary([log]) == ""
