"""The task image_text_retrieval: candidates of a training item, whole tests, what is refused."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from tokenizers import Tokenizer
from torch import Tensor

from rectify.data.captioned import Captioned, CaptionSet, gathered, load_captions
from rectify.data.texts import PADDING
from rectify.demo.captions import captions
from rectify.results.provenance import provenance
from rectify.runtime import generator
from rectify.tasks.contract import Machine
from rectify.tasks.image_text_retrieval.prepare import prepare
from rectify.tasks.image_text_retrieval.settings import Settings
from rectify.tasks.image_text_retrieval.task import AT_ONCE, TASK, RankedSource, TrainingSource
from rectify.training.evaluation import item_scores
from rectify.training.recipes import recipe
from tests.helpers import caption_trees, question_trees

CPU = Machine(torch.device("cpu"))
SIZES = {"train_items": 96, "test_items": 96}
DRAWN = captions(image_size=28, **SIZES)
IN_MEMORY = recipe("meter", batch_size=8, crop="none", auto_augment=None)
VISION = SimpleNamespace(
    name="small", timm="none", overrides={**question_trees.SIZES, "patch_size": 14, "dropout": 0.0},
    family=None, start=None,
)  # fmt: skip


def entry(**changes: object) -> Settings:
    keys = {"reader": "captions", "image_size": 28, "words": 64, "sizes": SIZES, "false_texts": 5}
    return Settings.model_validate(keys | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set."""
    return written(tmp_path_factory.mktemp("drawn"), entry())


