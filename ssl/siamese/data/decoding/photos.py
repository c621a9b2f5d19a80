"""Photographs by Pillow: JPEG, PNG, WebP, BMP, GIF; PNG of 16 bits a channel by imagecodecs."""

import struct
import warnings
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from siamese.data.decoding.pixels import (
    ImageError,
    ImageInfo,
    Pixels,
    Reader,
    as_stored,
    exif_orientation,
    swaps_sides,
    turned,
    xmp_orientation,
)

NEEDS_TIFF = "pip install siamese-ssl[tiff]"
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

# Files are decoded by threads, and warnings.catch_warnings is not thread-safe. The calls of Pillow that warn are
# avoided below; these two remain. The number of pixels has its own limit in `open_image`.
warnings.filterwarnings("ignore", "Invalid APNG", UserWarning, r"PIL\.PngImagePlugin")
warnings.filterwarnings("ignore", "Image size .* exceeds limit", Image.DecompressionBombWarning)


class _Jpeg(JpegImageFile):
    """Also of the first image of a multi-picture file."""

    def getexif(self) -> Image.Exif:
        """Nothing: Pillow asks for the resolution, and its parser warns of damaged blocks."""
        return Image.Exif()


# Called without Image.open, which tries other formats and warns of large images before their size can be checked.
PLUGINS: dict[str, Callable[[IO[bytes]], Any]] = {
    "JPEG": _Jpeg, "PNG": PngImageFile, "WEBP": WebPImageFile, "BMP": BmpImageFile, "GIF": GifImageFile,
}  # fmt: skip


class Photo(Reader):
    """A file that Pillow opens.

    Args:
        stream: at its start.
        kind: the format, a key of PLUGINS.
    """

    def __init__(self, stream: IO[bytes], kind: str):
        self._stream, self._kind = stream, kind
        depth, colour, exif = _png_chunks(stream) if kind == "PNG" else (8, 0, b"")
        self._image = self._open()
        self._codec = None
        mode, size = self._image.mode, self._image.size
        if depth == 16:
            mode = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[colour] + ";16"
            self._codec = _png_codec(mode) if colour else None
        dtype: np.dtype[Any] = np.dtype(np.uint16 if depth == 16 else np.uint8)
        self._grey = mode.removesuffix(";16") in GREY
        self._orientation = _orientation(self._image.info, exif)
        width, height = size[::-1] if swaps_sides(self._orientation) else size
        turns = self._orientation in TURNS
        self.info = ImageInfo(kind, mode, height, width, 1 if self._grey else 3, dtype, turns)

    def _open(self) -> Any:
        self._stream.seek(0)
        image = PLUGINS[self._kind](self._stream)
        image.info.pop("transparency", None)  # Pillow warns where a palette's is lost
        return image

    def decode(self, reduce: int) -> Pixels:
        if self._codec is not None:
            self._stream.seek(0)
            values = self._codec(self._stream.read())
            values = values.reshape(*values.shape[:2], -1)[:, :, : self.info.channels]
            return as_stored(turned(values, self._orientation))
        image = self._image or self._open()
        self._image = None  # decoding consumes it
        if self._kind == "JPEG" and reduce > 1:
            image = _reduced(image, reduce)
        image.load()
        if self.info.dtype == np.uint8 and image.mode != ("L" if self._grey else "RGB"):
            image = image.convert("L" if self._grey else "RGB")
        if self._orientation in TURNS:
            image = image.transpose(TURNS[self._orientation])
        pixels = np.array(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        return pixels if pixels.dtype == np.uint8 else as_stored(pixels)


def _reduced(image: Any, reduce: int) -> Any:
    """A JPEG at 1 / `reduce`, its sides rounded up.

    Pillow's draft takes the largest scale that keeps both sides at least as long as asked for, which for a side shorter
    than `reduce` pixels is too large. The rest is averaged.
    """
    width, height = image.size
    image.draft(None, (max(1, width // reduce), max(1, height // reduce)))
    left = next((k for k in (1, 2, 4, 8) if image.size == (-(-width * k // reduce), -(-height * k // reduce))), None)
    if left is None:
        raise ImageError(f"{width} x {height} pixels were reduced to {image.size}, 1 / {reduce} was asked for")
    return image if left == 1 else image.reduce(left)


def _orientation(info: dict[Any, Any], exif: bytes) -> int:
    """From EXIF, else from XMP, as Pillow's getexif."""
    exif = exif or info.get("exif") or b""
    profile = info.get("Raw profile type exif")  # ImageMagick's way to put EXIF into a PNG, in hexadecimal digits
    if not exif and isinstance(profile, str):
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            exif = b""
    found = exif_orientation(exif)
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    return found if found != 1 else xmp_orientation(xmp.encode() if isinstance(xmp, str) else xmp)


def _png_chunks(stream: IO[bytes]) -> tuple[int, int, bytes]:
    """Bits a channel, colour type and EXIF block of a PNG. The block may stand behind the pixels, where Pillow finds it
    only by decoding them."""
    stream.seek(8)
    depth, colour, exif = 8, 0, b""
    while len(head := stream.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        if name == b"IHDR":
            data = stream.read(size)
            depth, colour = data[8], data[9]
        elif name == b"eXIf":
            exif = stream.read(size)
        elif name == b"IEND":
            break
        else:
            stream.seek(size, 1)
        stream.seek(4, 1)
    return depth, colour, exif


def _png_codec(mode: str) -> Callable[[bytes], Pixels]:
    try:
        from imagecodecs import png_decode
    except ImportError as error:
        raise ImageError(f"is a PNG of 16 bits a channel, {mode}; it takes imagecodecs: {NEEDS_TIFF}") from error
    return png_decode  # type: ignore[no-any-return]
