"""What a GPU gives: checks first, then speed against the two limits that were measured on it.

The limits are a large product in bfloat16 and a large copy. Every speed is the median of single
steps between two events on the GPU, after steps that are not timed. Cases come in the order of
their weight and end when the minutes are over; what was not reached is named.
"""

import itertools
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_checks import checks, compiled_model
from benchmarks.make_llama import make
from benchmarks.paired import Options, Table
from benchmarks.similarity import NARROW, WIDE, K, layers
from rectify.cost import build, of_images
from rectify.gsnr import GsnrObserver, NoiseObserver
from rectify.gsnr.kernels import batched_sums, chunked_sums, fused_sums
from rectify.language.captions import caption_features
from rectify.rectified import trunk_of
from rectify.runtime import autocast, device_text
from rectify.similarity.neighbours import neighbours
from rectify.similarity.scores import mutual_knn_matrix
from rectify.speed import fill
from rectify.training.objective import Objective

NAMES = ("checks", "limits", "sums", "steps", "similarity", "features", "kernels")
PASSES = 10  # timed, after three that are not
EVERY = 8  # of the samples, each of which stands for so many where every step is measured
FILE = Path("gpu.json")

log = logging.getLogger(__name__)


class Size(NamedTuple):
    """How large everything is: the same code on a GPU, and small on a CPU for the tests."""

    batch: int
    square: int
    """Rows and columns of the product that is the limit."""
    copied: int
    """Numbers of the copy that is the limit."""
    images: tuple[tuple[int, int], ...]
    """Pixels and patch of an image."""
    visions: tuple[str, ...]
    language: str
    items: tuple[int, int]
    """Of Mutual-KNN: of all layers, and of one."""
    captions: int
    layers: int
    overrides: dict[str, int]
    """Of the ViTs."""


GPU = Size(
    256, 8192, 2**30, ((32, 4), (224, 16)), ("small", "tiny", "base"), "llama-7b",
    (1024, 100_000), 1024, 2, {},
)  # fmt: skip
CPU = Size(
    8, 64, 2**10, ((32, 8),), ("tiny",), "opt-125m", (32, 64), 0, 0,
    {"depth": 2, "embed_dim": 48},
)  # fmt: skip


class Case(NamedTuple):
    """A training step that is timed."""

    vision: str
    pixels: int
    patch: int
    variant: str
    run: str
    """``eager``, ``compiled``, or ``graphs``: compiled and replayed as CUDA graphs."""
    mode: str
    """``off``, how the moments are gathered, or ``every``: norms, as at every step."""


