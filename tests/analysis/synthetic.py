"""Made-up results in the real formats, written with the real writers, for tests and pictures.

`paper_results` writes runs whose numbers are those that the paper prints; `demo_results`
writes noisy ones of the shape of the demo, for every table and figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rectify.records import EVALUATION, GSNR, HISTORY, SIMILARITY, write_json, write_table

ESTIMATORS = ("plain", "debiased", "xi", "unnormalised")
CORRUPTIONS = ("blur", "noise")
SOURCE = {"seed": 0, "commit": "0123456789ab", "versions": {"numpy": "2"}, "device": "cpu"}


@dataclass
class Model:
    """A ViT or language model: its name, title and number of parameters."""

    name: str
    title: str
    parameters: float


@dataclass
class Made:
    """The folders and files of a results tree, by what they are for."""

    root: Path
    runs: list[Path] = field(default_factory=list)
    similarity: list[Path] = field(default_factory=list)


@dataclass
class Run:
    """One run; ``accuracy`` maps a seed and none, k, c, a, sk or r to a share."""

    data: Model
    vision: Model
    accuracy: Callable[[int, str], float]
    gsnr: Callable[[int, int, int, str], float]  # seed, epoch, block, estimator
    variant: str = "vanilla"
    language: Model | None = None
    layer: int | None = None
    position: str | None = None
    lambda_init: float = 0.0
    depth: int = 12
    epochs: int = 2
    k: int = 5
    shifts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        fields = [self.data.name, self.vision.name, self.variant]
        if self.language:
            fields += [self.language.name, f"layer-{self.layer}", f"{self.position}"]
        return "_".join(fields + [f"lambda-{self.lambda_init:g}"] * (self.variant == "auxiliary"))

    def config(self) -> dict:
        places = {"early": 0, "middle": self.depth // 2, "end": self.depth}
        vision = {"name": self.vision.name, "title": self.vision.title, "depth": self.depth}
        language = self.language and {"name": self.language.name, "title": self.language.title}
        return {
            "run": self.name,
            "data": {"name": self.data.name, "title": self.data.title, "top_k": self.k},
            "vision": {**vision, "parameters": self.vision.parameters},
            "variant": self.variant,
            "language": language,
            "layer": self.layer,
            "position": self.position,
            "insert_at": places.get(self.position),
            "lambda_init": self.lambda_init,
            "recipe": {"epochs": self.epochs},
            "gsnr": {"batches": 2},
        }


def write_run(root: Path, run: Run, seeds: Sequence[int]) -> Path:
    """Write all files of a run that the analysis reads, and return its folder."""
    folder = root / "runs" / run.name
    write_json(folder / "config.json", run.config())
    for seed in seeds:
        place = folder / f"seed-{seed}"
        top1, topk = run.accuracy(seed, "none"), run.accuracy(seed, "k")
        history = [
            (epoch, 1.0, 1.0, float("nan"), 0.0, 1e-3, top1, topk, 1.0, 100.0)
            for epoch in range(run.epochs)
        ]
        write_table(HISTORY, history, place / "history.csv", SOURCE)
        gsnr = [
            (epoch, block, name, run.gsnr(seed, epoch, block, name), 100, 0)
            for epoch in range(run.epochs)
            for block in range(run.depth)
            for name in ESTIMATORS
        ]
        write_table(GSNR, gsnr, place / "gsnr.csv", SOURCE)
        write_table(EVALUATION, _evaluation(run, seed), place / "evaluation.csv", SOURCE)
    return folder


def _evaluation(run: Run, seed: int) -> list[tuple]:
    rows = [("none", "-", 0, 100, run.k, run.accuracy(seed, "none"), run.accuracy(seed, "k"))]
    for shift in run.shifts:
        top1 = run.accuracy(seed, shift)
        if shift != "c":
            rows.append((shift, "-", 0, 100, run.k, top1, top1))
            continue
        for corruption, side in zip(CORRUPTIONS, (-1, 1), strict=True):
            for severity in range(1, 6):  # around the mean, which stays the given number
                moved = top1 + side * 0.01 * severity
                rows.append(("c", corruption, severity, 100, run.k, moved, moved))
    return rows


def write_similarity(
    root: Path, language: Model, vision: Model, seed: int, grid: np.ndarray, pretrained: bool = True
) -> Path:
    """Write a grid (language layers, ViT blocks) of Mutual-KNN, and return its file."""
    path = root / "similarity" / f"{language.name}--{vision.name}--seed-{seed}.csv"
    rows = [
        (layer, block, float(grid[layer, block]), float(grid[layer, block] - 0.01))
        for layer in range(grid.shape[0])
        for block in range(grid.shape[1])
    ]
    facts = {
        **{f"language{end}": value for end, value in _named(language).items()},
        **{f"vision{end}": value for end, value in _named(vision).items()},
        "seed": seed,
        "k": 10,
        "items": 1024,
        "chance": 10 / 1023,
        "pretrained": pretrained,
    }
    write_table(SIMILARITY, rows, path, {**SOURCE, "facts": facts})
    return path


def _named(model: Model) -> dict:
    return {"": model.name, "_title": model.title, "_parameters": model.parameters}


VITS = {
    "ViT-T": Model("vit-t", "ViT-T", 5717416),
    "ViT-S": Model("vit-s", "ViT-S", 22050664),
    "ViT-B": Model("vit-b", "ViT-B", 86567656),
}
LLAMA = Model("llama-7b", "LLaMA-7B", 6.7e9)


def printed(numbers: dict[str, float], gsnr: float = 1e-3) -> dict:
    """Return the accuracy (from percent) and GSNR of a run that has exactly these numbers."""
    return {
        "accuracy": lambda seed, name: numbers.get(name, 50.0) / 100,
        "gsnr": lambda seed, epoch, block, estimator: gsnr,
    }


def _family(name: str, title: str, sizes: dict[str, str]) -> list[Model]:
    return [
        Model(f"{name}-{end}", f"{title} {size}", 4e4 * 4**index)
        for index, (end, size) in enumerate(sizes.items())
    ]


def demo_results(root: Path, seeds: Sequence[int] = (0, 1)) -> Made:
    """Write a whole results tree like the demo's: its models, data sets, layers and weights."""
    made, rng = Made(root), np.random.default_rng(7)
    visions = [Model(f"vit-{n}", f"ViT-{w}", p) for n, w, p in
               (("t", 48, 178276), ("s", 64, 310884), ("b", 96, 687460))]  # fmt: skip
    sets = {
        "glyphs": (Model("glyphs", "Glyphs-100", 0), 5, 0.62),
        "digits": (Model("digits", "Digits", 0), 3, 0.93),
        "biased": (Model("biased", "Biased", 0), 3, 0.41),
        "motions": (Model("motions", "Motions", 0), 5, 0.55),
    }
    llama = _family("llama", "LLaMA", {"s": "2x32", "m": "4x64", "l": "6x96", "xl": "8x128"})
    opt = _family("opt", "OPT", {"s": "1x32", "m": "2x64", "l": "4x96", "xl": "6x128"})

    def add(data: str, vision: Model, gain: float = 0.0, **settings) -> None:
        model, k, level = sets[data]
        noise = {seed: rng.normal(0, 0.006) for seed in seeds}
        shape = rng.normal(0, 0.04, 6)
        lower = {"none": 0.0, "k": -0.2, "c": 0.2, "a": 0.4, "sk": 0.3, "r": 0.25}

        def accuracy(seed: int, name: str) -> float:
            top = level + gain + visions.index(vision) * 0.02 + noise[seed] - lower[name]
            return float(np.clip(top, 0.02, 0.995))

        def gsnr(seed: int, epoch: int, block: int, estimator: str) -> float:
            decay = np.exp(-epoch / 2) + 0.35
            value = (0.03 + gain) * decay * (1 + shape[block] + 0.03 * seed)
            return float({"plain": value, "debiased": value - 0.016, "xi": value * 0.9}.get(
                estimator, value / 64**2))  # fmt: skip

        shifts = ("c", "a", "sk", "r") if data == "glyphs" else ()
        run = Run(model, vision, accuracy, gsnr, depth=6, epochs=6, k=k, shifts=shifts, **settings)
        folder = write_run(root, run, seeds)
        if folder not in made.runs:
            made.runs.append(folder)

    small = visions[1]
    for data in sets:
        for vision in visions:
            add(data, vision)
            add(data, vision, 0.012, variant="auxiliary", language=llama[-1], layer=7,
                position="end", lambda_init=0.35)  # fmt: skip
        for weight in (0.15, 0.25, 0.45):
            add(data, small, 0.008, variant="auxiliary", language=llama[-1], layer=7,
                position="end", lambda_init=weight)  # fmt: skip
    for index, position in enumerate(("early", "middle", "end")):
        for layer in (0, 2, 3, 5, 7):
            gain = -0.02 + 0.012 * index + 0.003 * layer
            add("glyphs", small, gain, variant="insert", language=llama[-1], layer=layer,
                position=position)  # fmt: skip
    for index, model in enumerate(opt):
        add("glyphs", small, -0.02 + 0.012 * index, variant="insert", language=model,
            layer=index, position="end")  # fmt: skip
    for variant in ("random", "adapter", "mlp", "tuned"):
        add("glyphs", small, rng.normal(0, 0.01), variant=variant, language=llama[-1], layer=7,
            position="end")  # fmt: skip
    untrained = Model("llama-untrained", "LLaMA 8x128 untrained", 2e6)
    for seed in seeds:
        for language, layers in (*zip(llama, (2, 4, 6, 8), strict=True), (untrained, 8)):
            for size, vision in enumerate(visions):
                grid = 0.01 + 0.002 * size + rng.random((layers, 6)) * 0.004
                if language is not untrained:
                    grid += np.add.outer(np.arange(layers), np.arange(6)) * 0.002
                made.similarity.append(
                    write_similarity(root, language, vision, seed, grid, language is not untrained)
                )
    return made
