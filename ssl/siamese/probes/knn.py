"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv:1805.01978, section 3.4)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.precision import full_float32
from siamese.probes.features import Features
from siamese.progress import over

BLOCK = 1 << 25  # entries of a block of similarities, 128 MB
BANK_ROWS = 1 << 14  # of the bank in such a block


@torch.no_grad()
def knn_grid(
    bank: Features, queries: Features, num_classes: int, ks: Sequence[int], temperatures: Sequence[float]
) -> Tensor:
    """Classes (len(ks), len(temperatures), M) of the queries: each of the k most similar bank features
    (cosine s) votes exp(s / temperature) for its class.

    Exact. A k beyond the bank's size is that size. Memory does not grow with the product of the two sizes:
    both go in blocks, with the best neighbours so far kept.
    """
    y = bank.y.to(queries.at)
    votes = [
        _vote(similarity, y[index], num_classes, ks, temperatures)
        for similarity, index in neighbours(bank, queries, max(ks))
    ]
    return torch.cat(votes, 2)


@torch.no_grad()
def neighbours(bank: Features, queries: Features, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosine similarities (m, most), in descending order, and rows in the bank (m, most) int64 of the nearest
    neighbours of the queries, block by block. `most` is at most the bank's size."""
    most = min(most, len(bank))
    rows = min(len(bank), BANK_ROWS)
    size = max(1, BLOCK // rows)
    for q, _ in over(queries.blocks(size), -(-len(queries) // size), "nearest neighbours", "blocks"):
        q = F.normalize(q, dim=1)
        similarity, index = q.new_empty(len(q), 0), torch.empty(len(q), 0, dtype=torch.int64, device=q.device)
        start = 0
        for x, _ in bank.blocks(rows):
            with full_float32():
                products = q @ F.normalize(x, dim=1).T
            near, at = products.topk(min(most, len(x)), dim=1)
            similarity, index = torch.cat([similarity, near], 1), torch.cat([index, at + start], 1)
            if similarity.shape[1] > most:
                similarity, best = similarity.topk(most, dim=1)
                index = index.gather(1, best)
            start += len(x)
        yield similarity, index


def _vote(s: Tensor, y: Tensor, classes: int, ks: Sequence[int], temperatures: Sequence[float]) -> Tensor:
    """(M, most) similarities in descending order and their labels to classes (ks, temperatures, M)."""
    predicted = torch.empty(len(ks), len(temperatures), len(s), dtype=torch.int64, device=s.device)
    for j, temperature in enumerate(temperatures):
        # exp((s - s_max) / T) gives the same order and cannot overflow.
        weight = ((s - s[:, :1]) / temperature).exp()
        for i, k in enumerate(ks):
            votes = torch.zeros(len(s), classes, device=s.device)
            predicted[i, j] = votes.scatter_add_(1, y[:, :k], weight[:, :k]).argmax(1)
    return predicted


def knn_predict(bank: Features, queries: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    """Classes (M,) of (M, D) queries by one k and temperature; see `knn_grid`."""
    unlabelled = Features(queries, torch.full((len(queries),), -1, device=queries.device))
    return knn_grid(bank, unlabelled, num_classes, [k], [temperature])[0, 0]


def knn_accuracy(bank: Features, queries: Features, num_classes: int, k: int, temperature: float) -> float:
    """Top-1, a fraction in [0, 1]."""
    predicted = knn_grid(bank, queries, num_classes, [k], [temperature])[0, 0]
    return (predicted == queries.y.to(predicted.device)).float().mean().item()
