"""Logistic regression, solved to convergence."""

from dataclasses import dataclass
from typing import Any

from siamese.evaluation.protocols.base import Protocol, percent
from siamese.evaluation.target import EvalTarget
from siamese.probes.logistic import LogisticGrid


@dataclass
class Logistic(LogisticGrid, Protocol):
    """`siamese.probes.logistic.LogisticGrid`; the strength is chosen on the validation split."""

    name = "logistic"
    description = "as linear, but solved to convergence by L-BFGS for a range of L2 strengths"
    needs_network = False
    order = 30

    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        return self.fit_and_score(
            target.features("train_labeled"), target.features("val"), target.all_features(), target.features("test"),
            target.data.num_classes,
        )  # fmt: skip

    def cells(self, result: dict[str, Any]) -> dict[str, str]:
        note = "" if result.get("converged", True) else " (not converged)"
        return {self.name: percent(result["top1"]) + note}
