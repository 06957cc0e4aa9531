"""Batches of stored images or clips on the device, read ahead of their use by worker processes.

Workers decode and crop; what they hand over is ``uint8``, and everything that follows is done
on the device. An item's random parameters come from its own seed, so that a batch is the same
whatever the number of workers.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms.functional import to_pil_image

from rectify.runtime import seed_globals

CHUNK = 64  # frames that a worker reads at a time: little shared memory, an early first batch

Stored = Image.Image | list[Image.Image]
"""One image, or the frames of one clip."""


class Undone(NamedTuple):
    """Images of the model's size that are changed on the device, and how."""

    pixels: UInt8[Tensor, " *pixels"]
    """On the device, once they are a batch."""
    drawn: Float64[Tensor, " *numbers"]
    """Numbers that were drawn for each image; they stay on the CPU."""


Prepare = Callable[[Stored], UInt8[Tensor, " *pixels"] | Undone]
"""From one stored image or clip to the size of the model; draws from the global generators."""


@runtime_checkable
class Items(Protocol):
    """Images or clips in their files, by item number; clips have ``frames``, how many come."""

    def __getitem__(self, item: int) -> Stored: ...


class Reader:
    """The images or clips of one set, by batches. Workers live as long as the reader."""

    def __init__(
        self, images: Tensor | Items, prepare: Prepare | None, workers: int, device: torch.device
    ):
        """Start nothing yet.

        Args:
            images: All of them as one tensor, or read one by one.
            prepare: Applied to each item; None for tensors that are what the model takes.
            workers: Processes that read and prepare; 0 does it here, when a batch is due.
            device: Where batches are wanted.

        Raises:
            ValueError: If images that are read one by one are not prepared.
        """
        if prepare is None and not isinstance(images, Tensor):
            raise ValueError(
                "data: images from files come in many sizes and need resized crops, got images as "
                "they are stored. Set training.crop to resized."
            )
        self.images, self.device, self._chunks = images, device, _Chunks()
        self._chunk = max(1, CHUNK // getattr(images, "frames", 1))
        self._loader = None
        if prepare is not None:
            self._loader = _loader(_Source(images, prepare), self._chunks, workers, device)

    def read(
        self,
        items: Int64[Tensor, " items"],
        batch_size: int,
        seeds: Int64[Tensor, " items"] | None = None,
    ) -> Iterator[UInt8[Tensor, " batch *pixels"] | Undone]:
        """Give what ``prepare`` made of the items in their order; the last batch may be smaller.

        Args:
            items: Item numbers.
            batch_size: Items at a time.
            seeds: One for each item, where reading or ``prepare`` draws.

        Raises:
            ValueError: If a file is damaged.
        """
        batches = items.split(batch_size)
        if self._loader is None:
            yield from (self.images[batch].to(self.device) for batch in batches)
            return
        seeds = torch.zeros_like(items) if seeds is None else seeds
        self._chunks.pairs = [
            pair
            for batch in zip(batches, seeds.split(batch_size), strict=True)
            for pair in zip(*(values.split(self._chunk) for values in batch), strict=True)
        ]
        chunks = iter(self._loader)
        for batch in batches:
            count = len(range(0, len(batch), self._chunk))
            yield _joined([self._moved(next(chunks)) for _ in range(count)])

    def _moved(self, chunk: Tensor | Undone | ValueError) -> Tensor | Undone:
        if isinstance(chunk, ValueError):
            raise chunk
        if isinstance(chunk, Undone):
            return chunk._replace(pixels=self._moved(chunk.pixels))
        return chunk.to(self.device, non_blocking=True)


class _Chunks:
    """Item numbers and seeds of the chunks to read next, as plain lists for the workers."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[list[int], list[int]]]:
        return ((items.tolist(), seeds.tolist()) for items, seeds in self.pairs)


class _Source:
    """What a worker holds: the set, and what it does to an item."""

    def __init__(self, images: Tensor | Items, prepare: Prepare):
        self.images, self.prepare = images, prepare

    def __getitems__(self, chunk: tuple[list[int], list[int]]) -> Tensor | Undone | ValueError:
        try:
            return default_collate([self._prepared(*pair) for pair in zip(*chunk, strict=True)])
        except ValueError as error:  # raised again where it stays one line
            return error

    def _prepared(self, item: int, seed: int) -> Tensor | Undone:
        seed_globals(seed, "read")  # frames of a clip
        image = self.images[item]
        seed_globals(seed)
        return self.prepare(to_pil_image(image) if isinstance(image, Tensor) else image)


def _loader(source: _Source, chunks: _Chunks, workers: int, device: torch.device) -> DataLoader:
    context = None
    if workers:  # from a clean process: one with threads and a GPU is not safe to fork
        context = get_context("forkserver")
        context.set_forkserver_preload(["timm.data", "rectify.data.batches"])
    return DataLoader(
        source,
        batch_sampler=chunks,
        collate_fn=_same,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        multiprocessing_context=context,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # else the global one would be drawn from
    )


def _same(chunk: Tensor | Undone | ValueError) -> Tensor | Undone | ValueError:
    return chunk


def _joined(chunks: Sequence[Tensor | Undone]) -> Tensor | Undone:
    if isinstance(chunks[0], Tensor):
        return torch.cat(chunks)
    return Undone(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def _end_with_parent(worker: int) -> None:
    """Let a worker end when its reader is killed: torch watches the server that forked it."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
