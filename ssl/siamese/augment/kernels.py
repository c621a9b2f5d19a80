"""Views on a GPU: the Triton kernels that `gpu` launches.

The arithmetic of ops.py, which says what each step computes, in float32. A program computes a tile of BLOCK pixels: of
one plane (a channel of an image), or, where `COLOUR`, of all three channels. Planes are contiguous: grey levels in
[0, 255] up to the resizing of the rows, values in [0, 1] after it.

Triton comes with torch's builds for CUDA on Linux: nothing imports this module where the images are on a CPU.
"""

# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

import triton
import triton.language as tl

# Columns of `parameters`, a row of float32 for each sample. `before` is how many changes of colours precede the
# contrast's, `gray` is 1 before all of them and 2 after, `solarize` is the threshold, and a change of kind 4 changes
# nothing. (No kernel's argument may be called `params`: Triton has a variable of that name beside them.)
PARAMETERS = (
    "top", "left", "height", "width", "flip", "cosine", "sine", "brightness", "contrast", "saturation", "hue",
    "first", "second", "third", "fourth", "before", "gray", "blur", "sigma", "solarize", "drop",
)  # fmt: skip
COLUMNS = tl.constexpr(len(PARAMETERS))
TOP, LEFT, HEIGHT, WIDTH, FLIP, COSINE, SINE, FACTORS, ORDER, BEFORE, GRAY, BLUR, SIGMA, SOLARIZE, DROP = (
    tl.constexpr(PARAMETERS.index(name)) for name in (
        "top", "left", "height", "width", "flip", "cosine", "sine", "brightness", "first", "before", "gray", "blur",
        "sigma", "solarize", "drop",
    )
)  # fmt: skip
BRIGHTNESS, CONTRAST, SATURATION, HUE = (tl.constexpr(kind) for kind in range(4))  # as in ops.py
RED_WEIGHT, GREEN_WEIGHT, BLUE_WEIGHT = (tl.constexpr(w) for w in (0.2989, 0.587, 0.114))


@triton.jit
def _clip(x, high):
    return tl.minimum(tl.maximum(x, 0.0), high)


@triton.jit
def _luma(red, green, blue):
    return red * RED_WEIGHT + green * GREEN_WEIGHT + blue * BLUE_WEIGHT


@triton.jit
def _levels(value, low, high):
    """A pixel of any type to a grey level."""
    return _clip((value.to(tl.float32) - low) * (255 / (high - low)), 255.0)


@triton.jit
def _resized(line, step, place, length, size, valid, low, high, LEVELS: tl.constexpr, BICUBIC: tl.constexpr):
    """Pixels of a line of `length` pixels that is resized to `size` with antialiasing (`ops.resize_matrix`).

    Args:
        line: pointers to the first pixel of the line, a line for each pixel of the tile.
        step: from a pixel of the line to the next one.
        place: which of the `size` pixels.
    """
    scale = tl.math.div_rn(length, size * 1.0)  # exactly 1 where nothing is resized
    wide = tl.maximum(scale, 1.0)
    reach = wide * 2 if BICUBIC else wide
    center = scale * (place + 0.5)
    first = tl.floor(center - reach)
    total = tl.zeros_like(center)
    weights = tl.zeros_like(center)
    for tap in range(0, tl.ceil(2 * reach).to(tl.int32) + 1):
        pixel = first + tap
        x = tl.abs(pixel + 0.5 - center) / wide
        if BICUBIC:
            outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
            weight = tl.where(x < 1, (1.5 * x - 2.5) * x * x + 1, tl.where(x < 2, outer, 0.0))
        else:
            weight = tl.maximum(1 - x, 0.0)
        weight = tl.where((pixel >= 0) & (pixel < length), weight, 0.0)
        value = tl.load(line + pixel.to(tl.int64) * step, mask=valid & (weight != 0), other=0)
        value = _levels(value, low, high) if LEVELS else value
        total += weight * value
        weights += weight
    return total / weights


