"""Mean corruption error on ImageNet-C (Hendrycks and Dietterich, 2019), beside mean accuracy.

The error of a model under a corruption, mean over its severities, is divided by AlexNet's, and
the mean over the fifteen corruptions is taken: 1 for AlexNet, 0 without errors. The paper prints
mean accuracy, which weighs all corruptions alike; the two are often confused.
"""

from pandas import DataFrame

ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Error of AlexNet by corruption, mean over the severities; from the authors' repository."""


def mean_corruption_error(scores: DataFrame) -> float:
    """Return the mCE, 0 .. about 1; nan unless all fifteen corruptions were evaluated.

    Args:
        scores: Rows of a `SCORES` table; the accuracies of the set ``c`` count, whose groups are
            named ``corruption/severity``.
    """
    corrupted = scores[(scores["set"] == "c") & (scores["metric"] == "accuracy")]
    corrupted = corrupted[corrupted["k"] == 1]
    conditions = corrupted["group"].map(lambda group: group.partition("/")[0])
    if set(conditions) != set(ALEXNET):
        return float("nan")
    errors = 1 - corrupted.groupby(conditions)["value"].mean()
    return float((errors / errors.index.map(ALEXNET)).mean())
