"""Views of 1, 3, 4 and 13 channels and of 8, 16 and 32 bits, against operations of other libraries in float64."""

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as tvf
from view_cases import FULL, HOW, PLAIN, generator, make_view, needs_triton, replace

from siamese.augment import CleanView
from siamese.errors import UserError

KINDS = {"uint8": (0.0, 255.0), "uint16": (300.0, 9000.0), "float32": (-2.5, 7.5)}
COUNT, SIDE, SIZE = 6, 20, 12


def images(channels, kind):
    """Images whose values go beyond the range, unless they are of 8 bits."""
    low, high = KINDS[kind]
    beyond = 0 if kind == "uint8" else 0.1 * (high - low)
    x = np.random.default_rng(channels).uniform(low - beyond, high + beyond, (COUNT, channels, SIDE, SIDE))
    return torch.from_numpy(x.clip(0) if kind == "uint16" else x).to(getattr(torch, kind))


def in_range(x, kind):
    """float64 in [0, 1]."""
    low, high = KINDS[kind]
    return ((x.double() - low) / (high - low)).clamp(0, 1)


def settings(channels, kind, **changes):
    rng = np.random.default_rng(1)
    scale = {"mean": rng.uniform(0.2, 0.8, channels).tolist(), "std": rng.uniform(0.1, 0.9, channels).tolist()}
    return {**PLAIN, "size": SIZE, **scale, "value_range": KINDS[kind], **changes}


def normalised(x, view):
    return (x - view.mean.double().view(-1, 1, 1)) / view.std.double().view(-1, 1, 1)


def cropped(x, box, interpolation):
    """(C, H, W) float64, cut and resized by torch's antialiased interpolation in float64."""
    top, left, height, width = box.tolist()
    part = x[None, :, top : top + height, left : left + width]
    return F.interpolate(part, (SIZE, SIZE), mode=interpolation, antialias=True)[0].clamp(0, 1)


def jittered(x, factors, order):
    for kind in order.tolist():
        factor = factors[kind].item()
        if len(x) == 3:
            adjust = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)[kind]
            x = adjust(x, factor)
        elif kind == 0:
            x = (x * factor).clamp(0, 1)
        elif kind == 1:
            x = (x * factor + (1 - factor) * x.mean((1, 2), keepdim=True)).clamp(0, 1)
    return x


def blurred(x, sigma, kernel):
    """scipy's Gaussian; `mirror` does not repeat the border's pixel."""
    radius = kernel // 2
    planes = [scipy.ndimage.gaussian_filter(p, sigma, mode="mirror", radius=radius) for p in x.numpy()]
    return torch.from_numpy(np.stack(planes))


def reference(view, x, p, kind, interpolation, kernel):
    out = []
    for i, image in enumerate(in_range(x, kind)):
        y = cropped(image, p.box[i], interpolation)
        y = y.flip(2) if p.flip[i] else y
        y = jittered(y, p.factors[i].double(), p.order[i]) if p.jitter[i] else y
        if len(y) == 3 and p.gray[i]:
            y = tvf.rgb_to_grayscale(y, 3)
        y = blurred(y, p.sigma[i].item(), kernel) if p.blur[i] else y
        if len(y) == 3 and p.solarize[i]:
            y = tvf.solarize(y, 0.5)
        if p.drop[i] >= 0:
            y[p.drop[i]] = 0
        out.append(normalised(y, view))
    return torch.stack(out)


