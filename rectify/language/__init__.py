"""Language models' checkpoints, and single decoder layers out of them: as trained, or redrawn."""

from rectify.language.block import (
    Block,
    extract_block,
    load_block,
    moment_matched,
    read_block,
    redrawn,
    shuffled,
)

__all__ = [
    "Block",
    "extract_block",
    "load_block",
    "moment_matched",
    "read_block",
    "redrawn",
    "shuffled",
]
