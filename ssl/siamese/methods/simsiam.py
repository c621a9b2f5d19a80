"""SimSiam: predict the other view, with a stop-gradient and nothing else (arXiv:2011.10566)."""

from typing import Any

from torch import Tensor, nn

from siamese.backbones import Backbone
from siamese.losses import cosine_similarity
from siamese.methods.base import Method
from siamese.schema.types import Depth, Width


class SimSiam(Method):
    """Chen, He 2020, "Exploring Simple Siamese Representation Learning".

    Args:
        output_dim: of the projector (and its hidden layers): `layers` times Linear-BN, ReLU between, the
            last BN without scale and shift.
        layers: 3 in the paper, 2 on CIFAR-10 (appendix D).
        predictor_dim: the predictor's bottleneck, Linear-BN-ReLU-Linear(bias).
        fix_predictor_lr: the predictor keeps the initial learning rate (official code, --fix-pred-lr).
    """

    collapse_causes = (
        "a missing stop-gradient or predictor, no BatchNorm in the heads, or a learning rate that is too high"
    )

    def __init__(
        self,
        backbone: Backbone,
        output_dim: Width,
        layers: Depth,
        predictor_dim: Width,
        fix_predictor_lr: bool,
        **base: Any,
    ):
        super().__init__(backbone, **base)
        self.fix_predictor_lr = fix_predictor_lr
        parts: list[nn.Module] = []
        inputs: int = backbone.feature_dim
        for _ in range(layers - 1):
            parts += [nn.Linear(inputs, output_dim, bias=False), nn.BatchNorm1d(output_dim), nn.ReLU()]
            inputs = output_dim
        parts += [nn.Linear(inputs, output_dim, bias=False), nn.BatchNorm1d(output_dim, affine=False)]
        self.projector = nn.Sequential(*parts)
        self.predictor = nn.Sequential(
            nn.Linear(output_dim, predictor_dim, bias=False),
            nn.BatchNorm1d(predictor_dim),
            nn.ReLU(),
            nn.Linear(predictor_dim, output_dim),
        )

    def loss(self, views: list[Tensor]) -> Tensor:
        x1, x2 = views
        z1, z2 = self.projector(self.backbone(x1)), self.projector(self.backbone(x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        self.projection = z1.detach()
        # cosine_similarity stops the gradient of its second argument.
        return -(cosine_similarity(p1, z2) + cosine_similarity(p2, z1)) / 2

    def param_groups(self) -> list[dict[str, Any]]:
        encoder = [*self.backbone.parameters(), *self.projector.parameters()]
        return [
            {"params": [p for p in encoder if p.requires_grad]},
            {"params": list(self.predictor.parameters()), "fixed_lr": self.fix_predictor_lr},
        ]
