"""IoU, AUC, token masks and floors, each against loops over tokens and pixels."""

import itertools
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from rectify.filtering.overlap import (
    THRESHOLDS,
    TokenMasks,
    auc,
    ious,
    permuted,
    shares,
    token_masks,
)

IGNORED = 1000


@pytest.fixture
def maps() -> Tensor:
    return torch.rand(5, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def masks() -> TokenMasks:
    draws = torch.Generator().manual_seed(1)
    known = torch.rand(5, 12, generator=draws) < 0.8
    known[:, :2] = True
    inside = known & (torch.rand(5, 12, generator=draws) < 0.4)
    inside[:, 0], inside[:, 1] = True, False
    return TokenMasks(inside, known)


def tokens_of(masks: TokenMasks, image: int) -> tuple[set[int], set[int]]:
    """Return the tokens inside and the known ones."""
    return tuple({t for t, is_in in enumerate(kind[image].tolist()) if is_in} for kind in masks)


def test_iou_is_that_of_two_sets_of_tokens(maps: Tensor, masks: TokenMasks) -> None:
    found = ious(maps, masks)
    for image, (number, threshold) in itertools.product(range(5), enumerate(THRESHOLDS)):
        inside, known = tokens_of(masks, image)
        above = {token for token in known if maps[image, token].item() > threshold}
        expected = len(above & inside) / len(above | inside)
        assert found[image, number].item() == pytest.approx(expected)


def test_there_are_nine_thresholds() -> None:
    assert THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def test_a_map_that_is_the_mask_has_iou_1_and_its_complement_0(masks: TokenMasks) -> None:
    exact = masks.inside.float()
    assert (ious(exact, masks) == 1).all()
    assert (ious(1 - exact, masks) == 0).all()
    assert (auc(exact, masks) == 1).all()
    assert (auc(1 - exact, masks) == 0).all()


def test_what_lies_on_unknown_tokens_changes_nothing(maps: Tensor, masks: TokenMasks) -> None:
    assert not masks.known.all()
    other = torch.where(masks.known, maps, 1 - maps)
    assert torch.equal(ious(other, masks), ious(maps, masks))
    assert torch.equal(auc(other, masks), auc(maps, masks))


def test_auc_counts_pairs_of_tokens_with_ties_as_half(maps: Tensor, masks: TokenMasks) -> None:
    coarse = (4 * maps).round() / 4  # with ties
    for image, found in enumerate(auc(coarse, masks).tolist()):
        inside, known = tokens_of(masks, image)
        values = coarse[image].tolist()
        pairs = itertools.product(inside, known - inside)
        wins = [
            Fraction(values[ours] > values[other]) + Fraction(values[ours] == values[other], 2)
            for ours, other in pairs
        ]
        assert found == pytest.approx(float(sum(wins) / len(wins)))


def test_auc_is_none_where_every_token_is_inside() -> None:
    full = TokenMasks(torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool))
    assert auc(torch.rand(1, 4), full).isnan().all()


def test_the_share_is_the_iou_of_all_tokens(masks: TokenMasks) -> None:
    everything = torch.ones(5, 12)
    torch.testing.assert_close(shares(masks), ious(everything, masks)[:, 0])


def test_a_permutation_moves_the_values_of_known_tokens_alone(
    maps: Tensor, masks: TokenMasks
) -> None:
    moved = permuted(maps, masks, torch.Generator().manual_seed(2))
    assert not torch.equal(moved, maps)
    for image in range(5):
        known = masks.known[image]
        assert sorted(moved[image, known].tolist()) == sorted(maps[image, known].tolist())


def test_every_order_is_drawn_alike() -> None:
    masks = TokenMasks(torch.tensor([[True, False, False]]), torch.tensor([[True, True, True]]))
    masks = TokenMasks(masks.inside.expand(6000, 3), masks.known.expand(6000, 3))
    maps = torch.tensor([[0.0, 0.5, 1.0]]).expand(6000, 3)
    moved = permuted(maps, masks, torch.Generator().manual_seed(0))
    counts = torch.unique(moved, dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000).abs() < 150).all()  # five standard deviations


def test_a_map_that_knows_nothing_has_the_iou_of_its_permutation() -> None:
    draws = torch.Generator().manual_seed(0)
    maps = torch.rand(4000, 16, generator=draws)
    inside = torch.rand(4000, 16, generator=draws) < 0.3
    inside[:, 0] = True
    masks = TokenMasks(inside, torch.ones_like(inside))
    best = [ious(m, masks).amax(1) for m in (maps, permuted(maps, masks, draws))]
    noise = (best[0].var() / 4000 + best[1].var() / 4000).sqrt()
    assert (best[0].mean() - best[1].mean()).abs() < 4 * noise
    assert best[0].mean() > shares(masks).mean()  # the best threshold is chosen with the mask
    assert auc(maps, masks).nanmean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("cover", [0.0, 0.25, 0.5, 1.0])
def test_a_token_is_inside_if_enough_of_its_known_pixels_are(cover: float) -> None:
    draws = torch.Generator().manual_seed(3)
    choices = torch.tensor([0, 7, 7, 300, IGNORED])
    pixels = choices[torch.randint(0, 5, (3, 4, 6), generator=draws)]
    pixels[0, :2, :2] = IGNORED  # one token of which nothing is known
    pixels[1, :2, :2] = 7
    objects = torch.tensor([7, 7, 300])
    masks = token_masks(pixels, objects, (2, 3), cover)
    for image, row, column in itertools.product(range(3), range(2), range(3)):
        cell = pixels[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten().tolist()
        known = [number for number in cell if number != IGNORED]
        own = known.count(objects[image].item())
        token = 3 * row + column
        assert masks.known[image, token].item() == bool(known)
        assert masks.inside[image, token].item() == (own > 0 and own >= cover * len(known))


def test_cover_has_an_effect() -> None:
    pixels = torch.tensor([[[1, 0, 0, 0], [0, 0, 0, 0]]])
    counts = [
        token_masks(pixels, torch.tensor([1]), (1, 2), c).inside.sum().item() for c in (0.0, 0.5)
    ]
    assert counts == [1, 0]
