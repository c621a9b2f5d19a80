"""Probes of frozen features where an image has several labels: kNN, and a logistic regression for each label.

Targets are the `y` of `Features`: (N, K) uint8, 1 where the sample has the label, 0 where not, a whole row of 255 for a
sample without labels. Both probes return scores (M, K) that rank the samples of each label (`precision`).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.data import is_known
from siamese.data.listing import UNKNOWN
from siamese.precision import full_float32
from siamese.probes.features import Features
from siamese.probes.knn import BLOCK, neighbours
from siamese.probes.linear import TINY, Standardised
from siamese.probes.logistic import L2Grid, Solution, minimise, penalty
from siamese.probes.precision import mean_average_precision


def labelled(features: Features) -> Features:
    """The samples whose labels are known; the same object if all are. Rows of a file come into memory.

    Raises:
        ValueError: targets are not (N, K), a row is known in part, a target is none of 0, 1 and 255, or none is known.
    """
    y = features.y
    if y.ndim != 2:
        raise ValueError(f"targets {tuple(y.shape)} must be (N, K)")
    unknown = y == UNKNOWN
    mixed, wrong = int((unknown.any(1) & ~unknown.all(1)).sum()), int(((y > 1) & ~unknown | (y < 0)).sum())
    if mixed or wrong:
        raise ValueError(f"{mixed} of {len(y)} rows are unknown in part, {wrong} targets are none of 0, 1 and 255")
    known = is_known(y)
    if not known.any():
        raise ValueError(f"none of {len(y)} samples has a known label")
    return features if bool(known.all()) else features.subset(known.nonzero().squeeze(1).to(features.x.device))


@torch.no_grad()
def multilabel_knn_grid(bank: Features, queries: Features, ks: Sequence[int], temperatures: Sequence[float]) -> Tensor:
    """Scores (len(ks), len(temperatures), M, K) in [0, 1]: the share of the k most similar bank features (cosine s),
    weighted by exp(s / temperature), that have the label.

    Exact; neighbours, large k and memory are those of `knn_grid`. Unlabelled samples of the bank are left out.
    """
    bank = labelled(bank)
    targets, out = bank.y.to(queries.at), []
    for similarity, index in neighbours(bank, queries, max(ks)):
        rows = max(1, BLOCK // (index.shape[1] * targets.shape[1]))  # (rows, k, K) float32 at a time
        for s, near in zip(similarity.split(rows), index.split(rows), strict=True):
            y = targets[near].float()
            # exp((s - s_max) / T) gives the same shares and cannot overflow.
            weights = [((s - s[:, :1]) / temperature).exp().unsqueeze(1) for temperature in temperatures]
            with full_float32():
                shares = [
                    torch.stack([(w[..., :k] @ y[:, :k]).squeeze(1) / w[..., :k].sum(2) for w in weights]) for k in ks
                ]
            out.append(torch.stack(shares))
    return torch.cat(out, 2)


def multilabel_knn(bank: Features, queries: Features, k: int, temperature: float) -> Tensor:
    """Scores (M, K) for one k and temperature; see `multilabel_knn_grid`."""
    return multilabel_knn_grid(bank, queries, [k], [temperature])[0, 0]


class MultilabelGrid(L2Grid):
    """K independent logistic regressions on standardised features, over a range of L2 strengths.

    Minimises, for each label, mean binary cross entropy + l2 / 2 * |weights|^2, the bias not penalised; scikit-learn's
    C is 1 / (l2 * N). The K problems share their matrix products and one L-BFGS: the sum of independent losses has the
    minima of each. The strength, one for all labels, has the best macro mAP on a validation split.
    """

    def solve(self, fit: Standardised, l2: float, start: Tensor | None = None) -> Solution:
        """The minimum (D + 1, K) for one strength, from `start` or zero.

        A label that all samples of `fit` have, or none, has no minimum: its bias would grow without end. Its weights
        are zero and its bias is log((positives + 0.5) / (negatives + 0.5)).
        """
        positives = sum(y.sum(0, dtype=torch.float64) for _, y in fit.blocks())
        assert isinstance(positives, Tensor)
        negatives = len(fit) - positives
        free = (positives > 0) & (negatives > 0)
        if start is None:
            start = torch.zeros(fit.dim, len(free), device=fit.at)
        start = start * free
        start[-1] += torch.where(free, 0, ((positives + 0.5) / (negatives + 0.5)).log()).float()

        def objective(weight: Tensor) -> tuple[Tensor, Tensor]:
            loss, gradient = penalty(weight, l2)
            for x, y in fit.blocks():  # the gradient of binary cross entropy, written out
                sign = 1 - 2 * y.float()  # -1 where the sample has the label; log(1 + exp(sign * z)) loses no digits
                wrong = (x @ weight).mul_(sign)
                loss += (F.softplus(wrong) * free).sum(dtype=torch.float64) / len(fit)
                gradient += x.T @ wrong.sigmoid_().clamp_(min=TINY).mul_(sign).div_(len(fit))
            return loss, gradient * free

        return minimise(objective, start, self.max_iter, self.tolerance)

    def fit_and_score(self, fit: Features, select: Features, whole: Features, test: Features) -> dict[str, Any]:
        """The strength chosen on `select` after solving on `fit`, then solved on `whole` and scored once on `test`.
        Among equals the strongest is chosen. Unlabelled samples are left out.

        Returns:
            map: macro mAP on `test`; micro_map; classes_left_out: without a positive there; chosen: l2 and its
            validation_map; iterations; converged.

        Raises:
            ValueError: as `labelled`, or no label has a positive in `select`.
        """
        fit, select, whole, test = (labelled(part) for part in (fit, select, whole, test))
        moments = fit.moments()
        train, held_out = Standardised(fit, moments), Standardised(select, moments)
        solved = self.solve_each(lambda l2, start: self.solve(train, l2, start))
        found = [mean_average_precision(linear_scores(s.weight, held_out), held_out.y).value for _, s in solved]
        if math.isnan(found[0]):
            raise ValueError(
                f"none of {select.y.shape[1]} labels has a positive among {len(select)} validation samples"
            )
        best = found.index(max(found))
        (l2, start), moments = solved[best], whole.moments()
        solution = self.solve(Standardised(whole, moments), l2, start.weight)
        scores = linear_scores(solution.weight, Standardised(test, moments))
        macro = mean_average_precision(scores, test.y)
        return {
            "map": macro.value,
            "micro_map": mean_average_precision(scores, test.y, average="micro").value,
            "classes_left_out": macro.left_out,
            "chosen": {"l2": l2, "validation_map": found[best]},
            "iterations": solution.iterations,
            "converged": solution.converged,
        }


@torch.no_grad()
@full_float32()
def linear_scores(weight: Tensor, on: Standardised) -> Tensor:
    """Logits (M, K) of weights (D + 1, K)."""
    return torch.cat([x @ weight for x, _ in on.blocks()])
