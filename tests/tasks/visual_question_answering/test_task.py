"""The task visual_question_answering: what a model sees, what it is told, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from tokenizers import Tokenizer
from torch import nn
from transformers import CLIPModel, RobertaForMaskedLM

from rectify.data.questions import load_questions
from rectify.data.texts import PADDING
from rectify.demo.questions import questions
from rectify.rectified import insert
from rectify.results.provenance import provenance
from rectify.runtime import generator
from rectify.tasks.contract import Machine
from rectify.tasks.meters import OPERATIONS, training_transform
from rectify.tasks.visual_question_answering.prepare import prepare
from rectify.tasks.visual_question_answering.settings import Settings
from rectify.tasks.visual_question_answering.task import TASK
from rectify.training import scoring
from rectify.training.models import RunSettings
from rectify.training.recipes import Recipe, recipe
from rectify.trunks.meter import unpacked
from tests.helpers import question_trees

CPU = Machine(torch.device("cpu"))
DRAWN = {"seed": 0, "train_scenes": 30, "test_scenes": 9}
METER = recipe("meter", batch_size=8)
IN_MEMORY = recipe("meter", batch_size=8, crop="none", auto_augment=None)

VISION = SimpleNamespace(
    name="small", timm="none", overrides=question_trees.SIZES, family=None, start=None
)


def entry(**changes: object) -> Settings:
    keys = {"reader": "questions", "image_size": 56, "answers": 8, "words": 64, "sizes": DRAWN}
    return Settings.model_validate(keys | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set."""
    return written(tmp_path_factory.mktemp("drawn"), entry())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in VQAv2's files, tokenized by what the drawn set's preparation wrote."""
    return question_trees.write(tmp_path_factory.mktemp("vqav2"), questions(**DRAWN))


@pytest.fixture(scope="module")
def from_files(tmp_path_factory: pytest.TempPathFactory, published: Path, folder: Path) -> Path:
    chosen = entry(reader="vqav2", folder=f"{published}", tokenizer=f"{folder}", sizes={})
    return written(tmp_path_factory.mktemp("files"), chosen)


def written(place: Path, chosen: Settings) -> Path:
    prepare("toy", chosen, None, 1).write(place, provenance(0))
    return place


def first(source: object, items: list[int], training: bool = False) -> dict:
    draws = torch.rand(len(items), 5, dtype=torch.float64, generator=generator(0))
    (batch,) = source.read(torch.tensor(items), len(items), draws if training else None)
    return batch


def sets_of(folder: Path, values: Recipe | None = None) -> dict[str, object]:
    return {
        one.name: one.source for one in TASK.test_sets(entry(), folder, values or IN_MEMORY, CPU)
    }


def test_a_model_sees_the_image_and_the_words_of_a_question(folder: Path) -> None:
    test, drawn = sets_of(folder)["test"], questions(**DRAWN)["test"]
    batch = first(test, [3, 17, 0])
    tokenizer = Tokenizer.from_file(f"{folder / 'tokenizer.json'}")
    for row, item in enumerate((3, 17, 0)):
        asked = drawn.questions[item]
        words = batch["inputs"]["words"][row]
        begin, *said, end = words[words != PADDING].tolist()
        assert (begin, end) == (0, 2)
        assert tokenizer.decode(said) == asked.text.replace("?", " ?")
        image = (drawn.images[asked.picture] / 255 - 0.15) / 0.3
        torch.testing.assert_close(batch["inputs"]["images"][row], image.expand(3, -1, -1))
    assert (batch["inputs"]["words"] != PADDING).any(0).all()  # no longer than the longest


def test_sets_in_files_are_those_that_were_drawn(folder: Path, from_files: Path) -> None:
    """But for JPEG, and CLIP's own normalisation."""
    for split in ("train", "test"):
        one, other = (load_questions(place, split) for place in (folder, from_files))
        for name in ("words", "numbers", "kinds", "pictures", "given", "targets", "accuracies"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert one.answers == other.answers
    memory, files = (
        first(sets_of(place, values)["test"], [3, 17, 0])["inputs"]["images"]
        for place, values in ((folder, IN_MEMORY), (from_files, METER))
    )
    mean, std = (torch.tensor(one)[:, None, None] for one in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    assert (files * std + mean - (memory * 0.3 + 0.15)).abs().mean() < 0.02


def test_training_images_are_changed_before_they_are_resized_each_by_its_own_draw(
    from_files: Path,
) -> None:
    source = TASK.training_source(entry(), from_files, METER, CPU)
    one, again = (first(source, [0, 0, 9], training=True) for _ in range(2))
    assert torch.equal(one["inputs"]["images"], again["inputs"]["images"])
    assert not torch.equal(*one["inputs"]["images"][:2])
    steps = training_transform(224, METER.auto_augment).transforms
    assert [type(step).__name__ for step in steps] == [
        "RandAugment", "Resize", "CenterCrop", "MaybePILToTensor"
    ]  # fmt: skip
    assert tuple(step.name for step in steps[0].ops) == OPERATIONS
    assert {(step.prob, step.magnitude) for step in steps[0].ops} == {(1.0, 3)}
    plain = training_transform(20, None)(Image.new("RGB", (40, 60), "red"))
    assert plain.shape == (3, 20, 20)


def test_questions_about_one_image_are_known_by_it(folder: Path) -> None:
    source = TASK.training_source(entry(), folder, IN_MEMORY, CPU)
    kept = load_questions(folder, "train")
    assert len(source) == len(kept.learnable) < len(kept)
    items = [0, 1, len(source) - 1]
    pictures = kept.pictures[kept.learnable[items]]
    batch = first(source, items, training=True)
    assert batch["origins"].tolist() == pictures[:, None].tolist()
    assert pictures[0] == pictures[1]
    assert "origins" not in first(source, [0, len(source) - 1], training=True)
    assert (batch["targets"].max(1).values > 0).all()


def test_no_question_is_left_out_at_test_and_each_kind_is_a_part(folder: Path) -> None:
    (found,) = TASK.test_sets(entry(), folder, IN_MEMORY, CPU)
    assert (found.name, len(found.source)) == ("test", 45)
    parts = found.parts
    assert {name: len(items) for name, items in parts.items()} == {
        "yes-no": 18, "number": 9, "other": 18,
    }  # fmt: skip
    assert sorted(torch.cat([*parts.values()]).tolist()) == list(range(45))
    whole = first(found.source, list(range(45)))
    kinds = [one.kind.replace("/", "-") for one in questions(**DRAWN)["test"].questions]
    for name, items in parts.items():
        assert items.tolist() == [n for n, kind in enumerate(kinds) if kind == name]
    assert (whole["accuracies"].max(1).values == 0).any()  # what nobody may answer


def test_a_part_has_the_scores_of_its_questions_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = TASK.trunk(entry(), VISION, None)
    monkeypatch.setattr(scoring, "trained", lambda *of_run: trunk)
    monkeypatch.setattr(scoring, "check_labels", lambda *files: None)
    trained = {"task": entry().task, "recipe": IN_MEMORY, "data": entry().model_dump()}
    run = Mock(spec=RunSettings, **trained)
    files = {"block": None, "weights": folder, "data": folder}
    scored = scoring.score(run, {}, seed=0, device=CPU.device, threads=1, **files).sets
    (test,) = TASK.test_sets(entry(), folder, IN_MEMORY, CPU)
    assert list(scored) == [(name, "-") for name in ("test", *test.parts)]
    for name, items in test.parts.items():
        with torch.inference_mode():
            (batch,) = test.source.read(items, len(items))
            expected = TASK.scores(trunk(batch["inputs"]), batch)
        assert scored[name, "-"].keys() == expected.keys()
        for key, values in expected.items():
            assert torch.allclose(scored[name, "-"][key], values.double(), rtol=1e-5), key


def test_the_floor_is_the_best_answer_to_the_words_alone(folder: Path) -> None:
    known, asked = (questions(**DRAWN)[split].questions for split in ("train", "test"))
    train, test = (load_questions(folder, split) for split in ("train", "test"))
    targets = train.dense(train.targets, torch.arange(len(train)))
    right = test.dense(test.accuracies, torch.arange(len(test)))
    expected = []
    for number, one in enumerate(asked):
        same = [n for n, other in enumerate(known) if other.text == one.text]
        worth = targets[same].sum(0) if same else targets.sum(0)
        usual = (worth > worth.max() - 1e-4).nonzero()[:, 0]
        best = {right[number, answer].item() for answer in usual}
        expected.append(best)
    floor = first(sets_of(folder)["test"], list(range(45)))["floor"].tolist()
    assert all(one in best for one, best in zip(floor, expected, strict=True))
    assert sum(len(best) == 1 for best in expected) > 20
    assert 0 < sum(floor) / 45 < 1


def test_losses_and_scores_are_those_written_out() -> None:
    outputs = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0, 0.3], [0.0, 0.9, 0.0]])
    batch = {
        "targets": targets,
        "accuracies": torch.tensor([[0.9, 0.0, 0.0], [0.3, 1.0, 0.6]]),
        "floor": torch.tensor([0.2, 0.4]),
    }
    p = outputs.sigmoid()
    own = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(1)
    torch.testing.assert_close(TASK.losses(outputs, batch), own)
    scores = TASK.scores(outputs, batch)
    assert scores["vqa"].tolist() == pytest.approx([0.9, 0.6])
    assert scores["question_alone"].tolist() == pytest.approx([0.2, 0.4])
    torch.testing.assert_close(scores["loss"], own)


