"""BYOL: loss and EMA."""

import copy

import pytest
import torch
import torch.nn.functional as F
from method_cases import make, views
from torch import nn

from siamese.optim import ema_momentum, ema_update


def test_ema_update_equals_closed_form():
    online, target = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(target.weight)
    for step in range(20):
        nn.init.constant_(online.weight, float(step))
        ema_update(target, online, 0.9)
    expected = sum(0.1 * 0.9 ** (19 - k) * k for k in range(20))
    assert target.weight.item() == pytest.approx(expected, rel=1e-5)


def test_ema_momentum_schedule_equals_byol():
    assert ema_momentum(0, 100, 0.99, cosine=True) == pytest.approx(0.99)
    assert ema_momentum(50, 100, 0.99, cosine=True) == pytest.approx(0.995)
    assert ema_momentum(100, 100, 0.99, cosine=True) == 1
    assert ema_momentum(70, 100, 0.99, cosine=False) == 0.99


def test_loss_equals_normalised_squared_error(config):
    method = make(config, "byol")
    x = views()
    reference = copy.deepcopy(method)
    loss = method.loss(x)
    q = [reference.predictor(reference.projector(reference.backbone(v))) for v in x]
    t = [reference.target(v) for v in x]
    expected = sum((F.normalize(q[i]) - F.normalize(t[1 - i])).square().sum(1).mean() for i in (0, 1))
    torch.testing.assert_close(loss, expected)
    assert 0 <= loss <= 8
