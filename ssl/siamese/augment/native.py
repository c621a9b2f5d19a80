"""`views.cpp`, compiled once for this machine: the views of a CPU, several times quicker than torch's operations."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from siamese.augment.views import View, ViewParams

SOURCE = Path(__file__).with_name("views.cpp")
# Not -ffast-math: linking with it would make the whole process flush denormal numbers.
FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-fassociative-math", "-ffinite-math-only", "-shared", "-fPIC", "-pthread",
)  # fmt: skip


class CompilerError(Exception):
    """No compiler, or it failed; the message says which in one line."""


# Pointers of `Batch`, in its order, and what they point to.
_POINTERS = {
    "box": torch.int64, "flip": torch.bool, "degrees": torch.float32, "jitter": torch.bool, "factors": torch.float32,
    "order": torch.int64, "gray": torch.bool, "blur": torch.bool, "sigma": torch.float32, "solarize": torch.bool,
    "mean": torch.float32, "std": torch.float32,
}  # fmt: skip


class _Batch(ctypes.Structure):
    """`Batch` of views.cpp."""

    _fields_ = [
        ("images", ctypes.c_void_p),
        *((n, ctypes.c_int64) for n in ("count", "height", "width", "size", "bicubic", "gray_first", "rotates")),
        ("blur_kernel", ctypes.c_int64),
        *((n, ctypes.c_void_p) for n in _POINTERS),
        ("out", ctypes.c_void_p),
    ]


def _processor() -> str:
    """What -march=native looks at, as far as it can be told: a home may be shared by machines of several kinds."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(next((x for x in lines if x.startswith(k)), "") for k in ("model name", "flags", "Features"))
    return platform.processor()


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled library, from the user's cache ($XDG_CACHE_HOME, ~/.cache) or compiled into it, in some seconds.

    Raises:
        CompilerError: there is no compiler ($CXX, else g++ or clang++), or it fails.
    """
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++") if shutil.which(c)), "g++")
    path = shutil.which(compiler)
    if path is None:
        raise CompilerError(f"there is no C++ compiler ({compiler})")
    about = [SOURCE.read_text(), *FLAGS, path, str(os.stat(path).st_mtime), platform.machine(), _processor()]
    name = f"views-{hashlib.sha256('|'.join(about).encode()).hexdigest()[:16]}.so"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamese"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a home that is not there or cannot be written
        folder = Path(tempfile.mkdtemp(prefix="siamese-"))
    target = folder / name
    try:
        if not target.exists():
            _compile(path, target)
        loaded = ctypes.CDLL(str(target))
    except OSError as error:  # a full disk, a folder that nothing may be executed from, a damaged file
        raise CompilerError(f"{target} cannot be made or loaded ({error})") from error
    loaded.render.argtypes = [ctypes.POINTER(_Batch), ctypes.c_int64]
    loaded.render.restype = None
    return loaded


def _compile(compiler: str, target: Path) -> None:
    """`target` is there as a whole or not at all, also where two processes compile at once."""
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / target.name
        done = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise CompilerError(f"{compiler} failed: {lines[0] if lines else done.returncode}")
        beside = target.with_suffix(f".{os.getpid()}")
        try:
            shutil.copyfile(made, beside)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)


def render(view: "View", images: Tensor, params: "ViewParams") -> Tensor:
    """`View.render` of uint8 images on a CPU, by as many threads as torch uses.

    Raises:
        ValueError: images without three channels, or a box that leaves its image: C++ would read beyond it.
    """
    count, channels, height, width = images.shape
    box = params.box
    if channels != 3 or (box < 0).any() or (box[:, :2] + box[:, 2:] > torch.tensor([height, width])).any():
        raise ValueError(f"{channels} channels of {height} x {width} pixels, boxes up to {box.amax(0).tolist()}")
    values = {**vars(params), "mean": view.mean, "std": view.std}
    arrays = {name: values[name].to(dtype).contiguous() for name, dtype in _POINTERS.items()}
    arrays["images"] = images.contiguous()  # all alive until the call returns
    out = torch.empty(count, 3, view.size, view.size)
    batch = _Batch(
        count=count, height=height, width=width, size=view.size, bicubic=view.interpolation == "bicubic",
        gray_first=view.gray_first, rotates=view.rotate_degrees != 0, blur_kernel=view.blur_kernel, out=out.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in arrays.items()},
    )  # fmt: skip
    library().render(ctypes.byref(batch), torch.get_num_threads())
    return out
