"""Images: the store that all data sets share, and image files: which are there, and how one is decoded."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from siamese.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SAMPLED, BLOCK = 256, 1 << 16  # files in a digest, and bytes of each of three places in them


@dataclass
class ImageBatch:
    """Images as a store reads them.

    Args:
        images: (B, C, H, W) uint8.
        aspect_ratios: (B,) width / height of the original files, None where images were not squeezed.
        unreadable: (B,) bool, files that could not be decoded (a neighbour's image takes their place), or None.
        errors: a path and a reason, separated by a tab, for each file that could not be decoded.
    """

    images: Tensor
    aspect_ratios: Tensor | None = None
    unreadable: Tensor | None = None
    errors: tuple[str, ...] = ()

    def pin_memory(self) -> "ImageBatch":
        """The same with page-locked images; torch's DataLoader calls it."""
        return replace(self, images=self.images.pin_memory())


class ImageStore(ABC):
    """N images of one size, in memory or on disk.

    Attributes:
        sizes: (height, width) of the images that `read` returns, pixels.
        channels: of these images.
        on_error: what an unreadable file does: ``stop`` or ``skip``.
        decodes: whether `read` costs so much time that worker processes are worth it.
        place: where the images lie, for reports.
    """

    sizes: tuple[int, int]
    channels: int
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
        """A store of both, one after the other; `other` is of the same class."""

    @abstractmethod
    def update_digest(self, digest: Any) -> None:
        """Feed what identifies the images to a hash of hashlib."""

    def names(self) -> list[Path] | None:
        """The files of the images; None where images have no files."""
        return None

    def prepare(self) -> tuple[str, ...]:
        """Make ready to read. Returns the errors (see `ImageBatch`) that are known beforehand."""
        return ()

    @property
    def nbytes(self) -> int:
        """Size of all images as uint8."""
        return len(self) * self.channels * self.sizes[0] * self.sizes[1]


class TensorImages(ImageStore):
    """Images in memory.

    Args:
        pixels: (N, C, H, W) uint8.
    """

    def __init__(self, pixels: Tensor):
        self.pixels = pixels
        self.channels, self.sizes = pixels.shape[1], (pixels.shape[2], pixels.shape[3])

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        return ImageBatch(self.pixels[indices])

    def read_all(self, threads: int = 1) -> ImageBatch:
        return ImageBatch(self.pixels)

    def subset(self, indices: Tensor) -> "TensorImages":
        return TensorImages(self.pixels[indices])

    def concat(self, other: "TensorImages") -> "TensorImages":
        return TensorImages(torch.cat([self.pixels, other.pixels]))

    def update_digest(self, digest: Any) -> None:
        digest.update(str(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().data)


class ImageFiles(ImageStore):
    """Image files, decoded at each read.

    Args:
        files: paths.
        size: side of the square to which an image is squeezed, pixels.
        on_error: ``stop`` or ``skip``.
    """

    decodes, channels, place = True, 3, "streamed by a DataLoader"

    def __init__(self, files: Sequence[Path], size: int, on_error: str = "stop"):
        self.files, self.size, self.on_error = list(files), size, on_error
        self.sizes = size, size

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        """Decode files. An unreadable file gets the image of the next readable one.

        Raises:
            UserError: no file can be decoded.
        """
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:  # decoding releases Python's lock
                decoded = list(pool.map(self._decode, indices.tolist()))
        else:
            decoded = [self._decode(i) for i in indices.tolist()]
        images, aspect_ratios, errors = zip(*decoded, strict=True)
        unreadable = torch.tensor([bool(e) for e in errors])
        return ImageBatch(torch.stack(images), torch.tensor(aspect_ratios), unreadable, tuple(e for e in errors if e))

    def _decode(self, index: int) -> tuple[Tensor, float, str]:
        error = ""
        for step in range(len(self.files)):
            file = self.files[(index + step) % len(self.files)]
            try:
                return *decode(file, self.size), error
            except Exception as reason:  # Pillow raises many kinds for a damaged file
                error = error or f"{file}\t{reason}"
        raise UserError("data.path", f"none of its {len(self.files)} images can be read ({error})", "check the files")

    def subset(self, indices: Tensor) -> "ImageFiles":
        return ImageFiles([self.files[i] for i in indices.tolist()], self.size, self.on_error)

    def concat(self, other: "ImageFiles") -> "ImageFiles":
        return ImageFiles(self.files + other.files, self.size, self.on_error)

    def update_digest(self, digest: Any) -> None:
        digest.update(f"{digest_of_files(self.files)} {self.size}".encode())

    def names(self) -> list[Path]:
        return self.files


def decode(file: Path, size: int) -> tuple[Tensor, float]:
    """An image file to ((3, size, size) uint8, width / height of the original).

    The image is turned by its EXIF orientation and squeezed into the square with antialiasing. The aspect ratio lets
    the crops undo the squeeze, so that they cover the whole photograph as the papers' crops do. A JPEG is decoded at a
    reduced scale where that suffices.

    Raises:
        ValueError: more than 8 bits a channel.
        Exception: Pillow raises many kinds for a damaged file.
    """
    with Image.open(file) as image:
        check_depth(image)
        aspect_ratio = image.width / image.height
        image.draft("RGB", (size, size))
        square = image.convert("RGB")
        if image.format == "TIFF":  # loading turns it; before Pillow 11 its size changes only then
            aspect_ratio = square.width / square.height
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))  # read after loading: Pillow may have turned a TIFF
    if turn is not None:
        square = square.transpose(turn)
        if turn in (Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE, *(TURNS[6], TURNS[8])):
            aspect_ratio = 1 / aspect_ratio
    square = square.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1), aspect_ratio


