"""Versions, device names, memory, cores, time: what a run depends on and what it uses."""

import contextlib
import ctypes
import os
import platform
import resource
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import siamese
from siamese.processors import cores

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def versions() -> dict[str, str]:
    """Versions of the packages that a figure depends on."""
    import torchvision

    return {
        "siamese": siamese.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of tensors on the GPU, or of the process on the host, in 10^6 bytes."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_mb` count from here on, so that a trial of a sweep does not report an earlier one's peak. The
    host's peak can be reset on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak resident set becomes the current one


class Stopwatch:
    """Seconds since its construction."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self.start


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks of any size instead of returning them to the kernel.

    By default glibc maps and zeroes a block of 32 MB or more (one batch of 224-pixel views, one activation) at each
    allocation, which costs a CPU run time at every step. On other systems this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def limit_threads() -> None:
    """Let torch use no more threads than `cores`: further ones would wait for each other. The user's
    OMP_NUM_THREADS is left as it is."""
    allowed = cores()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > allowed:
        torch.set_num_threads(allowed)


def channels_last(network: nn.Module) -> nn.Module:
    """The network in the channels-last memory format, in which convolutions are faster on GPUs and CPUs.

    Unchanged if a strided 1x1 convolution has fewer than 16 input channels: in that format oneDNN (v3.13, in torch
    2.15) writes past a buffer in its backward pass on CPUs (uxlfoundation/oneDNN #6035).
    """
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    if any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels < 16 for c in convolutions):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def command_line() -> str:
    """The command that started this process, as a person types it."""
    script = Path(sys.argv[0]).name
    words = ["siamese"] if script in ("siamese", "__main__.py") else ["python", script]
    return shlex.join([*words, *sys.argv[1:]])
