"""Packed images: image files decoded once into one file of uint8 squares, mapped into memory afterwards."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from siamese.data.images import ImageBatch, ImageStore, decode, digest_of_files
from siamese.errors import RunAborted, UserError
from siamese.files import NO_ROOM, make_temp_dir, reserve

Decode = Callable[[Path, int], tuple[Tensor, float]]


class PackedImages(ImageStore):
    """Some rows of a packed file, which is written at the first use.

    Args:
        file: the packed file.
        rows: (N,) its rows.
    """

    channels = 3

    def __init__(self, file: "PackedFile", rows: Tensor):
        self.file, self.rows = file, rows
        self.sizes, self.on_error = (file.size, file.size), file.on_error

    @classmethod
    def of(cls, folder: Path, files: Sequence[Path], size: int, on_error: str) -> "PackedImages":
        """All of `files`, packed in `folder`."""
        return cls(PackedFile(folder, files, size, on_error, decode), torch.arange(len(files)))

    @property
    def place(self) -> str:  # type: ignore[override]
        return f"read from {self.file.where}"

    def __len__(self) -> int:
        return len(self.rows)

    def prepare(self) -> tuple[str, ...]:
        """Pack the files if no run has done so. Returns the errors of all files in the packed file."""
        return tuple(self.file.errors)

    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        rows = self.rows[indices]
        images = self.file.pixels.index_select(0, rows)
        return ImageBatch(images, self.file.aspect_ratios[rows], self.file.unreadable[rows])

    def subset(self, indices: Tensor) -> "PackedImages":
        return PackedImages(self.file, self.rows[indices])

    def concat(self, other: "PackedImages") -> "PackedImages":
        """Both. If they lie in different packed files, a third one holds both."""
        if other.file is self.file:
            return PackedImages(self.file, torch.cat([self.rows, other.rows]))
        file, files = self.file, self.names() + other.names()
        both = PackedFile(file.where.parent, files, file.size, file.on_error, file.decode)
        return PackedImages(both, torch.arange(len(files)))

    def update_digest(self, digest: Any) -> None:
        digest.update(self.file.key.encode())
        digest.update(self.rows.numpy().data)

    def names(self) -> list[Path]:
        return [self.file.files[i] for i in self.rows]


class PackedFile:
    """`folder`/<key>/: x.npy (N, 3, size, size) uint8, aspects.npy, meta.json.

    The key is a digest of the real path of the files' common folder, of each file's name in it, size and modification
    time, of a sample of the contents, and of `size`. When the file is opened, shapes and the digest of a sample of the
    squares are checked.

    Args:
        folder: holds all packed files.
        files: the images, in this order.
        size: side of the squares, pixels.
        on_error: ``stop`` or ``skip``.
        decode: an image file to its square and aspect_ratio.
    """

    def __init__(self, folder: Path, files: Sequence[Path], size: int, on_error: str, decode: Decode):
        self.files, self.size, self.on_error, self.decode = files, size, on_error, decode
        root = Path(os.path.commonpath([str(f.parent) for f in files]))
        # 2 is the version of the layout and of the decoding.
        about = f"2 {size} {os.path.realpath(root)} {digest_of_files(files, root)}"
        self.key = hashlib.blake2b(about.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        self.where = folder / self.key
        self.opened: tuple[Tensor, Tensor, dict[str, str]] | None = None

    @property
    def pixels(self) -> Tensor:
        return self._open()[0]

    @property
    def aspect_ratios(self) -> Tensor:
        """(N,) width / height of the original files."""
        return self._open()[1]

    @property
    def unreadable(self) -> Tensor:
        """(N,) bool: files that could not be decoded; the next readable image takes their place."""
        out = torch.zeros(len(self.files), dtype=torch.bool)
        out[[int(i) for i in self._open()[2]]] = True
        return out

    @property
    def errors(self) -> list[str]:
        """Path and reason, separated by a tab, of each file that could not be decoded."""
        return [f"{self.files[int(i)]}\t{reason}" for i, reason in self._open()[2].items()]

    def _open(self) -> tuple[Tensor, Tensor, dict[str, str]]:
        if self.opened is None:
            try:
                if not self.where.is_dir():
                    self.where.parent.mkdir(parents=True, exist_ok=True)
                    with _alone(self.where.with_name(f"{self.key}.lock")):
                        if not self.where.is_dir():
                            self._build()
            except OSError as error:
                where = self.where.parent
                if error.errno in NO_ROOM:
                    raise RunAborted(f"data.packed={where}: cannot be written ({error}); make room") from error
                raise UserError(
                    f"data.packed={where}", f"cannot be written ({error})", "give another folder"
                ) from error
            try:
                self.opened = self._read()
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"data.packed={self.where.parent}", f"{self.where} is damaged ({error})", "delete it"
                ) from error
        return self.opened

    def _read(self) -> tuple[Tensor, Tensor, dict[str, str]]:
        pixels = np.load(self.where / "x.npy", mmap_mode="c")
        aspect_ratios = np.load(self.where / "aspects.npy")
        meta = json.loads((self.where / "meta.json").read_text(encoding="utf-8"))
        count, errors = len(self.files), {str(int(i)): str(reason) for i, reason in meta["errors"].items()}
        if pixels.shape != (count, 3, self.size, self.size) or pixels.dtype != np.uint8:
            raise ValueError(f"holds {pixels.dtype} {pixels.shape}")
        if aspect_ratios.shape != (count,) or any(not 0 <= int(i) < count for i in errors):
            raise ValueError(f"is of {aspect_ratios.shape} images")
        if meta["digest"] != _sampled(pixels, aspect_ratios):
            raise ValueError("its content has changed")
        return torch.from_numpy(pixels), torch.from_numpy(aspect_ratios), errors

    def _build(self) -> None:
        temporary = make_temp_dir(self.where)
        try:
            count = len(self.files)
            pixels = np.lib.format.open_memmap(temporary / "x.npy", "w+", np.uint8, (count, 3, self.size, self.size))
            with (temporary / "x.npy").open("r+b") as file:
                reserve(file.fileno(), pixels.nbytes)
            aspect_ratios, errors = np.ones(count, np.float32), {}

            def one(i: int) -> None:
                try:
                    square, aspect_ratios[i] = self.decode(self.files[i], self.size)
                    pixels[i] = square.numpy()
                except Exception as reason:  # Pillow raises many kinds for a damaged file
                    errors[i] = str(reason)

            with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases Python's lock
                for _ in track(pool.map(one, range(count)), "packing images", count, transient=True):
                    if errors and self.on_error == "stop":
                        pool.shutdown(cancel_futures=True)
                        break
            if errors and self.on_error == "stop":
                i = min(errors)
                raise UserError(
                    f"data.path: {self.files[i]}", f"cannot be decoded ({errors[i]})",
                    "remove it, or set data.on_error=skip",
                )  # fmt: skip
            readable = np.array([i not in errors for i in range(count)])
            if not readable.any():
                raise UserError("data.path", "no image can be read", "check that they are images")
            for i in errors:  # as `ImageFiles.read` does
                pixels[i] = pixels[(i + int(np.argmax(np.roll(readable, -i)))) % count]
            pixels.flush()
            np.save(temporary / "aspects.npy", aspect_ratios)
            meta = {"errors": {str(i): errors[i] for i in sorted(errors)}, "digest": _sampled(pixels, aspect_ratios)}
            (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            os.rename(temporary, self.where)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sampled(pixels: np.ndarray, aspect_ratios: np.ndarray) -> str:
    """A digest of at most 256 evenly chosen squares and of all aspect ratios."""
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), 256), dtype=int)
    digest = hashlib.blake2b(np.ascontiguousarray(pixels[chosen]).data, digest_size=16)
    digest.update(f"{aspect_ratios.dtype}".encode() + np.ascontiguousarray(aspect_ratios).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """An exclusive lock between processes on `file`, which the last holder removes."""
    while True:
        with file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if not os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                    continue  # the previous holder has removed the file
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return
