"""Every kind of result table, declared once."""

from rectify.results.tables import Column, Table

SHARE = "share, 0..1"

ESTIMATORS = {
    "plain": "mean over parameters of squared mean over variance, Eqs. 2 and 3",
    "debiased": "agreement over variance, both without bias; 0 on average for pure noise",
    "xi": "plain with a constant added to each variance (Sun et al., 2023)",
    "unnormalised": "plain with the sum in place of the mean of squared gradients",
}
"""Estimators of GSNR with their meanings; ``rectify.gsnr.estimators`` has their functions."""
GSNR_LOSSES = ("total", "main", "auxiliary")
GSNR_MODES = ("observe", "replace")
GSNR_GROUPS = ("batch", "process", "slice")
GSNR_MODELS = ("train", "eval")
GSNR_LABELS = ("soft", "hard")
GSNR_PARAMETERS = ("all", "weights")

REPORTS = LAST, BEST = ("last", "best")
"""Epoch whose headline metric is shown: the last, or the best on the test set that it reports."""

HISTORY = Table(
    "history",
    "One training run, epoch by epoch: losses, rates, and the task's headline metric.",
    ("epoch", "metric"),
    (
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("metric", "str", "-", "one of `HISTORY_METRICS`, or a metric of the task"),
        Column("value", "float64", "of the metric", "mean over the epoch, or after it"),
    ),
)

HISTORY_METRICS = {
    "train_loss": "total loss, Eq. 10, mean over the epoch, nats",
    "main_loss": "loss of the plain path, nats",
    "auxiliary_loss": "loss of the path through the block, nats; none without that path",
    "lambda": "weight of the auxiliary loss, Eq. 9, 0..1",
    "lr": "learning rate at the end of the epoch, 1/step",
    "test_loss": "loss on the test set after the epoch, nats",
    "train_seconds": "time of the training steps of the epoch, s",
    "items_per_second": "training items per second, 1/s",
}
"""Metrics that every task's history has, with their units; the task's headline metric follows.

Where activations are compared with masks after every epoch, their IoU is there, too:
``iou/<place>/<activation>``, as in `FILTERING`, a share.
"""

GSNR = Table(
    "gsnr",
    "Gradient signal-to-noise ratio of each block, mean over the measured batches (Eq. 3).",
    ("epoch", "block", "estimator"),
    (
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("block", "int64", "-", "block of the trunk, counted from 0"),
        Column("estimator", "str", "-", ", ".join(ESTIMATORS)),
        Column("gsnr", "float64", "-", "mean over parameters and measured batches"),
        Column("parameters", "int64", "1", "parameters of the block that were measured"),
        Column("dropped", "int64", "1", "most parameters without variance in any batch"),
        Column(
            "signal",
            "float64",
            "squared gradient",
            "sum over the parameters with variance of the squared mean gradient, mean over the "
            "measured batches; the same for every estimator",
        ),
        Column(
            "noise",
            "float64",
            "squared gradient",
            "sum over the same parameters of the gradient's variance over the samples of a batch "
            "(divisor: samples), mean over the measured batches; the same for every estimator",
        ),
        Column(
            "agreement",
            "float64",
            "squared gradient",
            "sum over the same parameters of the mean product of two samples' gradients, over the "
            "pairs of a batch that share no image, mean over the measured batches; the same for "
            "every estimator",
        ),
    ),
)

NOISE = Table(
    "noise",
    "How far samples' gradients agree in each block, at every step: means over steps in a row.",
    ("epoch", "step", "block", "quantity"),
    (
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("step", "int64", "-", "the first of the steps, in its epoch, counted from 0"),
        Column("block", "int64", "-", "block of the trunk, counted from 0"),
        Column("quantity", "str", "-", "one of `NOISE_QUANTITIES`"),
        Column("value", "float64", "of the quantity", "of the block's parameters together"),
    ),
)

