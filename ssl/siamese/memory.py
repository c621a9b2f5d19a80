"""Where tensors lie: freed memory stays in the process, maps have their room, channels last where that is safe."""

import ctypes
import errno
import os
import sys

import torch
from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks of any size instead of handing them back to the kernel.

    By default a block of 32 MB or more (one batch of 224-pixel views, one activation) is mapped and
    zeroed anew at each allocation, which a CPU run pays for at every step.
    Elsewhere than on Linux with glibc it does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def reserve(file: int, size: int) -> None:
    """Take the disk's room for a file (its descriptor) that will be mapped: a full disk is an OSError here, while a
    write through the map would end the process by SIGBUS."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # others: a file system that cannot do it
            raise


def channels_last(network: nn.Module) -> nn.Module:
    """The network in the channels-last layout, in which convolutions are quicker on GPUs and CPUs.

    Left as it is where a strided 1x1 convolution has fewer than 16 input channels: in that layout oneDNN
    (v3.13, in torch 2.15) writes past a buffer in its backward pass on CPUs (uxlfoundation/oneDNN #6035).
    """
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    if any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels < 16 for c in convolutions):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
