"""Batches come as they should, whatever reads them."""

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rectify.data.batches import CHUNK, Reader, Undone
from rectify.data.manifests import manifest
from rectify.data.sets import FileSet
from rectify.runtime import generator
from rectify.tasks.image_classification.augment import evaluation_transform, per_image
from rectify.tasks.image_classification.operations import Drawing

CPU = torch.device("cpu")
TRAINING = {"image_size": 16, "crop": "resized", "crop_scale": 0.08, "pad": 4, "flip_prob": 0.5}
ITEMS = 150  # more than two chunks


def training():
    return per_image(**TRAINING, auto_augment="rand-m9-mstd0.5-inc1")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A set of images of many sizes and modes, in files."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for item in range(ITEMS):
        noise = random.integers(0, 256, (20 + item % 7, 18 + item % 5, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        image.convert(("RGB", "L", "CMYK")[item % 3]).save(folder / f"{item}.jpg")
    return FileSet(folder, manifest([("train", 0, "a", f"{n}.jpg") for n in range(ITEMS)]), "train")


def undone():
    return Drawing(training())


def read(images, prepare, workers, items, seeds=None, batch_size=40):
    return list(Reader(images, prepare, workers, CPU).read(items, batch_size, seeds))


def numbers(seed=0):
    order = torch.randperm(ITEMS, generator=generator(seed, "order"))
    return order, torch.randint(2**53, (ITEMS,), generator=generator(seed, "seeds"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # few cores here
@pytest.mark.parametrize(("workers", "prepare", "count"), [(1, training, 1), (4, undone, 2)])
def test_workers_give_the_batches_of_none_bit_for_bit(files, workers, prepare, count):
    def parts(batches):  # pixels; and what is to be done with them
        return [part for one in batches for part in (one if isinstance(one, Undone) else (one,))]

    reader, alone = (Reader(files, prepare(), number, CPU) for number in (workers, 0))
    for epoch in range(2):  # the same workers in both
        items, seeds = numbers(epoch)
        expected = parts(alone.read(items, 70, seeds))
        batches = parts(reader.read(items, 70, seeds))
        assert [len(batch) for batch in batches] == [*([70] * 2 * count), *([10] * count)]
        assert all(torch.equal(*pair) for pair in zip(batches, expected, strict=True))


def test_an_image_depends_on_its_seed_alone_and_not_on_its_batch(files):
    items, seeds = numbers()
    together = torch.cat(read(files, training(), 0, items, seeds))
    assert together.dtype == torch.uint8
    assert torch.equal(torch.cat(read(files, training(), 0, items, seeds, 7)), together)
    alone = read(files, training(), 0, items[5:6], seeds[5:6])[0]
    assert torch.equal(alone[0], together[5])
    others = torch.cat(read(files, training(), 0, items, seeds + 1))
    assert (others != together).flatten(1).any(1).float().mean() > 0.9
    same = read(files, training(), 0, items[:1].expand(30), seeds[:30])[0]
    assert len({tuple(one.flatten().tolist()) for one in same}) == 30


def test_some_of_the_places_get_the_images_of_the_complete_batch(files):
    """So that processes may share an epoch: each reads its slice of every batch."""
    items, seeds = numbers()
    complete = read(files, training(), 0, items[:80], seeds[:80])
    places = torch.arange(80).view(2, 2, 20)  # (steps, processes, items)
    for process in range(2):
        mine = places[:, process].flatten()
        batches = read(files, training(), 0, items[mine], seeds[mine], batch_size=20)
        for batch, full in zip(batches, complete, strict=True):
            assert torch.equal(batch, full[process * 20 : process * 20 + 20])


def test_images_in_memory_are_prepared_like_those_in_files(files):
    items = torch.arange(30)
    stored = torch.stack([evaluation_transform(24, 0.875)(files[int(item)]) for item in items])
    batches = read(stored, evaluation_transform(16, 1.0), 0, items, batch_size=8)
    by_hand = [evaluation_transform(16, 1.0)(to_pil(image)) for image in stored]
    assert torch.equal(torch.cat(batches), torch.stack(by_hand))


def to_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_files_that_nothing_prepares_are_refused_in_one_line(files):
    with pytest.raises(ValueError, match=r"images from files .* Set training\.crop to resized"):
        Reader(files, None, 0, CPU)


def test_a_set_that_fits_the_model_is_indexed():
    images = torch.arange(60, dtype=torch.uint8).reshape(10, 1, 2, 3)
    items = torch.tensor([3, 1, 9, 9, 0])
    batches = read(images, None, 0, items, batch_size=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), images[items])


def test_batches_larger_than_a_chunk_and_smaller_ones_are_complete(files):
    for batch_size in (CHUNK - 1, CHUNK, CHUNK + 1, ITEMS):
        batches = read(
            files, evaluation_transform(16, 0.875), 0, torch.arange(ITEMS), None, batch_size
        )
        assert sum(map(len, batches)) == ITEMS
        assert {len(batch) for batch in batches[:-1]} <= {batch_size}


def test_reading_leaves_the_global_generators_alone_where_nothing_draws(files):
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read(images, None, 0, torch.arange(4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_one_line_also_from_a_worker(files, tmp_path, workers):
    (tmp_path / "cut.jpg").write_bytes((files.folder / "0.jpg").read_bytes()[:300])
    broken = FileSet(tmp_path, manifest([("train", 0, "a", "cut.jpg")]), "train")
    with pytest.raises(ValueError, match=r"cut\.jpg: must be an intact image, got ") as caught:
        read(broken, training(), workers, torch.tensor([0]))
    assert "\n" not in str(caught.value)


KILLED = """
import os, signal, sys, torch
from rectify.tasks.image_classification.augment import evaluation_transform
from rectify.data.batches import Reader
if __name__ == "__main__":
    images = torch.zeros(500, 3, 8, 8, dtype=torch.uint8)
    reader = Reader(images, evaluation_transform(16, 0.875), 1, torch.device("cpu"))
    next(reader.read(torch.arange(500), 64))
    print(reader._loader._iterator._workers[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    said = subprocess.run(
        [sys.executable, tmp_path / "killed.py"], stdout=subprocess.PIPE, text=True, check=False
    )
    assert said.returncode == -signal.SIGKILL
    for _ in range(600):
        if is_gone(Path("/proc") / said.stdout.strip() / "stat"):
            return
        time.sleep(0.1)
    pytest.fail("the worker is still there after a minute")


def is_gone(status: Path) -> bool:
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_images_of_many_sizes_must_be_prepared(files):
    with pytest.raises(ValueError, match=r"need resized crops, got .*\. Set training\.crop"):
        read(files, None, 0, torch.arange(4))


def test_the_transforms_can_be_sent_to_a_worker():
    for transform in (training(), evaluation_transform(16, 0.875)):
        assert repr(pickle.loads(pickle.dumps(transform))) == repr(transform)
