"""Say which layer to insert where, as similarity predicts: without training anything.

Candidates are layers and positions; the similarity of a placement is the mean score of the layer
with the ViT blocks next to it, and the highest is chosen, of equals the first.

Reads
    --similarity  similarity tables of one language model and one ViT (.csv, with their .csv.json),
                  one for each seed
Writes
    nothing; the choice and all candidates, from the most similar, to the standard output
"""

import argparse
import json
import sys
from pathlib import Path

from rectify.arguments import natural, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    places = "early, middle, end, or numbers of blocks before it"
    parser.add_argument("--similarity", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--depth", type=positive, help="blocks of the ViT; default: those compared")
    parser.add_argument("--layers", type=natural, nargs="+", help="default: all that were compared")
    parser.add_argument("--positions", nargs="+", default=["early", "middle", "end"], help=places)
    parser.add_argument("--score", default="mutual_knn", help="or mutual_knn_calibrated, cka, ...")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
    """Print the predicted placement and the candidates."""
    from rectify.analysis.checks import only
    from rectify.analysis.collect import Results
    from rectify.analysis.selection import placement_similarity, placements, predicted_choice
    from rectify.results.declared import SCORES_OF_LAYERS
    from rectify.typed import check_known

    check_known("select: --score", args.score, SCORES_OF_LAYERS, "a score of similarity tables")
    similarity = Results(similarity_files=args.similarity).similarity
    models = {name: only(similarity, name, "select") for name in ("language", "vision")}
    candidates = placements(similarity, args.layers, args.positions, args.depth)
    compared = placement_similarity(similarity, candidates, args.score)
    choice = predicted_choice(compared)
    ordered = compared.sort_values("similarity", ascending=False, kind="stable")
    rows = ordered.drop(columns="depth").to_dict("records")
    if args.json:
        facts = {**models, "score": args.score, "depth": int(compared["depth"].iloc[0])}
        text = json.dumps({**facts, "choice": choice._asdict(), "placements": rows}, indent=2)
    else:
        label = SCORES_OF_LAYERS[args.score]
        lines = [
            f"{models['language']} in {models['vision']}: layer {choice.layer}, {choice.position}",
            f"{'layer':>5} {'position':>10} {'blocks before':>14} {label:>22}",
        ]
        lines += [
            f"{row['layer']:>5} {row['position']:>10} {row['insert_at']:>14}"
            f" {row['similarity']:>22.4f}"
            for row in rows
        ]
        text = "\n".join(lines)
    sys.stdout.write(f"{text}\n")
