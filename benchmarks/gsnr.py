"""GSNR during training: a whole step that also gives the moments, against the step alone.

A step is forward, backward and AdamW. A measured step gives, beside, the mean and the variance
of the per-sample gradients of every parameter of the ViT blocks.
"""

import logging
import statistics
from functools import partial

from benchmarks.models import BATCH, batch, measured_model, training_step
from benchmarks.paired import Options, Table, Work, paired, peak_memory, spread
from benchmarks.rivals import METHODS, every_step, norms, plain

CASES = ("tiny", "tiny+block", "small", "small+block", "encoder")
GENERIC = ("observe", "generic")  # methods that are timed of torch's own layers
NORMS = {"norms": norms, "every-step": every_step}
OF_VITS = (*NORMS, *METHODS)
NAMES = (*CASES, *OF_VITS)
NOTE = (
    f"ViT-Ti and ViT-S (timm) at 32 px, patch 4, batch {BATCH}, fp32; `+block`: a frozen "
    "LLaMA-shaped block of width 512 at the end. Counted: the whole training step (forward, "
    "backward, AdamW) with mean and variance of the gradient of every parameter of the ViT "
    "blocks; the loop and vmap differentiate by all trainable parameters, so they need no other "
    "pass; BackPACK measures the linear layers only; `norms` gives squared norms by block, for "
    "`debiased`, in place of the moments; `every-step` those of 8 samples, which stand for all. "
    "`encoder`: four of torch's own encoder layers "
    "of ViT-Ti's size, of which `observe` measures the attention the generic way; `generic`: each "
    "block as one, the generic way. Memory: peak of a fresh process above "
    "what is resident before the first step, where freed blocks are given back at once."
)

log = logging.getLogger(__name__)


def run(options: Options) -> list[Table]:
    """Return one table: case, method, time and memory, each over those of the plain step."""
    rows = [row for case in options.chosen(CASES) for row in _rows(case, options)]
    columns = ("case", "method", "× time [range]", "peak MiB", "× memory")
    return [Table(columns, rows, NOTE)]


def measured_step(case: str, method: str) -> Work:
    """Return a training step on a model of its own, measured by ``method``, or ``plain``."""
    model, blocks = measured_model(case)
    backward = {**METHODS, **NORMS}.get(method, plain)(model, blocks)
    return training_step(model, partial(backward, *batch()))


def _rows(case: str, options: Options) -> list[tuple[str, ...]]:
    methods = options.chosen(GENERIC if case == "encoder" else OF_VITS)
    memory = {}
    for method in ("plain", *methods):
        memory[method] = peak_memory(measured_step, case, method, threads=options.threads)
        log.info("%s: %s needs %.0f MiB", case, method, memory[method])
    steps = {method: measured_step(case, method) for method in methods}
    timing = paired(measured_step(case, "plain"), steps, options.rounds)
    seconds = f"{statistics.median(timing.plain):.2f} s"
    rows = [(case, "plain", seconds, f"{memory['plain']:.0f}", "1")]
    for method in methods:
        ratio, peak = spread(timing.ratios[method]), memory[method]
        rows.append((case, method, ratio, f"{peak:.0f}", f"{peak / memory['plain']:.2f}"))
    return rows
