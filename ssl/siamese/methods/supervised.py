"""The reference of every table: the same backbone, views and schedule, with labels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.losses import full_precision
from siamese.methods.base import Method


class Supervised(Method):
    """Cross entropy on every view. Trains on the labelled images only, without the validation split.

    Args:
        num_classes: of the data set.
    """

    uses_labels = True
    num_views = None
    collapse_causes = "a learning rate that is too high, or labels that are all alike"

    def __init__(self, backbone: Backbone, num_classes: int, **base: Any):
        super().__init__(backbone, **base)
        self.classifier = nn.Linear(backbone.feature_dim, num_classes)

    def loss(self, views: list[Tensor], labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        h = self.backbone(torch.cat(views))  # (views * N, D)
        self.projection = h.detach()
        y = labels.repeat(len(views))
        loss = F.cross_entropy(full_precision(self.classifier(h)), y, ignore_index=-1, reduction="sum")
        return loss / (y >= 0).sum().clamp(min=1)  # -1: an unreadable image, skipped
