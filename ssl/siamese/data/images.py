"""Images: the store that all data sets share."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese.errors import UserError

SAMPLED, BLOCK = 256, 1 << 16  # files in a digest, and bytes of each of three places in them


Images = Tensor | list[Tensor]
Unread = tuple[str, str]  # path and reason of a file that could not be decoded


def listed(images: Images) -> list[Tensor]:
    """The tensors of a batch."""
    return images if isinstance(images, list) else [images]


def to_device(images: Images, device: torch.device | str) -> Images:
    """The same on a device; the copy of page-locked images is not waited for."""
    if isinstance(images, list):
        return [x.to(device, non_blocking=True) for x in images]
    return images.to(device, non_blocking=True)


def rows(images: Tensor, index: Any) -> Tensor:
    """The images at `index`. uint16 is indexed as int16, because torch before 2.7 cannot index it, nor some devices."""
    if images.dtype == torch.uint16:
        return images.view(torch.int16)[index].view(torch.uint16)
    return images[index]


@dataclass
class ImageBatch:
    """Images as a store reads them.

    Args:
        images: (B, C, H, W) of the store's type; or for each view (B, C, size, size), cut out of the files.
        aspect_ratios: (B,) width / height of the original files, None where images were not squeezed.
        unreadable: (B,) bool, files that could not be decoded (a neighbour's image takes their place), or None.
        errors: path and reason of each file that could not be decoded.
    """

    images: Images
    aspect_ratios: Tensor | None = None
    unreadable: Tensor | None = None
    errors: tuple[Unread, ...] = ()

    def pin_memory(self) -> "ImageBatch":
        """The same with page-locked images; torch's DataLoader calls it."""
        pinned = [x.pin_memory() for x in listed(self.images)]
        return replace(self, images=pinned if isinstance(self.images, list) else pinned[0])


class ImageStore(ABC):
    """N images of one size, in memory or on disk.

    Attributes:
        sizes: (height, width) of the images that `read` returns, pixels.
        channels, dtype: of these images; uint8, uint16 or float32.
        on_error: what an unreadable file does: ``stop`` or ``skip``.
        decodes: whether `read` costs so much time that worker processes are worth it.
        place: where the images lie, for reports.
    """

    sizes: tuple[int, int]
    channels: int
    dtype = torch.uint8
    on_error = "stop"
    decodes = False
    place = "in main memory, batches copied over"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        """The images at `indices` (B,), on the host."""

    def read_all(self, threads: int = 1) -> ImageBatch:
        """All images, on the host; without a copy where they lie in memory."""
        return self.read(torch.arange(len(self)), threads)

    @abstractmethod
    def subset(self, indices: Tensor) -> "ImageStore":
        """A store of the images at `indices` (M,)."""

    @abstractmethod
    def concat(self, other: Any) -> "ImageStore":
        """A store of both, one after the other; `other` is of the same kind."""

    @abstractmethod
    def update_digest(self, digest: Any) -> None:
        """Feed what identifies the images to a hash of hashlib."""

    def names(self) -> list[Path] | None:
        """The files of the images; None where images have no files."""
        return None

    def lengths(self) -> np.ndarray:
        """(N,) int64: lengths of the contents, bytes; images whose lengths differ are different."""
        return np.zeros(len(self), np.int64)

    @abstractmethod
    def content(self, index: int) -> bytes:
        """What tells the image from others: the bytes of its file, or its pixels.

        Raises:
            OSError, ValueError: the file cannot be read.
        """

    def prepare(self) -> tuple[Unread, ...]:
        """Make ready to read. Returns the errors (see `ImageBatch`) that are known beforehand."""
        return ()

    @property
    def nbytes(self) -> int:
        """Size of all images."""
        return len(self) * self.channels * self.sizes[0] * self.sizes[1] * self.dtype.itemsize


def check_readable(store: ImageStore, errors: Sequence[Unread]) -> None:
    """Stop at the first of the unreadable files (`ImageBatch.errors`), unless the store's `on_error` is ``skip``."""
    if errors and store.on_error == "stop":
        path, reason = errors[0]
        raise UserError(f"data.path: {path}", f"cannot be decoded ({reason})", "remove it, or set data.on_error=skip")


class TensorImages(ImageStore):
    """Images in memory.

    Args:
        pixels: (N, C, H, W) uint8, uint16 or float32.
    """

    def __init__(self, pixels: Tensor):
        self.pixels, self.dtype = pixels, pixels.dtype
        self.channels, self.sizes = pixels.shape[1], (pixels.shape[2], pixels.shape[3])

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        return ImageBatch(rows(self.pixels, indices))

    def read_all(self, threads: int = 1) -> ImageBatch:
        return ImageBatch(self.pixels)

    def subset(self, indices: Tensor) -> "TensorImages":
        return TensorImages(rows(self.pixels, indices))

    def concat(self, other: "TensorImages") -> "TensorImages":
        return TensorImages(torch.cat([self.pixels, other.pixels]))

    def content(self, index: int) -> bytes:
        return self.pixels[index].contiguous().numpy().tobytes()

    def update_digest(self, digest: Any) -> None:
        digest.update(f"{tuple(self.pixels.shape)} {self.dtype}".encode())
        digest.update(self.pixels.contiguous().numpy().data)


class ChainedImages(ImageStore):
    """The images of several stores of one kind, one after the other.

    Args:
        parts: the stores.
    """

    def __init__(self, parts: Sequence[ImageStore]):
        self.parts, first = list(parts), parts[0]
        self.ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.sizes, self.channels, self.dtype = first.sizes, first.channels, first.dtype
        self.on_error, self.decodes, self.place = first.on_error, first.decodes, first.place

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _own(self, indices: Tensor) -> Iterator[tuple[ImageStore, Tensor, Tensor]]:
        """Each store, the places of its images in `indices`, and their own indices."""
        which = torch.searchsorted(self.ends, indices, right=True)
        for i, part in enumerate(self.parts):
            at = (which == i).nonzero().squeeze(1)
            if len(at):
                yield part, at, indices[at] - (self.ends[i] - len(part))

    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        images = torch.empty(len(indices), self.channels, *self.sizes, dtype=self.dtype)
        places = images.view(torch.int16) if self.dtype == torch.uint16 else images  # see `rows`
        aspect_ratios, unreadable = torch.ones(len(indices)), torch.zeros(len(indices), dtype=torch.bool)
        errors: tuple[Unread, ...] = ()
        for part, at, own in self._own(indices):
            batch = part.read(own, threads)
            places[at], errors = listed(batch.images)[0].view(places.dtype), errors + batch.errors
            if batch.aspect_ratios is not None and batch.unreadable is not None:
                aspect_ratios[at], unreadable[at] = batch.aspect_ratios.float(), batch.unreadable
        return ImageBatch(images, aspect_ratios, unreadable, errors)

    def subset(self, indices: Tensor) -> "ChainedImages":
        """A store of each part's images at `indices`, which must rise."""
        assert bool((indices.diff() > 0).all())
        return ChainedImages([part.subset(own) for part, _, own in self._own(indices)])

    def concat(self, other: ImageStore) -> "ChainedImages":
        return ChainedImages([*self.parts, other])

    def update_digest(self, digest: Any) -> None:
        for part in self.parts:
            part.update_digest(digest)

    def lengths(self) -> np.ndarray:
        return np.concatenate([part.lengths() for part in self.parts])

    def content(self, index: int) -> bytes:
        ((part, _, own),) = self._own(torch.tensor([index]))
        return part.content(int(own))

    def names(self) -> list[Path] | None:
        each = [part.names() for part in self.parts]
        return None if None in each else [name for names in each for name in names or []]

    def prepare(self) -> tuple[Unread, ...]:
        return tuple(error for part in self.parts for error in part.prepare())


def digest_of_files(files: Sequence[Path], root: Path | None = None) -> str:
    """A digest of names (relative to `root`, or absolute), sizes, modification times and sampled contents: start,
    middle and end of at most 256 files, evenly chosen. A file that cannot be read counts with its name; who decodes it
    reports it."""
    digest = hashlib.blake2b(digest_size=16)
    chosen = set(np.linspace(0, len(files) - 1, min(len(files), SAMPLED), dtype=int).tolist())
    for i, file in enumerate(files):
        name = file.absolute() if root is None else file.relative_to(root)
        digest.update(f"{name}\0".encode(errors="surrogateescape"))
        try:
            about = file.stat()
            digest.update(f"{about.st_size} {about.st_mtime_ns}\n".encode())
            if i in chosen:
                with file.open("rb") as stream:
                    for start in sorted({0, about.st_size // 2, max(0, about.st_size - BLOCK)}):
                        stream.seek(start)
                        digest.update(stream.read(BLOCK))
        except OSError as error:
            digest.update(f"{error.errno}\n".encode())
    return digest.hexdigest()
