rule page:
    """A page with its tables and figures, their captions, provenance and job times; their runs."""
    input:
        PLAN.page_files(),
        PLAN.page_run_files,
        tables=PLAN.page_files("tables/", ".csv"),
        figures=PLAN.page_files("figures/", ".png"),
    output:
        page="<results>/report/{page}.html",
        runs=directory("<results>/report/{page}-runs"),
    log:
        "<results>/logs/report/{page}.log",
    benchmark:
        "<results>/benchmarks/report/{page}.tsv"
    wildcard_constraints:
        page="|".join(PLAN.pages),
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        title=PLAN.page_title,
        credits=[*PLAN.config.credits],
        targets=PLAN.page_targets,
        runs=PLAN.page_runs,
        seeds=PLAN.config.seeds,
        logs=LOGS,
        benchmarks=BENCHMARKS,
        configs=list(map(str, workflow.configfiles)),
        code=PLAN.page_code,
    shell:
        "python -m rectify report --title {params.title:q} --credits {params.credits:q}"
        " --targets {params.targets:q}"
        " --tables {input.tables:q} --figures {input.figures:q}"
        " --benchmarks {params.benchmarks:q} --config {params.configs:q}"
        " --runs {params.runs:q} --seeds {params.seeds} --logs {params.logs:q}"
        " --output {output.page:q} > {log:q} 2>&1"
