"""Mutual-KNN between every layer of a language model and every block of a ViT (Eq. 4).

Features are clamped at a quantile of their absolute values and compared as in Huh et al.
(2024); the calibrated value is 0 where permuted items would score the same.

Reads
    --language  features of the captions, one tensor (layers, items, dim)
    --vision    features of the images of the same items
Writes
    --output    a `similarity` table (.csv, with its .csv.json)
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", type=Path, required=True)
    parser.add_argument("--vision", type=Path, required=True)
    parser.add_argument("--k", type=int, required=True, help="neighbours of an item")
    parser.add_argument("--quantile", type=float, required=True, help="where features are clamped")
    parser.add_argument("--permutations", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.results.declared import SIMILARITY
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.runtime import generator, start
    from rectify.similarity.neighbours import neighbours
    from rectify.similarity.scores import (
        calibrated_matrix,
        chance_level,
        clamp_outliers,
        shared_neighbours,
    )
    from rectify.trunks.features import load_features

    start(args.threads)
    lists, facts = [], {}
    for path in (args.language, args.vision):
        layers, about = load_features(path)
        clamped = clamp_outliers(layers, args.quantile)
        lists.append([neighbours(layer, args.k) for layer in clamped])
        facts |= about
    scores = shared_neighbours(*lists)
    draws = generator(0, "permutations")
    corrected, _ = calibrated_matrix(*lists, args.permutations, draws)
    rows = [
        (layer, block, scores[layer, block].item(), corrected[layer, block].item())
        for layer in range(scores.shape[0])
        for block in range(scores.shape[1])
    ]
    items = len(lists[0][0])
    facts |= {"k": args.k, "items": items, "chance": chance_level(args.k, items)}
    seed = facts["seed"]
    write_table(
        SIMILARITY, rows, args.output, provenance(seed, "rectify.similarity.scores", **facts)
    )