@triton.jit
def rotate(images, parameters, low, high, out, height, width, channels, stored, tiles, BLOCK: tl.constexpr):
    """Grey levels of each image, rotated about its centre; bilinear, black outside."""
    plane = tl.program_id(0) // tiles
    sample, channel = plane // channels, plane % channels
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    source = images + (sample.to(tl.int64) * stored + tl.minimum(channel, stored - 1)) * height * width
    bottom, top = tl.load(low + channel), tl.load(high + channel)
    cosine = tl.load(parameters + sample * COLUMNS + COSINE)
    sine = tl.load(parameters + sample * COLUMNS + SINE)
    middle_x, middle_y = width * 0.5, height * 0.5
    dx, dy = position % width + 0.5 - middle_x, position // width + 0.5 - middle_y
    from_x, from_y = cosine * dx - sine * dy + middle_x - 0.5, sine * dx + cosine * dy + middle_y - 0.5
    total = tl.zeros_like(from_x)
    for corner in range(4):
        x, y = tl.floor(from_x) + corner % 2, tl.floor(from_y) + corner // 2
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (position < height * width)
        value = tl.load(source + y.to(tl.int64) * width + x.to(tl.int64), mask=inside, other=0)
        weight = (1 - tl.abs(from_x - x)) * (1 - tl.abs(from_y - y))
        total += tl.where(inside, weight * _levels(value, bottom, top), 0.0)
    tl.store(out + plane.to(tl.int64) * height * width + position, total, mask=position < height * width)


