"""Mean average precision: how well scores rank the samples that have a label above those that have not."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class MeanPrecision:
    """A mean over classes.

    Args:
        value: a fraction in [0, 1]; nan if no class counts.
        left_out: how many classes do not count, because no sample has their label.
    """

    value: float
    left_out: int


def mean_average_precision(
    scores: Tensor, targets: Tensor, average: Literal["macro", "micro"] = "macro"
) -> MeanPrecision:
    """scikit-learn's `average_precision_score`, over the classes with a positive (it counts the others as 0).

    Args:
        scores: (N, K) finite, higher for the label.
        targets: (N, K) bool or 0 and 1. Samples without labels must have been left out.
        average: ``macro``, the mean over the classes, or ``micro``, all entries ranked together as if they were one
            class.

    Raises:
        ValueError: shapes differ, a target is not 0 or 1, a score is not finite.
    """
    from sklearn.metrics import average_precision_score  # seconds to import, so only where it is asked for

    if scores.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} must both be (N, K)")
    positive = targets == 1
    if bool((~positive & (targets != 0)).any()):
        raise ValueError("targets must be 0 or 1; leave out samples without labels")
    counts = positive.any(0)
    left_out = int((~counts).sum())
    if not counts.any():
        return MeanPrecision(float("nan"), left_out)
    used = counts if average == "macro" else torch.ones_like(counts)
    truth, ranked = positive[:, used].cpu().numpy(), scores[:, used].double().cpu().numpy()
    return MeanPrecision(float(average_precision_score(truth, ranked, average=average)), left_out)