NOISE_QUANTITIES = {
    "square": "mean over the samples of the gradient's squared norm, squared gradient",
    "square_error": "standard error of `square` from measuring some samples of each step, which "
    "must be independent; squared gradient",
    "mean": "squared norm of the batch's mean gradient, squared gradient",
    "agreement": "mean product of two samples' gradients that share no image, squared gradient",
    "debiased": "agreement over what square exceeds it by: GSNR, and one over the noise scale",
    "coherence": "samples times mean over square: 1 of orthogonal gradients, samples of equal ones",
    "cosine": "root of mean over square: to the batch's gradient, if all samples' are of one size",
}
"""Quantities of `NOISE`, with their units; the ratios are left out where they are not known."""

SCORES = Table(
    "scores",
    "Metrics of a trained model on the test set, on parts of it and on its shifted versions.",
    ("set", "group", "metric", "k"),
    (
        Column(
            "set",
            "str",
            "-",
            "test; a shift: c, a, sk, r as in ImageNet-C, -A, -Sketch, -R; or a part of the test",
        ),
        Column(
            "group", "str", "-", "condition/severity of a corruption, or - for the complete set"
        ),
        Column("metric", "str", "-", "name of the metric, as its task declares it"),
        Column("k", "int64", "1", "k best answers that count, 0 where the metric has none"),
        Column("items", "int64", "1", "test items"),
        Column("value", "float64", "of the metric", "mean over the items"),
    ),
)

MASKS = Table(
    "masks",
    "Masks of the objects in test images or clouds of a set.",
    ("item",),
    (
        Column("item", "int64", "-", "place of the item in the test set, from 0"),
        Column("number", "int64", "-", "of the item's own object in the mask, from 1"),
        Column("name", "str", "-", "class"),
        Column("source", "str", "-", "file of the mask, or of the cloud"),
    ),
)

FILTERING = Table(
    "filtering",
    "How well activations of tokens outline objects: IoU with their masks, beside its floors.",
    ("place", "activation"),
    (
        Column(
            "place",
            "str",
            "-",
            "block-<n>, F_E .. F_L2 of Pang et al., Sec. 6, or F_S after a skip",
        ),
        Column("activation", "str", "-", "magnitude, frequency, or attention of the class token"),
        Column("images", "int64", "1", "images or clouds that are compared"),
        Column("dropped", "int64", "1", "those left out: no token shows the object"),
        Column("iou", "float64", SHARE, "at the best threshold of each of them, mean"),
        Column("iou_one_t", "float64", SHARE, "at the one threshold that is best for the set"),
        Column("threshold", "float64", "of 0..1", "that threshold"),
        Column("iou_permuted", "float64", SHARE, "iou of the same map, tokens permuted"),
        Column(
            "iou_calibrated", "float64", "share, ..1", "0 = permuted tokens, 1 = the mask itself"
        ),
        Column(
            "iou_pixels",
            "float64",
            SHARE,
            "iou of the pixels of each patch, or of a group's points",
        ),
        Column("share", "float64", SHARE, "IoU of all tokens: the object's share of them"),
        Column(
            "auc",
            "float64",
            SHARE,
            "token of the object above one that is not, where there are both",
            True,
        ),
    ),
)

SIMILARITY = Table(
    "similarity",
    "Similarity of the layers of a language model and the blocks of a ViT; Mutual-KNN is Eq. 4.",
    ("language_layer", "vision_block"),
    (
        Column("language_layer", "int64", "-", "decoder block, from 0; -1: the embedding"),
        Column("vision_block", "int64", "-", "ViT block, counted from 0"),
        Column("mutual_knn", "float64", SHARE, "mean share of common neighbours"),
        Column("mutual_knn_error", "float64", "share", "its standard error over items"),
        Column(
            "mutual_knn_calibrated",
            "float64",
            SHARE,
            "0 = within 95 % of the best pairs of permuted items, 1 = identical neighbours",
        ),
        Column("p", "float64", SHARE, "permutations in which this pair scores as high"),
        Column("p_maximum", "float64", SHARE, "permutations in which any pair scores as high"),
        Column("cka", "float64", "-1..1", "unbiased CKA of cosines; none of equal ones", True),
        Column("cka_error", "float64", "1", "its standard error over items", True),
        Column("cknna", "float64", "-1..1", "CKA over common neighbours; likewise", True),
        Column("cknna_error", "float64", "1", "its standard error over items", True),
    ),
)

