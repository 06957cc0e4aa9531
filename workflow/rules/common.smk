"""The checked configuration as a plan, and what rules ask of a machine."""

import os
import re
import shlex
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

from snakemake.exceptions import WorkflowError

CLONE = Path(f"{workflow.current_basedir}", "../..").resolve()
if (CLONE / "rectify").is_dir():  # else a module from a hub: the package is installed
    sys.path.insert(0, f"{CLONE}")

from rectify.arguments import COMMAND, JOB
from rectify.cluster import devices, failures, presence, slurm
from rectify.experiment import grid, jobs, there
from rectify.experiment.plan import Plan
from rectify.experiment.repositories import is_filled_by_hand
from rectify.tasks import DEFAULT_TASK
from rectify.training.folders import remove_states
from rectify.typed import NAME, TARGET

# Not imported: where this is a module from a hub, only what Snakemake names as a source is there.
# A module is read once for each `use rule`.
FIXES = "rectify_slurm_fixes"
if FIXES not in sys.modules:
    LOADER = SourceFileLoader(FIXES, f"{workflow.source_path('../slurm_fixes.py')}")
    sys.modules[FIXES] = module_from_spec(spec_from_loader(FIXES, LOADER))
    LOADER.exec_module(sys.modules[FIXES])
slurm_fixes = sys.modules[FIXES]
slurm_fixes.apply()
if workflow.modifier.avail_rulename("train"):
    slurm_fixes.TRAINING_RULES.add(workflow.modifier.modify_rulename("train"))
if workflow.is_main_process:  # not in jobs, which evaluate this file too
    os.environ[JOB] = "1"  # which jobs inherit
    os.environ[COMMAND] = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    PRESENT = presence.of_this_process(Path(".snakemake"))
    if presence.unlock(PRESENT, Path(".snakemake")):
        logger.info("The last snakemake in this folder was killed: its lock is removed.")


class OneLinePlan(Plan):
    """A plan that ends Snakemake with one line when a path names no run."""

    def run(self, wildcards):
        try:
            return super().run(wildcards)
        except ValueError as error:
            sys.exit(f"{error}")


try:
    PLAN = OneLinePlan(grid.read(config))
    if workflow.is_main_process:
        there.check(PLAN)
except ValueError as error:
    sys.exit(f"{error}")


# Around the names of rules in a workflow whose module this is: `use rule * from ... as paper_*`.
PREFIX, _, SUFFIX = workflow.modifier.modify_rulename("*").partition("*")


def planned_jobs():
    """Return rule and wildcards of each job that is to be run."""
    return [
        (job.rule.name.removeprefix(PREFIX).removesuffix(SUFFIX), dict(job.wildcards.items()))
        for job in workflow.dag.needrun_jobs()
    ]


CONFIG, RESULTS, BENCHMARKS = PLAN.config, PLAN.results, f"{PLAN.results}/benchmarks"
LOGS = f"{PLAN.results}/logs"
GPUS, NODES, THREADS = CONFIG.device_gpus, CONFIG.device_nodes, CONFIG.threads
ONE_GPU = min(1, GPUS)  # of jobs that are one process
TO_FETCH = [folder for folder in PLAN.repositories if not is_filled_by_hand(Path(folder))]
SEEDS = list(CONFIG.seeds)
NOISE = f"{PLAN.results}/runs/{{run}}/seed-{{seed}}/noise.csv"  # where every step is measured
TABLES, FIGURES = PLAN.target_names("table"), PLAN.target_names("figure")


resource_scopes:
    turn="local",  # of what a job that many share has one, else it would ask for the sum


def any_of(names):
    return "|".join(map(re.escape, dict.fromkeys(names))) or "none"


