"""Formats without compression: numpy's .npy, and the portable bit, grey and pixel maps (PBM, PGM, PPM)."""

import re
from typing import IO

import numpy as np

from siamese.data.decoding.pixels import (
    MOST_CHANNELS,
    ImageError,
    ImageInfo,
    Pixels,
    Reader,
    as_stored,
    read_values,
    stored_dtype,
    stream_size,
)

LONGEST_HEADER = 1 << 16


class Npy(Reader):
    """An array (H, W), (H, W, C) or (C, H, W), in either byte order; bool becomes 0 and 255.

    Of the first and the last axis, the one of at most 32 is the channels. The header is read by patterns and never
    evaluated, arrays of objects (pickles) are refused.

    Raises:
        ImageError: the header is damaged, or the shape leaves open where the channels are.
    """

    def __init__(self, stream: IO[bytes]):
        major = stream.read(8)[6:7]
        size = int.from_bytes(stream.read(2 if major == b"\1" else 4), "little")
        header = stream.read(min(size, LONGEST_HEADER)).decode("latin1")
        self._start, self._stream = stream.tell(), stream
        dtype = re.search(r"""['"]descr['"]\s*:\s*['"]([<>|=]?[a-zA-Z?]\d*)['"]\s*,""", header)
        fortran = re.search(r"""['"]fortran_order['"]\s*:\s*(True|False)\s*[,}]""", header)
        shape = re.search(r"""['"]shape['"]\s*:\s*\(([\d, L]*)\)""", header)
        if major not in (b"\1", b"\2", b"\3") or dtype is None or fortran is None or shape is None:
            raise ImageError(f"its .npy header is damaged or describes no plain array: {header[:100]}")
        self._dtype, self._fortran = np.dtype(dtype[1]), fortran[1] == "True"
        self._shape = tuple(int(n) for n in shape[1].replace("L", "").split(",") if n.strip())
        axes = self._axes()
        sizes = dict(zip(axes, self._shape, strict=True))
        self._order = [axes.index(a) for a in "YXC" if a in axes]
        self.info = ImageInfo(
            "NPY", f"{self._dtype.name} {axes}", sizes["Y"], sizes["X"], sizes.get("C", 1), stored_dtype(self._dtype)
        )

    def _axes(self) -> str:
        shape = self._shape
        if 0 in shape:
            raise ImageError(f"has no pixels: shape {shape}")
        if len(shape) == 2:
            return "YX"
        if len(shape) != 3:
            raise ImageError(f"has the shape {shape}; (H, W), (H, W, C) or (C, H, W) are read")
        first, last = shape[0] <= MOST_CHANNELS, shape[2] <= MOST_CHANNELS
        if not first and not last:
            raise ImageError(f"has the shape {shape}; neither the first nor the last axis is at most {MOST_CHANNELS}")
        if first and last:
            raise ImageError(
                f"has the shape {shape}; the first or the last axis can be the channels, both are at most "
                f"{MOST_CHANNELS}"
            )
        return "CYX" if first else "YXC"

    def decode(self, reduce: int) -> Pixels:
        count = int(np.prod(self._shape, dtype=object))
        values = read_values(self._stream, self._start, count, self._dtype)
        values = values.reshape(self._shape, order="F" if self._fortran else "C").transpose(self._order)
        return as_stored(values.reshape(*values.shape[:2], -1))


class Netpbm(Reader):
    """P1 to P6. A maximum up to 255 is scaled to 255, above that the values are kept as stored.

    Pillow's decoder of other maxima than 255 and 65,535 is written in Python, and cuts colour to 8 bits.
    """

    def __init__(self, stream: IO[bytes]):
        gap = rb"(?:\s|#[^\r\n]*[\r\n])+"
        head = stream.read(LONGEST_HEADER)
        kind = int(head[1:2])
        pattern = rb"P[1-6]" + gap + rb"(\d{1,10})" + gap + rb"(\d{1,10})"
        pattern += rb"()\s" if kind in (1, 4) else gap + rb"(\d{1,10})\s"
        found = re.match(pattern, head)
        if found is None:
            raise ImageError("its header of width, height and maximum is damaged")
        width, height = int(found[1]), int(found[2])
        self._most = int(found[3] or 1)
        if not 0 < self._most < 65536:
            raise ImageError(f"its maximum is {self._most}; 1 to 65535 are possible")
        channels = 3 if kind in (3, 6) else 1
        mode = "1" if kind in (1, 4) else ("L", "RGB")[channels == 3] + (";16" if self._most > 255 else "")
        dtype = np.dtype(np.uint16 if self._most > 255 else np.uint8)
        self._stream, self._start, self._kind = stream, found.end(), kind
        self.info = ImageInfo("PPM", mode, height, width, channels, dtype)

    def decode(self, reduce: int) -> Pixels:
        shape = self.info.height, self.info.width, self.info.channels
        count = shape[0] * shape[1] * shape[2]
        if self._kind == 4:  # rows are padded to bytes
            packed = read_values(self._stream, self._start, shape[0] * (-(-shape[1] // 8)), np.uint8)
            bits = np.unpackbits(packed.reshape(shape[0], -1), axis=1, count=shape[1])
            return as_stored(bits.reshape(shape) == 0)  # 1 is black
        if self._kind > 3:
            values = read_values(self._stream, self._start, count, ">u2" if self._most > 255 else np.uint8)
        else:
            values = self._plain(count)
        if self._kind == 1:
            return as_stored(values.reshape(shape) == 0)
        if self._most < 255:
            values = np.minimum(np.rint(values / self._most * 255), 255).astype(np.uint8)
        return as_stored(values.reshape(shape).astype(self.info.dtype, copy=False))

    def _plain(self, count: int) -> Pixels:
        """Numbers as text; those of a bit map need no space between them."""
        self._stream.seek(self._start)
        if stream_size(self._stream) - self._start < count:
            raise ImageError(f"is truncated: {stream_size(self._stream) - self._start} bytes for {count} values")
        text = re.sub(rb"#[^\r\n]*", b"", self._stream.read())
        tokens = list(b"".join(text.split())) if self._kind == 1 else text.split(maxsplit=count)
        if len(tokens) < count:
            raise ImageError(f"is truncated: {len(tokens)} of {count} values")
        values = np.array([int(t) for t in tokens[:count]], np.int64) - (ord("0") if self._kind == 1 else 0)
        if values.min() < 0 or values.max() > self._most:
            raise ImageError(f"values from {values.min()} to {values.max()}, its maximum is {self._most}")
        return values
