rule measure:
    """Parameters, FLOPs, speed and memory of a ViT: vanilla, with a layer, on a second path."""
    input:
        PLAN.checkpoint_settings,
    output:
        costs="<results>/cost/{vision}--{language}.csv",
        note="<results>/cost/{vision}--{language}.csv.json",
    log:
        "<results>/logs/measure/{vision}--{language}.log",
    benchmark:
        "<results>/benchmarks/measure/{vision}--{language}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(32_000 if GPUS else 4_000),
        runtime=minutes(30),
        gpu=ONE_GPU,
    params:
        settings=PLAN.cost_settings,
        checkpoint=PLAN.checkpoint,
        code=PLAN.cost_code,
    shell:
        "python -m rectify cost --time --settings {params.settings:q}"
        " --checkpoint {params.checkpoint:q} --threads {threads} --gpus {resources.gpu}"
        " --output {output.costs:q} > {log:q} 2>&1"
