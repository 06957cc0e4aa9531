"""`rectify status` and `rectify doctor`, with an invented queue and on an empty machine."""

import argparse
import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest
import yaml

from rectify.cluster import doctor as examination
from rectify.cluster import slurm
from rectify.cluster.presence import PROGRESS, STATES, lease
from rectify.commands import doctor, status
from rectify.experiment.grid import load, runs_of, targets
from rectify.results.files import write_json
from tests.helpers.programs import write_programs

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "config.yaml"
TINY = (ROOT / "demo.yaml", ROOT / "tests" / "slurm" / "tiny.yaml")
RUN = "scenes_vit-64-patch7_vanilla"
RESULTS = Path("results") / "tiny"
FOLDER = RESULTS / STATES / RUN / "seed-0"
LOG = RESULTS / "logs" / "train" / f"{RUN}--0.log"
EPOCH = "rectify.train epoch 2: loss 0.1\n"
ERROR = "training: the loss must be finite, got nan.\n"


def arguments(command: ModuleType, configs: Sequence[Path], *words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([*map(str, words), "--config", *map(str, configs)])


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """A function that returns the line of a run in ``rectify status``, given a queue."""
    monkeypatch.chdir(tmp_path)

    def show(jobs: Sequence[slurm.Job] = ()) -> str:
        monkeypatch.setattr(shutil, "which", lambda name: name if jobs else None)
        monkeypatch.setattr(slurm, "jobs_of", lambda folder: list(jobs))
        status.run(arguments(status, TINY))
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if f" {RUN} seed 0" in line)

    return show


def progress() -> str:
    """Write how far a training is; return when it is expected to end."""
    path = FOLDER / PROGRESS
    write_json(path, {"epochs_done": 3, "epochs": 10, "seconds_per_epoch": 60.0})
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime + 7 * 60))


def log_of(text: str) -> None:
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text(text)


def test_a_run_is_open_then_running_then_done(shown: Callable[..., str]) -> None:
    assert shown().split()[0] == "open"
    with lease(FOLDER / "lease"):
        log_of("")
        assert shown().split()[0] == "running"
        end = progress()
        assert shown().split()[:2] == ["running", "3/10"]
        assert end in shown()
    write_json(RESULTS / "runs" / RUN / "seed-0" / "summary.json", {"epochs": 10})
    assert shown().split()[:2] == ["done", "10/10"]


def test_a_run_whose_process_is_gone_is_stopped_and_names_its_log(
    shown: Callable[..., str],
) -> None:
    with lease(FOLDER / "lease"):
        progress()
        log_of(EPOCH)
    assert shown().split()[:2] == ["stopped", "3/10"]
    assert shown().endswith(f"resumes from its state; {LOG}")


@pytest.mark.parametrize("before", ["", EPOCH])
@pytest.mark.parametrize("said", ["", ERROR])
def test_a_run_that_failed_names_its_log(shown: Callable[..., str], before: str, said: str) -> None:
    if before:
        progress()
    log_of(before * bool(said) + said)
    assert shown().split()[0] == "failed"
    assert shown().endswith(f"seed 0  {LOG}")


@pytest.mark.parametrize(
    ("state", "rule", "word"),
    [
        ("RUNNING", "train", "running"),
        ("PENDING", "train", "waiting"),
        ("PENDING", "paper_train", "waiting"),  # of a module, by its prefix
    ],
)
def test_the_queue_says_which_job_trains(
    shown: Callable[..., str], state: str, rule: str, word: str
) -> None:
    end = progress()
    jobs = [
        slurm.Job(f"{16 + n}", state, "1:00", name, f"{RUN}_0")
        for n, name in enumerate(("evaluate", rule, "pretrain"))
    ]
    line = shown(jobs=jobs)
    assert line.split()[0] == word
    assert line.endswith("SLURM job 17")
    assert (end in line) == (word == "running")


