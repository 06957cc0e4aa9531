"""The complete workflow once at the smallest scale; then what runs again after which edit."""

import json
import signal
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from rectify.language.weights import sha256
from rectify.targets import caption
from rectify.trunks.features import load_features
from tests.helpers.processes import run_rectify
from tests.workflow.project import SMOKE, call, environment, planned

ALL = ("--configfile", *SMOKE, "--", "all")
RESULTS = Path("results") / "smoke"
TABLES = [*(f"table{number}" for number in range(1, 7)), "controls", "cost"]
TABLES += ["auxiliary-controls", "coherence", "selection", "datasize"]
FIGURES = [*(f"figure{name}" for name in (2, "2b", 3, 4, 5)), "table3", "coherence", "datasize"]
FIGURES += ["selection", "pang_figure3", "pang_figure4", "filtering-epochs"]
TIMES = ["train_seconds", "items_per_second"]


def read_history(path: Path) -> pd.DataFrame:
    """Return a history without what differs from run to run: its times."""
    history = pd.read_csv(path)
    return history[~history["metric"].isin(TIMES)]


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Replace the first ``old`` in a file for a while."""
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(before)


def test_every_table_and_figure_is_there_in_every_format(finished: Path) -> None:
    for table in TABLES:
        for suffix in ("csv", "csv.json", "md", "tex"):
            assert (finished / RESULTS / "tables" / f"{table}.{suffix}").stat().st_size > 0
    for figure in FIGURES:
        for suffix in ("csv", "csv.json", "pdf", "png", "svg"):
            assert (finished / RESULTS / "figures" / f"{figure}.{suffix}").stat().st_size > 0
    assert (finished / RESULTS / "report" / "index.html").stat().st_size > 100_000


def test_snakemake_s_own_report_has_the_captions(finished: Path) -> None:
    said = call(finished, "snakemake", "--configfile", *SMOKE, "--report", "own.zip")
    assert said.returncode == 0, said.stdout[-2000:]
    with zipfile.ZipFile(finished / "own.zip") as report:
        (page,) = (name for name in report.namelist() if name.endswith("report.html"))
        text = report.read(page).decode("utf-8")
    for kind in ("table3", "figure2", "controls"):
        assert caption(kind).partition(",")[0] in text
    assert "Accuracy by position" in text
    assert "{{" not in text.partition("Accuracy by position")[2][:200]


def test_rectify_plan_knows_what_was_done_and_how_fast(finished: Path) -> None:
    def said(*words: str) -> dict:
        words = ("plan", "--config", *SMOKE, "--json", *words)
        told = run_rectify(words, finished, environment(finished))
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    done, again = said(), said("--again")
    assert (done["trainings"], done["other_jobs"], done["gpu_hours"]) == (0, {}, 0)
    jobs = planned(finished, *ALL[:-2], "--forceall", "--", "all") | {"all": 1}
    assert {"train": again["trainings"], **again["other_jobs"]} == jobs
    assert {one["known_by"] for one in again["runs"]} == {"own run"}
    files = [*(finished / RESULTS / "runs").glob("*/seed-0/model.safetensors")]
    assert len(files) == again["trainings"]
    assert again["bytes"]["models"] == pytest.approx(sum(f.stat().st_size for f in files), rel=0.1)
    features = (finished / RESULTS / "features").rglob("*.safetensors")
    expected = sum(load_features(file)[0].nbytes for file in features)
    assert again["bytes"]["features"] == expected
    layers = sum(file.stat().st_size for file in (finished / RESULTS / "language").rglob("layer-*"))
    assert again["bytes"]["layers"] < layers  # those here have 4 bytes for a value


def test_no_cell_of_a_table_is_empty(finished: Path) -> None:
    for table in TABLES[:6]:
        cells = pd.read_csv(finished / RESULTS / "tables" / f"{table}.csv")
        is_number = cells["mean"].notna()
        assert (cells.loc[is_number, "seeds"] == 1).all()
        assert set(cells.loc[~is_number, "text"]) <= {"no common loss"}  # of one or two epochs
        assert (cells.loc[~is_number, "kind"] == "relative gain").all()


def test_items_that_are_kept_have_the_scores_of_their_table(finished: Path) -> None:
    for scores in (finished / RESULTS / "runs").glob("*/seed-0/scores.csv"):
        items = pd.read_parquet(scores.with_name("predictions.parquet"))
        rows = pd.read_csv(scores).query("set == 'test'")
        for metric, k, value in rows[["metric", "k", "value"]].itertuples(index=False):
            name = f"{metric}@{k}" if k else metric
            assert items[name].mean() == pytest.approx(value, rel=1e-5), scores


def test_a_second_call_has_nothing_to_do(finished: Path) -> None:
    said = call(finished, "snakemake", "--cores", "2", *ALL)
    assert said.returncode == 0
    assert "Nothing to be done" in said.stdout


def test_a_touch_a_comment_or_a_docstring_runs_nothing_again(finished: Path) -> None:
    path = finished / "rectify" / "similarity" / "scores.py"
    path.touch()
    with edited(path, "Return ", "Give back "):
        path.write_text("# a comment\n" + path.read_text())
        assert planned(finished, *ALL) == {}


EDITS = {  # of several modules at once where the same jobs do not depend on any of them
    "similarity/scores.py targets/figure5.py cost.py": (
        {"similarity", "figure", "page", "measure"},
        {"train", "evaluate", "language_features"},
    ),
    "training/scoring.py analysis/statistics.py": (
        {"evaluate", "table", "figure"},
        {"train", "prepare_data", "measure", "similarity"},
    ),
    "gsnr/estimators.py gsnr/layers/linear.py tasks/classification.py tasks/shifts.py": (
        {"train", "evaluate", "measure"},  # which counts a loss of classification
        {"pretrain", "prepare_data", "extract_block", "language_features"},
    ),
    "controls.py training/evaluation.py": ({"train", "evaluate"}, {"pretrain", "prepare_data"}),
    "filtering/overlap.py": ({"filtering", "train"}, {"prepare_masks", "measure", "similarity"}),
    "tasks/image_classification/prepare_masks.py": (
        {"prepare_masks", "train"},
        {"prepare_data", "measure", "similarity"},
    ),
    "demo/fonts.py": ({"prepare_data", "pretrain"}, {"resolve", "label"}),
}


@pytest.mark.parametrize("modules", EDITS)
def test_an_edit_of_modules_runs_again_the_jobs_that_depend_on_them(
    modules: str, finished: Path
) -> None:
    with ExitStack() as edits:
        for module in modules.split():
            path = finished / "rectify" / module
            edits.enter_context(edited(path, path.read_text(), f"{path.read_text()}\nNEW = 1\n"))
        jobs = planned(finished, *ALL)
    runs, kept = EDITS[modules]
    assert runs <= set(jobs)
    assert not kept & set(jobs)
    if runs & {"filtering", "prepare_masks"}:  # only trainings that compare activations with masks
        assert jobs["train"] == len(list((finished / RESULTS / "runs").glob("scenes_*")))


def test_a_training_killed_with_kill_9_resumes_to_the_same_results(finished: Path) -> None:
    name = "digits_vit-64_vanilla"
    kept, again = finished / RESULTS / "runs" / name / "seed-0", finished / "again"
    command = (
        *("train", "--config", kept.parent / "config.json"),
        *("--data", finished / RESULTS / "data" / "digits", "--seed", "0", "--threads", "1"),
        *("--states", finished / "states", "--output", again),
    )
    killed = run_rectify(command, finished, signal_after=("epoch 0: ", signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL
    assert not again.exists()
    resumed = run_rectify(command, finished)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after epoch 1 of 2" in resumed.stderr
    for file in ("gsnr.csv", "model.safetensors", "summary.json"):
        assert (again / file).read_bytes() == (kept / file).read_bytes()
    histories = [read_history(folder / "history.csv") for folder in (again, kept)]
    pd.testing.assert_frame_equal(*histories)


def test_features_name_the_weights_that_they_are_of(finished: Path) -> None:
    file = next((finished / RESULTS / "features" / "pairs" / "vision").glob("*.safetensors"))
    run, seed = file.stem.rsplit("--", 1)
    weights = load_file(finished / RESULTS / "runs" / run / seed / "model.safetensors")
    assert load_features(file)[1]["vision_sha256"] == sha256(weights)


def test_a_fresh_process_gives_the_bytes_of_the_warm_one(finished: Path) -> None:
    scores = next((finished / RESULTS / "similarity" / "pairs").glob("*.csv"))
    language, vision = scores.stem.split("--", 1)
    command = (
        *("python", "-m", "rectify", "similarity"),
        *("--language", f"{finished / RESULTS}/features/pairs/language/{language}.safetensors"),
        *("--vision", f"{finished / RESULTS}/features/pairs/vision/{vision}.safetensors"),
        *("--k", "10", "--quantile", "0.95", "--permutations", "20", "--threads", "1"),
        *("--output", f"{finished}/similarity.csv"),
    )
    said = call(finished, *command)
    assert said.returncode == 0, said.stdout
    assert (finished / "similarity.csv").read_bytes() == scores.read_bytes()
