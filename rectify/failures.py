"""The failed jobs of a Snakemake run in a few lines: what each said last, and where its log is."""

import re
from collections.abc import Iterable
from pathlib import Path

# up to the next time stamp: the message of a refused job holds a whole script, not indented
ERROR = re.compile(
    r"^ *Error in rule (?P<rule>\S+?):\n(?P<facts>.*?)(?=^ *\[\w{3} \w{3} |\Z)",
    re.MULTILINE | re.DOTALL,
)
REFUSED = re.compile(  # by sbatch, or by the plugin, which knows the accounts
    r"^ +message: (?:SLURM sbatch failed\. The error message was '|Job submission failed with "
    r"exception: )(?P<why>.*?)(?:'\.\n|For further error details)",
    re.MULTILINE | re.DOTALL,
)
UNKNOWN = "it said nothing: it was killed, or never started; see the log of the cluster"


def summary(snakemake_logs: Iterable[Path]) -> str:
    """Return one paragraph for each job that failed and was not made up for by a retry."""
    texts = [log.read_text(encoding="utf-8", errors="replace") for log in snakemake_logs]
    text, last = "\n".join(texts), {}
    for error in ERROR.finditer(text):
        outputs, logs = _listed(error["facts"], "output"), _listed(error["facts"], "log")
        if logs and not any(Path(file).exists() for file in outputs):
            last[logs[0]] = _paragraph(error["rule"], error["facts"], logs)
    return "\n".join([f"{len(last)} failed:", *last.values()]) if last else ""


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, or that there is none."""
    if not log.is_file():
        return UNKNOWN
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.rpartition("\r")[2].strip() for line in lines]  # progress bars end with \r
    return next((line for line in reversed(lines) if line), UNKNOWN)


def _listed(facts: str, key: str) -> list[str]:
    found = re.search(rf"^ +{key}: (.*?)(?: \(check log file.*)?$", facts, re.MULTILINE)
    return found[1].split(", ") if found else []


def _paragraph(rule: str, facts: str, logs: list[str]) -> str:
    if refused := REFUSED.search(facts):  # it never ran: a log would be an earlier attempt's
        return f"  {rule}: {' '.join(refused['why'].split())}"
    return "\n".join([f"  {rule}: {last_line(Path(logs[0]))}", *(f"    {log}" for log in logs)])
