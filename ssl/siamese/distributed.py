"""The only file that asks for rank or world size. Without a process group all of it is the identity."""

import os

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather as _all_gather_with_grad


def rank() -> int:
    """This process's place among all, 0 when alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Is this the process that speaks and writes? Known before a process group is up."""
    launched = next((os.environ[key] for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if key in os.environ), "0")
    return rank() == 0 and launched == "0"


def world_size() -> int:
    """The number of processes, 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """(N, ...) of each rank to (world_size * N, ...) in rank order, without gradient."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gather_with_grad(x: Tensor) -> Tensor:
    """As `gather`, and the gradient of every rank's loss flows back to the rank that x came from.

    The backward sums over ranks; with DDP's mean over ranks the mean of the local losses then has the
    exact gradient of the loss over the joint batch.
    """
    if world_size() == 1:
        return x
    return torch.cat(_all_gather_with_grad(x.contiguous()))


def shuffle(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shuffling BN (arXiv:1911.05722, section 3.3): deal the samples of all ranks to all ranks anew.

    Returns:
        This rank's share (N, ...) of the permuted joint batch, and the permutation, for `unshuffle`.
    """
    joint = gather(x)
    permutation = torch.randperm(len(joint), device=x.device)
    if world_size() > 1:
        dist.broadcast(permutation, src=0)
    return joint[permutation].view(world_size(), *x.shape)[rank()], permutation


def unshuffle(x: Tensor, permutation: Tensor) -> Tensor:
    """Undo `shuffle` for what was computed of the shares; the result has no gradient."""
    joint = gather(x)
    return joint[permutation.argsort()].view(world_size(), *x.shape)[rank()]


def average_(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over ranks."""
    for tensor in tensors if world_size() > 1 else []:
        dist.all_reduce(tensor.div_(world_size()))
