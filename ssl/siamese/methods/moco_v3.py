"""MoCo v3: contrast within the batch against an EMA encoder, with a predictor (arXiv:2104.02057)."""

from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from siamese.backbones import Backbone, attends
from siamese.losses import info_nce_batch
from siamese.methods.base import Method, frozen_copy
from siamese.optim import ema_momentum, ema_update
from siamese.schema.types import HeadLayers, Probability, Temperature, Width


class MoCoV3(Method):
    """Chen, Xie, He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers".

    Args:
        hidden_dim, output_dim: projector Linear-BN-ReLU-Linear-BN (the last BN without scale and shift),
            predictor Linear-BN-ReLU-Linear; no biases.
        projector_layers: Linear layers of the projector, 2 for ResNets, 3 for transformers.
        predictor_last_bn: the predictor ends in a BN without scale and shift, too: for transformers (section 4).
        temperature: of the softmax; the loss is scaled by 2T.
        momentum: of the EMA at the start; rises to 1 along half a cosine.
    """

    collapse_causes = "a learning rate or temperature that is too high, or a momentum that is too low"
    by_backbone: ClassVar = {"projector_layers": (2, 3), "predictor_last_bn": (False, True)}

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        temperature: Temperature,
        momentum: Probability,
        projector_layers: Literal["auto"] | HeadLayers = "auto",
        predictor_last_bn: Literal["auto"] | bool = "auto",
        **base: Any,
    ):
        super().__init__(backbone, **base)
        form = {key: values[attends(backbone)] for key, values in self.by_backbone.items()}
        layers = form["projector_layers"] if projector_layers == "auto" else projector_layers
        last_bn = form["predictor_last_bn"] if predictor_last_bn == "auto" else predictor_last_bn
        self.temperature, self.momentum = temperature, momentum
        self.projector = _mlp([backbone.feature_dim, *[hidden_dim] * (layers - 1), output_dim], last_bn=True)
        self.predictor = _mlp([output_dim, hidden_dim, output_dim], last_bn)
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


def _mlp(widths: list[int], last_bn: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        layers.append(nn.Linear(before, after, bias=False))
        layers += [] if last and not last_bn else [nn.BatchNorm1d(after, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)
