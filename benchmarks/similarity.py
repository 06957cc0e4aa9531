"""Mutual-KNN of a 32 x 12 heat map, against two plain ways; and 100,000 items in 2 GiB.

One call per pair, in the manner of the published procedure (Huh et al., 2024), scales both
features to unit length, sorts all cosines of every item, and multiplies two masks items x items.
Lists once, in the manner of Groeger et al. (2026), are the nearest of each layer as a product in
fp32 rounds their cosines, compared for all pairs.
"""

import resource
import statistics
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.paired import Options, Table, Timing, Work, fresh, paired, spread, status_kibibytes
from rectify.similarity.calibration import calibrated_matrix
from rectify.similarity.neighbours import neighbours
from rectify.similarity.scores import mutual_knn_matrix, shared_neighbours

WIDE, NARROW = (32, 4096), (12, 384)  # layers, width: a language model and a ViT
PAIRS = WIDE[0] * NARROW[0]
K = 10
LARGE_ITEMS = 100_000
LARGE = {"large-384": (384, 1), "large-384-twice": (384, 2), "large-4096": (4096, 1)}
LIMIT_GIBIBYTES = 2
NAMES = ("items-1024", "items-8192", *LARGE)
TIMED = [(0, 0), (9, 3), (20, 7), (31, 11)]  # pairs of layers
NOTE = (
    f"Mutual-KNN of {WIDE[0]} layers of width {WIDE[1]} and {NARROW[0]} of width {NARROW[1]}, "
    f"{PAIRS} pairs, k = {K}, fp32, random features with a shared part. One call per pair: "
    f"{len(TIMED)} pairs are timed at 1024 items, one at 8192, and multiplied up to {PAIRS}. At "
    "1024 items `mutual_knn_matrix` of all is timed; at 8192 the search in one wide and one narrow "
    f"layer, multiplied, and the comparison of the lists of all {PAIRS} pairs. `plain lists once`: "
    "one product and `topk` in fp32 for each layer, then the lists of all pairs are compared."
)
LARGE_NOTE = (
    f"Neighbours of {LARGE_ITEMS:,} items (`twice`: each item stands there twice, so that all rows "
    f"have ties) in a fresh process that may allocate {LIMIT_GIBIBYTES} GiB above its features."
)


def run(options: Options) -> list[Table]:
    """Return two tables: speed against one call per pair, and memory of many items."""
    cases, tables = options.chosen(NAMES), []
    heat_maps = {"items-1024": _whole, "items-8192": _parts}
    rows = [row for case in cases if case in heat_maps for row in heat_maps[case](options)]
    if rows:
        columns = ("items", "plain", "rectify", "times faster [range]", "scores")
        tables.append(Table(columns, rows, NOTE))
    rows = [_large(case, options) for case in cases if case in LARGE]
    if rows:
        columns = ("case", "seconds", "peak MiB above the features")
        tables.append(Table(columns, rows, LARGE_NOTE))
    return tables


def pair_score(left: Tensor, right: Tensor) -> float:
    """Return Mutual-KNN of one pair, in the manner of the published procedure."""
    masks = []
    for features in (left, right):
        unit = normalize(features)
        order = (unit @ unit.T).fill_diagonal_(-1e8).argsort(dim=1, descending=True)
        mask = torch.zeros(len(unit), len(unit))
        masks.append(mask.scatter_(1, order[:, :K], 1.0))
    return (masks[0] * masks[1]).sum().item() / (len(left) * K)


