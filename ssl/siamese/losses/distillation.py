"""Losses that compare a student with a teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.losses.precision import full_precision, in_full_precision


def similarity_cross_entropy(
    s: Tensor, t: Tensor, queue: Tensor, temperature: float, teacher_temperature: float
) -> Tensor:
    """SEED's loss (arXiv:2101.04731, equations 2 to 4): the cross entropy between the teacher's and the student's
    softmax over the similarities to the teacher's own feature and a queue of past ones.

    Args:
        s: (N, D) the student's; t: (N, D) the teacher's of the same images; queue: (K, D) unit rows. No gradient to `t`
            and `queue`.
    """
    with in_full_precision(s):
        s, t = F.normalize(full_precision(s), dim=1), F.normalize(full_precision(t.detach()), dim=1)
        queue = queue.detach().to(s.dtype)
        # The teacher's similarity to itself is 1.
        own = torch.cat([(t * t).sum(1, keepdim=True), t.to(s.dtype) @ queue.T], 1) / teacher_temperature
        follow = torch.cat([(s * t).sum(1, keepdim=True), s @ queue.T], 1) / temperature
        return F.cross_entropy(follow, own.softmax(1))
