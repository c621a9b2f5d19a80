"""Versions, device names, memory, cores, time: what a run depends on and what it uses."""

import contextlib
import ctypes
import math
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
_THREADS = torch.get_num_threads()  # torch's own choice; each trial of a sweep begins with it
# The second thread makes a step of 0.8e9 operations (digits) 1.18 times as fast, one of 12e9 1.62 times.
WORK_OF_A_THREAD = 1e9


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


def free_memory_mb(device: torch.device) -> float:
    """Memory of a CUDA device that no process has taken, in 10^6 bytes."""
    return torch.cuda.mem_get_info(device)[0] / 1e6


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


def limit_threads(work: float = math.inf) -> None:
    """Let torch use no more threads than `cores`, and than make the step faster: further ones would wait for each other
    by spinning, which slows down whatever else runs on the machine. The user's OMP_NUM_THREADS is left as it is.

    Args:
        work: floating-point operations of a step; one thread more for each `WORK_OF_A_THREAD`.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(int(min(_THREADS, cores(), max(1, work / WORK_OF_A_THREAD))))


def cuda_has_bf16() -> bool:
    """Whether there is a GPU that computes in bf16 itself."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def cpu_has_amx() -> bool:
    """Whether the processor multiplies matrices of bf16 by AMX. AVX512-BF16 alone gains nothing
    (benchmarks/cpu_precision.py)."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())  # not in every torch


def autocast(device: torch.device) -> torch.autocast:
    """The precision of a training with ``trainer.precision=auto``, for code outside of Lightning: bf16 on a GPU that
    has it; elsewhere it changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and cuda_has_bf16())


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
