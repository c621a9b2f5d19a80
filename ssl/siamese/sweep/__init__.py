"""Sweeps (`-m`): trials side by side, any interruption, one table. Torch is imported by the trials only."""

from siamese.sweep.callback import SweepCallback

__all__ = ["SweepCallback"]
