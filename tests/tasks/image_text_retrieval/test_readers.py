"""Karpathy's files as they are published, from drawn captions; and one line for each damage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pandas import DataFrame

from rectify.demo.captions import captions
from rectify.tasks import readers
from rectify.tasks.image_text_retrieval.prepare import prepare
from rectify.tasks.image_text_retrieval.settings import Settings
from rectify.tasks.readers import check_complete
from tests.helpers import caption_trees
from tests.helpers.damages import refused

READERS = sorted(caption_trees.FILES)
DRAWN = captions(image_size=8, train_items=96, test_items=96)


def module_of(reader: str) -> object:
    return readers.find("rectify.tasks.image_text_retrieval.readers", reader)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {one: caption_trees.write(tmp_path_factory.mktemp(one), one, DRAWN) for one in READERS}


@pytest.mark.parametrize("reader", READERS)
def test_the_files_give_the_captions_that_were_written(
    sources: dict[str, Path], reader: str
) -> None:
    source = sources[reader]
    found = module_of(reader).read(source)
    assert list(found) == ["train", "test"]
    entries = json.loads((source / caption_trees.FILES[reader]).read_text())["images"]
    for split, kinds in (("train", ("train", caption_trees.REST[reader])), ("test", ("test",))):
        assert list(found[split].captions) == list(DRAWN[split].captions)
        expected = [caption_trees.place_of(reader, one) for one in entries if one["split"] in kinds]
        assert list(found[split].pictures) == expected
        assert all((source / name).is_file() for name in expected)
        assert found[split].images is None
        assert len(found[split].texts) == 5 * 96


Change = Callable[[list], object]


def set_to(key: str, value: object, place: int = 3) -> Change:
    return lambda entries: entries[place].__setitem__(key, value)


def said(value: object) -> Change:
    return lambda entries: entries[0]["sentences"][2].__setitem__("raw", value)


DAMAGES = {
    "no list": (lambda e: e.clear(), "must have a list of images, got none"),
    "a number": (lambda e: e.append(7), "images must be a mapping, got 7"),
    "split": (set_to("split", "tset"), "split must be one of train, .* got 'tset' of image 3"),
    "no split": (lambda e: e[3].pop("split"), "split must be a text .* got None of image 3"),
    "file": (set_to("filename", 12), "filename must be a text .* got 12 of image 3"),
    "outside": (set_to("filename", "../../x.jpg"), "within the folder of the set, got .*x.jpg"),
    "twice": (lambda e: e.append(e[0]), r"an image must be there once, got .*\.jpg twice"),
    "silent": (set_to("sentences", []), r"sentences must be a list .* got \[\] of image 3"),
    "no caption": (said(None), r"raw must be a caption, got None of .*\.jpg"),
    "blank": (said(" "), r"raw must be a caption, got ' ' of .*\.jpg"),
    "no sentence": (lambda e: e[0]["sentences"].append("a"), "raw must be a caption, got None"),
    "no test": (lambda e: [one.update(split="train") for one in e], "images of test, got none"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_one_line(sources: dict[str, Path], reader: str, damage: str) -> None:
    change, message = DAMAGES[damage]
    path = sources[reader] / caption_trees.FILES[reader]
    before = path.read_text()
    content = json.loads(before)
    change(content["images"])
    assert json.dumps(content) != before
    with refused(path, message):
        path.write_text(json.dumps(content))
        module_of(reader).read(sources[reader])


def test_coco_says_where_each_image_is(sources: dict[str, Path]) -> None:
    path = sources["coco_captions"] / "dataset_coco.json"
    content = json.loads(path.read_text())
    del content["images"][1]["filepath"]
    with refused(path, r"filepath must be a text .* got None of image 1"):
        path.write_text(json.dumps(content))
        module_of("coco_captions").read(sources["coco_captions"])


def test_a_file_that_is_cut_off_another_form_and_none_are_one_line(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    path = sources["flickr30k"] / "dataset_flickr30k.json"
    for text, message in ((path.read_text()[:99], "must be JSON"), ("[]", "a list of images")):
        (tmp_path / path.name).write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            module_of("flickr30k").read(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / path.name).unlink()
    with pytest.raises(ValueError, match=path.name) as caught:
        module_of("flickr30k").read(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_one_line(sources: dict[str, Path]) -> None:
    source = sources["flickr30k"]
    entry = {"reader": "flickr30k", "folder": f"{source}", "image_size": 8, "words": 64}
    entries = json.loads((source / "dataset_flickr30k.json").read_text())["images"]
    path = source / caption_trees.place_of("flickr30k", entries[2])
    before = path.read_bytes()
    path.write_bytes(before[:200])
    try:
        with pytest.raises(ValueError, match="got 1 missing or unreadable: flickr30k-im") as caught:
            prepare("toy", Settings.model_validate(entry), None, 1)
    finally:
        path.write_bytes(before)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reader", "train", "test"), [("flickr30k", 150_070, 5_000), ("coco_captions", 566_747, 25_010)]
)
def test_a_full_set_has_the_published_counts(reader: str, train: int, test: int) -> None:
    listing = DataFrame({"split": ["train"] * train + ["test"] * test})
    check_complete("toy", module_of(reader), listing)
    with pytest.raises(ValueError, match=f"{test:,} items in test, got {test - 1}"):
        check_complete("toy", module_of(reader), listing[:-1])
