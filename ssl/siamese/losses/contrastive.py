"""Losses of pairs: two views of an image attract, and other images repel."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.distributed import gather, gather_with_grad, rank, world_size
from siamese.losses.precision import full_precision, in_full_precision
from siamese.schema.types import Count, NonNegative, Temperature


def candidates_of(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The 2N local anchors and the candidates of all ranks.

    Args:
        z: (2N, D), the second half being the other views of the first.

    Returns:
        Unit rows (2N, D) and (2M, D), M = N * world_size, with gradients through the candidates of every
        rank; columns (2N,) of each anchor itself and of its other view.
    """
    z = F.normalize(full_precision(z), dim=1)
    n = len(z) // 2
    candidates = torch.cat([gather_with_grad(z[:n]), gather_with_grad(z[n:])])
    m = n * world_size()
    own = torch.arange(n, device=z.device) + n * rank()
    return z, candidates, torch.cat([own, own + m]), torch.cat([own + m, own])


def _pairs(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(2N, 2M) cosines of `candidates_of`; columns (2N, 1) of each anchor's other view and (2N, 2M - 2) of the views of
    other images, in order. Columns and not masks: what a boolean mask picks has a size that the host waits for."""
    anchors, candidates, itself, other = candidates_of(z)
    low, high = torch.minimum(itself, other).unsqueeze(1), torch.maximum(itself, other).unsqueeze(1)
    negatives = torch.arange(len(candidates) - 2, device=z.device).expand(len(z), -1)
    negatives = negatives + (negatives >= low)  # leaves out the first of the two
    return anchors @ candidates.T, other.unsqueeze(1), negatives + (negatives >= high)


def nt_xent(z: Tensor, temperature: Temperature) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR, arXiv:2002.05709, equation 1).

    Args:
        z: (2N, D) projections, the second half being the other views of the first.

    Returns:
        The SUM of the two views' means, as the official code (objective.py); the paper's equation
        averages all 2N anchors and is half of it. About 2 ln(2N - 1) at chance.
    """
    with in_full_precision(z):
        anchors, candidates, itself, other = candidates_of(z)
        logits = (anchors @ candidates.T / temperature).scatter(1, itself.unsqueeze(1), -torch.inf)
        return 2 * F.cross_entropy(logits, other)


def nt_xent_chunked(z: Tensor, temperature: Temperature, chunk: Count) -> Tensor:
    """`nt_xent` in rows of `chunk` anchors: memory grows with chunk * 2M instead of 2N * 2M, for global
    batches whose similarities do not fit. Its gradient is computed in the forward pass, so a second
    derivative does not exist."""
    with in_full_precision(z):
        anchors, candidates, itself, other = candidates_of(z)
        return 2 / len(z) * _ChunkedCrossEntropy.apply(anchors, candidates, itself, other, temperature, chunk)  # type: ignore[no-untyped-call]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum over anchors; one block of similarities is used for all of them."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, itself: Tensor, other: Tensor, temperature: float, chunk: int
    ) -> Tensor:
        total = anchors.new_zeros(())
        to_anchors, to_candidates = torch.empty_like(anchors), torch.zeros_like(candidates)
        block = anchors.new_empty(min(chunk, len(anchors)), len(candidates))
        for start in range(0, len(anchors), chunk):
            a = anchors[start : start + chunk]
            own, positive = (i[start : start + chunk].unsqueeze(1) for i in (itself, other))
            p = torch.mm(a, candidates.T, out=block[: len(a)]).div_(temperature).scatter_(1, own, -torch.inf)
            top, logit = p.amax(1, keepdim=True), p.gather(1, positive)
            partition = p.sub_(top).exp_().sum(1, keepdim=True)
            total += (partition.log() + top - logit).sum()
            p.div_(partition).scatter_add_(1, positive, -torch.ones_like(logit))  # softmax minus one-hot
            torch.mm(p, candidates, out=to_anchors[start : start + chunk])
            to_candidates.addmm_(p.T, a)
        ctx.save_for_backward(to_anchors.div_(temperature), to_candidates.div_(temperature))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        to_anchors, to_candidates = ctx.saved_tensors
        return grad * to_anchors, grad * to_candidates, None, None, None, None


def dcl(z: Tensor, temperature: Temperature) -> Tensor:
    """Decoupled contrastive learning (arXiv:2110.06848, equation 6): `nt_xent` whose denominator has the negatives of
    both views alone, without the positive. The sum of the two views' means, as `nt_xent`.

    lightly's DCLLoss computes in half precision under autocast and waits for the device (a boolean mask).
    """
    with in_full_precision(z):
        positive, negatives = _decoupled(z, temperature)
        return 2 * (negatives - positive).mean()


