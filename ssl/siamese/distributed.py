"""The only file that asks for rank or world size. Without a process group all of it is the identity."""

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.errors import UserError


def rank() -> int:
    """This process's place among all, 0 when alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Is this the process that speaks and writes? Known before a process group is up."""
    if "RANK" in os.environ:
        return rank() == 0 and os.environ["RANK"] == "0"
    # A process that Lightning starts inside of a SLURM shell has that shell's SLURM_PROCID and its own LOCAL_RANK.
    return rank() == 0 and all(os.environ.get(key, "0") == "0" for key in ("SLURM_PROCID", "LOCAL_RANK"))


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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


class _AllReduce(torch.autograd.Function):
    """The sum over ranks; so is its gradient."""

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
    """As `gather`, and the gradient of every rank's loss flows back to the rank that x came from.

    The backward sums over ranks; with DDP's mean over ranks the mean of the local losses then has the
    exact gradient of the loss over the joint batch.
    """
    if world_size() == 1:
        return x
    return _Gather.apply(x)  # type: ignore[no-any-return, no-untyped-call]


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


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the joint batch of all ranks by differentiable all-reduces, on any device. torch's
    own one, which Lightning puts in place on GPUs, refuses CPU tensors.

    Every rank's batch must be of the same size. In eval mode, and alone, it is plain BatchNorm. Statistics are float32
    at least; the output has the input's dtype and memory format, as torch's own.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        assert self.momentum is not None
        dims = [d for d in range(input.ndim) if d != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count = input.numel() // input.shape[1] * world_size()
        x = input if input.dtype == torch.float64 else input.float()
        mean = _AllReduce.apply(x.sum(dims)) / count
        centred = x - mean.view(shape)
        var = _AllReduce.apply(centred.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var), self.momentum)
        out = centred * (var + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


class SplitBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over each of `splits` contiguous parts of the batch apart, as that many devices would have
    it (MoCo, arXiv:1911.05722, section 3.3); running statistics are the parts' average. The output has the input's
    dtype and memory format."""

    splits = 1

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return super().forward(input)
        if len(input) % self.splits:
            raise ValueError(f"a batch of {len(input)} cannot be split into {self.splits} parts")
        assert self.momentum is not None
        own = (self.running_mean, self.running_var, self.weight, self.bias)
        means, variances, weight, bias = (None if t is None else t.repeat(self.splits) for t in own)
        parts = torch.cat(input.chunk(self.splits), 1)  # (n / splits, splits * c, ...); cat keeps the memory format
        out = F.batch_norm(parts, means, variances, weight, bias, training=True, momentum=self.momentum, eps=self.eps)
        if means is not None and variances is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
                self.running_mean.copy_(means.view(self.splits, -1).mean(0))  # type: ignore[union-attr]
                self.running_var.copy_(variances.view(self.splits, -1).mean(0))  # type: ignore[union-attr]
        return torch.cat(out.chunk(self.splits, 1))


def convert_batchnorm(network: nn.Module, kind: type[nn.modules.batchnorm._BatchNorm]) -> None:
    """Make every BatchNorm in `network` one of `kind`, in place: same parameters, buffers and state dict.

    Raises:
        UserError: as `plain_batchnorms`.
    """
    for module in plain_batchnorms(network):
        module.__class__ = kind


def plain_batchnorms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Every BatchNorm in `network`.

    Raises:
        UserError: one is of another kind than torch's, such as timm's with an activation, which a conversion,
            ours and torch's alike, would lose.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise UserError(
                "backbone", f"has {type(module).__name__}, which cannot be synchronised or split here",
                "choose a backbone with plain BatchNorm, or one device and method.bn_splits=1",
            )  # fmt: skip
    return norms


def on_all_ranks(flag: Tensor) -> Tensor:
    """Is the bool scalar true on every rank? Every rank must ask; nothing waits for the device."""
    if world_size() == 1:
        return flag
    x = flag.float()
    dist.all_reduce(x, op=dist.ReduceOp.MIN)
    return x > 0


def any_rank(flag: bool, device: torch.device) -> bool:
    """Is `flag` true on any rank? Every rank must ask; it waits for the device."""
    return not bool(on_all_ranks(torch.tensor(not flag, device=device)))


def union(names: set[str], device: torch.device) -> set[str]:
    """The names of all ranks. Every rank must ask; it waits for the device."""
    if not any_rank(bool(names), device):
        return names
    mine = torch.tensor(list("\n".join(sorted(names)).encode()), dtype=torch.uint8)
    lengths = gather(torch.tensor([len(mine)], device=device)).tolist()
    whole = gather_bytes(F.pad(mine, (0, max(lengths) - len(mine))), device)
    found = (bytes(row[:n].tolist()).decode() for row, n in zip(whole, lengths, strict=True))
    return {name for names in found for name in names.split("\n") if name}


def gather_bytes(x: Tensor, device: torch.device) -> Tensor:
    """A uint8 tensor (n,) on the host of each rank to (world_size, n) on the host of every rank."""
    return gather(x.to(device).unsqueeze(0)).cpu()