SCORES_OF_LAYERS = {
    "mutual_knn": "Mutual-KNN",
    "mutual_knn_calibrated": "calibrated Mutual-KNN",
    "cka": "CKA",
    "cknna": "CKNNA",
}
"""Columns of `SIMILARITY` by which layers are compared, and how people call them."""

MANIFEST = Table(
    "manifest",
    "Items of a data set in a fixed order, with their split.",
    ("item",),
    (
        Column("item", "int64", "-", "place in the data set"),
        Column("split", "str", "-", "train, test, or a shifted test set"),
        Column("label", "int64", "-", "class index, -1 where there is none"),
        Column("name", "str", "-", "class name or caption"),
        Column("source", "str", "-", "file, or how the item was drawn"),
    ),
)

PRETRAINING = Table(
    "pretraining",
    "Pretraining curve of a small language model.",
    ("step",),
    (
        Column("step", "int64", "-", "optimizer steps done"),
        Column("train_loss", "float64", "nats per character", "mean since the row before"),
        Column("validation_loss", "float64", "nats per character", "held-out names", True),
    ),
)

FLOP = "FLOP per image"

COST = Table(
    "cost",
    "What a ViT costs with a frozen block: counts, speed and peak memory, random weights.",
    ("variant",),
    (
        Column(
            "variant", "str", "-", "vanilla, insert, residual or auxiliary, the block at the end"
        ),
        Column("parameters", "int64", "1", "all parameters while training, frozen ones included"),
        Column("trained_parameters", "int64", "1", "those that training changes"),
        Column("test_parameters", "int64", "1", "those that are needed at test"),
        Column("flops", "int64", FLOP, "at test, in the paper's convention: rectify/cost.py"),
        Column("flops_matmuls_without_attention", "int64", FLOP, "linears and convolutions"),
        Column("flops_matmuls_with_attention", "int64", FLOP, "all matrix products"),
        Column("training_flops", "int64", FLOP, "all matrix products, backward pass included"),
        Column("training_images_per_second", "float64", "1/s", "forward, backward and AdamW"),
        Column("training_peak_bytes", "float64", "B", "peak memory of a training step", True),
        Column("test_images_per_second", "float64", "1/s", "forward, without gradients"),
        Column("test_peak_bytes", "float64", "B", "peak memory of a forward pass", True),
    ),
)

CELLS = Table(
    "cells",
    "One row per number of a printed table: ours, the paper's, and the difference.",
    ("row_index", "column_index", "kind"),
    (
        Column("row_index", "int64", "-", "place of the row, from the top"),
        Column("column_index", "int64", "-", "place of the column, from the left"),
        Column("row", "str", "-", "row label"),
        Column("group", "str", "-", "common head of some columns, e.g. the data set; or empty"),
        Column("column", "str", "-", "column label, below the common head"),
        Column(
            "kind",
            "str",
            "-",
            "value, its gain or relative gain over vanilla, p value, the same after Holm, "
            "calibrated, chance, regret, or difference between models",
        ),
        Column("unit", "str", "-", "unit of mean, std, paper and difference, times the scale"),
        Column("scale", "float64", "unit", "power of ten that the numbers are divided by"),
        Column(
            "mean",
            "float64",
            "scale x unit",
            "mean over seeds, or a correlation of means; none where `text` says why",
            True,
        ),
        Column("std", "float64", "scale x unit", "standard deviation, from 2 seeds on", True),
        Column(
            "low",
            "float64",
            "scale x unit",
            "95 % interval of a gain or regret, from 3 seeds on, or of a difference",
            True,
        ),
        Column("high", "float64", "scale x unit", "its other end", True),
        Column("seeds", "int64", "1", "seeds behind the mean, 0 without training"),
        Column("text", "str", "-", "why there is no number, else -"),
        Column("paper", "float64", "scale x unit", "the value that the paper prints", True),
        Column("difference", "float64", "scale x unit", "mean minus paper", True),
        Column("paper_row", "str", "-", "row of the paper's table that it is compared with"),
        Column("paper_column", "str", "-", "column of the paper's table"),
        Column("run", "str", "-", "run that the number is of, or - of several"),
    ),
)
