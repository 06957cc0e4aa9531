"""Train one run with one seed, and measure the GSNR of its ViT blocks on the way.

Reads
    --config      config.json of the run
    --data        folder of the prepared data set
    --block       the frozen block, where the variant has one
    --checkpoint  folder with the last two states of an earlier attempt, if there was one;
                  a training that has ended leaves its last one there
Writes
    --output      folder: history.csv, gsnr.csv, model.safetensors, summary.json

With --processes N, torchrun starts N processes on this machine that share each batch.
SIGTERM, SIGUSR1 and SIGUSR2 save the state and end with status 75; the same command goes on.
In a SLURM job of the workflow that still runs, the job is put into the queue again instead.
"""

import argparse
import json
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MODULES = (
    "rectify.training",
    "rectify.gsnr",
    "rectify.evaluation",
    "rectify.language",
    "rectify.videomae",
    "rectify.data.augment",
    "rectify.data.clips",
    "rectify.data.images",
)


def remove_states(results: Path) -> None:
    """Remove the states of all trainings whose results are in the folder."""
    for summary in results.glob("runs/*/seed-*/summary.json"):
        run, seed = summary.parts[-3:-1]
        for state in (results / "checkpoints" / run / seed).glob("*.pt"):
            state.unlink()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--block", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--processes", type=int, default=1, help="GPUs to use, or processes")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tensorboard", type=Path, help="folder for event files")


def run(args: argparse.Namespace) -> int:
    """Train, after another process that trains the same run, and from where that one came to.

    Returns:
        0, or the status for "try again" if a signal stopped the training.
    """
    from rectify import slurm
    from rectify.commands import processes
    from rectify.presence import lease

    if processes.is_launched():  # the process that launched this one has the lease
        return _train(args)
    with lease(args.checkpoint / "lease"):
        if args.processes > 1:
            status = processes.launch("train", args, args.processes)
        else:
            status = _train(args)
    if status == os.EX_TEMPFAIL:
        slurm.requeue()
    return status


def _train(args: argparse.Namespace) -> int:
    from rectify.commands import assembly
    from rectify.commands.checkpoint import Checkpoint, identity
    from rectify.data.images import load_set
    from rectify.gsnr import GsnrObserver
    from rectify.presence import PROGRESS
    from rectify.provenance import source_digest
    from rectify.records import read_json
    from rectify.runtime import process, start, stop_asked
    from rectify.training import Interrupted, train

    settings, device = read_json(args.config), start(args.threads)
    recipe, workers = assembly.recipe_of(settings), assembly.workers(device, args.threads)
    model = assembly.model_of(settings, args.block, args.seed)
    assembly.start(settings, model)
    model = model.to(device)
    measures = {key: value for key, value in settings["gsnr"].items() if key != "estimator"}
    observer = GsnrObserver(assembly.trunk_of(model).blocks, **measures)
    files = [args.data / "manifest.csv", args.data / "arrays.safetensors", args.block]
    files.append(assembly.start_file(settings))
    keeper = Checkpoint(args.checkpoint, identity(settings, source_digest(*MODULES), files))
    with stop_asked() as stop:
        try:
            rows = train(
                model,
                assembly.training_data(settings, load_set(args.data, "train"), workers),
                recipe,
                lambda_init=settings["lambda_init"],
                seed=args.seed,
                device=device,
                evaluate=_evaluation(settings, load_set(args.data, "test"), device, workers),
                save=keeper.save,
                saved=keeper.load(),
                observer=observer,
                report=_reporter(args, observer, recipe.epochs),
                stop=stop,
            )
        except Interrupted as end:
            log.info("%s", end)
            return os.EX_TEMPFAIL
    if process()[0] == 0:
        _write(args, settings, model, rows, observer)
        keeper.keep_last()  # the job may still fail, and then its results are removed
        (args.checkpoint / PROGRESS).unlink(missing_ok=True)
    return 0


