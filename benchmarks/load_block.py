"""`python -m benchmarks.load_block FOLDER`: seconds and memory of one block of a checkpoint.

FOLDER is from `python -m benchmarks.make_llama`. Each way runs in a process of its own, in turn
with the others, after the file cache has been told to drop the checkpoint:

    imports  torch, transformers and rectify alone
    read     the bytes of the last layer, as a plain file
    block    load_block(FOLDER, last layer)
    forward  the same, and the tokens of one image through it in float32
    whole    transformers' own from_pretrained in the checkpoint's precision, and each weight read
             once, since it only maps them (asked by --whole)

Memory is the peak of the process (VmHWM), with what the imports take and mapped pages of files.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LAYER = "model.layers.{}."


def main() -> None:
    """Measure every way in turn and print medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        sys.stdout.write(json.dumps(measured(args.way, args.folder)))
        return
    ways = [way for way in WAYS if way != "whole" or args.whole]
    found = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way in ways:
            found[way].append(_in_process(way, args.folder))
    for way, results in found.items():
        seconds, peaks = zip(*results, strict=True)
        sys.stdout.write(
            f"{way:8} {statistics.median(seconds):7.2f} s [{min(seconds):.2f} .. "
            f"{max(seconds):.2f}]  peak {statistics.median(peaks) / 1e6:8.0f} MB\n"
        )


def measured(way: str, folder: Path) -> tuple[float, int]:
    """Return seconds and peak bytes of one way in this process."""
    import transformers.models.llama.modeling_llama  # noqa: F401 -- imports are not timed

    import rectify.language.block  # noqa: F401

    _drop_cached(folder)
    start = time.perf_counter()
    kept = WAYS[way](folder)
    seconds = time.perf_counter() - start
    peak = _peak_bytes()
    del kept
    return seconds, peak


def _nothing(folder: Path) -> None:
    return None


def _read(folder: Path) -> list[bytes]:
    """Read each tensor's bytes at its place: what any way must read at least."""
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    layer, contents = LAYER.format(_last(folder)), []
    for file in sorted({places[name] for name in places if name.startswith(layer)}):
        with (folder / file).open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            for name, facts in json.loads(stream.read(length)).items():
                if name.startswith(layer):
                    first, end = facts["data_offsets"]
                    stream.seek(8 + length + first)
                    contents.append(stream.read(end - first))
    return contents


def _block(folder: Path) -> object:
    from rectify.language.block import load_block

    return load_block(folder, _last(folder))


def _block_run(folder: Path) -> object:
    import torch

    block = _block(folder)
    return block(torch.zeros(1, 197, block.hidden))


def _whole(folder: Path) -> object:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    return model, [parameter.sum() for parameter in model.parameters()]


WAYS = {"imports": _nothing, "read": _read, "block": _block, "forward": _block_run, "whole": _whole}


def _last(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["num_hidden_layers"] - 1


def _in_process(way: str, folder: Path) -> tuple[float, int]:
    command = [sys.executable, "-m", "benchmarks.load_block", str(folder), "--way", way]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(json.loads(said.stdout))


def _drop_cached(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
