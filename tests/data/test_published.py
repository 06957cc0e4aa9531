"""The counts of the published sets: asserted where a set is said to be whole."""

import itertools
from importlib import resources

import pytest
from pandas import DataFrame
from timm.data import ImageNetInfo

from rectify.data.published import BAR, CORRUPTIONS, ITEMS, check_complete, synsets


def listing(*parts: tuple[str, str, int]) -> DataFrame:
    """Return a manifest with so many items of each split and class."""
    rows = [(split, name) for split, name, items in parts for _ in range(items)]
    return DataFrame(rows, columns=["split", "name"]).assign(label=0, source="x")


def bar(**changed: int) -> DataFrame:
    parts = [("train", name, counts[0]) for name, counts in BAR.items()]
    return listing(
        *parts, *(("test", name, changed.get(name, counts[1])) for name, counts in BAR.items())
    )


def test_the_classes_of_bar_add_up_to_its_two_splits():
    assert ITEMS["bar"] == {
        ("train",): sum(train for train, _ in BAR.values()),
        ("test",): sum(test for _, test in BAR.values()),
    }


def test_a_complete_set_passes():
    check_complete("bar", "bar", bar())
    check_complete("toy", "cifar100", listing(("train", "a", 50_000), ("test", "a", 10_000)))
    check_complete("s", "ssv2", listing(("train", "a", 168_913), ("test", "a", 24_777)))
    check_complete("wit", "captions", listing(("pairs", "a", 1_024)))
    check_complete("c", "caltech256", listing(("train", "a", 20_846), ("test", "a", 8_934)))


@pytest.mark.parametrize(
    ("reader", "rows", "message"),
    [
        ("cifar100", listing(("train", "a", 49_999)), "must have 50,000 items in train, got 49999"),
        (
            "caltech256",
            listing(("train", "a", 9)),
            "must have 29,780 items in train and test, got 9",
        ),
        (
            "ssv2",
            listing(("train", "a", 168_913), ("test", "a", 24_776)),
            "must have 24,777 items in test, got 24776",
        ),
        ("captions", listing(("pairs", "a", 1)), "must have 1,024 items in pairs, got 1"),
        ("bar", bar(fishing=41, diving=160), r"159 items of diving, got \(520, 160\)"),
        ("digits", bar(), "only a published set can be full, got reader digits"),
    ],
)
def test_a_set_that_is_not_whole_is_one_line(reader, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_complete("toy", reader, rows)
    assert str(caught.value).startswith("toy: ")
    assert "data.toy.full" in str(caught.value)
    assert "\n" not in str(caught.value)


def imagenet(monkeypatch, **changed) -> DataFrame:
    """Return ImageNet with every class and condition, one item each, and count it as complete."""
    kinds = {"train": synsets("train"), "test": synsets("train"), "test-sk": synsets("train")}
    kinds |= {"test-a": synsets("test-a"), "test-r": synsets("test-r")} | changed
    conditions = changed.get("conditions", itertools.product(CORRUPTIONS, range(1, 6)))
    kinds.pop("conditions", None)
    parts = [(split, name, 1) for split, names in kinds.items() for name in names]
    parts += [(f"test-c/{one}/{severity}", "n01440764", 1) for one, severity in conditions]
    rows = listing(*parts)
    counts = rows["split"].str.partition("/")[0].value_counts()
    monkeypatch.setitem(ITEMS, "imagenet", {(split,): int(n) for split, n in counts.items()})
    return rows


def test_the_classes_of_imagenet_and_its_variants_are_timms(monkeypatch):
    assert synsets("train") == sorted(ImageNetInfo("imagenet-1k").label_names())
    assert [len(synsets(split)) for split in ("test-a", "test-r", "test-sk")] == [200, 200, 1000]
    assert len(set(synsets("test-a")) & set(synsets("test-r"))) == 86
    check_complete("imagenet", "imagenet", imagenet(monkeypatch))


@pytest.mark.parametrize("variant", ["a", "r"])
def test_the_classes_of_a_variant_are_the_mask_that_timm_ships(variant):
    """Evaluation lets the logits of the classes in a set compete: those of its folders."""
    known = {name: label for label, name in enumerate(synsets("train"))}
    indices = resources.files("timm.data") / "_info" / f"imagenet_{variant}_indices.txt"
    shipped = [int(line) for line in indices.read_text().split()]
    assert [known[name] for name in synsets(f"test-{variant}")] == sorted(shipped)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test-a": synsets("test-r")}, "the published classes in test-a, got n01443537"),
        ({"test-r": synsets("test-r")[1:]}, "the published classes in test-r, got n01443537"),
        ({"conditions": [("fog", 1)]}, "15 corruptions in 5 severities, got test-c/brightness/1"),
    ],
)
def test_other_classes_or_conditions_are_named(monkeypatch, changed, message):
    rows = imagenet(monkeypatch, **changed)
    with pytest.raises(ValueError, match=message):
        check_complete("imagenet", "imagenet", rows)


def test_a_shift_that_the_config_does_not_name_is_not_missed(monkeypatch):
    rows = imagenet(monkeypatch)
    check_complete("imagenet", "imagenet", rows[~rows["split"].str.startswith("test-")])
    with pytest.raises(ValueError, match="1,000 items in test-sk, got 999"):
        check_complete("imagenet", "imagenet", rows.drop(rows.index[rows["split"] == "test-sk"][0]))


def test_the_counts_are_the_published_ones():
    assert ITEMS["imagenet"] == {
        ("train",): 1_281_167,
        ("test",): 50_000,
        ("test-c",): 3_750_000,
        ("test-a",): 7_500,
        ("test-sk",): 50_889,
        ("test-r",): 30_000,
    }
    assert ITEMS["cifar100"] == {("train",): 50_000, ("test",): 10_000}
    assert ITEMS["caltech256"] == {("train", "test"): 29_780}
    assert ITEMS["captions"] == {("pairs",): 1_024}
    assert BAR["pole vaulting"] == (279, 131)
