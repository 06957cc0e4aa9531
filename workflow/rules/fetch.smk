import re


rule fetch:
    """Everything that the configuration names by its hub's id, except what was put there by hand."""
    input:
        expand("{folder}/fetched.json", folder=TO_FETCH),
    localrule: True


rule fetch_repository:
    """Download a published model or data set; all other jobs work offline."""
    output:
        note="{folder}/fetched.json",
    log:
        "<results>/logs/fetch/{folder}.log",
    wildcard_constraints:
        folder="|".join(map(re.escape, PLAN.repositories)) or "none",
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    params:
        options=PLAN.fetch_options,
        folder=subpath(output.note, parent=True),
    shell:
        "python -m rectify fetch {params.options:q} --folder {params.folder:q} > {log:q} 2>&1"
