rule measure:
    """Parameters, FLOPs, speed and memory of a ViT: vanilla, with a block, on a second path."""
    input:
        cost_files,
    output:
        costs="<results>/cost/{vision}--{language}.csv",
        note="<results>/cost/{vision}--{language}.csv.json",
    log:
        "<results>/logs/measure/{vision}--{language}.log",
    benchmark:
        "<results>/benchmarks/measure/{vision}--{language}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=memory(32_000 if config["device_gpus"] else 4_000),
        runtime=minutes(30),
        gpu=ONE_GPU,
    params:
        settings=cost_settings,
        checkpoint=checkpoint_folder,
        code=source_digest("rectify.speed"),
    shell:
        "python -m rectify measure --settings {params.settings:q}"
        " --checkpoint {params.checkpoint:q} --threads {threads}"
        " --output {output.costs:q} > {log:q} 2>&1"
