"""Take one decoder block out of a language model's checkpoint.

Reads
    --checkpoint  .gguf file, or folder in Hugging Face's or Meta's format; only the layer and
                  the final norm
Writes
    --output      both, one .safetensors file
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import natural, tensors_path
from rectify.typed import layer_by

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--layer", type=layer_by, required=True, help="index, or a row as 30-31")
    parser.add_argument("--untrained", type=natural, metavar="SEED", help="draw the weights")
    parser.add_argument("--name", help="of the model, as runs call it; default: the checkpoint's")
    parser.add_argument("--output", type=tensors_path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.language.block import extract_block, read_block

    extract_block(args.checkpoint, args.layer, args.output, args.untrained, args.name)
    parameters = sum(parameter.numel() for parameter in read_block(args.output).parameters())
    log.info("block %s of %s: %d parameters", args.layer, args.checkpoint.name, parameters)
