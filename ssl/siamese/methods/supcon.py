"""SupCon: all views of a class attract, all other views repel (arXiv:2004.11362). Needs labels."""

from typing import Any

import torch
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.losses import sup_con
from siamese.methods.base import Method
from siamese.schema.types import Positive, Temperature, Width


class SupCon(Method):
    """Khosla et al. 2020, "Supervised Contrastive Learning". Trains on the labelled images only.

    Args:
        hidden_dim, output_dim: of the projector, Linear-ReLU-Linear without BatchNorm.
        temperature: of the softmax.
        scale: factor of the loss; the official code has the temperature here.
    """

    uses_labels = True
    collapse_causes = "a learning rate or temperature that is too high, or labels that are all alike"

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        temperature: Temperature,
        scale: Positive,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        self.temperature, self.scale = temperature, scale
        self.projector = nn.Sequential(
            nn.Linear(backbone.feature_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim)
        )

    def loss(self, views: list[Tensor], labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        z = self.projector(self.backbone(torch.cat(views)))  # (2N, D): the BatchNorms see both views at once
        self.projection = z.detach()
        return self.scale * sup_con(z, labels, self.temperature)
