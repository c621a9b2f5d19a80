"""Contrastive losses that know the classes."""

import torch
from torch import Tensor

from siamese.distributed import gather
from siamese.losses.contrastive import candidates_of
from siamese.losses.precision import in_full_precision
from siamese.schema.types import Temperature


def sup_con(z: Tensor, labels: Tensor, temperature: Temperature) -> Tensor:
    """The supervised contrastive loss L_out (arXiv:2004.11362, equation 2), averaged over the 2N anchors: the mean over
    an anchor's positives of the cross entropy. Positives are all views of the images of its class, on all ranks.

    Args:
        z: (2N, D) projections, the second half being the other views of the first.
        labels: (N,) classes; -1 is unknown: the only positive is the image's other view.
    """
    with in_full_precision(z):
        anchors, candidates, itself, other = candidates_of(z)
        logits = anchors @ candidates.T / temperature
        partition = logits.scatter(1, itself.unsqueeze(1), -torch.inf).logsumexp(1, keepdim=True)
        own, joint = labels.repeat(2).unsqueeze(1), gather(labels).repeat(2)
        columns = torch.arange(len(candidates), device=z.device)
        positive = ((own == joint) & (own >= 0)) | (columns == other.unsqueeze(1))
        positive = positive & (columns != itself.unsqueeze(1))
        return ((partition - logits) * positive).sum(1).div(positive.sum(1)).mean()
