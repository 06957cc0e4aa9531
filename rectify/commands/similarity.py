"""Similarity of every layer of a language model with every block of a ViT: Mutual-KNN (Eq. 4).

Features are clamped at a quantile of their absolute values and compared as in Huh et al. (2024),
by Mutual-KNN, unbiased CKA and CKNNA, each with a standard error over items. The calibrated
Mutual-KNN is 0 where the best pair of layers of permuted items would score the same.

Reads
    --language  features of the captions, from `rectify language-features`
    --vision    features of the images of the same items, from `rectify vision-features`
                either may be one's own: an array (items, dim) or (layers, items, dim), as .npy
                or as the only tensor of a .safetensors file; the order of items is yours to keep
Writes
    --output    a `similarity` table (.csv, with its .csv.json)
"""

import argparse
from pathlib import Path

from rectify.arguments import positive, share, table_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    own = "of `rectify {}-features`, or one's own: .npy, .safetensors"
    parser.add_argument("--language", type=Path, required=True, help=own.format("language"))
    parser.add_argument("--vision", type=Path, required=True, help=own.format("vision"))
    parser.add_argument("--k", type=positive, required=True, help="neighbours of an item")
    parser.add_argument("--quantile", type=share, required=True, help="where features are clamped")
    parser.add_argument("--clamp", default="global", help="global, per_layer or per_sample")
    parser.add_argument("--permutations", type=positive, required=True)
    parser.add_argument("--threads", type=positive, required=True)
    parser.add_argument("--output", type=table_path, required=True)


def run(args: argparse.Namespace) -> None:
    """Compare the features, and write every measure of every pair of layers."""
    from functools import partial

    from rectify.results.declared import SIMILARITY
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.runtime import generator, start
    from rectify.similarity.compare import compare
    from rectify.similarity.scores import chance_level
    from rectify.trunks.features import check_same_pairs
    from rectify.trunks.own_features import any_features

    start(args.threads)
    language, facts = any_features(args.language, "language")
    vision, more = any_features(args.vision, "vision")
    check_same_pairs(facts, more)
    draws = partial(generator, 0)
    how = {"quantile": args.quantile, "clamp": args.clamp}
    measures = compare(language, vision, args.k, args.permutations, draws, **how)
    first = facts["first_layer"]
    rows = [
        (first + layer, block, *(measure[layer, block].item() for measure in measures.values()))
        for layer in range(len(language))
        for block in range(len(vision))
    ]
    items = language.shape[1]
    facts = {**facts, **more, "k": args.k, "items": items, "chance": chance_level(args.k, items)}
    source = provenance(facts["seed"], "rectify.similarity.compare", **facts)
    write_table(SIMILARITY, rows, args.output, source)
