"""Seconds that SLURM and Snakemake add to a training of the smoke test's size, by job or in groups.

Needs SLURM's Debian packages and root: it starts the cluster of ``tests/slurm``. A job's
overhead is its time in SLURM without the time of the command in it, and a group's is that of
its trainings together. 40 trainings for each round: 200 with the five of ``--rounds 5``.
"""

import csv
import json
import tempfile
import time
from pathlib import Path

from benchmarks.paired import Options, Table
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import FAULTS, RESULTS, RUN, copy_workflow, finish, start

NAMES = ("alone", "grouped")
TRAININGS_PER_ROUND = 40
GROUP = 20
GROUPED = (
    *("--groups", "train=trainings", "--group-components", f"trainings={GROUP}"),
    *("--set-resources", "train:turn=1"),
)
HOURS = 4


def run(options: Options) -> list[Table]:
    """Return one table: a row for each way to submit the trainings."""
    count = TRAININGS_PER_ROUND * options.rounds
    with tempfile.TemporaryDirectory(prefix="slurm-") as daemons, Cluster(Path(daemons)) as cluster:
        rows = [_row(name, count, cluster) for name in options.chosen(NAMES)]
    columns = ("submitted", "SLURM jobs", "minutes in all", "training, s", "overhead, s")
    note = (
        f"{count} trainings, two at a time; a group holds {GROUP}. The last two columns are means "
        "for one training, of wall time."
    )
    return [Table(columns, rows, note)]


def _row(name: str, count: int, cluster: Cluster) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as place:
        project = copy_workflow(Path(place))
        digits = {"fraction": 1.0, "training": {"epochs": 2}}
        overlay = {"seeds": list(range(count)), "data": {"digits": digits}}
        (project / "seeds.json").write_text(json.dumps(overlay))
        targets = [f"{RESULTS}/runs/{RUN}/seed-{seed}/summary.json" for seed in range(count)]
        options = ("--jobs", "2", *(GROUPED if name == "grouped" else ()))
        begun = time.monotonic()
        configs = (*FAULTS, "seeds.json")
        head = start(project, cluster, *targets, configs=configs, options=options)
        if finish(head, project, HOURS * 3600):
            raise RuntimeError((project / "said.log").read_text()[-2000:])
        minutes = (time.monotonic() - begun) / 60
        jobs = _elapsed(cluster, project)
        seconds = [_command_seconds(project, seed) for seed in range(count)]
    overhead = (sum(jobs) - sum(seconds)) / count
    measured = (minutes, sum(seconds) / count, overhead)
    return (name, str(len(jobs)), *(f"{number:.1f}" for number in measured))


def _elapsed(cluster: Cluster, project: Path) -> list[int]:
    """Return the seconds that each job of a project with trainings took."""
    fields = "workdir,comment,elapsedraw"
    text = cluster.run("sacct", "-X", "-n", "-P", "-S", f"now-{HOURS}hours", "-o", fields)
    rows = [row.split("|") for row in text.splitlines()]
    return [int(took) for place, what, took in rows if place == f"{project}" and "_train" in what]


def _command_seconds(project: Path, seed: int) -> float:
    path = project / RESULTS / "benchmarks" / "train" / f"{RUN}--{seed}.tsv"
    with path.open(encoding="utf-8") as file:
        return float(next(csv.DictReader(file, delimiter="\t"))["s"])
