import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as tvf
from scipy import stats

from siamese.augment import CleanView, View, Views
from siamese.augment.views import CROP_TRIES, crop_boxes
from siamese.errors import UserError
from siamese.parallel import each

PLAIN = dict(
    size=24, crop_scale=[0.08, 1.0], crop_ratio=[3 / 4, 4 / 3], interpolation="bilinear", flip_p=0.0,
    jitter=[0.4, 0.4, 0.4, 0.1], jitter_p=0.0, gray_p=0.0, gray_first=False, blur_p=0.0, blur_sigma=[0.1, 2.0],
    blur_kernel=5, solarize_p=0.0, rotate_degrees=0.0, mean=[0.0] * 3, std=[1.0] * 3,
)  # fmt: skip
FULL = {**PLAIN, "flip_p": 0.5, "jitter_p": 0.8, "gray_p": 0.2, "blur_p": 0.5, "solarize_p": 0.2}


def batch(n=16, size=32):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("gray_first", [False, True])
@pytest.mark.parametrize(("size", "tolerance"), [(24, 0.01), (80, 1.01)])  # above 64 the crop works in uint8
def test_a_view_is_torchvisions_list_with_the_same_parameters(gray_first, size, tolerance):
    view = View(**{**FULL, "gray_first": gray_first, "size": size, "solarize_p": 0.0})
    x = batch(size=96)
    p = view.draw(len(x), 96, 96, generator())
    ours = view.render(x, p) * 255
    functions = [tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue]
    for i in range(len(x)):
        y = tvf.resized_crop(x[i].float() / 255, *p.box[i].tolist(), [size, size], antialias=True)
        y = y.flip(-1) if p.flip[i] else y
        for step in ("gray", "jitter") if gray_first else ("jitter", "gray"):
            if step == "gray" and p.gray[i]:
                y = tvf.rgb_to_grayscale(y, 3)
            if step == "jitter" and p.jitter[i]:
                for k in p.order[i].tolist():
                    y = functions[k](y, p.factors[i, k].item())
        if p.blur[i]:
            y = tvf.gaussian_blur(y, [5, 5], [p.sigma[i].item()] * 2)
        difference = (ours[i] - y * 255).abs()
        if size > 64:  # a hue may jump where rounding changes which channel is the largest
            assert difference.mean() < 0.6
        else:
            assert difference.max() < tolerance


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_8_bit_crop_is_within_one_grey_level(mode):
    view = View(**{**PLAIN, "size": 80, "interpolation": mode})
    smooth = torch.nn.functional.interpolate(torch.rand(16, 3, 12, 12), size=96, mode="bilinear")
    x = (smooth * 215 + 20).to(torch.uint8)  # on noise 8-bit bicubic, also Pillow's, cuts overshoots between its passes
    p = view.draw(len(x), 96, 96, generator())
    ours = view.render(x, p) * 255
    kind = tvf.InterpolationMode(mode)
    expected = torch.stack(
        [tvf.resized_crop(x[i].float(), *p.box[i].tolist(), [80, 80], kind, antialias=True) for i in range(len(x))]
    )
    assert (ours - expected).abs().max() <= {"bilinear": 1.0001, "bicubic": 1.1}[mode]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 20)])
def test_crops_are_distributed_as_torchvisions(height, width):
    scale, ratio, n = (0.08, 1.0), (3 / 4, 4 / 3), 4000
    torch.manual_seed(1)
    transform = T.RandomResizedCrop(8, scale, ratio)
    image = torch.zeros(3, height, width)
    reference = [transform.make_params([image]) for _ in range(n)]
    theirs = np.array([[r["top"], r["left"], r["height"], r["width"]] for r in reference])
    uniform = torch.rand(n, 2 * CROP_TRIES + 2, generator=generator(2))
    ours = crop_boxes(uniform, height, width, scale, ratio).numpy()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01, column
    area = [(b[:, 2] * b[:, 3]) for b in (ours, theirs)]
    assert stats.ks_2samp(*area).pvalue > 0.01
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width


def test_where_no_crop_fits_the_central_one_is_taken():
    x = torch.zeros(3, 10, 100)
    theirs = T.RandomResizedCrop(8, (1.0, 1.0), (0.9, 1.1)).make_params([x])
    ours = crop_boxes(torch.rand(3, 2 * CROP_TRIES + 2), 10, 100, (1.0, 1.0), (0.9, 1.1))
    assert ours.tolist() == [[theirs[k] for k in ("top", "left", "height", "width")]] * 3


def test_crops_undo_the_squeeze_of_a_photograph():
    """A 200 x 100 photograph squeezed into a square: crops have their ratio in the photograph."""
    uniform = torch.rand(3000, 2 * CROP_TRIES + 2, generator=generator())
    boxes = crop_boxes(uniform, 256, 256, (0.1, 0.3), (0.99, 1.01), torch.full((3000,), 2.0)).float()
    ratio = boxes[:, 3] / boxes[:, 2] * 2  # width / height in the photograph
    assert ratio.min() > 0.93
    assert ratio.max() < 1.07
    area = boxes[:, 2] * boxes[:, 3] / 256**2
    assert area.min() > 0.09
    assert area.max() < 0.31


