"""Seconds until the command line and the workflow answer, of whole processes."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paired import Options, Table, spread

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"help": 1, "table-help": 1, "table": 1, "dry-run": 10}  # seconds
NAMES = tuple(TARGETS)
NOTE = (
    "Whole processes: the wall time of the first call and of those after it, and the processor "
    "time of the latter, which other work on the machine disturbs less. The table is Table 3 of a "
    "made-up demo, without torch; `snakemake -n all` plans the paper's grid of `config.yaml`."
)
WITHOUT_TORCH = (
    "import sys; from rectify.__main__ import run; status = run(sys.argv[1:]); "
    "sys.exit(status or ('torch' in sys.modules and 'torch was imported'))"
)


def run(options: Options) -> list[Table]:
    """Return one table: command, first call, later calls, target."""
    with tempfile.TemporaryDirectory() as folder:
        commands = _commands(Path(folder))
        rows = [
            _row(name, commands[name], options.rounds) for name in options.chosen(tuple(commands))
        ]
    columns = ("command", "first", "after it [range]", "processor time [range]", "target")
    return [Table(columns, rows, NOTE)]


def _commands(folder: Path) -> dict[str, list[str]]:
    from tests.helpers import synthetic  # a results tree without training

    made = synthetic.demo_results(folder, seeds=(0, 1))
    chosen = [
        str(one) for one in made.runs
        if one.name.startswith("glyphs_vit-s_vanilla")
        or one.name.startswith("glyphs_vit-s_insert_llama")
    ]  # fmt: skip
    asked = {"kind": "table3", "settings": {"reads": "glyphs"}, "estimator": "plain"}
    table = ["table", "--target", "table3", "--settings", json.dumps(asked), "--seeds", "0", "1"]
    table += ["--output", str(folder / "table3"), "--runs", *chosen]
    _call([sys.executable, "-c", WITHOUT_TORCH, *table])
    programs = Path(sys.executable).parent
    rectify = str(programs / "rectify")
    return {
        "help": [rectify, "--help"],
        "table-help": [rectify, "table", "--help"],
        "table": [rectify, *table],
        "dry-run": [str(programs / "snakemake"), "-n", "all"],
    }


def _row(name: str, command: Sequence[str], rounds: int) -> tuple[str, ...]:
    (first, _), *later = (_call(command) for _ in range(1 + rounds))
    wall, processor = (f"{spread(seconds)} s" for seconds in zip(*later, strict=True))
    return f"`{name}`", f"{first:.2f} s", wall, processor, f"{TARGETS[name]} s"


def _call(command: Sequence[str]) -> tuple[float, float]:
    """Run a command in the repository's root, which must succeed; return wall and CPU seconds."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    before, start = _used(), time.perf_counter()
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise SystemExit(f"{command[0]} must succeed, got:\n{ended.stderr[-2000:]}")
    return seconds, _used() - before


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime
