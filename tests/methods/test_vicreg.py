"""VICReg: projector, loss and views."""

import copy

import torch
from method_cases import make, paper, trainable, views

from siamese import losses


def test_loss_is_that_of_the_projections(config):
    method = make(config, "vicreg", "method.invariance=3", "method.variance=5", "method.covariance=7")
    x = views()
    reference = copy.deepcopy(method)
    z1, z2 = (reference.projector(reference.backbone(v)) for v in x)
    torch.testing.assert_close(method.loss(x), losses.vicreg(z1, z2, 3.0, 5.0, 7.0))
    assert torch.equal(method.projection, z1)


def test_projector_is_that_of_the_paper(config):
    method = paper(config, "vicreg")
    assert trainable(method.projector) == 2048 * 8192 + 2 * 8192 * 8192 + 2 * 2 * 8192
    assert [type(m).__name__ for m in method.projector] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]


def test_views_are_symmetric_as_in_the_paper(config):
    augment = config("data=imagenet", "method=vicreg").augment
    assert augment.views == [{}, {}]
    found = (augment.blur_p, augment.solarize_p, augment.crop_scale, augment.jitter, augment.interpolation)
    assert found == (0.5, 0.1, [0.08, 1.0], [0.4, 0.4, 0.2, 0.1], "bicubic")
