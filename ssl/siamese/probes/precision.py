"""Average precision: how well scores rank the samples that have a label above those that have not."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ENTRIES = 1 << 24  # sorted at a time, about 1 GB with the sums


@dataclass(frozen=True)
class MeanPrecision:
    """A mean over classes.

    Args:
        value: a fraction in [0, 1]; nan if no class counts.
        classes: how many count.
        left_out: how many classes do not, because no known sample has their label.
    """

    value: float
    classes: int
    left_out: int


@torch.no_grad()
def average_precision(scores: Tensor, targets: Tensor, known: Tensor | None = None) -> Tensor:
    """Average precision (K,) float64 of each class, on the device of the scores.

    The sum over thresholds of (recall - recall at the threshold before) * precision, as scikit-learn defines it:
    without interpolation, and samples of equal scores share one threshold. A class without a positive gets nan
    (scikit-learn: 0 and a warning).

    Args:
        scores: (N, K) float of any scale, higher for the label; infinities are ordered like numbers.
        targets: (N, K) bool or numbers 0 and 1.
        known: (N,) or (N, K) bool, samples or entries that count; None for all.

    Raises:
        ValueError: shapes differ, a known target is not 0 or 1, a known score is nan.
    """
    if scores.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} must both be (N, K)")
    known = torch.ones(len(scores), dtype=torch.bool) if known is None else known.bool()
    if known.shape not in (scores.shape, scores.shape[:1]):
        raise ValueError(f"known {tuple(known.shape)} must be (N,) or (N, K) for scores {tuple(scores.shape)}")
    targets, known = targets.to(scores.device), _entries(known.to(scores.device), scores)
    wrong = known & (targets != 0) & (targets != 1)
    if wrong.any():
        first = targets[wrong][0].item()
        raise ValueError(f"{int(wrong.sum())} known targets are not 0 or 1, the first is {first}; mark them unknown")
    if (known & scores.isnan()).any():
        raise ValueError(f"{int((known & scores.isnan()).sum())} known scores are nan")
    width = max(1, ENTRIES // max(1, len(scores)))
    columns = zip(scores.split(width, 1), targets.split(width, 1), known.split(width, 1), strict=True)
    return torch.cat([_columns(s, t == 1, k) for s, t, k in columns], 0)


def _entries(known: Tensor, scores: Tensor) -> Tensor:
    """(N,) or (N, K) to (N, K)."""
    return (known if known.ndim == 2 else known.unsqueeze(1)).expand_as(scores)


def _columns(scores: Tensor, positive: Tensor, known: Tensor) -> Tensor:
    """Average precision of some classes; an unknown entry weighs nothing wherever it is sorted."""
    if not len(scores):
        return scores.new_full((scores.shape[1],), torch.nan, dtype=torch.float64)
    scores, order = scores.sort(dim=0, descending=True)
    hits = (positive & known).gather(0, order).cumsum(0)  # true positives down to each place
    taken = known.gather(0, order).cumsum(0)
    end = torch.ones_like(scores, dtype=torch.bool)  # the last sample of a threshold
    end[:-1] = scores[1:] != scores[:-1]
    before = torch.zeros_like(hits)  # true positives at the threshold before
    before[1:] = hits.masked_fill(~end, 0).cummax(0).values[:-1]
    gained = (hits - before).masked_fill(~end, 0)
    precision = hits.double() / taken.clamp(min=1)
    return (gained * precision).sum(0) / hits[-1]  # 0 / 0 is nan


def mean_average_precision(
    scores: Tensor, targets: Tensor, known: Tensor | None = None, average: Literal["macro", "micro"] = "macro"
) -> MeanPrecision:
    """mAP; the arguments are those of `average_precision`.

    Args:
        average: ``macro``, the mean over the classes with a positive (scikit-learn counts the others as 0), or
            ``micro``, all entries ranked together as if they were one class.

    Raises:
        ValueError: as `average_precision`, or an unknown `average`.
    """
    if average not in ("macro", "micro"):
        raise ValueError(f"average={average!r} must be 'macro' or 'micro'")
    each = average_precision(scores, targets, known)
    counts = ~each.isnan()
    classes = int(counts.sum())
    if average == "macro":
        value = each[counts].mean().item()
    else:
        known = None if known is None else _entries(known, scores).reshape(-1)
        value = average_precision(scores.reshape(-1, 1), targets.reshape(-1, 1), known).item()
    return MeanPrecision(value, classes, len(each) - classes)
