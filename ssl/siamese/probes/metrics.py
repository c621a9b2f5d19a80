"""Metrics of representations that need no labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLLAPSED_STD = 0.05  # of `relative_std`; healthy is about 1, an untrained head without BatchNorm 0.07 or more
PAIRS = 1 << 24  # at a time, 128 MB
FIRST_RANK, LAST_RANK = 4, 100  # of the eigenvalues that `alpha_req` fits
COLLAPSED_RANK = 1.5  # of `rankme`; 1 is a single direction


def relative_std(z: Tensor) -> float:
    """The standard deviation of the l2-normalised rows of z (N, D), averaged over dimensions, times
    sqrt(D): about 1 when they spread over the sphere, 0 when they have collapsed to a point (SimSiam,
    arXiv:2011.10566, section 4.1, which plots it without the factor)."""
    return F.normalize(z.float(), dim=1).std(0).mean().item() * z.shape[1] ** 0.5


def spectrum(z: Tensor) -> Tensor:
    """(min(N, D),) float64: the squared singular values of z (N, D), largest first, as the eigenvalues of the smaller
    Gram matrix: faster than an SVD (`python benchmarks/unlabelled.py --spectrum`), and in float64 exact to 1e-8 of the
    largest singular value, which entropies and power laws do not notice."""
    z = z.double()
    gram = z.T @ z if z.shape[0] > z.shape[1] else z @ z.T
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """Effective rank (RankMe, arXiv:2210.02885, equation 1) of z (N, D): exp of the entropy of the
    normalised singular values; between 1 and min(N, D), or nan where z is not finite."""
    if not z.isfinite().all():
        return float("nan")
    s = spectrum(z).sqrt()
    p = s / (s.sum() + eps) + eps
    return torch.exp(-(p * p.log()).sum()).item()


def alpha_req(z: Tensor) -> float:
    """The exponent alpha of a power law i^-alpha fitted to the eigenvalues of the covariance of z (N, D)
    (alpha-ReQ, Agrawal et al., NeurIPS 2022): 0 is a flat spectrum, about 1 is where it finds the best features.

    Least squares of log eigenvalue on log rank, weighted by 1 / rank, over ranks 4 to 100, as the paper's code does
    (github.com/kumarkrishna/fastssl: `stringer_get_powerlaw`, from 3 to 99 counted from 0); the paper names no range.
    Eigenvalues of at most 1e-9 of the largest are left out; nan where fewer than two of these ranks remain, or
    where z is not finite.

    Few samples alone make a spectrum fall, the more so the fewer eigenvalues there are. What it reads of isotropic
    noise, whose alpha is 0 (`python benchmarks/unlabelled.py --noise`):

    | samples N | D = 64 | D = 512 | D = 2,048 |
    |---|---|---|---|
    | 256 | 0.52 | 0.24 | 0.13 |
    | 2,048 | 0.17 | 0.10 | 0.06 |
    | 25,600 | 0.05 | 0.03 | 0.02 |
    """
    if not z.isfinite().all():
        return float("nan")
    z = z.double() - z.double().mean(0)
    values = spectrum(z)
    values = values[values > 1e-9 * values[:1]][FIRST_RANK - 1 : LAST_RANK]
    if len(values) < 2:
        return float("nan")
    rank = torch.arange(FIRST_RANK, FIRST_RANK + len(values), dtype=z.dtype, device=z.device)
    x, y, weight = rank.log(), values.log(), 1 / rank
    x = x - (weight * x).sum() / weight.sum()
    return -((weight * x * y).sum() / (weight * x.square()).sum()).item()


def uniformity(z: Tensor, t: float = 2.0) -> float:
    """log of the mean over all pairs of exp(-t * squared distance) of the l2-normalised rows of z (N, D)
    (Wang and Isola, arXiv:2005.10242, section 4.1.2): 0 when collapsed, lower is more uniform. In blocks: all
    pairs of RankMe's 25,600 samples would take gigabytes."""
    z, n = F.normalize(z.double(), dim=1), len(z)
    rows = max(1, PAIRS // n)
    total = torch.zeros((), dtype=z.dtype, device=z.device)
    for start in range(0, n, rows):
        block = z[start : start + rows]
        # Of unit vectors: |a - b|^2 = 2 - 2 ab. Each pair is taken once.
        near = (block @ z[start:].T).mul_(2 * t).sub_(2 * t).exp_()
        total += near[:, : len(block)].triu(1).sum() + near[:, len(block) :].sum()
    return (total / (n * (n - 1) / 2)).log().item()


def alignment(views: Tensor) -> float:
    """Mean squared distance between the l2-normalised features of two views of an image, of views (N, Q, D)
    over all pairs of the Q views (arXiv:2005.10242, section 4.1.1, alpha = 2): 0 is perfect."""
    z, q = F.normalize(views.float(), dim=2), views.shape[1]
    # Over all ordered pairs of unit vectors: 2 - 2 * (|sum|^2 - Q) / (Q * (Q - 1)).
    together = z.sum(1).square().sum(1)
    return (2 - 2 * (together - q) / (q * (q - 1))).mean().item()


def lidar(views: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> float:
    """LiDAR (arXiv:2312.04000, section 4): effective rank of linear discriminant analysis in which every image
    is a class and its views are the samples; views (N, Q, D), between 1 and min(N - 1, D); NaN where they are not
    finite or vary too much within images.

    Args:
        delta: added to the diagonal of the within-class covariance.
    """
    if not views.isfinite().all():
        return float("nan")
    e = views.double()
    n, q, d = e.shape
    means = e.mean(1)
    within = (e - means.unsqueeze(1)).flatten(0, 1)
    sigma_w = within.T @ within / (n * (q - 1)) + delta * torch.eye(d, dtype=e.dtype, device=e.device)
    between = (means - means.mean(0)) / (n - 1) ** 0.5
    # The eigenvalues of sigma_w^-1/2 sigma_b sigma_w^-1/2 are the squared singular values of L^-1 between^T.
    factor, problem = torch.linalg.cholesky_ex(sigma_w)
    if problem:  # the spread within images is so large that delta is lost in rounding
        return float("nan")
    whitened = torch.linalg.solve_triangular(factor, between.T, upper=False)
    values = spectrum(whitened)
    p = values / values.sum() + eps
    return torch.exp(-(p * p.log()).sum()).item()


def of_features(z: Tensor) -> dict[str, float]:
    """What un-augmented features (N, D) tell without labels."""
    return {
        "feature_rank": rankme(z),
        "feature_std": relative_std(z),
        "alpha_req": alpha_req(z),
        "uniformity": uniformity(z),
    }


def of_views(views: Tensor) -> dict[str, float]:
    """What the features (N, Q, D) of augmented views tell without labels."""
    return {"alignment": alignment(views), "lidar": lidar(views)}


def collapsed(std: float, rank: float) -> bool:
    """Have the outputs collapsed to a point or a line?"""
    return not (std > COLLAPSED_STD and rank > COLLAPSED_RANK)
