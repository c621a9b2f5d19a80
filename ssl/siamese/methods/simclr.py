"""SimCLR: two views of an image attract, all other views of the batch repel (arXiv:2002.05709)."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.methods.base import Method
from siamese.schema.types import Built, Temperature, Width


class SimCLR(Method):
    """Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".

    Args:
        hidden_dim, output_dim: of the projector, Linear-BN-ReLU-Linear-BN; its last BatchNorm scales and
            does not shift (official code).
        temperature: of the losses that have one.
        margin: of the losses that have one.
        loss: `siamese.losses.nt_xent`, `nt_xent_chunked`, `dcl`, `dclw`, `nt_logistic`, `triplet` or `contrastive`;
            receives the (2N, D) projections and either the temperature or the margin, as it names it.
    """

    collapse_causes = "a learning rate or temperature that is too high, or a batch with too few negatives"

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        temperature: Temperature,
        loss: Annotated[Callable[[Tensor], Tensor], Built(partial=True)],
        **base: Any,
    ):
        super().__init__(backbone, **base)
        self.criterion = loss
        self.projector = nn.Sequential(
            nn.Linear(backbone.feature_dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim, bias=False),
            nn.BatchNorm1d(output_dim),
        )
        self.projector[-1].bias.requires_grad_(False)

    def loss(self, views: list[Tensor]) -> Tensor:
        x = torch.cat(views)  # (2N, 3, h, w): the BatchNorms see both views at once
        z = self.projector(self.backbone(x))
        self.projection = z.detach()
        return self.criterion(z)
