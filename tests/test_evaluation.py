import pytest
import torch
from torch import nn

from rectify.data.augment import normalise
from rectify.evaluation import accuracies

CPU = torch.device("cpu")


def measure(model, images, k=2, batch_size=7, **more):
    return accuracies(
        model,
        images.images,
        images.labels,
        k,
        transform=normalise,
        batch_size=batch_size,
        device=CPU,
        **more,
    )


class Fixed(nn.Module):
    """Gives stored logits, whatever the images are."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.place = logits, 0

    def forward(self, images):
        self.place += len(images)
        return self.logits[self.place - len(images) : self.place]


def test_shares_equal_a_loop_over_items(vit, images):
    best = among = 0
    for pixels, label in zip(images.images, images.labels.tolist(), strict=True):
        logits = vit.eval()(normalise(pixels[None]))[0].tolist()
        order = sorted(range(5), key=lambda one: -logits[one])
        best += order[0] == label
        among += label in order[:2]
    assert measure(vit, images) == (best / 40, among / 40)


def test_the_forward_pass_has_the_precision_of_training(images):
    seen = []

    class Shows(nn.Module):
        def forward(self, batch):
            outputs = nn.functional.linear(batch.flatten(1), torch.ones(5, 16 * 16))
            seen.append(outputs.dtype)
            return outputs

    measure(Shows(), images)
    measure(Shows(), images, precision="bfloat16")
    assert set(seen) == {torch.float32, torch.bfloat16}
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, got 'half'"):
        measure(Shows(), images, precision="half")


@pytest.mark.parametrize("batch_size", [1, 2, 13, 39, 40, 64])
def test_shares_do_not_depend_on_the_batch_size(vit, images, batch_size):
    assert measure(vit, images, batch_size=batch_size) == measure(vit, images, batch_size=7)


def test_known_logits_give_known_shares(images):
    right = torch.nn.functional.one_hot(images.labels, 5).float()
    assert measure(Fixed(right), images) == (1.0, 1.0)
    second = right + 2 * torch.nn.functional.one_hot((images.labels + 1) % 5, 5)
    assert measure(Fixed(second), images) == (0.0, 1.0)
    assert measure(Fixed(-right), images, k=4) == (0.0, 0.0)


def test_the_share_is_exact_to_the_last_digit(images):
    logits = torch.nn.functional.one_hot(torch.zeros(39, dtype=torch.int64), 5).float()
    top1, _ = accuracies(
        Fixed(logits),
        images.images[:39],
        images.labels[:39],
        2,
        transform=normalise,
        batch_size=10,
        device=CPU,
    )
    assert top1 == 8 / 39


def test_the_model_is_measured_in_evaluation_mode_without_gradients(make_vit, images):
    vit = make_vit(drop_path=0.9).train()
    assert measure(vit, images) == measure(make_vit(), images)
    assert not vit.training
    assert all(parameter.grad is None for parameter in vit.parameters())


def test_all_classes_among_the_best_is_always_right(vit, images):
    assert measure(vit, images, k=5)[1] == 1.0


def test_more_best_classes_than_classes_is_one_line(vit, images):
    with pytest.raises(ValueError, match=r"the 5 classes, got 6\. Lower top_k"):
        measure(vit, images, k=6)


def test_an_empty_test_set_is_one_line(vit):
    with pytest.raises(ValueError, match="the test set must hold items, got none"):
        accuracies(
            vit,
            torch.zeros(0, 1, 16, 16, dtype=torch.uint8),
            torch.zeros(0, dtype=torch.int64),
            1,
            transform=normalise,
            batch_size=4,
            device=CPU,
        )


def test_only_the_candidates_logits_compete():
    logits = torch.tensor([[9.0, 1.0, 5.0, 3.0], [9.0, 2.0, 1.0, 4.0], [0.0, 7.0, 8.0, 9.0]])
    labels = torch.tensor([2, 1, 3])
    shares = accuracies(
        torch.nn.Identity(), logits, labels, 2, candidates=torch.tensor([1, 2, 3]),
        transform=lambda batch: batch, batch_size=2, device=torch.device("cpu"),
    )  # fmt: skip
    assert shares == (2 / 3, 1.0)  # class 0 would have won twice; class 1 is second to class 3


def test_views_of_an_item_are_merged_by_the_mean_of_their_softmax(images):
    logits = 3 * torch.randn(40 * 6, 5, generator=torch.Generator().manual_seed(0))
    best = among = 0
    for item, label in enumerate(images.labels.tolist()):
        views = [one.exp() / one.exp().sum() for one in logits[6 * item : 6 * item + 6]]
        order = (sum(views) / 6).argsort(descending=True).tolist()
        best += order[0] == label
        among += label in order[:2]
    shares = accuracies(
        Fixed(logits),
        images.images,
        images.labels,
        2,
        transform=lambda batch: normalise(batch).repeat_interleave(6, 0),
        batch_size=7,
        device=CPU,
    )
    assert shares == (best / 40, among / 40)


def test_a_sure_view_outweighs_two_unsure_ones_as_it_would_not_by_counting(images):
    sure, unsure = torch.tensor([9.0, 0, 0, 0, 0]), torch.tensor([0, 0.1, 0, 0, 0])
    logits = torch.stack([sure, unsure, unsure]).repeat(40, 1)
    top1, _ = accuracies(
        Fixed(logits),
        images.images,
        torch.zeros(40, dtype=torch.int64),
        2,
        transform=lambda batch: normalise(batch).repeat_interleave(3, 0),
        batch_size=40,
        device=CPU,
    )
    assert top1 == 1.0
