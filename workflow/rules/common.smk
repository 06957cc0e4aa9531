"""The checked configuration, and from names to files."""

import json
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from rectify import config as experiment
from rectify import failures, presence, slurm
from rectify.commands.prepare_data import modules as data_modules
from rectify.commands.train import MODULES as TRAINING
from rectify.commands.train import remove_states
from rectify.provenance import source_digest
from rectify.runs import Run

slurm.mend(sys.modules.get("snakemake_executor_plugin_slurm"))
slurm.mend_executor(sys.modules.get("snakemake_executor_plugin_slurm"))
slurm.mend_step(sys.modules.get("snakemake_executor_plugin_slurm_jobstep"))
if workflow.is_main_process:  # not in jobs, which evaluate this file too
    PRESENT = presence.Presence(Path(".snakemake"))
    if presence.unlock(PRESENT, Path(".snakemake")):
        logger.info("The last snakemake in this folder was killed: its lock is removed.")

try:
    experiment.check(config)
except ValueError as error:
    sys.exit(str(error))

RESULTS = config["results"].rstrip("/")
BENCHMARKS = f"{RESULTS}/benchmarks"
ONE_GPU = min(1, config["device_gpus"])  # of jobs that are one process
SEEDS = [int(seed) for seed in config["seeds"]]
TABLES = (*experiment.TABLES, *experiment.BEYOND)
FIGURES = experiment.FIGURES
WITHOUT_RUNS = ("table1", "cost")
IN_MEMORY = [
    name
    for name, data in config["data"].items()
    if data.get("embedded") or data["reader"] == "cifar100"
]
IN_FILES = [name for name in config["data"] if name not in IN_MEMORY]
NAME = "[a-z0-9]+([.-][a-z0-9]+)*"
REPOSITORIES = experiment.repositories(config)
TO_FETCH = [folder for folder in REPOSITORIES if not experiment.is_filled_by_hand(Path(folder))]
MADE_HERE = [name for name, model in config["languages"].items() if "pretraining" in model]


wildcard_constraints:
    run=f"{NAME}(_{NAME})+",
    set=NAME,
    language=NAME,
    vision=NAME,
    eye=f"{NAME}(_{NAME})*--(seed-\\d+|pretrained)",
    layer=r"\d+",
    seed=r"\d+",
    table=r"table\d|controls|cost",
    figure=r"figure\d|table3",


def begin():
    """Before the first job: cancel what a snakemake that was killed left on the cluster."""
    if workflow.executor_plugin.name == "slurm":
        with PRESENT.alone() as is_alone:
            try:
                cancelled = slurm.begin(Path.cwd(), RESULTS, is_alone)
            except ValueError as error:
                raise WorkflowError(f"{error}") from None
            for job in cancelled:
                logger.info(f"Cancelled SLURM job {job.number} of an earlier run: {job.what}")


def memory(base_mb):
    """Memory that doubles with each attempt."""
    return lambda wildcards, attempt: base_mb * 2 ** (attempt - 1)


def minutes(base):
    """Run time that doubles with each attempt."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)


def features_memory(wildcards, attempt):
    """Memory of one layer, the embeddings and all captions: that of 7B, or of a small model."""
    return memory(4_000 if wildcards.language in MADE_HERE else 16_000)(wildcards, attempt)


def features_minutes(wildcards, attempt):
    """Run time: hours for a published model without a GPU."""
    slow = not config["device_gpus"] and wildcards.language not in MADE_HERE
    return minutes(600 if slow else 60)(wildcards, attempt)


def parsed(wildcards):
    return Run.parse(wildcards.run)


def run_settings(wildcards):
    run = parsed(wildcards)
    for name, section in ((run.data, "data"), (run.vision, "visions")):
        if name not in config[section]:
            sys.exit(f"{wildcards.run}: {name} must be a name under {section}, got none.")
    return json.dumps(experiment.settings(config, run), sort_keys=True)


def data_settings(wildcards):
    return json.dumps(experiment.data_settings(config, wildcards.set), sort_keys=True)


def data_code(wildcards):
    return source_digest(*data_modules(config["data"][wildcards.set]["reader"]))


def prepared(name):
    """The files of a prepared data set that a job reads."""
    files = ["manifest.csv", "arrays.safetensors"] if name in IN_MEMORY else ["manifest.csv"]
    return [f"{RESULTS}/data/{name}/{file}" for file in files]


def run_data(wildcards):
    return prepared(parsed(wildcards).data)


def run_data_folder(wildcards):
    return f"{RESULTS}/data/{parsed(wildcards).data}"


def pairs_folder(wildcards, input):
    return str(Path(input.pairs[0]).parent)


def run_block(wildcards):
    run = parsed(wildcards)
    if run.language is None:
        return []
    return [f"{RESULTS}/language/{run.language}/layer-{run.layer}.safetensors"]


def block_option(wildcards, input):
    return ["--block", *input.block] if input.block else []


def checkpoint_path(wildcards):
    """Folder of an unfinished training's states: not an output, so that it survives."""
    return f"{RESULTS}/checkpoints/{wildcards.run}/seed-{wildcards.seed}"


