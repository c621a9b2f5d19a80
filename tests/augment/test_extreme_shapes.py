"""Images of any shape have crops of a pixel at least, inside the image, and views that are finite."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
from view_cases import FULL, HOW, generator, make_view

from siamese.augment import CleanView
from siamese.augment.params import CROP_TRIES, crop_boxes

SHAPES = [(1, 1), (1, 2), (1, 4000), (4000, 1), (2000, 10), (10, 2000), (2, 4000), (3, 3), (32, 32), (375, 500)]


def is_inside(boxes, height, width):
    top, left, box_height, box_width = boxes.unbind(1)
    fits = (top >= 0) & (left >= 0) & (box_height >= 1) & (box_width >= 1)
    return bool((fits & (top + box_height <= height) & (left + box_width <= width)).all())


def any_settings(random):
    """A shape, crop_scale, crop_ratio and photographs' aspect ratios (or None), often extreme."""
    shape = SHAPES[random.integers(len(SHAPES))] if random.random() < 0.5 else random.integers(1, 300, 2).tolist()
    scale = np.sort(random.choice([random.random(), 1e-6, 0.08, 1.0], 2)).tolist()
    ratio = np.sort(np.exp(random.uniform(-8, 8, 2) if random.random() < 0.5 else random.uniform(-0.3, 0.3, 2)))
    aspect_ratio = torch.exp(torch.empty(64).uniform_(-9, 9)) if random.random() < 0.5 else None
    return (*shape, scale, ratio.tolist(), aspect_ratio)


def test_every_crop_has_a_pixel_and_lies_in_its_image():
    random = np.random.default_rng(0)
    for _ in range(1500):
        height, width, scale, ratio, aspect_ratio = any_settings(random)
        uniform = torch.rand(64, 2 * CROP_TRIES + 2)
        uniform[:2] = torch.tensor([[0.0], [1 - 2**-24]])  # the ends of what torch.rand draws
        boxes = crop_boxes(uniform, height, width, scale, ratio, aspect_ratio)
        assert is_inside(boxes, height, width), (height, width, scale, ratio)


def test_where_no_crop_fits_it_is_torchvisions_or_a_pixel():
    """Shapes so far outside the allowed ratios that no try of torchvision's fits; its own fallback can be empty."""
    random, empty = np.random.default_rng(1), 0
    for _ in range(300):
        height, width = SHAPES[random.integers(len(SHAPES))] if random.random() < 0.3 else random.integers(1, 3000, 2)
        height, width = int(height), int(width)
        ratio = sorted(np.exp(random.uniform(-7, 7, 2)).tolist())
        if ratio[0] / 5 < width / height < 5 * ratio[1]:
            continue
        theirs = T.RandomResizedCrop(8, (1.0, 1.0), ratio).make_params([torch.empty(3, height, width, device="meta")])
        high, wide = max(theirs["height"], 1), max(theirs["width"], 1)
        empty += theirs["height"] * theirs["width"] == 0
        ours = crop_boxes(torch.rand(2, 2 * CROP_TRIES + 2), height, width, (1.0, 1.0), ratio)
        assert ours.tolist() == [[(height - high) // 2, (width - wide) // 2, high, wide]] * 2
    assert empty > 10


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_views_of_any_shape_are_colours(how, mode, height, width):
    view = make_view(how, **{**FULL, "interpolation": mode, "rotate_degrees": 20.0})
    x = torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8)
    for aspect_ratio in (None, torch.tensor([200.0, 1 / 200, 3000.0, 1 / 3000])):
        y = view.render(x, view.draw(4, height, width, generator(), aspect_ratio))
        assert y.isfinite().all()
        assert y.min() > -1e-5 and y.max() < 1 + 1e-5


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_clean_views_of_any_shape_are_colours(mode, height, width):
    x = torch.randint(0, 256, (6, 3, height, width), dtype=torch.uint8)
    for center in (0.01, 0.875, 1.0):
        for aspect_ratio in (None, torch.tensor([200.0, 1 / 200, 1e6, 1e-6, 31.9, 1.0])):
            y = CleanView(24, center, [0.0] * 3, [1.0] * 3, mode)(x, aspect_ratio)
            assert y.isfinite().all(), (center, aspect_ratio)
            assert y.min() >= 0 and y.max() < 1 + 1e-5


def test_a_clean_view_thinner_than_a_pixel_is_the_central_pixel():
    """Of a photograph of 200:1 squeezed to a square, the central square is a line of pixels wide."""
    for width, middle in ((32, 15), (33, 16)):
        x = torch.zeros(1, 3, 32, width, dtype=torch.uint8)
        x[..., middle] = 255
        assert CleanView(8, 1.0, [0.0] * 3, [1.0] * 3)(x, torch.tensor([200.0])).min() > 0.999
