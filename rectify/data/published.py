"""What the published sets hold when they are complete: items, and classes where they matter.

Counts of BAR, CIFAR-100, ImageNet, -A, -R and -C are the ones that their authors state; those of
Caltech-256 without clutter, of ImageNet-Sketch and of the test clips of Something-Something v2
were written down from memory (docs/data.md). The classes of ImageNet and of its
200-class variants are the lists that timm ships.
"""

from importlib import resources

from pandas import DataFrame

from rectify.data.images import few

ITEMS: dict[str, dict[tuple[str, ...], int]] = {
    "cifar100": {("train",): 50_000, ("test",): 10_000},
    "caltech256": {("train", "test"): 29_780},
    "bar": {("train",): 1_941, ("test",): 654},
    "imagenet": {
        ("train",): 1_281_167,
        ("test",): 50_000,
        ("test-c",): 15 * 5 * 50_000,
        ("test-a",): 7_500,
        ("test-sk",): 50_889,
        ("test-r",): 30_000,
    },
    "ssv2": {("train",): 168_913, ("test",): 24_777},
    "captions": {("pairs",): 1_024},
}
"""By reader: items of one or more splits together; all conditions of a shift count as one."""

BAR = {
    "climbing": (326, 105),
    "diving": (520, 159),
    "fishing": (163, 42),
    "pole vaulting": (279, 131),
    "racing": (336, 132),
    "throwing": (317, 85),
}
"""Items for training and for test."""

SYNSETS = {
    "train": "imagenet_synsets.txt",
    "test-a": "imagenet_a_synsets.txt",
    "test-sk": "imagenet_synsets.txt",
    "test-r": "imagenet_r_synsets.txt",
}

CORRUPTIONS = (
    *("brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost"),
    *("gaussian_noise", "glass_blur", "impulse_noise", "jpeg_compression", "motion_blur"),
    *("pixelate", "shot_noise", "snow", "zoom_blur"),
)


def check_complete(data: str, reader: str, listing: DataFrame) -> None:
    """Check that a set holds what was published, no less and no more.

    Args:
        data: Name of the set in the config.
        reader: How it was read.
        listing: Its manifest.

    Raises:
        ValueError: Names the first count or list that differs.
    """
    if reader not in ITEMS:
        raise ValueError(
            f"{data}: only a published set can be full, got reader {reader}. "
            f"Take data.{data}.full out of the config."
        )
    kinds = listing["split"].str.partition("/")[0]
    for splits, expected in ITEMS[reader].items():
        found = int(kinds.isin(splits).sum())
        if found or not splits[0].startswith("test-"):  # a shift may be left out of the config
            _check(data, f"{expected:,} items in {' and '.join(splits)}", found, expected)
    if reader == "bar":
        _check_bar(data, listing)
    if reader == "imagenet":
        _check_imagenet(data, listing.assign(split=kinds), set(listing["split"]))


def synsets(split: str) -> list[str]:
    """Return the class folders of a split of ImageNet or of a shifted set, sorted."""
    text = (resources.files("timm.data") / "_info" / SYNSETS[split]).read_text(encoding="utf-8")
    return sorted(text.split())


def _check_bar(data: str, listing: DataFrame) -> None:
    counts = listing.groupby(["name", "split"]).size()
    for name, expected in BAR.items():
        found = tuple(int(counts.get((name, split), 0)) for split in ("train", "test"))
        _check(data, f"{expected[0]} and {expected[1]} items of {name}", found, expected)


def _check_imagenet(data: str, listing: DataFrame, splits: set[str]) -> None:
    for split in sorted(SYNSETS.keys() & set(listing["split"])):
        found = set(listing.loc[listing["split"] == split, "name"])
        wrong = sorted(found ^ set(synsets(split)))
        _check(data, f"the published classes in {split}", few(wrong) or "them", "them")
    conditions = {split for split in splits if split.startswith("test-c/")}
    if conditions:
        wanted = {f"test-c/{one}/{severity}" for one in CORRUPTIONS for severity in range(1, 6)}
        wrong = sorted(conditions ^ wanted)
        _check(data, "15 corruptions in 5 severities", few(wrong) or "them", "them")


def _check(data: str, rule: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(
            f"{data}: the full set must have {rule}, got {found}. "
            f"Complete the files, or set data.{data}.full to false in the config."
        )
