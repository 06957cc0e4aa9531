"""Tasks of which no step was timed: what is counted of them by hand, their hours, their speed."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from rectify.cost import counts
from rectify.counting import Counter
from rectify.data.situations import KINDS
from rectify.experiment import work
from rectify.experiment.account import Account
from rectify.experiment.clock import Clock
from rectify.experiment.forecast import forecast
from rectify.experiment.grid import all_runs, asked, read, recipe_of
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.speeds import load
from rectify.experiment.storage import Storage
from rectify.experiment.timing import items_per_second
from rectify.experiment.work import Flops, Subject, Work, count, subject
from rectify.typed import merge
from tests.helpers.configs import PAPER
from tests.helpers.designs import clouds, scenes

CLOUDS = {"dim": 16, "depth": 2, "heads": 2, "groups": 8, "group_size": 8, "width": 4}
METER = {
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "patch_size": 16,
    "image_dim": 8,
    "image_depth": 1,
    "image_heads": 2,
    "text_dim": 24,
    "text_depth": 1,
    "text_heads": 2,
}
ROOMS = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "embedding": 6,
    "pool_hidden": 5,
    "pool": 7,
    "width": 4,
    "sets": [32, 16, 8, 8],
    "group_sizes": [4, 4, 4, 4],
    "proposals": 9,
    "vote_group": 4,
}
TINY = {
    "data": {
        "scanobjectnn-bg": {"points": 64, "training": {"batch_size": 4}},
        "argoverse": {"training": {"batch_size": 2}},
        "vqav2": {"image_size": 32, "answers": 7, "words": 64, "training": {"batch_size": 8}},
        "flickr30k": {
            "image_size": 32,
            "false_texts": 2,
            "words": 64,
            "training": {"batch_size": 4, "accumulate": 2},
        },
        "sqa3d": {"points": 64, "answers": 5, "words": 30, "training": {"batch_size": 2}},
    },
    "visions": {
        "point-bert": {"overrides": CLOUDS},
        "vectornet": {"overrides": {"width": 4, "layers": 2}},
        "meter": {"overrides": METER},
        "sqa3d": {"overrides": ROOMS},
        "sqa3d-768": {"overrides": ROOMS},
    },
}
RUNS = {
    "point_classification": Run("scanobjectnn-bg", "point-bert"),
    "motion_forecasting": Run("argoverse", "vectornet"),
    "visual_question_answering": Run("vqav2", "meter"),
    "image_text_retrieval": Run("flickr30k", "meter"),
    "situated_question_answering": Run("sqa3d", "sqa3d"),
}
TASKS = pytest.mark.parametrize("task", RUNS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def paper() -> Plan:
    return Plan(read(PAPER))


@pytest.fixture(scope="module")
def tiny(block_file: Path) -> Plan:
    checkpoint = {"languages": {"llama-7b": {"checkpoint": f"{block_file.parent / 'tiny'}"}}}
    return Plan(read(merge(merge(PAPER, TINY), checkpoint)))


def inserted(run: Run) -> Run:
    return replace(run, variant="insert", language="llama-7b", layer=31, position="end")


def attended(own: int, others: int, dim: int) -> int:
    """Return multiply-adds of attention: four linears and two products."""
    return 2 * own * dim**2 + 2 * others * dim**2 + 2 * own * others * dim


def encoder(tokens: int, dim: int) -> int:
    """Return those of a layer of a transformer."""
    return attended(tokens, tokens, dim) + 2 * tokens * dim * 4 * dim


SEEN, HEARD = 4 + 1, 20
"""Tokens of an image of 32 pixels in patches of 16, and of a text."""


def seen(images: int) -> int:
    return images * (4 * 3 * 16**2 * 8 + encoder(SEEN, 8) + SEEN * 8 * 16)


def heard(texts: int) -> int:
    return texts * (encoder(HEARD, 24) + HEARD * 24 * 16)


def fused(pairs: int) -> int:
    own = encoder(SEEN, 16) + encoder(HEARD, 16)
    across = attended(SEEN, HEARD, 16) + attended(HEARD, SEEN, 16)
    return pairs * (2 * (own + across) + 2 * 16**2)


def room() -> int:
    """Return the multiply-adds of SQA3D's model for two texts and a room."""

    def network(rows: int, *widths: int) -> int:
        return rows * sum(one * other for one, other in pairwise(widths))

    detector = network(32 * 4, 3 + 4, 4, 4, 8) + network(16 * 4, 3 + 8, 8, 8, 16)
    detector += 2 * network(8 * 4, 3 + 16, 8, 8, 16)
    detector += network(8, 32, 16, 16) + network(16, 32, 16, 16)
    detector += network(16, 16, 16, 16, 3 + 16) + network(9 * 4, 3 + 16, 8, 8, 8)
    said = 2 + 3 + 1 + 1 + 5 * len(KINDS)
    detector += network(9, 8, 8, 8, said)
    words, dim, objects = 16, 16, 9
    text = words * 4 * dim * (6 + dim) + words * dim**2 + encoder(words, dim)
    guided = 2 * (encoder(objects, dim) + attended(objects, words, dim))
    pools = sum(rows * (dim * 5 + 5) + dim * 7 for rows in (words, words, objects))
    head = 3 * 7 * dim + dim * 5 + 2 * 7 * dim + dim * 7
    return detector + 2 * text + objects * 8 * dim + guided + pools + head


