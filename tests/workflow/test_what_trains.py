"""Over a finished run of the workflow: what a change of the configuration plans."""

from pathlib import Path

import pytest
import yaml

from rectify.experiment.grid import all_runs, read
from rectify.typed import merge
from tests.helpers.configs import SMOKE as VALUES
from tests.helpers.configs import changed
from tests.workflow.project import SMOKE, planned

LOCAL = {"label", "table", "figure", "page"}
LABELS = {
    "titles, what is shown": (
        {
            "data.glyphs.title": "Other",
            "visions.vit-64.title": "Other",
            "languages.llama-m.title": "Other",
            "gsnr.estimator": "debiased",
            "report": "best",
        },
        LOCAL,
    ),
    "of the page alone": (
        {
            "title": "Other",
            "threads": 2,
            "trackers": ["tensorboard"],
        },  # it lists the configuration's files
        {"page"},
    ),
}
WEIGHTS = {  # more of them, one by one: tests/experiment/test_grid.py
    "data.digits.training.lr": (0.001, lambda run: run.data == "digits"),
    "visions.vit-48.overrides.num_heads": (3, lambda run: run.vision == "vit-48"),
    "filtering.cover": (0.5, lambda run: run.data == "scenes"),  # compared after every epoch
}


def overlay_of(changes: dict[str, object]) -> dict:
    """Return a configuration that has nothing but these values, by their dotted paths."""
    overlay: dict = {}
    for path, value in changes.items():
        overlay = changed(overlay, path, value)
    return overlay


def plan(project: Path, overlay: dict) -> dict[str, int]:
    """Return the jobs that a configuration over the finished one plans."""
    (project / "mine.yaml").write_text(yaml.safe_dump(overlay))
    return planned(project, "--configfile", *SMOKE, "mine.yaml", "--", "all")


@pytest.mark.parametrize("name", LABELS)
def test_what_is_only_shown_trains_and_scores_nothing(name: str, finished: Path) -> None:
    changes, expected = LABELS[name]
    assert set(plan(finished, overlay_of(changes))) == expected


def test_views_and_k_are_scored_again_and_train_nothing(finished: Path) -> None:
    again = plan(finished, changed({}, "data.glyphs.top_k", 3))
    assert set(again) <= {"evaluate", *LOCAL}
    assert again["evaluate"] == sum(run.data == "glyphs" for run in all_runs(read(VALUES)))


def test_what_decides_weights_trains_exactly_its_runs(finished: Path) -> None:
    overlay = overlay_of({path: value for path, (value, _) in WEIGHTS.items()})
    runs = all_runs(read(merge(VALUES, overlay)))
    concerned = [run for run in runs if any(concerns(run) for _, concerns in WEIGHTS.values())]
    assert 0 < len(concerned) < len(runs)
    assert plan(finished, overlay)["train"] == len(concerned)
