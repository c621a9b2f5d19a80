"""Probes of frozen features, for training and evaluation: kNN, linear and logistic heads, metrics without labels."""

from siamese.probes.features import Features, extract, raw_pixels, view_features
from siamese.probes.knn import knn_accuracy, knn_grid, knn_predict
from siamese.probes.linear import LinearGrid, LinearResult

__all__ = [
    "Features",
    "LinearGrid",
    "LinearResult",
    "extract",
    "knn_accuracy",
    "knn_grid",
    "knn_predict",
    "raw_pixels",
    "view_features",
]
