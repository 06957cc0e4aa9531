"""What is shown at the end of a run that failed."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from rectify.arguments import FINAL
from rectify.cluster.failures import UNKNOWN, Failures, is_final, last_line

ROOT = Path(__file__).resolve().parents[2]
SNAKEFILE = """
from rectify.cluster.failures import Failures

FAILURES = Failures()
logger.addHandler(FAILURES)

rule all:
    input: "fine_1.txt", "broken_2.txt", "again.txt", "silent.txt"
rule fine:
    output: "fine_{n}.txt"
    log: "fine_{n}.log"
    shell: "echo fine > {log}; touch {output}"
rule broken:
    output: "{name}_{n,2}.txt"
    log: "logs/{name}/{n}.log"
    shell: "echo epoch 1 > {log}; echo 'table: a cell must be there, got none.' >> {log}; exit 2"
rule again:
    output: "again.txt"
    log: "again.log"
    retries: 1
    shell: "echo again > {log}; test -e tried && touch {output}; touch tried; test -e {output}"
rule silent:
    output: "silent.txt"
    shell: "exit 1"

onerror:
    print(FAILURES.summary(), flush=True)
"""
# What the plugin says where sbatch refuses; the two long lines are cut short.
BY_SBATCH = """\
SLURM sbatch failed. The error message was '{said}'.
    sbatch call:
        sbatch --parsable --job-name rectify_68949cd3 -p gpu -t 60 --mem 8000 -D /tmp /dev/stdin
    sbatch script:
#!/bin/sh
/usr/bin/python -m snakemake --snakefile '/tmp/Snakefile' --executor slurm-jobstep --jobs 1
"""
FURTHER = "For further error details see the cluster/cloud log and the log files of the rule(s)."
ACCOUNT = "sbatch: error: Batch job submission failed: Invalid account or account/partition \
combination specified"
CONTROLLER = """\
sbatch: error: No Slurm account
sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"""
UNKNOWN_ACCOUNT = "The given account wrong appears to be invalid. Available accounts:\ngood"

Tell = Callable[..., None]


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def tell(failures: Failures) -> Tell:
    """A function that has the handler see one event."""

    def tell(event: LogEvent, **fields: object) -> None:
        failures.handle(logging.makeLogRecord({"event": event, "indent": False, **fields}))

    return tell


def start(tell: Tell, number: int, **wildcards: str) -> None:
    tell(LogEvent.JOB_INFO, jobid=number, wildcards=wildcards)


def error(number: int, rule: str, *logs: Path, message: str | None = None) -> dict[str, object]:
    return {
        "jobid": number,
        "rule_name": rule,
        "rule_msg": message,
        "log": [str(log) for log in logs],
    }


@pytest.mark.slow
def test_snakemake_tells_which_jobs_failed_for_good(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--quiet", "all"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    count, *lines = done.stdout.splitlines()
    assert count == "2 failed:", done.stderr
    assert f"  silent: {UNKNOWN}" in lines
    broken = lines.index("  broken name=broken n=2: table: a cell must be there, got none.")
    assert lines[broken + 1] == "    logs/broken/2.log"
    assert len(lines) == 3


def test_each_failed_job_shows_its_last_line_and_its_logs(
    failures: Failures, tell: Tell, tmp_path: Path
) -> None:
    log, table_log = tmp_path / "train.log", tmp_path / "table.log"
    log.write_text("epoch 1\nsteps 3/9\rtraining: the loss must be finite.\n\n")
    start(tell, 4, run="a_b_vanilla", seed="0")
    start(tell, 30)
    assert failures.summary() == ""
    tell(LogEvent.JOB_ERROR, **error(4, "train", log, tmp_path / "slurm" / "9.log"))
    tell(LogEvent.JOB_ERROR, **error(30, "table", table_log))
    assert failures.summary().splitlines() == [
        "2 failed:",
        "  train run=a_b_vanilla seed=0: training: the loss must be finite.",
        f"    {log}",
        f"    {tmp_path}/slurm/9.log",
        f"  table: {UNKNOWN}",
        f"    {table_log}",
    ]


def test_a_job_that_failed_twice_is_shown_once_and_not_at_all_after_a_good_retry(
    failures: Failures, tell: Tell, tmp_path: Path
) -> None:
    for _ in range(2):
        start(tell, 4)
        tell(LogEvent.JOB_ERROR, **error(4, "train", tmp_path / "train.log"))
    assert failures.summary().startswith("1 failed:\n")
    start(tell, 4)
    assert failures.summary() == ""


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (BY_SBATCH.format(said=ACCOUNT), ACCOUNT),
        (BY_SBATCH.format(said=CONTROLLER), CONTROLLER),
        (f"Job submission failed with exception: {UNKNOWN_ACCOUNT}", UNKNOWN_ACCOUNT),
    ],
)
@pytest.mark.parametrize("further", ["", FURTHER])
def test_a_refused_job_shows_why_whatever_its_log_holds(
    failures: Failures, tell: Tell, tmp_path: Path, message: str, said: str, further: str
) -> None:
    log = tmp_path / "digits.log"
    log.write_text("the end of an earlier attempt")
    start(tell, 2, set="digits")
    tell(LogEvent.JOB_ERROR, **error(2, "prepare_data", log, message=message + further))
    line = said.replace("\n", " ")
    assert failures.summary() == f"1 failed:\n  prepare_data set=digits: {line}"


def test_each_job_of_a_failed_group_is_shown_once_with_the_log_of_the_group(
    failures: Failures, tell: Tell, tmp_path: Path
) -> None:
    logs = [tmp_path / "b_1.log", tmp_path / "b_2.log"]
    logs[1].write_text("hi\n")
    for number in (1, 2):
        start(tell, number, layer=f"{number}")
    jobs = [error(number, "extract_block", logs[number - 1]) for number in (1, 2)]
    tell(LogEvent.GROUP_ERROR, groupid="blocks", aux_logs=["slurm/7.log"], job_error_info=jobs)
    for job in jobs:
        tell(LogEvent.JOB_ERROR, **{**job, "indent": True})
    assert failures.summary().splitlines() == [
        "2 failed:",
        f"  extract_block layer=1: {UNKNOWN}",
        f"    {logs[0]}",
        "    slurm/7.log",
        "  extract_block layer=2: hi",
        f"    {logs[1]}",
        "    slurm/7.log",
    ]


def test_records_without_an_event_are_ignored(failures: Failures) -> None:
    failures.handle(logging.makeLogRecord({"msg": "Error in rule train:"}))
    assert failures.summary() == ""


@pytest.mark.parametrize(
    ("content", "line"),
    [("a\nb\n\n", "b"), ("a\r50%\r100%\n", "100%"), ("", UNKNOWN), ("\n \n", UNKNOWN)],
)
def test_the_last_line_is_the_last_that_is_not_empty(
    tmp_path: Path, content: str, line: str
) -> None:
    (tmp_path / "log").write_text(content)
    assert last_line(tmp_path / "log") == line
    assert last_line(tmp_path / "absent") == UNKNOWN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"rectify.train epoch 0\n{FINAL}\ndata: must be there, got none.\n", True),
        ("data: must be there, got none.\n", False),
        ("", False),
        (f"he said {FINAL}\n", False),
    ],
)
def test_a_log_says_whether_another_attempt_can_help(
    tmp_path: Path, text: str, expected: bool
) -> None:
    (tmp_path / "log").write_text(text)
    logs = [tmp_path / "absent", tmp_path / "log"]
    assert is_final(logs, since=0.0) == expected
    assert not is_final(logs, since=time.time() + 60)  # of an earlier snakemake
    assert not is_final([], since=0.0)
