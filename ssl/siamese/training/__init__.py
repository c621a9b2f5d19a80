"""Pretraining: `check(cfg)` to a plan, `build(plan)` to finished objects, `run(training)`."""

from siamese.training.build import Plan, Training, build, check
from siamese.training.run import Run

__all__ = ["Plan", "Run", "Training", "build", "check", "run"]


def run(training: Training) -> tuple[float, Run]:
    """Train from start to closing table.

    Returns:
        The validation figure (see `Run.finish`), and the run with its folder and summary.
    """
    one = Run(training)
    try:
        one.start()
        one.fit()
        return one.finish(), one
    finally:
        one.close()
