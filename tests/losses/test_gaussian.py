"""SIGReg and VISReg against numerical integrals, quantiles of scipy, the papers' algorithms and lightly."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from siamese import losses

KEY = (0, 3, 0)
PAPER = {"slices": 32, "knots": 17, "t_max": 5.0}


def projections(views=3, n=20, dim=6, dtype=torch.float64):
    return 0.7 * torch.randn(views, n, dim, dtype=dtype) + 0.2


def lightly(module):
    """A loss module of lightly 1.6; older versions have none."""
    return pytest.importorskip(f"lightly.loss.{module}")


def test_slices_are_unit_columns_of_their_key_alone():
    like, before = torch.zeros(1, dtype=torch.float64), torch.get_rng_state()
    first = losses.random_slices(6, 100, (0, 3, 0), like)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    assert torch.equal(losses.random_slices(6, 100, (0, 3, 0), like), first)
    assert first.shape == (6, 100)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(100, dtype=torch.float64))
    for other in ((1, 3, 0), (0, 4, 0), (0, 3, 1)):
        assert not torch.equal(losses.random_slices(6, 100, other, like), first)


def test_slices_are_uniform_on_the_sphere():
    slices = losses.random_slices(4, 20_000, KEY, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(slices @ slices.T / 20_000, torch.eye(4).double() / 4, atol=0.01, rtol=0)
    assert slices.mean(1).norm() < 0.02


def epps_pulley(x, t_max):
    """N times the integral of |ecf - cf|^2 times the weight, by adaptive quadrature."""

    def integrand(t):
        return abs(np.exp(1j * t * x).mean() - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)

    return len(x) * integrate.quad(integrand, -t_max, t_max, epsabs=1e-12, epsrel=1e-10)[0]


@pytest.mark.parametrize("t_max", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("spread", [0.0, 0.6, 1.0, 2.5])
def test_sigreg_is_the_integral(t_max, spread):
    z = spread * torch.randn(1, 24, 1, dtype=torch.float64) + 0.3  # of one dimension the slices are +1 and -1
    expected = epps_pulley(z.flatten().numpy(), t_max)
    assert losses.sigreg(z, KEY, 2, 4001, t_max).item() == pytest.approx(expected, rel=1e-6)
    assert losses.sigreg(z, KEY, 2, 17, t_max).item() == pytest.approx(expected, rel=0.02)  # the paper's knots


def test_sigreg_is_the_mean_of_algorithm_1_over_views():
    """With complex exponentials on the whole of [-5, 5], whose half has 17 knots."""
    z = projections()
    t, total = torch.linspace(-5, 5, 33, dtype=torch.float64), 0
    for view in z:
        x_t = (view @ losses.random_slices(6, 32, KEY, z)).unsqueeze(2) * t
        error = ((1j * x_t).exp().mean(0) - (-0.5 * t**2).exp()).abs() ** 2 * (-0.5 * t**2).exp()
        total += (torch.trapezoid(error, t, dim=1) * len(view)).mean()
    assert losses.sigreg(z, KEY, **PAPER).item() == pytest.approx((total / len(z)).item(), rel=1e-12)


def test_sigreg_of_gaussian_samples_has_its_expectation():
    """E |ecf - cf|^2 = (1 - cf^2) / N, so that N cancels."""
    expected = integrate.quad(lambda t: (1 - math.exp(-t * t)) * math.exp(-t * t / 2), -5, 5)[0]
    assert expected == pytest.approx(math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3), abs=1e-4)
    for n in (16, 128):
        z = torch.randn(6000, n, 1, dtype=torch.float64)
        assert losses.sigreg(z, KEY, 1, 65, 5.0).item() == pytest.approx(expected, abs=0.05)


def test_sigreg_gradient_is_that_of_the_formula():
    z = projections(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.sigreg(x, KEY, 4, 9, 5.0), z)


def test_sigreg_forms():
    z = projections()
    pooled = losses.sigreg(z, KEY, **PAPER, pool_views=True)
    torch.testing.assert_close(pooled, losses.sigreg(z.reshape(1, 60, 6), KEY, **PAPER))
    plain = losses.sigreg(z, KEY, **PAPER, times_samples=False)
    torch.testing.assert_close(20 * plain, losses.sigreg(z, KEY, **PAPER))
    torch.testing.assert_close(60 * losses.sigreg(z, KEY, **PAPER, pool_views=True, times_samples=False), pooled)


def test_sigreg_equals_lightly(monkeypatch):
    other = lightly("lejepa_loss").SIGReg(knots=17, t_max=3.0, num_vectors=32)
    z = projections()
    slices = losses.random_slices(6, 32, KEY, z)
    monkeypatch.setattr(other, "_generate_unit_vectors", lambda *a, **k: slices)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    value, expected = losses.sigreg(ours, KEY, 32, 17, 3.0), other(theirs)
    value.backward(), expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)  # its grid is float32
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def visreg_by_hand(z, slices, scale, shape, center):
    """Sorting and quantiles by numpy and scipy."""
    total = 0.0
    for view in z.numpy():
        mean, std = view.mean(0), view.std(0)
        x = np.sort((view - mean) / (std + 1e-4) @ slices.numpy(), axis=0)
        quantiles = stats.norm.ppf(np.arange(1, len(view) + 1) / (len(view) + 1))
        total += scale * ((1 - std) ** 2).mean() + shape * ((x - quantiles[:, None]) ** 2).mean()
        total += center * (mean**2).mean()
    return total / len(z)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 2, 3)])
def test_visreg_by_hand(weights):
    z = projections()
    expected = visreg_by_hand(z, losses.random_slices(6, 16, KEY, z), *weights)
    assert losses.visreg(z, KEY, 16, *weights).item() == pytest.approx(expected, rel=1e-10)


def test_visreg_equals_lightly(monkeypatch):
    """In value and gradient: no gradient flows through the divisor of the shape."""
    other = lightly("visreg_loss").VISRegLoss(lambda_param=1.0, num_slices=16)
    z = projections()
    slices = losses.random_slices(6, 16, KEY, z)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    value = losses.visreg(ours, KEY, 16, 1, 1, 1)
    monkeypatch.setattr(torch, "randn", lambda *a, **k: slices)
    expected = other(global_proj=theirs[:2], local_proj=theirs[2:])
    value.backward(), expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)  # its quantiles are float32
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_visreg_of_equal_projections_has_a_finite_gradient():
    z = torch.ones(2, 8, 4, requires_grad=True)
    losses.visreg(z, KEY, 8, 1, 1, 1).backward()
    assert z.grad.isfinite().all()


def test_view_spread_by_hand():
    z = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[4.0, 6.0]]])
    assert losses.view_spread(z, z.mean(0)).item() == pytest.approx((8 + 24) / 6)  # centre (2, 2)
    assert losses.view_spread(z, z[:2].mean(0)).item() == pytest.approx((2 + 9 + 36) / 6)  # centre (1, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "loss",
    [
        lambda z: losses.sigreg(z, KEY, **PAPER),
        lambda z: losses.visreg(z, KEY, 32, 1, 1, 1),
        lambda z: losses.view_spread(z, z.mean(0)),
    ],
    ids=["sigreg", "visreg", "view_spread"],
)
def test_losses_are_float32_under_autocast(loss, dtype):
    z = torch.randn(3, 64, 32).to(dtype).float()  # what a head gives under autocast
    reference, low = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss(reference).backward()
    with torch.autocast("cpu", dtype):
        value = loss(low)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.equal(low.grad, reference.grad)
    half = z.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        assert loss(half).dtype == torch.float32
