"""What the documentation shows works: the README's library example, and links between pages."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from tests.helpers.tiny_checkpoints import made_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *(ROOT / folder / "README.md" for folder in ("config", "results", "envs")),
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


@pytest.mark.parametrize("picture", ["method", "rules"])
def test_a_picture_is_small_and_says_what_it_shows(picture):
    text = (ROOT / "docs" / f"{picture}.svg").read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "<title" in text
    assert "<desc" in text
