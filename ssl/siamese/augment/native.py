"""`views.cpp`, compiled once for this machine: the views of a CPU, several times faster than torch's operations."""

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from siamese.augment.operation import CompilerError, Operation, check_fields
from siamese.augment.params import ViewParams

SOURCE = Path(__file__).with_name("views.cpp")
HEADERS = (SOURCE.with_name("planes.h"),)
PIXELS = (torch.uint8, torch.uint16, torch.float32)  # types of images, by their numbers in views.cpp
# Without -ffast-math: linking with it would make the whole process flush denormal numbers.
FLAGS = (
    "-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-fassociative-math", "-ffinite-math-only", "-shared", "-fPIC", "-pthread",
)  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A pointer of `Batch` in views.cpp.

    Args:
        dtype: of its values; None is the images'.
        shape: of a sample's values; None is a value a channel, for all samples.
    """

    dtype: torch.dtype | None
    shape: tuple[int, ...] | None


class Library:
    """`views.cpp`, loaded.

    Args:
        loaded: the shared library.
        note: for the user: "", or why it was not taken from the cache.

    Attributes:
        fields: pointers by name.
        options: names of the int64 options.
        batch: the ctypes structure that `render` takes.
    """

    def __init__(self, loaded: ctypes.CDLL, note: str):
        self.note = note
        loaded.layout.restype = loaded.message.restype = ctypes.c_char_p
        self.fields, self.options, members = {}, [], []
        for entry in loaded.layout().decode().split():
            name, *kind = entry.split(":")
            if kind:
                shape = None if kind[1] == "C" else (int(kind[1]),) if kind[1] else ()
                self.fields[name] = Field(getattr(torch, kind[0], None), shape)
            else:
                self.options.append(name)
            members.append((name, ctypes.c_void_p if kind else ctypes.c_int64))
        self.batch = type("Batch", (ctypes.Structure,), {"_fields_": members})
        loaded.render.argtypes, loaded.render.restype = [ctypes.POINTER(self.batch), ctypes.c_int64], ctypes.c_int
        self._render, self._message = loaded.render, loaded.message

    def render(self, batch: ctypes.Structure, threads: int) -> tuple[str, str]:
        """Render. Returns ("", "") or a problem: the field that shows it, and the message."""
        problem = self._render(ctypes.byref(batch), threads)
        field, _, message = self._message(problem).decode().partition("|")
        return field, message


def _processor() -> str:
    """What -march=native depends on, as far as it is known: several kinds of machines may share a home."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(next((x for x in lines if x.startswith(k)), "") for k in ("model name", "flags", "Features"))
    return platform.processor()


def _check_owner(path: Path, above: bool = False) -> None:
    """Refuse a path that another user owns or can write to.

    Args:
        above: a parent folder, which may be root's or sticky.

    Raises:
        OSError: another user could change it, or it cannot be read.
    """
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        raise PermissionError(f"{path} is a symbolic link")
    if about.st_uid != os.geteuid() and not (above and about.st_uid == 0):
        raise PermissionError(f"{path} belongs to another user")
    if about.st_mode & 0o022 and not (above and about.st_mode & stat.S_ISVTX):
        raise PermissionError(f"{path} is writable by others")