class Bench:
    """One device, its limits, and the time that is left."""

    def __init__(self, device: torch.device, minutes: float):
        self.device, self.size = device, GPU if device.type == "cuda" else CPU
        self.ends = time.monotonic() + 60 * minutes
        self.peak = 0.0  # operations per second

    @property
    def is_over(self) -> bool:
        """Whether no further case is started."""
        return time.monotonic() > self.ends

    def seconds(self, work: Callable[[], object], passes: int = PASSES) -> float:
        """Return the median seconds of ``work`` on the device."""
        for _ in range(3):
            work()
        if self.device.type != "cuda":
            return statistics.median(_clocked(work) for _ in range(passes))
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(passes + 1)]
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        torch.cuda.synchronize()
        times = (first.elapsed_time(second) for first, second in itertools.pairwise(marks))
        return statistics.median(times) / 1000

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Return normal numbers on the device."""
        return torch.randn(shape, device=self.device).to(dtype)


def run(options: Options) -> list[Table]:
    """Return a table for each part, and write all numbers to ``gpu.json``."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench, chosen = Bench(device, options.minutes), options.chosen(NAMES)
    parts: dict[str, Callable[[Bench], Table]] = {
        "limits": _limits,
        "checks": lambda bench: checks(bench.device),
        "sums": _sums,
        "steps": _steps,
        "similarity": _similarity,
        "features": _features,
        "kernels": _kernels,
    }
    tables = []
    for name, part in parts.items():
        if name in chosen or name == "limits":
            log.info("%s, %.0f s left", name, bench.ends - time.monotonic())
            tables.append(part(bench))
            log.info("%s", tables[-1])
    text = {"device": device_text(device), "torch": torch.__version__}
    rows = [[dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in tables]
    FILE.write_text(json.dumps(text | {"tables": rows}, indent=1))
    return tables


def _limits(bench: Bench) -> Table:
    size = bench.size
    left, right = (bench.random(size.square, size.square) for _ in range(2))
    seconds = bench.seconds(lambda: left @ right)
    bench.peak = 2 * size.square**3 / seconds
    source = torch.randn(size.copied, device=bench.device)
    target = torch.empty_like(source)
    copied = 8 * size.copied / bench.seconds(lambda: target.copy_(source))
    rows = [
        (f"product of {size.square} x {size.square} in bfloat16", f"{bench.peak / 1e12:.3g} TF/s"),
        ("copy, bytes read and written", f"{copied / 1e12:.3g} TB/s"),
    ]
    return Table(("limit", "measured"), rows, f"Limits of {device_text(bench.device)}.")


def _sums(bench: Bench) -> Table:
    """Time the sums over the samples of the layers of a ViT-S."""
    ways = {"chunks": chunked_sums, "batches": batched_sums}
    if bench.device.type == "cuda":
        ways["triton"] = fused_sums
    rows = []
    for pixels, patch in bench.size.images:
        tokens = (pixels // patch) ** 2 + 1
        for dim_out, dim_in in ((1152, 384), (384, 384), (1536, 384), (384, 1536), (768, 192)):
            inputs = bench.random(bench.size.batch, tokens, dim_in)
            delta = bench.random(bench.size.batch, tokens, dim_out)
            plain = bench.seconds(lambda d=delta, i=inputs: d.flatten(0, 1).T @ i.flatten(0, 1))
            taken = {name: bench.seconds(partial(way, inputs, delta)) for name, way in ways.items()}
            work = 2 * delta.numel() * dim_in
            cells = [f"{1e6 * t:.0f} us, {work / t / 1e12:.3g} TF/s" for t in taken.values()]
            rows.append((f"{tokens}", f"{dim_out} x {dim_in}", f"{1e6 * plain:.0f} us", *cells))
    note = f"Sums of {bench.size.batch} samples' gradients and squares, against one product."
    return Table(("tokens", "weight", "the gradient alone", *ways), rows, note)


def _cases(size: Size) -> Iterator[Case]:
    """Give the cases, the weightiest first."""
    first = size.visions[0]
    for pixels, patch in size.images:
        for how in ("compiled", "graphs", "eager"):
            pairs = ("pairs",) if how == "compiled" else ()
            for mode in ("off", "observe", "replace", "every", *pairs):
                yield Case(first, pixels, patch, "vanilla", how, mode)
    pixels, patch = size.images[-1]
    for variant in ("insert", "auxiliary"):
        for mode in ("off", "observe", "replace"):
            yield Case(first, pixels, patch, variant, "compiled", mode)
    for vision in size.visions[1:]:
        for variant in ("vanilla", "insert", "auxiliary"):
            yield Case(vision, pixels, patch, variant, "compiled", "off")


def _steps(bench: Bench) -> Table:
    rows, missing = [], []
    plain: dict[Case, float] = {}
    for case in _cases(bench.size):
        if bench.is_over:
            missing.append(f"ViT {case.vision} {case.variant} {case.mode}")
            continue
        work, flops = training_step(bench, case)
        _reset(bench.device)
        seconds = bench.seconds(work)
        plain.setdefault(case._replace(mode="off"), seconds)
        ratio = seconds / plain[case._replace(mode="off")]
        rate = bench.size.batch / seconds
        rows.append(
            (
                f"ViT {case.vision}, {case.pixels} px", case.variant,
                case.run, case.mode, f"{1e3 * seconds:.2f} ms",
                f"{rate:.0f}", f"{100 * flops / seconds / bench.peak:.0f} %", _peak(bench.device),
                f"{ratio:.2f}",
            )
        )  # fmt: skip
        log.info("%s", " ".join(rows[-1]))
    note = (
        f"Whole training steps, batch {bench.size.batch}, bfloat16, AdamW; the layer is "
        f"{bench.size.language}'s. The share of the limit counts the products of the step that is "
        "not measured. `pairs`: `observe` where Mixup links samples; `every`: norms of some, "
        "as at every step."
    )
    note += f" Not reached: {', '.join(missing)}." if missing else ""
    heads = ("model", "variant", "run", "GSNR", "step", "images/s", "of limit", "GB", "x off")
    return Table(heads, rows, note)


def training_step(bench: Bench, case: Case) -> tuple[Callable[[], None], int]:
    """Return a training step on a model of its own, and the operations of an unmeasured one."""
    overrides = {"patch_size": case.patch, **bench.size.overrides}
    design = of_images(
        f"vit_{case.vision}_patch16_224", bench.size.language, image_size=case.pixels, classes=100,
        overrides=overrides,
    )  # fmt: skip
    model = build(design, case.variant).trained
    fill(model, "bfloat16", bench.device)
    model.train()
    batch = design.batch(bench.size.batch, "meta")["inputs"].shape
    images = bench.random(*batch, dtype=torch.float32)
    labels = torch.arange(len(images), device=bench.device) % design.entry["classes"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    blocks = trunk_of(model).blocks
    watching, compiles = None, case.run != "eager"
    if case.mode == "every":
        measured = max(2, bench.size.batch // EVERY)
        watching = NoiseObserver(dict(blocks.items()), measured, steps=PASSES, compiled=compiles)
    elif case.mode != "off":
        mode = "observe" if case.mode == "pairs" else case.mode
        watching = GsnrObserver(blocks, 1, mode=mode, compiled=compiles)
    items = torch.arange(len(images))
    linked = {"origins": torch.stack([items, items.flip(0)], 1)} if case.mode == "pairs" else {}
    steps = itertools.count()
    torch._dynamo.reset()
    quick = model if case.run == "eager" else compiled_model(model, bench.device, case.run)

    def backward() -> None:
        is_compiled = watching is None or watching.is_compiled
        with autocast(bench.device, "bfloat16"):
            loss = _loss((quick if is_compiled else model)(images), labels)
        loss.backward()

    def step() -> None:
        with nullcontext() if watching is None else watching.watch(**linked):
            backward()
        if watching is not None:
            watching.record(0, next(steps) if case.mode == "every" else len(images))
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter, autocast(bench.device, "bfloat16"):
        _loss(model(images), labels).backward()
    optimizer.zero_grad()
    return step, counter.get_total_flops()


def _loss(outputs: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    paths = outputs if isinstance(outputs, tuple) else (outputs,)
    main, *second = (cross_entropy(path, labels) for path in paths)
    return Objective.of(main, second[0] if second else None, 0.5).total


def _similarity(bench: Bench) -> Table:
    items, many = bench.size.items
    sides = [[one.to(bench.device) for one in layers(items, *shape, 1)] for shape in (WIDE, NARROW)]
    rows = [("heat map", f"{items}", _shown(bench, lambda: mutual_knn_matrix(*sides, K)))]
    for width in (384, 4096):
        if not bench.is_over:
            features = bench.random(many, width, dtype=torch.float32)
            seconds = _shown(bench, lambda values=features: neighbours(values, K))
            rows.append((f"one layer of width {width}", f"{many}", seconds))
    note = f"Mutual-KNN, k = {K}: {WIDE[0]} x {NARROW[0]} layers, and the neighbours of one layer."
    return Table(("what", "items", "seconds"), rows, note)


def _features(bench: Bench) -> Table:
    size, rows = bench.size, []
    if size.captions and not bench.is_over:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "llama"
            make(checkpoint, size.layers)
            _write_tokenizer(checkpoint)
            captions = [
                " ".join(f"w{(7 * n + t) % 500}" for t in range(40)) for n in range(size.captions)
            ]
            work = partial(caption_features, checkpoint, captions, 64, device=bench.device)
            rows.append((f"{size.captions} x 40", f"{_clocked(work) / size.layers:.2f} s"))
    note = "Features of captions from layers of LLaMA-7B's shape, in float32, reading included."
    return Table(("captions x tokens", "a layer"), rows, note)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {"<unk>": 0} | {f"w{number}": number + 1 for number in range(500)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(f"{folder / 'tokenizer.json'}")


def _kernels(bench: Bench) -> Table:
    """List the largest kernels of a measured step and of one with a second path."""
    pixels, patch = bench.size.images[-1]
    rows = []
    for variant, mode in (("vanilla", "observe"), ("auxiliary", "off")):
        if bench.is_over:
            break
        case = Case(bench.size.visions[0], pixels, patch, variant, "compiled", mode)
        work, _ = training_step(bench, case)
        for _ in range(3):
            work()
        with torch.profiler.profile() as profile:
            work()
        kind = getattr(torch.autograd.DeviceType, bench.device.type.upper())
        events = [event for event in profile.key_averages() if event.device_type == kind]
        spent = {
            event.key: event.self_device_time_total or event.self_cpu_time_total for event in events
        }
        counts = {event.key: event.count for event in events}
        for name in sorted(spent, key=spent.get, reverse=True)[:10]:
            shown = name[:60].replace("|", "/")
            rows.append(
                (f"{variant}, {mode}", shown, f"{counts[name]}", f"{spent[name] / 1e3:.2f} ms")
            )
    return Table(("step", "kernel", "calls", "time"), rows, "The ten largest kernels of a step.")


def _shown(bench: Bench, work: Callable[[], object]) -> str:
    work()
    return f"{_clocked(work):.2f} s"


def _clocked(work: Callable[[], object]) -> float:
    """Return the seconds of a call, to the end of what it started on a GPU."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return "-"
    return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}"
