rule resolve:
    """Write what decides one run."""
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
        settings=PLAN.run_settings,
    shell:
        "python -m rectify resolve --settings {params.settings:q}"
        " --output {output.config:q} > {log:q} 2>&1"


rule label:
    """Write what is only shown of one run: a change of it trains and evaluates nothing."""
    output:
        labels="<results>/runs/{run}/labels.json",
    log:
        "<results>/logs/label/{run}.log",
    benchmark:
        "<results>/benchmarks/label/{run}.tsv"
    localrule: True
    conda:
        "../../envs/rectify.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        settings=PLAN.run_labels,
    shell:
        "python -m rectify resolve --labels --settings {params.settings:q}"
        " --output {output.labels:q} > {log:q} 2>&1"


rule train:
    """Train one run with one seed and measure the GSNR of its trunk's blocks.

    The state after each epoch is kept outside the outputs, which Snakemake deletes when a
    job fails; the next attempt resumes from it. `exec`, because a shell in between would die
    of the SIGTERM at which a training saves its state.
    """
    input:
        config="<results>/runs/{run}/config.json",
        data=PLAN.run_data,
        layer=PLAN.run_layer,
        masks=PLAN.training_masks,
    output:
        **(dict(noise=NOISE, noise_note=f"{NOISE}.json") if CONFIG.gsnr.every_step else {}),
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
    threads: THREADS
    resources:
        **slurm.tasks(NODES),
        mem_mb=memory(32_000 if GPUS else 3_000),
        runtime=slurm.training_minutes(GPUS),  # it resumes, so more is not asked for
        gpu=GPUS * NODES,
        nodes=NODES,
        slurm_extra=slurm.SIGNAL,
    params:
        folder=subpath(output.history, parent=True),
        data=PLAN.run_data_folder,
        layer=layer_option,
        masks=masks_option,
        trackers=trackers_option,
        states=PLAN.run_states,
        code=PLAN.train_code,
    shell:
        "exec python -m rectify train --config {input.config:q} --data {params.data:q}"
        " {params.layer:q} {params.masks:q} --seed {wildcards.seed} --threads {threads}"
        " --processes {resources.gpu} --gpus {resources.gpu} --nodes {resources.nodes}"
        " --states {params.states:q} {params.trackers:q} --output {params.folder:q} > {log:q} 2>&1"


rule evaluate:
    """Scores of a trained run on the test set and on its shifted versions."""
    input:
        config="<results>/runs/{run}/config.json",
        model="<results>/runs/{run}/seed-{seed}/model.safetensors",
        data=PLAN.run_data,
        shifts=PLAN.run_shifts,
        layer=PLAN.kept_layer,
    output:
        scores="<results>/runs/{run}/seed-{seed}/scores.csv",
        note="<results>/runs/{run}/seed-{seed}/scores.csv.json",
        predictions="<results>/runs/{run}/seed-{seed}/predictions.parquet",
    log:
        "<results>/logs/evaluate/{run}--{seed}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{run}--{seed}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(32_000 if GPUS else 3_000),
        runtime=minutes(600 if GPUS else 60),
        gpu=ONE_GPU,
    params:
        data=PLAN.run_data_folder,
        layer=layer_option,
        evaluation=PLAN.evaluation,
        code=PLAN.code_of_run("evaluate"),
    shell:
        "python -m rectify evaluate --config {input.config:q} --model {input.model:q}"
        " {params.layer:q} --data {params.data:q} --evaluation {params.evaluation:q}"
        " --seed {wildcards.seed} --threads {threads} --gpus {resources.gpu} --output {output.scores:q} > {log:q} 2>&1"


rule filtering:
    """Activations of a trained run's tokens against masks of the objects in test images."""
    input:
        config="<results>/runs/{run}/config.json",
        model="<results>/runs/{run}/seed-{seed}/model.safetensors",
        data=PLAN.run_data,
        masks=PLAN.run_masks,
        layer=PLAN.kept_layer,
    output:
        table="<results>/runs/{run}/seed-{seed}/filtering.csv",
        note="<results>/runs/{run}/seed-{seed}/filtering.csv.json",
        maps="<results>/runs/{run}/seed-{seed}/maps.safetensors",
    log:
        "<results>/logs/filtering/{run}--{seed}.log",
    benchmark:
        "<results>/benchmarks/filtering/{run}--{seed}.tsv"
    conda:
        "../../envs/rectify.yaml"
    threads: THREADS
    resources:
        mem_mb=memory(32_000 if GPUS else 3_000),
        runtime=minutes(60),
        gpu=ONE_GPU,
    params:
        data=PLAN.run_data_folder,
        masks=subpath(input.masks, parent=True),
        layer=layer_option,
        filtering=PLAN.filtering(),
        code=PLAN.code_of_run("filtering"),
    shell:
        "python -m rectify filtering --config {input.config:q} --model {input.model:q}"
        " {params.layer:q} --data {params.data:q} --masks {params.masks:q}"
        " --filtering {params.filtering:q} --seed {wildcards.seed} --threads {threads} --gpus {resources.gpu}"
        " --output {output.table:q} > {log:q} 2>&1"
