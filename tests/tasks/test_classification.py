import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy
from torch.nn.functional import cross_entropy, one_hot

from rectify.tasks.classification import (
    LabelledSource,
    losses,
    mixing,
    mixup_of,
    scores,
    smoothed,
)
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.augment import normalise
from rectify.training.recipes import recipe
from tests.helpers.training import CPU, Recorder


@pytest.fixture
def logits():
    return 3 * torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.arange(9) % 5


def test_the_loss_of_each_sample_equals_its_own(logits, labels):
    soft = torch.rand(9, 5).softmax(1)
    for chosen in (labels, soft):
        found = losses(logits, chosen)
        for item in range(9):
            alone = cross_entropy(logits[item : item + 1], chosen[item : item + 1])
            assert found[item].item() == pytest.approx(alone.item(), rel=1e-6)


def test_smoothed_labels_give_timms_smoothed_loss(logits, labels):
    expected = LabelSmoothingCrossEntropy(0.1)(logits, labels)
    found = losses(logits, smoothed(labels, 5, 0.1)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(smoothed(labels, 5, 0.1).sum(1), torch.ones(9))


def test_known_logits_give_known_scores(labels):
    right = one_hot(labels, 5).float()
    second = right + 2 * one_hot((labels + 1) % 5, 5)
    k = torch.tensor([2])
    assert scores(right, labels, k)["accuracy@1"].tolist() == [1] * 9
    assert scores(second, labels, k)["accuracy@1"].tolist() == [0] * 9
    assert scores(second, labels, k)["accuracy@2"].tolist() == [1] * 9
    assert scores(-right, labels, torch.tensor([4]))["accuracy@4"].tolist() == [0] * 9
    assert list(scores(right, labels)) == ["accuracy@1", "loss"]


def test_all_classes_among_the_best_is_always_right(logits, labels):
    assert scores(logits, labels, torch.tensor([5]))["accuracy@5"].tolist() == [1] * 9


def test_more_best_classes_than_classes_is_one_line(logits, labels):
    with pytest.raises(ValueError, match=r"the 5 classes, got 6\. Lower top_k"):
        scores(logits, labels, torch.tensor([6]))


def test_only_the_candidates_logits_compete():
    logits = torch.tensor([[9.0, 1.0, 5.0, 3.0], [9.0, 2.0, 1.0, 4.0], [0.0, 7.0, 8.0, 9.0]])
    labels, candidates = torch.tensor([2, 1, 3]), torch.tensor([1, 2, 3])
    found = scores(logits, labels, torch.tensor([2]), candidates)
    # class 0 would have won twice; class 1 is second to class 3
    assert found["accuracy@1"].tolist() == [1, 0, 1]
    assert found["accuracy@2"].tolist() == [1, 1, 1]
    by_hand = [-logits[i, 1:].log_softmax(0)[labels[i] - 1].item() for i in range(3)]
    assert found["loss"].tolist() == pytest.approx(by_hand, rel=1e-6)


def test_views_of_an_item_are_merged_by_the_mean_of_their_softmax(labels):
    logits = 3 * torch.randn(9 * 6, 5, generator=torch.Generator().manual_seed(0))
    found = scores(logits, labels, torch.tensor([2]))
    for item, label in enumerate(labels.tolist()):
        views = [one.exp() / one.exp().sum() for one in logits[6 * item : 6 * item + 6]]
        shares = sum(views) / 6
        order = shares.argsort(descending=True).tolist()
        assert found["accuracy@1"][item] == (order[0] == label)
        assert found["accuracy@2"][item] == (label in order[:2])
        assert found["loss"][item].item() == pytest.approx(-shares[label].log().item(), rel=1e-5)


def test_a_sure_view_outweighs_two_unsure_ones_as_it_would_not_by_counting():
    sure, unsure = torch.tensor([9.0, 0, 0, 0, 0]), torch.tensor([0, 0.1, 0, 0, 0])
    logits = torch.stack([sure, unsure, unsure]).repeat(4, 1)
    assert scores(logits, torch.zeros(4, dtype=torch.int64))["accuracy@1"].tolist() == [1] * 4


def test_views_that_are_all_sure_of_another_class_have_a_finite_loss():
    logits = torch.tensor([[0.0, 500.0], [0.0, 500.0]])
    assert scores(logits, torch.tensor([0]))["loss"].tolist() == [500.0]


def test_a_recipe_mixes_as_deit_does():
    mix = mixup_of(recipe("deit"), 1000)
    values = (mix.mixup_alpha, mix.cutmix_alpha, mix.mix_prob, mix.switch_prob)
    assert values == (0.8, 1.0, 1.0, 0.5)
    assert (mix.label_smoothing, mix.mode, mix.cutmix_minmax) == (0.1, "batch", None)
    assert mixup_of(recipe("paper"), 1000).mode == "elem"


@pytest.mark.parametrize("changes", [{"mixup": 0}, {"cutmix": 0}, {}])
def test_mixup_is_off_only_where_both_are_off(changes):
    mix = mixing(recipe("deit", **changes), 5)
    torch.manual_seed(0)
    _, mixed = mix(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
    assert mixed.shape == (4, 5)
    torch.testing.assert_close(mixed.sum(1), torch.ones(4))
    assert mixed.min() > 0  # smoothed


def test_without_mixup_labels_are_smoothed_or_left():
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    off = {"mixup": 0, "cutmix": 0}
    same, soft = mixing(recipe("deit", **off), 5)(images, labels)
    assert same is images
    assert torch.equal(soft, smoothed(labels, 5, 0.1))
    _, hard = mixing(recipe("deit", **off, label_smoothing=0), 5)(images, labels)
    assert hard is labels


def test_the_papers_mixup_draws_for_each_image():
    mix = mixup_of(recipe("paper", label_smoothing=0, cutmix=0), 100)
    _, targets = mix(torch.rand(32, 1, 8, 8), torch.arange(32))
    assert len({round(share, 6) for share in targets.max(1).values.tolist()}) > 8


def test_clips_are_mixed_as_a_whole():
    clips = torch.rand(8, 1, 1, 16, 16).expand(-1, 2, -1, -1, -1).contiguous()
    torch.manual_seed(0)
    mixed, soft = mixing(recipe("paper"), 5)(clips.clone(), torch.arange(8) % 5)
    assert (mixed.shape, soft.shape) == (clips.shape, (8, 5))
    assert torch.equal(mixed[:, 0], mixed[:, 1])
    assert not torch.equal(mixed, clips)


def test_a_source_gives_items_in_the_order_that_is_asked_for(images):
    source = LabelledSource(
        images.images,
        images.labels,
        Machine(CPU),
        change=lambda pixels, draws: normalise(pixels),
        more={"ks": torch.tensor([2])},
    )
    items = torch.tensor([3, 1, 4, 15, 9])
    batches = list(source.read(items, 2))
    assert len(source) == 40
    assert [len(batch["inputs"]) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [3, 1, 4, 0, 4]
    inputs = torch.cat([batch["inputs"] for batch in batches])
    assert torch.equal(inputs, normalise(images.images[items]))
    assert all(batch["ks"].tolist() == [2] for batch in batches)


def test_each_place_has_its_own_augmentation_whatever_the_batch(images):
    constant = images.images[:1].expand(40, -1, -1, -1).contiguous()
    draws = torch.rand(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = []
    for size in (8, 40):
        recorder = Recorder()
        source = LabelledSource(constant, images.labels, Machine(CPU), change=recorder)
        list(source.read(torch.arange(40), size, draws))
        made.append(torch.cat(recorder.made))
    assert torch.equal(*made)
    assert len(made[0].flatten(1).unique(dim=0)) > 30
