"""Questions as figures read them: against what was drawn, in memory and in files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from rectify.analysis.asked import SIDE, Questions, read_answers
from rectify.data.answers import normalised
from rectify.data.images import read_image
from rectify.data.questions import gathered, listing_of, save_questions
from rectify.demo.questions import NAMES, questions
from rectify.results.provenance import provenance
from rectify.runtime import generator
from rectify.training.scoring import write_predictions
from tests.helpers import question_trees

DRAWN = questions(train_scenes=2, test_scenes=3)


def written(folder: Path, files: Path | None, asked: dict) -> Path:
    sets = {
        split: gathered(one, NAMES, [[0, 2]] * len(one.questions)) for split, one in asked.items()
    }
    save_questions(folder, sets, listing_of(asked, NAMES), files, provenance(0))
    return folder


def test_a_drawn_question_is_read_with_its_picture(tmp_path: Path) -> None:
    found, drawn = Questions(written(tmp_path, None, DRAWN)), DRAWN["test"]
    assert len(found) == 15
    assert tuple(found.answers) == NAMES
    for number, one in enumerate(drawn.questions):
        text, truth, picture = found[number]
        assert (text, truth) == (one.text, normalised(one.most))
        assert np.array_equal(picture, drawn.images[one.picture, 0].numpy())


def test_a_picture_in_a_file_is_its_middle_square(tmp_path: Path) -> None:
    from rectify.tasks.visual_question_answering.readers.vqav2 import read

    published = question_trees.write(tmp_path / "vqav2", DRAWN)
    found = Questions(written(tmp_path, published, read(published)))
    one = DRAWN["test"].questions[7]
    text, truth, picture = found[7]
    assert (text, truth) == (one.text, normalised(one.most))
    (path,) = (file for n, file in enumerate(sorted(published.glob("val2014/*"))) if n == 1)
    image = read_image(path)
    wide = image.resize((2 * image.width, image.height))
    wide.save(path)
    assert picture.shape == found[7].picture.shape == (SIDE, SIDE, 3)
    left = image.width // 2
    middle = wide.crop((left, 0, left + image.width, image.height)).resize((SIDE, SIDE))
    apart = np.abs(found[7].picture.astype(float) - np.asarray(middle))
    assert apart.mean() < 4  # JPEG, and the filter of resizing
    assert np.abs(picture.astype(float) - np.asarray(middle)).mean() > 10


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    draws = generator(0)
    maps = torch.rand(4, 9, generator=draws)
    values = {"vqa": torch.rand(4, generator=draws), "activations": maps}
    values["answer"] = torch.tensor([[7], [0], [3128], [2]])
    path = tmp_path / "predictions.parquet"
    write_predictions({name: one.double() for name, one in values.items()}, path)
    answers, accuracies, found = read_answers(path)
    assert answers.tolist() == [7, 0, 3128, 2]
    assert np.array_equal(accuracies, values["vqa"].numpy())
    assert np.array_equal(found, maps.view(4, 3, 3).numpy())


def test_another_file_is_one_line(tmp_path: Path) -> None:
    folder = written(tmp_path, None, DRAWN)
    save_file({"test.tracks": np.zeros(3)}, folder / "arrays.safetensors")
    with pytest.raises(ValueError, match=r"with split test, got .*test\.pictures") as told:
        Questions(folder)
    assert "\n" not in f"{told.value}"
