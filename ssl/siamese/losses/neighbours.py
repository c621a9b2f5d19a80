"""Losses whose positive is another image's feature."""

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.distributed import gather_with_grad, rank
from siamese.losses.precision import full_precision, in_full_precision


@torch.no_grad()
def nearest(z: Tensor, queue: Tensor) -> Tensor:
    """(N, D): for each row of `z` the row of `queue` (K, D), unit rows, with the largest cosine."""
    with in_full_precision(z):
        return queue[(full_precision(z) @ queue.T.to(full_precision(z).dtype)).argmax(1)]


def info_nce_neighbours(neighbours: Tensor, p: Tensor, temperature: float) -> Tensor:
    """NNCLR's loss of one direction (arXiv:2104.14548, section 3.2): the neighbour of one view finds the prediction of
    the other view among those of all ranks' images.

    lightly's NTXentLoss takes the other neighbours as negatives too, and two anchors an image.

    Args:
        neighbours: (N, D), without gradient; p: (N, D) predictions, whose gradients of all ranks' losses flow back.
    """
    with in_full_precision(p):
        neighbours = F.normalize(full_precision(neighbours.detach()), dim=1)
        p = F.normalize(full_precision(p), dim=1)
        labels = torch.arange(len(p), device=p.device) + len(p) * rank()
        return F.cross_entropy(neighbours @ gather_with_grad(p).T / temperature, labels)
