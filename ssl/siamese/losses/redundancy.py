"""Losses of redundancy reduction: two views agree, and the dimensions of a projection do not repeat each other."""

import torch.nn.functional as F
from torch import Tensor

from siamese.distributed import gather_with_grad
from siamese.losses.precision import full_precision, in_full_precision


def _off_diagonal(x: Tensor) -> Tensor:
    """The elements (D - 1, D) of a square matrix that are not on its diagonal: a view, no copy and no mask."""
    n = len(x)
    return x.flatten()[:-1].view(n - 1, n + 1)[:, 1:]


def barlow_twins(z1: Tensor, z2: Tensor, off_diagonal: float, scale: float = 1.0) -> Tensor:
    """The loss of Barlow Twins (arXiv:2103.03230, equations 1 and 2), over the joint batch of all ranks.

    lightly's BarlowTwinsLoss standardises each rank's share by itself: two processes do not give what one gives.

    Args:
        z1, z2: (N, D) projections of the two views.
        off_diagonal: lambda, the weight of the correlations of different dimensions.
        scale: factor of the loss.
    """
    with in_full_precision(z1):
        a, b = (F.batch_norm(gather_with_grad(full_precision(z)), None, None, training=True) for z in (z1, z2))
        c = a.T @ b / len(a)  # (D, D) cross-correlation
        return scale * ((1 - c.diagonal()).square().sum() + off_diagonal * _off_diagonal(c).square().sum())


def vicreg(
    z1: Tensor, z2: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, eps: float = 1e-4
) -> Tensor:
    """The loss of VICReg (arXiv:2105.04906, equation 6 and algorithm 1); variance and covariance over the joint batch.

    The official code and lightly take half of the variance term. lightly's VICRegLoss waits for the device (a boolean
    mask).

    Args:
        z1, z2: (N, D) projections of the two views.
        invariance, variance, covariance: lambda, mu and nu, the weights of the terms.
        eps: added to the variances.
    """
    with in_full_precision(z1):
        z1, z2 = full_precision(z1), full_precision(z2)
        total = invariance * F.mse_loss(z1, z2)
        for z in (gather_with_grad(z1), gather_with_grad(z2)):
            z = z - z.mean(0)
            std = (z.square().sum(0) / (len(z) - 1) + eps).sqrt()
            cov = z.T @ z / (len(z) - 1)  # (D, D)
            total = total + variance * F.relu(1 - std).mean()
            total = total + covariance * _off_diagonal(cov).square().sum() / z.shape[1]
        return total
