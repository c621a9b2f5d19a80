"""Lightning callbacks of a run. They share a `RunState`; none knows another."""

from siamese.training.callbacks.checkpoint import AtomicCheckpointIO, SaveCheckpoints
from siamese.training.callbacks.nonfinite import NonFiniteGradients
from siamese.training.callbacks.online import OnlineEvaluation
from siamese.training.callbacks.page import ReportPage
from siamese.training.callbacks.progress import ProgressBar
from siamese.training.callbacks.pruning import Pruning
from siamese.training.callbacks.rate import LearningRate
from siamese.training.callbacks.stopping import EarlyStopping

__all__ = [
    "AtomicCheckpointIO", "EarlyStopping", "LearningRate", "NonFiniteGradients", "OnlineEvaluation", "ProgressBar",
    "Pruning", "ReportPage", "SaveCheckpoints",
]  # fmt: skip
