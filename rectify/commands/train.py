"""Train one run with one seed, and measure the GSNR of its ViT blocks on the way.

Reads
    --config      config.json of the run
    --data        folder of the prepared data set
    --block       the frozen block, where the variant has one
    --checkpoint  state of an earlier attempt, if there was one
Writes
    --output      folder: history.csv, gsnr.csv, model.safetensors, summary.json

With --processes N, torchrun starts N processes on this machine that share each batch.
SIGTERM, SIGUSR1 and SIGUSR2 save the state and end with status 75; the same command goes on.
"""

import argparse
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MODULES = (
    "rectify.training",
    "rectify.gsnr",
    "rectify.evaluation",
    "rectify.language",
    "rectify.data.augment",
    "rectify.data.images",
)


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
    """Return 0, or the status for "try again" if a signal stopped the training."""
    from rectify.commands import processes

    if args.processes > 1 and not processes.is_launched():
        return processes.launch("train", args, args.processes)
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    from rectify.commands import assembly
    from rectify.commands.checkpoint import Checkpoint, identity
    from rectify.data.images import load_set
    from rectify.gsnr import GsnrObserver
    from rectify.provenance import source_digest
    from rectify.records import read_json
    from rectify.runtime import process, start, stop_asked
    from rectify.training import Interrupted, train

    settings, device = read_json(args.config), start(args.threads)
    recipe, workers = assembly.recipe_of(settings), assembly.workers(device, args.threads)
    model = assembly.model_of(settings, args.block, args.seed).to(device)
    measures = {key: value for key, value in settings["gsnr"].items() if key != "estimator"}
    observer = GsnrObserver(assembly.trunk_of(model).blocks, **measures)
    files = [args.data / "manifest.csv", args.data / "arrays.safetensors", args.block]
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
                report=_reporter(args.tensorboard, observer),
                stop=stop,
            )
        except Interrupted as end:
            log.info("%s", end)
            return os.EX_TEMPFAIL
    if process()[0] == 0:
        _write(args, settings, model, rows, observer)
        keeper.delete()
    return 0


def _evaluation(settings: dict[str, Any], images: Any, device: Any, workers: int) -> Any:
    from rectify.commands import assembly
    from rectify.data.augment import normalise
    from rectify.evaluation import accuracies

    return lambda model: accuracies(
        model,
        images.images,
        images.labels,
        settings["data"]["top_k"],
        transform=normalise,
        batch_size=assembly.recipe_of(settings).batch_size,
        device=device,
        prepare=assembly.evaluation_transform(settings),
        workers=workers,
    )


def _reporter(folder: Path | None, observer: Any) -> Any:
    if folder is None:
        return _log_epoch
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

    _log_epoch(row)
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
    from rectify.provenance import provenance
    from rectify.records import GSNR, HISTORY, atomic_path, write_json, write_table

    source = provenance(args.seed, *MODULES, run=settings["run"])
    gradients = [row for epoch in range(len(rows)) for row in observer.rows(epoch)]
    write_table(GSNR, gradients, args.output / "gsnr.csv", source)
    write_table(HISTORY, rows, args.output / "history.csv", source)
    state = {name: value.cpu().contiguous() for name, value in assembly.saved_of(model).items()}
    name = {"run": f"{settings['run']}--seed-{args.seed}"}  # safetensors writes two in any order
    with atomic_path(args.output / "model.safetensors") as temporary:
        save_file(state, temporary, name)
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
