"""Convert ScanNet's scans to the arrays that the reader `sqa3d` reads, by a seed.

Reads
    --scans   folder of folders, one a scene: <scene>_vh_clean_2.ply, <scene>.aggregation.json,
              <scene>_vh_clean_2.0.010000.segs.json, <scene>.txt
    --labels  scannetv2-labels.combined.tsv
Writes
    --output  five files a scene: <scene>_{vert,aligned_vert,sem_label,ins_label,aligned_bbox}.npy
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import natural, positive

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--points", type=positive, default=50_000, help="kept of a scan at most")
    parser.add_argument("--seed", type=natural, default=0, help="of which points are kept")
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.tasks.situated_question_answering import scans

    labels = scans.label_numbers(args.labels)
    scenes = sorted(one for one in args.scans.glob("*") if one.is_dir())
    if not scenes:
        raise ValueError(f"{args.scans}: must hold a folder for each scan, got none. Correct it.")
    for scene in scenes:
        parts = scans.converted(scene, labels, args.points, args.seed)
        scans.write(args.output, scene.name, parts)
        found = len(parts["vert"]), len(parts["aligned_bbox"])
        log.info("%s: %d points, %d objects", scene.name, *found)
