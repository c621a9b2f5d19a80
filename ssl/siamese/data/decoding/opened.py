"""Open and decode an image file of any supported format, from a path or from bytes.

What the pixels of each format become:

- JPEG, WebP, BMP, GIF (first frame), PNG of 8 bits or less: uint8. Grey files have 1 channel, colour files 3. Alpha is
  dropped, not blended. A palette becomes RGB, also one that holds only greys; Pillow reports the linear grey palette of
  a GIF or a BMP as grey, and so do we. CMYK becomes RGB as Pillow converts it, without colour profiles.
- PNG of 16 bits: uint16, exactly. Colour, or grey with alpha, takes imagecodecs, since Pillow clips it to 8 bits.
- PPM, PGM, PBM: a maximum up to 255 is scaled to 255, as Pillow does; above that uint16, the values as stored.
- TIFF and NPY: see `siamese.data.decoding.tiff` and `siamese.data.decoding.arrays`.

Files come from strangers: nothing is unpickled, no other file is opened, no exception but ImageError leaves.
"""

import io
import re
from contextlib import suppress
from pathlib import Path
from typing import IO

from siamese.data.decoding import arrays, photos, tiff
from siamese.data.decoding.pixels import ImageError, Pixels, Reader, check_size, image_errors

MAGIC = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("WEBP", rb"RIFF....WEBP"),
    ("GIF", rb"GIF8[79]a"),
    ("BMP", rb"BM"),
    ("PPM", rb"P[1-6][\s#]"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("NPY", rb"\x93NUMPY"),
)


class OpenedImage:
    """An image file whose header was read. A context manager, which closes the file.

    Attributes:
        info: what the header says.
    """

    def __init__(self, reader: Reader, stream: IO[bytes]):
        self._reader, self._stream = reader, stream
        self.info = reader.info

    def __enter__(self) -> "OpenedImage":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def pixels(self, reduce: int = 1) -> Pixels:
        """The decoded image, (height, width, channels), C-contiguous and writable.

        Args:
            reduce: 1, 2, 4 or 8. A JPEG is decoded at 1 / `reduce` of its size, rounded up, in the cosine transform
                where its sides allow. Other formats are decoded at full size.

        Raises:
            ImageError: the file is damaged, or its values cannot be kept.
        """
        if reduce not in (1, 2, 4, 8):
            raise ValueError(f"reduce={reduce}; 1, 2, 4 or 8 are possible")
        info, scale = self.info, reduce if self.info.format == "JPEG" else 1
        with image_errors():
            pixels = self._reader.decode(reduce)
            wanted = (-(-info.height // scale), -(-info.width // scale), info.channels)
            if pixels.shape != wanted or pixels.dtype != info.dtype:
                raise ImageError(
                    f"decodes to {pixels.shape} {pixels.dtype}, {wanted} {info.dtype} expected from the header"
                )
            return pixels


def open_image(source: Path | bytes, max_pixels: int, suffix: str = "") -> OpenedImage:
    """Open an image file and read its header.

    Args:
        source: a path, or the contents of a file.
        max_pixels: the limit of height x width, checked before anything is decoded.
        suffix: of the name that the contents had, such as ``.tif``. The contents decide on the format; the suffix is
            named where they are of none.

    Raises:
        ImageError: the file cannot be read, is no image of a supported format, is too large, or cannot be kept as at
            most 32 channels of uint8, uint16 or float32.
    """
    name = "" if isinstance(source, bytes) else source.name
    with image_errors():
        stream: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
    try:
        with image_errors():
            reader = _reader(stream, name, max_pixels, suffix or Path(name).suffix)
            check_size(reader.info.height, reader.info.width, reader.info.channels, max_pixels)
    except BaseException:
        with suppress(Exception):
            stream.close()
        raise
    return OpenedImage(reader, stream)


def _reader(stream: IO[bytes], name: str, max_pixels: int, suffix: str) -> Reader:
    head = stream.read(16)
    stream.seek(0)
    if not head:
        raise ImageError("is empty (0 bytes)")
    kind = next((k for k, pattern in MAGIC if re.match(pattern, head, re.DOTALL)), None)
    if kind == "TIFF":
        return tiff.open_tiff(stream, name, max_pixels)
    if kind == "NPY":
        return arrays.Npy(stream)
    if kind == "PPM":
        return arrays.Netpbm(stream)
    if kind is not None:
        return photos.Photo(stream, kind)
    about = f", though its suffix is {suffix}" if suffix else ""
    raise ImageError(f"is no image of a known format (its first bytes are {head[:8].hex(' ')}){about}")
