"""Label-free health of representations."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLLAPSED_STD = 0.05  # of `relative_std`; healthy is about 1, an untrained head without BatchNorm 0.07 or more
COLLAPSED_RANK = 1.5  # of `rankme`; 1 is a single direction


def relative_std(z: Tensor) -> float:
    """The standard deviation of the l2-normalised rows of z (N, D), averaged over dimensions, times
    sqrt(D): about 1 when they spread over the sphere, 0 when they have collapsed to a point (SimSiam,
    arXiv:2011.10566, section 4.1, which plots it without the factor)."""
    return F.normalize(z.float(), dim=1).std(0).mean().item() * z.shape[1] ** 0.5


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """Effective rank (RankMe, arXiv:2210.02885, equation 1) of z (N, D): exp of the entropy of the
    normalised singular values; between 1 and min(N, D), or nan where z is not finite."""
    if not z.isfinite().all():
        return float("nan")
    s = torch.linalg.svdvals(z.double())
    p = s / (s.sum() + eps) + eps
    return torch.exp(-(p * p.log()).sum()).item()


def collapsed(std: float, rank: float) -> bool:
    """Have the outputs collapsed to a point or a line?"""
    return not (std > COLLAPSED_STD and rank > COLLAPSED_RANK)
