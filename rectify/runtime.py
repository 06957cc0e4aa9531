"""Randomness, device and precision: decided here, passed on from here.

Seeds for each purpose are derived from the run's seed by a hash, so that no two purposes
share a random stream and adding one leaves the others as they were.
"""

import contextlib
import hashlib
import os
import random

import numpy as np
import torch

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed in 0 .. 2**63-1 for one purpose, e.g. ``seed_for(0, "augment", epoch)``."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


def start(threads: int) -> torch.device:
    """Fix the number of threads, make torch deterministic, and return the device to use."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses to be that
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which forward passes run; ``float32`` changes nothing.

    Raises:
        ValueError: If the precision is neither ``float32`` nor ``bfloat16``.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"runtime: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}. "
            "Change training.precision in the config."
        )
    if PRECISIONS[precision] is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def seed_globals(seed: int, *purpose: str | int) -> None:
    """Seed the global generators of Python, NumPy and torch for one purpose.

    timm's augmentations, Mixup, stochastic depth and constructors draw from them. Seeding
    them for every step makes a resumed run repeat an uninterrupted one bit by bit.
    """
    derived = seed_for(seed, *purpose)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)
