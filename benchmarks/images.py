"""Images a second and core as a training of ImageNet's size reads them, from files and packed."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.paired import Options, Table, paired, spread
from rectify.data import packed
from rectify.data.images import read_image
from rectify.runtime import seed_globals
from rectify.tasks.image_classification.augment import per_image
from rectify.tasks.image_classification.operations import Drawing, operate

WIDTH, HEIGHT, SIDE, SIZE = 500, 375, 256, 224
IMAGES = 64
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"  # as in DeiT
NAMES = (
    *("files", "packed", "files-device", "packed-device", "files-plain", "packed-plain"),
    "operations",
)
NOTE = (
    f"{IMAGES} JPEG files of {WIDTH} x {HEIGHT} pixels and some 110 kB, as ImageNet's are on "
    f"average, of noise at many scales; packed: `stored_side: {SIDE}`. Counted: reading, decoding, "
    f"a random resized crop of {SIZE} pixels, mirroring and RandAugment (`plain`: without it; "
    "`device`: with `augment_on: device`, drawn but not computed), one image after the other, in "
    "memory. What follows, normalising and erasing, is the device's. `operations`: what is then "
    f"also the device's, RandAugment, here computed by the CPU for {IMAGES} images together."
)


def run(options: Options) -> list[Table]:
    """Return one table: way, images a second, share of the time from files."""
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(Path(folder))
        chosen = {name: ways[name] for name in options.chosen(NAMES)}
        timing = paired(ways["files"], chosen, options.rounds)
    plain = sorted(timing.plain)[len(timing.plain) // 2]
    rows = []
    for name, ratios in timing.ratios.items():
        middle = sorted(ratios)[len(ratios) // 2]
        rows.append((name, f"{IMAGES / (plain * middle):.0f}", spread(ratios)))
    return [Table(("way", "images a second", "× time [range]"), rows, NOTE)]


def _ways(folder: Path) -> dict[str, Callable[[], None]]:
    sources = [f"{item}.jpg" for item in range(IMAGES)]
    for item, name in enumerate(sources):
        photograph(item, WIDTH, HEIGHT).save(folder / name, quality=95)
    packed.write(folder, folder, sources, SIDE, 1)
    paths = {
        "files": [folder / name for name in sources],
        "packed": [packed.source(folder, item) for item in range(IMAGES)],
    }
    recipe = {"image_size": SIZE, "crop": "resized", "crop_scale": 0.08, "pad": 0, "flip_prob": 0.5}
    ways = {}
    for suffix, policy in (("", RAND_AUGMENT), ("-plain", None)):
        transform = per_image(**recipe, auto_augment=policy)
        ways |= {f"{name}{suffix}": _reading(those, transform) for name, those in paths.items()}
    drawing = Drawing(per_image(**recipe, auto_augment=RAND_AUGMENT))
    ways |= {f"{name}-device": _reading(those, drawing) for name, those in paths.items()}
    undone = []
    for item, path in enumerate(paths["files"]):
        seed_globals(item)
        undone.append(drawing(read_image(path)))
    batch = (torch.stack(parts) for parts in zip(*undone, strict=True))
    return ways | {"operations": partial(operate, *batch)}


def _reading(paths: list[Path], transform: Callable[[Image.Image], object]) -> Callable[[], None]:
    def work() -> None:
        for item, path in enumerate(paths):
            seed_globals(item)
            transform(read_image(path))

    return work


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Return noise whose scales weigh about as in a photograph, as RGB."""
    generator = np.random.default_rng(seed)
    total = 18 * generator.normal(size=(height, width, 3))
    for scale in (4, 8, 16, 32, 64, 128):
        rough = generator.normal(size=(3, height // scale + 2, width // scale + 2))
        for channel, values in enumerate(rough.astype(np.float32)):
            smooth = Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
            total[..., channel] += scale**0.8 * np.asarray(smooth)
    total = (total - total.min()) / (total.max() - total.min())
    return Image.fromarray((255 * total).astype(np.uint8))