def test_parameters_have_torchvisions_bounds_and_probabilities():
    view = View(**{**FULL, "rotate_degrees": 15.0})
    n = 10_000
    p = view.draw(n, 32, 32, generator())
    for name, probability in (("flip", 0.5), ("jitter", 0.8), ("gray", 0.2), ("blur", 0.5), ("solarize", 0.2)):
        count = int(getattr(p, name).sum())
        assert stats.binomtest(count, n, probability).pvalue > 0.001, name
    jitter = T.ColorJitter(0.4, 0.4, 0.4, 0.1)
    for column, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        low, high = getattr(jitter, name)
        assert stats.kstest(p.factors[:, column], "uniform", (low, high - low)).pvalue > 0.001, name
    assert stats.kstest(p.sigma, "uniform", (0.1, 1.9)).pvalue > 0.001
    assert stats.kstest(p.degrees, "uniform", (-15, 30)).pvalue > 0.001
    orders, counts = p.order.unique(dim=0, return_counts=True)
    assert len(orders) == math.factorial(4)
    assert stats.chisquare(counts).pvalue > 0.001
    for a, b in ((p.box[:, 0], p.flip), (p.jitter, p.gray), (p.blur, p.solarize), (p.flip, p.jitter)):
        assert abs(np.corrcoef(a.float(), b.float())[0, 1]) < 0.04  # drawn apart


def test_a_strength_above_one_stops_at_zero():
    p = View(**{**FULL, "jitter": [1.5, 1.5, 1.5, 0.5]}).draw(1000, 8, 8, generator())
    assert p.factors[:, :3].min() >= 0
    assert p.factors[:, :3].max() > 2


def test_views_differ_and_repeat_with_the_seed():
    x = batch(8)
    x[:] = x[0]  # one image eight times
    first = Views(0, [{}, {}], **FULL)(x)
    assert first[0].shape == (8, 3, 24, 24)
    flat = torch.cat(first).flatten(1)
    assert torch.pdist(flat).min() > 0.1  # views of one image differ, and so do images of one batch
    again = Views(0, [{}, {}], **FULL)(x)
    torch.testing.assert_close(again, first, atol=0, rtol=0)
    other = Views(1, [{}, {}], **FULL)(x)
    assert not torch.equal(other[0], first[0])


def test_ranks_draw_apart():
    views = Views(0, [{}], **FULL)
    x = batch()
    views.start(rank=0)
    a = views(x)[0]
    views.start(rank=1)
    assert not torch.equal(views(x)[0], a)


def test_the_generator_is_in_the_state_dict():
    x, views = batch(), Views(3, [{}, {}], **FULL)
    views(x)
    state = views.state_dict()
    expected = views(x)
    other = Views(9, [{}, {}], **FULL)
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), expected, atol=0, rtol=0)


def test_global_randomness_plays_no_part():
    x = batch()
    torch.manual_seed(1)
    np.random.seed(1)
    a = Views(0, [{}], **FULL)(x)[0]
    torch.manual_seed(2)
    np.random.seed(2)
    torch.testing.assert_close(Views(0, [{}], **FULL)(x)[0], a, atol=0, rtol=0)


def test_asymmetric_views_are_not_swapped():
    views = Views(0, [{"blur_p": 1.0}, {"blur_p": 0.0, "solarize_p": 1.0}], **PLAIN)
    p = [view.draw(100, 32, 32, views.generator) for view in views.views]
    assert p[0].blur.all()
    assert not p[0].solarize.any()
    assert not p[1].blur.any()
    assert p[1].solarize.all()


def test_the_clean_view_of_a_fitting_image_changes_no_pixel():
    x = batch()
    y = CleanView(32, 1.0, [0.0] * 3, [1.0] * 3)(x)
    torch.testing.assert_close(y * 255, x.float())


def test_the_clean_view_is_resize_and_center_crop():
    x = batch(2, 256)
    ours = CleanView(224, 0.875, [0.0] * 3, [1.0] * 3)(x) * 255
    torch.testing.assert_close(ours, tvf.center_crop(x, [224, 224]).float(), atol=0.01, rtol=0)


def test_the_clean_view_undoes_the_squeeze():
    """A photograph of 2:1 squeezed to a square: the central square of the photograph is half as wide."""
    x = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    x[..., 16:48] = 255
    y = CleanView(32, 1.0, [0.0] * 3, [1.0] * 3)(x, torch.tensor([2.0]))
    assert y.min() > 0.99


@pytest.mark.parametrize(
    "wrong",
    [{"flip_p": 1.5}, {"crop_scale": [0.0, 1.0]}, {"interpolation": "nearest"}, {"blur_p": 1.0, "blur_kernel": 4},
     {"jitter": [0.4, 0.4, 0.4, 0.6]}],
)  # fmt: skip
def test_impossible_values(wrong):
    with pytest.raises(UserError, match=f"augment.{list(wrong)[-1]}"):
        View(**{**PLAIN, **wrong})


def test_compiling_is_chosen_by_the_length_of_the_run(monkeypatch):
    views = Views(0, [{}, {}], **{**FULL, "compiled": "auto"})
    assert not any(v.compiled for v in views.views)
    assert "not compiled" in views.compile_if_long(1000)
    assert ">= 5e+09" in views.compile_if_long(10**8)
    assert all(v.compiled for v in views.views)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in views.compile_if_long(10**8)
    assert not any(v.compiled for v in views.views)
    told = Views(0, [{}], **{**FULL, "compiled": True})
    assert "as augment.compiled says" in told.compile_if_long(1)
    assert told.views[0].compiled
    with pytest.raises(UserError, match="auto, true or false"):
        View(**{**PLAIN, "compiled": "yes"})


def test_each_reaches_every_sample_once_and_reports_errors():
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        seen = []
        each(seen.append, 37)
        assert sorted(seen) == list(range(37))
        with pytest.raises(ZeroDivisionError):
            each(lambda i: 1 // (i - 3), 8)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
