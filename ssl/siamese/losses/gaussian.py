"""Losses that keep projections from collapsing by making them an isotropic Gaussian, judged along random directions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamese.distributed import AllReduce, gather_with_grad, world_size
from siamese.losses.precision import full_precision, in_full_precision
from siamese.schema.types import AtLeastTwo, Count, NonNegative, Positive


def keyed_generator(key: Sequence[int], device: torch.device) -> torch.Generator:
    """Random numbers that are a function of the key alone, on all ranks and in a resumed run alike."""
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(list(key)).generate_state(1)[0]))


def random_slices(dim: int, count: int, key: Sequence[int], like: Tensor) -> Tensor:
    """(D, S) random unit columns, uniform on the sphere: a function of the key alone, so that all ranks and a resumed
    run have the same ones. On the device and in the number format of `like`; a GPU's differ from a CPU's."""
    generator = keyed_generator(key, like.device)
    slices = torch.randn(dim, count, generator=generator, device=like.device, dtype=like.dtype)
    return slices / slices.norm(dim=0)


def view_spread(z: Tensor, centre: Tensor) -> Tensor:
    """LeJEPA's prediction loss (arXiv:2511.08544, algorithm 2): the mean squared difference of all views from the
    centre, over images and dimensions; the paper's equation 7 sums over the dimensions.

    Args:
        z: (V, N, D) projections; centre: (N, D). The gradient flows through both.
    """
    with in_full_precision(z):
        return (full_precision(centre) - full_precision(z)).square().mean()


# lightly's SIGReg under autocast gives bfloat16 (gradient off by 0.5 %), and with several ranks waits for the device.
def sigreg(
    z: Tensor,
    key: Sequence[int],
    slices: Count,
    knots: AtLeastTwo,
    t_max: Positive,
    pool_views: bool = False,
    times_samples: bool = True,
) -> Tensor:
    """Sketched isotropic Gaussian regularisation (LeJEPA, arXiv:2511.08544, algorithm 1): the Epps-Pulley statistic,
    N times the integral over [-t_max, t_max] of |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), phi_N the empirical
    characteristic function of the N images of all ranks along a slice; the mean over views and slices.

    Args:
        z: (V, N, D) projections; all views have the same slices, as in the paper.
        key: of `random_slices`.
        slices: S directions.
        knots: of the trapezoidal rule on [0, t_max]; the integrand is even (section 5.1).
        t_max: 5 in the paper, 3 in lightly and stable-pretraining.
        pool_views: one statistic of all V * N projections (stable-pretraining) in place of the mean of V statistics.
        times_samples: the factor N, or V * N of pooled views. LeWorldModel (arXiv:2603.19312) leaves it out.

    Returns:
        A scalar. For Gaussian samples about sqrt(2 pi) - sqrt(2 pi / 3) = 1.06, whatever N is.
    """
    with in_full_precision(z):
        z = full_precision(z)
        if pool_views:
            z = z.flatten(0, 1).unsqueeze(0)
        samples = z.shape[1] * world_size()
        x = z @ random_slices(z.shape[-1], slices, key, z)  # (V, N, S)
        step = t_max / (knots - 1)
        sums = _Waves.apply(x, step, knots)  # type: ignore[no-untyped-call]  # (2, knots, V, S)
        if world_size() > 1:
            sums = AllReduce.apply(sums)  # type: ignore[no-untyped-call]
        cosine, sine = sums / samples
        t = step * torch.arange(knots, device=z.device, dtype=z.dtype).view(-1, 1, 1)
        gaussian = (-t.square() / 2).exp()
        error = ((cosine - gaussian).square() + sine.square()) * gaussian
        statistic = 2 * step * (error.sum(0) - (error[0] + error[-1]) / 2)
        return statistic.mean() * (samples if times_samples else 1)


class _Waves(torch.autograd.Function):
    """The sums over images of cos(k s x) and sin(k s x), k = 0 ... knots - 1, as powers of exp(i s x): on a CPU faster
    than sines of all knots, and what is kept for the gradient does not grow with the knots."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float, knots: int) -> Tensor:
        ctx.step = step
        wave = torch.polar(torch.ones_like(x), step * x)
        ctx.save_for_backward(wave)
        sums = [torch.full_like(wave[:, 0], x.shape[1])]
        power = wave.clone()
        for k in range(1, knots):
            sums.append(power.sum(1))
            if k < knots - 1:
                power.mul_(wave)
        return torch.view_as_real(torch.stack(sums)).movedim(-1, 0).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (wave,) = ctx.saved_tensors
        # d/dx of a cos(k s x) + b sin(k s x) is -k s times the imaginary part of (a - i b) exp(i k s x); Horner's rule.
        total = torch.zeros_like(wave)
        for k in range(grad.shape[1] - 1, 0, -1):
            total.add_(torch.complex(grad[0, k], -grad[1, k]).mul_(k).unsqueeze(1)).mul_(wave)
        return total.imag * -ctx.step, None, None


# lightly's VISRegLoss draws slices of its own on each rank: two processes differ from one (gradient off by 41 %). Under
# bfloat16 autocast its gradient is off by 5 %.
def visreg(
    z: Tensor,
    key: Sequence[int],
    slices: Count,
    scale: NonNegative,
    shape: NonNegative,
    center: NonNegative,
    eps: Positive = 1e-4,
) -> Tensor:
    """VISReg (arXiv:2606.02572): for each view, the mean of a dimension is to be 0 (equation 6), its standard deviation
    1 (equation 1), and the standardised projections along random slices are to have a Gaussian's quantiles, which is
    the sliced Wasserstein distance (equations 2 and 5). Batch statistics are of all ranks.

    Args:
        z: (V, N, D) projections.
        key: of `random_slices`.
        slices: S directions.
        scale, shape, center: weights of the three terms.
        eps: added to the standard deviation by which the shape's projections are divided.
    """
    with in_full_precision(z):
        z = gather_with_grad(full_precision(z).transpose(0, 1)).transpose(0, 1)  # (V, M, D), M images of all ranks
        mean = z.mean(1, keepdim=True)
        centred = z - mean
        m = z.shape[1]
        std = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / m**0.5  # its gradient at 0 is 0, not NaN
        # The slope of the shape does not reach the scale: no gradient through the divisor.
        x = (centred / (std.detach() + eps)) @ random_slices(z.shape[-1], slices, key, z)
        far = (x.sort(dim=1).values - normal_quantiles(m, z.device, z.dtype)).square().mean()
        return center * mean.square().mean() + scale * (1 - std).square().mean() + shape * far


# Once and on the CPU: torch compiles a GPU's ndtri while the program runs, for which a machine may lack the compiler.
@lru_cache(maxsize=8)
@torch.inference_mode(False)
def normal_quantiles(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count, 1) quantiles of the standard normal distribution at 1 / (count + 1) ... count / (count + 1)."""
    places = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)
    return torch.special.ndtri(places).to(device, dtype).unsqueeze(1)
