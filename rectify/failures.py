"""The failed jobs of a Snakemake run in a few lines: what each said last, and where its log is."""

import re
from collections.abc import Iterable
from pathlib import Path

ERROR = re.compile(
    r"^( *)Error in (?:rule|group job) (?P<rule>\S+?):\n(?P<facts>(?:\1 +.*\n)+)", re.MULTILINE
)
UNKNOWN = "it said nothing: it was killed, or never started; see the log of the cluster"


def summary(snakemake_logs: Iterable[Path]) -> str:
    """Return one paragraph for each job that failed and was not made up for by a retry."""
    texts = [log.read_text(encoding="utf-8", errors="replace") for log in snakemake_logs]
    text, last = "\n".join(texts), {}
    for error in ERROR.finditer(text):
        outputs, logs = _listed(error["facts"], "output"), _listed(error["facts"], "log")
        if logs and not any(Path(file).exists() for file in outputs):
            last[logs[0]] = (error["rule"], logs)
    paragraphs = [_paragraph(rule, logs) for rule, logs in last.values()]
    return "\n".join([f"{len(paragraphs)} failed:", *paragraphs]) if paragraphs else ""


def _listed(facts: str, key: str) -> list[str]:
    found = re.search(rf"^ +{key}: (.*?)(?: \(check log file.*)?$", facts, re.MULTILINE)
    return found[1].split(", ") if found else []


def _paragraph(rule: str, logs: list[str]) -> str:
    return "\n".join([f"  {rule}: {_last_line(Path(logs[0]))}", *(f"    {log}" for log in logs)])


def _last_line(log: Path) -> str:
    if not log.is_file():
        return UNKNOWN
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.rpartition("\r")[2].strip() for line in lines]  # progress bars end with \r
    return next((line for line in reversed(lines) if line), UNKNOWN)
