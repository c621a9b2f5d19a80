"""Crops of full photographs, against torchvision on the same photographs with the same boxes."""

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from sklearn.datasets import load_sample_images
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from siamese.augment.params import CROP_COLUMNS, crop_box, crop_boxes
from siamese.data.crops import CentralCrop, RandomCrops, Region, ViewCrop, cut, reduction, uniforms

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
VIEW = ViewCrop(224, SCALE, RATIO, "bicubic")
BOXES = [(3, 5, 371, 411), (40, 61, 90, 120), (100, 7, 30, 300), (0, 0, 375, 500), (10, 20, 224, 224)]
ODD_SIZES = [(500, 375), (375, 500), (333, 500), (640, 427), (224, 224), (100, 80)]  # width, height


@pytest.fixture(scope="module")
def photographs():
    """scikit-learn's two, (427, 640, 3) uint8."""
    return load_sample_images().images


@pytest.fixture(scope="module")
def photograph(photographs):
    return resized(photographs[0], 500, 375)


def resized(array, width, height):
    return np.array(Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS))


def tensor(array):
    """A copy, (C, H, W)."""
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)


def difference(x, y):
    """Mean absolute difference in values of the dtype."""
    assert x.shape == y.shape and x.dtype == y.dtype
    return float((x.double() - y.double()).abs().mean())


# Random numbers


def test_numbers_follow_from_their_key_alone_in_any_process():
    code = "from siamese.data.crops import uniforms; print(uniforms(2**32 - 1, 3, 12_345_678, 1))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = uniforms(2**32 - 1, 3, 12_345_678, 1)
    uniforms(0, 0, 0, 0)
    assert here == uniforms(2**32 - 1, 3, 12_345_678, 1) == eval(other)
    assert len(here) == CROP_COLUMNS + 1 and all(0 <= u < 1 for u in here)


def test_numbers_are_those_of_philox():
    """By the published recipe of Philox4x64-10, in Python's integers."""
    mask, numbers = 2**64 - 1, []
    for block in range(1, 7):  # NumPy counts before it draws
        x, key = [block, 1234, 1, 0], [7, 5]
        for _ in range(10):
            left, right = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(right >> 64) ^ x[1] ^ key[0], right & mask, (left >> 64) ^ x[3] ^ key[1], left & mask]
            key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
        numbers += [(word >> 40) / 2**24 for word in x]
    assert uniforms(7, 5, 1234, 1) == numbers[: CROP_COLUMNS + 1]


def test_numbers_are_uniform_and_independent():
    """Pairs of numbers on a 10 x 10 grid: along an index, an epoch, a view, a seed, and within a call."""
    drawn = {key: uniforms(*key) for key in itertools.product((0, 1), range(8), range(400), (0, 1))}
    assert len({tuple(u) for u in drawn.values()}) == len(drawn)
    neighbours = {"index": (0, 0, 1, 0), "epoch": (0, 1, 0, 0), "view": (0, 0, 0, 1), "seed": (1, 0, 0, 0)}
    p_values = []
    for step in neighbours.values():
        others = {key: tuple(k + s for k, s in zip(key, step, strict=True)) for key in drawn}
        pairs = [(drawn[a], drawn[b]) for a, b in others.items() if b in drawn]
        for column in (0, CROP_COLUMNS - 1, CROP_COLUMNS):
            cells = [int(10 * a[column]) * 10 + int(10 * b[column]) for a, b in pairs]
            p_values.append(chisquare(np.bincount(cells, minlength=100)).pvalue)
    for first in range(CROP_COLUMNS):
        cells = [int(10 * u[first]) * 10 + int(10 * u[first + 1]) for u in drawn.values()]
        p_values.append(chisquare(np.bincount(cells, minlength=100)).pvalue)
    assert min(p_values) > 0.01 / len(p_values)


