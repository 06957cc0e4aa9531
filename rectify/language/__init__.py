"""Language models' checkpoints, and single decoder layers out of them: as trained, or redrawn."""

from rectify.language.block import Block, Stack, extract_block, load_block, read_block
from rectify.language.untrained import moment_matched, redrawn, shuffled

__all__ = [
    "Block",
    "Stack",
    "extract_block",
    "load_block",
    "moment_matched",
    "read_block",
    "redrawn",
    "shuffled",
]
