"""The number format of losses."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from siamese.precision import full_float32


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32, or float64 if it has that."""
    return x if x.dtype == torch.float64 else x.float()


@contextlib.contextmanager
def in_full_precision(x: Tensor) -> Iterator[None]:
    """Operations on the device of `x` in the format of their inputs: neither autocast nor TF32."""
    with torch.autocast(x.device.type, enabled=False), full_float32():
        yield