def test_the_views_of_an_image_differ():
    cutter = RandomCrops(0, (VIEW, VIEW))
    boxes = [cutter.regions(375, 500, epoch, index) for epoch in range(3) for index in range(100)]
    assert all(a != b for a, b in boxes)
    tops = np.array([[r.top + r.height / 2 for r in pair] for pair in boxes])
    assert abs(np.corrcoef(tops.T)[0, 1]) < 0.15


def test_a_cutter_is_small_and_picklable():
    for cutter in (RandomCrops(3, (VIEW, VIEW)), CentralCrop(224, 0.875)):
        sent = pickle.dumps(cutter)
        assert len(sent) < 1000
        assert pickle.loads(sent).regions(375, 500, 2, 7) == cutter.regions(375, 500, 2, 7)


# The law of the boxes


SHAPES = [(375, 500), (500, 375), (60, 400), (1, 1), (3, 2), (20_000, 10), (10, 20_000)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_boxes_are_those_of_torchvision_for_the_same_random_numbers(monkeypatch, height, width):
    """Its random functions are given our numbers, in the order in which it asks."""
    numbers, places = iter(()), iter(())

    def uniform_(self, low, high):
        return self.fill_(float(low) + (float(high) - float(low)) * next(numbers))

    def randint(low, high, size):
        return torch.tensor([low + int((high - low) * next(places))])

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform_)
    monkeypatch.setattr(torch, "randint", randint)
    image, differ, fallbacks = torch.empty(3, 1, 1).expand(3, height, width), 0, 0
    for index in range(600):
        u = uniforms(0, 0, index, 0)[:CROP_COLUMNS]
        numbers, places = iter([n for pair in zip(u[:10], u[10:20], strict=True) for n in pair]), iter(u[20:])
        expected = list(RandomResizedCrop.get_params(image, SCALE, RATIO))
        fallbacks += next(places, None) == u[20]  # nothing was asked for
        expected[2:] = (max(1, n) for n in expected[2:])  # torchvision's fallback may have no pixel
        differ += tuple(expected) != crop_box(u, height, width, SCALE, RATIO)
    assert differ <= 1  # it computes in float32: a side may be rounded the other way
    assert (fallbacks > 0) == (max(height, width) > 5 * min(height, width))


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_one_box_is_the_batch_s(height, width):
    u = torch.rand(2000, CROP_COLUMNS, generator=torch.Generator().manual_seed(1))
    batch = crop_boxes(u, height, width, SCALE, RATIO)
    single = torch.tensor([crop_box(row, height, width, SCALE, RATIO) for row in u.tolist()])
    assert (batch != single).any(1).sum() <= 2  # float32 and float64 round a half differently
    assert (batch[:, 2:] - single[:, 2:]).abs().max() <= 1


def test_the_fallback_has_at_least_one_pixel():
    u = torch.full((1, CROP_COLUMNS), 0.5)
    for (height, width), ratio, box in [((1, 20), (0.1, 0.3), [0, 9, 1, 1]), ((20, 1), (3.0, 9.0), [9, 0, 1, 1])]:
        assert list(crop_box(u[0].tolist(), height, width, SCALE, ratio)) == box
        assert crop_boxes(u, height, width, SCALE, ratio)[0].tolist() == box


@pytest.mark.parametrize(("width", "height"), [(500, 375), (640, 427)])
def test_as_many_crops_are_enlarged_as_in_the_official_pipeline(width, height):
    """Enlarged: at least one side of the box is shorter than the view, or, by area, the box has fewer pixels."""
    torch.manual_seed(width)
    image, cutter = torch.empty(3, 1, 1).expand(3, height, width), RandomCrops(width, (VIEW,))
    official = np.array([RandomResizedCrop.get_params(image, SCALE, RATIO)[2:] for _ in range(40_000)])
    ours = np.array([(r.height, r.width) for i in range(80_000) for r in cutter.regions(height, width, 0, i)])
    for enlarged in (lambda b: b.min(1) < 224, lambda b: b.prod(1) < 224**2):
        assert abs(enlarged(ours).mean() - enlarged(official).mean()) < 0.01
    assert min(ks_2samp(ours[:, i], official[:, i]).pvalue for i in (0, 1)) > 0.001


