"""VICReg: views agree, every dimension varies, and none repeats another (arXiv:2105.04906)."""

from typing import Any

from torch import Tensor

from siamese.backbones import Backbone
from siamese.losses import vicreg
from siamese.methods.base import Method
from siamese.methods.expander import expander
from siamese.schema.types import Depth, NonNegative, Width


class VICReg(Method):
    """Bardes, Ponce, LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning".

    Args:
        hidden_dim, output_dim, layers: of the projector ("expander"), `layers` times Linear, BN-ReLU between.
        invariance, variance, covariance: lambda, mu and nu, the weights of the loss's terms.
    """

    collapse_causes = "a learning rate that is too high, or a method.variance that is too low beside method.invariance"

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        layers: Depth,
        invariance: NonNegative,
        variance: NonNegative,
        covariance: NonNegative,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        self.weights = (invariance, variance, covariance)
        self.projector = expander(backbone.feature_dim, hidden_dim, output_dim, layers)

    def loss(self, views: list[Tensor]) -> Tensor:
        x1, x2 = views
        z1, z2 = self.projector(self.backbone(x1)), self.projector(self.backbone(x2))
        self.projection = z1.detach()
        return vicreg(z1, z2, *self.weights)
