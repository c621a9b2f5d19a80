"""MoCo v3: contrast within the batch against an EMA encoder, with a predictor (arXiv:2104.02057)."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.errors import UserError
from siamese.losses import info_nce_batch
from siamese.methods.base import Method, frozen_copy
from siamese.optim import ema_momentum, ema_update
from siamese.schema.types import Probability, Temperature, Width


class MoCoV3(Method):
    """Chen, Xie, He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", ResNet form.
    A vision transformer is refused: the paper's form for it has deeper heads and a frozen patch projection.

    Args:
        hidden_dim, output_dim: projector Linear-BN-ReLU-Linear-BN (the last BN without scale and shift),
            predictor Linear-BN-ReLU-Linear; no biases (official code, ResNet).
        temperature: of the softmax; the loss is scaled by 2T.
        momentum: of the EMA at the start; rises to 1 along half a cosine.
    """

    collapse_causes = "a learning rate or temperature that is too high, or a momentum that is too low"

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        temperature: Temperature,
        momentum: Probability,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        # timm's names: Attention, WindowAttention, LocallyGroupedAttn, …; pooling by attention is another thing.
        if any(re.search("Attention(?!Pool)|Attn", type(m).__name__) for m in backbone.modules()):
            name = getattr(backbone, "default_cfg", {}).get("architecture", type(backbone).__name__)
            raise UserError(
                "method=moco_v3",
                f"has the paper's ResNet form alone, and backbone.name={name} is a vision transformer",
                "choose a ResNet, as in backbone=resnet50, or another method",
            )
        self.temperature, self.momentum = temperature, momentum
        self.projector = nn.Sequential(
            nn.Linear(backbone.feature_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim, bias=False),
            nn.BatchNorm1d(output_dim, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(output_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim, bias=False),
        )
        self.target = frozen_copy(self.backbone, self.projector)

    def loss(self, views: list[Tensor]) -> Tensor:
        x1, x2 = views
        z1, z2 = self.projector(self.backbone(x1)), self.projector(self.backbone(x2))
        q1, q2 = self.predictor(z1), self.predictor(z2)
        with torch.no_grad():
            k1, k2 = self.target(x1), self.target(x2)
        self.projection = z1.detach()
        return info_nce_batch(q1, k2, self.temperature) + info_nce_batch(q2, k1, self.temperature)

    def after_step(self, step: int, total_steps: int) -> None:
        momentum = ema_momentum(step, total_steps, self.momentum, cosine=True)
        ema_update(self.target, nn.Sequential(self.backbone, self.projector), momentum)
