rule prepare_data:
    """Check, count and freeze a data set that is held in memory."""
    output:
        manifest="<results>/data/{set}/manifest.csv",
        note="<results>/data/{set}/manifest.csv.json",
        arrays="<results>/data/{set}/arrays.safetensors",
    log:
        "<results>/logs/prepare_data/{set}.log",
    benchmark:
        "<results>/benchmarks/prepare_data/{set}.tsv"
    wildcard_constraints:
        set="|".join(IN_MEMORY),
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=memory(4_000),
        runtime=minutes(30),
    params:
        settings=data_settings,
        folder=subpath(output.manifest, parent=True),
        code=data_code,
    shell:
        "python -m rectify prepare-data --data {wildcards.set:q} --settings {params.settings:q}"
        " --folder {params.folder:q} > {log:q} 2>&1"


rule prepare_files:
    """Check, count and freeze a data set whose images stay in their files."""
    output:
        manifest="<results>/data/{set}/manifest.csv",
        note="<results>/data/{set}/manifest.csv.json",
    log:
        "<results>/logs/prepare_data/{set}.log",
    benchmark:
        "<results>/benchmarks/prepare_data/{set}.tsv"
    wildcard_constraints:
        set="|".join(IN_FILES),
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=memory(16_000),
        runtime=minutes(120),
    params:
        settings=data_settings,
        folder=subpath(output.manifest, parent=True),
        code=data_code,
    shell:
        "python -m rectify prepare-data --data {wildcards.set:q} --settings {params.settings:q}"
        " --folder {params.folder:q} --threads {threads} > {log:q} 2>&1"
