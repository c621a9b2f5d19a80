"""Decoded images: the form in which they are kept, its limits, and the errors of files that cannot be brought to it.

A decoded image is (height, width, channels), C-contiguous and writable, 1 to 32 channels of uint8, uint16 or float32.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image

from siamese.errors import printable

MOST_CHANNELS = 32
LONGEST_REASON = 300  # characters; libraries print whole arrays
TOLD = (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError)  # errors whose text says enough
Pixels = np.ndarray[Any, np.dtype[Any]]


class ImageError(ValueError):
    """A file that cannot be decoded; one printable line: the reason, without the path."""

    def __init__(self, reason: str):
        super().__init__(printable(reason)[:LONGEST_REASON])


@dataclass(frozen=True)
class ImageInfo:
    """What the header of a file says.

    Args:
        format: ``JPEG``, ``PNG``, ``WEBP``, ``BMP``, ``GIF``, ``PPM``, ``TIFF`` or ``NPY``.
        mode: how the file stores the pixels, for tables: Pillow's mode, or the dtype and the axes of TIFF and NPY.
        height, width: pixels, after the turn by the EXIF orientation.
        channels: of the decoded image.
        dtype: of the decoded image: uint8, uint16 or float32.
        turned: whether the orientation turns or mirrors the stored pixels.
    """

    format: str
    mode: str
    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]
    turned: bool = False


class Reader(ABC):
    """An opened file of some format. The constructor reads the header and sets `info`."""

    info: ImageInfo

    @abstractmethod
    def decode(self, reduce: int) -> Pixels:
        """The decoded image; of a JPEG at 1 / `reduce` of its size."""


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn every exception of the decoding libraries into an ImageError, and keep numpy's warnings of casts quiet."""
    try:
        with np.errstate(all="ignore"):
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("decoding it takes more memory than there is") from error
    except Exception as error:  # Pillow, tifffile and the codecs raise many kinds for a damaged file
        strerror = error.strerror if isinstance(error, OSError) else None
        lines = (strerror or str(error)).strip().splitlines()
        told = isinstance(error, TOLD) and lines
        name = type(error).__name__
        raise ImageError(lines[0] if told else f"is damaged ({': '.join([name, *lines[:1]])})") from error


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which values of `dtype` are kept: whole numbers of more than 8 bits as uint16, 1 bit as uint8 of 0
    and 255, floating-point numbers as float32.

    Raises:
        ImageError: complex numbers, objects, records, text.
    """
    if dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize == 1):
        return np.dtype(np.uint8)
    if dtype.kind in "iu":
        return np.dtype(np.uint16)
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return np.dtype(np.float32)
    raise ImageError(f"holds {dtype.name}; whole numbers, or floating-point numbers of at most 64 bits, are read")


def as_stored(values: Pixels) -> Pixels:
    """Values in their stored dtype (see `stored_dtype`), exactly; floating-point numbers are rounded to float32.

    Raises:
        ImageError: a whole number is negative or above 65,535; a number is not finite as float32.
    """
    dtype = stored_dtype(values.dtype)
    if values.dtype.kind == "b":
        return np.ascontiguousarray(values).astype(dtype) * dtype.type(255)
    stored = values.astype(dtype, order="C", copy=not (values.dtype == dtype and values.flags.writeable))
    if values.dtype.kind == "f":
        if not np.isfinite(stored).all():
            count = stored.size - np.count_nonzero(np.isfinite(stored))
            raise ImageError(f"{count} of {stored.size} values are NaN, infinite or beyond the range of float32")
    elif values.dtype.newbyteorder("=") != dtype:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > np.iinfo(dtype).max:
            raise ImageError(f"values from {low} to {high}; 0 to {np.iinfo(dtype).max} can be kept")
    return np.ascontiguousarray(stored)


def check_size(height: int, width: int, channels: int, max_pixels: int) -> None:
    """
    Raises:
        ImageError: no pixels, more than `max_pixels`, or more than 32 channels.
    """
    if height < 1 or width < 1 or channels < 1:
        raise ImageError(f"has no pixels: height {height}, width {width}")
    if height * width > max_pixels:
        raise ImageError(f"{width} x {height} = {height * width} pixels are more than the limit of {max_pixels}")
    if channels > MOST_CHANNELS:
        raise ImageError(f"has {channels} channels; at most {MOST_CHANNELS} are read")


def swaps_sides(orientation: int) -> bool:
    """Whether an EXIF orientation exchanges height and width."""
    return orientation in (5, 6, 7, 8)


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """(H, W, C) turned upright by its EXIF orientation; other values than 2 to 8 turn nothing."""
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def exif_orientation(exif: bytes) -> int:
    """The orientation that an EXIF block holds; 1 where it is missing or the block is damaged.

    Pillow's parser warns of damaged blocks, which worker processes would print once each.
    """
    block = exif.removeprefix(b"Exif\0\0")
    if block[:2] not in (b"II", b"MM"):
        return 1

    def number(start: int, size: int) -> int:
        return int.from_bytes(block[start : start + size], "little" if block[:1] == b"I" else "big")

    start = number(4, 4)
    for entry in range(start + 2, min(start + 2 + 12 * number(start, 2), len(block) - 11), 12):
        size = {1: 1, 3: 2, 4: 4}.get(number(entry + 2, 2))  # BYTE, SHORT, LONG
        if number(entry, 2) == 0x0112 and size is not None and number(entry + 4, 4) == 1:
            return number(entry + 8, size)
    return 1


def xmp_orientation(xmp: bytes) -> int:
    """The orientation that an XMP block holds, or 1. Pillow falls back to it where EXIF has none."""
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 1


def stream_size(stream: IO[bytes]) -> int:
    """Bytes of a stream; its position is kept."""
    position = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(position)
    return size


def read_values(stream: IO[bytes], start: int, count: int, dtype: Any) -> Pixels:
    """`count` values from byte `start`, (count,), writable.

    Raises:
        ImageError: the file ends before.
    """
    dtype = np.dtype(dtype)
    have, need = max(stream_size(stream) - start, 0), count * dtype.itemsize
    if have < need:
        raise ImageError(f"is truncated: {have} of {need} bytes of pixels")
    stream.seek(start)
    return np.frombuffer(bytearray(stream.read(need)), dtype)


def as_channels(pixels: Pixels, channels: int) -> Pixels:
    """An image with the asked number of channels: grey is repeated to 3, colour becomes grey as ITU-R 601's luma.

    The luma of uint8 is that of Pillow's ``convert("L")``, bit for bit. That of uint16 is rounded to whole numbers.

    Args:
        pixels: (H, W, C).

    Raises:
        ImageError: another pair of numbers.
    """
    held = pixels.shape[2]
    if held == channels:
        return pixels
    if (held, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=2)
    if (held, channels) != (3, 1):
        raise ImageError(f"has {held} channels, the others {channels}")
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]
    if pixels.dtype.kind == "u":  # in whole numbers, so that halves are rounded up everywhere
        luma = (pixels.astype(np.uint32) @ np.array([299, 587, 114], np.uint32) + 500) // 1000
    else:
        luma = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return luma.astype(pixels.dtype)[:, :, None]
