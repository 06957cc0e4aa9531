"""What decides a number is in the code digest of the rule that writes it."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from rectify import targets
from rectify.cluster.warm import PRELOADED
from rectify.experiment.codes import CODE, TASK_CODE
from rectify.experiment.codes import modules as named
from rectify.experiment.grid import read
from rectify.experiment.plan import Plan
from rectify.results.provenance import closure
from rectify.tasks import masks_modules, preparation_modules
from tests.helpers.configs import SMOKE as VALUES
from tests.workflow.project import SMOKE, call

# Floor 7, and what moves bytes, words or jobs without deciding a number.
CARRIERS = re.compile(
    r"rectify(\.(__main__|arguments|commands|cluster|experiment|results|typed"
    r"|training\.(report|state|folders|processes))(\..*)?|\.filtering(\.settings)?)?$"
)
# Each job in a fork of a process that has imported other packages only.
IMPORTED = """
import importlib, json, os, sys
for name in sys.argv[2].split():
    importlib.import_module(name)
assert not [name for name in sys.modules if name.split(".")[0] == "rectify"]
for rule, words in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        from rectify.__main__ import run
        status = run(words)
        names = [name for name in sys.modules if name.split(".")[0] == "rectify"]
        open(f"{sys.argv[3]}/{rule}.json", "w").write(json.dumps([status, names]))
        os._exit(0)
    os.wait()
"""


def modules(plan: Plan, rule: str, words: list[str]) -> set[str]:
    """Return the modules that the digest of a rule's job covers."""
    if rule == "prepare_data":
        entry = plan.config.data[words[words.index("--data") + 1]]
        return closure(*preparation_modules(entry.task, entry))
    if rule == "prepare_masks":
        entry = plan.config.data[words[words.index("--data") + 1]]
        return closure(*masks_modules(entry.task, entry))
    code = {"measure": "cost"}.get(rule, rule)
    if code in TASK_CODE:
        covered = named(code, "image_classification")
        return closure(*(name for name in covered if "/" not in name))
    if code in CODE:
        return closure(*(name for name in CODE[code] if "/" not in name))
    tasks = {entry.task for entry in plan.config.data.values()}
    kind = plan.targets[words[words.index("--target") + 1]].kind
    shown = targets.code_modules(kind, tasks)
    return closure(*(name for name in shown if "/" not in name))


@pytest.fixture(scope="module")
def commands(finished: Path) -> dict[str, list[str]]:
    """Return the command line of one job of each rule with a digest."""
    options = ("-n", "-F", "-p", "--configfile", *SMOKE, "--", "all")
    said = call(finished, "snakemake", *options)
    assert said.returncode == 0, said.stdout
    found: dict[str, list[str]] = {}
    pattern = re.compile(
        r"^(?:local)?rule (\w+):\n(?:    .*\n)*Shell command: ((?:exec )?python -m rectify .*) > ",
        re.MULTILINE,
    )
    for rule, text in pattern.findall(said.stdout):
        words = shlex.split(text.removeprefix("exec "))[3:]
        is_glyphs = "glyphs" in text or rule not in ("train", "evaluate")
        if is_glyphs and "fetch" not in rule:
            found.setdefault(rule, words)
    return found


@pytest.fixture(scope="module")
def imported(
    commands: dict[str, list[str]], finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[str]]:
    """Return the modules that the job of each rule imports."""
    folder, jobs = tmp_path_factory.mktemp("digests"), {}
    for rule in RULES:
        jobs[rule] = list(commands[rule])
        for option in ("--output", "--folder", "--states"):
            if option in jobs[rule]:
                place = jobs[rule].index(option) + 1
                suffix = Path(jobs[rule][place]).suffix
                jobs[rule][place] = f"{folder}/{rule}{option}{suffix}"
    others = " ".join(name for name in PRELOADED if not name.startswith("rectify"))
    said = call(finished, sys.executable, "-c", IMPORTED, json.dumps(jobs), others, f"{folder}")
    found = {rule: json.loads((folder / f"{rule}.json").read_text()) for rule in RULES}
    assert {status for status, _ in found.values()} == {0}, said.stdout
    return {rule: set(names) for rule, (_, names) in found.items()}


RULES = [
    *("prepare_data", "train", "evaluate", "vision_features", "pretrain", "extract_block"),
    *("prepare_masks", "filtering"),
    *("language_features", "similarity", "measure", "table", "figure"),
]


@pytest.mark.parametrize("rule", RULES)
def test_every_module_that_a_job_imports_is_covered(
    rule: str, commands: dict[str, list[str]], imported: dict[str, set[str]]
) -> None:
    covered = modules(Plan(read(VALUES)), rule, commands[rule])
    found = imported[rule]
    assert found
    assert {name for name in found - covered if not CARRIERS.match(name)} == set()


def test_the_modules_of_each_digest_exist() -> None:
    for names in (*CODE.values(), *TASK_CODE.values()):
        assert closure(*(name for name in names if "/" not in name))
