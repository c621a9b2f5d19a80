"""TIFF of any depth, layout and compression, against the arrays that tifffile or Pillow wrote."""

import io
import logging
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from siamese.data.decoding import ImageError, open_image
from siamese.data.decoding.embedded import check_embedded

tifffile = pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")
LIMIT = 1_000_000
CHINA = load_sample_image("china.jpg")[100:220, 200:361].copy()  # (120, 161, 3)
GREY = CHINA[:, :, 1].copy()
DEEP = (CHINA.astype(np.uint16) << 8) + CHINA[::-1]
BANDS = np.concatenate([DEEP, DEEP // 2, DEEP // 3, DEEP // 5, DEEP // 7], 2)[:, :, :13]  # (120, 161, 13)
FIRST = np.ascontiguousarray(BANDS.transpose(2, 0, 1))  # channels first


def tiff(array, **settings):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "minisblack", **settings})
    return stream.getvalue()


def pillow(image, **settings):
    stream = io.BytesIO()
    image.save(stream, "TIFF", **settings)
    return stream.getvalue()


def read(source, limit=LIMIT):
    with open_image(source, limit) as image:
        pixels = image.pixels(4)  # of a JPEG only
        assert pixels.flags.c_contiguous and pixels.flags.writeable
        assert pixels.dtype == image.info.dtype and image.info.format == "TIFF"
        assert pixels.shape == (image.info.height, image.info.width, image.info.channels)
        np.testing.assert_array_equal(image.pixels(), pixels)
        return pixels


def photo(mode):
    return Image.fromarray(CHINA).convert(mode)


RGB = dict(photometric="rgb")
WHOLE = {
    "8-bit RGB": (tiff(CHINA, **RGB), CHINA),
    "16-bit grey": (tiff(DEEP[:, :, 0]), DEEP[:, :, :1]),
    "13 bands": (tiff(BANDS, planarconfig="contig"), BANDS),
    "13 planes": (tiff(FIRST, planarconfig="separate"), BANDS),
    "13 pages": (tiff(FIRST), BANDS),
    "OME channels": (tiff(FIRST, metadata={"axes": "CYX"}, ome=True), BANDS),
    "ImageJ channels": (tiff(FIRST, metadata={"axes": "CYX"}, imagej=True), BANDS),
    "OME of several series": (None, BANDS),
    "BigTIFF, big-endian": (tiff(BANDS, bigtiff=True, byteorder=">", planarconfig="contig"), BANDS),
    "tiles": (tiff(BANDS, tile=(64, 32), planarconfig="contig", compression="zlib", predictor=True), BANDS),
    "LZW in strips": (tiff(DEEP, compression="lzw", rowsperstrip=7, **RGB), DEEP),
    "zstd": (tiff(FIRST, planarconfig="separate", compression="zstd"), BANDS),
    "Pillow's deflate": (pillow(photo("RGB"), compression="tiff_adobe_deflate"), CHINA),
    "int16": (tiff(CHINA.astype(np.int16), **RGB), CHINA.astype(np.uint16)),
    "int32": (tiff(GREY.astype(np.int32)), GREY[:, :, None].astype(np.uint16)),
    "uint32": (tiff(GREY.astype(np.uint32) * 257), GREY[:, :, None].astype(np.uint16) * 257),
    "float16": (tiff(GREY.astype(np.float16)), GREY[:, :, None].astype(np.float32)),
    "float32, predictor": (tiff(DEEP / np.float32(7), compression="zlib", predictor=3, **RGB), DEEP / np.float32(7)),
    "float64": (tiff(GREY / 7 - 9), (GREY / 7 - 9).astype(np.float32)[:, :, None]),
    "1 bit": (tiff(GREY > 99), (GREY[:, :, None] > 99) * np.uint8(255)),
    "fax": (pillow(photo("1"), compression="group4"), np.asarray(photo("1").convert("L"))[:, :, None]),
    "white is zero": (tiff(GREY, photometric="miniswhite"), 255 - GREY[:, :, None]),
    "white is zero, 16 bits": (tiff(DEEP[:, :, 0], photometric="miniswhite"), 65535 - DEEP[:, :, :1]),
    "alpha": (tiff(BANDS[:, :, :4], extrasamples=["unassalpha"], **RGB), DEEP),
    "associated alpha": (tiff(BANDS[:, :, :4], extrasamples=["assocalpha"], **RGB), DEEP),
    "near infrared": (tiff(BANDS[:, :, :4], extrasamples=["unspecified"], **RGB), BANDS[:, :, :4]),
    "grey and alpha": (pillow(photo("LA")), np.asarray(photo("L"))[:, :, None]),
    "palette": (pillow(photo("P")), np.asarray(photo("P").convert("RGB"))),
    "CMYK": (pillow(photo("CMYK")), np.asarray(photo("CMYK").convert("RGB"))),
    "thumbnail": (None, CHINA),
    "pyramid": (None, CHINA),
    "one pixel": (tiff(CHINA[:1, :1], **RGB), CHINA[:1, :1]),
    "one row": (tiff(np.tile(GREY[:1], (1, 200))[:, :20000]), np.tile(GREY[:1], (1, 200))[:, :20000, None]),
}