# Pixels


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_crop_is_torchvision_s(photograph, dtype, channels, interpolation):
    pixels = np.take(photograph, np.arange(channels) % 3, 2)
    pixels[..., channels // 2] //= 2
    pixels, unit = {
        np.uint8: (pixels, 1), np.uint16: (pixels.astype(np.uint16) * 257, 257),
        np.float32: (pixels.astype(np.float32) / 255 - 0.4, 1 / 255),
    }[dtype]  # fmt: skip
    before = pixels.copy()
    for box in BOXES:
        mine = cut(pixels, Region(*box, 64, interpolation))
        image = tensor(pixels.astype(np.float32))
        theirs = TF.resized_crop(image, *box, [64, 64], InterpolationMode(interpolation), antialias=True)
        if dtype == np.uint8:
            official = TF.resized_crop(tensor(pixels), *box, [64, 64], InterpolationMode(interpolation), antialias=True)
            assert difference(mine, official) < 0.2  # torch 2.6 rounds otherwise
            assert difference(mine.float(), theirs.clamp(0, 255).round()) < 0.6 and mine.dtype == torch.uint8
        elif dtype == np.uint16:
            assert difference(mine.float(), theirs.clamp(0, 65535)) < 0.3 and mine.dtype == torch.uint16
        else:
            assert difference(mine, theirs) < 0.001 * unit
        assert mine.is_contiguous() and mine.shape == (channels, 64, 64)
    assert (pixels == before).all()


def test_the_bicubic_filter_overshoots_only_floats():
    edge = np.zeros((40, 40, 1), np.float32)
    edge[:, 20:] = 1
    region = Region(0, 0, 40, 40, 100, "bicubic")
    overshoot = cut(edge, region)
    assert overshoot.min() < -0.05 and overshoot.max() > 1.05
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        clipped = cut((edge * top).astype(dtype), region).double() / top
        assert difference(clipped, overshoot.clamp(0, 1).double()) < 0.001


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_fractional_box_is_that_of_an_enlarged_photograph(photograph, interpolation):
    """Each pixel repeated 4 x 4 times: a quarter of a pixel is whole there. The filter is then a little smoother."""
    large = photograph.repeat(4, 0).repeat(4, 1)
    for top, left, height, width in [(10.25, 20.5, 300.75, 350.25), (100.5, 50.75, 250.25, 240.5)]:
        mine = cut(photograph, Region(top, left, height, width, 64, interpolation))
        box = [int(4 * v) for v in (top, left, height, width)]
        theirs = TF.resized_crop(tensor(large), *box, [64, 64], InterpolationMode(interpolation), antialias=True)
        assert difference(mine, theirs) < 0.5


def test_a_pixel_partly_in_a_box_counts_by_that_part():
    """Half, whole and half of three pixels; the triangle's weights there are a half, one and a half."""
    line = np.array([60, 0, 15], np.float32).reshape(1, 3, 1)
    expected = (0.25 * 60 + 0.25 * 15) / 1.5
    assert cut(line, Region(0, 0.5, 1, 2, 1)).item() == pytest.approx(expected)
    assert cut(line.reshape(3, 1, 1), Region(0.5, 0, 2, 1, 1)).item() == pytest.approx(expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), ODD_SIZES)
def test_the_un_augmented_view_is_resize_256_and_crop_224(photographs, width, height, interpolation):
    official = v2.Compose([v2.Resize(256, InterpolationMode(interpolation), antialias=True), v2.CenterCrop(224)])
    for photograph in photographs:
        pixels = resized(photograph, width, height)
        (region,) = CentralCrop(224, 0.875, interpolation).regions(height, width)
        mine, unrounded = cut(pixels, region), official(tensor(pixels).float()).clamp(0, 255)
        assert difference(mine, official(tensor(pixels))) < 0.4
        assert (mine.float() - unrounded).abs().max() < 0.51


