"""What is there already and does not fit the configuration: told before any job is started.

Nothing has to be there for a plan. Only small files are read, and nothing that takes torch.
"""

import ast
import functools
import itertools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from rectify.experiment import grid
from rectify.experiment.items import items_of
from rectify.experiment.plan import Plan
from rectify.experiment.repositories import is_filled_by_hand
from rectify.experiment.required import published_languages
from rectify.results.files import read_json

LAYERS = ("num_hidden_layers", "n_layer")  # keys of a checkpoint's config.json
FORMATS = ("config.json", "params.json")  # Hugging Face's, Meta's


def mistakes(plan: Plan) -> list[str]:
    """Return what jobs would refuse, in one line each; empty if nothing is known to be wrong."""
    every = (_results(plan), _checkpoints(plan), _trainings(plan), _similarities(plan))
    return list(dict.fromkeys(itertools.chain(*every)))


def check(plan: Plan) -> None:
    """Raise ``ValueError`` with the first of the mistakes, if there is one."""
    for line in mistakes(plan):
        raise ValueError(line)


@functools.cache
def families() -> tuple[str, ...]:
    """Return the families of language models: the keys of their table, read without importing it.

    To import it takes torch and transformers, which is seconds at each call of snakemake.
    """
    source = (resources.files("rectify") / "language" / "families.py").read_text(encoding="utf-8")
    tables = [
        statement.value
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "FAMILIES"
    ]
    return tuple(ast.literal_eval(key) for key in tables[0].keys)


def _results(plan: Plan) -> Iterator[str]:
    """Give what is in the place of the folder of the results, or of one that it is in."""
    folder = Path(plan.results)
    for path in (folder, *folder.parents):
        if path.is_dir():
            return
        if path.is_symlink() or path.exists():
            what = f"a link to {path.readlink()}" if path.is_symlink() else "a file"
            yield (
                f"config: results: {path} must be a folder, or not be there yet, got {what}. "
                "Make that folder, mount its file system, or change results."
            )
            return


def _checkpoints(plan: Plan) -> Iterator[str]:
    """Give the published models whose family or number of layers is another than configured."""
    for name in published_languages(plan):
        language = plan.config.languages[name]
        where, folder = f"config: languages.{name}", Path(f"{language.checkpoint}")
        file = folder / "config.json"
        if not file.is_file():
            if is_filled_by_hand(folder) and not (folder / "params.json").is_file():
                yield (
                    f"{where}.checkpoint: must be a .gguf file, or a folder with "
                    f"{' or '.join(FORMATS)}, got neither in {folder}. Correct the path."
                )
            continue
        try:
            settings = read_json(file)
        except ValueError as error:
            yield f"{where}.checkpoint: {error}"
            continue
        values = settings if isinstance(settings, dict) else {}
        family = values.get("model_type")
        if family not in families():
            yield (
                f"{where}.checkpoint: model_type of {file} must be one of "
                f"{', '.join(families())}, got {family!r}. Choose another model."
            )
        layers = next((values[key] for key in LAYERS if isinstance(values.get(key), int)), None)
        if layers is not None and layers != language.layers:
            yield (
                f"{where}.layers: must be those of {file}, {layers}, got {language.layers}. "
                f"Correct languages.{name}.layers."
            )


def _trainings(plan: Plan) -> Iterator[str]:
    """Give what does not fit the number of training items, where that is known."""
    config = plan.config
    for run in grid.all_runs(config):
        items = items_of(plan, run.data, "train")
        if items is None:
            continue
        size, batches = grid.recipe_of(config, run).batch_size, config.gsnr.batches
        if items < size:
            yield (
                f"config: training.batch_size: must not exceed the {items} training items of "
                f"{run.data}, got {size} for {run.vision}. Lower it."
            )
        elif items // size < batches:
            yield (
                f"config: gsnr.batches: must be at most the {items // size} steps of an epoch of "
                f"{run.data}, got {batches}. Lower it, or training.batch_size."
            )


def _similarities(plan: Plan) -> Iterator[str]:
    """Give the sets of pairs that have no more items than an item has neighbours."""
    for target in plan.targets.values():
        pairs = grid.pairs_of(plan.config, target) if plan.similar_pairs(target) else None
        items = None if pairs is None else items_of(plan, pairs, "pairs")
        k = plan.similarity("k")
        if items is not None and items <= k:
            yield (
                f"config: similarity.k: must be below the {items} items of {pairs}, got {k}. "
                "Lower it."
            )
