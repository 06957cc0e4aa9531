"""What decides a number is in the code digest of the rule that writes it."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from rectify.experiment.codes import CODE, TASK_CODE
from rectify.experiment.codes import modules as named
from rectify.experiment.grid import read
from rectify.experiment.plan import Plan
from rectify.results.provenance import closure
from rectify.tasks import preparation_modules
from tests.helpers.configs import SMOKE as VALUES
from tests.workflow.project import SMOKE, call

# Floor 7, and what moves bytes, words or jobs without deciding a number.
CARRIERS = re.compile(
    r"rectify(\.(__main__|commands|cluster|experiment|results|typed"
    r"|training\.(report|state|folders|processes))(\..*)?)?$"
)
IMPORTED = (
    "import json, sys\n"
    "from rectify.__main__ import run\n"
    "status = run(sys.argv[2:])\n"
    "names = [name for name in sys.modules if name.split('.')[0] == 'rectify']\n"
    "open(sys.argv[1], 'w').write(json.dumps(sorted(names)))\n"
    "sys.exit(status)\n"
)


def modules(plan: Plan, rule: str, words: list[str]) -> set[str]:
    """Return the modules that the digest of a rule's job covers."""
    if rule == "prepare_data":
        entry = plan.config.data[words[words.index("--data") + 1]]
        return closure(*preparation_modules(entry.task, entry))
    if rule in TASK_CODE:
        return closure(*named(rule, "image_classification"))
    code = {"measure": "cost"}.get(rule, rule)
    if code in CODE:
        return closure(*(name for name in CODE[code] if "/" not in name))
    return closure(
        f"rectify.targets.{words[words.index('--target') + 1]}", "rectify.analysis.printing"
    )


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


RULES = [
    *("prepare_data", "train", "evaluate", "vision_features", "pretrain", "extract_block"),
    *("language_features", "similarity", "measure", "table", "figure"),
]


@pytest.mark.parametrize("rule", RULES)
def test_every_module_that_a_job_imports_is_covered(
    rule: str, commands: dict[str, list[str]], finished: Path, tmp_path: Path
) -> None:
    words = list(commands[rule])
    for option in ("--output", "--folder", "--states"):
        if option in words:
            place = words.index(option) + 1
            words[place] = f"{tmp_path / option.strip('-')}{Path(words[place]).suffix}"
    said = call(finished, sys.executable, "-c", IMPORTED, f"{tmp_path}/imported.json", *words)
    assert said.returncode == 0, said.stdout
    imported = set(json.loads((tmp_path / "imported.json").read_text()))
    covered = modules(Plan(read(VALUES)), rule, words)
    assert {name for name in imported - covered if not CARRIERS.match(name)} == set()


def test_the_modules_of_each_digest_exist() -> None:
    for names in (*CODE.values(), *TASK_CODE.values()):
        assert closure(*(name for name in names if "/" not in name))
