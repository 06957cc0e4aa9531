rule resolve:
    """Write the settings of one run."""
    output:
        config="<results>/runs/{run}/config.json",
    log:
        "<results>/logs/resolve/{run}.log",
    benchmark:
        "<results>/benchmarks/resolve/{run}.tsv"
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        settings=run_settings,
    shell:
        "python -m rectify resolve --settings {params.settings:q}"
        " --output {output.config:q} > {log:q} 2>&1"


rule train:
    """Train one run with one seed and measure the GSNR of its ViT blocks.

    The state after each epoch is kept outside the outputs, which Snakemake deletes when a
    job fails; the next attempt goes on from it. `exec`, because a shell in between would die
    of the SIGTERM at which a training saves its state.
    """
    input:
        config="<results>/runs/{run}/config.json",
        data=run_data,
        block=run_block,
    output:
        history="<results>/runs/{run}/seed-{seed}/history.csv",
        history_note="<results>/runs/{run}/seed-{seed}/history.csv.json",
        gsnr="<results>/runs/{run}/seed-{seed}/gsnr.csv",
        gsnr_note="<results>/runs/{run}/seed-{seed}/gsnr.csv.json",
        model="<results>/runs/{run}/seed-{seed}/model.safetensors",
        summary="<results>/runs/{run}/seed-{seed}/summary.json",
    log:
        "<results>/logs/train/{run}--{seed}.log",
    benchmark:
        "<results>/benchmarks/train/{run}--{seed}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=memory(32_000 if config["device_gpus"] else 3_000),
        runtime=2_880 if config["device_gpus"] else 60,  # it goes on, so more is not asked for
        gpu=config["device_gpus"],
        nodes=1,
    params:
        folder=subpath(output.history, parent=True),
        data=run_data_folder,
        block=block_option,
        checkpoint=checkpoint_path,
        code=source_digest(*TRAINING),
    shell:
        "exec python -m rectify train --config {input.config:q} --data {params.data:q}"
        " {params.block:q} --seed {wildcards.seed} --threads {threads}"
        " --processes {resources.gpu} --checkpoint {params.checkpoint:q}"
        " --output {params.folder:q} > {log:q} 2>&1"


rule evaluate:
    """Accuracy of a trained run on the test set and on its shifted versions."""
    input:
        config="<results>/runs/{run}/config.json",
        model="<results>/runs/{run}/seed-{seed}/model.safetensors",
        data=run_data,
        block=kept_block,
    output:
        scores="<results>/runs/{run}/seed-{seed}/evaluation.csv",
        note="<results>/runs/{run}/seed-{seed}/evaluation.csv.json",
    log:
        "<results>/logs/evaluate/{run}--{seed}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{run}--{seed}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: config["threads"]
    resources:
        mem_mb=memory(32_000 if config["device_gpus"] else 3_000),
        runtime=minutes(600 if config["device_gpus"] else 60),
        gpu=ONE_GPU,
    params:
        data=run_data_folder,
        block=block_option,
        code=source_digest(
            "rectify.evaluation",
            "rectify.rectified",
            "rectify.language",
            "rectify.videomae",
            "rectify.data.clips",
            "rectify.data.augment",
        ),
    shell:
        "python -m rectify evaluate --config {input.config:q} --model {input.model:q}"
        " {params.block:q} --data {params.data:q} --seed {wildcards.seed} --threads {threads}"
        " --output {output.scores:q} > {log:q} 2>&1"
