"""Crops of photographs on the host, from the full photograph, where it is decoded: which box, and its pixels.

A `Cutter` says which regions of a photograph become pictures; `cut` makes one of them. All random numbers follow from
(seed, epoch, index, view) alone, so that neither the number of worker processes nor a resumption changes a crop.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.augment.params import CROP_COLUMNS, crop_box
from siamese.schema.types import Interpolation

DTYPES = (np.uint8, np.uint16, np.float32)
REDUCTIONS = (8, 4, 2)  # what a JPEG decoder offers
# Sides of a box in a reduced JPEG, at least, in sides of the view. The mean difference from the full photograph's crop
# was at most 0.7 grey levels with 2.5, 1.1 with 2 and 1.7 with 1.5 (textured photographs of 2 and 12 megapixels).
MARGIN = 2.5
BLOCK = 16  # rows of an interpolation matrix that are multiplied at once; a row has few numbers that are not 0


@dataclass(frozen=True)
class Region:
    """A box of a photograph and the square picture to make of it.

    Args:
        top, left, height, width: of the box, pixels of the full photograph; may be fractional.
        size: side of the picture, pixels.
        interpolation: "bilinear" or "bicubic", antialiased.
        sees_around: the filter sees the pixels around the box, as in a resize followed by a crop. Otherwise it sees
            the box only, as in a crop followed by a resize.
        degrees: the photograph is first rotated by this angle, counter-clockwise, black outside.
        black: the values of each channel that are black, or one for all.
        centre: (y, x) of the rotation, pixels of the full photograph.
    """

    top: float
    left: float
    height: float
    width: float
    size: int
    interpolation: Interpolation = "bilinear"
    sees_around: bool = False
    degrees: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    black: tuple[float, ...] = (0.0,)


class Cutter(ABC):
    """Which regions of a photograph become pictures. It is small and is sent to worker processes."""

    @abstractmethod
    def regions(self, height: int, width: int, epoch: int, index: int) -> list[Region]:
        """One region for each view.

        Args:
            height, width: of the photograph, after its EXIF orientation, pixels.
            epoch: of the training.
            index: of the sample in its split.
        """


@dataclass(frozen=True)
class ViewCrop:
    """The random crop of one view; the settings of `siamese.augment.operations` Rotate and CropAndFlip."""

    size: int
    crop_scale: Sequence[float]
    crop_ratio: Sequence[float]
    interpolation: Interpolation
    rotate_degrees: float = 0.0
    black: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class RandomCrops(Cutter):
    """A random resized crop for each view, distributed as torchvision's `RandomResizedCrop`.

    Args:
        seed: of the run.
        views: settings of each view.
    """

    seed: int
    views: Sequence[ViewCrop]

    def regions(self, height: int, width: int, epoch: int, index: int) -> list[Region]:
        found, centre = [], (height / 2, width / 2)
        for number, view in enumerate(self.views):
            uniform = uniforms(self.seed, epoch, index, number)
            box = crop_box(uniform[:CROP_COLUMNS], height, width, view.crop_scale, view.crop_ratio)
            degrees = (2 * uniform[CROP_COLUMNS] - 1) * view.rotate_degrees
            found.append(Region(*box, view.size, view.interpolation, degrees=degrees, centre=centre, black=view.black))
        return found


@dataclass(frozen=True)
class CentralCrop(Cutter):
    """The un-augmented view, as torchvision's `Resize(round(size / center))` and `CenterCrop(size)`: with
    ``center=0.875`` and ``size=224`` the papers' "resize 256, crop 224".

    Args:
        size: side of the view, pixels.
        center: share of the photograph's short side that the view covers, in (0, 1].
        interpolation: "bilinear" or "bicubic".
    """

    size: int
    center: float
    interpolation: Interpolation = "bilinear"

    def regions(self, height: int, width: int, epoch: int = 0, index: int = 0) -> list[Region]:
        """One region; `epoch` and `index` do not change it."""
        short = round(self.size / self.center)
        sides = [int(short * side / min(height, width)) for side in (height, width)]  # resized, in whole pixels
        y, x = height / sides[0], width / sides[1]  # pixels of the photograph in one of the resized
        top, left = (round((side - self.size) / 2.0) for side in sides)
        box = top * y, left * x, self.size * y, self.size * x
        return [Region(*box, self.size, self.interpolation, sees_around=True)]


def uniforms(seed: int, epoch: int, index: int, view: int) -> list[float]:
    """CROP_COLUMNS + 1 uniform numbers in [0, 1), of 24 bits: those of a box, and the rotation's.

    Philox (Salmon et al., SC 2011) is counter-based: distinct (key, counter) give independent numbers. The first word
    of the counter counts the blocks of one call. `random_raw` is the same in every release of NumPy.
    """
    raw = np.random.Philox(key=[seed, epoch], counter=[0, index, view, 0]).random_raw(CROP_COLUMNS + 1)
    return ((raw >> np.uint64(40)) * 2.0**-24).tolist()


def reduction(height: int, width: int, regions: Sequence[Region], turned: bool = False) -> int:
    """How far a JPEG may be decoded at a reduced scale: each side divided by 1, 2, 4 or 8.

    The pictures then differ from those of the full photograph by at most one grey level on average.

    Args:
        height, width: of the photograph, pixels.
        regions: all that is cut out of it.
        turned: the photograph is turned or mirrored after decoding. The last pixels of a reduced JPEG may lie partly
            outside the photograph; turned, they would come first and move all others. So sides must be divisible.
    """
    for r in REDUCTIONS:
        if turned and (height % r or width % r):
            continue
        if all(min(g.height, g.width) >= MARGIN * r * g.size for g in regions):
            return r
    return 1


def cut(pixels: np.ndarray, region: Region, scale: float = 1.0) -> Tensor:
    """Make the picture of a region.

    Args:
        pixels: (H, W, C) uint8, uint16 or float32, the photograph; any C.
        region: in pixels of the full photograph.
        scale: side of the full photograph's pixel in pixels of `pixels`: 1 / r for a JPEG reduced by r.

    Returns:
        (C, size, size) of the dtype of `pixels`. Integers are rounded and clipped to their range; float32 keeps the
        overshoots of the bicubic filter.

    Raises:
        ValueError: another shape or dtype, or a box that has no pixel or leaves the photograph.
    """
    top, left, height, width = _scaled(pixels, region, scale)
    y, x = _cover(top, height, pixels.shape[0], region), _cover(left, width, pixels.shape[1], region)
    whole = (y.stop - y.start, x.stop - x.start) == (height, width)  # then no pixel is partly in the box
    if region.degrees:
        centre = region.centre[0] * scale, region.centre[1] * scale
        part = _rotated(pixels, y, x, region.degrees, centre, region.black)
    else:
        part = _tensor(pixels[y, x])
    if part.dtype == torch.uint16:
        part = part.to(torch.float32)
    if whole:
        out = _resize(part, region)
    else:
        rows = _matrix(top - y.start, height, part.shape[1], region)
        columns = _matrix(left - x.start, width, part.shape[2], region)
        out = _product(rows, columns, part)
    return _as(out, pixels.dtype)


def _scaled(pixels: np.ndarray, region: Region, scale: float) -> tuple[float, float, float, float]:
    """The box in pixels of `pixels`, checked."""
    if pixels.ndim != 3 or not pixels.size or pixels.dtype not in DTYPES:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, not (H, W, C) uint8, uint16 or float32")
    top, left, height, width = (scale * v for v in (region.top, region.left, region.height, region.width))
    below, beside = pixels.shape[0] - top - height, pixels.shape[1] - left - width
    if not (0 < scale <= 1 and region.size > 0 and height > 0 and width > 0 and min(top, left) >= 0):
        raise ValueError(f"{region} at scale {scale} has no pixel, or leaves its photograph")
    if not min(below, beside) > -1e-6 * max(pixels.shape):  # rounding of fractional boxes
        raise ValueError(f"{region} at scale {scale} leaves its photograph of {pixels.shape[:2]} pixels")
    return top, left, height, width


def _cover(start: float, length: float, available: int, region: Region) -> slice:
    """The pixels of a line that the filter reads."""
    reach = 0
    if region.sees_around:
        reach = math.ceil((2 if region.interpolation == "bicubic" else 1) * max(length / region.size, 1))
    return slice(max(0, math.floor(start) - reach), min(available, math.ceil(start + length - 1e-6) + reach))


def _tensor(part: np.ndarray) -> Tensor:
    """(h, w, C) as a tensor (C, h, w), without a copy where torch can refer to the array."""
    if not part.flags.writeable or min(part.strides) < 0:
        part = part.copy()
    return torch.from_numpy(part).permute(2, 0, 1)


def _resize(part: Tensor, region: Region) -> Tensor:
    """(C, h, w) in channels_last memory to (C, size, size). torch has vectorised code for up to 4 channels of uint8."""
    groups = part.split(4) if part.dtype == torch.uint8 and len(part) > 4 else (part,)
    size, out = (region.size, region.size), []
    for group in groups:
        x = group.unsqueeze(0)
        if len(groups) > 1:  # else torch reads the box in place
            x = x.contiguous(memory_format=torch.channels_last)
        out.append(F.interpolate(x, size=size, mode=region.interpolation, antialias=True)[0])
    return out[0] if len(out) == 1 else torch.cat(out)


def _matrix(start: float, length: float, available: int, region: Region) -> Tensor:
    """Interpolation matrix (size, available) of a line of pixels; `start` and `length` may be fractional.

    The filters are those of torchvision and Pillow. Unless the filter sees around the box, a pixel that is partly in
    the box counts by that part.
    """
    step = length / region.size
    pixel = np.arange(available) + 0.5
    x = np.abs(pixel - (start + step * (np.arange(region.size) + 0.5))[:, None]) / max(step, 1)
    if region.interpolation == "bicubic":  # Keys' cubic with a = -0.5
        weight = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    else:
        weight = np.maximum(1 - x, 0)
    if not region.sees_around:
        weight = weight * np.clip(np.minimum(pixel + 0.5, start + length) - np.maximum(pixel - 0.5, start), 0, 1)
    return torch.from_numpy((weight / weight.sum(1, keepdims=True)).astype(np.float32))


def _product(rows: Tensor, columns: Tensor, part: Tensor) -> Tensor:
    """The matrices (size, h) and (size, w) applied to (C, h, w) in channels_last memory; float32."""
    channels, height, width = part.shape
    lines = _banded(rows, part.permute(1, 2, 0).reshape(height, width * channels))
    lines = lines.view(-1, width, channels).permute(1, 2, 0).reshape(width, -1)  # (w, C * size)
    return _banded(columns, lines).view(-1, channels, len(rows)).permute(1, 2, 0)


def _banded(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix @ x as float32, without the zeros left and right of the matrix's band."""
    out = torch.empty(len(matrix), x.shape[1], dtype=torch.float32)
    for first in range(0, len(matrix), BLOCK):
        block = matrix[first : first + BLOCK]
        used = np.flatnonzero(block.numpy().any(0))
        band = slice(int(used[0]), int(used[-1]) + 1)
        torch.mm(block[:, band], x[band].to(torch.float32), out=out[first : first + BLOCK])
    return out


