"""SupCon: projector and loss."""

import copy

import torch
from method_cases import make, paper, trainable, views

from siamese import losses


def test_loss_is_that_of_both_views_and_the_labels(config):
    method = make(config, "supcon", "method.temperature=0.3", "method.scale=0.5")
    x, y = views(), torch.tensor([0, 1, -1, 0, -1, 0])
    reference = copy.deepcopy(method)
    z = reference.projector(reference.backbone(torch.cat(x)))
    torch.testing.assert_close(method.loss(x, y), 0.5 * losses.sup_con(z, y, 0.3))
    assert torch.equal(method.projection, z)
    assert method.backbone.batches == [12]


def test_projector_is_that_of_the_paper(config):
    method = paper(config, "supcon")
    assert trainable(method.projector) == 2048 * 2048 + 2048 + 2048 * 128 + 128
    assert [type(m).__name__ for m in method.projector] == ["Linear", "ReLU", "Linear"]
