"""A packed cache of image files: decoded once into one file of uint8 squares, mapped into memory afterwards."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from siamese.data.images import digest_of_files
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
    """`folder`/<key>: x.npy (N, 3, size, size) uint8, aspects.npy, meta.json. The key follows from the real path of
    the files' common folder, every file's name in it, size and time of change, a sample of their contents, and `size`.
    What is opened must be what was written: shapes, and the digest of a sample of the squares.

    Args:
        folder: of all packed files.
        files: what is packed, in this order.
        size: side of the squares.
        on_error: ``stop`` or ``skip``.
        decode: a file to its square and aspect.
    """

    def __init__(self, folder: Path, files: Sequence[Path], size: int, on_error: str, decode: Decode):
        self.files, self.size, self.on_error, self.decode = files, size, on_error, decode
        root = Path(os.path.commonpath([str(f.parent) for f in files]))
        about = (
            f"2 {size} {os.path.realpath(root)} {digest_of_files(files, root)}"  # 2: how squares are made and stored
        )
        self.key = hashlib.blake2b(about.encode(errors="surrogateescape"), digest_size=16).hexdigest()
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
                if not self.where.is_dir():
                    self.where.parent.mkdir(parents=True, exist_ok=True)
                    with _alone(self.where.with_name(f"{self.key}.lock")):
                        if not self.where.is_dir():
                            self._build()
            except OSError as error:
                where = self.where.parent
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise Stopped(f"data.packed={where}: cannot be written ({error}); make room") from error
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
        aspects = np.load(self.where / "aspects.npy")
        meta = json.loads((self.where / "meta.json").read_text(encoding="utf-8"))
        count, errors = len(self.files), {str(int(i)): str(reason) for i, reason in meta["errors"].items()}
        if pixels.shape != (count, 3, self.size, self.size) or pixels.dtype != np.uint8:
            raise ValueError(f"holds {pixels.dtype} {pixels.shape}")
        if aspects.shape != (count,) or any(not 0 <= int(i) < count for i in errors):
            raise ValueError(f"is of {aspects.shape} images")
        if meta["digest"] != _sampled(pixels, aspects):
            raise ValueError("its content has changed")
        return torch.from_numpy(pixels), torch.from_numpy(aspects), errors

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
            meta = {"errors": {str(i): errors[i] for i in sorted(errors)}, "digest": _sampled(pixels, aspects)}
            (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            os.rename(temporary, self.where)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sampled(pixels: np.ndarray, aspects: np.ndarray) -> str:
    """A digest of at most 256 squares, evenly chosen, and of all aspects."""
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), 256), dtype=int)
    digest = hashlib.blake2b(np.ascontiguousarray(pixels[chosen]).data, digest_size=16)
    digest.update(f"{aspects.dtype}".encode() + np.ascontiguousarray(aspects).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Of several processes one goes on, the others wait. The file goes with the last one."""
    while True:
        with file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if not os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                    continue  # whoever had it took the file away meanwhile
            except FileNotFoundError:
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return
