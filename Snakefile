"""The experiments of a configuration, from data to report; what is where: docs/paper-map.md.

snakemake --cores 2 --configfile demo.yaml -- all            the demo
snakemake --profile slurm all                                the paper, on a cluster
snakemake --profile slurm pang                               Pang et al.'s tables and figures
snakemake --profile slurm figure4                            one figure, with only what it needs
snakemake --configfile config.yaml mine.yaml -- my-grid      an experiment of one's own
"""

import signal

from snakemake.utils import min_version

# SLURM warns a job before its time is up. Snakemake must outlive that, for the training to
# be able to save its state.
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
min_version("9.27")


if not workflow.config_settings.configfiles:  # a configuration that is given is complete

    configfile: "config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=RESULTS,


include: "workflow/rules/fetch.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/language.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/similarity.smk"
include: "workflow/rules/cost.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"


rule all:
    """Every table, figure and the page that shows them, but those of further pages."""
    default_target: True
    input:
        PLAN.everything(),
    localrule: True


onstart:
    begin()


onsuccess:
    remove_states(Path(RESULTS))


onerror:
    remove_states(Path(RESULTS))
    logger.error(FAILURES.summary())
