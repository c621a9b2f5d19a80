"""Image files as they are found: depth, orientation, hidden files, parts that share images."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from siamese.data import Loader
from siamese.data import sets as data_sets
from siamese.data.images import decode, digest_of_files, listing
from siamese.errors import UserError

SPLIT = dict(val_fraction=0.34, split_seed=0)


def picture(seed=0, size=(20, 30)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    """Two classes of three images."""
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            picture(i).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def deep(kind, file):
    """An image of more than 8 bits a channel."""
    values = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    if kind == "16-bit RGB":
        write_png16(file, np.stack([values] * 3, 2))
    elif kind == "PPM":
        file = file.with_suffix(".ppm")
        file.write_bytes(b"P6\n30 20\n65535\n" + np.stack([values] * 3, 2).astype(">u2").tobytes())
    elif kind == "PGM":
        file = file.with_suffix(".pgm")
        file.write_bytes(b"P5\n30 20\n65535\n" + values.astype(">u2").tobytes())
    else:
        array = {"I;16": values, "I": values.astype(np.int32), "F": values.astype(np.float32) / 65535}[kind.split()[0]]
        file = file.with_suffix("." + kind.split()[1])
        Image.fromarray(array).save(file)
    return file


def write_png16(file, array):
    """A 16-bit colour PNG, which Pillow reads and does not write."""
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


KINDS = ["I;16 png", "I;16 tiff", "I tiff", "F tiff", "16-bit RGB", "PPM", "PGM"]


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_eight_bits_are_refused(tmp_path, photos, kind):
    file = deep(kind, photos / "ant" / "deep.png")
    with Image.open(file) as image:
        image.load()  # Pillow itself reads it
    with pytest.raises(ValueError, match="more than 8 bits a channel, mode .*; convert it to 8 bits"):
        decode(file, 16)
    data = data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)
    with pytest.raises(UserError, match=f"data.path: {file}: cannot be decoded .more than 8 bits"):
        list(Loader(data.pretrain, 2, shuffle=False, resident=True))
    for other in photos.rglob("?.png"):
        other.unlink()
    shutil.copy(file, photos / "bee")
    with pytest.raises(UserError, match="none of its 2 images can be read; the first: .*more than 8 bits"):
        data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_eight_bits_are_read(tmp_path, mode):
    file = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    image = picture().convert(mode)
    image.save(file)
    expected = np.array(image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(file, 16)[0].permute(1, 2, 0), expected)


def test_a_bitmap_of_sixteen_bits_a_pixel(tmp_path):
    """Five to six bits a channel, not sixteen."""
    import struct

    rows = np.random.default_rng(0).integers(0, 65536, (4, 4), dtype="<u2").tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 3, len(rows), 0, 0, 0, 0) + struct.pack(
        "<III", 0xF800, 0x7E0, 0x1F
    )
    file = tmp_path / "x.bmp"
    file.write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(info) + len(rows), 0, 0, 14 + len(info)) + info + rows)
    assert decode(file, 4)[0].shape == (3, 4, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".webp"])
def test_the_exif_orientation_is_applied(tmp_path, orientation, suffix):
    file = tmp_path / f"x{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(file, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    with Image.open(file) as image:
        turned = ImageOps.exif_transpose(image).convert("RGB")
    square, aspect_ratio = decode(file, 16)
    np.testing.assert_array_equal(square.permute(1, 2, 0), np.array(turned.resize((16, 16), Image.Resampling.BILINEAR)))
    assert aspect_ratio == pytest.approx(turned.width / turned.height)
    assert turned.size == ((30, 20) if orientation < 5 else (20, 30))


def test_hidden_files_are_no_images(photos):
    for hidden in (".ipynb_checkpoints", "__MACOSX", "ant/.thumbnails", "bee/__MACOSX/deeper"):
        (photos / hidden).mkdir(parents=True)
        picture(9).save(photos / hidden / "x.png")
    (photos / "ant" / "._0.png").write_bytes(b"macOS")
    classes, files, _ = listing(photos)
    assert classes == ["ant", "bee"]
    assert len(files) == 6
    picture(9).save(photos / "._stray.png")
    assert listing(photos)[0] == ["ant", "bee"]


@pytest.mark.parametrize("given", ["photos", "photos/", "photos/../photos", "link", "photos/ant/.."])
def test_test_split_inside_training_folder_is_refused(photos, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(UserError, match=f"^data.test_path={given}: shares its images with the training split"):
        data_sets.folder("folder", "photos", 16, "stop", test_path=given, **SPLIT)


def test_a_test_part_within_the_training_part(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "other")
    shutil.move(tmp_path / "other", photos / "ant" / "inner")
    with pytest.raises(UserError, match="shares its images"):
        data_sets.folder("folder", str(photos), 16, "stop", test_path=str(photos / "ant" / "inner"), **SPLIT)
    good = data_sets.folder("folder", str(photos / "ant" / "inner"), 16, "stop", **SPLIT)
    assert len(good.pretrain) == 6


def test_test_images_that_are_links_to_training_images(photos, tmp_path):
    """Parts made of links are common; those that share an image are refused, whatever both are links to."""
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "links" / part / name).mkdir(parents=True)
            for i in (0, 1) if part == "train" else (2,):
                (tmp_path / "links" / part / name / f"{i}.png").symlink_to(photos / name / f"{i}.png")
    made = data_sets.folder("folder", str(tmp_path / "links"), 16, "stop", val_fraction=0.5)
    assert len(made.test) == 2
    (tmp_path / "links" / "test" / "ant" / "x.png").symlink_to(photos / "ant" / "0.png")
    with pytest.raises(UserError, match=r"^data.path=.*/x.png: is a training image too, and so are 0 others"):
        data_sets.folder("folder", str(tmp_path / "links"), 16, "stop", val_fraction=0.5)


def test_a_test_path_that_is_a_file_or_empty(photos, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, says in (("file", "is not a folder"), ("empty", "has 0 classes"), ("nowhere", "does not exist")):
        with pytest.raises(UserError, match=says):
            data_sets.folder("folder", str(photos), 16, "stop", test_path=str(tmp_path / name), **SPLIT)


def test_the_digest_sees_contents(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(1 << 20))
    about, before = file.stat(), digest_of_files([file])
    for place in (0, 1 << 19, (1 << 20) - 1):
        content = bytearray(1 << 20)
        content[place] = 1
        file.write_bytes(content)
        import os

        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert digest_of_files([file]) != before


def test_one_image_changes_the_decoded_square(photos):
    """`decode` of an upright photograph is what it was before orientations were read."""
    square, aspect_ratio = decode(photos / "ant" / "0.png", 16)
    expected = picture(0).resize((16, 16), Image.Resampling.BILINEAR)
    assert torch.equal(square, torch.from_numpy(np.array(expected)).permute(2, 0, 1))
    assert aspect_ratio == 1.5
