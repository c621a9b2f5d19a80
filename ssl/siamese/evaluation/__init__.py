"""What frozen features are worth: extraction, kNN, linear heads."""

from siamese.evaluation.features import FeatureCache, Features, extract, raw_pixels, view_features
from siamese.evaluation.knn import knn_accuracy, knn_grid, knn_predict
from siamese.evaluation.linear import LinearGrid, LinearResult

__all__ = [
    "FeatureCache",
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
