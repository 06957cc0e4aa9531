"""Which neighbours a place has, and which placement similarity predicts."""

import pytest
from pandas import DataFrame

from rectify.analysis.selection import adjacent_blocks, placement_similarity, predicted_choice


def similarity() -> DataFrame:
    """Return two seeds of a model with 2 layers and a ViT of 4 blocks: layer + block / 10."""
    return DataFrame(
        [
            {"seed": seed, "language_layer": layer, "vision_block": block,
             "mutual_knn": layer + block / 10 + (seed - 0.5) / 50}
            for seed in (0, 1) for layer in (0, 1) for block in range(4)
        ]
    )  # fmt: skip


def placements(*places: tuple[float, str, float]) -> DataFrame:
    frame = DataFrame(places, columns=["layer", "position", "insert_at"])
    return frame.assign(depth=4)


def test_the_ends_have_one_neighbour_and_the_middle_has_two() -> None:
    assert adjacent_blocks(0, 12) == (0,)
    assert adjacent_blocks(6, 12) == (5, 6)
    assert adjacent_blocks(12, 12) == (11,)


def test_a_place_outside_the_vit_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"insert_at must lie in 0..12 .* got 13"):
        adjacent_blocks(13, 12)


def test_the_similarity_of_a_place_is_the_mean_over_neighbours_and_seeds() -> None:
    places = placements((0.0, "early", 0.0), (1.0, "middle", 2.0), (1.0, "end", 4.0))
    placed = placement_similarity(similarity(), places)
    assert list(placed["similarity"]) == pytest.approx([0.0, 1.15, 1.3])


def test_runs_of_several_seeds_are_one_placement() -> None:
    twice = placements((1.0, "end", 4.0), (1.0, "end", 4.0))
    assert len(placement_similarity(similarity(), twice)) == 1


def test_a_layer_that_was_not_compared_is_an_error() -> None:
    with pytest.raises(ValueError, match="layer 7 must be compared with ViT block 3"):
        placement_similarity(similarity(), placements((7.0, "end", 4.0)))


def test_the_choice_is_the_most_similar_placement() -> None:
    points = DataFrame(
        {"layer": [0, 31, 7], "position": ["early", "end", "middle"], "similarity": [0.1, 0.3, 0.2]}
    )
    assert predicted_choice(points) == (31, "end")
