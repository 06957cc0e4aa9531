"""Hours of trainings and evaluations: against some that are timed step by step."""

from pathlib import Path

import pytest

from rectify.experiment.account import Account, size
from rectify.experiment.clock import Clock, Time, own_speed
from rectify.experiment.forecast import (
    GPUS,
    HOUR,
    Expected,
    Forecast,
    Together,
    duration,
    forecast,
    number,
)
from rectify.experiment.grid import read, recipe_of
from rectify.experiment.items import items_about
from rectify.experiment.jobs import Head, head
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.speeds import load
from rectify.experiment.storage import STATES, Storage, storage
from rectify.experiment.work import Flops, Launches, Reader, Subject, Work, alone
from tests.helpers.configs import DEMO, PAPER, changed

TRUNK = Flops(24_000, 24_000, 8_000, 8_000)
LAYER = Flops(150_000, 24_000, 70_000, 8_000)
STARTED = Launches(900, 700, 300)
LAYERED = Run("cifar100", "vit-s", "insert", "frozen", "llama-7b", 31, "end")
PLAIN = Run("cifar100", "vit-s")
NOTHING = Storage(*[0] * 6)


def invented(what: Subject | Reader) -> Work:
    """Return another work for the steps that were timed, so that no run is one of them."""
    if isinstance(what, Reader):
        return Work(Flops(0, 0, 900_000, 0), 0, 0, 0, 0, 32, 4096, Launches(0, 0, 600))
    flops = TRUNK if what.language is None else LAYER
    if is_timed(what):
        trunk = 30_000 if what.entry["image_size"] == 224 else 10_000
        total = trunk if what.language is None else 190_000
        flops = Flops(total, trunk, total // 3, trunk // 3)
    return Work(flops, 100, 120, 240, 800, 12, 384, STARTED)


def is_timed(what: Subject) -> bool:
    return what.entry.get("classes") == 1000


def plan(values: dict = PAPER, **changes: object) -> Plan:
    for path, value in changes.items():
        values = changed(values, path.replace("__", "."), value)
    return Plan(read(values))


def clock(how: Plan, card: str, speeds: dict[str, float]) -> Clock:
    """Return a clock; ``speeds`` are items per second by data set."""
    patterns = {f"{name}_*": speed for name, speed in speeds.items()}
    known = load(None).model_copy(update={"items_per_second": patterns})
    return Clock(how, known, card, invented)


def words(run: Run, seed: int = 2) -> dict[str, str]:
    return {"run": run.name, "seed": f"{seed}"}


def timed(how: Plan, run: Run, card: str = "H100", **speeds: float) -> Time:
    """Return what is expected of a run's training."""
    return clock(how, card, speeds).time("train", words(run))


def scored(how: Plan, run: Run, **speeds: float) -> Time:
    """Return what is expected of its evaluation."""
    return clock(how, "H100", speeds).time("evaluate", words(run))


def expected(rule: str, run: Run, seed: int, seconds: float, gpus: int = 1) -> Expected:
    return Expected(rule, words(run, seed), Time(seconds, "measured", gpus=gpus))


def test_a_training_takes_its_items_its_tests_and_its_measured_steps() -> None:
    how = plan(gsnr__batches=7)
    recipe, rates = recipe_of(how.config, LAYERED), Clock(how, load(None), "H100", invented).rates
    item, trunk = rates.scaled(LAYER, False).item, rates.scaled(TRUNK, False).item.training
    now = 0.0
    for step in range(50_000 // recipe.batch_size):
        now += recipe.batch_size * item.training
        if step < 7:
            now += recipe.batch_size * trunk * (3.5 - 1)
    for _ in range(10_000):
        now += item.test
    found = timed(how, LAYERED)
    assert found.seconds == pytest.approx(300 * now)
    assert found.basis == "scaled"


@pytest.mark.parametrize(("gpus", "slices"), [(1, 1), (2, 1), (4, 2), (2, 8)])
def test_small_passes_wait_for_the_processor(gpus: int, slices: int) -> None:
    nodes = {"device_gpus": gpus // 2, "device_nodes": 2} if gpus > 1 else {"device_gpus": gpus}
    how = plan(gsnr__batches=1, **nodes, data__cifar100__training__accumulate=slices)
    rates = Clock(how, load(None), "H100", invented).rates
    item, trunk = (rates.scaled(flops, False).item.training for flops in (LAYER, TRUNK))
    now, least, passed = 0.0, 256 / 7645, 256 // (gpus * slices)
    for step in range(195):
        for _ in range(slices):
            now += max(least, passed * item)
            if step == 0:
                now += (3.5 - 1) * max(least, passed * trunk)
    now += 10_000 * rates.scaled(LAYER, False).item.test / gpus
    assert timed(how, LAYERED).seconds == pytest.approx(300 * now)


def test_an_evaluation_takes_every_item_of_its_sets_on_one_gpu_and_is_not_compiled() -> None:
    how = plan(device_gpus=4, training__compile=True)
    item = Clock(how, load(None), "H100", invented).rates.scaled(LAYER, False).item.test
    found = scored(how, LAYERED)
    assert found.seconds == pytest.approx(sum(item for _ in range(10_000)))
    assert (found.basis, found.gpus) == ("scaled", 1)
    rates, timed_step = (
        Clock(how, load(None), "H100", invented).rates,
        Flops(*2 * [30_000], *2 * [10_000]),
    )
    image = rates.scaled(timed_step, False).item.test
    inputs = 50_000 * (1 + 15 * 5) + 7_500 + 50_889 + 30_000
    assert scored(how, Run("imagenet", "vit-s")).seconds == pytest.approx(inputs * image)


def test_an_evaluation_is_as_much_slower_as_the_steps_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how = plan()
    item = Clock(how, load(None), "H100", invented).rates.scaled(TRUNK, False).item
    modelled = (195 * 256 + 10 * 256 * (3.5 - 1)) * item.training
    found = scored(how, PLAIN, cifar100=1000.0)
    ratio = 195 * 256 / 1000 / modelled
    assert (found.basis, found.seconds) == ("given", pytest.approx(10_000 * item.test * ratio))


def test_a_compiled_training_is_shorter_and_a_smaller_card_slower() -> None:
    eager, compiled = plan(), plan(training__compile=True)
    assert timed(compiled, LAYERED).seconds < timed(eager, LAYERED).seconds
    slower = timed(eager, LAYERED, card="A100")
    assert slower.basis == "stated"
    assert slower.seconds == pytest.approx(timed(eager, LAYERED).seconds * 989 / 312)


def test_what_is_said_or_was_seen_comes_before_what_is_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how = plan()
    item = Clock(how, load(None), "H100", invented).rates.scaled(TRUNK, False).item
    epoch, measured = 195 * 256, 10 * 256 * (3.5 - 1)
    scaled = (epoch + measured) * item.training

    def slowed(speed: float) -> float:
        """Return seconds: tests are as much slower than modelled as trainings are."""
        return 300 * (epoch / speed + 10_000 * item.test * (epoch / speed) / scaled)

    said = timed(how, PLAIN, cifar100=1000.0)
    assert (said.basis, said.seconds) == ("given", pytest.approx(slowed(1000)))
    other = timed(how, Run("bar", "vit-s"), cifar100=1000.0)
    assert other.basis == "scaled"
    history = Path(how.results) / "runs" / PLAIN.name / "seed-0" / "history.csv"
    history.parent.mkdir(parents=True)
    lines = ["epoch,metric,value", "0,items_per_second,7", "0,lr,5"]
    lines += ["1,items_per_second,400", "2,items_per_second,800", "3,items_per_second,500"]
    history.write_text("\n".join(lines) + "\n")
    assert own_speed(history) == 500
    seen = timed(how, PLAIN, cifar100=1000.0)
    assert (seen.basis, seen.seconds) == ("own run", pytest.approx(slowed(500)))
    assert timed(how, LAYERED).basis == "scaled"
    history.write_text("\n".join(lines[:2]) + "\n")
    assert own_speed(history) == 7
    history.write_text(lines[0])
    with pytest.raises(ValueError, match=r"history\.csv: must have items_per_second") as raised:
        own_speed(history)
    assert "\n" not in f"{raised.value}"


@pytest.mark.parametrize(
    ("values", "run", "note"),
    [
        (
            DEMO | {"device_gpus": 1},
            Run("digits", "vit-48"),
            "the items of digits are counted by prepare_data",
        ),
        (DEMO, Run("digits", "vit-48"), "device_gpus is 0, and no CPU was timed"),
        (PAPER | {"device_gpus": 0}, PLAIN, "device_gpus is 0, and no CPU was timed"),
    ],
)
def test_what_is_not_known_is_said(
    values: dict, run: Run, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for found in (timed(plan(values), run), scored(plan(values), run)):
        assert (found.seconds, found.basis) == (None, "unknown")
        assert note in found.note


def test_a_task_that_was_never_timed_and_a_model_that_is_not_there_are_said() -> None:
    def bare(what: Subject) -> Work:
        return invented(what)._replace(flops=None)

    def missing(what: Subject) -> Work:
        if not is_timed(what):
            raise ValueError("cost: no such model")
        return invented(what)

    how, speeds = plan(), load(None)
    found = Clock(how, speeds, "H100", bare).time("train", words(Run("argoverse", "vectornet")))
    assert found.seconds is None
    assert found.note.startswith("motion_forecasting has no `example`, whose work could be counted")
    found = Clock(how, speeds, "H100", missing).time("train", words(PLAIN))
    assert (found.seconds, found.note, found.work) == (None, "cost: no such model", None)


def test_items_of_published_sets_are_known_before_they_are_prepared() -> None:
    how = plan()
    assert items_about(how, "cifar100-10pc", "train") == 5_000
    assert items_about(how, "cifar100-10pc", "test") == 10_000
    both = [items_about(how, "caltech256", split) for split in ("train", "test")]
    assert both == [20_846, 8_934]  # 7 : 3 of 29,780
    clouds = [f"scanobjectnn-{name}" for name in ("bg", "only", "hardest")]
    found = [items_about(how, name, split) for name in clouds for split in ("train", "test")]
    assert found == [2_309, 581, 2_309, 581, 11_416, 2_882]
    assert items_about(plan(data__bar__full=False), "bar", "train") is None


def jobs_of(runs: dict[Run, int]) -> list[tuple[str, dict[str, str]]]:
    pairs = [(run.name, seed) for run, seeds in runs.items() for seed in range(seeds)]
    return [
        (rule, {"run": run, "seed": f"{seed}"})
        for run, seed in pairs
        for rule in ("train", "evaluate")
    ]


FURTHER = [
    ("extract_block", {"language": "llama-7b", "layer": "31"}),
    ("extract_block", {"language": "opt-125m", "layer": "3"}),  # of no training
    ("pretrained_features", {"pairs": "wit", "vision": "vit-s"}),
    ("language_features", {"pairs": "wit", "language": "llama-7b"}),
    ("vision_features", {"pairs": "cap3d", "run": PLAIN.name, "seed": "1"}),
]


def test_all_that_is_said_of_a_plan_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    how, runs = plan(data__bar__full=False), {PLAIN: 2, LAYERED: 3, Run("bar", "vit-s"): 1}
    jobs = [*jobs_of(runs), *FURTHER]
    found = forecast(how, jobs, load(None), "H100", invented)
    hours = {run: timed(how, run).seconds / HOUR for run in (PLAIN, LAYERED)}
    tests = {run: scored(how, run).seconds / HOUR for run in (PLAIN, LAYERED)}
    a_clock = clock(how, "H100", {})
    features = [a_clock.time(*job).seconds / HOUR for job in FURTHER[2:4]]
    assert found.trainings.gpu_hours == pytest.approx(2 * hours[PLAIN] + 3 * hours[LAYERED])
    assert found.evaluations.gpu_hours == pytest.approx(2 * tests[PLAIN] + 3 * tests[LAYERED])
    assert found.further.gpu_hours == pytest.approx(sum(features))
    assert dict(found.without) == {"extract_block": 2}
    taken = storage(how, jobs, found.trainings.each, invented)
    assert taken == Storage(
        models=6 * 100,
        predictions=5 * 10_000 * (8 + 3 * 4),  # item; accuracy, that of k, loss
        layers=800,
        features=1024 * (12 * 384 + 32 * 4096) * 4,
        last_states=6 * 120,
        running_states=STATES * (120 + 240),
    )
    record = Account(found, taken).record()
    assert record["other_jobs"] == {
        "evaluate": 6,
        "extract_block": 2,
        **dict.fromkeys(("pretrained_features", "language_features", "vision_features"), 1),
    }
    assert (record["trainings"], record["trainings_timed"]) == (6, 5)
    assert (record["evaluations"], record["evaluations_timed"]) == (6, 5)
    assert (record["longest"]["rule"], record["longest"]["run"]) == ("train", LAYERED.name)
    assert record["longest"]["hours"] == pytest.approx(hours[LAYERED])
    both = record["gpu_hours"], record["evaluation_gpu_hours"]
    total = record["every"]["gpu_hours"]
    assert total == pytest.approx(sum(both) + sum(features))
    assert total == pytest.approx(sum(one["gpu_hours"] for one in record["rules"].values()))
    assert record["every"]["jobs"] == sum(one["jobs"] for one in record["rules"].values()) == 15
    assert record["wall_hours"]["1"] == pytest.approx(total)
    assert record["wall_hours"]["16"] == pytest.approx(hours[LAYERED] + tests[LAYERED])
    names, sums = ("runs", "evaluated_runs", "further_jobs"), (*both, sum(features))
    unknown = [["the items of bar are counted by prepare_data"]] * 2
    unknown += [["the items of cap3d are counted by prepare_data"]]
    for name, hours_of_all, notes in zip(names, sums, unknown, strict=True):
        assert sum(one["hours"] or 0 for one in record[name]) == pytest.approx(hours_of_all)
        assert [one["note"] for one in record[name] if one["hours"] is None] == notes


def test_the_text_has_a_line_for_each_kind_of_run_and_each_rule_and_their_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how, runs = plan(data__bar__full=False), {PLAIN: 2, LAYERED: 3, Run("bar", "vit-s"): 1}
    jobs = [*jobs_of(runs), *FURTHER]
    found = forecast(how, jobs, load(None), "H100", invented)
    text = Account(found, storage(how, jobs, found.trainings.each, invented)).text()
    rows = [line.split() for line in text.splitlines()]
    assert [(*row[:4], row[-1]) for row in rows if row[:1] == ["cifar100"]] == [
        ("cifar100", "vit-s", "vanilla", "2", "scaled"),
        ("cifar100", "vit-s", "insert", "3", "scaled"),
    ]
    parts = (found.trainings, found.evaluations, found.further, found.every)
    names = ("train", "evaluate", "language_features", "all")
    for name, jobs_of_it in zip(names, parts, strict=True):
        (row,) = (row for row in rows if row[:1] == [name])
        assert number(jobs_of_it.gpu_hours) in row
    assert [row for row in rows if row[:1] == ["vision_features"]] == [
        ["vision_features", "1", "-", "-", "unknown"]
    ]
    (total,) = (row for row in rows if row[:1] == ["all"])
    assert (total[1], total[-3:]) == ("15", ["counted,", "scaled,", "unknown"])
    longest = duration(timed(how, LAYERED).seconds)
    for line in (
        f"time on H100: at least {found.walls()}",
        f"longest job: train {LAYERED.name} seed 0, {longest}",
        "other jobs, of which no hours are known: extract_block 2",
        "unknown: the items of bar are counted by prepare_data",
    ):
        assert line in text.splitlines()
    assert "scaled: by FLOPs" in text
    assert "stated:" not in text
    assert "rectify speeds" not in text  # which times trainings, and none of these is counted
    assert found.line().count("of unknown length") == 3
    assert "; 3 further jobs: at least" in found.line()


def test_a_training_on_more_gpus_than_there_are_has_no_hours() -> None:
    trainings = [expected("train", PLAIN, seed, HOUR, gpus=4) for seed in range(3)]
    shared = Forecast(trainings, "H100", {})
    assert [shared.wall_hours(gpus) for gpus in GPUS] == [None, 3.0, 2.0, 1.0]
    assert shared.trainings.gpu_hours == 12.0
    assert "time on H100: some - / 3.0 / 2.0 / 1.0 h on 1 / 4 / 8 / 16 GPUs" in (
        Account(shared, NOTHING).text()
    )


def test_what_takes_a_run_s_model_follows_its_training_and_can_be_the_longest_job() -> None:
    trained = expected("train", PLAIN, 0, HOUR, gpus=4)
    tests = [expected("evaluate", PLAIN, 0, HOUR / 2), expected("evaluate", LAYERED, 1, 5 * HOUR)]
    tests[1] = tests[1]._replace(time=tests[1].time._replace(basis="counted"))
    seen = expected("filtering", PLAIN, 0, HOUR / 4)
    alone = Expected("measure", {"vision": "a", "language": "b"}, Time(9 * HOUR, "scaled"))
    both = Forecast([trained, *tests, seen], "H100", {"evaluate": 2})
    assert both.wall_hours(4) == pytest.approx(5 + 1 + 0.75)  # the longest goes first, on one GPU
    assert both.wall_hours(8) == pytest.approx(5)
    assert Forecast([*both.each, alone], "H100", {}).wall_hours(8) == pytest.approx(9)
    text = Account(both, NOTHING).text()
    assert f"longest job: evaluate {LAYERED.name} seed 1, 5.0 h" in text
    assert "`rectify speeds 'cifar100_*' > speeds.yaml`" in text
    assert both.line().startswith(
        "1 training: some 4.0 GPU-hours (H100, measured); 2 evaluations: "
    )
    assert "2 evaluations: at least 5.5 GPU-hours (H100, counted); 1 further job: some" in (
        both.line()
    )
    tested = Forecast(tests, "H100", {"evaluate": 2})
    assert tested.line().startswith("2 evaluations: at least 5.5 GPU-hours")
    assert Account(tested, NOTHING).record()["longest"]["rule"] == "evaluate"


def test_hours_are_a_bound_where_more_than_a_hundredth_is_counted_or_some_are_unknown() -> None:
    long, other = (expected("train", PLAIN, seed, HOUR) for seed in (0, 1))
    for seconds, basis, is_bound in (
        (HOUR / 200, "counted", False),
        (HOUR / 50, "counted", True),
        (HOUR / 50, "stated", False),
        (None, "unknown", True),
    ):
        jobs = Together("job", [long, other._replace(time=Time(seconds, basis))])
        assert jobs.is_bound == is_bound, (seconds, basis)


def test_the_head_of_a_plan_is_one_line_and_none_where_nothing_takes_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    from snakemake_interface_logger_plugins.common import LogEvent

    from rectify.experiment import jobs as module

    how, jobs = plan(), [*jobs_of({PLAIN: 1, LAYERED: 2}), *FURTHER[:4]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "known", lambda what: None)
    assert head(how, jobs).startswith("3 trainings; `rectify plan`")
    assert head(how, jobs[:1]).startswith("1 training; ")
    assert head(how, FURTHER).startswith("3 jobs; `rectify plan` says how long they take")
    monkeypatch.setattr(module, "known", invented)
    said, found = head(how, jobs), forecast(how, jobs, load(None), "H100", invented)
    assert said.startswith(f"3 trainings: some {found.trainings.gpu_hours:.1f} GPU-hours (H100, ")
    assert "; 3 evaluations: some" in said
    assert f"; 2 further jobs: at least {number(found.further.gpu_hours)} GPU-hours" in said
    hours = [f"{found.wall_hours(gpus):.1f}" for gpus in GPUS]
    longest = duration(found.every.timed[0].time.seconds)
    assert f"; {' / '.join(hours)} h on 1 / 4 / 8 / 16 GPUs; the longest {longest}; " in said
    assert f"; {size(sum(storage(how, jobs, found.trainings.each, invented)))} of results" in said
    later = Forecast([expected("train", PLAIN, 0, HOUR)], "H100", {})  # a model that is not known
    assert Account(later, NOTHING).line().endswith("; at least 0 B of results and states")
    assert head(how, FURTHER).startswith("3 further jobs: at least")
    assert head(how, FURTHER[:2]) == ""
    said: list[str] = []
    handler = Head(how, lambda: jobs, said.append)
    record = logging.makeLogRecord({"event": LogEvent.RUN_INFO})
    handler.emit(logging.makeLogRecord({"msg": "another"}))
    assert said == []
    handler.emit(record)
    handler.emit(record)  # a dry run has it at its end, too
    assert said == [head(how, jobs)]
    asked = tmp_path / "jobs.json"
    monkeypatch.setenv("RECTIFY_PLANNED", f"{asked}")
    Head(how, lambda: jobs, said.append).emit(record)
    assert len(said) == 1
    assert [tuple(job) for job in module.read_json(asked)] == jobs


def test_hours_have_no_more_digits_than_are_known() -> None:
    assert [number(hours) for hours in (1234.5, 12.6, 7.25, 0.1, 0.042, 0.0009, 0.0)] == [
        *("1,234", "13", "7.2", "0.1", "0.04", "<0.001", "0")
    ]
    times = (0.2, 1.4, 59.7, 3599, 2 * HOUR, 40 * HOUR)
    assert [duration(seconds) for seconds in times] == [
        *("<1 s", "1 s", "1 min", "1.0 h", "2.0 h", "40 h")
    ]
    assert duration(*times) == "<1 s to 40 h"
    assert duration(40 * HOUR, 2 * HOUR) == "2.0 to 40 h"
    assert duration(0.2, 0.1) == "<1 s"


def test_what_is_counted_of_a_model_of_timm_names_it() -> None:
    assert alone("a", {"depth": 2}, 32).key != alone("a", {"depth": 2}, 64).key
