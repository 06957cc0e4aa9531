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
# From `snakemake --profile slurm` where sbatch refuses; the two long lines are cut short.
REFUSED = """\
[Wed Nov 25 18:23:31 2026]
Error in rule prepare_data:
    message: {message}For further error details see the cluster/cloud log and the log files of the \
involved rule(s).
    jobid: 2
    output: {folder}/data/digits/manifest.csv, {folder}/data/digits/arrays.safetensors
    log: {folder}/logs/prepare_data/digits.log (check log file(s) for error details)
    shell:
        python -m rectify prepare-data --data digits
        (command exited with non-zero exit code)
Logfile {folder}/logs/prepare_data/digits.log: empty file
Trying to restart job 2.
Select jobs to execute...
[Wed Nov 25 18:23:32 2026]
Finished jobid: 1 (Rule: resolve)
"""
BY_SBATCH = """\
SLURM sbatch failed. The error message was '{said}'.
    sbatch call:
        sbatch --parsable --job-name rectify_68949cd3 -p gpu -t 60 --mem 8000 -D /tmp /dev/stdin
    sbatch script:
#!/bin/sh
/usr/bin/python -m snakemake --snakefile '/tmp/Snakefile' --executor slurm-jobstep --jobs 1
"""
ACCOUNT = "sbatch: error: Batch job submission failed: Invalid account or account/partition \
combination specified"
CONTROLLER = """\
sbatch: error: No Slurm account
sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"""
UNKNOWN_ACCOUNT = "The given account wrong appears to be invalid. Available accounts:\ngood"
# of two jobs in a group, which Snakemake prints without what sbatch said
GROUP = """\
[Wed Nov 25 18:23:14 2026]
    message: Error in group blocks
    jobs:
        rule extract_block:
            jobid: 2
            output: {folder}/b_2.txt
            log: {folder}/b_2.log (check log file(s) for error details)
        rule extract_block:
            jobid: 1
            output: {folder}/b_1.txt
            log: {folder}/b_1.log (check log file(s) for error details)
Logfile {folder}/b_2.log not found.
    [Wed Nov 25 18:23:14 2026]
    Error in rule extract_block:
        message: None
        jobid: 2
        output: {folder}/b_2.txt
        log: {folder}/b_2.log (check log file(s) for error details)
        shell:
            echo hi > b_2.log; exit 1
            (command exited with non-zero exit code)
    Logfile {folder}/b_2.log not found.
    [Wed Nov 25 18:23:14 2026]
    Error in rule extract_block:
        message: None
        jobid: 1
        output: {folder}/b_1.txt
        log: {folder}/b_1.log (check log file(s) for error details)
        shell:
            echo hi > b_1.log; exit 1
            (command exited with non-zero exit code)
    Logfile {folder}/b_1.log not found.
Exiting because a job execution failed. Look above for error messages
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


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (BY_SBATCH.format(said=ACCOUNT), ACCOUNT),
        (BY_SBATCH.format(said=CONTROLLER), CONTROLLER),
        (f"Job submission failed with exception: {UNKNOWN_ACCOUNT}", UNKNOWN_ACCOUNT),
    ],
)
@pytest.mark.parametrize("leftover", [None, "", "the end of an earlier attempt"])
def test_a_refused_job_shows_why_whatever_its_log_holds(
    tmp_path: Path, message: str, said: str, leftover: str | None
) -> None:
    if leftover is not None:
        (tmp_path / "logs" / "prepare_data").mkdir(parents=True)
        (tmp_path / "logs" / "prepare_data" / "digits.log").write_text(leftover)
    (tmp_path / "log").write_text(REFUSED.format(message=message, folder=tmp_path))
    line = said.replace("\n", " ")
    assert summary([tmp_path / "log"]) == f"1 failed:\n  prepare_data: {line}"


def test_each_job_of_a_failed_group_is_shown(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(GROUP.format(folder=tmp_path))
    (tmp_path / "b_1.log").write_text("hi\n")
    assert summary([tmp_path / "log"]).splitlines() == [
        "2 failed:",
        f"  extract_block: {UNKNOWN}",
        f"    {tmp_path}/b_2.log",
        "  extract_block: hi",
        f"    {tmp_path}/b_1.log",
    ]
