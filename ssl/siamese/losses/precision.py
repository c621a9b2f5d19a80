"""The number format of losses."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32, or float64 if it has that."""
    return x if x.dtype == torch.float64 else x.float()
