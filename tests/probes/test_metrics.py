"""Label-free metrics against their definitions."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from lightly.utils.debug import std_of_l2_normalized

from siamese.probes import metrics


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rankme_of_a_known_spectrum(rank):
    q, _ = torch.linalg.qr(torch.randn(50, 20, dtype=torch.float64))
    s = torch.zeros(20, dtype=torch.float64)
    s[:rank] = 2.0
    assert metrics.rankme(q * s) == pytest.approx(rank, rel=1e-3)


def test_rankme_of_an_uneven_spectrum():
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    z = torch.zeros(5, 3, dtype=torch.float64)
    z[:3] = torch.diag(p)
    assert metrics.rankme(z) == pytest.approx(2**1.5, rel=1e-4)  # entropy of 1.5 bits


@pytest.mark.parametrize("shape", [(200, 30), (30, 200), (50, 50)])
def test_rankme_of_wide_and_tall_features(shape):
    """Against the singular values of numpy; features fall off by six orders of magnitude."""
    z = torch.randn(*shape, dtype=torch.float64) * torch.logspace(0, -6, shape[1], dtype=torch.float64)
    s = np.linalg.svd(z.numpy(), compute_uv=False)
    p = s / s.sum() + 1e-7
    assert metrics.rankme(z.float()) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert metrics.spectrum(z).numpy() == pytest.approx(s**2, rel=1e-6, abs=1e-14 * s[0] ** 2)


def test_rankme_of_nonfinite_features_is_nan():
    z = torch.randn(10, 4)
    z[3, 2] = float("nan")
    assert math.isnan(metrics.rankme(z))


def rotation(n):
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


def of_spectrum(values, n=300):
    """Features (n, D) whose covariance has these D eigenvalues, up to a factor."""
    q = torch.linalg.qr(torch.randn(n, len(values) + 1, dtype=torch.float64))[0][:, 1:]
    q = torch.linalg.qr(q - q.mean(0))[0]  # orthonormal columns of mean 0
    return q * torch.as_tensor(values).sqrt() @ rotation(len(values)) + 3


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.3])
@pytest.mark.parametrize("dimensions", [5, 20, 150])
def test_alpha_req_of_a_power_law(alpha, dimensions):
    z = of_spectrum(torch.arange(1, dimensions + 1, dtype=torch.float64) ** -alpha)
    assert metrics.alpha_req(z) == pytest.approx(alpha, abs=1e-6)


def test_alpha_req_is_a_weighted_fit_of_ranks_4_to_100():
    """Compared with numpy on a spectrum that is no power law; eigenvalues of other ranks have no influence."""
    values = np.sort(np.random.default_rng(0).exponential(size=150))[::-1].copy()
    i = np.arange(4, 101)
    expected = -np.polyfit(np.log(i), np.log(values[3:100]), 1, w=np.sqrt(1 / i))[0]
    assert expected != pytest.approx(-np.polyfit(np.log(i), np.log(values[3:100]), 1)[0], rel=0.05)
    assert metrics.alpha_req(of_spectrum(values)) == pytest.approx(expected, rel=1e-6)
    values[:3] *= 50
    values[100:] /= 50
    assert metrics.alpha_req(of_spectrum(values)) == pytest.approx(expected, rel=1e-6)


def test_alpha_req_of_few_eigenvalues():
    """Rank 20 has ranks 4 to 20; in 4 dimensions one is left, too few for a fit."""
    values = np.random.default_rng(0).exponential(size=20)
    values = np.sort(values)[::-1].copy()
    i = np.arange(4, 21)
    expected = -np.polyfit(np.log(i), np.log(values[3:]), 1, w=np.sqrt(1 / i))[0]
    assert metrics.alpha_req(of_spectrum(np.append(values, [1e-12] * 10))) == pytest.approx(expected, rel=1e-6)
    assert math.isnan(metrics.alpha_req(torch.randn(50, 4)))
    assert not math.isnan(metrics.alpha_req(torch.randn(50, 5)))


@pytest.mark.parametrize(
    ("samples", "dimensions", "reads"),
    [(256, 64, 0.52), (256, 512, 0.24), (256, 2048, 0.13), (2048, 64, 0.17), (2048, 512, 0.10), (2048, 2048, 0.06)],
)
def test_alpha_req_of_isotropic_noise(samples, dimensions, reads):
    """The figures of its docstring: small, and larger with fewer samples."""
    z = torch.randn(samples, dimensions, generator=torch.Generator().manual_seed(1))
    assert metrics.alpha_req(z) == pytest.approx(reads, abs=0.02)


def test_uniformity_by_hand():
    z = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])  # squared distances 2, 4, 2
    assert metrics.uniformity(z) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3), rel=1e-5)
    assert metrics.uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)


def test_uniformity_does_not_depend_on_block_size(monkeypatch):
    z = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.pdist(F.normalize(z.double())).square().mul(-2).exp().mean().log().item()
    for pairs in (1, 200 * 64, 1 << 24):
        monkeypatch.setattr(metrics, "PAIRS", pairs)
        assert metrics.uniformity(z) == pytest.approx(expected, rel=1e-6)


def test_alignment_by_hand():
    views = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [1.0, 0.0]], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]])
    assert metrics.alignment(views) == pytest.approx((2 + 0 + 2) / 3 / 2, rel=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_lidar_of_a_known_rank(rank):
    """Images that differ in `rank` directions alike, views that differ by isotropic noise of no account."""
    directions = rotation(16)[:rank]
    corners = torch.eye(rank + 1, dtype=torch.float64)  # a regular simplex: its covariance is a multiple of 1
    means = torch.linalg.svd(corners - corners.mean(0))[0][:, :rank] @ directions
    views = means.unsqueeze(1).repeat(1, 6, 1)
    assert metrics.lidar(views, delta=1e-4) == pytest.approx(rank, rel=1e-3)


def test_lidar_of_features_that_vary_too_much_is_nan():
    """A diverging run goes on to its own message."""
    generator = torch.Generator().manual_seed(0)
    views = 1e9 * torch.randn(16, 4, 4, generator=generator) @ torch.randn(4, 256, generator=generator)
    assert math.isnan(metrics.lidar(views))


def test_lidar_equals_its_definition():
    views = torch.randn(40, 5, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    views += 3 * torch.randn(40, 1, 12, dtype=torch.float64)
    means = views.mean(1).numpy()
    between = np.cov(means.T)
    within = np.mean([np.cov(v.numpy().T) for v in views], axis=0) + 1e-4 * np.eye(12)
    values = scipy.linalg.eigh(between, within, eigvals_only=True)
    p = values / values.sum()
    assert metrics.lidar(views) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_relative_std_equals_lightly():
    z = torch.randn(2000, 64)
    assert metrics.relative_std(z) == pytest.approx(1, abs=0.01)
    assert metrics.relative_std(z) == pytest.approx(std_of_l2_normalized(z).item() * 8, rel=1e-5)
    assert metrics.relative_std(torch.ones(100, 64)) == pytest.approx(0, abs=1e-6)


def test_collapse_to_point_or_line_is_detected():
    z = torch.randn(500, 64)
    assert not metrics.collapsed(metrics.relative_std(z), metrics.rankme(z))
    point = torch.ones(500, 64) + 1e-3 * z
    assert metrics.collapsed(metrics.relative_std(point), metrics.rankme(point))
    line = torch.randn(500, 1) * torch.randn(1, 64)
    assert metrics.collapsed(metrics.relative_std(line), metrics.rankme(line))
    assert metrics.collapsed(float("nan"), 5.0)
