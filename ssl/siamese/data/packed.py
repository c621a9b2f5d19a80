"""A packed cache of image files: decoded once into one file of uint8 squares, mapped into memory afterwards."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from siamese.errors import Stopped, UserError
from siamese.memory import reserve
from siamese.run import unfinished

Decode = Callable[[Path, int], tuple[Tensor, float]]


@dataclass
class Packed:
    """Some images of a packed file; indexing by a tensor (B,) gives (B, 3, size, size) uint8 in memory.

    Args:
        store: the file, which is made at the first use.
        index: (N,) rows of the file.
    """

    store: "Store"
    index: Tensor
    device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.store.pixels.index_select(0, self.index[index])

    def subset(self, index: Tensor) -> "Packed":
        """The images at `index`."""
        return Packed(self.store, self.index[index])

    def plus(self, other: "Packed") -> "Packed":
        """Both, one after the other. Different files become one in which the second follows the first."""
        if other.store is self.store:
            return Packed(self.store, torch.cat([self.index, other.index]))
        files = [*(self.store.files[i] for i in self.index), *(other.store.files[i] for i in other.index)]
        both = Store(self.store.where.parent, files, self.store.size, self.store.on_error, self.store.decode)
        return Packed(both, torch.arange(len(files)))

    @property
    def aspects(self) -> Tensor:
        """(N,) width / height of the original files."""
        return self.store.aspects[self.index]

    @property
    def unreadable(self) -> Tensor:
        """(N,) bool: files that could not be decoded; a neighbour's image stands in their place."""
        return self.store.unreadable[self.index]


class Store:
    """`folder`/<key>: x.npy (N, 3, size, size) uint8, aspects.npy, errors.json. The key follows from every file's
    name below their common folder, its size and time of change, and from `size`.

    Args:
        folder: of all packed files.
        files: what is packed, in this order.
        size: side of the squares.
        on_error: ``stop`` or ``skip``.
        decode: a file to its square and aspect.
    """

    def __init__(self, folder: Path, files: Sequence[Path], size: int, on_error: str, decode: Decode):
        self.files, self.size, self.on_error, self.decode = files, size, on_error, decode
        root = os.path.commonpath([str(f.parent) for f in files])
        digest = hashlib.blake2b(f"1 {size}".encode(), digest_size=16)  # 1: how the squares are made and stored
        for file in files:
            about = file.stat()
            digest.update(f"{os.path.relpath(file, root)} {about.st_size} {about.st_mtime_ns}\n".encode())
        self.key = digest.hexdigest()
        self.where = folder / self.key
        self.opened: tuple[Tensor, Tensor, dict[str, str]] | None = None

    @property
    def pixels(self) -> Tensor:
        return self._open()[0]

    @property
    def aspects(self) -> Tensor:
        return self._open()[1]

    @property
    def unreadable(self) -> Tensor:
        out = torch.zeros(len(self.files), dtype=torch.bool)
        out[[int(i) for i in self._open()[2]]] = True
        return out

    @property
    def errors(self) -> list[str]:
        """Path and reason of each file that could not be decoded, a tab between them."""
        return [f"{self.files[int(i)]}\t{reason}" for i, reason in self._open()[2].items()]

    def _open(self) -> tuple[Tensor, Tensor, dict[str, str]]:
        if self.opened is None:
            try:
                self.where.parent.mkdir(parents=True, exist_ok=True)
                # Of several processes one builds, the others wait here.
                with (self.where.parent / f"{self.key}.lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not self.where.is_dir():
                        self._build()
            except OSError as error:
                raise Stopped(f"data.packed={self.where.parent}: cannot be written ({error}); make room") from error
            try:
                pixels = np.load(self.where / "x.npy", mmap_mode="c")
                aspects = np.load(self.where / "aspects.npy")
                errors = json.loads((self.where / "errors.json").read_text())
                if pixels.shape != (len(self.files), 3, self.size, self.size) or len(aspects) != len(self.files):
                    raise ValueError(f"holds {pixels.shape}")
            except (OSError, ValueError) as error:
                raise UserError(
                    f"data.packed={self.where.parent}", f"{self.where} is damaged ({error})", "delete it"
                ) from error
            self.opened = torch.from_numpy(pixels), torch.from_numpy(aspects), errors
        return self.opened

    def _build(self) -> None:
        temporary = unfinished(self.where)
        try:
            count = len(self.files)
            pixels = np.lib.format.open_memmap(temporary / "x.npy", "w+", np.uint8, (count, 3, self.size, self.size))
            with (temporary / "x.npy").open("r+b") as file:
                reserve(file.fileno(), pixels.nbytes)
            aspects, errors = np.ones(count, np.float32), {}

            def one(i: int) -> None:
                try:
                    square, aspects[i] = self.decode(self.files[i], self.size)
                    pixels[i] = square.numpy()
                except Exception as reason:  # Pillow has many words for a damaged file
                    errors[i] = str(reason)

            with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock
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
            for i in errors:  # the next readable one, as when files are streamed
                pixels[i] = pixels[(i + int(np.roll(readable, -i).argmax())) % count]
            pixels.flush()
            np.save(temporary / "aspects.npy", aspects)
            (temporary / "errors.json").write_text(json.dumps({str(i): errors[i] for i in sorted(errors)}))
            os.rename(temporary, self.where)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
