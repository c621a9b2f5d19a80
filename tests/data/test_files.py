"""Image files: their kind, squares and crops, against torchvision and Pillow."""

from itertools import pairwise

import numpy as np
import pytest
import tifffile
import torch
import torchvision.transforms.v2.functional as tvf
from PIL import Image

from siamese.data.crops import CentralCrop, RandomCrops, ViewCrop
from siamese.data.decoding import ImageError
from siamese.data.files import INSPECTED, ImageFiles, Kind, check_kind, kind_of
from siamese.data.items import Files
from siamese.errors import UserError

MOST = 1_000_000


def save(file, channels=3, dtype=np.uint8, height=60, width=90, seed=0):
    """A smooth image with noise, (height, width, channels), as a file; returns the array."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0.1, 0.8, height)[:, None, None] * np.linspace(0.6, 1, width)[:, None]
    x = (slope + 0.1 * rng.random((height, width, channels))).clip(0, 1)
    x = x.astype(dtype) if np.dtype(dtype).kind == "f" else (x * {1: 255, 2: 60_000}[np.dtype(dtype).itemsize])
    x = x.astype(dtype)
    if file.suffix == ".tif":
        tifffile.imwrite(file, x, photometric="minisblack", planarconfig="contig")
    elif file.suffix == ".npy":
        np.save(file, x)
    else:
        Image.fromarray(x.squeeze()).save(file)
    return x


CASES = [(".png", 3, np.uint8), (".png", 1, np.uint8), (".tif", 13, np.uint16), (".npy", 4, np.float32)]


@pytest.mark.parametrize(("suffix", "channels", "dtype"), CASES)
def test_squares_and_crops_are_torchvisions(tmp_path, suffix, channels, dtype):
    file = tmp_path / f"a{suffix}"
    whole = torch.from_numpy(save(file, channels, dtype).astype(np.float32)).permute(2, 0, 1)
    kind = Kind(channels, np.dtype(dtype), MOST)
    step = {1: 1.01, 2: 1.01, 4: 1e-5}[np.dtype(dtype).itemsize]  # of whole numbers one, rounded twice
    square, ratio = kind.square(file, 32)
    assert square.dtype == kind.torch_dtype and ratio == pytest.approx(90 / 60)
    expected = tvf.resize(whole, [32, 32], antialias=True)
    torch.testing.assert_close(square.float(), expected, atol=step, rtol=0)
    cutter = RandomCrops(
        3, [ViewCrop(24, (0.2, 1), (0.75, 1.33), "bilinear"), ViewCrop(16, (0.1, 0.5), (1, 1), "bicubic")]
    )
    made = kind.crops(file, cutter, epoch=2, index=5)
    for crop, box in zip(made, cutter.regions(60, 90, 2, 5), strict=True):
        mode = {"bilinear": tvf.InterpolationMode.BILINEAR, "bicubic": tvf.InterpolationMode.BICUBIC}[box.interpolation]
        place = [int(v) for v in (box.top, box.left, box.height, box.width)]
        assert place == [box.top, box.left, box.height, box.width]
        expected = tvf.resized_crop(whole, *place, [box.size, box.size], mode, antialias=True)
        if dtype != np.float32:
            expected = expected.clamp(0, torch.iinfo(kind.torch_dtype).max)
        torch.testing.assert_close(crop.float(), expected, atol=step, rtol=0)


def test_reading_all_files_shows_progress(tmp_path, capsys, ticking):
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file in files:
        save(file)
    store = ImageFiles(files, 8, Kind(3, np.dtype(np.uint8), MOST))
    ticking(6)
    for threads in (1, 2):
        whole = store.read_all(threads)
        assert torch.equal(whole.images, store.read(torch.arange(3)).images)
    assert capsys.readouterr().out == "decoding: 1 of 3 images, 12 s left\n" * 2


def test_jpeg_turned_by_exif_is_cut_upright(tmp_path):
    x = save(tmp_path / "a.png", height=64, width=96)
    turned = Image.fromarray(np.rot90(x).copy())  # as the camera held it; orientation 6 is undone by -90 degrees
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    kind = Kind(3, np.dtype(np.uint8), MOST)
    for cutter in (CentralCrop(48, 1.0), RandomCrops(0, [ViewCrop(48, (0.2, 1), (0.75, 1.33), "bilinear")])):
        (png,), (jpeg,) = (kind.crops(tmp_path / f, cutter, 0, 0) for f in ("a.png", "a.jpg"))
        assert (png.float() - jpeg.float()).abs().mean() < 2
    assert kind.square(tmp_path / "a.jpg", 8)[1] == pytest.approx(1.5)


def test_other_images_than_the_kind_are_errors(tmp_path):
    save(tmp_path / "a.tif", 4), save(tmp_path / "b.npy", 3, np.uint16), save(tmp_path / "c.png", 1)
    kind = Kind(3, np.dtype(np.uint8), MOST)
    with pytest.raises(ImageError, match="has 4 channels, the others 3"):
        kind.square(tmp_path / "a.tif", 8)
    with pytest.raises(ImageError, match="is uint16, the other images are uint8"):
        kind.square(tmp_path / "b.npy", 8)
    grey = kind.square(tmp_path / "c.png", 8)[0]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    with pytest.raises(ImageError, match="5400 pixels are more than the limit of 5399"):
        Kind(3, np.dtype(np.uint8), 5399).square(tmp_path / "c.png", 8)


def folder(tmp_path, *kinds):
    """One file for each (suffix, channels, dtype); bytes are written as they are."""
    files = []
    for i, kind in enumerate(kinds):
        if isinstance(kind, bytes):
            (tmp_path / f"{i:04}.png").write_bytes(kind)
            files.append(tmp_path / f"{i:04}.png")
            continue
        files.append(tmp_path / f"{i:04}{kind[0]}")
        save(files[-1], *kind[1:], height=34, width=40, seed=i)
    return Files(files)


GREY, COLOUR, FOUR, DEEP = (".png", 1), (".png", 3), (".tif", 4), (".npy", 3, np.uint16)


@pytest.mark.parametrize(
    ("kinds", "channels", "on_error", "expected"),
    [
        ([GREY, GREY], "auto", "stop", (1, "uint8")),
        ([GREY, COLOUR], "auto", "stop", (3, "uint8")),
        ([COLOUR, COLOUR], 1, "stop", (1, "uint8")),
        ([GREY, GREY], 3, "stop", (3, "uint8")),
        ([FOUR, FOUR], "auto", "stop", (4, "uint8")),
        ([b"junk", b"", DEEP], "auto", "stop", (3, "uint16")),
        ([COLOUR, FOUR, GREY], "auto", "skip", (3, "uint8")),
        ([FOUR, COLOUR, COLOUR], "auto", "skip", (3, "uint8")),
        ([FOUR, COLOUR, DEEP, FOUR, FOUR], "auto", "skip", (4, "uint8")),
        ([DEEP, DEEP, COLOUR], "auto", "skip", (3, "uint16")),
        ([FOUR, COLOUR, COLOUR], 4, "skip", (4, "uint8")),
    ],
)
def test_kind_of_a_set(tmp_path, kinds, channels, on_error, expected):
    kind = kind_of(folder(tmp_path, *kinds), channels, MOST, "data.path=x", on_error)
    assert (kind.channels, kind.dtype.name) == expected


@pytest.mark.parametrize(
    ("kinds", "channels", "on_error", "says"),
    [
        ([FOUR, COLOUR], "auto", "stop", r"1 are uint8 of 4 channels \(.*0000.tif\), 1 are uint8 of 3 channels"),
        ([FOUR, COLOUR], "auto", "skip", "holds images of several kinds; of 2 that were looked at"),
        ([COLOUR, COLOUR, DEEP], "auto", "stop", r"2 are uint8 of 3 channels .*1 are uint16 of 3 channels"),
        ([COLOUR, FOUR], 3, "stop", "several kinds"),
        ([FOUR, FOUR], 3, "stop", r"data.channels=3: the images have other numbers of channels: 4 \(.*0000.tif\)"),
        ([GREY, GREY], 4, "skip", "data.channels=4: the images have other numbers of channels: 1"),
        ([b"junk", b""], "auto", "skip", "none of its 2 images can be read; the first: .*0000.png"),
    ],
)
def test_sets_without_one_kind(tmp_path, kinds, channels, on_error, says):
    with pytest.raises(UserError, match=says):
        kind_of(folder(tmp_path, *kinds), channels, MOST, "data.path=x", on_error)


def test_other_splits_must_be_of_the_training_splits_kind(tmp_path):
    kind = Kind(3, np.dtype(np.uint8), MOST)
    check_kind(folder(tmp_path, COLOUR, GREY), kind, "data.path=x", "stop")
    mixed = folder(tmp_path, COLOUR, FOUR)
    check_kind(mixed, kind, "data.path=x", "skip")
    says = r"data.path=x: .*0001.tif is uint8 of 4 channels, the training images are uint8 of 3"
    with pytest.raises(UserError, match=says):
        check_kind(mixed, kind, "data.path=x", "stop")
    with pytest.raises(UserError, match="is uint16 of 3 channels"):
        check_kind(folder(tmp_path, DEEP, DEEP), kind, "data.path=x", "skip")


class Listed(Files):
    """Keeps which files were opened."""

    def __init__(self, files):
        super().__init__(files)
        self.opened = []

    def source(self, index):
        self.opened.append(index)
        return super().source(index)


def test_headers_are_evenly_chosen(tmp_path):
    save(tmp_path / "a.png")
    items = Listed([tmp_path / "a.png"] * 5000)
    kind_of(items, "auto", MOST, "data.path=x")
    assert len(items.opened) == INSPECTED and items.opened[0] == 0 and items.opened[-1] == 4999
    assert {b - a for a, b in pairwise(items.opened)} <= {19, 20}


def test_unreadable_file_is_replaced_by_the_next_readable_one(tmp_path):
    items = folder(tmp_path, COLOUR, b"junk", FOUR, COLOUR, b"")
    store = ImageFiles(items.files, 6, Kind(3, np.dtype(np.uint8), MOST), "skip")
    batch = store.read_all()
    assert batch.unreadable.tolist() == [False, True, True, False, True]
    assert [path for path, _ in batch.errors] == [str(items.files[i]) for i in (1, 2, 4)]
    assert "has 4 channels, the others 3" in batch.errors[1][1]
    for bad, good in ((1, 3), (2, 3), (4, 0)):
        assert torch.equal(batch.images[bad], batch.images[good])
    cutter = RandomCrops(0, [ViewCrop(4, (1, 1), (1.3, 1.34), "bilinear")])
    crops = store.crops(torch.arange(5), cutter, epoch=0)
    assert crops.unreadable.tolist() == batch.unreadable.tolist() and crops.errors == batch.errors
    with pytest.raises(
        UserError, match=r"none of its 2 images can be read \(.*0001.png: is no image of a known format"
    ):
        ImageFiles([items.files[1], items.files[4]], 6, store.kind, "skip").read_all()