def _evaluation(settings: dict[str, Any], images: Any, device: Any, workers: int) -> Any:
    from rectify.commands import assembly
    from rectify.evaluation import accuracies

    prepare, transform = assembly.evaluation_transform(settings)
    recipe = assembly.recipe_of(settings)
    return lambda model: accuracies(
        model,
        assembly.images_of(settings, images, 1),
        images.labels,
        settings["data"]["top_k"],
        transform=transform,
        batch_size=recipe.batch_size,
        device=device,
        prepare=prepare,
        workers=workers,
        precision=recipe.precision,
    )


def _reporter(args: argparse.Namespace, observer: Any, epochs: int) -> Any:
    """Return what is called with each epoch's row: the log, the progress, the event files."""
    from rectify.presence import PROGRESS
    from rectify.records import write_json

    started, rows = time.monotonic(), []
    events = _event_writer(args.tensorboard, observer)

    def report(row: tuple) -> None:
        rows.append(row)
        _log_epoch(row)
        events(row)
        pace = (time.monotonic() - started) / len(rows)
        progress = {"epochs_done": row[0] + 1, "epochs": epochs, "seconds_per_epoch": pace}
        write_json(args.checkpoint / PROGRESS, progress)

    return report


def _event_writer(folder: Path | None, observer: Any) -> Any:
    if folder is None:
        return lambda row: None
    from torch.utils.tensorboard import SummaryWriter

    return partial(_write_events, SummaryWriter(folder), observer)


def _log_epoch(row: tuple) -> None:
    epoch, loss, _, _, weight, _, top1, _, seconds, rate = row
    log.info(
        "epoch %d: loss %.4f, lambda %.3f, test accuracy %.4f, %.1f s, %.0f images/s",
        epoch, loss, weight, top1, seconds, rate,
    )  # fmt: skip


def _write_events(writer: Any, observer: Any, row: tuple) -> None:
    from rectify.records import HISTORY

    for name, value in list(zip(HISTORY.names, row, strict=True))[1:]:
        if value is not None:
            writer.add_scalar(name, value, row[0])
    for _, block, estimator, value, _, _ in observer.rows(row[0]):
        writer.add_scalar(f"gsnr/{estimator}/block-{block}", value, row[0])
    writer.flush()


def _write(
    args: argparse.Namespace, settings: dict[str, Any], model: Any, rows: list, observer: Any
) -> None:
    """Write what the run is judged by; the files appear whole or not at all."""
    from safetensors.torch import save_file

    from rectify.commands import assembly
    from rectify.commands.checkpoint import sha256
    from rectify.data.images import label_order
    from rectify.language import block_facts
    from rectify.provenance import provenance
    from rectify.records import GSNR, HISTORY, atomic_path, write_json, write_table

    start = assembly.start_file(settings)
    origins = {"start": f"{start}", "start_sha256": sha256(start)} if start else {}
    origins |= {"block": block_facts(args.block)} if args.block else {}
    source = provenance(args.seed, *MODULES, run=settings["run"], **origins)
    gradients = [row for epoch in range(len(rows)) for row in observer.rows(epoch)]
    write_table(GSNR, gradients, args.output / "gsnr.csv", source)
    write_table(HISTORY, rows, args.output / "history.csv", source)
    state = {name: value.cpu().contiguous() for name, value in assembly.saved_of(model).items()}
    facts = {
        "run": f"{settings['run']}--seed-{args.seed}",
        "label_order": label_order(args.data),
    }
    with atomic_path(args.output / "model.safetensors") as temporary:
        # one entry: safetensors writes two in any order
        save_file(state, temporary, {assembly.FACTS: json.dumps(facts)})
    write_json(args.output / "summary.json", _summary(args.seed, settings, model, rows))


def _summary(seed: int, settings: dict[str, Any], model: Any, rows: list) -> dict[str, Any]:
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "run": settings["run"],
        "seed": seed,
        "epochs": len(rows),
        "accuracy_top1": rows[-1][6],
        "accuracy_topk": rows[-1][7],
        "parameters": sum(count for count, _ in counts),
        "parameters_trained": sum(count for count, trained in counts if trained),
    }