def assert_matches_other_libraries(how, kind, channels, interpolation):
    x = images(channels, kind)
    view = make_view(how, **settings(
        channels, kind, interpolation=interpolation, flip_p=0.5, jitter_p=0.7, gray_p=0.5, blur_p=0.5, solarize_p=0.5,
        channel_drop_p=0.5 if channels > 1 else 0.0,
    ))  # fmt: skip
    p = view.draw(COUNT, SIDE, SIDE, generator(3))
    if channels > 1:
        p = replace(p, drop=torch.tensor([-1, 0, channels - 1, -1, channels // 2, -1]))
    expected = reference(view, x, p, kind, interpolation, PLAIN["blur_kernel"])
    grey_levels = (view.render(x, p).double() - expected) * view.std.double().view(-1, 1, 1) * 255
    assert grey_levels.abs().max() < 0.01


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_all_operations_match_other_libraries_in_float64(how, kind, channels, interpolation):
    assert_matches_other_libraries(how, kind, channels, interpolation)


@needs_triton
@pytest.mark.parametrize(
    ("kind", "channels", "interpolation"),
    [
        ("float32", 1, "bicubic"),
        ("uint8", 3, "bicubic"),
        ("uint16", 4, "bilinear"),
    ],  # each takes the interpreter seconds
)
def test_the_kernels_of_a_gpu_match_other_libraries_in_float64(kind, channels, interpolation):
    assert_matches_other_libraries("triton", kind, channels, interpolation)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_rotation_is_black_outside_whatever_the_range(how, kind):
    x = images(4, kind)
    turned, plain = (make_view(how, **settings(4, kind, size=SIDE, rotate_degrees=d)) for d in (180.0, 0.0))
    p = plain.draw(COUNT, SIDE, SIDE, generator())
    p = replace(p, box=torch.tensor([[0, 0, SIDE, SIDE]]).repeat(COUNT, 1))
    half = turned.render(x, replace(p, degrees=torch.full((COUNT,), 180.0)))
    assert (half - plain.render(x, p).flip(2, 3)).abs().max() * 255 < 0.1
    corner = turned.render(x, replace(p, degrees=torch.full((COUNT,), 45.0)))[:, :, 0, 0]
    torch.testing.assert_close(corner, (-turned.mean / turned.std).expand(COUNT, -1))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("value_range", [None, [[0, 255], [0, 510], [-100, 300]]])
def test_one_channel_is_repeated_for_colour(how, value_range):
    x = images(1, "uint8")
    ranged = {} if value_range is None else {"value_range": value_range}
    view = make_view(how, **{**FULL, "size": SIZE, "channel_drop_p": 0.3, **ranged})
    p = view.draw(COUNT, SIDE, SIDE, generator())
    torch.testing.assert_close(view.render(x, p), view.render(x.repeat(1, 3, 1, 1), p), atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_the_unaugmented_view_has_every_channel(channels, kind):
    x = images(channels, kind)
    changed = settings(channels, kind)
    for size, center in ((SIDE, 1.0), (SIZE, 0.8)):
        view = CleanView(size, center, changed["mean"], changed["std"], "bilinear", changed["value_range"])
        side = round(center * SIDE)
        edge = (SIDE - side) // 2
        part = in_range(x, kind)[:, :, edge : edge + side, edge : edge + side]
        expected = normalised(F.interpolate(part, (size, size), mode="bilinear", antialias=True), view)
        torch.testing.assert_close(view(x).double(), expected, atol=1e-5, rtol=0)


def test_what_needs_colour_is_left_out_and_named():
    view = make_view("torch", **{**FULL, "mean": [0.5] * 4, "std": [0.5] * 4})
    assert set(view.left_out) == {"saturation", "hue", "gray", "solarize"}
    p = view.draw(200, SIDE, SIDE, generator())
    assert not p.gray.any() and not p.solarize.any() and p.jitter.any()
    assert bool((p.factors[:, 2] == 1).all()) and not p.factors[:, 3].any()
    assert make_view("torch", **FULL).left_out == ()
    assert make_view("torch", **{**PLAIN, "mean": [0.5], "std": [0.5]}).left_out == ()


@pytest.mark.parametrize("channels", [2, 13])
def test_every_channel_is_dropped_as_often(channels):
    view = make_view("torch", **settings(channels, "uint8", channel_drop_p=0.6))
    drop = view.draw(20_000, SIDE, SIDE, generator()).drop
    share = drop.add(1).bincount(minlength=channels + 1) / 20_000
    expected = torch.tensor([0.4, *[0.6 / channels] * channels])
    assert (share - expected).abs().max() < 0.015


def test_settings_of_other_numbers_of_channels_are_refused():
    with pytest.raises(UserError, match="augment.mean=.*: 2 means, 3 standard deviations, 2 ranges; give one of each"):
        make_view("torch", **{**PLAIN, "mean": [0.0, 0.0]})
    with pytest.raises(UserError, match=r"augment.mean=.*: 3 means, 3 standard deviations, 2 ranges"):
        make_view("torch", **PLAIN, value_range=[[0.0, 1.0], [0.0, 2.0]])
    with pytest.raises(UserError, match="augment.channel_drop_p=0.5: the images have one channel"):
        make_view("torch", **{**PLAIN, "mean": [0.0], "std": [1.0], "channel_drop_p": 0.5})
    with pytest.raises(ValueError, match="the images have 4 channels, the view has 3"):
        make_view("torch", **PLAIN)(images(4, "uint8"), generator())
