"""Check, count and freeze a data set: which items it has, in which split, under which label.

    rectify prepare-data --check --data bar --config config.yaml

reports counts, classes and unreadable files of the set that a configuration describes, and
writes nothing.

Reads
    --settings  JSON: reader, folder (null where nothing is read), classes, image_size, seed,
                and the reader's own sizes; or
    --config    configurations, the later ones laid over the earlier
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
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--settings", type=json.loads, metavar="JSON")
    source.add_argument("--config", type=Path, nargs="+", metavar="YAML")
    parser.add_argument("--threads", type=int, default=1, help="that read files")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--folder", type=Path, help="of the prepared set")
    target.add_argument("--check", action="store_true", help="report, and write nothing")


def run(args: argparse.Namespace) -> None:
    """Read or draw the set, check it, and write it."""
    from rectify.data.images import ARRAYS, listing_of, save_files, save_sets
    from rectify.provenance import provenance

    given = args.settings or _settings(args.config, args.data)
    settings = {key: value for key, value in given.items() if key not in DESCRIPTIVE}
    full = settings.pop("full", False)
    made = _made(args.data, settings)
    in_memory = isinstance(made, dict)
    listing = listing_of(made) if in_memory else made
    _report(args.data, listing)
    left_out = [] if in_memory else _unreadable(args.data, settings, listing, args.threads)
    if full:
        from rectify.data.published import check_complete

        check_complete(args.data, settings["reader"], listing)
    if left_out:
        listing = _without(listing, left_out)
        _report(args.data, listing)
    _check_classes(args.data, settings["classes"], listing)
    if args.check:
        return
    facts = {"data": args.data, "settings": settings, "left_out": left_out, **_facts(listing)}
    source = provenance(settings["seed"], *modules(settings["reader"]), **facts)
    if in_memory:
        save_sets(args.folder, made, source)
    else:
        save_files(args.folder, Path(settings["folder"]), listing, source)
        (args.folder / ARRAYS).unlink(missing_ok=True)


def _settings(files: list[Path], data: str) -> dict[str, Any]:
    import yaml

    from rectify.config import data_settings, merge

    config: dict[str, Any] = {}
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: must be a configuration, got no file. Correct --config.")
        config = merge(config, yaml.safe_load(file.read_text(encoding="utf-8")))
    known = config.get("data", {})
    if data not in known:
        raise ValueError(
            f"prepare-data: the set must be one of {', '.join(known) or '-'}, got {data!r}. "
            "Correct --data."
        )
    return data_settings(config, data)


def _facts(listing: "DataFrame") -> dict[str, Any]:
    """Return the number of items by split, and the names of the classes."""
    kinds = listing["split"].str.partition("/")[0]  # the conditions of one shift together
    items = {kind: int((kinds == kind).sum()) for kind in dict.fromkeys(kinds)}
    labelled = listing[listing["label"] >= 0].drop_duplicates("label").sort_values("label")
    return {"items": items, "classes": labelled["name"].tolist()}


def _report(data: str, listing: "DataFrame") -> None:
    from rectify.data.images import few

    items, classes = _facts(listing).values()
    for split, count in items.items():
        log.info("%s: %s: %d items", data, split, count)
    log.info("%s: %d classes: %s", data, len(classes), few(classes) or "-")


def _unreadable(
    data: str, settings: dict[str, Any], listing: "DataFrame", threads: int
) -> list[str]:
    """Return the files that cannot be read, if just so many are accepted: of images, none."""
    from rectify.data.clips import undecodable
    from rectify.data.images import few, unreadable

    clips, folder = settings["reader"] == "ssv2", Path(settings["folder"])
    find = undecodable if clips else unreadable
    bad = find(folder, listing["source"].tolist(), threads)
    log.info("%s: %d unreadable files", data, len(bad))
    for name in bad:
        log.info("%s: unreadable: %s", data, name)
    accepted = settings.get("undecodable", 0)
    if clips and len(bad) != accepted:
        raise ValueError(
            f"{data}: {accepted} clips that cannot be decoded are accepted, got {len(bad)}: "
            f"{few(bad) or '-'}. Get them again, or set data.{data}.sizes.undecodable to "
            f"{len(bad)} to leave them out."
        )
    if bad and not clips:
        raise ValueError(
            f"{folder}: each file must be a whole image, got {len(bad)} missing or unreadable: "
            f"{few(bad)}. Replace them."
        )
    return bad


def _without(listing: "DataFrame", left_out: list[str]) -> "DataFrame":
    """Return a manifest without some files; none takes their place."""
    kept = listing[~listing["source"].isin(left_out)].reset_index(drop=True)
    return kept.assign(item=range(len(kept)))


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


def _check_classes(data: str, classes: int, listing: "DataFrame") -> None:
    found = listing.loc[listing["label"] >= 0, "label"].nunique()
    if found != classes:
        raise ValueError(
            f"{data}: must have {classes} classes, got {found}. Complete the files, or correct "
            f"data.{data}.classes in the config."
        )
