"""`siamese eval`, eval_linear.py: judge the features of a checkpoint."""

from typing import Any

from omegaconf import DictConfig

from siamese.imports import without_scipy_signal
from siamese.signals import ended_by_sigterm


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """The figures of a checkpoint by the protocols of `eval=`, or evaluations side by side by `compare=`."""
    if cfg.compare is not None:
        from siamese.evaluation.compare import compare
        from siamese.output import console

        return compare(cfg.compare, console())
    with without_scipy_signal():
        from siamese.evaluation import evaluator

    return evaluator.evaluate(cfg)


def main(cfg: DictConfig) -> float:
    """Returns linear top-1 for sweeps, or kNN's if linear did not run; where an image may have several labels logistic
    or kNN mAP."""
    with ended_by_sigterm():
        found = evaluate(cfg)
    keys = ("linear_top1", "knn_top1", "logistic_map", "knn_map")
    return float(next((found[key] for key in keys if key in found), "nan"))
