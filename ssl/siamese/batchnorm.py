"""BatchNorm over the joint batch of several processes, or over parts of one batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.distributed import AllReduce, world_size
from siamese.errors import UserError


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the joint batch of all ranks by differentiable all-reduces, on any device. torch's own class,
    which Lightning uses on GPUs, refuses CPU tensors.

    All ranks' batches must have the same size. In eval mode, and with one process, it is plain BatchNorm. Statistics
    are at least float32; the output has the input's dtype and memory format, as in torch's own class.
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
        mean = AllReduce.apply(x.sum(dims)) / count
        centred = x - mean.view(shape)
        var = AllReduce.apply(centred.square().sum(dims)) / count
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
    """BatchNorm over each of `splits` contiguous parts of the batch separately, as on that many devices (MoCo,
    arXiv:1911.05722, section 3.3). Running statistics are the average over the parts. The output has the input's dtype
    and memory format."""

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
    """Change the class of every BatchNorm in `network` to `kind`, in place: parameters, buffers and state dict stay.

    Raises:
        UserError: as `plain_batchnorms`.
    """
    for module in plain_batchnorms(network):
        module.__class__ = kind


def plain_batchnorms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Every BatchNorm in `network`.

    Raises:
        UserError: one is not of torch's own classes, such as timm's with an activation, which a conversion (ours and
            torch's) would lose.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise UserError(
                "backbone", f"has {type(module).__name__}, which cannot be synchronised or split here",
                "choose a backbone with plain BatchNorm, or one device and method.bn_splits=1",
            )  # fmt: skip
    return norms
