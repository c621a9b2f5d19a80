"""BYOL: predict an EMA network's view of the other view; no negatives (arXiv:2006.07733)."""

from typing import Any

import torch
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.losses import cosine_similarity
from siamese.methods.base import Method, frozen_copy
from siamese.optim import ema_momentum, ema_update
from siamese.schema.types import Probability, Width


class BYOL(Method):
    """Grill et al. 2020, "Bootstrap Your Own Latent".

    Args:
        hidden_dim, output_dim: projector and predictor Linear(bias)-BN-ReLU-Linear(no bias) (official code).
        momentum: tau of the target at the start; rises to 1 along half a cosine.

    The target starts as a copy of the online network; the official code draws another one.
    """

    collapse_causes = "a target without momentum (method.momentum), or a predictor that is missing or too weak"

    def __init__(self, backbone: Backbone, hidden_dim: Width, output_dim: Width, momentum: Probability, **base: Any):
        super().__init__(backbone, **base)
        self.momentum = momentum
        self.projector = _mlp(backbone.feature_dim, hidden_dim, output_dim)
        self.predictor = _mlp(output_dim, hidden_dim, output_dim)
        self.target = frozen_copy(self.backbone, self.projector)

    def loss(self, views: list[Tensor]) -> Tensor:
        x1, x2 = views
        z1, z2 = self.projector(self.backbone(x1)), self.projector(self.backbone(x2))
        q1, q2 = self.predictor(z1), self.predictor(z2)
        with torch.no_grad():
            t1, t2 = self.target(x1), self.target(x2)
        self.projection = z1.detach()
        # |q - t|^2 of unit vectors is 2 - 2 cos; summed over both directions: in [0, 8].
        return (2 - 2 * cosine_similarity(q1, t2)) + (2 - 2 * cosine_similarity(q2, t1))

    def after_step(self, step: int, total_steps: int) -> None:
        tau = ema_momentum(step, total_steps, self.momentum, cosine=True)
        ema_update(self.target, nn.Sequential(self.backbone, self.projector), tau)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs, bias=False)
    )
