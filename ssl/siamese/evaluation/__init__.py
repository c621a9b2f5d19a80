"""What frozen features are worth: extraction, kNN, linear heads."""

from siamese.evaluation.features import Features, extract, raw_pixels
from siamese.evaluation.knn import knn_accuracy, knn_predict
from siamese.evaluation.linear import LinearGrid, LinearResult

__all__ = ["Features", "LinearGrid", "LinearResult", "extract", "knn_accuracy", "knn_predict", "raw_pixels"]