def dclw(z: Tensor, temperature: Temperature, sigma: Temperature) -> Tensor:
    """`dcl` with weighted positives (arXiv:2110.06848, section 3.3): 2 - exp(s / sigma) / mean exp(s / sigma), s the
    cosine of an image's two views, the mean over the joint batch. The weights have no gradient.

    lightly's DCLWLoss takes the mean over each rank's share: two processes do not give what one gives.
    """
    with in_full_precision(z):
        positive, negatives = _decoupled(z, temperature)
        s = positive.detach() * temperature / sigma
        joint = gather(s)
        weight = 2 - (s - joint.logsumexp(0)).exp() * len(joint)
        return 2 * (negatives - weight * positive).mean()


def _decoupled(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(2N,): each anchor's logit with its other view, and the log of its sum over the negatives."""
    anchors, candidates, itself, other = candidates_of(z)
    logits = anchors @ candidates.T / temperature
    outside = torch.stack([itself, other], 1)
    return logits.gather(1, other.unsqueeze(1)).squeeze(1), logits.scatter(1, outside, -torch.inf).logsumexp(1)


def nt_logistic(z: Tensor, temperature: Temperature) -> Tensor:
    """The logistic loss of SimCLR's ablation (arXiv:2002.05709, table 2).

    -log sigmoid(s+ / T) of the positive, and -log sigmoid(-s- / T) averaged over the negatives (the
    paper writes one negative), averaged over the 2N anchors.
    """
    with in_full_precision(z):
        similarity, positive, negatives = _pairs(z)
        pull = F.softplus(-similarity.gather(1, positive) / temperature).mean()
        return pull + F.softplus(similarity.gather(1, negatives) / temperature).mean()


def triplet(z: Tensor, margin: NonNegative) -> Tensor:
    """The margin triplet loss of SimCLR's ablation (arXiv:2002.05709, table 2): max(0, s- - s+ + m) on
    cosines, averaged over all negatives of the 2N anchors (no mining)."""
    with in_full_precision(z):
        similarity, positive, negatives = _pairs(z)
        return F.relu(similarity - similarity.gather(1, positive) + margin).gather(1, negatives).mean()


def contrastive(z: Tensor, margin: NonNegative) -> Tensor:
    """The pairwise contrastive loss (Hadsell, Chopra, LeCun 2006, equation 4) on the Euclidean distance d
    of unit vectors: d^2 / 2 of a positive pair, max(0, m - d)^2 / 2 of a negative one.

    The two kinds are averaged separately and added, so that 2N - 2 negatives do not outweigh one positive.
    """
    with in_full_precision(z):
        similarity, positive, negatives = _pairs(z)
        squared = (2 - 2 * similarity).clamp(min=1e-12)  # the root has no gradient at zero
        pull = squared.gather(1, positive).mean() / 2
        return pull + F.relu(margin - squared.gather(1, negatives).sqrt()).square().mean() / 2


def info_nce_queue(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's loss (arXiv:1911.05722, equation 1): the key of the same image against a queue.

    Args:
        q: (N, D) queries; k: (N, D) keys; queue: (D, K) unit columns. No gradient to `k` and `queue`.
    """
    with in_full_precision(q):
        q, k = F.normalize(full_precision(q), dim=1), F.normalize(full_precision(k.detach()), dim=1)
        positive = (q * k).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ queue.detach().to(q.dtype)], 1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


def info_nce_batch(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """MoCo v3's loss of one direction (arXiv:2104.02057, algorithm 1): the keys of all ranks are the
    candidates, the other images' the negatives; times 2T, as in the official code.

    Args:
        q: (N, D) predictions; k: (N, D) keys, without gradient.
    """
    with in_full_precision(q):
        q, k = F.normalize(full_precision(q), dim=1), F.normalize(full_precision(k), dim=1)
        labels = torch.arange(len(q), device=q.device) + len(q) * rank()
        return 2 * temperature * F.cross_entropy(q @ gather(k).T / temperature, labels)


def cosine_similarity(p: Tensor, z: Tensor) -> Tensor:
    """The mean cosine of the rows of `p` and `z`, in float32; no gradient to `z` (stop-gradient)."""
    with in_full_precision(p):
        return F.cosine_similarity(full_precision(p), full_precision(z.detach()), dim=1, eps=1e-6).mean()
