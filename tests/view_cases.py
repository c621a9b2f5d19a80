"""Views for tests: settings, batches, and how they are rendered."""

import functools
import importlib.util
import shutil

import pytest
import torch

from siamese.augment import View
from siamese.augment.params import ViewParams

PLAIN = dict(
    size=24, crop_scale=[0.08, 1.0], crop_ratio=[3 / 4, 4 / 3], interpolation="bilinear", flip_p=0.0,
    jitter=[0.4, 0.4, 0.4, 0.1], jitter_p=0.0, gray_p=0.0, gray_first=False, blur_p=0.0, blur_sigma=[0.1, 2.0],
    blur_kernel=5, solarize_p=0.0, rotate_degrees=0.0, mean=[0.0] * 3, std=[1.0] * 3,
)  # fmt: skip
FULL = {**PLAIN, "flip_p": 0.5, "jitter_p": 0.8, "gray_p": 0.2, "blur_p": 0.5, "solarize_p": 0.2}

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="views.cpp needs a C++ compiler")
HOW = ["torch", pytest.param("native", marks=needs_compiler)]
if torch.cuda.is_available():  # elsewhere Triton's interpreter would take a minute
    HOW.append(pytest.param("triton", marks=needs_triton))


def batch(n=16, size=32):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_view(how, **arguments):
    view = View(**arguments)
    view.compiled = "cpu" if how == "native" else ""
    if how == "triton":
        view.render = functools.partial(by_triton, view)
    return view


def by_triton(view, images, params):
    """The view by the kernels of a GPU: on one, or by Triton's interpreter (conftest.py)."""
    from siamese.augment import gpu

    device = "cuda" if torch.cuda.is_available() else "cpu"
    scale = {name: getattr(view, name).to(device) for name in ("low", "high", "mean", "std")}
    return gpu.render(images.to(device), params, view.operations, view.size, scale).cpu()


def replace(params, **changes):
    """The parameters with some of them changed."""
    return ViewParams(**{**vars(params), **changes})
