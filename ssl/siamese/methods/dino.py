"""DINO: a student predicts the centred and sharpened output of its EMA teacher (arXiv:2104.14294)."""

from typing import Any

import torch
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.distributed import gather
from siamese.losses import self_distillation
from siamese.methods.base import MultiCrop, by_size, frozen_copy
from siamese.methods.prototypes import Prototypes, gelu_mlp
from siamese.optim import ema_momentum, ema_update
from siamese.schema.types import Classes, NonNegative, Probability, Temperature, Width


class DINO(MultiCrop):
    """Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers".

    Args:
        hidden_dim, bottleneck_dim: projector Linear-GELU-Linear-GELU-Linear, no BatchNorm.
        output_dim: K outputs of the last layer, which follows the unit length of the bottleneck.
        norm_last_layer: the last layer has unit rows; false: their length is trained, too.
        momentum: of the teacher at the start; rises to 1 along half a cosine.
        student_temperature: of the student's softmax.
        warmup_teacher_temperature, teacher_temperature, temperature_warmup_epochs: of the teacher's, along a line.
        center_momentum: of the mean of the teacher's outputs.
        freeze_last_layer_epochs: epochs in which the last layer stays as it is.
    """

    collapse_causes = "a teacher temperature or a learning rate that is too high, or a center_momentum near 1"
    center: Tensor

    def __init__(
        self, backbone: Backbone, hidden_dim: Width, bottleneck_dim: Width, output_dim: Classes, norm_last_layer: bool,
        momentum: Probability, student_temperature: Temperature, teacher_temperature: Temperature,
        warmup_teacher_temperature: Temperature, temperature_warmup_epochs: NonNegative, center_momentum: Probability,
        freeze_last_layer_epochs: NonNegative, **base: Any,
    ):  # fmt: skip
        super().__init__(backbone, **base)
        self.momentum, self.center_momentum, self.frozen_epochs = momentum, center_momentum, freeze_last_layer_epochs
        self.student_temperature, self.warmup_epochs = student_temperature, temperature_warmup_epochs
        self.first_temperature, self.last_temperature = warmup_teacher_temperature, teacher_temperature
        self.projector = gelu_mlp(backbone.feature_dim, hidden_dim, bottleneck_dim)
        self.prototypes = Prototypes(bottleneck_dim, output_dim, free_length=not norm_last_layer)
        self.target = frozen_copy(self.backbone, self.projector, self.prototypes)
        for module in self.target.modules():
            if isinstance(getattr(module, "drop_prob", None), float):
                module.drop_prob = 0.0  # type: ignore[assignment] # no stochastic depth in the teacher (official code)
        self.register_buffer("center", torch.zeros(output_dim))
        self.new_means: list[Tensor] = []  # of the teacher's outputs, (K,)

    def loss(self, views: list[Tensor]) -> Tensor:
        h = by_size(self.backbone, views)
        student = self.prototypes(self.projector(torch.cat(h))).chunk(len(views))
        with torch.no_grad():
            teacher = self.target(torch.cat(views[: self.global_views]))
        self.new_means.append(gather(teacher.mean(0, keepdim=True)).mean(0))
        self.projection = h[0].detach()  # the bottleneck has a large common mean, which the centre takes away
        t = teacher.chunk(self.global_views)
        return self_distillation(student, t, self.center, self.student_temperature, self.teacher_temperature())

    def teacher_temperature(self) -> float:
        """The teacher's temperature in this step."""
        done = min(1.0, self.epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.first_temperature * (1 - done) + self.last_temperature * done

    def held_back(self) -> list[nn.Parameter]:
        return list(self.prototypes.parameters()) if self.epoch < self.frozen_epochs else []

    @torch.no_grad()
    def after_step(self, step: int, total_steps: int) -> None:
        tau = ema_momentum(step, total_steps, self.momentum, cosine=True)
        ema_update(self.target, nn.Sequential(self.backbone, self.projector, self.prototypes), tau)
        self.center.lerp_(torch.stack(self.new_means).mean(0).to(self.center), 1 - self.center_momentum)
        self.new_means.clear()

    def drop_step(self) -> None:
        self.new_means.clear()