@pytest.fixture(scope="module")
def from_files(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The same in Karpathy's file, tokenized by what the drawn set's preparation wrote."""
    source = caption_trees.write(tmp_path_factory.mktemp("files"), "flickr30k", DRAWN)
    changes = {"reader": "flickr30k", "folder": f"{source}", "tokenizer": f"{folder}", "sizes": {}}
    return written(tmp_path_factory.mktemp("prepared"), entry(**changes))


def written(place: Path, chosen: Settings) -> Path:
    prepare("toy", chosen, None, 1).write(place, provenance(0))
    return place


def sets_of(folder: Path, values: object = IN_MEMORY) -> dict[str, RankedSource]:
    return {one.name: one.source for one in TASK.test_sets(entry(), folder, values, CPU)}


def training(folder: Path) -> TrainingSource:
    return TASK.training_source(entry(), folder, IN_MEMORY, CPU)


def batch_of(source: TrainingSource, items: list[int], seed: int = 0) -> dict:
    draws = torch.rand(len(items), 5, dtype=torch.float64, generator=generator(seed))
    (batch,) = source.read(torch.tensor(items), len(items), draws)
    return batch


def spoken(folder: Path, words: Tensor) -> str:
    tokenizer = Tokenizer.from_file(f"{folder / 'tokenizer.json'}")
    begin, *said, end = words[words != PADDING].tolist()
    assert (begin, end) == (0, 2)
    return tokenizer.decode(said)


def as_words(text: str) -> str:
    return text.replace(":", " :").replace(",", " ,")


def test_a_training_item_is_an_image_with_its_caption_and_captions_of_others(folder: Path) -> None:
    items = [3, 17, 400]
    batch = batch_of(training(folder), items)
    assert batch["inputs"]["words"].shape[:2] == (3, 6)
    assert (batch["inputs"]["words"] != PADDING).any(0).any(0).all()  # as long as the longest
    assert batch["true"].tolist() == [[True] + [False] * 5] * 3
    texts = DRAWN["train"].texts
    for row, item in enumerate(items):
        own, *others = batch["inputs"]["words"][row]
        assert spoken(folder, own) == as_words(texts[item])
        mine = {as_words(text) for text in DRAWN["train"].captions[item // 5]}
        assert not mine & {spoken(folder, other) for other in others}
        image = (DRAWN["train"].images[item // 5] / 255 - 0.15) / 0.3
        torch.testing.assert_close(batch["inputs"]["images"][row], image.expand(3, -1, -1))


def test_draws_are_an_items_own(folder: Path) -> None:
    source, items = training(folder), [3, 3, 9]
    one, again, other = (batch_of(source, items, seed) for seed in (0, 0, 1))
    assert torch.equal(one["inputs"]["words"], again["inputs"]["words"])
    assert not torch.equal(one["inputs"]["words"], other["inputs"]["words"])
    assert not torch.equal(*one["inputs"]["words"][:2])
    assert one["origins"].tolist() == [[0], [0], [1]]
    assert "origins" not in batch_of(source, [0, 5])


def test_false_captions_are_all_those_of_other_images_equally_often() -> None:
    """Of images with one, three and two captions, against the list written out."""
    three = Captioned(["a", "b", "c"], [["x"], ["x", "y", "z"], ["x", "y"]])
    captioned = gathered(three, [[0, 2]] * 6)
    assert captioned.pictures.tolist() == [0, 1, 1, 1, 2, 2]
    for item, picture in enumerate(captioned.pictures.tolist()):
        others = [n for n, other in enumerate(captioned.pictures.tolist()) if other != picture]
        shares = (torch.arange(len(others), dtype=torch.float64) + 0.5) / len(others)
        edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
        items = torch.tensor([item])
        assert captioned.others(items, shares[None])[0].tolist() == others
        assert captioned.others(items, edges[None])[0].tolist() == [others[0], others[-1]]


def test_a_test_compares_everything_with_everything(folder: Path) -> None:
    found = sets_of(folder)
    assert {name: len(source) for name, source in found.items()} == {"test": 480, "texts": 96}
    batches = list(found["test"].read(torch.tensor([0, 7, 479]), 2))
    assert [len(batch["true"]) for batch in batches] == [2, 1]
    where = [n for batch in batches for n in batch["true"].nonzero()[:, 1].tolist()]
    assert where == [0, 1, 95]
    (part,) = batches[0]["inputs"]
    assert part["gallery"].shape == (96, 3, 28, 28)
    assert part["gallery"] is batches[1]["inputs"][0]["gallery"]
    assert spoken(folder, part["words"][1]) == as_words(DRAWN["test"].texts[7])
    (batch,) = found["texts"].read(torch.tensor([2, 90]), 2)
    assert batch["true"].nonzero()[:, 1].tolist() == [*range(10, 15), *range(450, 455)]
    parts = batch["inputs"]
    assert sum(len(part["texts"]) for part in parts) == 480
    image = (DRAWN["test"].images[90] / 255 - 0.15) / 0.3
    torch.testing.assert_close(parts[0]["images"][1], image.expand(3, -1, -1))


@pytest.mark.parametrize("batch_size", [8, 600])
def test_scores_are_those_of_a_loop_over_every_pair(folder: Path, batch_size: int) -> None:
    """Eight images with two captions each; the loop encodes every pair by itself."""
    whole = load_captions(folder, "test")
    kept = [5 * picture + n for picture in range(8) for n in (0, 3)]
    few = CaptionSet(whole.words[kept], whole.pictures[kept], whole.images[:8])
    torch.manual_seed(0)
    trunk = TASK.trunk(entry(), VISION, None).eval()
    images = ((few.images / 255 - 0.15) / 0.3).expand(-1, 3, -1, -1)
    pairs = torch.zeros(16, 8)
    with torch.no_grad():
        for text, words in enumerate(few.words.long()):
            said = words[words != PADDING][None, None]
            for image in range(8):
                given = {"images": images[image : image + 1], "words": said}
                pairs[text, image] = trunk(given)[0, 0]
    for finds_texts, table, own in (
        (False, pairs, [[text // 2] for text in range(16)]),
        (True, pairs.T, [[2 * image, 2 * image + 1] for image in range(8)]),
    ):
        source = RankedSource(few, CPU, None, finds_texts=finds_texts, at_training=6)
        scores = item_scores(trunk, TASK, source, batch_size=batch_size, device=CPU.device)
        for item, (row, true) in enumerate(zip(table.tolist(), own, strict=True)):
            best = max(row[n] for n in true)
            before = sum(one >= best for n, one in enumerate(row) if n not in true)
            for k in (1, 5, 10):
                assert scores[f"recall_at_{k}"][item] == (before < k)
            share = sum(map(math.exp, (row[n] for n in true))) / sum(map(math.exp, row))
            assert scores["loss"][item].item() == pytest.approx(-math.log(share), abs=1e-4)


def test_a_batch_of_a_test_has_no_more_pairs_than_in_training(folder: Path) -> None:
    source = sets_of(folder)["texts"]
    assert source.views == 480 / 6
    (batch,) = source.read(torch.arange(8), 8)
    assert [len(part["texts"]) for part in batch["inputs"]] == [AT_ONCE // 8] * 3 + [96]


def test_losses_are_those_written_out(folder: Path) -> None:
    outputs = torch.randn(3, 6, generator=generator(0))
    expected = [-math.log(math.exp(row[0]) / sum(map(math.exp, row))) for row in outputs.tolist()]
    batch = batch_of(training(folder), [3, 17, 400])
    assert TASK.losses(outputs, batch).tolist() == pytest.approx(expected, abs=1e-5)


def test_sets_in_files_are_those_that_were_drawn(folder: Path, from_files: Path) -> None:
    """But for JPEG, and CLIP's own normalisation."""
    for split in ("train", "test"):
        one, other = (load_captions(place, split) for place in (folder, from_files))
        assert torch.equal(one.words, other.words)
        assert torch.equal(one.pictures, other.pictures)
    galleries = [
        next(iter(sets_of(place, values)["test"].read(torch.tensor([0]), 1)))["inputs"][0][
            "gallery"
        ]
        for place, values in ((folder, IN_MEMORY), (from_files, recipe("meter", batch_size=8)))
    ]
    mean, std = (torch.tensor(one)[:, None, None] for one in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    memory, files = galleries
    assert (files * std + mean - (memory * 0.3 + 0.15)).abs().mean() < 0.03


def test_what_cannot_be_is_one_line(folder: Path, from_files: Path) -> None:
    flipped = recipe("meter", flip=0.5, crop="none", auto_augment=None)
    other = SimpleNamespace(**{**vars(VISION), "timm": "vit_tiny_patch16_224"})
    few = entry(words=9)
    for call, said in (
        (lambda: TASK.training_source(entry(), folder, flipped, CPU), r"training\.flip must be 0"),
        (lambda: TASK.training_source(entry(), from_files, flipped, CPU), "crop must be centre"),
        (lambda: TASK.trunk(entry(), other, None), "small must have timm: none and no family"),
        (lambda: prepare("toy", few, None, 1), "numbers of tokens must be below words, 9, got"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_split_of_one_image_is_one_line(tmp_path: Path) -> None:
    one = {
        split: Captioned(["x"], [["a b"]], torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
        for split in ("train", "test")
    }
    source = caption_trees.write(tmp_path, "coco_captions", one)
    chosen = entry(reader="coco_captions", folder=f"{source}", sizes={})
    with pytest.raises(
        ValueError, match=r"toy: train must have two images at least, .* got 1"
    ) as said:
        prepare("toy", chosen, None, 1)
    assert "\n" not in str(said.value)