wildcard_constraints:
    run=f"{NAME}(_{NAME})+",
    set=any_of(CONFIG.data),
    pairs=any_of(PLAN.pair_sets),
    shift=any_of(shift for entry in CONFIG.data.values() for shift in entry.shift_names),
    language=any_of(CONFIG.languages),
    vision=any_of(CONFIG.visions),
    features=f"{NAME}(_{NAME})*--(seed-\\d+|pretrained)",
    layer=r"\d+(-\d+)?",
    seed=r"\d+",
    target=TARGET,
    page=NAME,


def begin():
    """Before the first job, cancel what a killed snakemake left on a cluster, or share GPUs here."""
    try:
        presence.claim(Path(RESULTS))
    except (OSError, ValueError) as error:  # a folder that is read-only
        raise WorkflowError(f"{error}") from None
    if workflow.executor_plugin.name == "slurm":
        with PRESENT.alone() as is_alone:
            try:
                cancelled = slurm.begin(Path.cwd(), RESULTS, is_alone)
            except ValueError as error:
                raise WorkflowError(f"{error}") from None
            for job in cancelled:
                logger.info(f"Cancelled SLURM job {job.number} of an earlier run: {job.what}")
    elif workflow.local_exec:
        if NODES > 1:
            raise WorkflowError(
                f"config: device_nodes must be 1 on one machine, got {NODES}. "
                "Use `snakemake --profile slurm`."
            )
        share_gpus()


def end(is_complete):
    """After the last job, remove states of trainings that are complete, and say what failed."""
    remove_states(Path(RESULTS))
    if not is_complete:
        logger.error(FAILURES.summary())


def share_gpus():
    """Give each job that computes on GPUs some of this machine's for itself."""
    visible = devices.visible()
    devices.share(visible, GPUS)
    for limits in (workflow.scheduler.global_resources, workflow.scheduler.resources):
        limits.setdefault("gpu", max(GPUS, len(visible)))  # with fewer, a job says so


def memory(base_mb):
    """Memory that doubles with each attempt."""
    return lambda wildcards, attempt: base_mb * 2 ** (attempt - 1)


def minutes(base):
    """Run time that doubles with each attempt."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)


def in_files(wildcards):
    """Return whether the items of a set are read from files."""
    return CONFIG.data[wildcards.set].folder is not None


def data_threads(wildcards):
    return THREADS if in_files(wildcards) else 1


def data_memory(wildcards, attempt):
    return memory(16_000 if in_files(wildcards) else 4_000)(wildcards, attempt)


def data_minutes(wildcards, attempt):
    return minutes(120 if in_files(wildcards) else 30)(wildcards, attempt)


def features_memory(wildcards, attempt):
    """Memory of one layer, the embeddings and all captions: that of 7B, or of a small model."""
    small = wildcards.language in PLAN.made_here
    return memory(4_000 if small else 16_000)(wildcards, attempt)


def features_minutes(wildcards, attempt):
    """Run time: hours for a published model without a GPU."""
    slow = not GPUS and wildcards.language not in PLAN.made_here
    return minutes(600 if slow else 60)(wildcards, attempt)


def pairs_folder(wildcards, input):
    return str(Path(input.pairs[0]).parent)


def layer_option(wildcards, input):
    return ["--block", *input.layer] if input.layer else []


def trackers_option(wildcards, output):
    """Return the trackers. It takes `output`, so Snakemake does not compare its value."""
    run, seed = Path(output.history).parts[-3:-1]
    trackers, folder = CONFIG.trackers, f"{RESULTS}/events/{run}/{seed}"
    return ["--trackers", *trackers, "--events", folder] if trackers else []


def masks_option(wildcards, input):
    return ["--masks", str(Path(*input.masks).parent)] if input.masks else []


# Not `onstart` and its like: Snakemake calls none of a module's.
if workflow.is_main_process and slurm_fixes.attend(RESULTS, begin, end):
    FAILURES = failures.Failures()
    for handler in (FAILURES, jobs.Head(PLAN, planned_jobs, logger.info)):
        logger.addHandler(handler)
