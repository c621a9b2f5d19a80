"""`views.cpp`, compiled once for this machine: the views of a CPU, several times quicker than torch's operations."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


# Pointers of `Batch`, in its order, and what they point to; shapes without the B rows of all but mean and std.
_POINTERS: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
    "box": (torch.int64, (4,)), "flip": (torch.bool, ()), "degrees": (torch.float32, ()), "jitter": (torch.bool, ()),
    "factors": (torch.float32, (4,)), "order": (torch.int64, (4,)), "gray": (torch.bool, ()), "blur": (torch.bool, ()),
    "sigma": (torch.float32, ()), "solarize": (torch.bool, ()), "mean": (torch.float32, (3,)),
    "std": (torch.float32, (3,)),
}  # fmt: skip
# `Problem` of views.cpp: what is wrong, and whose value is told.
_PROBLEMS = (
    ("", ""),
    ("the image or the view has no pixels or too many: size", "size"),
    ("at least one thread is needed, not", "threads"),
    ("a tensor is missing", ""),
    ("the mean or the standard deviation is not finite, or this is 0:", "std"),
    ("a box has no pixel or leaves its image: boxes", "box"),
    ("a rotation is not finite: degrees", "degrees"),
    ("an order must be a permutation of 0 to 3: orders", "order"),
    ("a colour's factor is not finite: factors", "factors"),
    ("a blur's sigma is not finite and positive: sigmas", "sigma"),
    ("the blur's kernel is not odd and smaller than twice the view:", "blur_kernel"),
    ("there is not enough memory", ""),
)
_MEMORY = len(_PROBLEMS) - 1


class Library(NamedTuple):
    """`views.cpp`, loaded."""

    render: Callable[[Any, int], int]  # a pointer to a `_Batch` and the number of threads to an index of `_PROBLEMS`
    note: str  # for people: "", or why it was not taken from the user's cache


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


def _check_owner(path: Path, above: bool = False) -> None:
    """Refuse what somebody else made or can change. `above`: a folder on the way, which may be root's or sticky.

    Raises:
        OSError: it is not ours alone, or cannot be looked at.
    """
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        raise PermissionError(f"{path} is a symbolic link")
    if about.st_uid != os.geteuid() and not (above and about.st_uid == 0):
        raise PermissionError(f"{path} belongs to somebody else")
    if about.st_mode & 0o022 and not (above and about.st_mode & stat.S_ISVTX):
        raise PermissionError(f"{path} is writable by others")


def _cached(name: str) -> Path:
    """The place of a library in the user's cache ($XDG_CACHE_HOME, ~/.cache), whose folder is made.

    Raises:
        OSError, RuntimeError: there is no home, or somebody else could put a library there: loading it would run it.
    """
    above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    above.mkdir(mode=0o700, parents=True, exist_ok=True)
    above = above.resolve()
    for folder in (above, *above.parents):
        _check_owner(folder, above=True)
    folder = above / "siamese"
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_owner(folder)
    if os.path.lexists(folder / name):
        _check_owner(folder / name)
    return folder / name


@functools.cache
def library() -> Library:
    """The compiled library, from the user's cache ($XDG_CACHE_HOME, ~/.cache) or compiled into it, in some seconds.

    Where the cache is not the user's alone, nothing of it is loaded: the library is compiled into a private folder,
    which goes as soon as it is loaded, and `note` says why.

    Raises:
        CompilerError: there is no compiler ($CXX, else g++ or clang++), or it fails.
    """
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++") if shutil.which(c)), "g++")
    path = shutil.which(compiler)
    if path is None:
        raise CompilerError(f"there is no C++ compiler ({compiler})")
    about = [SOURCE.read_text(), *FLAGS, path, str(os.stat(path).st_mtime), platform.machine(), _processor()]
    name = f"views-{hashlib.sha256('|'.join(about).encode()).hexdigest()[:16]}.so"
    target, note = None, ""
    try:
        target = _cached(name)
    except (OSError, RuntimeError) as error:
        note = f"; compiled privately: {error}"
    try:
        loaded = ctypes.CDLL(str(target)) if target and target.exists() else _compile(path, name, target)
    except OSError as error:  # a full disk, a folder that nothing may be executed from, a damaged file
        raise CompilerError(f"{target or name} cannot be made or loaded ({error})") from error
    loaded.render.argtypes = [ctypes.POINTER(_Batch), ctypes.c_int64]
    loaded.render.restype = ctypes.c_int
    return Library(loaded.render, note)


def _compile(compiler: str, name: str, target: Path | None) -> ctypes.CDLL:
    """Compile and load. `target` is there as a whole or not at all, also where two processes compile at once."""
    beside = target and target.parent  # else where temporary files lie; the folder's mode is 0700
    with tempfile.TemporaryDirectory(prefix=".siamese-", dir=beside, ignore_cleanup_errors=True) as work:
        made = Path(work) / name
        done = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise CompilerError(f"{compiler} failed: {lines[0] if lines else done.returncode}")
        made.chmod(0o700)  # whatever the umask
        return ctypes.CDLL(str(made.replace(target) if target else made))


def render(view: "View", images: Tensor, params: "ViewParams") -> Tensor:
    """`View.render` by as many threads as torch uses.

    Args:
        images: (B, 3, H, W) uint8 on a CPU, however it is strided.

    Returns:
        (B, 3, size, size) float32.

    Raises:
        ValueError: an image, a parameter or an option that the renderer cannot take, such as a box that leaves its
            image: nothing is rendered.
        MemoryError: there is not enough of it.
    """
    if images.dim() != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or images.device.type != "cpu":
        channels = f"{images.shape[1]} channels: " if images.dim() == 4 else ""
        raise ValueError(f"{channels}{_about(images)}, not (B, 3, H, W) torch.uint8 on cpu")
    count, _, height, width = images.shape
    values = {**vars(params), "mean": view.mean, "std": view.std}
    arrays = {"images": images.contiguous()}  # all alive until the call returns
    for name, (dtype, rest) in _POINTERS.items():
        given, shape = values[name], rest if name in ("mean", "std") else (count, *rest)
        if given.shape != shape or not torch.can_cast(given.dtype, dtype) or given.device.type != "cpu":
            raise ValueError(f"{name} is {_about(given)}, not {shape} {dtype} on cpu")
        arrays[name] = given.to(dtype).contiguous()
    out = torch.empty(count, 3, view.size, view.size, dtype=torch.float32)
    batch = _Batch(
        count=count, height=height, width=width, size=view.size, bicubic=view.interpolation == "bicubic",
        gray_first=view.gray_first, rotates=view.rotate_degrees != 0, blur_kernel=view.blur_kernel, out=out.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in arrays.items()},
    )  # fmt: skip
    threads = torch.get_num_threads()
    if problem := library().render(ctypes.byref(batch), threads):
        what, which = _PROBLEMS[problem]
        known = {"size": view.size, "threads": threads, "std": [view.mean.tolist(), view.std.tolist()]}
        told = {**known, "blur_kernel": view.blur_kernel, "": ""}.get(which)
        if told is None:
            rows = arrays[which].view(count, -1)
            told = f"up to {rows.amax(0).tolist()}, from {rows.amin(0).tolist()}"
        error = MemoryError if problem == _MEMORY else ValueError
        raise error(f"{count} images of {height} x {width} pixels: {what} {told}".rstrip())
    return out


def _about(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device.type}"
