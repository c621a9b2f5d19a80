"""Barlow Twins: the cross-correlation of two views becomes the identity (arXiv:2103.03230)."""

from typing import Any

from torch import Tensor

from siamese.backbones import Backbone
from siamese.losses import barlow_twins
from siamese.methods.base import Method
from siamese.methods.expander import expander
from siamese.schema.types import Depth, NonNegative, Positive, Width


class BarlowTwins(Method):
    """Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction".

    Args:
        hidden_dim, output_dim, layers: of the projector, `layers` times Linear, BN-ReLU between.
        off_diagonal: lambda of the loss.
        scale: factor of the loss. With LARS it scales the steps of biases and norms alone.
    """

    collapse_causes = "a learning rate that is too high, or a method.off_diagonal that is too low"

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        layers: Depth,
        off_diagonal: NonNegative,
        scale: Positive,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        self.off_diagonal, self.scale = off_diagonal, scale
        self.projector = expander(backbone.feature_dim, hidden_dim, output_dim, layers)

    def loss(self, views: list[Tensor]) -> Tensor:
        x1, x2 = views
        z1, z2 = self.projector(self.backbone(x1)), self.projector(self.backbone(x2))
        self.projection = z1.detach()
        return barlow_twins(z1, z2, self.off_diagonal, self.scale)
