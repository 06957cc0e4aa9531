rule page:
    """One page with all tables and figures, their captions, provenance and job times."""
    input:
        tables=expand("<results>/tables/{target}.csv", target=TABLES),
        figures=expand("<results>/figures/{target}.png", target=FIGURES),
    output:
        page="<results>/report/index.html",
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        title=CONFIG.title,
        targets=PLAN.page_targets(),
        benchmarks=BENCHMARKS,
        configs=list(map(str, workflow.configfiles)),
        code=PLAN.page_code(),
    shell:
        "python -m rectify report --title {params.title:q} --targets {params.targets:q}"
        " --tables {input.tables:q} --figures {input.figures:q}"
        " --benchmarks {params.benchmarks:q} --config {params.configs:q}"
        " --output {output.page:q} > {log:q} 2>&1"
