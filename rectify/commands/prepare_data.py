"""Check, count and freeze a data set: which items it has, in which split, under which label.

Reads
    --settings  JSON: reader, folder (null where nothing is read), classes, image_size, seed,
                and the reader's own sizes
Writes
    --folder    manifest.csv (with its .csv.json), and arrays.safetensors of a set in memory
"""

import argparse
import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from rectify.data.images import ImageSet

EMBEDDED = ("glyphs", "digits", "biased", "scripts", "motions", "pairs")
FILES = ("cifar100", "caltech256", "bar", "imagenet", "ssv2", "captions")
DESCRIPTIVE = ("name", "title", "channels", "top_k", "embedded", "training", "views", "visions")
"""Keys of a set in the config that do not concern its preparation."""
COMMON = ("frames", "shifts")
"""Keys that say what every set of a kind has: nothing to choose for most readers."""

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--data", required=True, help="name of the data set")
    parser.add_argument("--settings", type=json.loads, required=True, metavar="JSON")
    parser.add_argument("--threads", type=int, default=1, help="that read clips")
    parser.add_argument("--folder", type=Path, required=True, help="of the prepared set")


def run(args: argparse.Namespace) -> None:
    """Read or draw the set, check it, and write it."""
    from rectify.data.images import ARRAYS, save_files, save_sets
    from rectify.data.readers import check_images
    from rectify.provenance import provenance

    settings = {key: value for key, value in args.settings.items() if key not in DESCRIPTIVE}
    full = settings.pop("full", False)
    made = _made(args.data, settings)
    left_out: list[str] = []
    if settings["reader"] == "ssv2":
        made, left_out = _decodable(args.data, settings, full, made, args.threads)
    listed = _listed(made)
    _check_count(args.data, settings["classes"], listed)
    for split, count in _counts(listed).items():
        log.info("%s: %s: %d items", args.data, split, count)
    source = provenance(
        settings["seed"],
        *modules(settings["reader"]),
        data=args.data,
        settings=settings,
        left_out=left_out,
    )
    if isinstance(made, dict):
        save_sets(args.folder, made, source)
        return
    if settings["reader"] != "ssv2":
        check_images(Path(settings["folder"]), made["source"])
    save_files(args.folder, Path(settings["folder"]), made, source)
    (args.folder / ARRAYS).unlink(missing_ok=True)


def _made(data: str, settings: dict[str, Any]) -> "dict[str, ImageSet] | DataFrame":
    sizes = {**settings}
    reader, folder = sizes.pop("reader"), sizes.pop("folder", None)
    del sizes["classes"]
    if reader not in EMBEDDED + FILES:
        raise ValueError(
            f"prepare-data: reader of {data} must be one of {', '.join(EMBEDDED + FILES)}, "
            f"got {reader!r}. This version cannot read it: ask for what does not need {data}."
        )
    if reader in FILES and folder is None:
        raise ValueError(
            f"prepare-data: {data} must have a folder, got none. Set data.{data}.folder "
            "in the config to where its files are."
        )
    return _embedded(reader, sizes) if reader in EMBEDDED else _read(reader, Path(folder), sizes)


def _embedded(reader: str, sizes: dict[str, Any]) -> "dict[str, ImageSet]":
    from rectify.data import glyphs, pairs, scripts, video

    own = {"motions": video.motions, "pairs": pairs.pairs, "scripts": scripts.scripts}
    maker = {**glyphs.BUILDERS, **own}[reader]
    known = tuple(inspect.signature(maker).parameters)
    _check_sizes(reader, sizes, (*known, *COMMON))
    return maker(**{key: value for key, value in sizes.items() if key in known})


def _read(reader: str, folder: Path, sizes: dict[str, Any]) -> "dict[str, ImageSet] | DataFrame":
    from rectify.data import pairs, readers, ssv2

    own = ("undecodable",) if reader == "ssv2" else ()
    _check_sizes(reader, sizes, ("image_size", "seed", *own, *COMMON))
    calls: dict[str, Callable[[], Any]] = {
        "cifar100": lambda: readers.cifar100(folder),
        "caltech256": lambda: readers.caltech256(folder, sizes["seed"]),
        "bar": lambda: readers.bar(folder),
        "imagenet": lambda: readers.image_folders(folder, sizes.get("shifts")),
        "ssv2": lambda: ssv2.something_something(folder),
        "captions": lambda: pairs.caption_files(folder),
    }
    return calls[reader]()


def _decodable(
    data: str, settings: dict[str, Any], full: bool, listing: "DataFrame", threads: int
) -> "tuple[DataFrame, list[str]]":
    """Return the clips that can be decoded, and the names of the others: none takes their place."""
    from rectify.data.clips import undecodable
    from rectify.data.ssv2 import check_complete

    if full:
        check_complete(listing)
    bad = undecodable(Path(settings["folder"]), listing["source"], threads)
    for name in bad:
        log.info("%s: cannot be decoded: %s", data, name)
    accepted = settings.get("undecodable", 0)
    if len(bad) != accepted:
        raise ValueError(
            f"{data}: {accepted} clips that cannot be decoded are accepted, got {len(bad)}: "
            f"{', '.join(bad[:3]) or '-'}. Get them again, or set data.{data}.sizes.undecodable to "
            f"{len(bad)} to leave them out."
        )
    kept = listing[~listing["source"].isin(bad)].reset_index(drop=True)
    return kept.assign(item=range(len(kept))), bad


def _check_sizes(reader: str, sizes: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(sizes) - set(known))
    if unknown:
        raise ValueError(
            f"prepare-data: sizes of {reader} must be among {', '.join(dict.fromkeys(known))}, "
            f"got {', '.join(unknown)}. Correct the name."
        )


def modules(reader: str) -> list[str]:
    """Return the modules whose code decides the items of a set."""
    own = {"motions": "video", "pairs": "pairs", "captions": "pairs", "scripts": "scripts"}
    if reader == "ssv2":
        return ["rectify.data.ssv2", "rectify.data.clips"]
    drawn = "glyphs" if reader in EMBEDDED else "readers"
    return [f"rectify.data.{own.get(reader, drawn)}"]


def _listed(made: "dict[str, ImageSet] | DataFrame") -> list[tuple[str, int]]:
    """Return split and label of each item."""
    if not isinstance(made, dict):
        return list(zip(made["split"], made["label"], strict=True))
    return [(split, label) for split, images in made.items() for label in images.labels.tolist()]


def _check_count(data: str, classes: int, listed: list[tuple[str, int]]) -> None:
    found = len({label for _, label in listed if label >= 0})
    if found != classes:
        raise ValueError(
            f"{data}: must have {classes} classes, got {found}. Complete the files, or correct "
            f"data.{data}.classes in the config."
        )


def _counts(listed: list[tuple[str, int]]) -> dict[str, int]:
    """Return the number of items by split, the conditions of one shift together."""
    counts: dict[str, int] = {}
    for split, _ in listed:
        name = split.partition("/")[0]
        counts[name] = counts.get(name, 0) + 1
    return counts
