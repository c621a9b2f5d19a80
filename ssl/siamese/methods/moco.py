"""MoCo v1 and v2: a query finds its key among the keys of past batches (arXiv:1911.05722, 2003.04297)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.batchnorm import SplitBatchNorm, convert_batchnorm
from siamese.distributed import gather, shuffle, unshuffle, world_size
from siamese.errors import UserError
from siamese.losses import full_precision, info_nce_queue
from siamese.methods.base import Method, frozen_copy
from siamese.methods.queue import check_queue, enqueue
from siamese.optim import ema_momentum, ema_update
from siamese.schema.types import Count, Natural, Probability, Temperature, Width


class MoCo(Method):
    """He et al. 2019, Chen et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning".

    Args:
        output_dim: of the head.
        mlp: v2's head Linear-ReLU-Linear instead of v1's Linear; no BatchNorm in either.
        hidden_dim: of v2's head.
        temperature: of the softmax.
        momentum: of the key encoder.
        final_momentum: of the last step, to which it rises along half a cosine (solo-learn's MoCo v2+); None: constant,
            as in the papers.
        queue_size: K keys; a multiple of the keys of a step, so that none is lost at the wrap.
        symmetric: the sum of both directions, and the keys of both views enter the queue, as in the official
            CIFAR-10 notebook; the papers have the first direction alone.
        bn_splits: on each device, BatchNorm over this many parts of the batch separately, with the keys' samples
            shuffled among them, as that many devices would do.

    The key encoder moves after the optimiser step and the keys enter the queue then: at each key forward
    both equal the official code, which does it at the start and at the end of the forward pass.
    """

    collapse_causes = "a learning rate that is too high, or a temperature or momentum that is too low"
    sync_batchnorm = False  # statistics apart and shuffled samples: the batch does not give the key away

    queue: Tensor

    def __init__(
        self,
        backbone: Backbone,
        output_dim: Width,
        mlp: bool,
        hidden_dim: Natural,
        temperature: Temperature,
        momentum: Probability,
        queue_size: Count,
        symmetric: bool = False,
        bn_splits: Count = 1,
        final_momentum: Probability | None = None,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        if mlp and not hidden_dim:
            raise UserError(
                "method.hidden_dim=0", "v2's head has a hidden layer", "give 1 or more, or method.mlp=false"
            )
        if final_momentum is not None and final_momentum < momentum:
            raise UserError(
                f"method.final_momentum={final_momentum:g}", f"is below method.momentum={momentum:g}", "let it rise"
            )
        self.temperature, self.momentum, self.queue_size = temperature, momentum, queue_size
        self.final_momentum = momentum if final_momentum is None else final_momentum
        dim = backbone.feature_dim
        self.projector: nn.Module = nn.Linear(dim, output_dim)
        if mlp:
            self.projector = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))
        self.symmetric, self.bn_splits = symmetric, bn_splits
        if bn_splits > 1:
            convert_batchnorm(self.backbone, SplitBatchNorm)
            for module in self.backbone.modules():
                if isinstance(module, SplitBatchNorm):
                    module.splits = bn_splits
        self.target = frozen_copy(self.backbone, self.projector)
        self.register_buffer("queue", F.normalize(torch.randn(output_dim, queue_size), dim=0))
        self._ddp_params_and_buffers_to_ignore = ["queue"]  # equal on all ranks: DDP need not send it at each step
        self.new_keys: list[Tensor] = []

    def check(self, global_batch: int, micro_batch: int) -> None:
        if micro_batch % self.bn_splits or micro_batch // self.bn_splits < 2:
            raise UserError(
                f"method.bn_splits={self.bn_splits}",
                f"must divide the {micro_batch} images that a device sees at once, two or more to a part",
                "lower it",
            )
        what = "twice the global batch, as the loss is symmetric" if self.symmetric else "the global batch"
        keys = global_batch * (2 if self.symmetric else 1)
        check_queue(self.queue_size, keys, f"{what} (batch_size={global_batch})")

    def loss(self, views: list[Tensor]) -> Tensor:
        loss, q = self.direction(views[0], views[1])
        self.projection = q.detach()
        if self.symmetric:
            loss = loss + self.direction(views[1], views[0])[0]
        return loss

    def direction(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of one view's queries against the other's keys and the queue, and the queries (N, D)."""
        q = self.projector(self.backbone(query_view))
        k = self.keys(key_view)
        self.new_keys.append(gather(k))
        return info_nce_queue(q, k, self.queue, self.temperature), q

    @torch.no_grad()
    def keys(self, x: Tensor) -> Tensor:
        """(N, D) unit keys; their BatchNorm batch is dealt anew among the devices."""
        if world_size() * self.bn_splits == 1:  # one BatchNorm batch: a permutation changes nothing
            return F.normalize(full_precision(self.target(x)), dim=1)
        x, permutation = shuffle(x)
        return unshuffle(F.normalize(full_precision(self.target(x)), dim=1), permutation)

    @torch.no_grad()
    def after_step(self, step: int, total_steps: int) -> None:
        momentum = ema_momentum(step, total_steps, self.momentum, cosine=True, end=self.final_momentum)
        ema_update(self.target, nn.Sequential(self.backbone, self.projector), momentum)
        enqueue(self.queue.T, torch.cat(self.new_keys), step)
        self.new_keys.clear()

    def drop_step(self) -> None:
        self.new_keys.clear()
