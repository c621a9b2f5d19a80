"""Barlow Twins: projector and loss."""

import copy

import pytest
import torch
from method_cases import make, paper, trainable, views
from torch import nn

from siamese import losses
from siamese.errors import UserError
from siamese.schema import check_train


def test_loss_is_that_of_the_projections(config):
    method = make(config, "barlow_twins", "method.off_diagonal=0.02", "method.scale=0.3")
    x = views()
    reference = copy.deepcopy(method)
    z1, z2 = (reference.projector(reference.backbone(v)) for v in x)
    torch.testing.assert_close(method.loss(x), losses.barlow_twins(z1, z2, 0.02, 0.3))
    assert torch.equal(method.projection, z1)
    assert method.backbone.batches == [6, 6]  # one view after the other, as in the official code


def test_projector_is_that_of_the_official_code(config):
    method = paper(config, "barlow_twins")
    # Three layers of 8,192 without biases, two BatchNorms; nothing after the last Linear.
    assert trainable(method.projector) == 2048 * 8192 + 2 * 8192 * 8192 + 2 * 2 * 8192
    assert [type(m).__name__ for m in method.projector] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]


@pytest.mark.parametrize("layers", [1, 2])
def test_projector_has_the_layers_that_are_asked_for(config, layers):
    for name in ("barlow_twins", "vicreg"):
        method = make(config, name, f"method.layers={layers}", "method.hidden_dim=7", "method.output_dim=9")
        linear = [m for m in method.projector if isinstance(m, nn.Linear)]
        assert len(linear) == layers
        assert linear[-1].out_features == 9 == method.projector[-1].out_features


@pytest.mark.parametrize("key", ["layers=0", "scale=0", "off_diagonal=-1"])
def test_impossible_setting_is_refused(config, key):
    with pytest.raises(UserError, match=f"method.{key}"):
        check_train(config("method=barlow_twins", f"method.{key}"))
