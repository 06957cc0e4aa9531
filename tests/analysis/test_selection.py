"""Which neighbours a place has, and which placement similarity predicts."""

import pytest
from pandas import DataFrame

from rectify.analysis.selection import (
    Choice,
    adjacent_blocks,
    best_choice,
    last_at_the_end,
    outcome,
    placement_similarity,
    predicted_choice,
)
from rectify.analysis.selection import placements as made_placements


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


def test_another_score_gives_another_similarity() -> None:
    scored = similarity().assign(cka=lambda rows: -rows["vision_block"])
    places = placements((0.0, "early", 0.0), (1.0, "middle", 2.0))
    placed = placement_similarity(scored, places, "cka")
    assert list(placed["similarity"]) == pytest.approx([0.0, -1.5])


def test_the_embedding_is_no_neighbour_of_a_place() -> None:
    rows = similarity().assign(language_layer=lambda rows: rows["language_layer"] - 1)
    placed = placement_similarity(rows, placements((0.0, "end", 4.0)))
    assert list(placed["similarity"]) == pytest.approx([1.3])  # the rows of what was layer 1
    assert made_placements(rows, None, ["end"])["layer"].tolist() == [0]


def test_a_score_that_is_empty_is_an_error() -> None:
    empty = similarity().assign(cka=float("nan"))
    with pytest.raises(ValueError, match="layer 1 must be compared with ViT block 3"):
        placement_similarity(empty, placements((1.0, "end", 4.0)), "cka")


GAINS = {  # of seeds 0, 1, 2
    (0, "early"): [1.0, 2.0, 3.0],
    (7, "early"): [0.0, 0.0, 3.0],
    (0, "end"): [5.0, 1.0, 6.0],
    (7, "end"): [4.0, 4.0, 1.0],
}


def gains() -> DataFrame:
    return DataFrame(
        [
            {"layer": float(layer), "position": position, "seed": seed, "gain": gain,
             "insert_at": 0.0 if position == "early" else 4.0, "depth": 4}
            for (layer, position), values in GAINS.items() for seed, gain in enumerate(values)
        ]
    )  # fmt: skip


def test_the_best_is_that_of_the_mean_and_regrets_are_to_it_seed_by_seed() -> None:
    assert best_choice(gains()) == (0, "end")  # 4, against 2, 1 and 3
    found = outcome(gains(), Choice(7, "end"))
    assert found["gain"].tolist() == [4.0, 4.0, 1.0]
    assert found["regret"].tolist() == [1.0, -3.0, 5.0]
    assert outcome(gains(), Choice(0, "end"))["regret"].tolist() == [0.0, 0.0, 0.0]


def test_the_usual_choice_is_the_last_layer_at_the_end() -> None:
    assert last_at_the_end(gains()) == (7, "end")
    assert last_at_the_end(gains().query("position == 'early'")) is None


def test_a_placement_without_all_seeds_is_an_error() -> None:
    with pytest.raises(ValueError, match="same seeds, got fewer for layer 7 at end"):
        outcome(gains().iloc[:-1], Choice(0, "end"))


def test_candidates_are_every_layer_at_every_position() -> None:
    made = made_placements(similarity(), None, ["early", "3", "end"])
    assert made[["layer", "insert_at"]].to_numpy().tolist() == [
        [0, 0], [1, 0], [0, 3], [1, 3], [0, 4], [1, 4]
    ]  # fmt: skip
    assert set(made["depth"]) == {4}
    assert made_placements(similarity(), [1], ["middle"], 2)["insert_at"].tolist() == [1]
    with pytest.raises(ValueError, match=r"compared, 0\.\.1, got 5"):
        made_placements(similarity(), [5], ["end"])
    with pytest.raises(ValueError, match=r"early, middle, end or 0\.\.4, got 'ende'"):
        made_placements(similarity(), [1], ["ende"])
