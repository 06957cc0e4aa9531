"""What the documentation shows works: the README's library example, and links between pages."""

import argparse
import functools
import importlib
import re
import shlex

import numpy as np
import pytest
import timm
import torch
import yaml
from snakemake.cli import get_argument_parser

from rectify.__main__ import COMMANDS, _parse
from rectify.experiment.check import RULES
from rectify.gsnr import gradient_moments, gsnr
from tests.helpers.pages import ROOT, blocks_of
from tests.helpers.tiny_checkpoints import made_checkpoint

PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *(ROOT / folder / "README.md" for folder in ("config", "results", "envs")),
]
PRESENT = [page for page in PAGES if page.name not in {"CHANGELOG.md", "log.md"}]  # not what was


def test_the_readmes_library_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = blocks_of("README.md", "python")
    folder = tmp_path / "models" / "llama-7b"
    made_checkpoint(folder, model_type="llama", intermediate_size=48, num_hidden_layers=32)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    plain, debiased, shared = (float(word) for word in capsys.readouterr().out.split())
    assert plain > debiased
    assert shared == pytest.approx(10 / 1023, abs=0.004)  # two independent spaces
    assert len(names["moments"]) == 12 * 12  # twelve parameters in each of ViT-Ti's blocks


def test_the_library_pages_examples_run_one_after_the_other(capsys):
    torch.manual_seed(0)
    np.random.seed(0)
    names: dict[str, object] = {}
    for number, example in enumerate(blocks_of("docs/library.md", "python")):
        exec(compile(example, f"docs/library.md, example {number}", "exec"), names)
    noise, shared, score, shape = capsys.readouterr().out.splitlines()
    assert [float(word) for word in noise.split()] == [pytest.approx(0, abs=0.1), 0]
    assert float(shared) == pytest.approx(10 / 499, abs=0.01)
    assert float(score) == 0
    assert shape == "torch.Size([1, 1000])"
    plain = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=2, num_heads=2)
    plain.load_state_dict(names["state"], strict=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("picture", ["gsnr", "method", "rules"])
def test_a_picture_is_small_and_says_what_it_shows(picture):
    text = (ROOT / "docs" / f"{picture}.svg").read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "<title" in text
    assert "<desc" in text


def test_the_gsnr_in_the_picture_is_that_of_its_arrows():
    """Both panels have the same mean, and the number that ``rectify.gsnr`` gives for them."""
    text = (ROOT / "docs" / "gsnr.svg").read_text(encoding="utf-8")
    printed = [float(number) for number in re.findall(r">GSNR ([\d.]+)<", text)]
    arrow = r'class="{}" d="M\d+ \d+ l(-?[\d.]+) (-?[\d.]+)"'
    samples = torch.tensor([[*map(float, xy)] for xy in re.findall(arrow.format("sample"), text)])
    means = torch.tensor([[*map(float, xy)] for xy in re.findall(arrow.format("mean"), text)])
    for arrows, mean, number in zip(samples.split(8), means, printed, strict=True):
        torch.testing.assert_close(arrows.mean(0), mean)
        model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        moments = gradient_moments(model, arrows, torch.zeros(8), own_output, ["0"])
        assert float(gsnr(moments)) == pytest.approx(number, abs=0.005)
    assert torch.equal(means[0], means[1])


def own_output(outputs, _):
    """Return each sample's output as its loss: the gradient of a linear layer is then its input."""
    return outputs[:, 0]


def test_every_page_is_on_the_site():
    """Each page is named in a list of the site's contents, by itself or by a pattern."""
    site = ROOT / "docs" / "site"
    lists = [
        (page.parent, line.partition("<")[2].rstrip(">") or line)
        for page in site.rglob("*.md")
        for block in blocks_of(page, "{toctree}")
        for line in block.splitlines()
        if line and not line.startswith(":")
    ]
    listed = {path.resolve() for folder, name in lists for path in _matching(folder, f"{name}.md")}
    assert {*PAGES, *ROOT.glob("rectify/tasks/*/README.md")} - listed == {site / "index.md"}


def _matching(folder, name):
    """Return the files that an entry of a list of contents means, relative to its page."""
    while name.startswith("../"):
        folder, name = folder.parent, name[3:]
    return folder.glob(name)


def commands_in(page, program):
    """Return the command lines of a program that a page shows, in blocks and within sentences."""
    shown = rf"(?:^ {{4}}|`)(?:\.venv/bin/)?{program} ([^`\n]*)"
    return _lines(page, shown)


def blocks_in(page, program):
    """Return the command lines in blocks alone, which are complete."""
    return _lines(page, rf"^ {{4}}{program} ([^`\n]*)")


def _lines(page, shown):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(shown, text, re.MULTILINE)
    return [shlex.split(line.partition(" # ")[0]) for line in found]


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page):
    """Of this package: each name is a command, and each option one that its parser knows."""
    for name, *words in commands_in(page, "rectify"):
        if name.startswith(("-", "<")):
            continue
        assert name in COMMANDS
        if name == "warm":  # the words are another program's
            continue
        parser = argparse.ArgumentParser()
        command = importlib.import_module(f"rectify.commands.{name.replace('-', '_')}")
        command.add_arguments(parser)
        options = {word.strip(".,") for word in words if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", parser.format_help()))


SECTIONS, OWN = ("experiments", "targets", "pages"), ("mine", "my-")
WHOLE = [(page, words) for page in PRESENT for words in blocks_in(page, "rectify")]


@pytest.mark.parametrize(("page", "words"), WHOLE)
def test_a_command_in_a_block_is_accepted_by_its_parser(page, words):
    """It is complete: each option that must be there is there, and values are of their types."""
    module, _ = _parse([word for word in words if word != "..."])
    assert module.__name__ == f"rectify.commands.{words[0].replace('-', '_')}"


snakemake_parser = functools.cache(get_argument_parser)
PLANS = [
    (page, words)
    for page in PRESENT for words in commands_in(page, "snakemake")
    if words and not {"...", "<target>", "<experiment>"} & {*words}
]  # fmt: skip


@pytest.mark.parametrize(("page", "words"), PLANS)
def test_snakemake_accepts_a_line_and_its_configuration_has_its_targets(page, words):
    """Its parser knows all options; files are there, or on the page; targets are names or files.

    What begins with ``my-`` or ``mine`` is the reader's own.
    """
    asked = snakemake_parser().parse_args([word for word in words if "<" not in word])
    shown = {block.partition("\n")[0]: block for block in blocks_of(page, "yaml")}
    known = {*RULES}
    for name in map(str, asked.configfile or ["config.yaml"]):
        if f"# {name}" in shown or not name.startswith(OWN):
            text = shown.get(f"# {name}") or (ROOT / name).read_text(encoding="utf-8")
            known |= names_in(text)
    profiles = [name for name in asked.profile or () if not name.startswith(OWN)]
    assert all((ROOT / name / "profile.yaml").is_file() for name in profiles)
    names = {name for name in asked.targets if not name.startswith((*OWN, "results/"))}
    assert names <= known


@functools.cache
def names_in(text):
    """Return what a configuration names that can be asked for."""
    values = yaml.safe_load(text)
    return {name for section in SECTIONS for name in values.get(section, {})}


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_of_make_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    words = [word for line in commands_in(page, "make") for word in line]
    assert {word for word in words if re.fullmatch("[a-z-]+", word)} <= verbs
