"""Similarity of two models' features: Mutual-KNN, CKA, CKNNA."""

from rectify.similarity.alignment import cknna, unbiased_cka
from rectify.similarity.calibration import calibrated
from rectify.similarity.scores import (
    chance_level,
    clamp_outliers,
    mutual_knn,
    mutual_knn_matrix,
)

__all__ = [
    "calibrated",
    "chance_level",
    "cknna",
    "clamp_outliers",
    "mutual_knn",
    "mutual_knn_matrix",
    "unbiased_cka",
]
