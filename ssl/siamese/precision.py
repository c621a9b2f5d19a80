"""Float32 as float32: without TF32, whose mantissa has 10 bits of 23."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

FULL = "ieee"


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products and convolutions in full float32, on GPUs and CPUs; then the user's settings again. As a
    decorator, `@full_float32()`, for a whole function. What autograd computes later, in a backward pass, follows the
    user's settings, and so does what torch.compile traces, which cannot change them.

    torch 2.9 has settings of single operations. They are used there, since the older ones raise an error once a user
    has used the newer ones.
    """
    if torch.compiler.is_compiling():
        yield
        return
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):  # torch 2.9
        switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        before = [switch.fp32_precision for switch in switches]
        try:
            for switch in switches:
                switch.fp32_precision = FULL
            yield
        finally:
            for switch, precision in zip(switches, before, strict=True):
                switch.fp32_precision = precision
        return
    products, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        backends.cudnn.allow_tf32 = convolutions
