rule page:
    """One page with all tables and figures, their captions, provenance and job times."""
    input:
        tables=expand("<results>/tables/{table}.csv", table=TABLES),
        figures=expand("<results>/figures/{figure}.png", figure=("table3", *FIGURES)),
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
        title=config["title"],
        captions=Path(workflow.basedir) / "workflow" / "report",
        benchmarks=BENCHMARKS,
        configs=list(map(str, workflow.configfiles)),
        code=source_digest("rectify.report"),
    shell:
        "python -m rectify report --title {params.title:q} --tables {input.tables:q}"
        " --figures {input.figures:q} --captions {params.captions:q}"
        " --benchmarks {params.benchmarks:q} --config {params.configs:q} --output {output.page:q} > {log:q} 2>&1"
