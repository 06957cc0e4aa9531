"""Made-up results in the real formats, written with the real writers, for tests and pictures.

`demo_results` writes noisy runs of the shape of the demo, for every table and figure; those with
the numbers that the paper prints are in `tests.helpers.printed`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pandas import DataFrame

from rectify.analysis.collect import SETTINGS, Maps, Results
from rectify.analysis.scenes import Forecasts, Scenes
from rectify.controls import VARIANTS
from rectify.results.declared import COST, ESTIMATORS, FILTERING, GSNR, HISTORY, SCORES, SIMILARITY
from rectify.results.files import write_json
from rectify.results.tables import read_note, write_table

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
    """One run; ``accuracy`` maps a seed and test, k, c, a, sk or r to a share.

    Of another task than classification, ``scores`` has the values by metric and k instead, and
    ``parts`` those of further test sets, by their names.
    """

    data: Model
    vision: Model
    accuracy: Callable[[int, str], float]
    gsnr: Callable[[int, int, int, str], float]  # seed, epoch, block, estimator
    variant: str = "vanilla"
    control: str = "frozen"
    language: Model | None = None
    layer: int | str | None = None
    position: str | None = None
    lambda_init: float = 0.0
    depth: int = 12
    epochs: int = 2
    k: int = 5
    shifts: tuple[str, ...] = ()
    fraction: float = 1.0
    task: str = "image_classification"
    scores: dict[tuple[str, int], float] = field(default_factory=dict)
    parts: dict[str, dict[tuple[str, int], float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's name."""
        control = "" if self.control == "frozen" else f"-{self.control}"
        fields = [self.data.name, self.vision.name, f"{self.variant}{control}"]
        if self.language:
            fields += [self.language.name, f"layer-{self.layer}", f"{self.position}"]
        return "_".join(fields + [f"lambda-{self.lambda_init:g}"] * (self.variant == "auxiliary"))

    @property
    def insert_at(self) -> int | None:
        """How many blocks are before the inserted layer."""
        places = {None: None, "early": 0, "middle": self.depth // 2, "end": self.depth}
        return places[self.position] if self.position in places else int(self.position)

    def config(self) -> dict[str, object]:
        """What of ``config.json`` the analysis reads."""
        return {
            "run": self.name,
            "task": self.task,
            "data": {"name": self.data.name, "fraction": self.fraction},
            "vision": {"name": self.vision.name, "depth": self.depth},
            "variant": self.variant,
            "control": self.control,
            "language": self.language and self.language.name,
            "layer": self.layer,
            "position": self.position,
            "insert_at": self.insert_at,
            "lambda_init": self.lambda_init,
            "recipe": {"epochs": self.epochs},
        }

    def labels(self) -> dict[str, object]:
        """What ``labels.json`` holds."""
        return {
            "run": self.name,
            "data": {"name": self.data.name, "title": self.data.title},
            "vision": {"name": self.vision.name, "title": self.vision.title},
            "language": self.language
            and {"name": self.language.name, "title": self.language.title},
            "estimator": "plain",
        }


def write_run(root: Path, run: Run, seeds: Sequence[int]) -> Path:
    """Write all files of a run that the analysis reads, and return its folder."""
    folder = root / "runs" / run.name
    write_json(folder / "config.json", run.config())
    write_json(folder / "labels.json", run.labels())
    for seed in seeds:
        place = folder / f"seed-{seed}"
        history = [
            (epoch, metric, value)
            for epoch in range(run.epochs)
            for metric, value in (
                *_followed(run, seed),
                ("test_loss", 2.5 - epoch / 2 - seed / 20),
                ("main_loss", 3.0 - epoch - seed / 10),
                ("train_loss", 4.0 - epoch),
                ("lr", 1e-3),
            )
        ]
        write_table(HISTORY, history, place / "history.csv", SOURCE)
        gsnr = [
            (epoch, block, name, run.gsnr(seed, epoch, block, name), 100, 0, 1.0, 8.0, 0.5)
            for epoch in range(run.epochs)
            for block in range(run.depth)
            for name in ESTIMATORS
        ]
        write_table(GSNR, gsnr, place / "gsnr.csv", SOURCE)
        write_table(SCORES, _scores(run, seed), place / "scores.csv", SOURCE)
        scored = (
            DataFrame(
                {"item": range(100)}
                | {f"{m}@{k}" if k else m: v for (m, k), v in run.scores.items()}
            )
            if run.scores
            else items(run.accuracy(seed, "test"), run.accuracy(seed, "k"), run.k)
        )
        scored.to_parquet(place / "predictions.parquet", index=False)
    return folder


def _followed(run: Run, seed: int) -> list[tuple[str, float]]:
    """Return the metrics that a history has of each epoch."""
    if run.scores:
        return [(metric, value) for (metric, k), value in run.scores.items() if k < 2]
    return [("accuracy", run.accuracy(seed, "test"))]


def items(top1: float, topk: float, k: int, count: int = 100) -> DataFrame:
    """Return scores of items of which the first have the right answer first, or among k."""
    right = {f"accuracy@{best}": np.arange(count) < round(share * count)
             for best, share in {k: topk, 1: top1}.items()}  # fmt: skip
    frame = DataFrame({"item": range(count), **right, "loss": 2.0 - top1})
    return frame.astype(dict.fromkeys([*right, "loss"], "float32"))


def _scores(run: Run, seed: int) -> list[tuple]:
    if run.scores:
        return [
            (name, "-", metric, k, 100, value)
            for name, scores in {"test": run.scores, **run.parts}.items()
            for (metric, k), value in scores.items()
        ]
    rows = _scored("test", "-", run.k, run.accuracy(seed, "test"), run.accuracy(seed, "k"))
    for shift in run.shifts:
        top1 = run.accuracy(seed, shift)
        if shift != "c":
            rows += _scored(shift, "-", run.k, top1, top1)
            continue
        for corruption, side in zip(CORRUPTIONS, (-1, 1), strict=True):
            for severity in range(1, 6):  # around the mean, which stays the given number
                moved = top1 + side * 0.01 * severity
                rows += _scored("c", f"{corruption}/{severity}", run.k, moved, moved)
    return rows


def _scored(name: str, group: str, k: int, top1: float, topk: float) -> list[tuple]:
    accuracies = {1: top1, k: topk} if k > 1 else {1: top1}
    rows = [(name, group, "accuracy", best, 100, value) for best, value in accuracies.items()]
    return [*rows, (name, group, "loss", 0, 100, 2.0 - top1)]


def collected(root: Path, runs: Sequence[Run], seeds: Sequence[int] = (0,), **labels) -> Results:
    """Return the results of runs that are written below a folder."""
    return Results([write_run(root, run, seeds) for run in runs], seeds, **labels)


def compared(files: Sequence[Path], folders: Sequence[Path] = ()) -> Results:
    """Return the results of similarity tables, with the titles of their models, and of runs."""
    facts = [read_note(file)["provenance"]["facts"] for file in files]
    titles = {
        factor: {fact[factor]: fact[f"{factor}_title"] for fact in facts}
        for factor in ("vision", "language")
    }
    titles["data"] = {fact["pairs"]: "WIT-1024" for fact in facts}  # the paper's
    return Results(folders, [0, 1], files, titles=titles)


def results_of(**frames: DataFrame) -> Results:
    """Return results with given frames, in place of those that files would give."""
    results = Results()
    results.__dict__.update(frames)
    if "runs" in frames:
        runs = frames["runs"].set_index(["run", "seed"])

        def scored(run: str, seed: int) -> DataFrame:
            row = runs.loc[(run, seed)]
            return items(row["accuracy"], row.get("accuracy_topk", 1.0), 5)

        results.__dict__["items"] = scored
    return results


PLACES = ("F_E", "F_L1", "F_A", "F_F", "F_L2")
FLOORS = (0.14, 0.29, 0.12)  # permuted, pixels, share
DEPTH = 6


def costs(**changes: float) -> DataFrame:
    """Return a cost frame of two ViTs and two language models, each with four variants."""
    numbers = dict.fromkeys(COST.names[1:], 2e6)
    rows = [
        {"vision_title": vision, "language_title": language, "variant": variant, **numbers}
        for vision in ("ViT-S", "ViT-B")
        for language in ("LLaMA", "OPT")
        for variant in ("auxiliary", "insert", "residual", "vanilla")  # as sorted in a file
    ]
    return DataFrame(rows).assign(**changes)


def filtering_of(runs: DataFrame) -> DataFrame:
    """Return what `Results.filtering` has of runs: made-up IoU that differ by run, seed and place.

    Vanilla runs have the places of the ViT alone.
    """
    parts = []
    for number, (_, run) in enumerate(runs.iterrows()):
        last = f"block-{DEPTH - 1}"
        places = PLACES[:1] if run["variant"] == "vanilla" else PLACES
        names = [(place, kind) for place in places for kind in ("magnitude", "frequency")]
        names += [
            (last, "attention"),
            *((place, "attention") for place in places if place == "F_A"),
        ]
        rows = [
            (*name, 100, 2, iou, iou - 0.05, 0.3, FLOORS[0], (iou - FLOORS[0]) / (1 - FLOORS[0]),
             *FLOORS[1:], 0.7)
            for index, name in enumerate(names)
            for iou in [0.2 + 0.01 * index + 0.005 * number]
        ]  # fmt: skip
        settings = {**run[list(SETTINGS)].to_dict(), "depth": DEPTH}
        parts.append(DataFrame(rows, columns=FILTERING.names).assign(**settings))
    return pd.concat(parts, ignore_index=True)


def outlined(history: DataFrame) -> DataFrame:
    """Return a history with IoU that rise from epoch to epoch, at the places that a run has."""
    epochs = history[history["metric"] == "test_loss"]
    parts = [history]
    for number, place in enumerate(PLACES):
        rows = epochs if place == "F_E" else epochs[epochs["variant"] != "vanilla"]
        for kind in ("magnitude", "frequency"):
            value = 0.2 + 0.01 * number + 0.02 * rows["epoch"] + 0.1 * (kind == "frequency")
            parts.append(rows.assign(metric=f"iou/{place}/{kind}", value=value))
    return pd.concat(parts, ignore_index=True)


def maps_of(runs: DataFrame, seed: int = 0, grid: int = 4) -> list[Maps]:
    """Return what `Results.maps` has of runs: a bump that moves from image to image."""
    made, pixels = [], 4 * grid
    for _, run in runs[runs["seed"] == seed].iterrows():
        rng = np.random.default_rng(1)
        arrays = {
            "items": np.array([3, 1, 4, 5]),
            "image": rng.integers(0, 256, (4, 1, pixels, pixels), dtype=np.uint8),
            "mask": np.zeros((4, pixels, pixels), np.uint8),
        }
        for image in range(4):
            arrays["mask"][image, 4 * image : 4 * image + 4, 4:12] = 1
        for place in PLACES[:1] if run["variant"] == "vanilla" else PLACES:
            for kind in ("magnitude", "frequency"):
                arrays[f"map/{place}/{kind}"] = rng.random((4, grid, grid), dtype=np.float32)
        attended = [f"block-{DEPTH - 1}", *(["F_A"] if run["variant"] != "vanilla" else [])]
        for place in attended:
            arrays[f"heads/{place}"] = rng.random((4, 2, grid, grid), dtype=np.float32)
            arrays[f"map/{place}/attention"] = rng.random((4, grid, grid), dtype=np.float32)
        made.append(Maps(run, arrays))
    return made


def traffic(folder: Path, items: int = 9) -> dict[str, Callable]:
    """Return what `Results.prepared` and `Results.forecasts` have: drawn scenes, made-up forecasts.

    The forecasts differ by run; all start along the truth and drift to the side.
    """
    from rectify.data.forecasts import save_scenes
    from rectify.demo.lanes import lanes

    save_scenes(folder, lanes(train_items=1, test_items=items), {**SOURCE, "facts": {}})
    scenes = Scenes(folder)
    truth = np.stack([scenes[item].tracks[0, 20:] for item in range(items)])

    def forecasts(run: str, seed: int) -> Forecasts:
        drift = np.linspace(-3, 3, 6)[:, None] * np.linspace(0, 1, truth.shape[1])
        ways = np.repeat(truth[:, None], 6, 1)
        ways[..., 1] += drift + len(run) / 100 + seed
        shares = np.sort(np.random.default_rng(len(run)).dirichlet(np.ones(6), items))[:, ::-1]
        shares[:, 0] += shares[:, 5]  # the last is never likely, and far off
        shares[:, 5] = 0
        ways[:, 5] += 500
        return Forecasts(ways, shares)

    return {"prepared": lambda data: folder, "forecasts": forecasts}


def questions(folder: Path, scenes: int = 4) -> dict[str, Callable]:
    """Return what `Results.prepared` and `Results.predictions` have: drawn questions, and answers.

    The answers differ by run.
    """
    import torch

    from rectify.data.answers import vocabulary
    from rectify.data.questions import gathered, listing_of, save_questions
    from rectify.demo.questions import questions as drawn
    from rectify.runtime import generator
    from rectify.training.scoring import write_predictions

    asked = drawn(train_scenes=9, test_scenes=scenes)
    known = vocabulary((one.most for part in asked.values() for one in part.questions), least=1)
    tokens = {split: [[0, 4, 2]] * len(part.questions) for split, part in asked.items()}
    sets = {split: gathered(part, known, tokens[split]) for split, part in asked.items()}
    save_questions(folder, sets, listing_of(asked, known), None, {**SOURCE, "facts": {}})

    def predictions(run: str, seed: int) -> Path:
        path, draws = folder / f"{run}-{seed}.parquet", generator(seed, run)
        answers = torch.randint(len(known), (5 * scenes, 1), generator=draws)
        right = sets["test"].dense(sets["test"].accuracies, torch.arange(5 * scenes))
        answers[::2] = right[::2].argmax(1, keepdim=True)  # every other one is the best
        values = {"vqa": right.gather(1, answers)[:, 0], "answer": answers}
        values["activations"] = torch.rand(5 * scenes, 4, generator=draws)
        write_predictions({name: one.double() for name, one in values.items()}, path)
        return path

    return {"prepared": lambda data: folder, "predictions": predictions}


def write_similarity(
    root: Path,
    language: Model,
    vision: Model,
    seed: int,
    grid: np.ndarray,
    pretrained: bool = True,
    pairs: str = "pairs",
) -> Path:
    """Write a grid (language layers, ViT blocks) of Mutual-KNN, and return its file."""
    path = root / "similarity" / pairs / f"{language.name}--{vision.name}--seed-{seed}.csv"
    rows = [
        (layer, block, score, 0.001, max(0.0, score - 0.01), 0.01, 0.04 if score > 0.01 else 0.6,
         score / 2, 0.01, score / 3, 0.01)
        for layer in range(grid.shape[0])
        for block in range(grid.shape[1])
        for score in [float(grid[layer, block])]
    ]  # fmt: skip
    facts = {
        "pairs": pairs,
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


def _named(model: Model) -> dict[str, str | float]:
    return {"": model.name, "_title": model.title, "_parameters": model.parameters}


VITS = {
    "ViT-T": Model("vit-t", "ViT-T", 5717416),
    "ViT-S": Model("vit-s", "ViT-S", 22050664),
    "ViT-B": Model("vit-b", "ViT-B", 86567656),
}
LLAMA = Model("llama-7b", "LLaMA-7B", 6.7e9)


def _family(name: str, title: str, sizes: dict[str, str]) -> list[Model]:
    return [
        Model(f"{name}-{end}", f"{title} {size}", 4e4 * 4**index)
        for index, (end, size) in enumerate(sizes.items())
    ]


def seeded(**accuracies: list[float]) -> DataFrame:
    """Return runs with given accuracies per seed, by variant, or control of an insertion.

    All have layer 7 at the end of a small ViT.
    """
    rows = [
        {"run": name, "task": "image_classification", "seed": seed, "data": "glyphs",
         "data_title": "Glyphs", "vision": "vit-s", "vision_title": "ViT-64",
         "variant": name if name in VARIANTS else "insert",
         "control": None if name == "vanilla" else "frozen" if name in VARIANTS else name,
         "language": None if name == "vanilla" else "llama", "language_title": "LLaMA",
         "layer": None if name == "vanilla" else 7.0,
         "position": None if name == "vanilla" else "end", "insert_at": 6.0, "depth": 6,
         "lambda": 0.35 if name == "auxiliary" else 0.0,
         "accuracy": top1, "accuracy_topk": 0.9, "k": 5, "gsnr_plain": 0.0123}
        for name, values in accuracies.items()
        for seed, top1 in enumerate(values)
    ]  # fmt: skip
    return DataFrame(rows)


def layers_of(runs: DataFrame) -> DataFrame:
    """Return the GSNR of `seeded` runs over two epochs, a tenth above vanilla in all others."""
    columns = ["run", "seed", "data", "vision", "variant"]
    parts = [
        runs[columns].assign(
            epoch=epoch,
            block=0,
            estimator="plain",
            gsnr=runs["gsnr_plain"].where(runs["variant"] == "vanilla", 1.1 * runs["gsnr_plain"]),
            main_loss=2.0 - epoch,
        )
        for epoch in range(2)
    ]
    return pd.concat(parts, ignore_index=True)


def demo_results(root: Path, seeds: Sequence[int] = (0, 1)) -> Made:
    """Write a results tree like the demo's: its models, data sets, layers and weights."""
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
        lower = {"test": 0.0, "k": -0.2, "c": 0.2, "a": 0.4, "sk": 0.3, "r": 0.25}

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
    for control in ("random", "adapter", "mlp", "tuned"):
        add("glyphs", small, rng.normal(0, 0.01), variant="insert", control=control,
            language=llama[-1], layer=7, position="end")  # fmt: skip
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
