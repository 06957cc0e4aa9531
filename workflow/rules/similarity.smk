rule vision_features:
    """Features of the images in every block of a trained ViT."""
    input:
        config="<results>/runs/{run}/config.json",
        model="<results>/runs/{run}/seed-{seed}/model.safetensors",
        pairs=prepared(config["similarity"]["pairs"]),
    output:
        features="<results>/features/vision/{run}--seed-{seed}.safetensors",
    log:
        "<results>/logs/vision_features/{run}--{seed}.log",
    benchmark:
        "<results>/benchmarks/vision_features/{run}--{seed}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=memory(8_000 if config["device_gpus"] else 3_000),
        runtime=minutes(30),
        gpu=ONE_GPU,
    params:
        pairs=pairs_folder,
        batch_size=config["similarity"]["batch_size"],
        code=source_digest("rectify.features", "rectify.rectified", "rectify.data.augment"),
    shell:
        "python -m rectify vision-features --config {input.config:q} --model {input.model:q}"
        " --pairs {params.pairs:q} --seed {wildcards.seed} --batch-size {params.batch_size}"
        " --threads {threads} --output {output.features:q} > {log:q} 2>&1"


rule pretrained_features:
    """Features of the images in every block of timm's pretrained ViT."""
    input:
        pairs=prepared(config["similarity"]["pairs"]),
    output:
        features="<results>/features/vision/{vision}--pretrained.safetensors",
    log:
        "<results>/logs/vision_features/{vision}--pretrained.log",
    benchmark:
        "<results>/benchmarks/vision_features/{vision}--pretrained.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=memory(8_000),
        runtime=minutes(30),
        gpu=ONE_GPU,
    params:
        vision=vision_settings,
        pairs=pairs_folder,
        batch_size=config["similarity"]["batch_size"],
        code=source_digest("rectify.features", "rectify.vision", "rectify.data.augment"),
    shell:
        "python -m rectify vision-features --pretrained {params.vision:q}"
        " --pairs {params.pairs:q} --seed 0 --batch-size {params.batch_size}"
        " --threads {threads} --output {output.features:q} > {log:q} 2>&1"


rule similarity:
    """Mutual-KNN between every layer of a language model and every block of a ViT."""
    input:
        language="<results>/features/language/{language}.safetensors",
        vision="<results>/features/vision/{eye}.safetensors",
    output:
        scores="<results>/similarity/{language}--{eye}.csv",
        note="<results>/similarity/{language}--{eye}.csv.json",
    log:
        "<results>/logs/similarity/{language}--{eye}.log",
    benchmark:
        "<results>/benchmarks/similarity/{language}--{eye}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=memory(8_000 if config["device_gpus"] else 3_000),
        runtime=minutes(30),
    params:
        k=config["similarity"]["k"],
        quantile=config["similarity"]["quantile"],
        permutations=config["similarity"]["permutations"],
        code=source_digest("rectify.similarity"),
    shell:
        "python -m rectify similarity --language {input.language:q} --vision {input.vision:q}"
        " --k {params.k} --quantile {params.quantile} --permutations {params.permutations}"
        " --threads {threads} --output {output.scores:q} > {log:q} 2>&1"
