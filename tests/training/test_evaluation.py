import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rectify.tasks.classification import LabelledSource
from rectify.tasks.contract import Machine, Metric
from rectify.tasks.image_classification.augment import normalise
from rectify.tasks.image_classification.task import TASK
from rectify.training import evaluation
from rectify.training.evaluation import headline, item_scores, item_values, means, metric_and_k

CPU = torch.device("cpu")


def change(pixels, draws):
    return normalise(pixels)


def source_of(images, k=2, **more):
    options = {"change": change, "more": {"ks": torch.tensor([k])}} | more
    return LabelledSource(images.images, images.labels, Machine(CPU), **options)


def measure(model, images, k=2, batch_size=7, precision="float32", **more):
    source = source_of(images, k, **more)
    return item_scores(model, TASK, source, batch_size=batch_size, device=CPU, precision=precision)


class Fixed(nn.Module):
    """Gives stored logits, whatever the images are."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.place = logits, 0

    def forward(self, images):
        self.place += len(images)
        return self.logits[self.place - len(images) : self.place]


def test_the_scores_equal_a_loop_over_items(vit, images):
    scores = measure(vit, images)
    assert list(scores) == ["accuracy@1", "accuracy@2", "loss"]
    for item, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        logits = vit.eval()(normalise(pixels[None]))[0]
        order = sorted(range(5), key=lambda one: -logits[one].item())
        assert scores["accuracy@1"][item] == (order[0] == label)
        assert scores["accuracy@2"][item] == (label in order[:2])
        loss = -logits.log_softmax(0)[label].item()
        assert scores["loss"][item].item() == pytest.approx(loss, rel=1e-5)


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
def test_the_scores_do_not_depend_on_the_batch_size(vit, images, batch_size):
    expected, scores = measure(vit, images), measure(vit, images, batch_size=batch_size)
    assert torch.equal(scores["accuracy@1"], expected["accuracy@1"])
    torch.testing.assert_close(scores["loss"], expected["loss"], rtol=1e-5, atol=1e-6)


def test_the_share_is_exact_to_the_last_digit(images):
    logits = torch.nn.functional.one_hot(torch.zeros(40, dtype=torch.int64), 5).float()[:39]
    source = LabelledSource(images.images[:39], images.labels[:39], Machine(CPU), change=change)
    scores = item_scores(Fixed(logits), TASK, source, batch_size=10, device=CPU)
    assert means(scores)["accuracy@1"] == 8 / 39


def test_the_model_is_measured_in_evaluation_mode_without_gradients(make_vit, images):
    vit = make_vit(drop_path=0.9).train()
    assert torch.equal(measure(vit, images)["loss"], measure(make_vit(), images)["loss"])
    assert not vit.training
    assert all(parameter.grad is None for parameter in vit.parameters())


def test_a_batch_has_as_many_items_as_their_views_allow(images):
    sizes = []

    class Shows(nn.Module):
        def forward(self, batch):
            sizes.append(len(batch))
            return torch.zeros(len(batch), 5)

    def views(pixels, draws):
        return normalise(pixels).repeat_interleave(3, 0)

    measure(Shows(), images, batch_size=10, change=views, views=3)
    assert sizes == [9] * 13 + [3]
    sizes.clear()
    measure(Shows(), images, batch_size=2, change=views, views=3)
    assert sizes == [3] * 40


def test_an_empty_test_set_is_one_line(vit):
    none = LabelledSource(
        torch.zeros(0, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.int64),
        Machine(CPU),
        change=change,
    )
    with pytest.raises(ValueError, match="the test set must hold items, got none"):
        item_scores(vit, TASK, none, batch_size=4, device=CPU)


def test_processes_share_the_items_and_all_get_all_scores(vit, images, monkeypatch):
    expected, parts = measure(vit, images), []
    for rank in range(3):
        monkeypatch.setattr(evaluation, "process", lambda rank=rank: (rank, 3))
        monkeypatch.setattr(evaluation, "summed", lambda values: values)
        parts.append(measure(vit, images))
    for name, values in expected.items():
        pooled = sum(part[name] for part in parts)  # what `summed` gives each process
        torch.testing.assert_close(pooled, values, rtol=1e-5, atol=1e-6)
    counts = [int((part["loss"] != 0).sum()) for part in parts]
    assert counts == [14, 13, 13]


def test_the_headline_is_the_metric_alone_or_of_its_best_answer():
    values = {"accuracy@1": 0.25, "accuracy@5": 0.5, "loss": 2.0}
    assert headline(values, Metric("accuracy", "share", "higher", "accuracy")) == 0.25
    assert headline(values, Metric("loss", "nats", "lower", "loss")) == 2.0


def test_a_score_says_its_metric_and_its_k():
    assert metric_and_k("accuracy@5") == ("accuracy", 5)
    assert metric_and_k("loss") == ("loss", 0)


def test_the_test_loss_is_the_plain_cross_entropy(vit, images):
    logits = vit.eval()(normalise(images.images))
    expected = cross_entropy(logits, images.labels).item()
    assert means(measure(vit, images))["loss"] == pytest.approx(expected, rel=1e-5)


def test_values_of_several_numbers_are_kept_item_by_item(vit, images):
    """Whatever the size of a batch."""
    source = source_of(images)

    def logits(outputs, batch):
        return {"logits": outputs}

    expected = vit.eval()(normalise(images.images))
    for size in (3, 16):
        (found,) = item_values(vit, logits, source, batch_size=size, device=CPU).values()
        torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-6)