def kept_block(wildcards):
    """The block that a model still has at test."""
    return [] if parsed(wildcards).variant == "auxiliary" else run_block(wildcards)


def checkpoint(language):
    if language in MADE_HERE:
        return f"{RESULTS}/models/{language}"
    return config["languages"][language]["checkpoint"]


def checkpoint_folder(wildcards):
    return checkpoint(wildcards.language)


def checkpoint_files(wildcards):
    """The files of a checkpoint that is made here; one from elsewhere is found by the job."""
    if wildcards.language not in MADE_HERE:
        return []
    folder = checkpoint(wildcards.language)
    return [f"{folder}/{file}" for file in ("config.json", "model.safetensors", "tokenizer.json")]


def fetch_options(wildcards):
    """Where a folder comes from, as options of the command."""
    source = REPOSITORIES[wildcards.folder]
    return [word for name, value in source.items() if value for word in (f"--{name}", value)]


def cost_files(wildcards):
    """The settings of a model that is made here; those of a known one need no file."""
    return checkpoint_files(wildcards)[:1]


def cost_settings(wildcards):
    settings = experiment.cost_settings(config, wildcards.vision, wildcards.language)
    return json.dumps(settings, sort_keys=True)


def target_costs(target):
    if target != "cost":
        return []
    table = config["tables"]["cost"]
    return [
        f"{RESULTS}/cost/{vision}--{language}.csv"
        for vision in table["visions"]
        for language in table["languages"]
    ]


def pretraining_settings(wildcards):
    return json.dumps(config["languages"][wildcards.language]["pretraining"], sort_keys=True)


def language_label(wildcards):
    title = config["languages"][wildcards.language]["title"]
    return json.dumps({"name": wildcards.language, "title": title})


def vision_settings(wildcards):
    return json.dumps({"name": wildcards.vision, **config["visions"][wildcards.vision]})


def seed_files(runs, *names):
    return [
        f"{RESULTS}/runs/{run.name}/seed-{seed}/{name}"
        for run in runs
        for seed in SEEDS
        for name in names
    ]


def run_files(target):
    """Everything that a table or figure reads of its runs."""
    runs = experiment.runs_of(config, target)
    configs = [f"{RESULTS}/runs/{run.name}/config.json" for run in runs]
    return configs + seed_files(runs, "history.csv", "gsnr.csv", "evaluation.csv")


def run_folders(target):
    return [f"{RESULTS}/runs/{run.name}" for run in experiment.runs_of(config, target)]


def similarity_files(languages, visions):
    """Similarity tables: of trained ViTs one for each seed, of pretrained ones one."""
    if config["similarity"]["vision"] == "pretrained":
        eyes = [f"{vision}--pretrained" for vision in visions]
    else:
        data = config["similarity"]["data"]
        eyes = [f"{data}_{vision}_vanilla--seed-{s}" for vision in visions for s in SEEDS]
    return [f"{RESULTS}/similarity/{one}--{eye}.csv" for one in languages for eye in eyes]


def target_similarity(target):
    tables = config["tables"]
    if target == "table1":
        return similarity_files(tables["table1"]["languages"], tables["table1"]["visions"])
    if target == "figure4":
        return similarity_files(tables["figure4"]["languages"], [tables["figure4"]["vision"]])
    if target == "figure5":
        return similarity_files([tables["table3"]["language"]], [tables["table3"]["vision"]])
    return []


def target_data(target):
    """The data sets of a table's columns, in their order."""
    table = config["tables"].get(target, {})
    sets = table.get("data", [])
    video = [table["video"]] if "video" in table else []
    return (sets if isinstance(sets, list) else [sets]) + video


def table_inputs(wildcards):
    runs = [] if wildcards.table in WITHOUT_RUNS else run_files(wildcards.table)
    return runs + target_similarity(wildcards.table) + target_costs(wildcards.table)


def figure_inputs(wildcards):
    runs = [] if wildcards.figure == "figure4" else run_files(wildcards.figure)
    return runs + target_similarity(wildcards.figure)


def option(name, values):
    """A command-line option with its values, or nothing."""
    return [name, *map(str, values)] if values else []


def table_options(wildcards):
    table = wildcards.table
    folders = [] if table in WITHOUT_RUNS else run_folders(table)
    return (
        option("--runs", folders)
        + option("--similarity", target_similarity(table))
        + option("--costs", target_costs(table))
        + option("--data", target_data(table))
    )


def figure_options(wildcards):
    figure = wildcards.figure
    folders = [] if figure == "figure4" else run_folders(figure)
    return option("--runs", folders) + option("--similarity", target_similarity(figure))


def target_files(target):
    """The files of a table or figure; Table 3 is drawn as a heat map too."""
    table = [f"{RESULTS}/tables/{target}.{suffix}" for suffix in ("csv", "md", "tex")]
    figure = [f"{RESULTS}/figures/{target}.{suffix}" for suffix in ("csv", "pdf", "png")]
    if target == "table3":
        return table + figure
    return figure if target in FIGURES else table


def everything():
    return [file for name in (*TABLES, *FIGURES) for file in target_files(name)]
