rule vision_features:
    """Features of the images in every block of a trained ViT."""
    input:
        config="<results>/runs/{run}/config.json",
        model="<results>/runs/{run}/seed-{seed}/model.safetensors",
        pairs=PLAN.prepared_pairs,
    output:
        features="<results>/features/{pairs}/vision/{run}--seed-{seed}.safetensors",
    log:
        "<results>/logs/vision_features/{pairs}/{run}--{seed}.log",
    benchmark:
        "<results>/benchmarks/vision_features/{pairs}/{run}--{seed}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(8_000 if GPUS else 3_000),
        runtime=minutes(30),
        gpu=ONE_GPU,
    params:
        pairs=pairs_folder,
        batch_size=PLAN.similarity("batch_size"),
        code=PLAN.code_of_run("vision_features"),
    shell:
        "python -m rectify vision-features --config {input.config:q} --model {input.model:q}"
        " --pairs {params.pairs:q} --seed {wildcards.seed} --batch-size {params.batch_size}"
        " --threads {threads} --gpus {resources.gpu} --output {output.features:q} > {log:q} 2>&1"


rule pretrained_features:
    """Features of the images in every block of timm's pretrained ViT."""
    input:
        pairs=PLAN.prepared_pairs,
    output:
        features="<results>/features/{pairs}/vision/{vision}--pretrained.safetensors",
    log:
        "<results>/logs/vision_features/{pairs}/{vision}--pretrained.log",
    benchmark:
        "<results>/benchmarks/vision_features/{pairs}/{vision}--pretrained.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(8_000),
        runtime=minutes(30),
        gpu=ONE_GPU,
    params:
        vision=PLAN.vision_settings,
        pairs=pairs_folder,
        batch_size=PLAN.similarity("batch_size"),
        code=PLAN.code("pretrained_features", DEFAULT_TASK),
    shell:
        "python -m rectify vision-features --pretrained {params.vision:q}"
        " --pairs {params.pairs:q} --seed 0 --batch-size {params.batch_size}"
        " --threads {threads} --gpus {resources.gpu} --output {output.features:q} > {log:q} 2>&1"


rule similarity:
    """Similarity of every layer of a language model with every block of a ViT."""
    input:
        language="<results>/features/{pairs}/language/{language}.safetensors",
        vision="<results>/features/{pairs}/vision/{features}.safetensors",
    output:
        scores="<results>/similarity/{pairs}/{language}--{features}.csv",
        note="<results>/similarity/{pairs}/{language}--{features}.csv.json",
    log:
        "<results>/logs/similarity/{pairs}/{language}--{features}.log",
    benchmark:
        "<results>/benchmarks/similarity/{pairs}/{language}--{features}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(8_000 if GPUS else 3_000),
        runtime=minutes(30),
        turn=1,
    params:
        k=PLAN.similarity("k"),
        quantile=PLAN.similarity("quantile"),
        clamp=PLAN.clamp(),
        permutations=PLAN.similarity("permutations"),
        code=PLAN.code("similarity"),
    shell:
        "python -m rectify similarity --language {input.language:q} --vision {input.vision:q}"
        " --k {params.k} --quantile {params.quantile} --clamp {params.clamp:q}"
        " --permutations {params.permutations} --threads {threads}"
        " --output {output.scores:q} > {log:q} 2>&1"
