"""Cores and GPUs that this process may use, asked without torch, whose import takes seconds."""

import math
import os
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may use, at least 1: those of its affinity mask, but no more whole ones than a limit
    of its control groups gives (version 1 or 2), as a container has.

    Args:
        root: of the file system.
    """
    has_mask = hasattr(os, "sched_getaffinity")  # macOS has none
    mask = len(os.sched_getaffinity(0)) if has_mask else os.cpu_count() or 1
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return mask
    limits = [float(mask)]
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / "sys/fs/cgroup" / name for name in (controllers, "cpu", "") if name or not controllers]
        # Within a container the path may be the host's, while its own group is mounted at the top.
        parts = Path(path.lstrip("/"))
        limits += [_limit(mount / part) for mount in mounts for part in (parts, *parts.parents)]
    return max(1, int(min(limits)))


def _limit(group: Path) -> float:
    """Cores that a control group may use, infinity without a limit."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{n}_us").read_text(encoding="utf-8") for n in ("quota", "period"))
        return math.inf if quota == "max" or float(quota) <= 0 else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # the group has no such file
        return math.inf


def limit_spinning() -> None:
    """Let a waiting thread of GNU's OpenMP give up its core after about 0.1 ms, not after some 10 ms: two runs on one
    machine would otherwise stop each other (benchmarks/threads.py). Takes effect if torch is imported later, and in
    the processes that this one starts. The user's own choice stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that CUDA would see here, as `CUDA_VISIBLE_DEVICES` takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    try:
        found = sorted(Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return []
    return [str(i) for i in range(len(found))]
