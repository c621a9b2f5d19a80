"""A queue of past features: rows of a buffer, the oldest replaced by the newest."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.errors import UserError


def add_queue(module: nn.Module, size: int, dim: int) -> None:
    """Give a module the buffer `queue`, (K, D) random unit rows. It is equal on all ranks, so that DDP need not send it
    at each step."""
    module.register_buffer("queue", F.normalize(torch.randn(size, dim), dim=1))
    module._ddp_params_and_buffers_to_ignore = ["queue"]  # type: ignore[assignment]


@torch.no_grad()
def enqueue(queue: Tensor, rows: Tensor, step: int) -> None:
    """Replace the oldest rows. Every step brings as many, so the place follows from the step.

    Args:
        queue: (K, D), changed in place; K is a multiple of N.
        rows: (N, D) of all devices.
        step: optimiser steps before this one.
    """
    start = step * len(rows) % len(queue)
    queue[start : start + len(rows)] = rows.to(queue.dtype)


def check_queue(size: int, rows: int, what: str) -> None:
    """Refuse a size that loses rows at the wrap.

    Args:
        size: method.queue_size.
        rows: of a step.
        what: they are, for the message, such as "the global batch (batch_size=256)".
    """
    if size < rows or size % rows:
        raise UserError(
            f"method.queue_size={size}", f"must be a multiple of {what}", f"try {max(1, round(size / rows)) * rows}"
        )