def test_a_queue_that_does_not_answer_is_said(
    shown: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    shown()
    monkeypatch.setattr(shutil, "which", lambda name: name)

    def refuse(folder: Path) -> list[slurm.Job]:
        raise ValueError("slurm: squeue must succeed, got nothing.")

    monkeypatch.setattr(slurm, "jobs_of", refuse)
    status.run(arguments(status, TINY))
    assert "The queue is unknown: slurm: squeue must succeed" in capsys.readouterr().out


@pytest.fixture
def findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., list[str]]:
    """A function that returns the doctor's lines in an empty folder with enough space."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examination, "NEEDED_BYTES", 2**20)

    def look(*words: object, configs: Sequence[Path] = TINY) -> list[str]:
        code = doctor.run(arguments(doctor, configs, *words))
        lines = capsys.readouterr().out.splitlines()
        assert code == any(line.startswith("BAD") for line in lines)
        return lines

    return look


def test_the_demo_needs_nothing_but_space(findings: Callable[..., list[str]]) -> None:
    lines = findings()
    assert [line[:4] for line in lines] == ["ok  "] * 3
    assert lines[0].startswith("ok  versions: torch 2.")


def test_too_little_space_is_bad(
    findings: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "NEEDED_BYTES", 2**60)
    (bad,) = (line for line in findings() if line.startswith("BAD"))
    assert bad.startswith("BAD space: ")
    assert bad.endswith(f", {2**30} are needed")


def test_the_papers_missing_data_are_named_each(
    findings: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "data" / "bar" / "train").mkdir(parents=True)
    (tmp_path / "data" / "cifar-100-python").mkdir()
    (tmp_path / "models" / "llama-7b").mkdir(parents=True)
    lines = findings(configs=[PAPER])
    assert "BAD data cifar100: nothing at data/cifar-100-python: docs/data.md says" in str(lines)
    assert "ok  data bar: data/bar" in lines
    for what, place in (
        ("checkpoint llama-7b", "llama-7b"),
        ("start of vit-b on ssv2", "videomae-base-ssv2.pth"),
        ("weights of vit-t", "vit-t"),
    ):
        assert f"BAD {what}: nothing at models/{place}: see docs/data.md" in lines


def test_a_machine_without_slurm_and_a_wrong_partition_are_found(
    findings: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(yaml.safe_dump({"default-resources": {"slurm_partition": "gpux"}}))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    lines = findings("--profile", profile)
    assert lines[-1] == "BAD slurm: no squeue here: run this on a login node"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Mock(returncode=1, stderr="fatal: no"))
    lines = findings("--profile", profile)
    assert lines[-1].startswith("BAD slurm: sinfo must succeed, got fatal: no. Try `sinfo ")
    monkeypatch.setattr(slurm, "ask", lambda *command: "cpu\ngpu\ngpu\n")
    lines = findings("--profile", profile)
    assert lines[-1] == "BAD partition: no partition gpux; there are: cpu, gpu"


PROFILE = {
    "default-resources": {"slurm_partition": "gpu", "slurm_account": "us", "runtime": 240},
    "set-resources": {"train": {"gpu_model": "a100"}},
}
SAID = "shared\nlocked\ncuda 1\n"
Said = str | ValueError | Callable[[], str]


@pytest.fixture
def cluster(
    findings: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[str], list[str], list[str]]]:
    """A function that returns bad lines of the doctor's, all lines, and the options of its job."""
    monkeypatch.setattr(shutil, "which", lambda name: name)

    def look(
        said: Said = SAID,
        limit: str = "infinite",
        gpus: int = 1,
        profile: dict = PROFILE,
        nodes: str = "idle gpu:a100:4\n",
    ) -> tuple[list[str], list[str], list[str]]:
        answers = {"--format=%R": "gpu\ncpu\n", "--format=%l": f"{limit}\n"}
        answers["--format=%t %G"] = nodes
        asked = []

        def ask(*command: str, seconds: float = 60) -> str:
            if "srun" not in command:
                return answers.get(command[-1], "2 nodes, gpu:2\n")
            asked.extend(command)
            if isinstance(said, ValueError):
                raise said
            return said() if callable(said) else said

        monkeypatch.setattr(slurm, "ask", ask)
        (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
        (tmp_path / "gpus.yaml").write_text(yaml.safe_dump({"device_gpus": gpus}))
        configs = [*TINY, tmp_path / "gpus.yaml"]
        lines = findings("--profile", tmp_path / "profile.yaml", configs=configs)
        return [line for line in lines if not line.startswith("ok  ")], lines, asked

    return look


def test_a_cluster_without_fault_has_no_bad_line(cluster: Callable) -> None:
    bad, lines, options = cluster()
    assert bad == []
    assert "ok  GPU: a job sees 1 of 1" in lines
    assert {"--partition=gpu", "--account=us", "--gpus=a100:1", "--immediate=600"} < set(options)


def test_fewer_gpus_than_asked_for_are_bad(cluster: Callable) -> None:
    assert cluster(gpus=4)[0] == ["BAD GPU: a job sees 1 of 4"]
    assert cluster("shared\nlocked\ncuda 4\n", gpus=4)[0] == []
    assert not any(line[4:].startswith("GPU") for line in cluster(gpus=0)[1])


@pytest.mark.parametrize(
    ("nodes", "gpus", "model", "said"),
    [
        ("down* gpu:a100:4\ndrain gpu:a100:4", 1, "a100", "0 of the 2 nodes of gpu are up, a trai"),
        ("idle* (null)", 0, None, "0 of the 1 nodes of gpu are up, a training takes 1: name anoth"),
        ("", 0, None, "0 of the 0 nodes of gpu are up"),
        ("idle gpu:v100:4\nmix~ gpu:4(S:0-1)", 1, "a100", "2 of the 2 nodes of gpu are up, 0 of t"),
        ("alloc gpu:a100:2,gpu:v100:8", 4, "a100", "0 of them with 4 or more GPUs of type a100"),
        ("mix (null)", 1, None, "0 of them with 1 or more GPUs, a training takes 1: correct gpu_m"),
        ("mix (null)", 0, None, None),
        ("mix~ gpu:a100:2(S:0),gpu:v100:2,shard:8", 4, None, None),
        ("drng gpu:a100:4\ncomp gpu:a100:4(S:0-1)", 4, "a100", None),
    ],
)
def test_a_partition_must_have_nodes_that_are_up_with_the_gpus(
    cluster: Callable, nodes: str, gpus: int, model: str | None, said: str | None
) -> None:
    profile = PROFILE | {"set-resources": {"train": {"gpu_model": model} if model else {}}}
    answer = f"shared\nlocked\ncuda {gpus}\n"
    bad, lines, job = cluster(answer, gpus=gpus, profile=profile, nodes=nodes)
    line = next(line for line in lines if line[4:].startswith("nodes"))
    assert bad == ([line] if said else [])
    assert (said or "") in line
    assert bool(job) == (said is None)  # none is submitted that would never start


def test_partitions_of_other_rules_must_exist(cluster: Callable) -> None:
    rules = PROFILE["set-resources"] | {"similarity": {"slurm_partition": "cpus"}}
    rules |= {"extract_block": {"slurm_partition": "cpu"}}
    bad, _, _ = cluster(profile=PROFILE | {"set-resources": rules})
    assert bad == ["BAD partition: no partition cpus; there are: cpu, gpu"]


@pytest.mark.parametrize(
    "said",
    [
        "srun: error: Unable to allocate resources: Requested nodes are busy",
        "srun: error: Unable to allocate resources: Immediate execution impossible, insufficient",
    ],
)
def test_a_long_queue_is_told_from_a_refusal(cluster: Callable, said: str) -> None:
    long = "BAD job: none started within 600 s: the queue is long, try again later"
    assert cluster(ValueError(f"slurm: env must succeed, got {said}."))[0] == [long]
    refusal = "slurm: env must succeed, got srun: error: Invalid account. Try `srun --immediate=9`."
    assert cluster(ValueError(refusal))[0] == [f"BAD job: {refusal}"]


@pytest.mark.parametrize(
    ("limit", "gpus", "runtime", "asked", "most"),
    [
        ("1-00:00:00", 1, None, 2880, 1440),
        ("1-00:00:00", 1, 1440, 1440, None),
        ("1-00:00:00", 1, "2d", 2880, 1440),
        ("2-00:00:00", 1, None, 2880, None),
        ("infinite", 1, None, 2880, None),
        ("30:30", 0, None, 60, 30),
        ("1:00:00", 0, None, 60, None),
    ],
)
def test_a_training_must_not_ask_for_more_than_the_partition_gives(
    cluster: Callable,
    limit: str,
    gpus: int,
    runtime: int | str | None,
    asked: int,
    most: int | None,
) -> None:
    train = {"runtime": runtime} if runtime else {}
    bad, lines, _ = cluster(
        limit=limit, gpus=gpus, profile=PROFILE | {"set-resources": {"train": train}}
    )
    line = next(line for line in lines if "time limit" in line)
    assert f"a training asks for {asked} minutes, gpu gives at most" in line
    assert bad == ([line] if most else [])
    if most:
        assert line.endswith(f"{most}: write `runtime: {most}` under `train` in slurm/profile.yaml")


@pytest.mark.parametrize("runtime", ["1-00:00:00", "a day"])
def test_a_time_that_snakemake_does_not_read_is_one_line(cluster: Callable, runtime: str) -> None:
    bad, _, _ = cluster(profile=PROFILE | {"set-resources": {"train": {"runtime": runtime}}})
    (line,) = bad
    assert line.startswith(f"BAD time limit: runtime is {runtime!r}, and must be minutes")


@pytest.mark.parametrize("fault", [None, "locks", "shared files"])
def test_the_job_itself_finds_files_and_locks_that_do_not_reach_it(
    cluster: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str | None
) -> None:
    if fault == "locks":
        monkeypatch.setattr(fcntl, "flock", lambda file, kind: None)
    place = tmp_path / "elsewhere" if fault == "shared files" else tmp_path
    write_programs(tmp_path / "bin", python="echo cuda 1")

    def job() -> str:
        place.mkdir(exist_ok=True)
        (probe,) = tmp_path.glob(".doctor-*")
        words = ("bash", "-c", examination.JOB, tmp_path / "bin" / "python", "", probe.name)
        return subprocess.run(words, cwd=place, capture_output=True, text=True, check=True).stdout

    bad, lines, _ = cluster(job)
    assert [line.split(":")[0] for line in bad] == ([f"BAD {fault}"] if fault else [])
    if fault == "locks":
        assert "mount with -o flock" in bad[0]
    assert any(line.startswith("ok  locks") for line in lines) == (fault is None)
    assert list(place.glob(".doctor-*")) == []


def test_a_file_that_is_no_yaml_mapping_is_one_line(tmp_path: Path) -> None:
    for content in ("[1]", "a: [", json.dumps("text")):
        (tmp_path / "mine.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"mine\.yaml(:\d)?: must (be YAML|hold keys)"):
            load([tmp_path / "mine.yaml"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "must be a YAML file, got No such file or directory. Correct the path."),
        ("a: [1\nb: 2", "profile.yaml:2: must be YAML, got "),
        ("- 1", "must hold keys and values, got [1]."),
        ("set-resources: [1]", "profile: set-resources must hold keys and values, got [1]."),
    ],
)
def test_a_profile_that_is_none_is_one_line_before_anything_is_looked_at(
    findings: Callable[..., list[str]], tmp_path: Path, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "profile.yaml").write_text(text)
    with pytest.raises(ValueError, match="profile") as caught:
        findings("--profile", tmp_path / "profile.yaml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_doctor_of_a_target_looks_for_no_more_than_that_needs(
    findings: Callable[..., list[str]], tmp_path: Path
) -> None:
    write_json(tmp_path / "models" / "llama-7b" / "config.json", {"model_type": "mamba"})
    table3 = [line for line in findings("table3", configs=[PAPER]) if "versions" not in line]
    whats = [line[4:].partition(":")[0] for line in table3]
    assert whats == ["space", "results", "data cifar100", "checkpoint llama-7b", "plan"]
    assert "config: languages.llama-7b.checkpoint: model_type of models/llama-7b" in table3[-1]
    figure4 = findings("figure4", configs=[PAPER])
    assert not any("cifar100" in line for line in figure4)
    assert any("data wit" in line for line in figure4)


def test_the_doctor_writes_json(findings: Callable[..., list[str]]) -> None:
    seen = [json.loads(line) for line in findings("--json")]
    assert [one["what"] for one in seen] == ["versions", "space", "results"]
    assert all(one["is_well"] for one in seen)


@pytest.fixture
def progress_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """A function that returns what ``rectify status`` says of some targets, without a queue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    def show(*words: str) -> str:
        status.run(arguments(status, TINY, *words))
        return capsys.readouterr().out

    return show


def test_the_status_of_a_target_has_its_runs_only(progress_of: Callable[..., str]) -> None:
    config = load(TINY)
    names = {run.name for run in runs_of(config, targets(config)["table3"])}
    lines = progress_of("table3").splitlines()
    assert {line.split()[-3] for line in lines[:-2]} == names
    assert lines[-2:] == [
        f"{len(names)} open", f"0 of {len(names)} trainings done, 0% of all epochs",
    ]  # fmt: skip
    assert len(progress_of().splitlines()) > len(lines)
    with pytest.raises(ValueError, match="must be what can be made, got 'tabel3'"):
        progress_of("tabel3")


def test_all_of_it_as_one_share_and_as_json(progress_of: Callable[..., str]) -> None:
    trainings = len(progress_of("table3").splitlines()) - 2
    end = progress()  # three epochs of one; the settings say two, but what is there counts
    write_json(FOLDER / PROGRESS, {"epochs_done": 1, "epochs": 2, "seconds_per_epoch": 60.0})
    with lease(FOLDER / "lease"):
        text = progress_of("table3")
        record = json.loads(progress_of("table3", "--json"))
    share = 1 / (2 * trainings)
    assert f"0 of {trainings} trainings done, {share:.0%} of all epochs; those that run" in text
    assert record["share_of_epochs"] == pytest.approx(share)
    assert (record["trainings"], record["trainings_done"]) == (trainings, 0)
    assert record["counts"] == {"running": 1, "open": trainings - 1}
    assert [one["run"] for one in record["runs"] if one["state"] == "running"] == [RUN]
    assert end  # as it is printed for a training


def test_a_watch_ends_when_all_is_done(
    progress_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            for run in runs_of(load(TINY), targets(load(TINY))["table3"]):
                write_json(RESULTS / "runs" / run.name / "seed-0" / "summary.json", {"epochs": 2})

    monkeypatch.setattr(time, "sleep", wait)
    text = progress_of("table3", "--watch")
    assert waits == [10, 10]
    assert text.count("trainings done") == 3
    assert "100% of all epochs" in text.splitlines()[-1]