def check_depth(image: Image.Image) -> None:
    """Refuse an opened image of more than 8 bits a channel, which `convert` would clip."""
    coded = " ".join(str(t[3]) for t in getattr(image, "tile", []))  # Pillow's raw mode, as in "RGB;16B"
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16") or any(f";{n}" in coded for n in (16, 32, 64))
    deep = deep and "BGR;16" not in coded  # a BMP's 16 bits a pixel
    if image.format == "PPM" and image.mode == "RGB":
        deep = any(isinstance(t[3], tuple) and t[3][1] > 255 for t in getattr(image, "tile", []))
    if deep:
        raise ValueError(f"more than 8 bits a channel, mode {image.mode}; convert it to 8 bits")


def unreadable(file: Path) -> str | None:
    """The reason why a file cannot be decoded, or None."""
    try:
        decode(file, 1)
    except Exception as error:
        return str(error)
    return None


def listing(root: Path) -> tuple[list[str], list[Path], Tensor]:
    """Classes, files and labels of a folder, sorted. A flat folder has no classes and the labels -1.

    Hidden files and folders (`.ipynb_checkpoints`, `._photo.jpg`) and macOS's `__MACOSX` are ignored.
    """

    def visible(name: str) -> bool:
        return not name.startswith(".") and name != "__MACOSX"

    def image(folder: str, name: str) -> bool:
        return name.lower().endswith(IMAGE_SUFFIXES) and visible(name) and os.path.isfile(os.path.join(folder, name))

    def images(where: Path) -> list[Path]:
        found = []
        for folder, inner, names in os.walk(where):
            inner[:] = filter(visible, inner)
            found += [Path(folder, name) for name in names if image(folder, name)]
        return sorted(found)

    flat = sorted(root / name for name in os.listdir(root) if image(str(root), name))
    folders = [d for d in sorted(root.iterdir()) if d.is_dir() and visible(d.name)]
    by_class = {d.name: found for d in folders if (found := images(d))}
    if flat and by_class:
        raise UserError(
            f"data.path={root}", f"holds {len(flat)} images and folders of images",
            "keep either class folders or a flat folder",
        )  # fmt: skip
    if flat:
        return [], flat, torch.full((len(flat),), -1)
    files = [f for found in by_class.values() for f in found]
    labels = [label for label, found in enumerate(by_class.values()) for _ in found]
    if len(by_class) == 1:  # a single folder is not a class
        return [], files, torch.full((len(files),), -1)
    return list(by_class), files, torch.tensor(labels, dtype=torch.int64)


def digest_of_files(files: Sequence[Path], root: Path | None = None) -> str:
    """A digest of names (relative to `root`, or absolute), sizes, modification times and sampled contents: start,
    middle and end of at most 256 files, evenly chosen."""
    digest = hashlib.blake2b(digest_size=16)
    chosen = set(np.linspace(0, len(files) - 1, min(len(files), SAMPLED), dtype=int).tolist())
    for i, file in enumerate(files):
        about = file.stat()
        name = file.absolute() if root is None else file.relative_to(root)
        digest.update(f"{name}\0{about.st_size} {about.st_mtime_ns}\n".encode(errors="surrogateescape"))
        if i in chosen:
            with file.open("rb") as stream:
                for start in sorted({0, about.st_size // 2, max(0, about.st_size - BLOCK)}):
                    stream.seek(start)
                    digest.update(stream.read(BLOCK))
    return digest.hexdigest()
