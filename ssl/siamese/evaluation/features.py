"""Features of a frozen network."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.augment import CleanView


@dataclass
class Features:
    """(N, D) float32 features and their (N,) int64 labels."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, index: Tensor) -> "Features":
        """The rows at `index`."""
        return Features(self.x[index], self.y[index])


@torch.no_grad()
def extract(
    backbone: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    view: CleanView,
    device: torch.device | str,
    keep_unlabelled: bool = False,
) -> Features:
    """Features of un-augmented images, with the backbone in eval mode (running BatchNorm statistics).

    The network comes back as it was, mode of every module included. Samples without a label (unknown, or
    an unreadable file skipped) are left out unless `keep_unlabelled`.
    """
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    view = view.to(device)
    features, labels = [], []
    try:
        for images, y, aspect in batches:
            x = view(images.to(device, non_blocking=True), aspect)
            features.append(backbone(x).float())
            labels.append(y.to(device))
    finally:
        for module, mode in modes.items():
            module.training = mode
    x, y = torch.cat(features), torch.cat(labels)
    known = y >= 0
    return Features(x, y) if keep_unlabelled or bool(known.all()) else Features(x[known], y[known])


@torch.no_grad()
def raw_pixels(
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]], device: torch.device | str, side: int = 32
) -> Features:
    """The pixels themselves in [0, 1], images larger than `side` resized to it (D = 3 * side * side)."""
    features, labels = [], []
    for images, y, _ in batches:
        x = images.to(device).float().div_(255)
        if max(x.shape[-2:]) > side:
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        features.append(x.flatten(1))
        labels.append(y.to(device))
    x, y = torch.cat(features), torch.cat(labels)
    return Features(x[y >= 0], y[y >= 0])
