"""Labels of images: one an image, (N,) int64 with -1 for unknown; or several, (N, K) uint8 multi-hot with a whole row
of `UNKNOWN` for unknown."""

import torch
from torch import Tensor

from siamese.data.listing import UNKNOWN


def is_known(labels: Tensor) -> Tensor:
    """(N,) bool: whose label is known."""
    return labels >= 0 if labels.ndim == 1 else (labels != UNKNOWN).all(1)


def hide(labels: Tensor, where: Tensor) -> Tensor:
    """The labels, unknown where `where` (N,) is true."""
    return torch.where(where, -1, labels) if labels.ndim == 1 else labels.masked_fill(where.unsqueeze(1), UNKNOWN)


def present(labels: Tensor) -> Tensor:
    """Sorted numbers of the labels that at least one image has."""
    if labels.ndim == 1:
        return labels[labels >= 0].unique()
    return (labels == 1).any(0).nonzero().squeeze(1)


def most_frequent(labels: Tensor) -> int:
    """How many images have the most frequent label; one must be known."""
    counts = labels[labels >= 0].bincount() if labels.ndim == 1 else (labels == 1).sum(0)
    return int(counts.max())


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """A bool mask (N,), true for `fraction` of each class, drawn with `seed`. Unknown labels are never chosen.

    Where images have several labels, see `stratified_several`.
    """
    if labels.ndim == 2:
        return stratified_several(labels, fraction, seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        if label >= 0:
            members = (labels == label).nonzero().squeeze(1)
            chosen = torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]
            mask[members[chosen]] = True
    return mask


def stratified_several(labels: Tensor, fraction: float, seed: int, unknown: bool = False) -> Tensor:
    """As `stratified`, for labels (N, K): `fraction` of each group of images with the same rarest label; those that are
    known to have no label are one more group.

    Then images change sides, so that a label on one image stays outside of the choice, and one on two or more has an
    image on each side. No label loses its last image on a side by that, so that some labels may stay on one side.

    Args:
        unknown: the images whose labels are unknown are a group, too, instead of never chosen.
    """
    has, last = labels == 1, labels.shape[1]
    counts = has.sum(0)
    groups = torch.where(has, counts, len(labels) + 1).argmin(1)
    groups[~has.any(1)] = last
    groups[~is_known(labels)] = last + 1 if unknown else -1
    mask = stratified(groups, fraction, seed)
    generator = torch.Generator().manual_seed(seed)
    for label in counts.argsort(stable=True).tolist():
        members = has[:, label].nonzero().squeeze(1)
        chosen = mask[members]
        if len(members) < 2:
            mask[members] = False
        elif bool(chosen.all()) or not bool(chosen.any()):
            side = bool(chosen[0])
            only = has[mask == side].sum(0) == 1  # labels whose last image on this side must stay
            free = members[~(has[members] & only).any(1)]
            if len(free):
                mask[free[torch.randint(len(free), (1,), generator=generator)]] = not side
    return mask
