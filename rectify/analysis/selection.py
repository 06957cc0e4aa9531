"""Which block of the language model to insert where: the choice that similarity predicts.

The paper's strategy: a block gains the more, the more alike its features are to those of
the ViT blocks next to the insertion. Placing language layer ``l`` before ViT block ``i`` of
a ViT of some depth has the neighbours ``i - 1`` and ``i``, as far as they exist, and the
similarity of the placement is the mean Mutual-KNN of layer ``l`` with its neighbours.
"""

from pandas import DataFrame

from rectify.analysis.checks import with_one_layer

PLACEMENT = ["layer", "position", "insert_at", "depth"]


def adjacent_blocks(insert_at: int, depth: int) -> tuple[int, ...]:
    """Return the ViT blocks next to an insertion after ``insert_at`` blocks.

    Raises:
        ValueError: If ``insert_at`` is not in ``0 .. depth``.
    """
    if not 0 <= insert_at <= depth:
        raise ValueError(
            f"adjacent_blocks: insert_at must lie in 0..{depth} for a ViT of {depth} blocks, "
            f"got {insert_at}. Correct insert_at in the run's config.json."
        )
    return tuple(block for block in (insert_at - 1, insert_at) if 0 <= block < depth)


def placement_similarity(similarity: DataFrame, placements: DataFrame) -> DataFrame:
    """Return the distinct placements with the column ``similarity``, 0 .. 1.

    Args:
        similarity: Rows of one language model and one ViT, any number of seeds.
        placements: Frame with the columns layer, position, insert_at and depth.

    Raises:
        ValueError: If a layer was not compared with a neighbour of its place, or a run has several
            layers.
    """
    with_one_layer(placements, "placement_similarity")
    scores = similarity.groupby(["language_layer", "vision_block"])["mutual_knn"].mean()
    distinct = placements[PLACEMENT].drop_duplicates().reset_index(drop=True)
    means = []
    for layer, _, insert_at, depth in distinct.itertuples(index=False):
        neighbours = [(int(layer), block) for block in adjacent_blocks(int(insert_at), int(depth))]
        missing = [pair for pair in neighbours if pair not in scores.index]
        if missing:
            raise ValueError(
                f"placement_similarity: layer {int(layer)} must be compared with ViT block "
                f"{missing[0][1]}, got no such row. Give the similarity of the same two models."
            )
        means.append(float(scores.loc[neighbours].mean()))
    return distinct.assign(similarity=means)


def predicted_choice(placements: DataFrame) -> tuple[int, str]:
    """Return layer and position of the highest similarity; of equals the first."""
    best = placements.loc[placements["similarity"].idxmax()]
    return int(best["layer"]), str(best["position"])
