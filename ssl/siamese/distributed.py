"""The only file that asks for rank or world size. Without a process group all of it is the identity."""

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def rank() -> int:
    """The rank of this process, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_rank_zero() -> bool:
    """Whether this process has rank 0, and so prints and writes. Works before a process group exists."""
    if "RANK" in os.environ:
        return rank() == 0 and os.environ["RANK"] == "0"
    # A process that Lightning starts inside of a SLURM shell has that shell's SLURM_PROCID and its own LOCAL_RANK.
    return rank() == 0 and all(os.environ.get(key, "0") == "0" for key in ("SLURM_PROCID", "LOCAL_RANK"))


def world_size() -> int:
    """The number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """(N, ...) of each rank to (world_size * N, ...) in rank order, without gradient."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


class AllReduce(torch.autograd.Function):
    """The sum over ranks; the gradient is summed, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def gather_with_grad(x: Tensor) -> Tensor:
    """As `gather`, with the gradients of all ranks' losses flowing back to the rank of x.

    The backward sums over ranks; with DDP's mean over ranks the mean of the local losses then has the
    exact gradient of the loss over the joint batch.
    """
    if world_size() == 1:
        return x
    return _Gather.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def shuffle(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shuffling BN (arXiv:1911.05722, section 3.3): redistribute the samples of all ranks at random.

    Returns:
        This rank's share (N, ...) of the permuted joint batch, and the permutation, for `unshuffle`.
    """
    joint = gather(x)
    permutation = torch.randperm(len(joint), device=x.device)
    if world_size() > 1:
        dist.broadcast(permutation, src=0)
    return joint[permutation].view(world_size(), *x.shape)[rank()], permutation


def unshuffle(x: Tensor, permutation: Tensor) -> Tensor:
    """Undo `shuffle` for what was computed from the shares; the result has no gradient."""
    joint = gather(x)
    return joint[permutation.argsort()].view(world_size(), *x.shape)[rank()]


def on_all_ranks(flag: Tensor) -> Tensor:
    """Whether the bool scalar is true on every rank. Every rank must call it; nothing waits for the device."""
    if world_size() == 1:
        return flag
    x = flag.float()
    dist.all_reduce(x, op=dist.ReduceOp.MIN)
    return x > 0


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true on any rank. Every rank must call it; with several ranks it waits for the device."""
    if world_size() == 1:
        return flag
    return not bool(on_all_ranks(torch.tensor(not flag, device=device)))


def union(names: set[str], device: torch.device) -> set[str]:
    """The names of all ranks. Every rank must call it; it waits for the device."""
    if not any_rank(bool(names), device):
        return names
    mine = torch.tensor(list("\0".join(sorted(names)).encode(errors="surrogateescape")), dtype=torch.uint8)
    lengths = gather(torch.tensor([len(mine)], device=device)).tolist()
    whole = gather_bytes(F.pad(mine, (0, max(lengths) - len(mine))), device)
    found = (bytes(row[:n].tolist()).decode(errors="surrogateescape") for row, n in zip(whole, lengths, strict=True))
    return {name for names in found for name in names.split("\0") if name}


def gather_bytes(x: Tensor, device: torch.device) -> Tensor:
    """A uint8 tensor (n,) on the host of each rank to (world_size, n) on the host of every rank."""
    return gather(x.to(device).unsqueeze(0)).cpu()
