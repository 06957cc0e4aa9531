"""`python -m benchmarks <name>`: print tables of paired ratios.

Nothing is asserted: docs/performance.md holds what was measured, and what should be.
"""

import argparse
import importlib
import importlib.metadata
import logging
import os
import re
import shlex
import sys
from pathlib import Path

BENCHMARKS = {
    "gsnr": "mean and variance of per-sample gradients in a training step, against other ways",
    "similarity": "Mutual-KNN of all pairs of layers, against one call per pair",
    "training": "the auxiliary step, against its parts and against two forward passes",
    "images": "images a second as a training reads them, from their files and packed",
    "slurm": "seconds that a cluster adds to each training, alone and in groups",
    "gpu": "what a GPU gives: checks, its limits, and training steps against them",
    "startup": "seconds until the command line and the workflow answer",
}
PACKAGES = ("torch", "timm", "transformers", "snakemake", "opacus", "backpack-for-pytorch")


def main() -> None:
    """Run one benchmark, print its tables, and put them into a file if asked."""
    args = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read when torch is imported
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    import torch

    from benchmarks.paired import Options, machine

    torch.set_num_threads(args.threads)
    module = importlib.import_module(f"benchmarks.{args.benchmark}")
    unknown = sorted(set(args.only) - set(module.NAMES))
    if unknown:
        raise SystemExit(
            f"--only: names must be of {', '.join(module.NAMES)}, got {', '.join(unknown)}."
        )
    tables = module.run(Options(args.rounds, args.threads, tuple(args.only), args.minutes))
    command = f"python -m benchmarks {shlex.join(_without_output(sys.argv[1:]))}"
    head = [machine(args.threads), _versions(), f"{args.rounds} rounds: `{command}`"]
    text = "".join(f"- {line}\n" for line in head) + "".join(f"\n{table}" for table in tables)
    sys.stdout.write(text)
    if args.output:
        store(text, args.benchmark, args.output)


def store(text: str, name: str, path: Path) -> None:
    """Put ``text`` between the marks of ``name`` in a Markdown file; append them if not there."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    marked = f"{start}\n{text}\n{end}"
    pattern = re.compile(re.escape(start) + ".*" + re.escape(end), re.DOTALL)
    after, found = pattern.subn(lambda _: marked, before)
    path.write_text(after if found else before + marked, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    described = "; ".join(f"{name}: {text}" for name, text in BENCHMARKS.items())
    parser.add_argument("benchmark", choices=BENCHMARKS, help=described)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9.0, help="of gpu: when it ends")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases or methods")
    parser.add_argument("--output", type=Path, help="Markdown file whose marked part is replaced")
    return parser.parse_args()


def _versions() -> str:
    installed = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    found = [f"{name} {installed[name]}" for name in PACKAGES if name in installed]
    return ", ".join([f"Python {sys.version.split()[0]}", *found])


def _without_output(words: list[str]) -> list[str]:
    if "--output" not in words:
        return words
    place = words.index("--output")
    return words[:place] + words[place + 2 :]


if __name__ == "__main__":
    main()
