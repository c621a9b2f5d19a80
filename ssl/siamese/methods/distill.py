"""Distillation without labels: the student's similarities to a queue follow the teacher's (arXiv:2101.04731)."""

from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.augment import View
from siamese.backbones import Backbone
from siamese.distributed import gather
from siamese.losses import full_precision, similarity_cross_entropy
from siamese.methods.base import Method
from siamese.methods.queue import add_queue, check_queue, enqueue
from siamese.methods.teacher import Teacher
from siamese.schema.types import Built, Count, Temperature


class Distill(Method):
    """SEED: Fang et al. 2021, "Self-supervised Distillation for Visual Representation".

    Args:
        teacher: frozen; `conf/method/teacher`. Its tensors are part of the checkpoint.
        temperature, teacher_temperature: of the two softmaxes over the queue.
        queue_size: features of the teacher that both are compared with; a multiple of the global batch.

    The head is one linear layer to the teacher's width, so that what the student learns stays in its features (the
    paper's has a hidden layer). With several views the loss is their mean; the first one's features enter the queue.
    """

    num_views = None
    collapse_causes = "a teacher whose features are all alike, or temperatures that are too high"

    queue: Tensor

    def __init__(
        self,
        backbone: Backbone,
        teacher: Annotated[Teacher, Built()],
        temperature: Temperature,
        teacher_temperature: Temperature,
        queue_size: Count,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        self.teacher = teacher
        if self.views is not None:
            teacher.sees(cast(View, self.views.views[0]))
        self.temperature, self.teacher_temperature, self.queue_size = temperature, teacher_temperature, queue_size
        self.head = nn.Linear(backbone.feature_dim, teacher.feature_dim)  # no `projector`: it needs the teacher's file
        add_queue(self, queue_size, teacher.feature_dim)
        self.new_features: list[Tensor] = []

    def check_views(self, sizes: list[int]) -> None:
        super().check_views(sizes)
        self.teacher.check_size(sizes[0])

    def check(self, global_batch: int, micro_batch: int) -> None:
        check_queue(self.queue_size, global_batch, f"the global batch (batch_size={global_batch})")

    def loss(self, views: list[Tensor]) -> Tensor:
        losses = []
        for x in views:
            s, t = self.head(self.backbone(x)), F.normalize(full_precision(self.teacher(x)), dim=1)  # (N, D)
            if x is views[0]:
                self.projection = s.detach()
                self.new_features.append(gather(t))
            losses.append(similarity_cross_entropy(s, t, self.queue, self.temperature, self.teacher_temperature))
        return torch.stack(losses).mean()

    def after_step(self, step: int, total_steps: int) -> None:
        enqueue(self.queue, torch.cat(self.new_features), step)
        self.new_features.clear()

    def drop_step(self) -> None:
        self.new_features.clear()
