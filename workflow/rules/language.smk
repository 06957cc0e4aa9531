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
        language="|".join(PLAN.made_here) or "none",
    priority: 10
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=memory(4_000),
        runtime=minutes(30),
    params:
        settings=PLAN.pretraining,
        folder=subpath(output.config, parent=True),
        code=PLAN.code("pretrain"),
    shell:
        "python -m rectify pretrain --language {wildcards.language:q}"
        " --settings {params.settings:q} --seed 0 --output {params.folder:q} > {log:q} 2>&1"


rule extract_block:
    """Take one decoder layer out of a language model's checkpoint."""
    input:
        PLAN.checkpoint_files,
    output:
        layer="<results>/language/{language}/layer-{layer}.safetensors",
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
        turn=1,
    params:
        checkpoint=PLAN.checkpoint,
        untrained=PLAN.untrained,
        code=PLAN.code("extract_block"),
    shell:
        "python -m rectify extract-block --checkpoint {params.checkpoint:q} {params.untrained:q}"
        " --layer {wildcards.layer} --name {wildcards.language:q}"
        " --output {output.layer:q} > {log:q} 2>&1"


rule language_features:
    """Features of the captions in every layer of a language model."""
    input:
        model=PLAN.checkpoint_files,
        pairs=PLAN.prepared_pairs,
    output:
        features="<results>/features/{pairs}/language/{language}.safetensors",
    log:
        "<results>/logs/language_features/{pairs}/{language}.log",
    benchmark:
        "<results>/benchmarks/language_features/{pairs}/{language}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: THREADS
    resources:
        mem_mb=features_memory,
        runtime=features_minutes,
        gpu=ONE_GPU,
    params:
        checkpoint=PLAN.checkpoint,
        untrained=PLAN.untrained,
        pairs=pairs_folder,
        batch_size=PLAN.similarity("batch_size"),
        procedure=PLAN.language_procedure(),
        code=PLAN.code("language_features"),
    shell:
        "python -m rectify language-features --language {wildcards.language:q}"
        " --checkpoint {params.checkpoint:q} {params.untrained:q} --pairs {params.pairs:q}"
        " --batch-size {params.batch_size} --procedure {params.procedure:q} --threads {threads} --gpus {resources.gpu}"
        " --output {output.features:q} > {log:q} 2>&1"