def layers(items: int, count: int, width: int, seed: int) -> list[Tensor]:
    """Return features of some layers, which share a part with those of every other call."""
    shared = torch.randn(items, 64, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(seed)
    return [
        shared @ torch.randn(64, width, generator=draws) / 8
        + torch.randn(items, width, generator=draws)
        for _ in range(count)
    ]


def plain_matrix(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    """Return all scores from lists that are made once, in the manner of Groeger et al. (2026)."""
    left, right = ([_plain_lists(layer) for layer in side] for side in (lefts, rights))
    counts = [[(one[:, :, None] == other[:, None]).sum() for other in right] for one in left]
    return torch.tensor(counts).double() / left[0].numel()


def _plain_lists(features: Tensor) -> Tensor:
    unit = normalize(features)
    return (unit @ unit.T).fill_diagonal_(-torch.inf).topk(K).indices


def _whole(options: Options) -> list[tuple[str, ...]]:
    lefts, rights = layers(1024, *WIDE, seed=1), layers(1024, *NARROW, seed=2)
    timing = paired(
        lambda: [pair_score(lefts[i], rights[j]) for i, j in TIMED],
        {"rectify": lambda: mutual_knn_matrix(lefts, rights, K)},
        options.rounds,
    )
    scores = mutual_knn_matrix(lefts, rights, K)
    equal = [pair_score(lefts[i], rights[j]) == scores[i, j].item() for i, j in TIMED]
    ratios = [ratio * len(TIMED) / PAIRS for ratio in timing.ratios["rectify"]]
    heat_map = _row("1024", timing, len(TIMED), ratios, f"{sum(equal)} of {len(equal)} equal")
    lists = [[neighbours(layer, K) for layer in side] for side in (lefts, rights)]
    return [heat_map, _listed(lefts, rights, options), _calibration(lists, options)]


def _listed(lefts: list[Tensor], rights: list[Tensor], options: Options) -> tuple[str, ...]:
    plain, ours = (partial(search, lefts, rights) for search in (plain_matrix, _matrix))
    timing = paired(plain, {"rectify": ours}, options.rounds)
    equal = (plain() == ours()).sum().item()
    seconds, ratios = statistics.median(timing.plain), timing.ratios["rectify"]
    return _cells("1024, plain lists once", seconds, ratios, f"{equal} of {PAIRS} equal")


def _matrix(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    return mutual_knn_matrix(lefts, rights, K)


def _calibration(lists: list[list[Tensor]], options: Options) -> tuple[str, ...]:
    """Time 1000 permutations of all pairs; the plain way permutes and compares lists again."""
    draws = torch.Generator().manual_seed(0)
    left, right = lists

    def permute() -> None:
        for _ in range(10):
            order = torch.randperm(1024, generator=draws)
            place = order.argsort().int()
            shared_neighbours(left, [place[one[order].long()] for one in right])

    timing = paired(
        permute, {"rectify": lambda: calibrated_matrix(left, right, 1000, draws)}, options.rounds
    )
    ratios = [ratio / 100 for ratio in timing.ratios["rectify"]]
    seconds = statistics.median(timing.plain) * 100
    return _cells("1024, 1000 permutations", seconds, ratios, "-")


def _parts(options: Options) -> list[tuple[str, ...]]:
    (left,), (right,) = layers(8192, 1, WIDE[1], seed=1), layers(8192, 1, NARROW[1], seed=2)
    lists = [neighbours(left, K)], [neighbours(right, K)]
    methods = {
        "wide layer": lambda: neighbours(left, K),
        "narrow layer": lambda: neighbours(right, K),
        "lists": lambda: shared_neighbours(lists[0] * WIDE[0], lists[1] * NARROW[0]),
    }
    timing = paired(partial(pair_score, left, right), methods, options.rounds)
    ratios = [
        (WIDE[0] * wide + NARROW[0] * narrow + both) / PAIRS
        for wide, narrow, both in zip(*timing.ratios.values(), strict=True)
    ]
    equal = pair_score(left, right) == shared_neighbours(*lists).item()
    return [_row("8192", timing, 1, ratios, f"{int(equal)} of 1 equal")]


def _row(
    items: str, timing: Timing, pairs: int, ratios: list[float], scores: str
) -> tuple[str, ...]:
    return _cells(items, statistics.median(timing.plain) / pairs * PAIRS, ratios, scores)


def _cells(items: str, seconds: float, ratios: list[float], scores: str) -> tuple[str, ...]:
    own = seconds * statistics.median(ratios)
    faster = spread([1 / ratio for ratio in ratios], 1)
    return items, f"{seconds:.3g} s", f"{own:.2f} s", faster, scores


def _large(case: str, options: Options) -> tuple[str, ...]:
    width, times = LARGE[case]
    peak, seconds = fresh(limited_search, width, times, threads=options.threads, calls=1)
    return case, f"{seconds:.0f}", f"{peak:.0f}"


def limited_search(width: int, times: int) -> Work:
    """Return a search in 100,000 items that may allocate 2 GiB above their features."""
    draws = torch.Generator().manual_seed(0)
    features = torch.empty(LARGE_ITEMS, width)
    part = LARGE_ITEMS // times
    features[:part].normal_(generator=draws)
    for copy in range(1, times):
        features[copy * part :][:part] = features[:part]
    limit = 1024 * status_kibibytes("VmData") + LIMIT_GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return lambda: neighbours(features, K)
