"""What the documentation shows works: the README's library example, and links between pages."""

import re
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_checkpoints import made_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *(ROOT / folder / "README.md" for folder in ("results", "envs")),
]


def blocks_of(page, language):
    """The page's fenced blocks of a language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("picture", ["method", "rules"])
def test_a_picture_is_small_and_says_what_it_shows(picture):
    text = (ROOT / "docs" / f"{picture}.svg").read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "<title" in text
    assert "<desc" in text
