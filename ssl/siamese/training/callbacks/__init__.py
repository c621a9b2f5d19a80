"""Lightning callbacks of a run. They share a `RunState`; none knows another."""

from siamese.training.callbacks.checkpoint import AtomicCheckpointIO, SaveCheckpoints
from siamese.training.callbacks.nonfinite import NonFiniteGradients
from siamese.training.callbacks.online import OnlineEvaluation
from siamese.training.callbacks.progress import ProgressBar

__all__ = ["AtomicCheckpointIO", "NonFiniteGradients", "OnlineEvaluation", "ProgressBar", "SaveCheckpoints"]
