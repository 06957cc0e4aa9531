"""From the files of finished runs to tidy frames: one row per run and seed.

Settings come from ``config.json``, accuracies from ``evaluation.csv`` (a shift with several
corruptions and severities counts as their plain mean; mCE stands beside it) and GSNR from
``gsnr.csv``, averaged over epochs (Eq. 7) and then over ViT blocks. Shares stay shares, 0 .. 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame

from rectify.analysis.robustness import mean_corruption_error
from rectify.records import (
    COST,
    EVALUATION,
    GSNR,
    HISTORY,
    SIMILARITY,
    read_json,
    read_note,
    read_table,
)

ESTIMATORS = ("plain", "debiased", "xi", "unnormalised")
SHIFTS = ("c", "a", "sk", "r")
SETTINGS = (
    *("run", "data", "data_title", "vision", "vision_title", "vision_parameters", "variant"),
    *("language", "language_title", "language_parameters", "layer", "position", "insert_at"),
    *("depth", "lambda_init"),
)
METRICS = (
    *("accuracy_top1", "accuracy_topk", "k"),
    *(f"accuracy_{shift}" for shift in SHIFTS),
    "corruption_error",
    *(f"gsnr_{estimator}" for estimator in ESTIMATORS),
)
FACTS = (
    *("language", "language_title", "language_parameters"),
    *("vision", "vision_title", "vision_parameters", "pretrained", "seed", "k", "items", "chance"),
)


def collect_runs(folders: Sequence[Path], seeds: Sequence[int]) -> DataFrame:
    """Return settings and metrics of runs, one row per run and seed.

    Args:
        folders: Run folders, each with a ``config.json`` and a ``seed-<s>`` folder per seed.
        seeds: Seeds that every run must have finished.

    Raises:
        ValueError: If a file is missing, or a run has not reached its last epoch.
    """
    rows = []
    for folder in folders:
        config = read_json(Path(folder) / "config.json")
        settings = _settings(config)
        for seed in seeds:
            place = Path(folder) / f"seed-{seed}"
            _check_finished(config, place)
            rows.append({**settings, "seed": seed, **_accuracies(place), **_mean_gsnr(place)})
    return DataFrame(rows, columns=[*SETTINGS, "seed", *METRICS])


def collect_gsnr(folders: Sequence[Path], seeds: Sequence[int]) -> DataFrame:
    """Return layer-wise GSNR (Eq. 3), one row per run, seed, epoch, block and estimator.

    Raises:
        ValueError: If a file is missing, or a run has not reached its last epoch.
    """
    parts = []
    for folder in folders:
        config = read_json(Path(folder) / "config.json")
        for seed in seeds:
            place = Path(folder) / f"seed-{seed}"
            _check_finished(config, place)
            rows = read_table(GSNR, place / "gsnr.csv")[["epoch", "block", "estimator", "gsnr"]]
            parts.append(rows.assign(**_settings(config), seed=seed))
    columns = [*SETTINGS, "seed", "epoch", "block", "estimator", "gsnr"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else DataFrame(columns=columns)


def collect_similarity(files: Sequence[Path]) -> DataFrame:
    """Return similarity tables one below the other, each with the facts of its description.

    Raises:
        ValueError: If a file, its description or one of the facts is missing.
    """
    parts = [read_table(SIMILARITY, Path(file)).assign(**_facts(Path(file))) for file in files]
    columns = [*FACTS, *SIMILARITY.names]
    return pd.concat(parts, ignore_index=True)[columns] if parts else DataFrame(columns=columns)


def collect_costs(files: Sequence[Path]) -> DataFrame:
    """Return cost tables one below the other, each with the titles of its two models.

    Raises:
        ValueError: If a file or its description is missing.
    """
    parts = []
    for file in map(Path, files):
        facts = read_note(file)["provenance"]["facts"]
        titles = {name: facts[name] for name in ("vision_title", "language_title")}
        parts.append(read_table(COST, file).assign(**titles))
    columns = ["vision_title", "language_title", *COST.names]
    return pd.concat(parts, ignore_index=True)[columns] if parts else DataFrame(columns=columns)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    data, vision, language = config["data"], config["vision"], config["language"] or {}
    return {
        "run": config["run"],
        "data": data["name"],
        "data_title": data["title"],
        "vision": vision["name"],
        "vision_title": vision["title"],
        "vision_parameters": float(vision["parameters"]),
        "variant": config["variant"],
        "language": language.get("name"),
        "language_title": language.get("title"),
        "language_parameters": float(language.get("parameters") or "nan"),
        "layer": _number(config["layer"]),
        "position": config["position"],
        "insert_at": _number(config["insert_at"]),
        "depth": int(vision["depth"]),
        "lambda_init": float(config["lambda_init"]),
    }


def _number(value: int | None) -> float:
    return float("nan") if value is None else float(value)


def _check_finished(config: dict[str, Any], place: Path) -> None:
    wanted, done = config["recipe"]["epochs"], len(read_table(HISTORY, place / "history.csv"))
    if done != wanted:
        raise ValueError(
            f"{place}: a finished run must have {wanted} epochs, got {done}. "
            "Ask snakemake for this run, it goes on from its last epoch."
        )


def _accuracies(place: Path) -> dict[str, float]:
    evaluation = read_table(EVALUATION, place / "evaluation.csv")
    clean = evaluation[evaluation["shift"] == "none"]
    if len(clean) != 1:
        raise ValueError(
            f"{place / 'evaluation.csv'}: there must be one row with shift none, "
            f"got {len(clean)}. Evaluate the run again."
        )
    means = evaluation.groupby("shift")["accuracy_top1"].mean()
    return {
        "accuracy_top1": float(clean["accuracy_top1"].iloc[0]),
        "accuracy_topk": float(clean["accuracy_topk"].iloc[0]),
        "k": int(clean["k"].iloc[0]),
        **{f"accuracy_{shift}": float(means.get(shift, float("nan"))) for shift in SHIFTS},
        "corruption_error": mean_corruption_error(evaluation),
    }


def _mean_gsnr(place: Path) -> dict[str, float]:
    layers = read_table(GSNR, place / "gsnr.csv")
    by_block = layers.groupby(["estimator", "block"])["gsnr"].mean()  # Eq. 7
    means = by_block.groupby("estimator").mean()
    return {f"gsnr_{name}": float(means.get(name, float("nan"))) for name in ESTIMATORS}


def _facts(file: Path) -> dict[str, Any]:
    facts = read_note(file)["provenance"].get("facts", {})
    missing = [name for name in FACTS if name not in facts]
    if missing:
        raise ValueError(
            f"{file}.json: the facts must name {', '.join(missing)}, got "
            f"{', '.join(facts) or 'none'}. Compute the similarity again with this version."
        )
    return {name: facts[name] for name in FACTS}
