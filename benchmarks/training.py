"""The auxiliary training step against the sum of its parts, and against two forward passes.

The parts are the plain ViT's step and the frozen block's forward pass and input gradient. Above
their sum lie the two adapters and the second pass through norm and head; the trunk runs once.
"""

import statistics

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.models import BATCH, SIZES, batch, frozen_block, training_step, vision_transformer
from benchmarks.paired import Options, Table, Work, paired, peak_memory, spread
from rectify.rectified import AuxiliaryModel, InsertedModel, auxiliary
from rectify.training.objective import Objective

CASES = ("tiny", "small")
METHODS = ("auxiliary", "two-forwards")
NAMES = (*CASES, *METHODS)
WEIGHT = 0.35
NOTE = (
    f"ViT-Ti and ViT-S (timm) at 32 px, patch 4, batch {BATCH}, fp32, a frozen LLaMA-shaped block "
    f"of width {SIZES['hidden_size']}. Plain: the ViT's whole training step, then the block's "
    "forward pass and input gradient on as many tokens. `two-forwards`: the same losses, the "
    "trunk run for each."
)


def run(options: Options) -> list[Table]:
    """Return one table: case, method, time over that of the parts, memory."""
    methods = options.chosen(METHODS)
    rows = [row for case in options.chosen(CASES) for row in _rows(case, methods, options)]
    columns = ("case", "method", "× time of the parts [range]", "peak MiB")
    return [Table(columns, rows, NOTE)]


def training_work(case: str, method: str) -> Work:
    """Return the parts, or a whole step of a method, on a model of its own."""
    vit, block = vision_transformer(case).train(), frozen_block()
    if method == "parts":
        return _parts(vit, block)
    model = auxiliary(vit, block, generator=torch.Generator().manual_seed(0)).train()
    losses = one_forward if method == "auxiliary" else two_forwards
    images, labels = batch()
    return training_step(model, lambda: losses(model, images, labels).backward())


def one_forward(model: AuxiliaryModel, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of both paths, as ``rectify`` computes it."""
    main, second = (cross_entropy(logits, labels) for logits in model(images))
    return Objective.of(main, second, WEIGHT).total


def two_forwards(model: AuxiliaryModel, images: Tensor, labels: Tensor) -> Tensor:
    """Return the same loss, with a forward pass of the whole trunk for each path."""
    rectified = InsertedModel(model.trunk, model.bridge, len(model.trunk.blocks))
    main, second = (cross_entropy(one(images), labels) for one in (model.trunk, rectified))
    return Objective.of(main, second, WEIGHT).total


def _parts(vit: nn.Module, block: nn.Module) -> Work:
    images, labels = batch()
    tokens = torch.randn(BATCH, 65, block.hidden, requires_grad=True)
    after = torch.randn(BATCH, 65, block.hidden)
    step = training_step(vit, lambda: cross_entropy(vit(images), labels).backward())

    def work() -> None:
        step()
        torch.autograd.grad(block(tokens), tokens, after)

    return work


def _rows(case: str, methods: list[str], options: Options) -> list[tuple[str, ...]]:
    works = {method: training_work(case, method) for method in methods}
    timing = paired(training_work(case, "parts"), works, options.rounds)
    peaks = {
        method: peak_memory(training_work, case, method, threads=options.threads)
        for method in ("parts", *methods)
    }
    seconds = f"{statistics.median(timing.plain):.2f} s"
    return [
        (case, "parts", seconds, f"{peaks['parts']:.0f}"),
        *((case, name, spread(timing.ratios[name]), f"{peaks[name]:.0f}") for name in methods),
    ]
