"""Similarity of two models' features: Mutual-KNN, CKA, CKNNA."""

from rectify.similarity.scores import mutual_knn, mutual_knn_matrix

__all__ = ["mutual_knn", "mutual_knn_matrix"]
