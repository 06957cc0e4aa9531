"""The experiments of a configuration, from data to report; what is where: docs/paper-map.md.

snakemake --cores 2 --configfile demo.yaml all     the embedded default
snakemake --profile slurm all                      the paper, on a cluster
snakemake --profile slurm figure4                  one figure, with only what it needs
"""

from snakemake.utils import min_version

min_version("9.27")


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