@pytest.mark.parametrize(("size", "center", "short"), [(224, 1.0, 224), (32, 0.875, 37), (96, 0.96, 100)])
def test_other_shares_of_the_short_side(photograph, size, center, short):
    official = v2.Compose([v2.Resize(short, antialias=True), v2.CenterCrop(size)])
    (region,) = CentralCrop(size, center).regions(375, 500)
    assert difference(cut(photograph, region), official(tensor(photograph))) < 0.4


def test_an_image_of_the_right_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert torch.equal(cut(pixels, CentralCrop(32, 1.0, "bicubic").regions(32, 32)[0]), tensor(pixels))


@pytest.mark.parametrize("degrees", [10.0, -35.5, 90.0, 180.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_rotated_crop_is_torchvision_s(photograph, degrees, dtype):
    pixels = photograph.astype(dtype)
    turned = TF.rotate(tensor(pixels).float(), degrees, InterpolationMode.BILINEAR)
    for box in BOXES:
        mine = cut(pixels, Region(*box, 64, "bilinear", degrees=degrees, centre=(187.5, 250)))
        theirs = TF.resized_crop(turned, *box, [64, 64], InterpolationMode.BILINEAR, antialias=True)
        assert difference(mine.float(), theirs) < 0.3


def test_a_box_outside_the_rotated_photograph_is_black():
    pixels = np.full((400, 20, 3), 200, np.uint8)
    region = Region(0, 0, 10, 20, 8, degrees=90.0, centre=(200, 10))
    assert cut(pixels, region).eq(0).all()


def test_rotations_are_drawn_uniformly_either_way():
    cutter = RandomCrops(0, (ViewCrop(224, SCALE, RATIO, "bilinear", 30.0), VIEW))
    regions = [cutter.regions(375, 500, 0, index) for index in range(2000)]
    degrees = np.array([r.degrees for r, _ in regions])
    assert chisquare(np.histogram(degrees, 10, (-30, 30))[0]).pvalue > 0.001 and abs(degrees).max() <= 30
    assert all(r.centre == (187.5, 250) for r, _ in regions) and all(r.degrees == 0 for _, r in regions)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20_000, 10), (10, 20_000), (1, 300), (2, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_extreme_photographs(height, width, dtype):
    pixels = np.full((height, width, 2), 77, dtype)
    rotated = ViewCrop(16, SCALE, RATIO, "bicubic", 20.0)
    cutters = [RandomCrops(0, (ViewCrop(16, SCALE, RATIO, "bicubic"), rotated)), CentralCrop(16, 0.875, "bicubic")]
    for index in range(5):
        for region in [r for cutter in cutters for r in cutter.regions(height, width, 0, index)]:
            picture = cut(pixels, region)
            assert picture.shape == (2, 16, 16)
            assert region.degrees or (picture.double() - 77).abs().max() < 1e-4


def test_arrays_that_are_read_only_or_mirrored(photograph):
    region = Region(10, 20, 200, 300, 64)
    expected = cut(photograph, region)
    frozen = photograph.copy()
    frozen.flags.writeable = False
    assert torch.equal(cut(frozen, region), expected)
    assert torch.equal(cut(photograph[::-1].copy()[::-1], region), expected)


def test_what_cannot_be_cut_is_refused(photograph):
    for box in [(-1, 0, 10, 10), (0, 491, 10, 10), (366, 0, 10, 10), (0, 0, 0, 10), (float("nan"), 0, 10, 10)]:
        with pytest.raises(ValueError, match="photograph"):
            cut(photograph, Region(*box, 8))
    for pixels in (photograph[..., 0], photograph.astype(np.float64), photograph[:0], photograph.astype(">u2")):
        with pytest.raises(ValueError, match="not \\(H, W, C\\) uint8, uint16 or float32"):
            cut(pixels, Region(0, 0, 1, 1, 8))
    with pytest.raises(ValueError, match="leaves its photograph"):
        cut(photograph, Region(0, 0, 375, 500, 8), 2.0)


# JPEG at a reduced scale


@pytest.fixture(scope="module")
def camera(photographs, tmp_path_factory):
    """JPEG files of 2 megapixels with fine texture: the photographs enlarged, plus noise and their own detail."""
    files, rng = [], np.random.default_rng(0)
    for i, photograph in enumerate(photographs):
        large = resized(photograph, 1603, 1197).astype(np.float32)
        detail = np.tile(photograph.astype(np.float32), (3, 3, 1))[:1197, :1603]
        detail -= resized(photograph, 80, 60).mean((0, 1))
        noisy = large + 0.25 * detail + rng.normal(0, 8, (1197, 1603, 1))
        files.append(tmp_path_factory.mktemp("camera") / f"{i}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


def decoded(file, r=1):
    with Image.open(file) as image:
        width, height = image.size
        if r > 1:
            image.draft("RGB", (width // r, height // r))  # the largest scale that is not smaller
        return np.array(image)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_reduced_decode_changes_no_crop_by_more_than_one_grey_level(camera, interpolation):
    reduced = set()
    for number, file in enumerate(camera):
        full = decoded(file)
        cutters = [RandomCrops(0, (ViewCrop(size, (0.2, 1.0), RATIO, interpolation),)) for size in (48, 96, 192)]
        cutters += [CentralCrop(size, 0.875, interpolation) for size in (48, 96, 192)]
        for cutter, index in itertools.product(cutters, range(3)):
            (region,) = cutter.regions(1197, 1603, number, index)
            r = reduction(1197, 1603, [region])
            if r == 1:
                continue
            reduced.add(r)
            small = decoded(file, r)
            assert small.shape[:2] == (-(-1197 // r), -(-1603 // r))
            assert difference(cut(small, region, 1 / r), cut(full, region)) < 0.8
    assert reduced == {2, 4, 8}


def test_a_rotated_crop_of_a_reduced_photograph(camera):
    full, small = decoded(camera[0]), decoded(camera[0], 4)
    region = Region(100, 200, 1001, 1202, 96, degrees=25.0, centre=(1197 / 2, 1603 / 2))
    assert reduction(1197, 1603, [region]) == 4
    assert difference(cut(small, region, 1 / 4), cut(full, region)) < 1


def test_reduction_is_that_of_the_smallest_box():
    large, small = Region(0, 0, 3000, 4000, 224), Region(0, 0, 1120, 1120, 224)
    assert reduction(3000, 4000, [large]) == 4  # 750 lines of 224
    assert reduction(3000, 4000, [large, small]) == 2
    assert reduction(3000, 4000, [large, Region(0, 0, 1119, 4000, 224)]) == 1
    assert reduction(3000, 4000, [large], turned=True) == 4
    assert reduction(3001, 4002, [large], turned=True) == 1 and reduction(3001, 4002, [large]) == 4
    assert reduction(3002, 4002, [large], turned=True) == 2


def test_outside_of_a_rotated_photograph_is_black_whatever_the_range():
    pixels = np.full((40, 40, 2), (500.0, -300.0), np.float32)
    region = Region(0, 0, 40, 40, 40, degrees=45.0, centre=(20.0, 20.0), black=(-1000.0, -400.0))
    turned = cut(pixels, region)
    assert turned[:, 0, 0].tolist() == [-1000.0, -400.0] and turned[:, 20, 20].tolist() == [500.0, -300.0]
    assert cut(pixels, Region(0, 0, 40, 40, 40, degrees=45.0, centre=(20.0, 20.0)))[:, 0, 0].tolist() == [0.0, 0.0]
