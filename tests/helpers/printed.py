"""Runs and similarities whose numbers are those that the paper prints, to be printed again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from rectify.analysis.published import Label, printed, with_relative_gains
from tests.helpers import synthetic
from tests.helpers.synthetic import LLAMA, VITS, Model, Run

IMAGENET = Model("imagenet", "ImageNet", 0)
SHORT = Model("imagenet-short", "ImageNet, 100 epochs", 0)
LONG = Model("imagenet-pang", "ImageNet, 300 epochs", 0)
SSV2 = Model("ssv2", "Something-Something-v2", 0)
CLOUDS = [
    Model(name.lower().replace(" ", "-"), name, 0)
    for name in (
        *("ScanObjectNN BG", "ScanObjectNN OBJ", "ScanObjectNN T50"),
        *("ModelNet40 1k", "ModelNet40 4k", "ModelNet40 8k"),
    )
]
POINT_BERT = Model("point-bert", "Point-BERT", 22_059_535)
CIFAR = Model("cifar100", "CIFAR-100", 0)
CALTECH = Model("caltech256", "Caltech 256", 0)
BAR = Model("bar", "BAR", 0)
ARGOVERSE = Model("argoverse", "Argoverse", 0)
MMTRANSFORMER = Model("mmtransformer", "mmTransformer", 2_208_989)
FLICKR30K = Model("flickr30k", "Flickr30k", 0)
METER = Model("meter", "METER", 320_209_921)
FORECASTS = {"minADE": "min_ade", "minFDE": "min_fde", "MR": "miss_rate"}
UNPRINTED = {("min_ade", 1): 9.0, ("min_fde", 1): 9.0, ("miss_rate", 1): 0.9}
INSERTED = {"variant": "insert", "language": LLAMA, "layer": 31, "position": "end"}
AUXILIARY = {**INSERTED, "variant": "auxiliary", "lambda_init": 0.35}


def numbers(table: str, row: str, start: str = "") -> list[float]:
    """Return the printed values of a row, of the columns whose group starts with a text."""
    cells = [c for c in printed(table).cells if c.row == Label(row) and c.kind == "value"]
    return [cell.value for cell in cells if cell.column.group.startswith(start)]


def exactly(percent: dict[str, float], gsnr: float = 1e-3) -> dict[str, Callable]:
    """Return the accuracy (from percent) and GSNR of a run that has exactly these numbers."""
    return {
        "accuracy": lambda seed, name: percent.get(name, 50.0) / 100,
        "gsnr": lambda seed, epoch, block, estimator: gsnr,
    }


def check_as_printed(
    table: str, cells: DataFrame, misprint: tuple[str, str, str] | None = None
) -> None:
    """Check that every printed cell is there, with our mean equal to it, and relative gains."""
    ours = cells[cells["paper_row"] != "-"].set_index(["paper_row", "paper_column", "kind"])
    theirs = with_relative_gains(printed(table), " +AUX").cells
    assert len(ours) == len(theirs)
    for cell in theirs:
        place = (f"{cell.row}", f"{cell.column}", cell.kind)
        row = ours.loc[place]
        assert (row["unit"], row["scale"]) == (cell.unit, cell.scale)
        assert row["paper"] == pytest.approx(cell.value)
        if place != misprint:
            assert row["mean"] == pytest.approx(cell.value)
            assert row["difference"] == pytest.approx(0, abs=1e-9)


def check_all_compared(cells: DataFrame, count: int) -> None:
    """Check that so many cells are compared with a number of the paper that is ours.

    The others are gains, or show GSNR as the paper does not.
    """
    compared = cells[cells["paper"].notna()]
    assert compared["difference"].tolist() == pytest.approx([0] * count, abs=1e-9)
    values = cells[cells["paper"].isna() & (cells["kind"] == "value")]
    assert values["column"].str.startswith("GSNR").all()


def similarity(root: Path) -> dict[tuple[str, str], Path]:
    """Write the similarity that Table 1 prints, and return its files by ViT and language model."""
    sizes = {"560M": 5.6e8, "1.1B": 1.1e9, "3B": 3e9, "7B": 7.1e9}
    languages = [Model(f"bloomz-{name}", f"BLOOMZ-{name}", size) for name, size in sizes.items()]
    files = {}
    for vision, row in zip(VITS.values(), printed("table1").rows, strict=True):
        for language, score in zip(languages, numbers("table1", row.name), strict=True):
            grid = np.full((3, 4), 0.01)
            grid[2, 1] = score
            path = synthetic.write_similarity(root, language, vision, 0, grid)
            files[vision.title, language.title] = path
    return files


def sizes() -> list[Run]:
    """Return the runs of Table 2."""
    languages = {"350M": 3.5e8, "1.3B": 1.3e9, "2.7B": 2.7e9, "6.7B": 6.7e9}
    runs = [Run(SHORT, VITS["ViT-S"], **exactly({"test": 75.25}))]
    for (name, size), top1 in zip(languages.items(), numbers("table2", "ViT-S"), strict=True):
        language = Model(f"opt-{name.lower()}", f"OPT-{name}", size)
        settings = {**INSERTED, "language": language}
        runs.append(Run(SHORT, VITS["ViT-S"], **exactly({"test": top1}), **settings))
    return runs


def grid() -> list[Run]:
    """Return the runs of Table 3."""
    layers = [int(column.name) for column in printed("table3").columns]
    vanilla = Run(CIFAR, VITS["ViT-S"], **exactly({"test": 71.62}))
    return [vanilla] + [
        Run(CIFAR, VITS["ViT-S"], **exactly({"test": top1}), variant="insert", language=LLAMA,
            layer=layer, position=row.name.lower())
        for row in printed("table3").rows
        for layer, top1 in zip(layers, numbers("table3", row.name), strict=True)
    ]  # fmt: skip


def images_and_video() -> list[Run]:
    """Return the runs of Table 4."""
    runs = []
    for name in ("ViT-S", "ViT-B"):
        for row, settings in ((name, {}), (f"{name} +AUX", AUXILIARY)):
            *tops, gsnr = numbers("table4", row, "ImageNet")
            shifts = dict(zip(("test", "c", "a", "sk", "r"), tops, strict=True))
            image = {**exactly(shifts, gsnr * 1e-5), "shifts": ("c", "a", "sk", "r"), **settings}
            top1, top5, gsnr = numbers("table4", row, "Something")
            video = {**exactly({"test": top1, "k": top5}, gsnr * 1e-3), **settings}
            runs += [Run(IMAGENET, VITS[name], **image), Run(SSV2, VITS[name], **video)]
    return runs


def small_sets() -> list[Run]:
    """Return the runs of Table 5."""
    runs = []
    for name in ("ViT-T", "ViT-S"):
        for row, settings in ((name, {}), (f"{name} +AUX", AUXILIARY)):
            for data, start in ((CIFAR, "CIFAR"), (CALTECH, "Caltech")):
                top1, top5, gsnr = numbers("table5", row, start)
                exact = exactly({"test": top1, "k": top5}, gsnr * 1e-5)
                runs.append(Run(data, VITS[name], **exact, **settings))
    return runs


def weights() -> list[Run]:
    """Return the runs of Table 6."""
    runs = []
    for row in printed("table6").rows:
        settings = {**AUXILIARY, "lambda_init": float(row.name)} if float(row.name) else {}
        for data, start, k in ((CIFAR, "CIFAR", 5), (CALTECH, "Caltech", 5), (BAR, "BAR", 3)):
            top1, topk = numbers("table6", row.name, start)
            exact = exactly({"test": top1, "k": topk})
            runs.append(Run(data, VITS["ViT-S"], **exact, k=k, **settings))
    return runs


PANG_CONTROLS = {
    "": None, "LLaMA": "frozen", "MLP": "mlp", "LLaMA, fine-tuned": "tuned",
    "random LLM": "scratch",
}  # fmt: skip
PANG_PLACES = {
    "LLaMA, head": (31, "early"), "LLaMA, middle": (31, "middle"), "LLaMA, tail": (31, "end"),
    "two LLaMA blocks, tail": ("30-31", "end"),
}  # fmt: skip
PANG_LAYERS = {"125M": 11, "350M": 23, "1.3B": 23, "2.7B": 31, "6.7B": 31}
PANG_NAMES = {"clean": "test", "-C": "c", "-A": "a", "-SK": "sk", "-R": "r", "acc@1": "test",
              "acc@5": "k"}  # fmt: skip


def forecasts(table: str, row: str) -> dict[tuple[str, int], float]:
    """Return what a run has scored whose numbers on Argoverse are those of a printed row."""
    found = dict(UNPRINTED)
    for cell in printed(table).cells:
        if cell.row == Label(row) and "Argoverse" in cell.column.group:
            name, several, _ = cell.column.name.partition(", 6 best")
            value = cell.value / 100 if cell.unit == "%" else cell.value
            found[FORECASTS[name], 6 if several else 1] = value
    return found


def forecasting(table: str, row: str, model: Model, **settings: object) -> Run:
    """Return a run on Argoverse that has scored what a row prints."""
    return Run(
        ARGOVERSE, model, lambda *_: 0.0, lambda *_: 1e-3, task="motion_forecasting", k=6,
        scores=forecasts(table, row), **settings,
    )  # fmt: skip


def retrieving(table: str, row: str, **settings: object) -> Run:
    """Return a run on Flickr30k that finds what a row prints, and half of the texts."""
    shares = {
        int(cell.column.name.partition("@")[2]): cell.value / 100
        for cell in printed(table).cells
        if cell.row == Label(row) and cell.column.group.startswith(FLICKR30K.title)
    }
    return Run(
        FLICKR30K, METER, lambda *_: 0.0, lambda *_: 1e-3, task="image_text_retrieval",
        scores={(f"recall_at_{k}", 0): share for k, share in shares.items()},
        parts={"texts": {(f"recall_at_{k}", 0): 0.5 for k in shares}}, **settings,
    )  # fmt: skip


def pang(table: str) -> list[Run]:
    """Return the runs of a table of Pang et al., from its printed rows and column heads."""
    theirs, runs = printed(table), []
    for row in theirs.rows:
        model, _, added = row.name.partition(" +")
        for group in dict.fromkeys(column.group for column in theirs.columns):
            if group.startswith(ARGOVERSE.title):
                runs.append(forecasting(table, row.name, MMTRANSFORMER, **_inserted(added)))
                continue
            if group.startswith(FLICKR30K.title):
                runs.append(retrieving(table, row.name, **_inserted(added)))
                continue
            percent = {
                PANG_NAMES[cell.column.name]: cell.value
                for cell in theirs.cells
                if (cell.row, cell.column.group) == (row, group) and cell.kind == "value"
            }
            known = (SHORT, LONG, SSV2, *CLOUDS)
            data = next(one for one in known if group.startswith(one.title))
            vit = POINT_BERT if data in CLOUDS else VITS[model if model in VITS else "ViT-S"]
            shifts = ("c", "a", "sk", "r") if "c" in percent else ()
            run = Run(data, vit, **exactly(percent), shifts=shifts, **_inserted(added))
            runs.append(run)
    return runs


def _inserted(added: str) -> dict[str, object]:
    """Return what Pang et al. insert by what they call it."""
    if added.startswith("OPT"):
        size = added.removeprefix("OPT-")
        language = Model(added.lower(), added, 1e9)
        return {**INSERTED, "language": language, "layer": PANG_LAYERS[size]}
    if added in PANG_PLACES:
        layer, position = PANG_PLACES[added]
        return {**INSERTED, "layer": layer, "position": position}
    control = PANG_CONTROLS[added]
    return {**INSERTED, "control": control} if control else {}
