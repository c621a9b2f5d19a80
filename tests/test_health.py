import math

import pytest
import torch
from lightly.utils.debug import std_of_l2_normalized

from siamese.monitor import health


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rankme_of_a_known_spectrum(rank):
    q, _ = torch.linalg.qr(torch.randn(50, 20, dtype=torch.float64))
    s = torch.zeros(20, dtype=torch.float64)
    s[:rank] = 2.0
    assert health.rankme(q * s) == pytest.approx(rank, rel=1e-3)


def test_rankme_of_an_uneven_spectrum():
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    z = torch.zeros(5, 3, dtype=torch.float64)
    z[:3] = torch.diag(p)
    assert health.rankme(z) == pytest.approx(2**1.5, rel=1e-4)  # entropy of 1.5 bits


def test_rankme_of_what_is_not_finite():
    z = torch.randn(10, 4)
    z[3, 2] = float("nan")
    assert math.isnan(health.rankme(z))


def test_relative_std():
    z = torch.randn(2000, 64)
    assert health.relative_std(z) == pytest.approx(1, abs=0.01)
    assert health.relative_std(z) == pytest.approx(std_of_l2_normalized(z).item() * 8, rel=1e-5)
    assert health.relative_std(torch.ones(100, 64)) == pytest.approx(0, abs=1e-6)


def test_collapse():
    z = torch.randn(500, 64)
    assert not health.collapsed(health.relative_std(z), health.rankme(z))
    point = torch.ones(500, 64) + 1e-3 * z
    assert health.collapsed(health.relative_std(point), health.rankme(point))
    line = torch.randn(500, 1) * torch.randn(1, 64)
    assert health.collapsed(health.relative_std(line), health.rankme(line))
    assert health.collapsed(float("nan"), 5.0)
