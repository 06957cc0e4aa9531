"""Tasks by name, of the package and from outside."""

import subprocess
import sys

import pytest

from rectify import tasks
from rectify.results.provenance import closure
from rectify.tasks.image_classification.task import TASK as IMAGES
from tests.helpers import toy_task

TOY = "tests.helpers.toy_task"


def test_a_task_is_a_folder_or_a_module():
    assert tasks.find("image_classification") is IMAGES
    assert tasks.find(TOY) is toy_task.TASK
    assert tasks.settings_of(TOY) is toy_task.Settings
    assert tasks.metrics_of(TOY)[0].better == "lower"
    kinds = ("image", "point", "video")
    assert tasks.names() == sorted(
        [
            *("image_text_retrieval", "motion_forecasting", "pairs"),
            *("situated_question_answering", "visual_question_answering"),
            *(f"{kind}_classification" for kind in kinds),
        ]
    )


def test_the_modules_of_a_task_and_of_a_set_are_named_for_their_digests():
    images = tasks.settings_of("image_classification")
    entry = images.model_validate({"reader": "digits", "classes": 10, "image_size": 28})
    assert tasks.module_of("image_classification") == "rectify.tasks.image_classification.task"
    assert tasks.preparation_modules("image_classification", entry) == (
        "rectify.tasks.image_classification.prepare",
        "rectify.tasks.image_classification.readers.digits",
    )
    assert tasks.module_of(TOY) == TOY
    assert tasks.preparation_modules(TOY, toy_task.Settings(reader="none")) == (TOY,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image_clasification", r"got 'image_clasification'\. Did you mean image_classification"),
        ("nowhere.at_all", "task nowhere.at_all must be a module that Python finds, got none"),
        ("os.path", "task os.path must be a module with the attribute TASK, got none"),
        ("pairs", "task must be one that trains a model, got pairs, on whose sets models are"),
    ],
)
def test_a_wrong_name_is_one_line(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        tasks.find(name)
    assert "\n" not in str(caught.value)


def test_an_error_inside_of_a_module_is_shown_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "broken.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        tasks.find("outside.broken")


def test_settings_metrics_and_digests_are_known_without_torch():
    code = (
        "import sys\nfrom rectify import tasks\n"
        "for name in tasks.names(): tasks.settings_of(name), tasks.metrics_of(name)\n"
        "entry = tasks.settings_of('pairs')(reader='pairs', sizes={'items': 3})\n"
        "tasks.preparation_modules('pairs', entry), tasks.module_of('image_classification')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_code_that_prepares_a_set_is_in_no_digest_of_its_training():
    prepares = closure("rectify.tasks.image_classification.prepare")
    for name in ("image_classification", "video_classification"):
        trains = closure("rectify.training.run", tasks.module_of(name))
        assert "rectify.tasks.preparation" in prepares - trains
        assert "rectify.tasks.image_classification.augment" in trains - prepares
        assert not [module for module in trains if ".readers." in module or ".demo." in module]
