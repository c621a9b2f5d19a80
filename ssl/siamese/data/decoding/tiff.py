"""TIFF by tifffile and imagecodecs (the extra ``tiff``); without them plain 8-bit files by Pillow.

The image is the first series of tifffile, at full resolution: Y and X, and at most one further axis longer than 1: S
(samples), C (channels), Q or I (pages of one size), which is the channels. Pages of other sizes are not read.

- 16 bits: as stored, also where fewer are used (12-bit cameras). 8 bits: as stored. Less: scaled to 255, as in a PNG.
- Signed and longer whole numbers become uint16 where the values allow, floating-point numbers float32.
- White-is-zero is inverted, a palette and CMYK become RGB, alpha (associated or not) is dropped. Extra samples of
  unspecified meaning are bands, and kept. Tiles that a sparse GeoTIFF leaves out hold its value for "no data", or 0.
"""

import io
import logging
import math
from typing import IO, Any, Literal

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from siamese.data.decoding.embedded import BY_PILLOW, JPEG, JPEG_2000, UNTOLD, check_embedded
from siamese.data.decoding.pixels import (
    ImageError,
    ImageInfo,
    Pixels,
    Reader,
    as_stored,
    check_size,
    stored_dtype,
    stream_size,
    swaps_sides,
    turned,
)

NEEDS_TIFF = "pip install siamese-ssl[tiff]"
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, LINEAR_RAW = 0, 1, 2, 3, 4, 5, 6, 34892
LARGEST_TILE = 1 << 26  # pixels; beyond, a tile must not be larger than the limit of an image
MOST_PAGES = 10_000
SCALARS = (256, 257, 259, 262, 274, 277, 278, 284, 317, 322, 323, 32997, 32998)  # tags of sizes and kinds: one value
SWITCHED_OFF = ("mmstack", "ndtiff", "micromanager", "ndpi")  # kinds of series: three open other files, one's offsets
# differ from TIFF's
CHANNEL_AXES = "SCQI"


