"""What is there and does not fit the configuration is told before any job."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rectify.experiment.grid import asked, read
from rectify.experiment.items import items_of
from rectify.experiment.plan import Plan
from rectify.experiment.there import check, families, mistakes
from rectify.results.files import write_json
from tests.helpers.configs import DEMO, PAPER, ROOT, changed

LLAMA = Path("models") / "llama-7b"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(values: dict = PAPER, path: str = "title", value: object = "T") -> Plan:
    return Plan(read(changed(values, path, value)))


def checkpoint(folder: Path = LLAMA, **values: object) -> None:
    write_json(folder / "config.json", {"model_type": "llama", "num_hidden_layers": 32, **values})


def prepared(config: Plan, name: str, **items: int) -> None:
    """Write what is noted of a prepared set, as far as it is read here."""
    facts = {"settings": config.config.data[name].preparation(), "items": items}
    write_json(Path(f"{config.prepared(name)}.json"), {"provenance": {"facts": facts}})


def test_the_families_are_those_that_can_be_read() -> None:
    from rectify.language.families import FAMILIES

    assert list(families()) == list(FAMILIES)


@pytest.mark.slow
def test_nothing_of_it_takes_torch() -> None:
    plan()  # so that the depths of the models are known, whose first reading does take it
    code = (
        "import sys, yaml\n"
        "from rectify.experiment import grid, there\n"
        "from rectify.experiment.plan import Plan\n"
        "there.check(Plan(grid.read(yaml.safe_load(open(sys.argv[1])))))\n"
        "there.families()\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, f"{ROOT / 'config.yaml'}"], cwd=ROOT, check=True)


def test_nothing_has_to_be_there() -> None:
    assert mistakes(plan()) == mistakes(plan(DEMO)) == []
    LLAMA.mkdir(parents=True)
    assert mistakes(plan()) == []


@pytest.mark.parametrize("where", ["results", "results/paper"])
def test_what_is_in_the_place_of_the_results_is_one_line(where: str) -> None:
    place = Path(where)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(Path.cwd() / "scratch")
    (line,) = mistakes(plan())
    assert f"results: {where} must be a folder" in line
    assert f"a link to {Path.cwd() / 'scratch'}." in line
    Path("scratch").mkdir()
    assert mistakes(plan()) == []
    place.unlink()
    place.touch()
    (line,) = mistakes(plan())
    assert "got a file" in line


def test_a_checkpoint_that_fits_is_no_mistake() -> None:
    checkpoint()
    assert mistakes(plan()) == []
    checkpoint(num_hidden_layers=None, n_layer=32, model_type="gpt2")
    assert mistakes(plan()) == []
    (LLAMA / "config.json").unlink()
    (LLAMA / "params.json").touch()  # Meta's
    assert mistakes(plan()) == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_hidden_layers": 30}, "languages.llama-7b.layers: must be those of models/llama-7b/"),
        ({"n_layer": 30, "num_hidden_layers": None}, "config.json, 30, got 32. Correct"),
        ({"model_type": "mamba"}, "must be one of bloom, "),
        ({"model_type": None}, "got None. Choose another model."),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    values: dict[str, object], sentence: str
) -> None:
    checkpoint(**values)
    (line,) = mistakes(plan())
    assert line.startswith("config: languages.llama-7b.")
    assert sentence in line
    assert "\n" not in line
    with pytest.raises(ValueError, match="llama-7b"):
        check(plan())


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_config_is_one_line(text: str) -> None:
    LLAMA.mkdir(parents=True)
    (LLAMA / "config.json").write_text(text)
    (line,) = mistakes(plan())
    assert "models/llama-7b/config.json" in line
    assert "\n" not in line


def test_a_folder_of_something_else_is_told_but_half_a_download_is_not() -> None:
    LLAMA.mkdir(parents=True)
    (LLAMA / "README.md").touch()
    (line,) = mistakes(plan())
    assert "or a folder with config.json or params.json, got neither in models/llama-7b" in line
    (LLAMA / ".cache").mkdir()
    assert mistakes(plan()) == []


def test_only_models_that_jobs_read_are_looked_at() -> None:
    checkpoint(num_hidden_layers=30)
    assert mistakes(Plan(asked(read(PAPER), ["table2"]))) == []
    assert len(mistakes(Plan(asked(read(PAPER), ["table3"])))) == 1


def test_more_measured_batches_than_steps_are_told_as_soon_as_the_set_is_known() -> None:
    config = plan(DEMO, "gsnr.batches", 999)
    assert mistakes(config) == []
    prepared(config, "digits", train=1000, test=400)
    (line,) = mistakes(config)
    size = DEMO["data"]["digits"]["training"]["batch_size"]
    assert f"config: gsnr.batches: must be at most the {1000 // size} steps of an epoch" in line
    assert mistakes(plan(DEMO, "gsnr.batches", 1000 // size)) == []
    assert len(mistakes(plan(DEMO, "gsnr.batches", 1000 // size + 1))) == 1


def test_a_batch_larger_than_the_set_is_told() -> None:
    config = plan(DEMO)
    prepared(config, "digits", train=50)
    assert "batch_size: must not exceed the 50 training items of digits" in mistakes(config)[0]


def test_a_full_set_has_the_items_that_were_published() -> None:
    assert items_of(plan(PAPER, "data.cifar100.full", True), "cifar100", "train") == 50_000
    assert items_of(plan(PAPER, "data.cifar100.full", False), "cifar100", "train") is None
    lines = mistakes(plan(changed(PAPER, "data.cifar100.full", True), "gsnr.batches", 10**6))
    assert "steps of an epoch of cifar100, got 1000000" in str(lines)


def test_a_set_that_was_prepared_otherwise_says_nothing() -> None:
    config = plan(DEMO)
    prepared(config, "digits", train=50)
    other = plan(DEMO, "data.digits.image_size", 56)
    assert items_of(config, "digits", "train") == 50
    assert items_of(other, "digits", "train") is None


@pytest.mark.parametrize(("k", "is_told"), [(1023, False), (1024, True)])
def test_neighbours_must_be_fewer_than_the_pairs(k: int, is_told: bool) -> None:
    config = plan(PAPER, "similarity.k", k)
    assert items_of(config, "wit", "pairs") == 1024
    lines = mistakes(config)
    assert lines == is_told * ["config: similarity.k: must be below the 1024 items of wit, got "
                               f"{k}. Lower it."]  # fmt: skip
    assert json.dumps(lines)


def test_drawn_pairs_are_as_many_as_the_configuration_says() -> None:
    pairs = DEMO["similarity"]["pairs"]
    config = plan(changed(DEMO, f"data.{pairs}.sizes.items", 12), "similarity.k", 12)
    assert mistakes(config) == [
        f"config: similarity.k: must be below the 12 items of {pairs}, got 12. Lower it."
    ]
