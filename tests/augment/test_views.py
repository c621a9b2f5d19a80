import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as tvf
from scipy import stats
from view_cases import FULL, HOW, PLAIN, batch, generator, make_view, needs_compiler

from siamese import factory
from siamese.augment import CleanView, View, Views, native
from siamese.augment.params import CROP_TRIES, crop_boxes
from siamese.errors import UserError


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("gray_first", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "kernel"), [(24, 5), (81, 23)])  # crops are enlarged, reduced, and both
def test_a_view_is_torchvisions_list_with_the_same_parameters(how, gray_first, mode, size, kernel):
    view = make_view(how, **{**FULL, "gray_first": gray_first, "size": size, "interpolation": mode,
                             "blur_kernel": kernel,
                             "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]})  # fmt: skip
    x = torch.randint(0, 256, (24, 3, 96, 77), dtype=torch.uint8)
    x[0], x[1, :, 40:] = 128, 0  # flat: hue and contrast have nothing to hold on to
    p = view.draw(len(x), 96, 77, generator())
    ours = (view.render(x, p) * view.std.view(3, 1, 1) + view.mean.view(3, 1, 1)) * 255
    functions = [tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue]
    for i in range(len(x)):
        kind = tvf.InterpolationMode(mode)
        y = tvf.resized_crop(x[i].float() / 255, *p.box[i].tolist(), [size, size], kind, antialias=True).clamp(0, 1)
        y = y.flip(-1) if p.flip[i] else y
        for step in ("gray", "jitter") if gray_first else ("jitter", "gray"):
            if step == "gray" and p.gray[i]:
                y = tvf.rgb_to_grayscale(y, 3)
            if step == "jitter" and p.jitter[i]:
                for k in p.order[i].tolist():
                    y = functions[k](y, p.factors[i, k].item())
        if p.blur[i]:
            y = tvf.gaussian_blur(y, [kernel, kernel], [p.sigma[i].item()] * 2)
        if p.solarize[i]:
            y = tvf.solarize(y, 0.5)
        assert (ours[i] - y * 255).abs().max() < 0.01


@needs_compiler
@pytest.mark.parametrize(
    ("height", "width", "changes"),
    [
        (20, 31, {"rotate_degrees": 40.0}),
        (20, 31, {"solarize_p": 1.0}),
        (13, 9, {"size": 12, "blur_p": 1.0, "blur_kernel": 23}),  # mirrored as far as the image goes
        (200, 7, {"size": 5}),
        (1, 1, {"size": 3}),
        (8, 8, {"size": 1, "blur_p": 0.0}),
    ],
)
def test_native_views_are_those_of_torch(height, width, changes):
    ours, reference = (make_view(how, **{**FULL, **changes}) for how in ("native", "torch"))
    x = torch.randint(0, 256, (40, 3, height, width), dtype=torch.uint8)
    p = reference.draw(len(x), height, width, generator())
    assert (ours.render(x, p) - reference.render(x, p)).abs().max() * 255 < 0.01
    strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as decoders lay them out
    assert torch.equal(ours.render(strided, p), ours.render(x, p))


@needs_compiler
def test_native_views_read_no_memory_of_others():
    view, x = make_view("native", **PLAIN), batch(4)
    p = view.draw(4, 32, 32, generator())
    with pytest.raises(ValueError, match="must have one channel or as many as the view"):
        view.render(x[:, :2], p)
    with pytest.raises(ValueError, match="boxes up to"):
        view.render(x[:, :, :8], p)


@needs_compiler
def test_native_views_do_not_depend_on_the_threads():
    view, x = make_view("native", **FULL), batch(37)
    p = view.draw(len(x), 32, 32, generator())
    before, made = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        made.append(view.render(x, p))
    torch.set_num_threads(before)
    assert all(torch.equal(m, made[0]) for m in made)


@needs_compiler
def test_the_library_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = native.library.__wrapped__
    build()
    (file,) = (tmp_path / "siamese").iterdir()  # and nothing beside it
    before = file.stat().st_mtime_ns
    build()
    assert file.stat().st_mtime_ns == before
    (tmp_path / "other" / "siamese").mkdir(parents=True)
    (tmp_path / "other" / "siamese" / file.name).write_bytes(b"damaged")
    with monkeypatch.context() as m:
        m.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        with pytest.raises(native.CompilerError, match=f"{file.name} cannot be made or loaded"):
            build()
    (tmp_path / "broken").write_text("#!/bin/sh\necho views.cpp: error: no such thing >&2\nexit 1")
    (tmp_path / "broken").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "broken"))
    with pytest.raises(native.CompilerError, match="broken failed: views.cpp: error: no such thing"):
        build()
    assert list((tmp_path / "siamese").iterdir()) == [file]


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


def test_the_clean_view_is_resized_as_the_crops_are(config):
    """Bicubically where SimCLR's and BYOL's papers do so, with overshoots cut off."""
    x = batch(2, 256)
    x[0, :, :, 100:] = 255  # an edge to overshoot at
    for mode in ("bilinear", "bicubic"):
        ours = CleanView(112, 1.0, [0.0] * 3, [1.0] * 3, mode)(x) * 255
        theirs = tvf.resize(x.float(), [112, 112], tvf.InterpolationMode(mode), antialias=True).clamp(0, 255)
        torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)
    assert factory.clean_view(config("augment=large/simclr")).interpolation == "bicubic"
    assert factory.clean_view(config("augment=large/moco_v2")).interpolation == "bilinear"


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
def test_impossible_values(built, wrong):
    with pytest.raises(UserError, match=f"augment.{list(wrong)[-1]}"):
        built("augment", "siamese.augment.View", **{**PLAIN, **wrong})


@needs_compiler
def test_compiling_is_chosen_by_the_length_of_the_run(built, monkeypatch):
    cpu = torch.device("cpu")
    views = Views(0, [{}, {}], **{**FULL, "compiled": "auto"})
    assert "not compiled" in views.prepare(1000, cpu)
    assert not any(v.compiled for v in views.views)
    assert ">= 1e+08" in views.prepare(10**6, cpu)
    assert all(v.compiled == "cpu" for v in views.views)
    told = Views(0, [{}], **{**FULL, "compiled": True})
    assert "augment.compiled=true" in told.prepare(1, cpu)
    assert told.views[0].compiled == "cpu"
    with pytest.raises(UserError, match="auto, true or false"):
        built("augment", "siamese.augment.View", **{**PLAIN, "compiled": "yes"})

    native.library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "not compiled (1e+10 pixels in the run >= 1e+08, but there is no C++ compiler" in views.prepare(10**7, cpu)
    assert not any(v.compiled for v in views.views)
    with pytest.raises(UserError, match="augment.compiled=true: there is no C.. compiler .*; install"):
        told.prepare(1, cpu)
