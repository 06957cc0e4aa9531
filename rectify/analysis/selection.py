"""Which block of the language model to insert where: the choice that similarity predicts.

The paper's strategy: a block gains the more, the more alike its features are to those of
the ViT blocks next to the insertion. Placing language layer ``l`` before ViT block ``i`` of
a ViT of some depth has the neighbours ``i - 1`` and ``i``, as far as they exist, and the
similarity of the placement is the mean score of layer ``l`` with its neighbours.

A choice is worth what the best placement gains more: its regret. The best placement is the one
with the highest mean over seeds, and a regret is a difference to it, seed by seed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pandas import DataFrame, Series

from rectify.analysis.checks import with_one_layer
from rectify.controls import insert_index

PLACEMENT = ["layer", "position", "insert_at", "depth"]
PLACE = ["layer", "position"]  # what names a placement in one ViT


class Choice(NamedTuple):
    """A placement of a layer."""

    layer: int
    position: str


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


def placement_similarity(
    similarity: DataFrame, placements: DataFrame, score: str = "mutual_knn"
) -> DataFrame:
    """Return the distinct placements with the column ``similarity``.

    Args:
        similarity: Rows of one language model and one ViT, any number of seeds.
        placements: Frame with the columns layer, position, insert_at and depth.
        score: The column of ``similarity`` by which layers are compared.

    Raises:
        ValueError: If a layer was not compared with a neighbour of its place, or has no score, or a
            run has several layers.
    """
    with_one_layer(placements, "placement_similarity")
    scores = similarity.groupby(["language_layer", "vision_block"])[score].mean().dropna()
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


def placements(
    similarity: DataFrame,
    layers: Sequence[int] | None,
    positions: Sequence[str],
    depth: int | None = None,
) -> DataFrame:
    """Return every layer at every position, as ``placement_similarity`` takes them.

    Args:
        similarity: Rows of one language model and one ViT.
        layers: Of the language model; all that were compared if there are none.
        positions: early, middle, end, or numbers of blocks before the layer.
        depth: Number of blocks of the ViT; those that were compared if there is none.

    Raises:
        ValueError: If a layer was not compared, or a position is none of the ViT.
    """
    known = sorted(int(layer) for layer in similarity["language_layer"].unique() if layer >= 0)
    depth = depth or int(similarity["vision_block"].max()) + 1
    for layer in layers or ():
        if layer not in known:
            raise ValueError(
                f"select: a layer must be one that was compared, {known[0]}..{known[-1]}, got "
                f"{layer}. Correct the layers."
            )
    places = [
        (position, insert_index(int(position) if position.isdecimal() else position, depth))
        for position in positions
    ]
    rows = [
        (layer, position, insert_at, depth)
        for position, insert_at in places
        for layer in layers or known
    ]
    return DataFrame(rows, columns=PLACEMENT)


def predicted_choice(placements: DataFrame) -> Choice:
    """Return layer and position of the highest similarity; of equals the first."""
    return _choice(placements.loc[placements["similarity"].idxmax()])


def last_at_the_end(placements: DataFrame) -> Choice | None:
    """Return the last layer at the last place, where the published codes insert.

    None if this placement is not among those that can be chosen.
    """
    chosen = placements[
        (placements["layer"] == placements["layer"].max())
        & (placements["insert_at"] == placements["depth"])
    ]
    return None if chosen.empty else _choice(chosen.iloc[0])


def best_choice(gains: DataFrame) -> Choice:
    """Return the placement with the highest mean gain over seeds; of equals the first.

    Args:
        gains: Columns layer, position, seed and gain.
    """
    means = gains.groupby(PLACE, sort=False)["gain"].mean()
    return Choice(int(means.idxmax()[0]), str(means.idxmax()[1]))


def outcome(gains: DataFrame, choice: Choice) -> DataFrame:
    """Return what a choice gains, and what the best placement gains more: its regret.

    Args:
        gains: Columns layer, position, seed and gain, one row for each placement and seed.
        choice: One of the placements.

    Returns:
        The columns gain and regret, by seed.

    Raises:
        ValueError: If a placement lacks a seed that another one has.
    """
    table = gains.pivot(index="seed", columns=PLACE, values="gain")
    if table.isna().any(axis=None):
        layer, position = table.columns[table.isna().any()][0]
        raise ValueError(
            f"selection: every placement must have the same seeds, got fewer for layer "
            f"{layer:.0f} at {position}. Run the missing seeds."
        )
    gain = table[choice]
    return DataFrame({"gain": gain, "regret": table[best_choice(gains)] - gain})


def _choice(placement: Series) -> Choice:
    return Choice(int(placement["layer"]), str(placement["position"]))
