"""Multinomial logistic regression solved to convergence, over a range of L2 strengths."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.precision import full_float32
from siamese.probes.features import Features
from siamese.probes.linear import TINY, Standardised, best_head, head_scores
from siamese.progress import over
from siamese.schema.types import Count, Positive, Positives


@dataclass
class Solution:
    """A minimum: weights (D + 1, classes), the last row being the bias; iterations; whether it converged."""

    weight: Tensor
    iterations: int
    converged: bool


def penalty(weight: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """l2 / 2 * |weight|^2 (a float64 scalar) and its gradient; the last row, the bias, is not penalised."""
    penalised = weight.clone()
    penalised[-1] = 0
    return 0.5 * l2 * penalised.square().sum(dtype=torch.float64), l2 * penalised  # float32 ends the line search early


@full_float32()
def minimise(
    objective: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, max_iter: int, tolerance: float
) -> Solution:
    """L-BFGS from `start`. `objective` gives loss and gradient of weights; converged when no entry of the gradient is
    larger than `tolerance`."""
    weight = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=max_iter, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=tolerance, tolerance_change=0, max_eval=4 * max_iter,
    )  # fmt: skip

    @torch.no_grad()
    def closure() -> Tensor:
        loss, weight.grad = objective(weight.detach())
        return loss

    optimizer.step(closure)
    closure()
    assert weight.grad is not None
    converged = weight.grad.abs().max().item() <= tolerance
    return Solution(weight.detach(), optimizer.state[weight]["n_iter"], converged)


@dataclass
class L2Grid:
    """Strengths of an L2 penalty, and how the problem of each is solved.

    Args:
        l2s: strengths to choose from; solved from the strongest to the weakest, each from the one before.
        max_iter: iterations for each strength.
        tolerance: converged when no entry of the gradient is larger.
    """

    l2s: Positives
    max_iter: Count
    tolerance: Positive

    def solve_each(self, solve: Callable[[float, Tensor | None], Solution]) -> list[tuple[float, Solution]]:
        """Each strength and its solution. `solve` gets a strength, and weights to start from or None."""
        solved: list[tuple[float, Solution]] = []
        strengths = sorted(self.l2s, reverse=True)
        for l2 in over(strengths, len(strengths), "logistic regression", "strengths"):
            solved.append((l2, solve(l2, solved[-1][1].weight if solved else None)))
        return solved


class LogisticGrid(L2Grid):
    """The logistic regression by which SimCLR (arXiv:2002.05709, appendix B.8) and CLIP judge features on
    small data sets: L-BFGS on the whole set, no augmentation.

    Minimises mean cross entropy + l2 / 2 * |weights|^2, the bias not penalised, on standardised features;
    scikit-learn's C is 1 / (l2 * N).
    """

    def solve(self, fit: Standardised, num_classes: int, l2: float, start: Tensor | None = None) -> Solution:
        """The minimum for one strength, from `start` or zero."""
        if start is None:
            start = torch.zeros(fit.dim, num_classes, device=fit.at)

        def objective(weight: Tensor) -> tuple[Tensor, Tensor]:
            loss, gradient = penalty(weight, l2)
            for x, y in fit.blocks():  # the gradient of softmax cross entropy, written out
                log_p = (x @ weight).log_softmax(1)
                loss -= log_p.gather(1, y.unsqueeze(1)).sum(dtype=torch.float64) / len(fit)
                gradient += x.T @ log_p.exp_().clamp_(min=TINY).sub_(F.one_hot(y, num_classes)).div_(len(fit))
            return loss, gradient

        return minimise(objective, start, self.max_iter, self.tolerance)

    def fit_and_score(
        self, fit: Features, select: Features, whole: Features, test: Features, num_classes: int
    ) -> dict[str, Any]:
        """The strength chosen on `select` after solving on `fit`, then solved on `whole` and scored once on
        `test`."""
        moments = fit.moments()
        train, held_out = Standardised(fit, moments), Standardised(select, moments)
        solved = self.solve_each(lambda l2, start: self.solve(train, num_classes, l2, start))
        top1, loss = head_scores(torch.stack([s.weight for _, s in solved]), held_out.blocks())
        best = best_head(top1, loss)
        (l2, start), moments = solved[best], whole.moments()
        solution = self.solve(Standardised(whole, moments), num_classes, l2, start.weight)
        final, _ = head_scores(solution.weight.unsqueeze(0), Standardised(test, moments).blocks())
        return {
            "top1": final[0].item(),
            "chosen": {"l2": l2, "validation_top1": top1[best].item()},
            "iterations": solution.iterations,
            "converged": solution.converged,
        }
