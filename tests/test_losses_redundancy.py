"""Barlow Twins, VICReg, DCL, DCLW and SupCon against loops over the formulas, and against lightly where it agrees."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DCLLoss, VICRegLoss

from siamese import losses

N, D = 8, 5


def pair(n=N, d=D):
    """Projections of two views, some with a mean, some of small spread."""
    scale = torch.linspace(0.2, 2, d, dtype=torch.float64)
    z1 = torch.randn(n, d, dtype=torch.float64) * scale + 1
    return z1, z1 + 0.5 * torch.randn(n, d, dtype=torch.float64)


def off(c):
    return sum(c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j)


def test_barlow_twins_equals_loops_and_lightly():
    z1, z2 = pair()
    a, b = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z1, z2))
    c = torch.tensor([[sum(a[:, i] * b[:, j]) / N for j in range(D)] for i in range(D)], dtype=torch.float64)
    expected = sum((1 - c[i, i]) ** 2 for i in range(D)) + 0.0051 * off(c)
    assert losses.barlow_twins(z1, z2, 0.0051).item() == pytest.approx(expected.item(), rel=1e-10)
    assert losses.barlow_twins(z1, z2, 0.0051, 0.1).item() == pytest.approx(0.1 * expected.item(), rel=1e-10)
    theirs = BarlowTwinsLoss(0.0051)(z1, z2)
    assert losses.barlow_twins(z1, z2, 0.0051).item() == pytest.approx(theirs.item(), rel=1e-10)


def test_barlow_twins_does_not_see_mean_and_scale():
    z1, z2 = pair()
    scaled = losses.barlow_twins(1000 * z1 + 7, 300 * z2 - 3, 0.01).item()
    assert scaled == pytest.approx(losses.barlow_twins(100 * z1, 100 * z2, 0.01).item(), rel=1e-4)


def test_vicreg_equals_loops():
    z1, z2 = pair()
    expected = 25 * ((z1 - z2) ** 2).sum(1).mean() / D
    for z in (z1, z2):
        c = torch.cov(z.T)
        expected = expected + 25 * sum(max(0, 1 - math.sqrt(c[i, i] + 1e-4)) for i in range(D)) / D + off(c) / D
    assert losses.vicreg(z1, z2).item() == pytest.approx(expected.item(), rel=1e-10)
    # The hinge: dimensions of a spread above 1 cost nothing.
    wide, other = F.one_hot(torch.arange(4)).double() * 100, torch.zeros(4, 4, dtype=torch.float64)
    assert losses.vicreg(wide, wide, 0, 1, 0).item() == 0
    assert losses.vicreg(other, other, 0, 1, 0).item() == pytest.approx(2 * (1 - 0.01))  # eps 1e-4 under the root


def test_vicreg_is_lightlys_with_the_whole_variance_term():
    z1, z2 = pair()
    theirs = VICRegLoss(lambda_param=25, mu_param=50, nu_param=1)(z1, z2)
    assert losses.vicreg(z1, z2).item() == pytest.approx(theirs.item(), rel=1e-10)


def decoupled(z, temperature, sigma=None):
    """Equation 6, and the weights of section 3.3, as loops."""
    z, n, total = F.normalize(z, dim=1), len(z) // 2, 0.0
    s = [(z[i] @ z[i + n]).item() for i in range(n)]
    mean = sum(math.exp(v / sigma) for v in s) / n if sigma else 1
    for i in range(2 * n):
        negatives = [math.exp((z[i] @ z[j]).item() / temperature) for j in range(2 * n) if j % n != i % n]
        weight = 2 - math.exp(s[i % n] / sigma) / mean if sigma else 1
        total += math.log(sum(negatives)) - weight * s[i % n] / temperature
    return total / n


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_dcl_equals_loops_and_twice_lightly(temperature):
    z = torch.randn(2 * N, D, dtype=torch.float64)
    assert losses.dcl(z, temperature).item() == pytest.approx(decoupled(z, temperature), rel=1e-10)
    theirs = 2 * DCLLoss(temperature)(z[:N], z[N:])
    assert losses.dcl(z, temperature).item() == pytest.approx(theirs.item(), rel=1e-10)
    assert losses.dclw(z, temperature, 0.5).item() == pytest.approx(decoupled(z, temperature, 0.5), rel=1e-10)


def test_weights_of_dclw_have_no_gradient_and_a_mean_of_one():
    z = torch.randn(2 * N, D, dtype=torch.float64)
    same = z[:N].repeat(2, 1)  # all weights are 1
    assert losses.dclw(same, 0.1, 0.5).item() == pytest.approx(losses.dcl(same, 0.1).item(), rel=1e-10)
    ours = z.clone().requires_grad_()
    losses.dclw(ours, 0.1, 0.5).backward()
    fixed = z.clone().requires_grad_()
    u = F.normalize(fixed, dim=1)
    s = (u[:N] * u[N:]).sum(1)
    weight = 2 - N * (s.detach() / 0.5).softmax(0)
    assert weight.mean().item() == pytest.approx(1)
    (losses.dcl(fixed, 0.1) + 2 * ((1 - weight) * s).mean() / 0.1).backward()
    torch.testing.assert_close(ours.grad, fixed.grad)


def supervised(z, labels, temperature):
    """Equation 2 as loops; the mean over the anchors."""
    z, n, total = F.normalize(z, dim=1), len(z) // 2, 0.0
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        y = labels[i % n]
        positives = [j for j in others if j % n == i % n or (y >= 0 and labels[j % n] == y)]
        below = math.log(sum(math.exp((z[i] @ z[j]).item() / temperature) for j in others))
        total += sum(below - (z[i] @ z[j]).item() / temperature for j in positives) / len(positives)
    return total / (2 * n)


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 0, 3, 3], [0, -1, -1, 0, 1, -1, 2, 0], [4] * 8], ids=str)
def test_sup_con_equals_loops(labels):
    z = torch.randn(2 * N, D, dtype=torch.float64)
    expected = supervised(z, labels, 0.1)
    assert losses.sup_con(z, torch.tensor(labels), 0.1).item() == pytest.approx(expected, rel=1e-10)


def test_sup_con_without_labels_is_half_of_nt_xent():
    z = torch.randn(2 * N, D, dtype=torch.float64)
    expected = losses.nt_xent(z, 0.2).item() / 2
    for labels in (torch.full((N,), -1), torch.arange(N)):
        assert losses.sup_con(z, labels, 0.2).item() == pytest.approx(expected, rel=1e-10)


LOSSES = {
    "barlow_twins": lambda z: losses.barlow_twins(*z.chunk(2), 0.0051),
    "vicreg": lambda z: losses.vicreg(*z.chunk(2)),
    "dcl": lambda z: losses.dcl(z, 0.07),
    "dclw": lambda z: losses.dclw(z, 0.07, 0.5),
    "sup_con": lambda z: losses.sup_con(z, torch.arange(len(z) // 2, device=z.device) % 3, 0.07),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_float32_under_autocast(name, dtype):
    z = torch.randn(128, 32).to(dtype).float()
    reference, low = z.clone().requires_grad_(), z.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        loss = LOSSES[name](low)
    expected = LOSSES[name](reference)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(low.grad, reference.grad.to(dtype))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_does_not_wait_for_the_device(monkeypatch, name):
    """A tensor on the meta device has no value: reading it would be an error, as it is a wait on a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which does not know meta
    assert LOSSES[name](torch.ones(8, 3, device="meta")).shape == ()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_finite_where_views_coincide(name):
    for z in (torch.randn(N, D).repeat(2, 1), torch.ones(2 * N, D)):
        z.requires_grad_()
        loss = LOSSES[name](z)
        loss.backward()
        assert loss.isfinite() and z.grad.isfinite().all()
