"""SwAV: views predict each other's assignment to prototypes (arXiv:2006.09882)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.distributed import gather, rank
from siamese.losses import sinkhorn, swapped_prediction
from siamese.methods.base import MultiCrop, by_size
from siamese.methods.prototypes import UnitRows
from siamese.methods.queue import add_queue, check_queue, enqueue
from siamese.schema.types import Classes, Count, Natural, NonNegative, Temperature, Width


class SwAV(MultiCrop):
    """Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments".

    Args:
        hidden_dim, output_dim: projector Linear-BN-ReLU-Linear; all views pass it as one batch.
        prototypes: K unit vectors, fixed for the first `freeze_prototypes_epochs` epochs.
        temperature: of the predictions. epsilon, sinkhorn_iterations: of the codes, over the batch of all devices.
        queue_size: past features of each global view, of all devices, that take part in the codes; 0 is none.
        queue_from_epoch: when the queue, which starts with random rows, takes part.
    """

    collapse_causes = "a learning rate or method.epsilon that is too high, or too many prototypes for the batch"
    queue: Tensor

    def __init__(
        self, backbone: Backbone, hidden_dim: Width, output_dim: Width, prototypes: Classes, temperature: Temperature,
        epsilon: Temperature, sinkhorn_iterations: Count, queue_size: Natural, queue_from_epoch: NonNegative,
        freeze_prototypes_epochs: NonNegative, **base: Any,
    ):  # fmt: skip
        from lightly.models.modules.heads import SwaVProjectionHead  # takes seconds

        super().__init__(backbone, **base)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, sinkhorn_iterations
        self.queue_size, self.queue_from_epoch = queue_size, queue_from_epoch
        self.frozen_epochs = freeze_prototypes_epochs
        self.projector = SwaVProjectionHead(backbone.feature_dim, hidden_dim, output_dim)
        self.prototypes = UnitRows(output_dim, prototypes)
        add_queue(self, self.global_views * queue_size, output_dim)  # view after view
        self.new_rows: list[Tensor] = []  # (global views, N of all devices, D)

    def check(self, global_batch: int, micro_batch: int) -> None:
        check_queue(
            self.queue_size or global_batch, global_batch, f"the global batch (batch_size={global_batch}), or 0"
        )

    def loss(self, views: list[Tensor]) -> Tensor:
        z = self.projector(torch.cat(by_size(self.backbone, views)))
        scores = self.prototypes(z).chunk(len(views))
        z = F.normalize(z.detach().to(scores[0]), dim=1).chunk(len(views))
        joint = torch.stack([gather(large) for large in z[: self.global_views]])
        codes = [self.codes(rows, view).split(len(z[0]))[rank()] for view, rows in enumerate(joint)]
        self.new_rows.append(joint)
        self.projection = z[0]
        return swapped_prediction(scores, codes, self.temperature)

    @torch.no_grad()
    def codes(self, rows: Tensor, view: int) -> Tensor:
        """(N, K) codes of a global view's rows (N, D) of all devices, together with the queue's."""
        if self.queue_size and self.epoch >= self.queue_from_epoch:
            rows = torch.cat([rows, self.queue.chunk(self.global_views)[view].to(rows)])
        return sinkhorn(self.prototypes(rows), self.epsilon, self.iterations)

    def held_back(self) -> list[nn.Parameter]:
        return list(self.prototypes.parameters()) if self.epoch < self.frozen_epochs else []

    def after_step(self, step: int, total_steps: int) -> None:
        self.prototypes.normalize()
        for i, queue in enumerate(self.queue.chunk(self.global_views) if self.queue_size else ()):
            enqueue(queue, torch.cat(self.new_rows, 1)[i], step)
        self.new_rows.clear()

    def drop_step(self) -> None:
        self.new_rows.clear()
