"""Image-text retrieval: METER on pairs, as Pang et al. (2024), Sec. 4.5, fine-tune it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from rectify.data.batches import Prepare, Reader
from rectify.data.captioned import CaptionSet, load_captions
from rectify.data.draws import Draws, seeds
from rectify.data.texts import cut
from rectify.runtime import generator
from rectify.tasks import meters
from rectify.tasks.contract import Batch, Machine, Recipe, TestSet, Vision
from rectify.tasks.image_text_retrieval import measures
from rectify.tasks.image_text_retrieval.settings import KS, METRICS, Settings
from rectify.tasks.image_text_retrieval.trunk import PairMeter
from rectify.tasks.meters import normalised, starts_of, test_prepare, training_prepare, trunk_of

NAME = "image_text_retrieval"
TEXTS = "texts"
"""Name of the test set whose items are images."""
AT_ONCE = 1024
"""Pairs that a test puts through the model at once, at most."""


class TrainingSource:
    """Captions with their image, as batches: each with captions of other images next to it.

    A batch has ``inputs``, and ``true``, which candidate is the caption: the first. It also has
    ``origins``, on the CPU, where two of its captions are about one image.
    """

    views = 1

    def __init__(
        self, captions: CaptionSet, false_texts: int, machine: Machine, prepare: Prepare | None
    ):
        """Start nothing yet.

        Args:
            captions: All of them; each is an item.
            false_texts: Captions of other images next to each.
            machine: Where batches are wanted.
            prepare: From one image in a file to the model's size.
        """
        self._captions, self._false_texts = captions, false_texts
        self._device = machine.device
        self._reader = Reader(captions.images, prepare, machine.workers, machine.device)

    def __len__(self) -> int:
        return len(self._captions)

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        captions = self._captions
        own_seeds = items if draws is None else seeds(draws)
        stored = self._reader.read(captions.pictures[items], batch_size, own_seeds)
        parts = items.split(batch_size), own_seeds.split(batch_size)
        for pixels, batch, drawn in zip(stored, *parts, strict=True):
            shares = torch.stack([self._shares(seed) for seed in drawn.tolist()])
            others = captions.others(batch, shares)
            words = cut(captions.words[torch.cat([batch[:, None], others], 1)])
            true = torch.zeros(words.shape[:2], dtype=torch.bool)
            true[:, 0] = True
            pictures = captions.pictures[batch]
            shared = len(pictures.unique()) < len(pictures)
            yield {
                "inputs": {"images": normalised(pixels), "words": words.to(self._device)},
                "true": true.to(self._device),
                **({"origins": pictures[:, None]} if shared else {}),
            }

    def _shares(self, seed: int) -> Float64[Tensor, " others"]:
        """Return which of all captions of other images an item has, in 0 .. 1."""
        draws = generator(seed, "false texts")
        return torch.rand(self._false_texts, generator=draws, dtype=torch.float64)


class RankedSource:
    """The items of a test, as batches: each is compared with everything that it may belong to.

    ``inputs`` is a list, each with a part of the candidates, the same tensors in every batch;
    ``true`` says which candidates are an item's own.
    """

    def __init__(
        self,
        captions: CaptionSet,
        machine: Machine,
        prepare: Prepare | None,
        *,
        finds_texts: bool,
        at_training: int,
    ):
        """Start nothing yet.

        Args:
            captions: All of the split.
            machine: Where batches are wanted.
            prepare: From one image in a file to the model's size.
            finds_texts: Whether items are images, and captions are found; else the other way round.
            at_training: Candidates of an item there: a batch has no more pairs here, if it can.
        """
        self._captions, self._finds_texts = captions, finds_texts
        self._device = machine.device
        self._reader = Reader(captions.images, prepare, machine.workers, machine.device)
        counts = (len(captions), len(captions.counts))
        self._candidates, self._items = counts if finds_texts else counts[::-1]
        self.views = -(-self._candidates // at_training)

    def __len__(self) -> int:
        return self._items

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        captions = self._captions
        parts = torch.arange(self._candidates).split(max(1, AT_ONCE // batch_size))
        pictures, others = captions.pictures, torch.arange(len(captions.counts))
        if self._finds_texts:
            shared, name = [self._words(part) for part in parts], "texts"
            own = ({"images": normalised(one)} for one in self._reader.read(items, batch_size))
        else:
            pixels = self._reader.read(torch.arange(self._candidates), len(parts[0]))
            shared, name = [normalised(one) for one in pixels], "gallery"
            own = ({"words": self._words(batch)} for batch in items.split(batch_size))
        for inputs, batch in zip(own, items.split(batch_size), strict=True):
            is_true = (
                batch[:, None] == pictures
                if self._finds_texts
                else pictures[batch][:, None] == others
            )
            yield {
                "inputs": [{**inputs, name: one} for one in shared],
                "true": is_true.to(self._device),
            }

    def _words(self, items: Int64[Tensor, " batch"]) -> Int64[Tensor, "batch words"]:
        return cut(self._captions.words[items]).to(self._device)


class ImageTextRetrieval:
    """Which image is a caption about, and which captions are about an image?"""

    settings, metrics = Settings, METRICS

    def training_source(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> TrainingSource:
        """Return the training captions, each next to captions of other images."""
        captions = load_captions(folder, "train")
        prepare = training_prepare(NAME, recipe, captions.images, entry.image_size)
        return TrainingSource(captions, entry.false_texts, machine, prepare)

    def test_sets(
        self, entry: Settings, folder: Path, recipe: Recipe, machine: Machine
    ) -> Iterator[TestSet]:
        """Give the test captions, whose images are found, then the images, whose captions are."""
        captions = load_captions(folder, "test")
        prepare = test_prepare(captions.images, entry.image_size)
        for name, finds_texts in (("test", False), (TEXTS, True)):
            options = {"finds_texts": finds_texts, "at_training": 1 + entry.false_texts}
            yield TestSet(name, "-", RankedSource(captions, machine, prepare, **options))

    def trunk(self, entry: Settings, vision: Vision, recipe: Recipe | None) -> nn.Module:
        """Return a METER on pairs, and where it starts from."""
        return trunk_of(NAME, PairMeter, entry, vision, recipe, outputs=1)

    def starts(self, vision: Vision) -> list[Path]:
        """Return the files of CLIP and RoBERTa, if training starts from them."""
        return starts_of(vision)

    def example(
        self,
        entry: Settings,
        vision: Vision,
        batch_size: int,
        device: torch.device | str,
        *,
        tested: bool = False,
    ) -> Batch:
        """Return images with captions: see ``rectify.tasks.contract.Exemplary``.

        In a test captions are compared with as many images as captions an image is shown with in
        training: a view.
        """
        candidates = 1 + entry.false_texts
        if tested:
            gallery = meters.example_images(entry, candidates, device)
            words = meters.example_words(entry, batch_size, device=device)
            return {"inputs": {"words": words, "gallery": gallery}}
        images = meters.example_images(entry, batch_size, device)
        words = meters.example_words(entry, batch_size, candidates, device=device)
        true = torch.arange(candidates, device=device).expand(batch_size, -1) == 0
        return {"inputs": {"images": images, "words": words}, "true": true}

    def losses(self, outputs: Float[Tensor, "batch candidates"], batch: Batch) -> Tensor:
        """Return the cross entropy of finding each item's own among its candidates."""
        return measures.losses(outputs.float(), batch["true"])

    def scores(self, outputs: Float[Tensor, "items candidates"], batch: Batch) -> dict[str, Tensor]:
        """Return whether each item's own is among the first, and the loss."""
        ranks = measures.ranks(outputs.float(), batch["true"])
        found = {f"recall_at_{k}": (ranks < k).float() for k in KS}
        return {**found, "loss": self.losses(outputs, batch)}


TASK = ImageTextRetrieval()
