"""Packed images: image files decoded once into one file of squares, mapped into memory afterwards."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese.data.files import Kind, one_thread
from siamese.data.images import ChainedImages, ImageBatch, ImageStore, Unread, rows
from siamese.data.items import Items
from siamese.errors import RunAborted, UserError
from siamese.files import NO_ROOM, make_temp_dir, reserve
from siamese.processors import cores
from siamese.progress import over

BLOCK = 4096  # images that wait for their turn to be packed


class PackedImages(ImageStore):
    """Some rows of a packed file, which is written at the first use.

    Args:
        file: the packed file.
        rows: (N,) its rows; None is all.
    """

    def __init__(self, file: "PackedFile", rows: Tensor | None = None):
        self.file, self.rows = file, torch.arange(len(file.items)) if rows is None else rows
        self.sizes, self.on_error = (file.size, file.size), file.on_error
        self.channels, self.dtype = file.kind.channels, file.kind.torch_dtype

    @property
    def place(self) -> str:  # type: ignore[override]
        return f"read from {self.file.where}"

    def __len__(self) -> int:
        return len(self.rows)

    def prepare(self) -> tuple[Unread, ...]:
        """Pack the files if no run has done so. Returns the errors of all files in the packed file."""
        return tuple(self.file.errors)

    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        chosen = self.rows[indices]
        images = rows(self.file.pixels, chosen)
        return ImageBatch(images, self.file.aspect_ratios[chosen], self.file.unreadable[chosen])

    def subset(self, indices: Tensor) -> "PackedImages":
        return PackedImages(self.file, self.rows[indices])

    def concat(self, other: ImageStore) -> ImageStore:
        """Both, one after the other, each in its file."""
        if isinstance(other, PackedImages) and other.file is self.file:
            return PackedImages(self.file, torch.cat([self.rows, other.rows]))
        return ChainedImages([self, other])

    def update_digest(self, digest: Any) -> None:
        digest.update(self.file.key.encode())
        digest.update(self.rows.numpy().data)

    def lengths(self) -> np.ndarray:
        return self.file.items.lengths(self.rows.tolist())

    def content(self, index: int) -> bytes:
        return self.file.items.content(int(self.rows[index]))

    def names(self) -> list[Path]:
        return [Path(self.file.items.name(i)) for i in self.rows.tolist()]


class PackedFile:
    """`folder`/<key>/: x.npy (N, C, size, size) of the images' type, aspects.npy, meta.json.

    The key is a digest of the items, of `size` and of `kind`. When the file is opened, shapes and the digest of a
    sample of the squares are checked.

    Args:
        folder: holds all packed files.
        items: the images, in this order.
        size: side of the squares, pixels.
        kind: of the images.
        on_error: ``stop`` or ``skip``.
    """

    def __init__(self, folder: Path, items: Items, size: int, kind: Kind, on_error: str):
        self.items, self.size, self.kind, self.on_error = items, size, kind, on_error
        # 3 is the version of the layout and of the decoding.
        about = f"3 {size} {kind.channels} {kind.dtype} {kind.max_pixels} {items.digest()}"
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
        out = torch.zeros(len(self.items), dtype=torch.bool)
        out[[int(i) for i in self._open()[2]]] = True
        return out

    @property
    def errors(self) -> list[Unread]:
        """Path and reason of each file that could not be decoded."""
        return [(self.items.name(int(i)), reason) for i, reason in self._open()[2].items()]

    def _open(self) -> tuple[Tensor, Tensor, dict[str, str]]:
        if self.opened is None:
            try:
                if not self.where.is_dir():
                    with _folder(self.where.parent), _alone(self.where.with_name(f"{self.key}.lock")):
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
        pixels = np.load(self.where / "x.npy", mmap_mode="r")  # "c" may not be larger than the memory
        aspect_ratios = np.load(self.where / "aspects.npy")
        meta = json.loads((self.where / "meta.json").read_text(encoding="utf-8"))
        count, errors = len(self.items), {str(int(i)): str(reason) for i, reason in meta["errors"].items()}
        if pixels.shape != (count, self.kind.channels, self.size, self.size) or pixels.dtype != self.kind.dtype:
            raise ValueError(f"holds {pixels.dtype} {pixels.shape}")
        if aspect_ratios.shape != (count,) or any(not 0 <= int(i) < count for i in errors):
            raise ValueError(f"is of {aspect_ratios.shape} images")
        if meta["digest"] != _sampled(pixels, aspect_ratios):
            raise ValueError("its content has changed")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writ")  # nothing writes into images
            return torch.from_numpy(pixels), torch.from_numpy(aspect_ratios), errors

    def _build(self) -> None:
        temporary = make_temp_dir(self.where)
        try:
            count = len(self.items)
            shape = count, self.kind.channels, self.size, self.size
            pixels = np.lib.format.open_memmap(temporary / "x.npy", "w+", self.kind.dtype, shape)
            with (temporary / "x.npy").open("r+b") as file:
                reserve(file.fileno(), pixels.nbytes)
            aspect_ratios, errors = np.ones(count, np.float32), {}

            def one(i: int) -> None:
                try:
                    square, aspect_ratios[i] = self.kind.square(self.items.source(i), self.size)
                    pixels[i] = square.numpy()
                except (OSError, ValueError) as reason:
                    errors[i] = str(reason)

            with one_thread(), ThreadPoolExecutor(cores()) as pool:  # decoding releases Python's lock
                blocks = (range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK))
                done = itertools.chain.from_iterable(pool.map(one, block) for block in blocks)
                for _ in over(done, count, "packing", "images"):
                    if errors and self.on_error == "stop":
                        pool.shutdown(cancel_futures=True)
                        break
            if errors and self.on_error == "stop":
                i = min(errors)
                raise UserError(
                    f"data.path: {self.items.name(i)}", f"cannot be decoded ({errors[i]})",
                    "remove it, or set data.on_error=skip",
                )  # fmt: skip
            readable = np.array([i not in errors for i in range(count)])
            if not readable.any():
                raise UserError(
                    "data.path",
                    f"none of its {count} images can be read; the first: {self.items.name(0)}: {errors[0]}",
                    "check that they are images",
                )  # fmt: skip
            for i in errors:  # as `ImageFiles.read` does
                other = (i + int(np.argmax(np.roll(readable, -i)))) % count
                pixels[i], aspect_ratios[i] = pixels[other], aspect_ratios[other]
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
def _folder(folder: Path) -> Iterator[None]:
    """Within it the folder exists. Folders that were created for it and are empty at the end are removed."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for one in made:
                one.rmdir()


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
