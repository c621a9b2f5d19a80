"""Heads of methods that assign images to prototypes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.losses import prototype_scores


class Prototypes(nn.Module):
    """(N, D) to (N, K): cosines with the rows of a weight, in float32.

    Args:
        inputs, outputs: D and K.
        free_length: each row has a length, too, which starts at 1 and is trained.

    lightly's DINOProjectionHead has torch's first weight_norm, which is deprecated and which deepcopy refuses.
    """

    stays_eager = True  # torch.compile would compute the scores in TF32

    def __init__(self, inputs: int, outputs: int, free_length: bool = False):
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(inputs, outputs, bias=False).weight.detach())
        self.length = nn.Parameter(torch.ones(outputs, 1)) if free_length else None

    def forward(self, x: Tensor) -> Tensor:
        unit = F.normalize(self.weight, dim=1)
        return prototype_scores(x, unit if self.length is None else unit * self.length)


class UnitRows(nn.Linear):
    """(N, D) to (N, K): cosines with the rows of a weight that `normalize` scales to unit length, in float32.

    lightly's SwaVPrototypes has a bias and starts unnormalised; its frozen weight has no gradient, which DDP refuses.
    """

    stays_eager = True  # as `Prototypes`

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)
        self.normalize()

    def forward(self, input: Tensor) -> Tensor:
        return prototype_scores(input, self.weight)

    @torch.no_grad()
    def normalize(self) -> None:
        """After each step: the rows to unit length."""
        self.weight.copy_(F.normalize(self.weight, dim=1))


def gelu_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """DINO's projector: three linear layers without BatchNorm, started as in the official code."""
    first, second, last = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
    for layer in (first, second, last):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)
