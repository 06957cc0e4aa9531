"""The documentation's pages."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks_of(page: str | Path, language: str) -> list[str]:
    """Return the page's fenced blocks of a language, in order; a path counts from the root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
