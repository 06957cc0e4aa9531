rule table:
    """One table: of the paper, or of an experiment of one's own."""
    input:
        PLAN.target_inputs,
    output:
        cells="<results>/tables/{target}.csv",
        note="<results>/tables/{target}.csv.json",
        markdown=report(
            "<results>/tables/{target}.md", caption="../report/target.rst", category="Tables"
        ),
        latex="<results>/tables/{target}.tex",
    log:
        "<results>/logs/table/{target}.log",
    benchmark:
        "<results>/benchmarks/table/{target}.tsv"
    wildcard_constraints:
        target="|".join(TABLES) or "none",
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        options=PLAN.target_options,
        settings=PLAN.target_settings,
        seeds=SEEDS,
        caption=PLAN.caption,
        stem=subpath(output.cells, strip_suffix=".csv"),
        code=PLAN.target_code,
    shell:
        "python -m rectify table --target {wildcards.target:q} --settings {params.settings:q}"
        " {params.options:q} --seeds {params.seeds} --output {params.stem:q} > {log:q} 2>&1"


rule figure:
    """One figure: of the paper, or of an experiment of one's own."""
    input:
        PLAN.target_inputs,
    output:
        values="<results>/figures/{target}.csv",
        note="<results>/figures/{target}.csv.json",
        vector="<results>/figures/{target}.pdf",
        shown="<results>/figures/{target}.svg",
        image=report(
            "<results>/figures/{target}.png", caption="../report/target.rst", category="Figures"
        ),
    log:
        "<results>/logs/figure/{target}.log",
    benchmark:
        "<results>/benchmarks/figure/{target}.tsv"
    wildcard_constraints:
        target="|".join(FIGURES) or "none",
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        options=PLAN.target_options,
        settings=PLAN.target_settings,
        seeds=SEEDS,
        caption=PLAN.caption,
        stem=subpath(output.values, strip_suffix=".csv"),
        code=PLAN.target_code,
    shell:
        "python -m rectify figure --target {wildcards.target:q} --settings {params.settings:q}"
        " {params.options:q} --seeds {params.seeds} --output {params.stem:q} > {log:q} 2>&1"