@pytest.mark.slow
def test_a_question_and_its_image_are_counted_by_hand(tiny: Plan) -> None:
    found = count(subject(tiny, RUNS["visual_question_answering"])).flops
    head = (2 * 16) ** 2 + 2 * 16 * 7
    assert found.test == found.test_trunk == 2 * (seen(1) + heard(1) + fused(1) + head)
    assert 2.5 * found.test < found.training <= 3 * found.test


def test_a_test_of_retrieval_encodes_its_images_once(tiny: Plan) -> None:
    found = count(subject(tiny, RUNS["image_text_retrieval"])).flops
    pairs = fused(3) + 3 * 2 * 16
    assert found.test == 2 * (heard(1) + pairs)
    forward = 2 * (seen(1) + heard(3) + pairs)
    assert 2.5 * forward < found.training <= 3 * forward


@pytest.mark.slow
def test_a_room_and_its_texts_are_counted_by_hand(tiny: Plan) -> None:
    found = count(subject(tiny, RUNS["situated_question_answering"]))
    assert found.flops.test == 2 * room()
    assert 2.4 * found.flops.test < found.flops.training <= 3 * found.flops.test
    assert found.launches.test > 6 * (31 + 8)  # each further point is chosen by six operators


@pytest.mark.parametrize("data", ["scanobjectnn-bg", "argoverse"])
def test_clouds_and_scenes_are_counted_as_by_cost(tiny: Plan, data: str) -> None:
    vision = "vectornet" if data == "argoverse" else "point-bert"
    overrides = TINY["visions"][vision]["overrides"]
    design = clouds(64, "opt-125m", 15, **overrides)
    if data == "argoverse":
        design = scenes("vectornet", "opt-125m", **overrides)
    slow = counts(design, "vanilla")
    found = count(subject(tiny, Run(data, vision))).flops
    assert (found.training, found.test) == (slow.training_flops, slow.flops_matmuls_with_attention)


def test_starting_an_operator_takes_less_than_all_that_was_seen() -> None:
    from rectify.trunks.vit import create_vit

    narrow = {"embed_dim": 6, "num_heads": 1, "patch_size": 4}  # as many operators as a wide one
    vit = create_vit("vit_small_patch16_224", num_classes=2, image_size=8, overrides=narrow)
    with Counter() as started:
        with torch.autocast("cpu", torch.bfloat16):
            total = vit(torch.rand(2, 3, 8, 8)).float().sum()
        total.backward()
    speeds = load(None)
    seen = min(one.batch_size / one.items_per_second for one in speeds.steps if not one.compile)
    assert speeds.launch_seconds < 0.2 * seen / started.launches


LIMIT, LAUNCH = 67e12 * 766 / 989, 5e-6
"""Of an H100 in float32, FLOP/s and seconds."""


def invented(what: Subject) -> Work:
    """Return a step that reached half of the limit, and products or launches that take longer."""
    if what.entry.get("classes") == 1000:
        trunk = int(0.5 * 766e12 / 7772)
        return Work(Flops(trunk * (2 if what.language else 1), trunk, 1, 1), 1, 1, 1, 1, 1, 1)
    small = what.task in ("motion_forecasting", "situated_question_answering")
    products = 1_000_000 if small else 3 * 10**12
    flops = Flops(9 * products, 6 * products, 3 * products, 2 * products)
    return Work(flops, 1, 1, 1, 1, 1, 1, work.Launches(4000, 3000, 1000))