def several(name):
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, ome=name.startswith("OME")) as file:
        if name == "OME of several series":
            file.write(FIRST, photometric="minisblack", metadata={"axes": "CYX"})
            file.write(GREY, photometric="minisblack", metadata={"axes": "YX"})
        elif name == "pyramid":
            file.write(CHINA, photometric="rgb", subifds=1)
            file.write(CHINA[::2, ::2].copy(), photometric="rgb", subfiletype=1)
        else:
            file.write(CHINA, photometric="rgb")
            file.write(GREY[:30, :40].copy(), photometric="minisblack")
    return stream.getvalue()


@pytest.mark.parametrize("name", WHOLE)
def test_pixels(tmp_path, name):
    contents, expected = WHOLE[name]
    if name == "fax" and not hasattr(imagecodecs, "ccittfax4_decode"):
        pytest.skip("an older imagecodecs does not know it")
    (tmp_path / "x.tif").write_bytes(contents or several(name))
    pixels = read(tmp_path / "x.tif")
    assert pixels.dtype == expected.dtype
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(read((tmp_path / "x.tif").read_bytes()), expected)


def test_jpeg_within_a_tiff():
    contents = tiff(CHINA, compression="jpeg", tile=(64, 64), **RGB)
    assert np.abs(read(contents).astype(int) - CHINA).mean() < 6
    np.testing.assert_array_equal(read(contents), tifffile.imread(io.BytesIO(contents)))


def test_cmyk_of_sixteen_bits():
    eight = np.asarray(photo("CMYK"))
    pixels = read(tiff(eight.astype(np.uint16) * 257, photometric="separated"))
    assert np.abs(pixels / 257 - np.asarray(photo("CMYK").convert("RGB"))).max() < 1


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_the_orientation_is_applied(orientation, compression):
    block = Image.Exif()
    block[0x0112] = orientation
    if compression != "raw" and orientation not in range(1, 9):
        pytest.skip("Pillow writes none")
    contents = pillow(photo("RGB"), exif=block, compression=compression)
    with_exif = Image.fromarray(CHINA)
    with_exif.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(read(contents), np.asarray(ImageOps.exif_transpose(with_exif)))


