"""SimSiam: loss and the predictor's learning rate."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from method_cases import make, views


def test_loss_and_gradient_equal_reference(config):
    method = make(config, "simsiam")
    x = views()
    reference = copy.deepcopy(method)
    loss = method.loss(x)
    z = [reference.projector(reference.backbone(v)) for v in x]
    p = [reference.predictor(v) for v in z]
    expected = -sum(F.cosine_similarity(p[i], z[1 - i].detach()).mean() for i in (0, 1)) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_predictor_learning_rate_stays_constant(config):
    cfg = config("method=simsiam", "optimizer=sgd", "optimizer.lr=0.05", "epochs=4")
    method = make(config, "simsiam")
    recipe = instantiate(cfg.optimizer, _convert_="all")
    optimizer, schedule = recipe.build(method.param_groups(), 256, 3, 4)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    predictor = {id(p) for p in method.predictor.parameters()}
    for group in optimizer.param_groups:
        fixed = id(group["params"][0]) in predictor
        assert group["lr"] == pytest.approx(0.05 if fixed else 0.0, abs=1e-9)
