"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv:1805.01978, section 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.evaluation.features import Features

BLOCK = 1 << 25  # entries of a block of similarities, 128 MB


@torch.no_grad()
def knn_predict(bank: Features, queries: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    """Classes (M,) of (M, D) queries: each of the k most similar bank features (cosine s) votes
    exp(s / temperature) for its class. `k` is lowered to the size of a smaller bank. Memory does not grow
    with M * N: queries go in blocks."""
    k = min(k, len(bank))
    keys = F.normalize(bank.x, dim=1).T.contiguous()
    out = []
    for block in F.normalize(queries, dim=1).split(max(1, BLOCK // len(bank))):
        similarity, index = (block @ keys).topk(k, dim=1)
        # exp((s - s_max) / T) orders the votes alike and cannot overflow.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(block), num_classes, device=block.device)
        out.append(votes.scatter_add_(1, bank.y[index], weight).argmax(1))
    return torch.cat(out)


def knn_accuracy(bank: Features, queries: Features, num_classes: int, k: int, temperature: float) -> float:
    """Top-1, a fraction in [0, 1]."""
    return (knn_predict(bank, queries.x, num_classes, k, temperature) == queries.y).float().mean().item()
