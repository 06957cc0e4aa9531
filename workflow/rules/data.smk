rule prepare_data:
    """Check, count and freeze a data set. What is held in memory lies next to the manifest."""
    output:
        manifest="<results>/data/{set}/manifest.csv",
        note="<results>/data/{set}/manifest.csv.json",
    log:
        "<results>/logs/prepare_data/{set}.log",
    benchmark:
        "<results>/benchmarks/prepare_data/{set}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: data_threads
    resources:
        mem_mb=data_memory,
        runtime=data_minutes,
    params:
        settings=PLAN.data_settings,
        folder=subpath(output.manifest, parent=True),
        code=PLAN.data_code,
    shell:
        "python -m rectify prepare-data --data {wildcards.set:q} --settings {params.settings:q}"
        " --folder {params.folder:q} --threads {threads} > {log:q} 2>&1"


rule prepare_masks:
    """Find and check the masks of a set's test images, or draw them."""
    input:
        manifest="<results>/data/{set}/manifest.csv",
    output:
        masks="<results>/data/{set}/masks/masks.csv",
        note="<results>/data/{set}/masks/masks.csv.json",
    log:
        "<results>/logs/prepare_masks/{set}.log",
    benchmark:
        "<results>/benchmarks/prepare_masks/{set}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: data_threads
    resources:
        mem_mb=data_memory,
        runtime=data_minutes,
    params:
        settings=PLAN.mask_settings,
        prepared=subpath(input.manifest, parent=True),
        folder=subpath(output.masks, parent=True),
        code=PLAN.mask_code,
    shell:
        "python -m rectify prepare-masks --data {wildcards.set:q} --settings {params.settings:q}"
        " --prepared {params.prepared:q} --folder {params.folder:q} --threads {threads}"
        " > {log:q} 2>&1"


rule prepare_shift:
    """Check, count and freeze one shifted version of a test set, apart from the set itself."""
    output:
        manifest="<results>/data/{set}/shift-{shift}/manifest.csv",
        note="<results>/data/{set}/shift-{shift}/manifest.csv.json",
    log:
        "<results>/logs/prepare_data/{set}--{shift}.log",
    benchmark:
        "<results>/benchmarks/prepare_data/{set}--{shift}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: data_threads
    resources:
        mem_mb=data_memory,
        runtime=data_minutes,
    params:
        settings=PLAN.shift_settings,
        folder=subpath(output.manifest, parent=True),
        code=PLAN.data_code,
    shell:
        "python -m rectify prepare-data --data {wildcards.set:q} --settings {params.settings:q}"
        " --shift {wildcards.shift:q} --folder {params.folder:q} --threads {threads}"
        " > {log:q} 2>&1"