REFUSED = {
    "stack": (tiff(FIRST[:3], metadata={"axes": "ZYX"}), r"axes ZYX of lengths \(3, 120, 161\)"),
    "time": (tiff(FIRST[:3], metadata={"axes": "TYX"}, imagej=True), r"axes TYX of lengths \(3, 120, 161\)"),
    "pages in colour": (tiff(np.stack([CHINA] * 2), **RGB), r"axes .YXS of lengths \(2, 120, 161, 3\)"),
    "negative": (tiff(-GREY.astype(np.int16)), "values from -255 to 0; 0 to 65535"),
    "too large": (tiff(GREY.astype(np.uint32) * 258), r"values from \d+ to 65790; 0 to 65535"),
    "NaN": (tiff(np.where(GREY > 99, np.nan, 1).astype(np.float32)), r"\d+ of 19320 values are NaN"),
    "complex": (tiff(GREY.astype(np.complex64)), "holds complex64"),
    "33 channels": (tiff(np.zeros((33, 40, 40), np.uint8)), "has 33 channels; at most 32"),
    "CIELab": (tiff(CHINA, photometric="cielab"), "photometric interpretation 8"),
    "bomb": (None, "30000 x 30000 = 900000000 pixels are more than the limit of 1000000"),
    "JPEG bomb": (None, "holds a JPEG of 3000 x 3000 pixels in a strip or tile"),
    "several widths": (None, "65537 values of the tag 322, of which 1 is possible"),
    "loop": (None, "a damaged list of pages"),
}


def hostile(name):
    contents = bytearray(tiff(GREY[:64, :64].copy(), tile=(64, 64), compression="jpeg"))
    tags = tifffile.TiffFile(io.BytesIO(contents)).pages[0].tags

    def change(code, value):
        contents[tags[code].valueoffset : tags[code].valueoffset + 4] = value.to_bytes(4, "little")

    if name == "bomb":
        change(256, 30_000)
        change(257, 30_000)
    elif name == "JPEG bomb":
        jpeg = imagecodecs.jpeg_encode(np.zeros((3000, 3000), np.uint8))
        change(324, len(contents))
        change(325, len(jpeg))
        contents += jpeg
    elif name == "several widths":
        contents[tags[322].offset + 4 : tags[322].offset + 8] = (65537).to_bytes(4, "little")
    else:
        start = int.from_bytes(contents[4:8], "little")
        last = start + 2 + 12 * int.from_bytes(contents[start : start + 2], "little")
        contents[last : last + 4] = contents[4:8]
    return bytes(contents)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    contents, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        read(contents or hostile(name))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("where", ["beside", "here"])
def test_no_other_file_is_opened(tmp_path, monkeypatch, where):
    """An OME-TIFF names the files of its other planes."""
    secret = tiff(FIRST[1], description="", metadata=None)
    (tmp_path / "secret.tif").write_bytes(secret)
    planes = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{n}">urn:uuid:{i}</UUID></TiffData>'
        for i, n in enumerate(("mine.ome.tif", "secret.tif"))
    )
    about = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="161" SizeY="120" '
        f'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="C:0"/><Channel ID="C:1"/>{planes}</Pixels></Image></OME>'
    )
    file = tmp_path / "mine.ome.tif"
    file.write_bytes(tiff(FIRST[0], description=about, metadata=None))
    assert tifffile.imread(file).shape == (2, 120, 161)  # tifffile itself follows
    if where == "here":
        monkeypatch.chdir(tmp_path)
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    np.testing.assert_array_equal(read(file if where == "beside" else file.read_bytes())[:, :, 0], FIRST[0])
    assert not [name for name in opened if "secret" in name]


TRUNCATED = ["8-bit RGB", "13 bands", "13 planes", "13 pages", "OME channels", "ImageJ channels", "tiles",
             "LZW in strips", "zstd", "palette", "1 bit", "Pillow's deflate"]  # fmt: skip


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_files(name):
    contents = WHOLE[name][0]
    for part in (0.01, 0.1, 0.3, 0.5, 0.9, 0.99):
        with pytest.raises(ImageError):
            read(contents[: int(part * len(contents))])


