"""The task situated_question_answering: what a model sees and is told, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rectify.data.situations import PADDING, load_situations
from rectify.demo.rooms import rooms
from rectify.results.provenance import provenance
from rectify.runtime import generator, seed_for
from rectify.tasks.contract import Machine
from rectify.tasks.situated_question_answering.measures import type_of
from rectify.tasks.situated_question_answering.prepare import prepare, word_vectors
from rectify.tasks.situated_question_answering.rooms import Change, mean_sizes, seen_room
from rectify.tasks.situated_question_answering.settings import Settings
from rectify.tasks.situated_question_answering.task import TASK
from rectify.training.recipes import recipe
from tests.helpers import room_trees

CPU = Machine(torch.device("cpu"))
DRAWN = {"seed": 2, "train_rooms": 8, "test_rooms": 3, "stored": 64}
RECIPE = recipe("sqa3d", batch_size=8)


def entry(**changes: object) -> Settings:
    keys = {"reader": "rooms", "answers": 11, "words": 64, "points": 48, "top_k": 3}
    return Settings.model_validate(keys | {"sizes": DRAWN} | changes)


def written(place: Path, chosen: Settings) -> Path:
    prepare("toy", chosen, None, 1).write(place, provenance(0))
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set."""
    return written(tmp_path_factory.mktemp("drawn"), entry())


