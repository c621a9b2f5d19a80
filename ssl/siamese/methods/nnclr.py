"""NNCLR: the positive is the nearest neighbour of the other view in a queue (arXiv:2104.14548)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.backbones import Backbone
from siamese.distributed import gather
from siamese.losses import full_precision, info_nce_neighbours, nearest
from siamese.methods.base import Method
from siamese.methods.queue import add_queue, check_queue, enqueue
from siamese.schema.types import Count, Temperature, Width


class NNCLR(Method):
    """Dwibedi et al. 2021, "With a Little Help from My Friends".

    Args:
        hidden_dim, output_dim: projector of three linear layers, each with a BatchNorm, ReLU after the first two.
        predictor_dim: predictor Linear-BN-ReLU-Linear.
        temperature: of the softmax.
        queue_size: K features, in which neighbours are looked for; a multiple of the global batch.
    """

    collapse_causes = "a learning rate or temperature that is too high, or a queue that is too short"

    queue: Tensor

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        predictor_dim: Width,
        temperature: Temperature,
        queue_size: Count,
        **base: Any,
    ):
        from lightly.models.modules.heads import NNCLRPredictionHead, NNCLRProjectionHead  # takes seconds

        super().__init__(backbone, **base)
        self.temperature, self.queue_size = temperature, queue_size
        self.projector = NNCLRProjectionHead(backbone.feature_dim, hidden_dim, output_dim)
        self.predictor = NNCLRPredictionHead(output_dim, predictor_dim, output_dim)
        # lightly's NNMemoryBankModule is not in the checkpoint, differs between ranks, and waits for the device.
        add_queue(self, queue_size, output_dim)
        self.new_rows: list[Tensor] = []

    def check(self, global_batch: int, micro_batch: int) -> None:
        check_queue(self.queue_size, global_batch, f"the global batch (batch_size={global_batch})")

    def loss(self, views: list[Tensor]) -> Tensor:
        x1, x2 = views
        z1, z2 = self.projector(self.backbone(x1)), self.projector(self.backbone(x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        z1, z2 = (F.normalize(full_precision(z.detach()), dim=1) for z in (z1, z2))
        n1, n2 = nearest(z1, self.queue), nearest(z2, self.queue)
        self.new_rows.append(gather(z1))
        self.projection = z1
        return info_nce_neighbours(n1, p2, self.temperature) / 2 + info_nce_neighbours(n2, p1, self.temperature) / 2

    def after_step(self, step: int, total_steps: int) -> None:
        enqueue(self.queue, torch.cat(self.new_rows), step)
        self.new_rows.clear()

    def drop_step(self) -> None:
        self.new_rows.clear()
