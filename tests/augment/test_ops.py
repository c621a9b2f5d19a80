"""Every operation against torchvision's functional one, image by image, with the same parameters."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torchvision.transforms.v2.functional import InterpolationMode

from siamese.augment import ops

GREY = 0.01 / 255  # a hundredth of a grey level of images in [0, 1]
N = 24


def images(size=33):
    x = torch.rand(N, 3, size, size)
    x[0] = 0.5  # a flat image: hue and contrast have nothing to hold on to
    x[1, :, :, : size // 2] = 0
    x[2, 1] = x[2, 0]  # ties of two channels
    x[3] = torch.rand(1, size, size)  # grey
    x[4] = (x[4] * 4).round() / 4  # exact 0 and 1, many ties
    return x


def each(function, x, *parameters):
    return torch.stack([function(x[i], *(p[i] for p in parameters)) for i in range(len(x))])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ops.adjust_brightness, tvf.adjust_brightness),
        (ops.adjust_contrast, tvf.adjust_contrast),
        (ops.adjust_saturation, tvf.adjust_saturation),
    ],
)
def test_blends(ours, theirs):
    x, factor = images(), torch.rand(N) * 2
    torch.testing.assert_close(ours(x, factor), each(lambda i, f: theirs(i, f.item()), x, factor), atol=GREY, rtol=0)


def test_hue():
    x, factor = images(), torch.rand(N) - 0.5
    expected = each(lambda i, f: tvf.adjust_hue(i, f.item()), x, factor)
    torch.testing.assert_close(ops.adjust_hue(x, factor), expected, atol=GREY, rtol=0)


def test_grayscale():
    x = images()
    torch.testing.assert_close(ops.grayscale(x), tvf.rgb_to_grayscale(x, 1), atol=GREY, rtol=0)


def test_jitter_in_each_samples_own_order():
    x = images()
    factors = torch.cat([torch.rand(N, 3) + 0.5, torch.rand(N, 1) * 0.4 - 0.2], 1)
    order = torch.rand(N, 4).argsort(1)
    functions = [tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue]

    def one(image, factor, sequence):
        for k in sequence.tolist():
            image = functions[k](image, factor[k].item())
        return image

    ours = ops.color_jitter(x, factors, order)
    torch.testing.assert_close(ours, each(one, x, factors, order), atol=GREY, rtol=0)


def test_jitter_without_hue():
    x, order = images(), torch.rand(N, 4).argsort(1)
    factors = torch.cat([torch.rand(N, 3) + 0.5, torch.zeros(N, 1)], 1)
    functions = [tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue]

    def one(image, factor, sequence):
        for k in sequence.tolist():
            image = functions[k](image, factor[k].item())
        return image

    torch.testing.assert_close(ops.color_jitter(x, factors, order), each(one, x, factors, order), atol=GREY, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [8, 33, 50])
def test_resized_crop_antialiased(mode, size):
    x = torch.randint(0, 256, (N, 3, 40, 33), dtype=torch.uint8)
    height, width = torch.randint(1, 41, (N,)), torch.randint(1, 34, (N,))
    height[0], width[0] = 40, 33
    height[1], width[1] = 1, 1
    top = (torch.rand(N) * (41 - height)).long()
    left = (torch.rand(N) * (34 - width)).long()
    boxes, flip = torch.stack([top, left, height, width], 1), torch.rand(N) < 0.5

    def one(image, box, mirrored):
        y = tvf.resized_crop(image.float(), *box.tolist(), [size, size], InterpolationMode(mode), antialias=True)
        return y.flip(-1) if mirrored else y

    ours = ops.resized_crop(x, boxes, size, mode, flip)
    torch.testing.assert_close(ours, each(one, x, boxes, flip), atol=0.01, rtol=0)


@pytest.mark.parametrize("kernel", [3, 23])
def test_blur(kernel):
    x, sigma = images(), torch.rand(N) * 1.9 + 0.1
    expected = each(lambda i, s: tvf.gaussian_blur(i, [kernel] * 2, [s.item()] * 2), x, sigma)
    torch.testing.assert_close(ops.gaussian_blur(x, sigma, kernel), expected, atol=GREY, rtol=0)


def test_solarize():
    x = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    torch.testing.assert_close(ops.solarize(x), tvf.solarize(x, 0.5), atol=0, rtol=0)
    eight_bit = tvf.solarize((x * 255).to(torch.uint8), 128)  # Pillow's threshold: 127 stays, 128 becomes 127
    torch.testing.assert_close((ops.solarize(x) * 255).round().to(torch.uint8), eight_bit, atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(16, 16), (24, 32)])
def test_rotate(shape):
    x, degrees = torch.rand(N, 3, *shape), torch.rand(N) * 60 - 30
    expected = each(lambda i, d: tvf.rotate(i, d.item(), InterpolationMode.BILINEAR), x, degrees)
    # torchvision builds its grid in another order of operations: a pixel's weight may differ by 1e-4
    torch.testing.assert_close(ops.rotate(x, degrees), expected, atol=GREY * 5, rtol=0)


def test_normalize():
    x, mean, std = images(), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    expected = tvf.normalize(x, mean, std)
    torch.testing.assert_close(ops.normalize(x.clone(), torch.tensor(mean), torch.tensor(std)), expected)