class _Stream(io.RawIOBase):
    """A stream without a name and a descriptor, from which tifffile cannot find the folder of the file."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)  # type: ignore[attr-defined, no-any-return]


def open_tiff(stream: IO[bytes], name: str, max_pixels: int) -> Reader:
    """The reader of a TIFF: tifffile where it is installed."""
    try:
        import tifffile
    except ImportError:
        return _plain(stream)
    # Its messages concern metadata; damage to pixels is found below. Without this, they appear on stderr.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return Tiff(tifffile, stream, name, max_pixels)


class Tiff(Reader):
    """A TIFF that tifffile opens.

    Args:
        tifffile: the module.
        stream: at its start.
        name: of the file without its folder. OME-XML names the file itself.
        max_pixels: limit of height x width.
    """

    def __init__(self, tifffile: Any, stream: IO[bytes], name: str, max_pixels: int):
        self._size = stream_size(stream)
        _check_directories(stream, self._size)
        stream.seek(0)
        flags = {f"is_{kind}": False for kind in SWITCHED_OFF if kind in tifffile.TIFF.FILE_FLAGS}
        self._stream = io.BufferedReader(_Stream(stream))
        self._tiff = tifffile.TiffFile(self._stream, name=name or "image.tif", **flags)
        self._tiff._multifile = False  # an OME series over several files: its own pages are read
        if not len(self._tiff.pages) or not self._tiff.series:
            raise ImageError("is a TIFF without an image")
        self._series = self._tiff.series[0]
        self._page = page = self._series.keyframe
        self._photometric = int(page.photometric)
        axes, shape = self._series.get_axes(False), self._series.get_shape(False)
        further = [a for a, n in zip(axes, shape, strict=True) if a not in "YX" and n > 1]
        short = "".join(a for a in axes if a in "YX" or a in further)
        if axes.count("Y") != 1 or axes.count("X") != 1 or len(further) > 1 or not set(further) <= set(CHANNEL_AXES):
            raise ImageError(
                f"has the axes {short} of lengths {tuple(n for a, n in zip(axes, shape, strict=True) if a in short)}; "
                "beside Y and X, one axis of channels (S, C, Q or I) is read"
            )
        self._order = sorted(range(len(axes)), key=lambda i: "YX".find(axes[i]) % 3)  # Y, X, the others
        height, width = (shape[i] for i in self._order[:2])
        held = math.prod(shape) // max(height * width, 1)
        check_size(height, width, held, max_pixels)
        if page.is_tiled and page.tiledepth * page.tilelength * page.tilewidth > max(LARGEST_TILE, max_pixels):
            raise ImageError(f"has tiles of {page.tilewidth} x {page.tilelength} x {page.tiledepth} pixels")
        self._keep, channels = self._samples(held, further == ["S"] or held == 1)
        dtype = np.dtype(np.uint8) if self._photometric == PALETTE else stored_dtype(np.dtype(self._series.dtype))
        orientation = page.tags.get(274)
        self._orientation = int(orientation.value) if orientation is not None else 1
        if swaps_sides(self._orientation):
            height, width = width, height
        self.info = ImageInfo("TIFF", f"{np.dtype(self._series.dtype).name} {short}", height, width, channels, dtype)

    def _samples(self, held: int, of_page: bool) -> tuple[list[int], int]:
        """Which of the held channels are kept, and how many channels they become."""
        page, kind = self._page, self._photometric
        if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, LINEAR_RAW) or (
            kind == YCBCR and int(page.compression) not in JPEG
        ):
            raise ImageError(
                f"has the photometric interpretation {kind} with compression {int(page.compression)}; grey, RGB, "
                "palette, CMYK, and YCbCr in JPEG are read"
            )
        extra = tuple(int(e) for e in page.extrasamples) if of_page else ()
        keep = [i for i in range(held) if i < held - len(extra) or extra[i - held] not in (1, 2)]
        if kind == PALETTE and (held != 1 or page.colormap is None):
            raise ImageError(f"has a palette and {held} channels")
        if kind == CMYK and len(keep) != 4:
            raise ImageError(f"has {len(keep)} inks; CMYK is read")
        return keep, 3 if kind in (CMYK, PALETTE) else len(keep)

    def decode(self, reduce: int) -> Pixels:
        self._check_segments()
        shape = self._series.get_shape(False)
        values = self._series.asarray(maxworkers=1).reshape(shape).transpose(self._order)
        values = values.reshape(*values.shape[:2], -1)[:, :, self._keep]
        bits = self._page.bitspersample
        if self._photometric == WHITE_IS_ZERO:
            values = _inverted(values, bits)
        if self._photometric == PALETTE:
            values = _looked_up(values[:, :, 0], self._page.colormap)
        elif self._photometric == CMYK:
            values = _rgb_of_cmyk(values)
        elif values.dtype == np.uint8 and bits < 8:
            values = np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
        return turned(as_stored(values), self._orientation)

    def _check_segments(self) -> None:
        """
        Raises:
            ImageError: a strip or tile is missing or lies beyond the end of the file. tifffile may leave its pixels 0,
                or uninitialised.
        """
        pages = list(self._series.pages)
        if self._series.dataoffset is not None:  # read in one piece
            end = self._series.dataoffset + self._series.nbytes
            if self._page.bitspersample % 8 == 0 and end > self._size:
                raise ImageError(f"is truncated: its pixels end at byte {end} of {self._size}")
        for page in pages:
            if page is None:
                raise ImageError("lacks some of its pages; OME series over several files are not followed")
            needed = math.prod(self._page.chunked)
            places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
            if self._page.dataoffsets and len(places) < needed and self._series.dataoffset is None:
                raise ImageError(f"holds {len(places)} of {needed} strips or tiles")
            end = max((start + count for start, count in places), default=0)
            if end > self._size:
                raise ImageError(f"is truncated: its pixels end at byte {end} of {self._size}")
            if not any(count for _, count in places):
                raise ImageError("holds no pixels: all strips or tiles are empty")
            compression = int(self._page.compression)
            if compression in (*JPEG, *JPEG_2000, *BY_PILLOW, *UNTOLD):
                most = 2 * max(math.prod(self._page.chunks), 1 << 16)  # some strips are padded to whole blocks
                for start, count in (place for place in places if place[1]):
                    self._stream.seek(start)
                    data = self._stream.read(min(count, 1 << 16) if compression in JPEG else count)
                    check_embedded(compression, data, most)


def _check_directories(stream: IO[bytes], size: int) -> None:
    """Follow the chain of page directories. tifffile takes a broken chain for the end, and so loses channels; it takes
    many widths of a tile for a tuple, and a tuple times a large number fills the memory.

    Raises:
        ImageError: a directory lies beyond the end of the file, twice in the chain, is one too many, or gives several
            values where one is defined.
    """
    order: Literal["little", "big"] = "little" if stream.read(2) == b"II" else "big"

    def number(start: int, length: int) -> int:
        if start + length > size:
            raise ImageError(f"is truncated: a page's directory reaches byte {start + length} of {size}")
        stream.seek(start)
        return int.from_bytes(stream.read(length), order)

    big = number(2, 2) == 43
    counts, entries, offsets, place = (8, 20, 8, 8) if big else (2, 12, 4, 4)
    seen: set[int] = set()
    while (start := number(place, offsets)) != 0:
        if start in seen or len(seen) >= MOST_PAGES:
            raise ImageError(f"has a damaged list of pages, or more than {MOST_PAGES}")
        seen.add(start)
        place = start + counts + entries * number(start, counts)
        number(place, offsets)
        stream.seek(start + counts)
        block = stream.read(place - start - counts)
        for at in range(0, len(block), entries):
            tag, count = (int.from_bytes(block[at + i : at + i + n], order) for i, n in ((0, 2), (4, offsets)))
            if tag in SCALARS and count != 1:
                raise ImageError(f"has {count} values of the tag {tag}, of which 1 is possible")


def _inverted(values: Pixels, bits: int) -> Pixels:
    if values.dtype.kind == "b":
        return ~values
    if values.dtype.kind != "u":
        raise ImageError(f"is white-is-zero and holds {values.dtype.name}; unsigned numbers can be inverted")
    top = 2**bits - 1
    return values.dtype.type(top) - np.minimum(values, values.dtype.type(top))


def _looked_up(indices: Pixels, palette: Any) -> Pixels:
    """(H, W) to (H, W, 3) uint8. Palettes hold 16 bits; some writers store 8, which libtiff tells in the same way."""
    if indices.dtype.kind not in "bu" or int(indices.max()) >= palette.shape[1]:
        raise ImageError(f"has an index of {indices.max()} into a palette of {palette.shape[1]} colours")
    colours = (palette if int(palette.max()) < 256 else palette >> 8).astype(np.uint8)
    return np.ascontiguousarray(colours.T)[indices.astype(np.intp)]


def _rgb_of_cmyk(values: Pixels) -> Pixels:
    """(H, W, 4) to (H, W, 3): of 8 bits by Pillow, of 16 bits by the same formula."""
    if values.dtype == np.uint8:
        size = (values.shape[1], values.shape[0])
        return np.array(Image.frombytes("CMYK", size, values.tobytes()).convert("RGB"))
    if values.dtype != np.uint16:
        raise ImageError(f"is CMYK of {values.dtype.name}; 8 and 16 bits are read")
    light = 65535.0 - values
    return np.rint(light[:, :, :3] * light[:, :, 3:] / 65535).astype(np.uint16)


def _plain(stream: IO[bytes]) -> Reader:
    logging.getLogger(TiffImageFile.__module__).setLevel(logging.CRITICAL + 1)
    try:
        return PlainTiff(stream)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"Pillow cannot read this TIFF ({error}); it may take tifffile: {NEEDS_TIFF}") from error


class PlainTiff(Reader):
    """One page of grey or RGB, 8 bits a channel, upright: what Pillow reads as tifffile does.

    Raises:
        ImageError: any other TIFF.
    """

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._image: TiffImageFile | None = TiffImageFile(stream)
        tags = self._image.tag_v2
        bits, kind = tags.get(258, (1,)), tags.get(262)
        plain: dict[Any, int] = {("L", BLACK_IS_ZERO, (8,)): 1, ("RGB", RGB, (8, 8, 8)): 3}
        channels = plain.get((self._image.mode, kind, tuple(bits)))
        turned_or_many = tags.get(274, 1) != 1 or getattr(self._image, "n_frames", 1) != 1
        if channels is None or turned_or_many or tags.get(284, 1) != 1:
            raise ImageError(
                f"is a TIFF of {len(bits)} x {bits[0]} bits, Pillow's mode {self._image.mode}; all but upright grey or "
                f"RGB of 8 bits on one page takes tifffile: {NEEDS_TIFF}"
            )
        width, height = self._image.size
        self.info = ImageInfo("TIFF", "uint8 YX" + "S" * (channels == 3), height, width, channels, np.dtype(np.uint8))

    def decode(self, reduce: int) -> Pixels:
        if (image := self._image) is None:
            self._stream.seek(0)
            image = TiffImageFile(self._stream)
        self._image = None  # decoding consumes it
        image.load()
        pixels = np.array(image)
        return pixels.reshape(*pixels.shape[:2], -1)
