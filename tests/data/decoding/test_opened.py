"""Image files of any format: the pixels against Pillow's, torchvision's and hand-made ones; damaged files."""

import importlib
import io
import os
import struct
import sys
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFile, ImageOps
from sklearn.datasets import load_sample_image

from siamese.data.decoding import ImageError, as_channels, open_image, photos

LIMIT = 1_000_000
TORCHVISION = "ignore:The image decoding and encoding capabilities"  # 0.29 about its own decoders
CHINA = load_sample_image("china.jpg")[100:220, 200:361].copy()  # (120, 161, 3)
DEEP = (CHINA.astype(np.uint16) << 8) + CHINA[::-1]


def encoded(image, kind, **settings):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def photo(mode):
    return Image.fromarray(CHINA).convert(mode)


def read(source, reduce=1, limit=LIMIT):
    with open_image(source, limit) as image:
        pixels = image.pixels(reduce)
        assert pixels.flags.c_contiguous and pixels.flags.writeable
        assert pixels.dtype == image.info.dtype and pixels.shape[2] == image.info.channels
        assert reduce > 1 or pixels.shape[:2] == (image.info.height, image.info.width)
        return pixels


def npy(array, **settings):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **settings)
    return stream.getvalue()


def png(array, depth, colour, extra=b"", before=b""):
    """A PNG by hand: Pillow writes no 16-bit colour."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colour, 0, 0, 0)
    exif = chunk(b"eXIf", extra) if extra else b""
    first = chunk(before[:4], before[4:]) if before else b""
    data = chunk(b"IHDR", head) + first + chunk(b"IDAT", zlib.compress(rows)) + exif + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


MODES = [
    *(("JPEG", m) for m in ("L", "RGB", "CMYK")), *(("PNG", m) for m in ("1", "L", "LA", "P", "RGB", "RGBA")),
    ("WEBP", "RGB"), *(("BMP", m) for m in ("1", "L", "P", "RGB", "RGBA")), ("GIF", "L"), ("GIF", "P"),
    *(("PPM", m) for m in ("1", "L", "RGB")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_eight_bits_are_those_of_pillow(tmp_path, kind, mode):
    file = tmp_path / "x"  # the contents decide, not the suffix
    file.write_bytes(encoded(photo(mode), kind))
    with Image.open(file) as reference:
        grey, stored = mode in ("1", "L", "LA"), reference.mode
        expected = np.asarray(reference.convert("L" if grey else "RGB")).reshape(120, 161, 1 if grey else 3)
    np.testing.assert_array_equal(read(file), expected)
    np.testing.assert_array_equal(read(file.read_bytes()), expected)
    with open_image(file, LIMIT) as image:
        assert (image.info.format, image.info.mode) == (kind, stored)
        np.testing.assert_array_equal(image.pixels(), image.pixels())


@pytest.mark.filterwarnings(TORCHVISION)
def test_a_second_decoder_agrees_on_photographs():
    for kind, name in (("JPEG", "decode_jpeg"), ("PNG", "decode_png"), ("WEBP", "decode_webp")):
        contents = encoded(CHINA, kind)
        expected = getattr(torchvision.io, name)(torch.frombuffer(bytearray(contents), dtype=torch.uint8))
        np.testing.assert_allclose(read(contents).astype(int), expected.permute(1, 2, 0).numpy(), atol=2)


def test_adobe_cmyk_is_not_inverted():
    """Pillow writes CMYK as Adobe does, inverted; undoing its own inversion must give the photograph again."""
    assert np.abs(read(encoded(photo("CMYK"), "JPEG", quality=100)).astype(int) - CHINA).mean() < 3


def test_a_palette_with_transparency_and_one_of_greys_are_colour():
    for image in (photo("P"), photo("L").convert("P")):
        contents = encoded(image, "PNG", transparency=bytes(range(100)))
        np.testing.assert_array_equal(read(contents), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_the_exif_orientation_is_applied(kind, orientation):
    contents = encoded(CHINA, kind, exif=exif(orientation))
    with Image.open(io.BytesIO(contents)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read(contents), expected)


def test_the_exif_block_of_a_png_behind_its_pixels():
    block = exif(6).tobytes().removeprefix(b"Exif\0\0")
    with open_image(png(CHINA, 8, 2, block), LIMIT) as image:
        assert (image.info.height, image.info.width) == (161, 120)
        np.testing.assert_array_equal(image.pixels(), np.rot90(CHINA, -1))
    np.testing.assert_array_equal(read(png(DEEP[:, :, 0], 16, 0, block))[:, :, 0], np.rot90(DEEP[:, :, 0], -1))


@pytest.mark.filterwarnings(TORCHVISION)
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_sixteen_bits_is_exact(colour, channels):
    if colour:
        pytest.importorskip("imagecodecs")
    array = np.concatenate([DEEP, DEEP[:, :, :1] // 3], 2)[:, :, :channels]
    expected = array[:, :, : 1 if channels < 3 else 3]
    contents = png(array, 16, colour)
    np.testing.assert_array_equal(read(contents), expected)
    if channels in (1, 3):
        decoded = torchvision.io.decode_png(torch.frombuffer(bytearray(contents), dtype=torch.uint8))
        np.testing.assert_array_equal(read(contents), decoded.permute(1, 2, 0).numpy())


def test_a_png_of_sixteen_bits_in_colour_takes_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"16 bits a channel, RGB;16; .*pip install siamese-ssl\[tiff\]"):
        open_image(png(DEEP, 16, 2), LIMIT)
    np.testing.assert_array_equal(read(png(DEEP[:, :, 0], 16, 0))[:, :, 0], DEEP[:, :, 0])


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("most", [1, 15, 255, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_portable_maps(plain, most, channels):
    array = (DEEP.astype(np.uint64) % (most + 1)).astype(int)[:, :, :channels]
    kind = (b"P2", b"P3", b"P5", b"P6")[(channels == 3) + 2 * (not plain)]
    raw = array.astype(">u2" if most > 255 else "u1").tobytes()
    text = b"\n".join(b" ".join(b"%d" % v for v in row.ravel()) for row in array) + b"\n# end"
    contents = kind + b" # a comment\n161\t120\n%d\n" % most + (text if plain else raw)
    expected = array if most > 255 else np.rint(array / most * 255)
    np.testing.assert_array_equal(read(contents), expected)
    if most <= 255 or (channels == 1 and most == 65535):
        np.testing.assert_array_equal(read(contents), np.asarray(Image.open(io.BytesIO(contents))).reshape(array.shape))


def test_a_plain_bit_map():
    np.testing.assert_array_equal(read(b"P1\n3 2\n# rows\n010\n1 1 0")[:, :, 0], [[255, 0, 255], [0, 0, 255]])


def test_a_bitmap_of_sixteen_bits_a_pixel():
    """Five bits a channel: the values of a shade are known."""
    shades = np.array([[0, 31 << 10, 31 << 5, 31]], "<u2")
    head = b"BM" + struct.pack("<IHHI", 62, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 16, 0, 8, 0, 0, 0, 0)
    expected = [[[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    np.testing.assert_array_equal(read(head + shades.tobytes()), expected)


def test_the_first_frame_of_an_animation():
    frames = [photo("P"), photo("P").transpose(Image.Transpose.ROTATE_180)]
    contents = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read(contents), np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")))


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(120, 161), (15, 16), (7, 300), (1, 1), (3, 2), (10, 2000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_decoded_at_a_reduced_scale(reduce, size, mode):
    array = np.asarray(photo("RGB").resize(size[::-1], Image.Resampling.BOX))
    image = Image.fromarray(array).convert(mode)
    contents = encoded(image, "JPEG", quality=95)
    pixels = read(contents, reduce)
    assert pixels.shape[:2] == (-(-size[0] // reduce), -(-size[1] // reduce))
    turned = read(encoded(image, "JPEG", quality=95, exif=exif(6)), reduce)
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))
    full = Image.fromarray(read(contents)[:, :, 0] if mode == "L" else read(contents))
    expected = np.asarray(full.reduce(reduce)).reshape(pixels.shape)  # means of the same squares of pixels
    assert np.abs(pixels.astype(int) - expected).mean() < 5
    other = encoded(array, "PNG")
    np.testing.assert_array_equal(read(other, reduce), array)


def test_a_draft_of_another_scale_is_no_silent_success(monkeypatch):
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda image, mode, size: None)
    np.testing.assert_array_equal(read(encoded(CHINA, "JPEG"), 4).shape, (30, 41, 3))
    monkeypatch.setattr("siamese.data.decoding.photos._reduced", lambda image, reduce: image)
    with pytest.raises(ImageError, match=r"decodes to \(120, 161, 3\) uint8, \(30, 41, 3\) uint8 expected"):
        read(encoded(CHINA, "JPEG"), 4)
    with pytest.raises(ValueError, match="reduce=3; 1, 2, 4 or 8"):
        read(encoded(CHINA, "JPEG"), 3)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">f4", "<f8", "f2", "?"])
@pytest.mark.parametrize("order", ["HW", "HWC", "CHW", "fortran"])
def test_arrays(tmp_path, dtype, order):
    array = (CHINA > 99 if dtype == "?" else CHINA).astype(dtype)[:, :100]
    expected = array.astype(np.uint8) * 255 if dtype == "?" else array
    if order == "HW":
        array, expected = array[:, :, 0], expected[:, :, :1]
    array = {"CHW": lambda: array.transpose(2, 0, 1).copy(), "fortran": lambda: np.asfortranarray(array)}.get(
        order, lambda: array
    )()
    (tmp_path / "x.npy").write_bytes(npy(array, version=(2, 0)))
    for source in (tmp_path / "x.npy", npy(array)):
        pixels = read(source)
        assert pixels.dtype == (np.float32 if "f" in dtype else np.uint8 if dtype in ("u1", "?") else np.uint16)
        np.testing.assert_array_equal(pixels, expected)


SPECIAL = np.array([[1.0, np.nan], [np.inf, 2.0]])
REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"no image at all", r"no image of a known format .its first bytes are 6e 6f"),
    "NaN": (npy(SPECIAL), "2 of 4 values are NaN, infinite"),
    "beyond float32": (npy(np.full((3, 3), 1e300)), "9 of 9 values are NaN, infinite or beyond"),
    "negative": (npy(np.full((3, 3), -3, np.int16)), "values from -3 to -3; 0 to 65535"),
    "negative byte": (npy(np.full((3, 3), -3, np.int8)), "values from -3 to -3; 0 to 255"),
    "too large": (npy(np.array([[0, 65536]])), "values from 0 to 65536; 0 to 65535"),
    "complex": (npy(np.ones((3, 3), np.complex64)), "holds complex64"),
    "objects": (npy(np.array([[None]]), allow_pickle=True), r"holds object"),
    "records": (npy(np.zeros((3, 3), [("a", "u1")])), "describes no plain array"),
    "text array": (npy(np.array([["a"]])), "describes no plain array|holds str"),
    "no pixels": (npy(np.zeros((0, 5))), r"no pixels: shape \(0, 5\)"),
    "33 channels": (npy(np.zeros((40, 40, 33))), r"\(40, 40, 33\); neither the first nor the last"),
    "ambiguous": (npy(np.zeros((20, 40, 3))), r"\(20, 40, 3\); the first or the last axis"),
    "four axes": (npy(np.zeros((2, 40, 40, 3))), r"the shape \(2, 40, 40, 3\)"),
    "bomb": (b"P5 99999 99999 255\n", "99999 x 99999 = 9999800001 pixels are more than the limit of 1000000"),
    "bomb of an array": (npy(np.zeros(0))[:-1].replace(b"(0,), ", b"(9999, 9999), ") + b"\n", "99980001 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    contents, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        read(contents)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "NPY"])
def test_the_limit_of_pixels_comes_from_the_header(monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19_000)  # Pillow itself would warn, which is an error here
    contents = npy(CHINA) if kind == "NPY" else encoded(photo("P" if kind == "GIF" else "RGB"), kind)
    assert read(contents, limit=120 * 161).shape == (120, 161, 3)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(ImageError, match="161 x 120 = 19320 pixels are more than the limit of 19319"):
        open_image(contents, 19_319)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
def test_extreme_sides(size):
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for kind in ("PNG", "BMP", "PPM", "JPEG"):
        assert read(encoded(array, kind)).shape == array.shape
    assert read(encoded(Image.fromarray(array).convert("P"), "GIF")).shape == array.shape
    assert read(npy(array[:, :, 0])).shape == (*size, 1)
    assert read(encoded(array[:16_000, :16_000], "WEBP")).shape[2] == 3


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match="^No such file or directory$"):
        open_image(tmp_path / "missing.png", LIMIT)
    with pytest.raises(ImageError, match="^Is a directory$"):
        open_image(tmp_path, LIMIT)
    with pytest.raises(ImageError, match=r"known format .*, though its suffix is .png"):
        open_image(b"no image", LIMIT, ".png")


def test_files_are_closed(tmp_path):
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for contents in (encoded(CHINA, "PNG"), npy(CHINA), encoded(CHINA, "GIF"), b"no image"):
        (tmp_path / "x").write_bytes(contents)
        try:
            read(tmp_path / "x")
        except ImageError:
            assert contents == b"no image"
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)


FILES = {
    "JPEG": encoded(CHINA, "JPEG", exif=exif(6)), "progressive": encoded(CHINA, "JPEG", progressive=True),
    "CMYK": encoded(photo("CMYK"), "JPEG"), "PNG": encoded(CHINA, "PNG", exif=exif(6)), "PNG16": png(DEEP, 16, 2),
    "palette": encoded(photo("P"), "PNG", transparency=b"\0\1"), "WEBP": encoded(CHINA, "WEBP", exif=exif(6)),
    "BMP": encoded(CHINA, "BMP"), "GIF": encoded(photo("P"), "GIF"), "PPM": encoded(CHINA, "PPM"), "NPY": npy(CHINA),
    "plain": b"P2 161 120 255\n" + b" ".join(b"%d" % v for v in CHINA[:, :, 0].ravel()),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(name):
    whole = FILES[name]
    assert read(whole).size
    for part in (0.01, 0.1, 0.3, 0.5, 0.9, 0.98):
        with pytest.raises(ImageError):
            read(whole[: int(part * len(whole))])


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_give_an_error_or_an_image(name):
    rng = np.random.default_rng(0)
    for trial in range(50):
        damaged = bytearray(FILES[name])
        for place in rng.integers(0, min((len(damaged), 300, 60)[trial % 3], len(damaged)), rng.integers(1, 8)):
            damaged[place] = rng.integers(0, 256)
        with suppress(ImageError):
            assert read(bytes(damaged)).dtype in (np.uint8, np.uint16, np.float32)


def test_no_warning_of_pillow_reaches_the_user():
    corrupt = b"Exif\0\0II*\0\x08\0\0\0\xff\0\x12\x01\x03\0"
    files = [
        encoded(CHINA, "JPEG", exif=corrupt),
        encoded(photo("P"), "PNG", transparency=bytes(range(200))),
        png(CHINA, 8, 2, before=b"acTL" + bytes(8)),
    ]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for contents in files:
            with Image.open(io.BytesIO(contents)) as image:
                image.convert("RGB")
                image.getexif()
        assert len({str(w.message) for w in told}) >= 3  # Pillow warns of each
        told.clear()
        importlib.reload(photos)  # pytest undoes the filters that an import sets
        for contents in files:
            assert read(contents).shape == CHINA.shape
        assert not told


def test_the_number_of_channels_can_be_changed():
    grey = as_channels(CHINA, 1)
    np.testing.assert_array_equal(grey[:, :, 0], np.asarray(photo("L")))
    np.testing.assert_array_equal(as_channels(grey, 3), np.concatenate([grey] * 3, 2))
    assert as_channels(CHINA, 3) is CHINA
    luma = 0.299 * DEEP[:, :, 0] + 0.587 * DEEP[:, :, 1] + 0.114 * DEEP[:, :, 2]
    assert as_channels(DEEP, 1).dtype == np.uint16
    np.testing.assert_allclose(as_channels(DEEP, 1)[:, :, 0], luma, rtol=0, atol=0.5 + 1e-9)
    np.testing.assert_allclose(as_channels(DEEP.astype(np.float32), 1)[:, :, 0], luma, rtol=1e-6)
    with pytest.raises(ImageError, match="has 13 channels, the others 3"):
        as_channels(np.zeros((2, 2, 13), np.uint8), 3)
