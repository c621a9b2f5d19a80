"""Sizes of the images that the strips and tiles of a TIFF hold, told before they are decoded.

A decoder makes an image as large as its own header says, whatever the TIFF around it says.
"""

import io
import struct
import warnings

from PIL import Image

from siamese.data.decoding.pixels import ImageError

JPEG = (6, 7, 33007, 34892)  # compressions whose decoder gives RGB for YCbCr
JPEG_2000 = (33003, 33004, 33005, 34712)
BY_PILLOW = (34933, 34927, 50001)  # PNG, WebP: Pillow reads their headers
UNTOLD = {22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL"}
START = b"\xff\x4f\xff\x51"  # of a codestream of JPEG 2000: the markers SOC and SIZ


def check_embedded(compression: int, data: bytes, most: int) -> None:
    """
    Args:
        compression: tag 259 of the TIFF.
        data: of a strip or tile.
        most: pixels.

    Raises:
        ImageError: the image within is of more pixels, or nothing tells its size.
    """
    if compression in UNTOLD:
        raise ImageError(f"holds {UNTOLD[compression]}, which is not read: nothing tells its size before it is decoded")
    if compression in JPEG:
        _check_jpeg(data, most)
    elif compression in (*JPEG_2000, *BY_PILLOW):
        try:
            width, height = _of_jpeg_2000(data) if compression in JPEG_2000 else _by_pillow(data)
        except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
            raise ImageError(f"holds a strip or tile of compression {compression} that cannot be read") from error
        if width * height > most:
            raise ImageError(f"holds an image of {width} x {height} pixels in a strip or tile of {most}")


def _of_jpeg_2000(data: bytes) -> tuple[int, int]:
    """Width and height by the marker SIZ (ISO/IEC 15444-1, A.5.1): the ends less the offsets of the image area."""
    at = data.index(START) + 8
    right, bottom, left, top = struct.unpack(">4I", data[at : at + 16])
    return right - left, bottom - top


def _by_pillow(data: bytes) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            return image.size


def _check_jpeg(data: bytes, most: int) -> None:
    at = 2
    while data[at : at + 1] == b"\xff" and at + 9 < len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (at + 5, at + 7))
            if height * width > most:
                raise ImageError(f"holds a JPEG of {width} x {height} pixels in a strip or tile of {most}")
        at += 1 if marker == 0xFF else 2 + length
