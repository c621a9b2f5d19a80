"""Features for the eye: a map in the plane, and nearest neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.precision import full_float32
from siamese.probes.features import Features

LEAST_FOR_TSNE = 50  # points; below, its neighbourhoods would be the whole set


def principal_plane(x: Tensor) -> tuple[Tensor, float]:
    """The first two principal components of the l2-normalised rows of x (N, D), by singular value decomposition.

    Returns:
        Places (N, 2), and their share of the variance. The sign of a component is that of its largest entry.
    """
    x = F.normalize(x.double(), dim=1)
    x = x - x.mean(0)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    places = torch.zeros(len(x), 2, dtype=x.dtype, device=x.device)
    count = min(2, len(s))
    sign = vh[:count].gather(1, vh[:count].abs().argmax(1, keepdim=True)).sign().T
    places[:, :count] = u[:, :count] * s[:count] * sign
    total = s.square().sum().item()
    return places, s[:2].square().sum().item() / total if total else 0.0


def tsne_plane(x: Tensor, seed: int = 0) -> Tensor:
    """Places (N, 2) of the l2-normalised rows of x (N, D) by scikit-learn's t-SNE, started from their principal
    components; N is at least `LEAST_FOR_TSNE`."""
    from sklearn.manifold import TSNE  # takes most of a second to import

    rows = F.normalize(x.float(), dim=1).cpu().numpy()
    perplexity = min(30.0, (len(x) - 1) / 3)
    return torch.from_numpy(TSNE(2, perplexity=perplexity, random_state=seed).fit_transform(rows)).double()


@full_float32()
def nearest(queries: Tensor, bank: Features, count: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The most similar rows of the bank.

    Args:
        queries: (Q, D).
        bank: N rows.
        own: (Q,) the row of each query in the bank, which is no neighbour of itself; None if they are not in it.

    Returns:
        Indices (Q, min(count, N)) and cosine similarities, the largest first. Less one where `own` is given.
    """
    q = F.normalize(queries.to(bank.at).float(), dim=1)
    similarity = torch.cat([q @ F.normalize(x, dim=1).T for x, _ in bank.blocks()], 1)
    if own is not None:
        similarity[torch.arange(len(q), device=q.device), own.to(q.device)] = -torch.inf
    found = similarity.topk(min(count, len(bank) - (own is not None)), dim=1)
    return found.indices.cpu(), found.values.cpu()