@pytest.mark.parametrize("stream", ["image", "text", "both", "joint"])
def test_answers_are_the_likeliest_and_activations_those_of_the_patches_at_the_head(
    folder: Path, block: nn.Module, stream: str
) -> None:
    sizes = {**question_trees.SIZES, "stream": stream}
    vision = SimpleNamespace(**{**vars(VISION), "overrides": sizes})
    trunk = TASK.trunk(entry(), vision, None)
    model = insert(trunk, block, "end", generator=generator(0)).eval()
    batch = first(sets_of(folder)["test"], [3, 17, 0])
    some = {name: one[:2] for name, one in batch["inputs"].items()}
    with torch.inference_mode():
        fused = trunk.run(trunk.embed(batch["inputs"]), 0, len(trunk.blocks))
        image = unpacked(model.bridged(fused), stream).image[:, 1:]  # without the class token
        with TASK.watch(model) as seen:
            outputs = model(batch["inputs"])
            found = seen["activations"]
            model(some)
    answers = TASK.answers(outputs, batch)["answer"]
    for row in range(3):
        lengths = (image[row] - image[row].mean(0)).norm(dim=1)
        expected = (lengths - lengths.min()) / (lengths.max() - lengths.min())
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=0)
        assert answers[row].tolist() == [outputs[row].tolist().index(outputs[row].max())]
    torch.testing.assert_close(seen["activations"], found[:2], atol=1e-3, rtol=0)
    assert not trunk.head._forward_pre_hooks


