"""Logistic regression, solved to convergence."""

from dataclasses import dataclass
from typing import Any

from siamese.evaluation.protocols.base import Protocol, one_cell
from siamese.evaluation.target import EvalTarget
from siamese.probes.logistic import LogisticGrid
from siamese.probes.multilabel import MultilabelGrid


@dataclass
class Logistic(LogisticGrid, Protocol):
    """`siamese.probes.logistic.LogisticGrid`, or `siamese.probes.multilabel.MultilabelGrid` of the same settings where
    an image may have several labels; the strength is chosen on the validation split, there by macro mAP."""

    name = "logistic"
    description = "as linear, but solved to convergence by L-BFGS for a range of L2 strengths"
    needs_network = False
    multilabel = True
    order = 30

    def evaluate(self, target: EvalTarget) -> dict[str, Any]:
        fit, select = target.features("train_labeled"), target.features("val")
        whole, test = target.all_features(), target.features("test")
        if target.data.multilabel:
            grid = MultilabelGrid(self.l2s, self.max_iter, self.tolerance)
            return grid.fit_and_score(fit, select, whole, test)
        return self.fit_and_score(fit, select, whole, test, target.data.num_classes)

    def cells(self, result: dict[str, Any]) -> dict[str, str]:
        note = "" if result.get("converged", True) else " (not converged)"
        return one_cell(self.name, result, note)
