"""Image files: what kind of images they hold, squares of them for stores in memory, and crops at full resolution."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from siamese.data.crops import Cutter, Region, cut, reduction
from siamese.data.decoding import ImageError, ImageInfo, OpenedImage, as_channels, open_image
from siamese.data.images import ImageBatch, ImageStore, Unread, digest_of_files
from siamese.data.items import Files, Items
from siamese.errors import UserError
from siamese.progress import over

INSPECTED = 256  # headers from which the kind of images is taken, evenly chosen
T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What all images of a set have in common.

    Args:
        channels: grey images are repeated to three, colour ones become grey, if the others ask for it.
        dtype: uint8, uint16 or float32.
        max_pixels: larger images are refused.
    """

    channels: int
    dtype: np.dtype
    max_pixels: int

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype.name)  # type: ignore[no-any-return]

    def fits(self, info: ImageInfo) -> bool:
        """Whether `pixels` takes an image with such a header."""
        return info.dtype == self.dtype and _becomes(info.channels, self.channels)

    def pixels(self, image: OpenedImage, reduce: int = 1) -> np.ndarray:
        """The decoded image, (h, w, channels).

        Raises:
            ImageError: it is damaged, or of another kind.
        """
        if image.info.dtype != self.dtype:
            raise ImageError(f"is {image.info.dtype}, the other images are {self.dtype}")
        return as_channels(image.pixels(reduce), self.channels)

    def square(self, source: Path | bytes, size: int) -> tuple[Tensor, float]:
        """An image file to ((C, size, size), width / height of the original).

        The image is squeezed into the square with antialiasing. The aspect ratio lets the crops undo the squeeze, so
        that they cover the whole photograph as the papers' crops do.

        Raises:
            ImageError: it is damaged, too large, or of another kind.
        """
        with open_image(source, self.max_pixels) as image:
            height, width = image.info.height, image.info.width
            whole = Region(0, 0, height, width, size)
            reduce = scale_of(image.info, [whole])
            return cut(self.pixels(image, reduce), whole, 1 / reduce), width / height

    def crops(self, source: Path | bytes, cutter: Cutter, epoch: int, index: int) -> list[Tensor]:
        """An image file to a picture (C, size, size) for each region of the cutter.

        Raises:
            ImageError: as `square`.
        """
        with open_image(source, self.max_pixels) as image:
            regions = cutter.regions(image.info.height, image.info.width, epoch, index)
            reduce = scale_of(image.info, regions)
            pixels = self.pixels(image, reduce)
            return [cut(pixels, region, 1 / reduce) for region in regions]


def scale_of(info: ImageInfo, regions: Sequence[Region]) -> int:
    """By how much the decoding of a file may be reduced, see `reduction`."""
    return reduction(info.height, info.width, regions, info.turned) if info.format == "JPEG" else 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch does not divide an operation among threads: on a picture that costs ten times what it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def kind_of(items: Items, channels: int | str, max_pixels: int, setting: str, on_error: str = "stop") -> Kind:
    """The kind of images that a choice of headers shows. Grey photographs among colour ones become colour.

    Args:
        channels: a number, or "auto".
        setting: that names the images, for messages.
        on_error: with ``skip``, images of another kind than most are left to be skipped.

    Raises:
        UserError: the files are of different kinds, or none can be read.
    """
    found = _headers(items, max_pixels, setting)
    held: dict[tuple[str, int], list[int]] = {}  # dtype and channels -> images
    alike: dict[tuple[str, int], list[int]] = {}  # the same; grey counts as colour
    for i, info in found.items():
        held.setdefault((info.dtype.name, info.channels), []).append(i)
        alike.setdefault((info.dtype.name, 3 if info.channels == 1 else info.channels), []).append(i)
    if channels != "auto":
        alike = {kind: of for kind, of in alike.items() if _becomes(found[of[0]].channels, int(channels))}
        if not alike:
            told = ", ".join(f"{count} ({items.name(of[0])})" for (_, count), of in held.items())
            raise UserError(
                f"data.channels={channels}", f"the images have other numbers of channels: {told}",
                "set data.channels=auto; a network for another number needs backbone.adapt_first_layer=true",
            )  # fmt: skip
    most = max(alike.values(), key=len)
    left = len(found) - len(most)
    if left and (on_error == "stop" or (channels == "auto" and left >= len(most))):
        told = ", ".join(
            f"{len(of)} are {dtype} of {count} channels ({items.name(of[0])})" for (dtype, count), of in held.items()
        )
        raise UserError(
            setting, f"holds images of several kinds; of {len(found)} that were looked at, {told}",
            "keep those of one kind; if most are of one kind, data.on_error=skip leaves out the others",
        )  # fmt: skip
    count = max(found[i].channels for i in most) if channels == "auto" else int(channels)
    return Kind(count, found[most[0]].dtype, max_pixels)


def check_kind(items: Items, kind: Kind, setting: str, on_error: str) -> None:
    """Refuse a split whose images are of another kind than the training split's, by a choice of headers.

    Raises:
        UserError: an image is of another kind, with ``skip`` all are; or none can be read.
    """
    found = _headers(items, kind.max_pixels, setting)
    other = {i: info for i, info in found.items() if not kind.fits(info)}
    if other and (on_error == "stop" or len(other) == len(found)):
        i, info = next(iter(other.items()))
        raise UserError(
            setting, f"{items.name(i)} is {info.dtype} of {info.channels} channels, the training images are "
            f"{kind.dtype} of {kind.channels}", "convert one of the splits",
        )  # fmt: skip