def test_a_missing_strip_is_an_error():
    """tifffile leaves its pixels as they were in memory."""
    contents = bytearray(tiff(CHINA, compression="lzw", rowsperstrip=30, **RGB))
    for code in (273, 279):
        tag = tifffile.TiffFile(io.BytesIO(contents)).pages[0].tags[code]
        contents[tag.offset + 4 : tag.offset + 8] = (3).to_bytes(4, "little")
    with pytest.raises(ImageError, match="holds 3 of 4 strips or tiles"):
        read(bytes(contents))


@pytest.mark.parametrize("name", [*TRUNCATED, "jpeg"])
def test_damaged_files_give_an_error_or_an_image(name):
    whole = tiff(CHINA, compression="jpeg", **RGB) if name == "jpeg" else WHOLE[name][0]
    rng = np.random.default_rng(0)
    for trial in range(50):
        damaged = bytearray(whole)
        for place in rng.integers(0, min((len(damaged), 400, 60)[trial % 3], len(damaged)), rng.integers(1, 8)):
            damaged[place] = rng.integers(0, 256)
        try:
            with open_image(bytes(damaged), LIMIT) as image:
                assert image.pixels().dtype in (np.uint8, np.uint16, np.float32)
        except ImageError:
            continue


def test_tifffile_prints_nothing():
    contents = bytearray(tiff(FIRST[:3]))
    at = int.from_bytes(contents[4:8], "little") + 2
    while int.from_bytes(contents[at : at + 2], "little") != 305:  # Software, of an impossible type
        at += 12
    contents[at + 2] = 99
    logger = logging.getLogger("tifffile")
    told = []
    handler = logging.Handler()
    handler.emit = told.append
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    tifffile.TiffFile(io.BytesIO(contents)).close()
    assert told
    told.clear()
    assert read(bytes(contents)).shape == (120, 161, 3)
    logger.removeHandler(handler)
    assert not told


def test_without_tifffile_pillow_reads_plain_files(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    np.testing.assert_array_equal(read(pillow(photo("RGB"))), CHINA)
    np.testing.assert_array_equal(read(pillow(photo("L"), compression="tiff_lzw"))[:, :, 0], np.asarray(photo("L")))
    with pytest.raises(ImageError, match="more than the limit"):
        open_image(pillow(photo("RGB")), 100)
    with pytest.raises(ImageError):
        read(pillow(photo("RGB"))[:-9000])
    plain = {"8-bit RGB", "one pixel", "one row", "Pillow's deflate", "pyramid"}
    for name, (contents, expected) in WHOLE.items():
        if name in plain:
            np.testing.assert_array_equal(read(contents or several(name)), expected)
        else:
            with pytest.raises(ImageError, match=r"take.? tifffile: pip install siamese-ssl\[tiff\]"):
                read(contents or several(name))


@pytest.mark.parametrize("compression", ["jpeg2000", "png", "webp"])
def test_an_image_in_a_tile_is_no_larger_than_the_tile(compression):
    """A few bytes may be an image of gigabytes, whatever the TIFF around them says."""
    contents = tiff(CHINA, tile=(64, 64), compression=compression, **RGB)
    if compression != "webp":  # which loses a little
        np.testing.assert_array_equal(read(contents), CHINA)
    with tifffile.TiffFile(io.BytesIO(contents)) as file:
        page = file.pages[0]
        start, count = page.dataoffsets[0], page.databytecounts[0]
        kind = int(page.compression)
    data = contents[start : start + count]
    check_embedded(kind, data, 64 * 64)
    with pytest.raises(ImageError, match="holds an image of 64 x 64 pixels in a strip or tile of 4095"):
        check_embedded(kind, data, 4095)
    with pytest.raises(ImageError, match="that cannot be read"):
        check_embedded(kind, b"nothing of the kind", 4095)


def test_kinds_whose_size_nothing_tells_are_refused():
    for kind, name in ((22610, "JPEG XR"), (50002, "JPEG XL")):
        with pytest.raises(ImageError, match=f"holds {name}, which is not read"):
            check_embedded(kind, b"", 1)