def _rotated(
    pixels: np.ndarray, y: slice, x: slice, degrees: float, centre: tuple[float, float], black: Sequence[float]
) -> Tensor:
    """The pixels [y, x] of the photograph rotated about `centre` (y, x): (C, h, w) float32. Bilinear, black outside.

    As `siamese.augment.ops.rotate`; only the part of the photograph that the box shows is read.
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dy = (torch.arange(y.start, y.stop) + (0.5 - centre[0])).view(-1, 1)
    dx = torch.arange(x.start, x.stop) + (0.5 - centre[1])
    places: list[Tensor] = []
    read: list[slice] = []
    for place, available in ((sine * dx + cosine * dy, len(pixels)), (cosine * dx - sine * dy, pixels.shape[1])):
        place = place + (centre[len(places)] - 0.5)  # of pixel centres
        first, last = math.floor(float(place.min())), math.floor(float(place.max())) + 1
        first, last = min(max(first, 0), available - 1), min(max(last, 0), available - 1)
        read.append(slice(first, last + 1))
        places.append((2 * (place - first) + 1) / (last + 1 - first) - 1)  # grid_sample's [-1, 1]
    part = _tensor(pixels[read[0], read[1]]).to(torch.float32).unsqueeze(0)
    grid = torch.stack(places[::-1], 2).to(torch.float32).unsqueeze(0)
    low = torch.tensor(black if len(black) == part.shape[1] else black[:1]).view(-1, 1, 1)
    return F.grid_sample(part - low, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0] + low


def _as(x: Tensor, dtype: np.dtype) -> Tensor:
    """Contiguous, of the NumPy dtype; integers rounded and clipped."""
    x = x.contiguous()
    if dtype == np.uint8 and x.dtype != torch.uint8:
        return x.round_().clamp_(0, 255).to(torch.uint8)
    if dtype == np.uint16:
        return torch.from_numpy(x.round_().clamp_(0, 65535).numpy().astype(np.uint16))
    return x
