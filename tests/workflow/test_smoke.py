"""The whole workflow once at the smallest scale; then what runs again after which edit."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from rectify.config import BEYOND, FIGURES, TABLES
from rectify.features import load_features
from rectify.weights import sha256
from tests.workflow.project import call, copy_project

CONFIG = ("--configfile", "demo.yaml", "tests/smoke.yaml", "--")
RESULTS = Path("results") / "smoke"
TIMES = ["train_seconds", "images_per_second"]


def run(project: Path, *targets: str) -> subprocess.CompletedProcess:
    """Run targets of the smoke configuration in the copy."""
    return call(
        project, "python", "-m", "rectify", "warm", "snakemake", "--cores", "2", *CONFIG, *targets
    )


def rules(project: Path, *targets: str) -> set[str]:
    """Return the rules that snakemake would run again."""
    said = call(project, "snakemake", "-n", "--quiet", "rules", *CONFIG, *targets)
    assert said.returncode == 0, said.stdout
    stats = said.stdout.partition("Job stats:")[2]
    return set(re.findall(r"^(\w+) +\d+$", stats, re.MULTILINE)) - {"total", "all"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which everything was made."""
    project = copy_project(tmp_path_factory.mktemp("smoke"))
    said = run(project, "all")
    assert said.returncode == 0, said.stdout[-4000:]
    return project


def test_every_table_and_figure_is_there_in_every_format(finished: Path) -> None:
    for table in (*TABLES, *BEYOND):
        for suffix in ("csv", "csv.json", "md", "tex"):
            assert (finished / RESULTS / "tables" / f"{table}.{suffix}").stat().st_size > 0
    for figure in ("table3", *FIGURES):
        for suffix in ("csv", "csv.json", "pdf", "png"):
            assert (finished / RESULTS / "figures" / f"{figure}.{suffix}").stat().st_size > 0
    assert (finished / RESULTS / "report" / "index.html").stat().st_size > 100_000


def test_no_cell_of_a_table_is_empty(finished: Path) -> None:
    for table in TABLES:
        cells = pd.read_csv(finished / RESULTS / "tables" / f"{table}.csv")
        assert cells["mean"].notna().all()
        assert (cells["seeds"] == 1).all()


def test_a_second_call_has_nothing_to_do(finished: Path) -> None:
    said = run(finished, "all")
    assert said.returncode == 0
    assert "Nothing to be done" in said.stdout


def test_a_touch_a_comment_or_a_docstring_runs_nothing_again(finished: Path) -> None:
    path = finished / "rectify" / "similarity.py"
    before = path.read_text()
    path.touch()
    path.write_text("# a comment\n" + before.replace("Return ", "Give back ", 1))
    try:
        assert rules(finished, "all") == set()
    finally:
        path.write_text(before)


def test_an_edit_of_similarity_runs_the_similarities_again_and_no_training(finished: Path) -> None:
    path = finished / "rectify" / "similarity.py"
    before = path.read_text()
    path.write_text(before + "\nANOTHER = 1\n")
    try:
        assert rules(finished, "all") == {"similarity", "table", "figure", "page"}
    finally:
        path.write_text(before)


def test_an_edit_of_gsnr_trains_again(finished: Path) -> None:
    path = finished / "rectify" / "gsnr.py"
    before = path.read_text()
    path.write_text(before + "\nANOTHER = 1\n")
    try:
        assert {"train", "evaluate", "similarity", "table"} <= rules(finished, "all")
        assert "pretrain" not in rules(finished, "all")
    finally:
        path.write_text(before)


def test_a_training_killed_with_kill_9_goes_on_to_the_same_results(finished: Path) -> None:
    name = "glyphs_vit-s_vanilla"
    place = finished / RESULTS / "runs" / name / "seed-0"
    kept = shutil.copytree(place, finished / "kept")
    folder = finished / RESULTS
    command = (
        *("python", "-m", "rectify", "train", "--config", f"{folder}/runs/{name}/config.json"),
        *("--data", f"{folder}/data/glyphs", "--seed", "0", "--threads", "1"),
        *("--checkpoint", f"{finished}/states", "--output", f"{finished}/again"),
    )
    until_first_epoch = (
        "import subprocess, sys, time, pathlib, signal\n"
        "job = subprocess.Popen(sys.argv[2:])\n"
        "states = pathlib.Path(sys.argv[1])\n"
        "while job.poll() is None and not any(states.glob('0*.pt')): time.sleep(0.01)\n"
        "job.send_signal(signal.SIGKILL)\n"
        "sys.exit(0 if job.wait() == -signal.SIGKILL else 1)\n"
    )
    killed = call(finished, "python", "-c", until_first_epoch, f"{finished}/states", *command)
    assert killed.returncode == 0, killed.stdout
    assert not (finished / "again").exists()
    said = call(finished, *command)
    assert said.returncode == 0, said.stdout
    assert "resumed after epoch 1 of 2" in said.stdout
    again = finished / "again"
    for file in ("gsnr.csv", "model.safetensors", "summary.json"):
        assert (again / file).read_bytes() == (kept / file).read_bytes()
    histories = [pd.read_csv(one / "history.csv").drop(columns=TIMES) for one in (again, kept)]
    pd.testing.assert_frame_equal(*histories)


def test_features_name_the_weights_that_they_are_of(finished: Path) -> None:
    file = next((finished / RESULTS / "features" / "vision").glob("*.safetensors"))
    run, seed = file.stem.rsplit("--", 1)
    weights = load_file(finished / RESULTS / "runs" / run / seed / "model.safetensors")
    assert load_features(file)[1]["vision_sha256"] == sha256(weights)


@pytest.mark.parametrize("warm", [False, True])
def test_a_warm_process_gives_the_bytes_of_a_fresh_one(finished: Path, warm: bool) -> None:
    scores = next((finished / RESULTS / "similarity").glob("*.csv"))
    language, vision = scores.stem.split("--", 1)
    command = (
        *("python", "-m", "rectify", "similarity"),
        *("--language", f"{finished / RESULTS}/features/language/{language}.safetensors"),
        *("--vision", f"{finished / RESULTS}/features/vision/{vision}.safetensors"),
        *("--k", "10", "--quantile", "0.95", "--permutations", "20", "--threads", "1"),
        *("--output", f"{finished}/similarity-{warm}.csv"),
    )
    prefix = ("python", "-m", "rectify", "warm") if warm else ()
    said = call(finished, *prefix, *command)
    assert said.returncode == 0, said.stdout
    assert (finished / f"similarity-{warm}.csv").read_bytes() == scores.read_bytes()
