"""Losses of soft assignments: of views to prototypes (SwAV) and to what a teacher finds (DINO)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.losses.precision import full_precision, in_full_precision


def prototype_scores(x: Tensor, prototypes: Tensor) -> Tensor:
    """(N, K): the unit rows of `x` (N, D) times the rows of `prototypes` (K, D), which the caller has normalised."""
    with in_full_precision(x):
        return F.linear(F.normalize(full_precision(x), dim=1), full_precision(prototypes))


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Sinkhorn-Knopp (SwAV, arXiv:2006.09882, equations 3 to 5): the codes that spread the samples over the prototypes.

    lightly's overflows at scores above 89 epsilon, and in half precision at 12 epsilon. This one takes logarithms.

    Args:
        scores: (N, K) of the joint batch.
        epsilon: weight of the entropy; smaller is sharper.
        iterations: of the scaling of the prototypes' sums, then of the samples'.

    Returns:
        (N, K); each row sums to 1, each column to about N / K.
    """
    with in_full_precision(scores):
        log_codes = full_precision(scores) / epsilon
        for _ in range(iterations):
            log_codes = log_codes - log_codes.logsumexp(0, keepdim=True)
            log_codes = log_codes - log_codes.logsumexp(1, keepdim=True)
        return log_codes.exp()


def swapped_prediction(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float) -> Tensor:
    """SwAV's loss: each view predicts the codes of the other views, the mean of all such pairs.

    lightly's SwaVLoss computes in half precision under autocast.

    Args:
        scores: of each view, (N, K).
        codes: of the first views, (N, K), without gradient. They may be fewer than the views.
    """
    return _cross_entropies(scores, [full_precision(q) for q in codes], temperature)


def self_distillation(
    student: Sequence[Tensor], teacher: Sequence[Tensor], centre: Tensor, student_temperature: float,
    teacher_temperature: float,
) -> Tensor:  # fmt: skip
    """DINO's loss (arXiv:2104.14294, equation 3): each of the student's views predicts the teacher's other views.

    lightly's DINOLoss moves the centre within the forward pass, for skipped steps too, and gives half precision under
    autocast.

    Args:
        student: scores of all views, (N, K). teacher: of the first views, (N, K), without gradient.
        centre: (K,), subtracted from the teacher's scores.
    """
    with in_full_precision(centre):
        targets = [F.softmax((full_precision(t) - centre) / teacher_temperature, dim=1) for t in teacher]
    return _cross_entropies(student, targets, student_temperature)


def _cross_entropies(scores: Sequence[Tensor], targets: Sequence[Tensor], temperature: float) -> Tensor:
    """The mean cross entropy of each view's softmax against the targets of the other views."""
    pairs = len(targets) * (len(scores) - 1)
    with in_full_precision(scores[0]):
        total = scores[0].new_zeros((), dtype=full_precision(scores[0]).dtype)
        for v, view in enumerate(scores):
            others = [target.detach() for i, target in enumerate(targets) if i != v]
            if others:
                log_p = F.log_softmax(full_precision(view) / temperature, dim=1)
                total = total - (torch.stack(others).sum(0) * log_p).sum(1).mean()
        return total / pairs
