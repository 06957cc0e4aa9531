import pytest
import torch

from rectify.training.order import Epochs, item_order
from tests.helpers.training import PLAIN, Recorder, small, source_of


def epochs_of(images, recorder=None, **changes):
    values = small(**PLAIN | changes)
    return Epochs(source_of(images, values, recorder), values, 0, torch.device("cpu"))


def given(images, epoch=0, first=0, **changes):
    """The stored images of each batch of an epoch."""
    recorder = Recorder()
    list(epochs_of(images, recorder, **changes).read(epoch, first))
    return recorder.given


def test_each_item_is_seen_once_per_epoch_in_another_order(images):
    epochs = [given(images, epoch) for epoch in range(2)]
    assert [len(batch) for batch in epochs[0]] == [8] * 5
    everything = sorted(images.images.flatten(1).tolist())
    assert all(sorted(torch.cat(epoch).flatten(1).tolist()) == everything for epoch in epochs)
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


def test_a_batch_has_the_labels_of_its_images(images):
    labels = {tuple(pixels.flatten().tolist()): label.item()
              for pixels, label in zip(images.images, images.labels, strict=True)}  # fmt: skip
    recorder = Recorder()
    batches = list(epochs_of(images, recorder, label_smoothing=0).read(0))
    for stored, batch in zip(recorder.given, batches, strict=True):
        keys = [tuple(pixels.flatten().tolist()) for pixels in stored]
        assert batch["labels"].tolist() == [labels[key] for key in keys]


def test_repeated_augmentation_shows_another_third_in_each_epoch():
    """In Pang et al.'s code one process saw the same third, three times, in every epoch."""
    items, seen = 50_000, set()
    shares = []
    for epoch in range(6):
        order = item_order(items, 3, 0, epoch)
        counts = order.bincount(minlength=items)
        assert len(order) == items
        assert sorted(counts.unique().tolist()) == [0, 2, 3]  # 50,000 is no multiple of 3
        assert (counts == 2).sum() == 1
        assert torch.equal(order[0::3][:-1], order[2::3])  # copies are together, in one batch
        seen |= set(order.tolist())
        shares.append(len(seen) / items)
    assert shares == pytest.approx([1 - (2 / 3) ** epoch for epoch in range(1, 7)], abs=0.01)


def test_without_repeats_an_epoch_is_a_permutation_of_its_own():
    orders = [item_order(100, 1, 0, epoch) for epoch in (0, 1, 0)]
    assert all(sorted(order.tolist()) == list(range(100)) for order in orders)
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], item_order(100, 1, 1, 0))


def test_the_copies_of_a_repeated_item_are_augmented_each_in_its_own_way(images):
    recorder = Recorder()
    list(epochs_of(images, recorder, repeats=2).read(0))
    stored, made = torch.cat(recorder.given).flatten(1), torch.cat(recorder.made).flatten(1)
    assert torch.equal(stored[0::2], stored[1::2])
    assert len(stored.unique(dim=0)) == 20
    assert (made[0::2] != made[1::2]).any(1).float().mean() > 0.8


def test_a_ragged_last_batch_is_left_out_and_changes_with_the_epoch(images):
    epochs = [given(images, epoch, batch_size=16) for epoch in range(2)]
    assert [len(batch) for epoch in epochs for batch in epoch] == [16] * 4
    first, second = (torch.cat(epoch) for epoch in epochs)
    assert len(first.flatten(1).unique(dim=0)) == 32
    assert sorted(first.flatten(1).tolist()) != sorted(second.flatten(1).tolist())


def test_an_epoch_is_read_from_any_step_on(images):
    complete, rest = given(images), given(images, first=3)
    assert len(rest) == 2
    assert torch.equal(torch.cat(rest), torch.cat(complete[3:]))


def test_repeated_items_are_together_each_augmented_anew(images):
    recorder, slices = Recorder(), Recorder()
    epochs = epochs_of(images, recorder, augment_repeats=2)
    list(epochs.read(0))
    assert (epochs.steps, epochs.samples) == (5, 16)  # as many steps as without
    for stored, made in zip(recorder.given, recorder.made, strict=True):
        assert len(stored) == 16
        assert torch.equal(stored[0::2], stored[1::2])
        assert not torch.equal(made[0::2], made[1::2])
    list(epochs_of(images, slices, augment_repeats=2, accumulate=2).read(0))
    assert [len(batch) for batch in slices.made] == [8] * 10
    assert torch.equal(torch.cat(slices.made), torch.cat(recorder.made))
    first = torch.cat([batch[::2] for batch in recorder.given])
    assert sorted(first.flatten(1).tolist()) == sorted(images.images.flatten(1).tolist())


def test_the_batches_of_two_processes_are_those_of_one(images, monkeypatch):
    alone = Recorder()
    list(epochs_of(images, alone).read(0))
    halves = []
    for rank in range(2):
        monkeypatch.setattr("rectify.training.order.process", lambda rank=rank: (rank, 2))
        halves.append(Recorder())
        list(epochs_of(images, halves[-1]).read(0))
    together = [torch.cat(pair) for pair in zip(halves[0].made, halves[1].made, strict=True)]
    assert torch.equal(torch.cat(together), torch.cat(alone.made))


def test_a_batch_larger_than_the_set_is_one_line(images):
    with pytest.raises(ValueError, match="must not exceed the 40 training items, got 42"):
        epochs_of(images, batch_size=42)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 3}, "1 processes times 3 accumulated slices, got 8. Change"),
        (
            {"accumulate": 4, "batch_size": 12, "mixup": 0.8},
            "1 processes times 4 accumulated slices, each even for Mixup, got 12",
        ),
    ],
)
def test_a_batch_that_cannot_be_divided_is_one_line(images, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        epochs_of(images, **changes)
    assert "\n" not in str(caught.value)