def _headers(items: Items, max_pixels: int, setting: str) -> dict[int, ImageInfo]:
    """The readable headers of an even choice of images; of one image, if none of the choice can be read.

    Raises:
        UserError: none can be read at all.
    """
    chosen = np.unique(np.linspace(0, len(items) - 1, INSPECTED, dtype=int)).tolist()
    found = {i: info for i in chosen if isinstance(info := header(items, i, max_pixels), ImageInfo)}
    for i in range(len(items)) if not found else ():  # rare: look at all of them
        info = header(items, i, max_pixels)
        if isinstance(info, ImageInfo):
            return {i: info}
    if not found:
        raise UserError(
            setting, f"none of its {len(items)} images can be read; the first: {items.name(0)}: "
            f"{header(items, 0, max_pixels)}", "check that they are images",
        )  # fmt: skip
    return found


def _becomes(held: int, channels: int) -> bool:
    """Whether `as_channels` makes images of `held` channels into images of `channels`."""
    return held == channels or {held, channels} == {1, 3}


def header(items: Items, index: int, max_pixels: int) -> ImageInfo | str:
    """What a file's header says, or why it cannot be read."""
    try:
        with open_image(items.source(index), max_pixels) as image:
            return image.info
    except (OSError, ValueError) as error:
        return str(error)


class ImageFiles(ImageStore):
    """Image files, decoded at each read.

    Args:
        files: paths.
        size: side of the square to which `read` squeezes an image, pixels.
        kind: of the images.
        on_error: ``stop`` or ``skip``.
    """

    decodes, place = True, "streamed by a DataLoader"

    def __init__(self, files: Sequence[Path], size: int, kind: Kind, on_error: str = "stop"):
        self.files, self.size, self.kind, self.on_error = list(files), size, kind, on_error
        self.sizes, self.channels, self.dtype = (size, size), kind.channels, kind.torch_dtype

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Tensor, threads: int = 1) -> ImageBatch:
        """Squares. An unreadable file gets the image of the next readable one.

        Raises:
            UserError: no file can be decoded.
        """
        return self._squares(indices, threads, "")

    def read_all(self, threads: int = 1) -> ImageBatch:
        """All squares; the progress is shown."""
        return self._squares(torch.arange(len(self)), threads, "decoding")

    def _squares(self, indices: Tensor, threads: int, what: str) -> ImageBatch:
        made, errors = self._each(indices, threads, lambda file, index: self.kind.square(file, self.size), what)
        squares, aspect_ratios = zip(*made, strict=True)
        return ImageBatch(torch.stack(squares), torch.tensor(aspect_ratios), *_told(errors))

    def crops(self, indices: Tensor, cutter: Cutter, epoch: int, threads: int = 1) -> ImageBatch:
        """Crops at the files' own resolution, a tensor for each view of the cutter; see `read`."""
        made, errors = self._each(indices, threads, lambda file, index: self.kind.crops(file, cutter, epoch, index))
        return ImageBatch([torch.stack(view) for view in zip(*made, strict=True)], None, *_told(errors))

    def _each(
        self, indices: Tensor, threads: int, make: Callable[[Path, int], T], what: str = ""
    ) -> tuple[list[T], list[Unread | None]]:
        """`make` of the file at each index, or of the next readable one, and an error or None for each. `what` names
        the work where its progress is to be shown."""

        def one(index: int) -> tuple[T, Unread | None]:
            error: Unread | None = None
            for step in range(len(self.files)):
                file = self.files[(index + step) % len(self.files)]
                try:
                    return make(file, index), error
                except ImageError as reason:
                    error = error or (str(file), str(reason))
            problem = f"none of its {len(self.files)} images can be read ({': '.join(error or ())})"
            raise UserError("data.path", problem, "check the files")

        with one_thread(), contextlib.ExitStack() as stack:
            each: Callable[..., Iterable[tuple[T, Unread | None]]] = map
            if threads > 1:  # decoding releases Python's lock
                each = stack.enter_context(ThreadPoolExecutor(threads)).map
            made = each(one, indices.tolist())
            found = list(over(made, len(indices), what, "images") if what else made)
        return [value for value, _ in found], [error for _, error in found]

    def subset(self, indices: Tensor) -> "ImageFiles":
        return ImageFiles([self.files[i] for i in indices.tolist()], self.size, self.kind, self.on_error)

    def concat(self, other: "ImageFiles") -> "ImageFiles":
        return ImageFiles(self.files + other.files, self.size, self.kind, self.on_error)

    def update_digest(self, digest: Any) -> None:
        digest.update(f"{digest_of_files(self.files)} {self.size} {self.channels} {self.dtype}".encode())

    def names(self) -> list[Path]:
        return self.files

    def lengths(self) -> np.ndarray:
        return Files(self.files).lengths(range(len(self)))

    def content(self, index: int) -> bytes:
        return Files(self.files).content(index)


def _told(errors: Sequence[Unread | None]) -> tuple[Tensor, tuple[Unread, ...]]:
    """`unreadable` and `errors` of an `ImageBatch`."""
    return torch.tensor([e is not None for e in errors]), tuple(e for e in errors if e)
