"""What the figures show, as declared tables: each figure is saved with its values."""

from rectify.records import Column, Table

_SEED = Column("seed", "int64", "-", "training seed")
_RUN = Column("run", "str", "-", "name of the run")
_ESTIMATOR = Column("estimator", "str", "-", "estimator of GSNR")
_LAYER = Column("layer", "int64", "-", "decoder block of the language model, from 0")
_POSITION = Column("position", "str", "-", "early, middle or end")
_SEEDS = Column("seeds", "int64", "1", "seeds behind the mean")

VALUES = {
    "figure2": Table(
        "figure2",
        "GSNR over epochs, mean over ViT blocks.",
        ("run", "seed", "epoch", "estimator"),
        (
            _RUN,
            Column("label", "str", "-", "name in the legend"),
            _SEED,
            Column("epoch", "int64", "-", "epochs done before this one"),
            _ESTIMATOR,
            Column("gsnr", "float64", "-", "mean over ViT blocks of Eq. 3"),
        ),
    ),
    "figure3": Table(
        "figure3",
        "GSNR of each ViT block with the inserted block, less that of the vanilla ViT.",
        ("run", "seed", "block", "estimator"),
        (
            _RUN,
            _POSITION,
            Column("insert_at", "int64", "-", "ViT blocks before the inserted one"),
            _SEED,
            Column("block", "int64", "-", "ViT block, counted from 0"),
            _ESTIMATOR,
            Column("gsnr", "float64", "-", "mean over epochs, Eq. 7"),
            Column("vanilla", "float64", "-", "the same without inserted block"),
            Column("difference", "float64", "-", "gsnr less vanilla, same seed"),
        ),
    ),
    "figure4": Table(
        "figure4",
        "Mutual-KNN of each pair of layers, mean over seeds.",
        ("language", "language_layer", "vision_block"),
        (
            Column("language", "str", "-", "name of the language model"),
            Column("language_layer", "int64", "-", "decoder block, counted from 0"),
            Column("vision_block", "int64", "-", "ViT block, counted from 0"),
            Column("mutual_knn", "float64", "share, 0..1", "mean share of common neighbours"),
            Column("mutual_knn_calibrated", "float64", "share, ..1", "0 = permuted items"),
            Column("chance", "float64", "share, 0..1", "expected for unrelated features"),
            _SEEDS,
        ),
    ),
    "figure5": Table(
        "figure5",
        "Gain over vanilla against the similarity of the inserted block and its neighbours.",
        ("layer", "position"),
        (
            _LAYER,
            _POSITION,
            Column("similarity", "float64", "share, 0..1", "mean Mutual-KNN, neighbours, seeds"),
            Column("gain", "float64", "points", "acc@1 less that of vanilla, mean over seeds"),
            Column("least", "float64", "points", "smallest gain of a seed"),
            Column("most", "float64", "points", "largest gain of a seed"),
            _SEEDS,
        ),
    ),
    "table3": Table(
        "table3_heatmap",
        "Accuracy by position and layer of the inserted block.",
        ("layer", "position"),
        (
            _LAYER,
            _POSITION,
            Column("mean", "float64", "%", "acc@1, mean over seeds"),
            Column("std", "float64", "%", "standard deviation, from 2 seeds on", True),
            _SEEDS,
        ),
    ),
}