@triton.jit
def resize_columns(
    images, parameters, low, high, lines, height, width, size, channels, stored, tiles,
    LEVELS: tl.constexpr, BICUBIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The rows of each box, resized to `size` pixels and mirrored, at the start of (height, size) lines."""
    plane = tl.program_id(0) // tiles
    sample, channel = plane // channels, plane % channels
    row = parameters + sample * COLUMNS
    start = tl.program_id(0) % tiles * BLOCK
    if start >= tl.load(row + HEIGHT) * size:
        return
    position = start + tl.arange(0, BLOCK)
    y, x = position // size, position % size
    valid = y < tl.load(row + HEIGHT)
    place = tl.where(tl.load(row + FLIP) != 0, size - 1 - x, x)
    corner = tl.load(row + TOP).to(tl.int64) * width + tl.load(row + LEFT).to(tl.int64)
    source = images + (sample.to(tl.int64) * stored + tl.minimum(channel, stored - 1)) * height * width + corner
    bottom, top = tl.load(low + channel), tl.load(high + channel)
    line = source + y.to(tl.int64) * width
    value = _resized(line, 1, place, tl.load(row + WIDTH), size, valid, bottom, top, LEVELS, BICUBIC)
    tl.store(lines + plane.to(tl.int64) * height * size + position, value, mask=valid)


@triton.jit
def _row(lines, y, x, length, size, valid, BICUBIC: tl.constexpr):
    """A channel's values in [0, 1] at the pixels (y, x) of the view."""
    value = _resized(lines + x, size, y, length, size, valid, 0.0, 255.0, False, BICUBIC) / 255
    return _clip(value, 1.0) if BICUBIC else value


@triton.jit
def _hue(red, green, blue, turn):
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    scale = 1 / tl.maximum(chroma, 1e-12)
    hue = tl.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    hue = tl.where(value == red, (green - blue) * scale, hue) + 6 * turn
    red = value - chroma * _sixth(hue + 5)
    green = value - chroma * _sixth(hue + 3)
    blue = value - chroma * _sixth(hue + 1)
    return _clip(red, 1.0), _clip(green, 1.0), _clip(blue, 1.0)


@triton.jit
def _sixth(k):
    k -= 6 * tl.floor(k * (1 / 6))
    return _clip(tl.minimum(k, 4 - k), 1.0)


@triton.jit
def _change(red, green, blue, row, stage, COLOUR: tl.constexpr):
    """The change of colours at one place of the sample's order; the contrast is changed elsewhere."""
    kind = tl.load(row + ORDER + stage).to(tl.int32)
    factor = tl.load(row + FACTORS + kind, mask=kind < 4, other=0.0)
    if kind == BRIGHTNESS:
        red, green, blue = _clip(red * factor, 1.0), _clip(green * factor, 1.0), _clip(blue * factor, 1.0)
    if COLOUR:
        if kind == SATURATION:
            rest = (1 - factor) * _luma(red, green, blue)
            red = _clip(red * factor + rest, 1.0)
            green = _clip(green * factor + rest, 1.0)
            blue = _clip(blue * factor + rest, 1.0)
        if (kind == HUE) & (factor != 0):
            red, green, blue = _hue(red, green, blue, factor)
    return red, green, blue


@triton.jit
def resize_rows(
    lines, parameters, out, sums, height, size, channels, tiles,
    BICUBIC: tl.constexpr, COLOUR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The columns of the lines, resized, with the changes of colours before the contrast's, and each tile's sum of what
    the contrast takes the mean of: the luma, or without colours the channel itself."""
    image = tl.program_id(0) // tiles  # or plane
    sample = image if COLOUR else image // channels
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    valid = position < size * size
    y, x = tl.minimum(position // size, size - 1), position % size
    row = parameters + sample * COLUMNS
    length = tl.load(row + HEIGHT)
    plane = image.to(tl.int64) * 3 if COLOUR else image.to(tl.int64)
    lines += plane * height * size
    red = _row(lines, y, x, length, size, valid, BICUBIC)
    green, blue = red, red
    if COLOUR:
        green = _row(lines + height * size, y, x, length, size, valid, BICUBIC)
        blue = _row(lines + 2 * height * size, y, x, length, size, valid, BICUBIC)
        if tl.load(row + GRAY) == 1:
            red = _luma(red, green, blue)
            green, blue = red, red
    for stage in range(0, tl.load(row + BEFORE).to(tl.int32)):
        red, green, blue = _change(red, green, blue, row, stage, COLOUR)
    value = _luma(red, green, blue) if COLOUR else red
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(valid, value, 0.0), 0))
    to = out + plane * size * size + position
    tl.store(to, red, mask=valid)
    if COLOUR:
        tl.store(to + size * size, green, mask=valid)
        tl.store(to + 2 * size * size, blue, mask=valid)


@triton.jit
def _finished(x, row, channel, mean, std):
    """Solarized, dropped and normalised."""
    x = tl.where(x >= tl.load(row + SOLARIZE), 1 - x, x)
    x = tl.where(tl.load(row + DROP) == channel, 0.0, x)
    return (x - tl.load(mean + channel)) / tl.load(std + channel)


@triton.jit
def colours(
    out, parameters, sums, mean, std, size, channels, tiles,
    COLOUR: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The contrast and the changes of colours after it, in place; what is not blurred is finished."""
    image = tl.program_id(0) // tiles  # or plane
    sample = image if COLOUR else image // channels
    channel = 0 if COLOUR else image % channels
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    valid = position < size * size
    row = parameters + sample * COLUMNS
    at = out + (image.to(tl.int64) * 3 if COLOUR else image.to(tl.int64)) * size * size + position
    red = tl.load(at, mask=valid, other=0.0)
    green, blue = red, red
    if COLOUR:
        green = tl.load(at + size * size, mask=valid, other=0.0)
        blue = tl.load(at + 2 * size * size, mask=valid, other=0.0)
    before = tl.load(row + BEFORE).to(tl.int32)
    if before < 4:
        tile = tl.arange(0, TILES)
        total = tl.sum(tl.load(sums + image * tiles + tile, mask=tile < tiles, other=0.0), 0)
        factor = tl.load(row + FACTORS + CONTRAST)
        rest = (1 - factor) * (total / (size * size))
        red = _clip(red * factor + rest, 1.0)
        green = _clip(green * factor + rest, 1.0)
        blue = _clip(blue * factor + rest, 1.0)
        for stage in range(before + 1, 4):
            red, green, blue = _change(red, green, blue, row, stage, COLOUR)
    if COLOUR:  # noqa: SIM102 - one is known when the kernel is compiled, the other is of the sample
        if tl.load(row + GRAY) == 2:
            red = _luma(red, green, blue)
            green, blue = red, red
    if tl.load(row + BLUR) == 0:
        red = _finished(red, row, channel, mean, std)
        if COLOUR:
            green = _finished(green, row, 1, mean, std)
            blue = _finished(blue, row, 2, mean, std)
    tl.store(at, red, mask=valid)
    if COLOUR:
        tl.store(at + size * size, green, mask=valid)
        tl.store(at + 2 * size * size, blue, mask=valid)


@triton.jit
def blur(source, out, parameters, mean, std, size, channels, tiles, reach, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Planes of the samples that are blurred, along their rows, or along their columns and then finished."""
    plane = tl.program_id(0) // tiles
    sample = plane // channels
    row = parameters + sample * COLUMNS
    if tl.load(row + BLUR) == 0:
        return
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    valid = position < size * size
    y, x = position // size, position % size
    sigma = tl.load(row + SIGMA)
    used = tl.minimum((6.5 * sigma).to(tl.int32) + 1, reach)  # a tap beyond has less than 1e-9 of the middle one
    at = source + plane.to(tl.int64) * size * size
    total = tl.zeros([BLOCK], tl.float32)
    weights = 0.0
    for tap in range(-used, used + 1):
        place = tl.abs((x if ROWS else y) + tap)  # mirrored at the borders
        place = tl.where(place >= size, 2 * size - 2 - place, place)
        weight = tl.exp(-0.5 * (tap / sigma) * (tap / sigma))
        total += weight * tl.load(at + (y * size + place if ROWS else place * size + x), mask=valid, other=0.0)
        weights += weight
    value = total / weights
    if not ROWS:
        value = _finished(value, row, plane % channels, mean, std)
    tl.store(out + plane.to(tl.int64) * size * size + position, value, mask=valid)
