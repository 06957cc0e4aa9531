rule table:
    """One table of the paper, or beyond it: controls, cost."""
    input:
        table_inputs,
    output:
        cells="<results>/tables/{table}.csv",
        note="<results>/tables/{table}.csv.json",
        markdown=report(
            "<results>/tables/{table}.md", caption="../report/{table}.rst", category="Tables"
        ),
        latex="<results>/tables/{table}.tex",
    log:
        "<results>/logs/table/{table}.log",
    benchmark:
        "<results>/benchmarks/table/{table}.tsv"
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        options=table_options,
        seeds=SEEDS,
        estimator=config["gsnr"]["estimator"],
        stem=subpath(output.cells, strip_suffix=".csv"),
        code=source_digest("rectify.analysis.tables", "rectify.analysis.printing"),
    shell:
        "python -m rectify table --table {wildcards.table} {params.options:q}"
        " --seeds {params.seeds} --estimator {params.estimator}"
        " --output {params.stem:q} > {log:q} 2>&1"


rule figure:
    """One figure of the paper, or Table 3 as a heat map."""
    input:
        figure_inputs,
    output:
        values="<results>/figures/{figure}.csv",
        note="<results>/figures/{figure}.csv.json",
        vector="<results>/figures/{figure}.pdf",
        image=report(
            "<results>/figures/{figure}.png", caption="../report/{figure}.rst", category="Figures"
        ),
    log:
        "<results>/logs/figure/{figure}.log",
    benchmark:
        "<results>/benchmarks/figure/{figure}.tsv"
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        options=figure_options,
        seeds=SEEDS,
        estimator=config["gsnr"]["estimator"],
        stem=subpath(output.values, strip_suffix=".csv"),
        code=source_digest("rectify.analysis.figures"),
    shell:
        "python -m rectify figure --figure {wildcards.figure} {params.options:q}"
        " --seeds {params.seeds} --estimator {params.estimator}"
        " --output {params.stem:q} > {log:q} 2>&1"