def _cached(name: str) -> Path:
    """The path of a library in the user's cache ($XDG_CACHE_HOME, ~/.cache). Creates the folder.

    Raises:
        OSError, RuntimeError: there is no home, or another user could put a library there, which loading would run.
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
    """The compiled library, from the user's cache ($XDG_CACHE_HOME, ~/.cache) or compiled into it, in a few seconds.

    If another user can write to the cache, nothing of it is loaded: the library is compiled into a private folder,
    which is removed after loading, and `note` says why.

    Raises:
        CompilerError: there is no compiler ($CXX, else g++ or clang++), or it fails.
    """
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++") if shutil.which(c)), "g++")
    path = shutil.which(compiler)
    if path is None:
        raise CompilerError(f"there is no C++ compiler ({compiler})")
    sources = [file.read_text() for file in (SOURCE, *HEADERS)]
    about = [*sources, *FLAGS, path, str(os.stat(path).st_mtime), platform.machine(), _processor()]
    name = f"views-{hashlib.sha256('|'.join(about).encode()).hexdigest()[:16]}.so"
    target, note = None, ""
    try:
        target = _cached(name)
    except (OSError, RuntimeError) as error:
        note = f"; compiled privately: {error}"
    try:
        loaded = ctypes.CDLL(str(target)) if target and target.exists() else _compile(path, name, target)
    except OSError as error:  # a full disk, a folder mounted noexec, a damaged file
        raise CompilerError(f"{target or name} cannot be made or loaded ({error})") from error
    return Library(loaded, note)


def check_known(operations: Sequence[Operation], device: torch.device) -> str:
    """Compile views.cpp and check that it knows the operations. Returns the library's note.

    Args:
        device: a CPU; the kernels of a GPU are compiled for one of several.

    Raises:
        CompilerError: it cannot be compiled, or does not know an active operation; torch then renders the views.
    """
    note = library().note
    check_fields(operations, library().fields, "views.cpp")
    return note


def _compile(compiler: str, name: str, target: Path | None) -> ctypes.CDLL:
    """Compile and load. `target` is replaced atomically, also if two processes compile at once."""
    beside = target and target.parent  # else among temporary files; the folder's mode is 0700
    with tempfile.TemporaryDirectory(prefix=".siamese-", dir=beside, ignore_cleanup_errors=True) as work:
        made = Path(work) / name
        done = subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise CompilerError(f"{compiler} failed: {lines[0] if lines else done.returncode}")
        made.chmod(0o700)  # whatever the umask
        return ctypes.CDLL(str(made.replace(target) if target else made))


def render(
    images: Tensor, params: ViewParams, operations: Sequence[Operation], size: int, scale: Mapping[str, Tensor]
) -> Tensor:
    """`View.render` by as many threads as torch uses.

    Args:
        images: (B, C, H, W) uint8, uint16 or float32 on a CPU, with any strides; or (B, 1, H, W), repeated.
        params: the random parameters.
        operations, size: of the view.
        scale: `low`, `high`, `mean`, `std` of the view, each (C,).

    Returns:
        (B, C, size, size) float32.

    Raises:
        ValueError: an image, a parameter or an option that the renderer cannot take, such as a box that leaves its
            image. Nothing is rendered.
        MemoryError: there is not enough memory.
    """
    if images.dim() != 4 or images.dtype not in PIXELS or images.device.type != "cpu":
        raise ValueError(f"{_about(images)}, not (B, C, H, W) {', '.join(map(str, PIXELS))} on cpu")
    channels = len(scale["low"])
    if images.shape[1] == 1 and any(len(scale[end].unique()) > 1 for end in ("low", "high")):
        images = images.expand(-1, channels, -1, -1)  # each channel has a range of its own
    count, stored, height, width = images.shape
    renderer = library()
    out = torch.empty(count, channels, size, size, dtype=torch.float32)
    arrays = {"images": images.contiguous(), "out": out}  # all stay alive until the call returns
    values = {**vars(params), **scale}
    for name, field in renderer.fields.items():
        if name in arrays:
            continue
        given, shape = values[name], (channels,) if field.shape is None else (count, *field.shape)
        assert field.dtype is not None
        if given.shape != shape or not torch.can_cast(given.dtype, field.dtype) or given.device.type != "cpu":
            raise ValueError(f"{name} is {_about(given)}, not {shape} {field.dtype} on cpu")
        arrays[name] = given.to(field.dtype).contiguous()
    options = {"count": count, "stored": stored, "channels": channels, "height": height, "width": width, "size": size}
    options["pixel"] = PIXELS.index(images.dtype)
    for operation in operations:
        options |= operation.options()
    batch = renderer.batch(
        **{name: options[name] for name in renderer.options},
        **{name: tensor.data_ptr() for name, tensor in arrays.items()},
    )
    threads = torch.get_num_threads()
    which, message = renderer.render(batch, threads)
    if message:
        known = {"threads": threads, "std": [scale["mean"].tolist(), scale["std"].tolist()], "memory": "", "": "",
                 "range": [scale["low"].tolist(), scale["high"].tolist()], **options,
                 "channels": [stored, channels]}  # fmt: skip
        shown = known.get(which)
        if shown is None:
            rows = arrays[which].view(count, -1)
            shown = f"up to {rows.amax(0).tolist()}, from {rows.amin(0).tolist()}"
        error = MemoryError if which == "memory" else ValueError
        raise error(f"{count} images of {height} x {width} pixels: {message} {shown}".rstrip())
    return out


def _about(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device.type}"