@pytest.fixture(scope="module")
def from_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same through SQA3D's and ScanNet's files."""
    source = room_trees.write(tmp_path_factory.mktemp("sqa3d"), rooms(**DRAWN))
    chosen = entry(reader="sqa3d", folder=f"{source}", sizes={})
    return written(tmp_path_factory.mktemp("files"), chosen)


def first(source: object, items: list[int], training: bool = False) -> dict:
    draws = torch.rand(len(items), 5, dtype=torch.float64, generator=generator(0))
    (batch,) = source.read(torch.tensor(items), len(items), draws if training else None)
    return batch


def sets_of(folder: Path, chosen: Settings) -> dict[str, object]:
    return {one.name: one.source for one in TASK.test_sets(chosen, folder, RECIPE, CPU)}


def test_sets_in_files_are_those_that_were_drawn(folder: Path, from_files: Path) -> None:
    """But for how often an answer is counted: files have a validation split, of one test room."""
    for split in ("train", "test"):
        one, other = (load_situations(place, split) for place in (folder, from_files))
        for name in ("situations", "questions", "numbers", "answers", "rooms", "points", "colours",
                     "objects", "kinds", "boxes", "box_kinds", "sizes", "counts"):  # fmt: skip
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        torch.testing.assert_close(one.poses, other.poses, atol=1e-5, rtol=0)
        assert (one.possible, one.words) == (other.possible, other.words)


def test_answers_are_worth_what_all_splits_have_of_them(folder: Path) -> None:
    told = rooms(**DRAWN)
    given = [one.answer for split in told.values() for one in split.situations]
    for split in ("train", "test"):
        kept = load_situations(folder, split)
        for answer, worth in zip(kept.answers.tolist(), kept.worths.tolist(), strict=True):
            count = given.count(kept.possible[answer])
            assert worth == pytest.approx({1: 0.3, 2: 0.6, 3: 0.9}.get(count, 1.0))


def test_a_test_item_is_its_room_and_its_words(folder: Path) -> None:
    chosen = entry()
    kept, known = (load_situations(folder, split) for split in ("test", "train"))
    items = [7, 0, 14]
    batch = first(sets_of(folder, chosen)["test"], items)
    sizes = mean_sizes(known)
    for row, item in enumerate(items):
        seed = seed_for(0, "test", item)
        room = seen_room(kept, item, 48, seed, None, erased=False, detection=True)
        for name in ("points", "features"):
            assert torch.equal(batch["inputs"][name][row], room[name])
        for name in ("ways", "has_way", "pose"):
            assert torch.equal(batch[name][row], room[name])
        many = len(room["kinds"])
        assert batch["has_box"][row].tolist() == [1] * many + [0] * (batch["kinds"].shape[1] - many)
        means = sizes[room["kinds"]]
        expected = (room["sizes"] - means) / means
        torch.testing.assert_close(batch["relative_sizes"][row, :many], expected)
        for name, texts in (("situation", kept.situations), ("question", kept.questions)):
            shown = batch["inputs"][name][row]
            assert shown[shown != PADDING].tolist() == texts[item][texts[item] != PADDING].tolist()
    assert all(
        (batch["inputs"][name] != PADDING).any(0).all() for name in ("situation", "question")
    )
    assert "origins" not in batch


def test_training_rooms_are_moved_each_by_its_own_draw(folder: Path) -> None:
    source = TASK.training_source(entry(), folder, RECIPE, CPU)
    batch, again = (first(source, [0, 1, 39], training=True) for _ in range(2))
    assert torch.equal(batch["inputs"]["points"], again["inputs"]["points"])
    assert not torch.equal(*batch["inputs"]["points"][:2])
    assert batch["origins"].tolist() == [[0], [0], [6]]  # two questions about one room
    assert "origins" not in first(source, [0, 39], training=True)
    assert source._change == Change(True, 5.0, 0.5)
    still = recipe("sqa3d", batch_size=8, cloud_shift=0.0)
    plain = TASK.training_source(entry(flips="off", turn=0.0), folder, still, CPU)
    kept = load_situations(folder, "train")
    assert torch.equal(first(plain, [0, 39], training=True)["pose"], kept.poses[[0, 39]])


def test_without_a_detector_s_losses_its_objects_are_not_looked_for(folder: Path) -> None:
    """And all the rest is the same, bit by bit."""
    whole, plain = (
        first(TASK.training_source(entry(detection=chosen), folder, RECIPE, CPU), [0, 39], True)
        for chosen in (True, False)
    )
    objects = {"ways", "has_way", "centres", "kinds", "relative_sizes", "has_box"}
    assert whole.keys() - plain.keys() == objects
    assert plain.keys() <= whole.keys()
    shared = {name: plain[name] for name in plain.keys() - {"inputs", "detection"}}
    for name, values in {**shared, **plain["inputs"]}.items():
        assert torch.equal(values, {**whole, **whole["inputs"]}[name])


def test_no_question_is_left_out_and_each_type_is_a_part(folder: Path) -> None:
    (found,) = TASK.test_sets(entry(), folder, RECIPE, CPU)
    assert (found.name, len(found.source)) == ("test", 18)
    assert list(found.parts) == ["what", "is", "how", "can", "which", "others"]
    asked = rooms(**DRAWN)["test"].situations
    for name, items in found.parts.items():
        chosen = [place for place, one in enumerate(asked) if type_of(one.question) == name]
        assert items.tolist() == chosen
        assert len(items) == 3


def test_scores_are_matches_floors_and_the_loss(folder: Path) -> None:
    chosen = entry(detection=False, pose=False)
    batch = first(sets_of(folder, chosen)["test"], [0, 1, 2])
    logits = torch.randn(3, 11, generator=generator(4))
    scores = TASK.scores({"answers": logits}, batch)
    order = logits.argsort(1, descending=True)
    for k in (1, 3):
        right = [
            a in own[:k] for a, own in zip(batch["answers"].tolist(), order.tolist(), strict=True)
        ]
        assert scores[f"em@{k}"].tolist() == right
    p = logits.double().sigmoid()
    targets = torch.zeros(3, 11).double()
    targets[torch.arange(3), batch["answers"]] = batch["worths"].double()
    own = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(1)
    torch.testing.assert_close(scores["loss"].double(), own, rtol=1e-5, atol=1e-5)  # 10 x 0.1
    for name in ("one_answer", "by_type", "question_alone"):
        assert torch.equal(scores[name], batch[name])


def vectors(folder: Path, *lines: str) -> Path:
    path = folder / "vectors.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_words_have_the_vectors_of_the_file(tmp_path: Path) -> None:
    path = vectors(tmp_path, "bed 1 2", "é 0 1", "unk -1 -2", "Is 3 4")
    found = word_vectors(path, ["<pad>", "Is", "bed", "frigate"])
    assert found.tolist() == [[0, 0], [3, 4], [1, 2], [-1, -2]]
    source = entry(vectors=f"{path}")
    made = written(tmp_path / "set", source)
    batch = first(sets_of(made, source)["test"], [1, 0])
    kept = load_situations(made, "test")
    for row, item in enumerate((1, 0)):
        words = [kept.words[n] for n in kept.questions[item].tolist() if n != PADDING]
        shown = batch["inputs"]["question"][row]
        known = {"bed": [1, 2], "Is": [3, 4]}
        assert shown[: len(words)].tolist() == [known.get(word, [-1, -2]) for word in words]
        assert (shown[len(words) :] == 0).all()
    vision = SimpleNamespace(name="x", timm="none", family=None, start=None,
                             overrides=room_trees.SIZES | {"embedding": 2})  # fmt: skip
    outputs = TASK.trunk(source, vision, None)(batch["inputs"])
    assert outputs["answers"].shape == (2, 11)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["bed 1 2"], "must have unk and lines of one length, got no line of it"),
        (["unk 1 2", "bed 1"], r"must have unk and lines of one length, got \[1, 2\] numbers"),
        (["unk 1 x"], r"vectors.txt:1: a line must be a word and its numbers, got \['1', 'x'\]"),
        (["bed 1 2", "unk nan 1"], "vectors.txt:2: a line must be a word and its numbers"),
        (["unk"], "vectors.txt:1: a line must be a word and its numbers"),
    ],
)
def test_each_damage_of_vectors_is_one_line(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        word_vectors(vectors(tmp_path, *lines), ["<pad>", "bed"])
    assert "\n" not in str(caught.value)


def test_vectors_that_are_missing_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a text file of word vectors, got FileNotFound"):
        word_vectors(tmp_path / "none.txt", ["<pad>"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answers": 12}, "toy: must have 12 different answers, got 11. .* data.toy.answers"),
        ({"words": 20}, r"toy: words must have room for all \d+, padding included, got 20"),
    ],
)
def test_counts_that_differ_are_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prepare("toy", entry(**changes), None, 1)


def test_a_recipe_that_changes_images_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"training.mixup must be 0.* or take recipe sqa3d"):
        TASK.training_source(entry(), folder, recipe("paper"), CPU)


@pytest.mark.parametrize("changes", [{"timm": "vit"}, {"family": "meter"}, {"start": "models/x"}])
def test_another_trunk_is_refused(changes: dict[str, object]) -> None:
    vision = {"name": "net", "timm": "none", "family": None, "start": None, "overrides": {}}
    with pytest.raises(ValueError, match="net must have timm: none, no family and no start"):
        TASK.trunk(entry(), SimpleNamespace(**vision | changes), None)