def test_training_starts_from_clip_and_roberta(tmp_path: Path) -> None:
    question_trees.write_starts(tmp_path, image_size=56, patch_size=28, words=64)
    vision = SimpleNamespace(**{**vars(VISION), "start": f"{tmp_path}"})
    assert [file.parent.name for file in TASK.starts(vision)] == ["clip", "roberta"]
    assert all(file.is_file() for file in TASK.starts(vision))
    started, drawn = (TASK.trunk(entry(), vision, one) for one in (METER, None))
    clip = CLIPModel.from_pretrained(tmp_path / "clip").vision_model
    roberta = RobertaForMaskedLM.from_pretrained(tmp_path / "roberta").roberta
    for trunk, is_same in ((started, True), (drawn, False)):
        norm = clip.embeddings.patch_embedding.weight
        assert torch.equal(trunk.image.patch_embed.proj.weight, norm) == is_same
        words = roberta.embeddings.word_embeddings.weight
        assert torch.equal(trunk.text.embeddings.word_embeddings.weight, words) == is_same


def test_a_start_without_one_of_its_folders_is_one_line(tmp_path: Path) -> None:
    vision = SimpleNamespace(**{**vars(VISION), "start": f"{tmp_path}"})
    for function in (TASK.starts, lambda one: TASK.trunk(entry(), one, METER)):
        with pytest.raises(ValueError, match="clip: must") as caught:
            function(vision)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"timm": "vit_tiny_patch16_224"}, {"family": "other"}])
def test_another_trunk_is_refused(change: dict) -> None:
    vision = SimpleNamespace(**{**vars(VISION), **change})
    with pytest.raises(ValueError, match="small must have timm: none and no family"):
        TASK.trunk(entry(), vision, None)


def test_what_would_change_the_answer_is_refused(folder: Path, from_files: Path) -> None:
    for place, values, said in (
        (folder, recipe("meter", flip=0.5, crop="none", auto_augment=None), "flip must be 0"),
        (folder, METER, "auto_augment must be null"),
        (from_files, recipe("meter", augment_on="device"), "augment_on must be worker"),
        (from_files, recipe("meter", crop="resized"), "crop must be centre"),
        (from_files, recipe("meter", flip=0.5), r"flip must be 0, .* recipe meter"),
    ):
        with pytest.raises(ValueError, match=rf"training\.{said}") as caught:
            TASK.training_source(entry(), place, values, CPU)
        assert "\n" not in str(caught.value)


def test_counts_of_answers_and_words_are_checked(folder: Path, published: Path) -> None:
    for changes, said in (
        ({"answers": 9}, "toy: must have 9 frequent answers, got 8"),
        ({"words": 20}, "numbers of tokens must be below words, 20, got "),
        ({"tokenizer": f"{published}"}, "must hold the model's tokenizer"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            prepare("toy", entry(**changes), None, 1)
        assert "\n" not in str(caught.value)


def test_a_long_question_keeps_its_last_token() -> None:
    made = prepare("toy", entry(longest=6), None, 1).sets["test"].words
    whole = prepare("toy", entry(), None, 1).sets["test"].words
    assert made.shape[1] == 6 < whole.shape[1]
    for short, words in zip(made.tolist(), whole.tolist(), strict=True):
        kept = [word for word in words if word != PADDING]
        assert short[:5] == (kept + [PADDING] * 5)[:5]
        assert short[5] == (2 if len(kept) >= 6 else PADDING)


def test_an_image_that_cannot_be_read_is_one_line(published: Path) -> None:
    path = published / "val2014" / f"COCO_val2014_{7:012}.jpg"
    before = path.read_bytes()
    path.write_bytes(before[:200])
    try:
        with pytest.raises(ValueError, match="got 1 missing or unreadable: val2014/COCO") as caught:
            prepare("toy", entry(reader="vqav2", folder=f"{published}", sizes={}), None, 1)
    finally:
        path.write_bytes(before)
    assert "\n" not in str(caught.value)
