"""LeJEPA and VISReg: views agree, and projections are an isotropic Gaussian (arXiv:2511.08544, 2606.02572)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.losses import view_spread
from siamese.methods.base import MultiCrop, by_size
from siamese.schema.types import AtLeastTwo, Built, Probability, Seed, Width


class LeJEPA(MultiCrop):
    """Balestriero, LeCun 2025, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"; with
    another regulariser Wu, Balestriero, Levine 2026, "VISReg". The forms in use, all of them settings:

    - the paper, algorithms 1 and 2: centre of the global views, which are all views unless the backbone is a ViT;
      the mean of the views' statistics times N, integral over [-5, 5], (1 - weight) and weight;
    - lightly 1.6: always the global views, [-3, 3];
    - stable-pretraining: the global views, [-3, 3], one statistic of all views together, times V N, and 1 in place of
      1 - weight: weight = lambda / (1 + lambda) is the same, times a constant.

    Args:
        hidden_dim, output_dim, layers: of the projector, Linear-BN-ReLU … Linear (lightly, stable-pretraining).
        weight: lambda of the regulariser; 1 - lambda of the views' spread.
        centre: which the views are drawn to: the mean of all views, or of the global ones.
        regularizer: `siamese.losses.sigreg` or `visreg`; receives the (V, N, D) projections and the key of its slices.
        seed: of the slices, with the step and the micro-batch.

    The backbone sees the views of a size together, the projector's BatchNorms see all views (stable-pretraining).
    """

    collapse_causes = "a weight of the regulariser that is too low (method.weight), or a learning rate that is too high"

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: Width,
        output_dim: Width,
        layers: AtLeastTwo,
        weight: Probability,
        centre: Literal["all", "global"],
        regularizer: Annotated[Callable[..., Tensor], Built(own={"z": "nothing", "key": "method.seed"}, partial=True)],
        seed: Seed,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        self.weight, self.centre, self.regularizer, self.seed = weight, centre, regularizer, seed
        # lightly 1.6's LeJEPAProjectionHead; its versions before have none.
        widths = [backbone.feature_dim, *[hidden_dim] * (layers - 1)]
        hidden = [nn.Sequential(nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU()) for i, o in pairwise(widths)]
        self.projector = nn.Sequential(*hidden, nn.Linear(hidden_dim, output_dim))

    def loss(self, views: list[Tensor]) -> Tensor:
        h = torch.cat(by_size(self.backbone, views))
        z = self.projector(h).view(len(views), len(views[0]), -1)  # (V, N, D)
        self.projection = z[0].detach()
        centre = z.mean(0) if self.centre == "all" else z[: self.global_views].mean(0)
        key = (self.seed, self.step, self.micro_batch)
        return (1 - self.weight) * view_spread(z, centre) + self.weight * self.regularizer(z, key)
