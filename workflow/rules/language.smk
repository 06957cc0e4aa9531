rule pretrain:
    """Pretrain a small language model on Unicode names."""
    output:
        config="<results>/models/{language}/config.json",
        model="<results>/models/{language}/model.safetensors",
        tokenizer="<results>/models/{language}/tokenizer.json",
        tokens="<results>/models/{language}/tokenizer_config.json",
        curve="<results>/models/{language}/pretraining.csv",
        note="<results>/models/{language}/pretraining.csv.json",
    log:
        "<results>/logs/pretrain/{language}.log",
    benchmark:
        "<results>/benchmarks/pretrain/{language}.tsv"
    wildcard_constraints:
        language="|".join(MADE_HERE) or "none",
    priority: 10
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=memory(4_000),
        runtime=minutes(30),
    params:
        settings=pretraining_settings,
        folder=subpath(output.config, parent=True),
        code=source_digest("rectify.pretraining"),
    shell:
        "python -m rectify pretrain --language {wildcards.language:q}"
        " --settings {params.settings:q} --seed 0 --output {params.folder:q} > {log:q} 2>&1"


rule extract_block:
    """Take one decoder block out of a language model's checkpoint."""
    input:
        checkpoint_files,
    output:
        block="<results>/language/{language}/layer-{layer}.safetensors",
    log:
        "<results>/logs/extract_block/{language}-{layer}.log",
    benchmark:
        "<results>/benchmarks/extract_block/{language}-{layer}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=memory(4_000),
        runtime=minutes(10),
    params:
        checkpoint=checkpoint_folder,
        code=source_digest("rectify.language"),
    shell:
        "python -m rectify extract-block --checkpoint {params.checkpoint:q}"
        " --layer {wildcards.layer} --output {output.block:q} > {log:q} 2>&1"


rule language_features:
    """Features of the captions in every layer of a language model."""
    input:
        model=checkpoint_files,
        pairs=prepared(config["similarity"]["pairs"]),
    output:
        features="<results>/features/language/{language}.safetensors",
    log:
        "<results>/logs/language_features/{language}.log",
    benchmark:
        "<results>/benchmarks/language_features/{language}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=features_memory,
        runtime=features_minutes,
        gpu=ONE_GPU,
    params:
        label=language_label,
        checkpoint=checkpoint_folder,
        pairs=pairs_folder,
        batch_size=config["similarity"]["batch_size"],
        code=source_digest("rectify.captions", "rectify.features"),
    shell:
        "python -m rectify language-features --language {params.label:q}"
        " --checkpoint {params.checkpoint:q} --pairs {params.pairs:q}"
        " --batch-size {params.batch_size} --threads {threads}"
        " --output {output.features:q} > {log:q} 2>&1"
