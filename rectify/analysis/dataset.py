"""A folder of results as a data set for the hub: a Parquet file for each kind of table, and a card.

    runs        what distinguishes each run: data, model, variant, control, layer, position
    history, gsnr, noise, scores   of each run and seed, with the columns ``run`` and ``seed`` in
                front; noise of those that measured every step
    similarity  of each pair of models, with the columns ``pairs``, ``language`` and ``features``
    cells       the numbers of the printed tables, with the column ``target`` in front

Every value is as its ``.csv`` has it. The card's head names each file as a configuration, so that
``datasets.load_dataset(folder, "gsnr")`` knows where it is.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd
from huggingface_hub import DatasetCardData
from pandas import DataFrame

from rectify.analysis.collect import settings_of
from rectify.analysis.packaged import packaged
from rectify.results.declared import CELLS, GSNR, HISTORY, NOISE, SCORES, SIMILARITY
from rectify.results.files import read_json
from rectify.results.tables import Column, Table, read_note, read_table

SPLIT = "train"  # as the hub calls what has no split
TARGET = Column("target", "str", "-", "the table, as in the configuration")
RUN = Column("run", "str", "-", "name of the run")
SEED = Column("seed", "int64", "-", "training seed")
COMPARED = (
    Column("pairs", "str", "-", "the image-caption pairs that both models saw"),
    Column("language", "str", "-", "name of the language model"),
    Column("features", "str", "-", "a run and its seed, or a published vision model"),
)
RUNS = Table(
    "runs",
    "What distinguishes each run.",
    ("run",),
    (
        RUN,
        Column("task", "str", "-", "what is learnt"),
        Column("data", "str", "-", "name of the data set"),
        Column("data_title", "str", "-", "how it is called"),
        Column("fraction", "float64", "share, 0..1", "of the training items"),
        Column("vision", "str", "-", "name of the vision model"),
        Column("vision_title", "str", "-", "how it is called"),
        Column("variant", "str", "-", "vanilla, insert, residual or auxiliary"),
        Column("control", "str", "-", "what is in the layer's place; none of vanilla", True),
        Column("language", "str", "-", "name of the language model", True),
        Column("language_title", "str", "-", "how it is called", True),
        Column("layer", "str", "-", "of the language model, from 0; 24-25: two in a row", True),
        Column("position", "str", "-", "how many blocks come before it, by name or number", True),
        Column("insert_at", "float64", "blocks", "the same as a number", True),
        Column("depth", "int64", "blocks", "of the vision model"),
        Column("lambda", "float64", "0..1", "weight of the second loss at the start"),
        Column("epochs", "int64", "1", "of the training"),
    ),
)


class Part(NamedTuple):
    """One table of the data set."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    rows: DataFrame

    @property
    def file(self) -> str:
        """Where it is in the folder."""
        return f"data/{self.name}.parquet"


def parts(results: Path) -> list[Part]:
    """Return the tables of a folder of results; a kind of which there is no file is left out.

    Raises:
        ValueError: If there is no finished training, or a file is missing or of another version.
    """
    if not _files(results, "runs/*/seed-*/history.csv"):
        raise ValueError(
            f"{results}: must have a finished training, got no runs/<run>/seed-<s>/history.csv. "
            "Name the folder that `results` of the configuration names, or train first."
        )
    made = [Part("runs", RUNS.meaning, RUNS.columns, _settings(results))]
    for table in (HISTORY, GSNR, NOISE, SCORES):
        files = _files(results, f"runs/*/seed-*/{table.name}.csv")
        seeds = [(path.parts[-3], int(path.parts[-2].removeprefix("seed-"))) for path in files]
        made.append(_together(table, (RUN, SEED), files, seeds))
    files = _files(results, "similarity/*/*.csv")
    made.append(_together(SIMILARITY, COMPARED, files, map(_compared, files)))
    files = _files(results, "tables/*.csv")
    made.append(_together(CELLS, (TARGET,), files, ((path.stem,) for path in files)))
    return [part for part in made if len(part.rows)]


def dataset_card(results: Path, given: Sequence[Part], *, title: str, licence: str) -> str:
    """Return the card: a head that the hub reads, and what each table and column means.

    Args:
        results: The folder.
        given: What ``parts`` returned.
        title: What was run.
        licence: Of the data set, as the hub calls it.
    """
    head = DatasetCardData(
        license=licence,
        pretty_name=title,
        tags=["rectify", "gradient-signal-to-noise-ratio", "representation-similarity"],
        configs=[
            {"config_name": part.name, "data_files": [{"split": SPLIT, "path": part.file}]}
            for part in given
        ],
    )
    notes = [read_note(path) for path in _files(results, "runs/*/seed-*/history.csv")]
    sources = [note["provenance"] for note in notes]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.from_string(packaged("dataset.md.j2")).render(
        head=head.to_yaml(),
        title=title,
        parts=given,
        licence=licence,
        commits=sorted({f"{source['commit']}" for source in sources}),
        devices=sorted({f"{source['device']}" for source in sources}),
    )


def _files(results: Path, pattern: str) -> list[Path]:
    return sorted(results.glob(pattern))


def _settings(results: Path) -> DataFrame:
    """Return `RUNS`; what a run does not have, e.g. a layer, is empty."""
    rows = []
    for path in _files(results, "runs/*/config.json"):
        settings, epochs = settings_of(path.parent)
        config = read_json(path)
        texts = {name: config[name] for name in ("layer", "position")}
        texts = {name: None if value is None else f"{value}" for name, value in texts.items()}
        rows.append({**settings, **texts, "epochs": epochs})
    return DataFrame(rows, columns=RUNS.names)


def _compared(path: Path) -> tuple[str, str, str]:
    """Return which pairs, which language model and which features a similarity table is of."""
    language = read_note(path)["provenance"]["facts"]["language"]
    return path.parent.name, language, path.stem.removeprefix(f"{language}--")


def _together(
    table: Table,
    keys: tuple[Column, ...],
    files: Sequence[Path],
    values: Iterable[tuple[str | int, ...]],
) -> Part:
    """Return files of one kind below each other, with columns in front that tell them apart."""
    names = [key.name for key in keys]
    frames = [
        read_table(table, path).assign(**dict(zip(names, of_file, strict=True)))
        for path, of_file in zip(files, values, strict=True)
    ]
    columns = (*keys, *table.columns)
    whole = pd.concat(frames, ignore_index=True) if frames else DataFrame()
    rows = whole.reindex(columns=[column.name for column in columns])
    return Part(table.name, table.meaning, columns, rows)
