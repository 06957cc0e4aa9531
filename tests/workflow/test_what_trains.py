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
    "data.glyphs.title": ("Other", LOCAL),
    "visions.vit-64.title": ("Other", LOCAL),
    "languages.llama-m.title": ("Other", LOCAL),
    "gsnr.estimator": ("debiased", LOCAL),
    "report": ("best", LOCAL),
    "title": ("Other", {"page"}),
    "data.glyphs.top_k": (3, {"evaluate", *LOCAL}),
    "threads": (2, {"page"}),  # which lists the configuration's files
    "tensorboard": (True, {"page"}),
}
WEIGHTS = {
    "data.digits.training.lr": (0.001, lambda run: run.data == "digits"),
    "visions.vit-48.overrides.num_heads": (3, lambda run: run.vision == "vit-48"),
    "auxiliary.lambda_floor": (0.05, lambda run: True),
    "gsnr.batches": (1, lambda run: True),
    "filtering.cover": (0.5, lambda run: run.data == "scenes"),  # compared after every epoch
}


def plan(project: Path, overlay: dict) -> dict[str, int]:
    """Return the jobs that a configuration over the finished one plans."""
    (project / "mine.yaml").write_text(yaml.safe_dump(overlay))
    return planned(project, "--configfile", *SMOKE, "mine.yaml", "--", "all")


@pytest.mark.parametrize("path", LABELS)
def test_what_is_only_shown_or_scored_trains_nothing(path: str, finished: Path) -> None:
    value, allowed = LABELS[path]
    assert set(plan(finished, changed({}, path, value))) <= allowed


def test_views_and_k_are_scored_again(finished: Path) -> None:
    again = plan(finished, changed({}, "data.glyphs.top_k", 3))
    assert again["evaluate"] == sum(run.data == "glyphs" for run in all_runs(read(VALUES)))


@pytest.mark.parametrize("path", WEIGHTS)
def test_what_decides_weights_trains_exactly_its_runs(path: str, finished: Path) -> None:
    value, concerns = WEIGHTS[path]
    overlay = changed({}, path, value)
    runs = all_runs(read(merge(VALUES, overlay)))
    assert plan(finished, overlay)["train"] == sum(map(concerns, runs))