ITEMS = {  # of training and test, as published, and what a test item is compared with
    "point_classification": (2_309, 581, 1),
    "motion_forecasting": (205_942, 39_472, 1),
    "visual_question_answering": (443_757, 214_354, 1),
    "image_text_retrieval": (150_070, 5_000, 1_000 / 16),
    "situated_question_answering": (26_623, 3_519, 1),
}


def by_hand(plan: Plan, task: str, share: float) -> float:
    """Return the seconds of a training, pass by pass."""
    recipe = recipe_of(plan.config, RUNS[task])
    what = invented(subject(plan, RUNS[task]))
    train, test, views = ITEMS[task]
    passed = recipe.batch_size / recipe.accumulate

    def a_pass(items: float, flops: float, launches: int) -> float:
        return max(items * flops / (share * LIMIT), launches * LAUNCH)

    now = 0.0
    for step in range(train // recipe.batch_size):
        for _ in range(recipe.accumulate):
            now += a_pass(passed, what.flops.training, 4000)
            if step < 10:
                now += (3.5 - 1) * a_pass(passed, what.flops.training_trunk, 3000)
    inputs = test * views
    now += inputs / recipe.batch_size * a_pass(recipe.batch_size, what.flops.test, 1000)
    return recipe.epochs * now


@TASKS
def test_a_training_takes_its_products_or_its_operators(paper: Plan, task: str) -> None:
    speeds = load(None)
    clock = Clock(paper, speeds, "H100", invented)
    steps = [one.items_per_second * invented(one.subject()).flops.training for one in speeds.steps]
    share = max(steps) / 766e12
    assert clock.rates.share == pytest.approx(share)
    found = clock.time("train", {"run": RUNS[task].name, "seed": "1"})
    assert (found.basis, found.seconds) == ("counted", pytest.approx(by_hand(paper, task, share)))


def test_every_training_of_both_papers_has_a_number(paper: Plan) -> None:
    for target in ("all", "pang", "rooms"):
        jobs = [
            (rule, {"run": run.name, "seed": "0"})
            for run in all_runs(asked(paper.config, [target]))
            for rule in ("train", "evaluate")
        ]
        found = forecast(paper, jobs, load(None), "H100", invented)
        assert len(found.trainings.timed) == len(found.evaluations.timed) > 5, target
        said = Account(found, Storage(*[0] * 6), [Path("config.yaml")]).text()
        assert ("at least" in found.line()) == ("rectify speeds" in said) == (target != "all")
    assert "`rectify speeds 'sqa3d_*' > speeds.yaml` on such a GPU" in said
    other = Account(found, Storage(*[0] * 6), [Path("a.yaml"), Path("b.yaml")]).text()
    assert "`rectify speeds 'sqa3d_*' --config a.yaml b.yaml > speeds.yaml`" in other


def test_a_card_of_unknown_float32_is_said_and_bfloat16_needs_none(paper: Plan) -> None:
    speeds = load(None)
    bare = speeds.cards["A100"].model_copy(update={"float32": None})
    speeds = speeds.model_copy(update={"cards": speeds.cards | {"bare": bare}})
    run = RUNS["motion_forecasting"]
    found = Clock(paper, speeds, "bare", invented).time("train", {"run": run.name})
    assert found.seconds is None
    assert found.note == "bare has no float32 in cards. Give it by --speed."
    entry = paper.config.data[run.data]
    halved = entry.model_copy(update={"training": entry.training | {"precision": "bfloat16"}})
    data = paper.config.data | {run.data: halved}
    plan = Plan(paper.config.model_copy(update={"data": data}))
    assert Clock(plan, speeds, "bare", invented).time("train", {"run": run.name}).basis == "counted"


@TASKS
def test_the_speed_of_each_task_is_timed_and_wins(tiny: Plan, task: str) -> None:
    run = RUNS[task] if task != "motion_forecasting" else inserted(RUNS[task])
    speed = items_per_second(tiny, run, torch.device("cpu"))
    file = Path("speeds.yaml")
    file.write_text(f"items_per_second: {{{run.name}: {speed}}}")
    found = Clock(tiny, load(file), "H100", invented).time("train", {"run": run.name})
    counted = Clock(tiny, load(None), "H100", invented).time("train", {"run": run.name})
    assert (found.basis, counted.basis) == ("given", "counted")
    recipe, (train, _, _) = recipe_of(tiny.config, run), ITEMS[task]
    least = recipe.epochs * (train // recipe.batch_size) * recipe.batch_size / speed
    assert found.seconds > least
